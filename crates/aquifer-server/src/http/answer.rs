//! Answers that say what is wrong.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use aquifer_log::LogError;

use crate::auth::Denied;
use crate::hosted::HostError;
use crate::hrana::{TurnedAway, UNAVAILABLE};

use super::limits::Limit;

/// When a database that cannot be served now may be asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request that is not served, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    reason: String,
    /// After which time it may be tried again.
    retry_after: Option<Duration>,
    /// What refused it, if that was a limit.
    limit: Option<Limit>,
}

impl Refusal {
    pub(super) fn not_found(reason: String) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, reason)
    }

    pub(super) fn bad(reason: String) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, reason)
    }

    pub(super) fn new(status: StatusCode, reason: String) -> Refusal {
        Refusal { status, reason, retry_after: None, limit: None }
    }

    /// It may be tried again soon.
    pub(super) fn later(reason: String) -> Refusal {
        let retry_after = Some(RETRY_AFTER);
        Refusal { retry_after, ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason) }
    }

    /// A limit that has nothing to do with how much else is going on.
    pub(super) fn beyond(limit: Limit, status: StatusCode, reason: String) -> Refusal {
        Refusal { limit: Some(limit), ..Refusal::new(status, reason) }
    }

    /// This caller sends too much.
    pub(super) fn too_many(limit: Limit, reason: String, retry_after: Duration) -> Refusal {
        let refusal = Refusal::beyond(limit, StatusCode::TOO_MANY_REQUESTS, reason);
        Refusal { retry_after: Some(retry_after), ..refusal }
    }

    /// All callers together send too much.
    pub(super) fn busy(limit: Limit, reason: String, retry_after: Duration) -> Refusal {
        Refusal { status: StatusCode::SERVICE_UNAVAILABLE, ..Refusal::too_many(limit, reason, retry_after) }
    }

    pub(super) fn limit(&self) -> Option<Limit> {
        self.limit
    }
}

impl Refusal {
    /// The same for a socket, whose status says nothing any more.
    pub(super) fn turned_away(self) -> TurnedAway {
        let code = match self.status {
            StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
            StatusCode::FORBIDDEN => "FORBIDDEN",
            StatusCode::NOT_FOUND => "NOT_FOUND",
            StatusCode::TOO_MANY_REQUESTS => "TOO_MANY_REQUESTS",
            _ => UNAVAILABLE,
        };
        TurnedAway { code, message: self.reason }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        Refusal::new(status, denied.to_string())
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Refusal {
        let status = match &error {
            // Of a fork: that moment is not to be had any more.
            HostError::NoSuchDatabase(_) | HostError::Fork(_) => StatusCode::NOT_FOUND,
            HostError::Plan(e) if !e.is_transient() => StatusCode::NOT_FOUND,
            HostError::Deleted { .. } | HostError::Purged(_) => StatusCode::GONE,
            HostError::Exists(_) => StatusCode::CONFLICT,
            HostError::Frozen(_) => StatusCode::FORBIDDEN,
            // Clients try these again.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        // That others have databases is nothing to worry about.
        let is_elsewhere = matches!(error, HostError::Elsewhere(..));
        if status == StatusCode::SERVICE_UNAVAILABLE && !is_elsewhere {
            tracing::warn!(%error, "a database cannot be served");
        }
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER);
        Refusal { retry_after, ..Refusal::new(status, error.to_string()) }
    }
}

impl Refusal {
    /// The store failed.
    pub(super) fn log(error: impl Into<LogError>) -> Refusal {
        HostError::from(error.into()).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.reason }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            // In whole seconds, and never sooner than it says.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
