//! Answers that say what is wrong.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::auth::Denied;
use crate::hosted::HostError;

/// A request that is not served, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    pub(super) fn not_found(reason: String) -> Refusal {
        Refusal { status: StatusCode::NOT_FOUND, reason }
    }

    pub(super) fn bad(reason: String) -> Refusal {
        Refusal { status: StatusCode::BAD_REQUEST, reason }
    }

    /// The body is longer than `limit`, or did not arrive whole.
    pub(super) fn body(limit: usize) -> Refusal {
        let reason = format!("the body has more than {limit} bytes, or broke off");
        Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, reason }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        Refusal { status, reason: denied.to_string() }
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Refusal {
        let status = match &error {
            HostError::NoSuchDatabase(_) => StatusCode::NOT_FOUND,
            // Clients try these again.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(%error, "a database cannot be served");
        }
        Refusal { status, reason: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.reason }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
