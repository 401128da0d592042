//! `POST …/pull-updates`: Turso's pull.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::Refusal;
use crate::turso::pull::{Answer, PullError};
use crate::turso::source::PageSource;

/// The longest that a client may wait for news in one request.
pub(super) const LONGEST_POLL: Duration = Duration::from_mins(5);

impl From<PullError> for Refusal {
    fn from(error: PullError) -> Refusal {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let PullError::Source(source) = &error {
            // It is the database that cannot be served at the moment: clients try again.
            tracing::warn!(error = %source, "pages cannot be read");
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}: {source}"));
        }
        Refusal::new(status, error.to_string())
    }
}

/// The response. Its body holds the revision that it is read from until it is dropped, which is when its client is gone
/// or takes nothing for too long.
pub(super) fn response<S: PageSource>(answer: Answer<S>) -> Response {
    let len = answer.len_if_complete();
    let mut response = Body::from_stream(answer.into_stream()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    if let Some(len) = len {
        headers.insert(header::CONTENT_LENGTH, len.into());
    }
    response
}
