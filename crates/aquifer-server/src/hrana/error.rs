use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::host::Unavailable;
use super::request::SqlOrId;
use super::response::WireError;
use crate::sql::SqlError;

/// Why a whole HTTP request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the request is not Hrana's JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Statement(#[from] SqlOrId),
    #[error(
        "the baton is not known: its stream has expired or was closed, or the baton was used already; begin again with baton null"
    )]
    UnknownBaton,
    #[error(
        "the stream waited too long for its next request: it was closed and rolled back; open another one"
    )]
    StreamExpired,
    #[error(
        "the transaction was open for more than {limit:?}: it was rolled back, since others wait; make it shorter"
    )]
    TransactionTooLong { limit: Duration },
    #[error("the baton is of a stream that was opened with other rights")]
    OtherAccess,
    #[error("{limit} streams are open on this database already: close those that are done, then try again")]
    TooManyStreams { limit: usize },
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(
        "nothing of the answer was read for {patience:?}: the cursor was given up and its transaction rolled back"
    )]
    SlowReader { patience: Duration },
    #[error("a session could not be opened: {0}")]
    Session(SqlError),
    #[error("no randomness for a baton: {0}")]
    Random(getrandom::Error),
    #[error("the statement made the server panic; its transaction was rolled back; please report it")]
    Panicked,
}

impl Failure {
    pub(super) fn wire(&self) -> WireError {
        let code = match self {
            Self::Malformed(_) | Self::Statement(_) => "HRANA_PROTO_ERROR",
            Self::UnknownBaton | Self::StreamExpired => "STREAM_EXPIRED",
            Self::TransactionTooLong { .. } => "TRANSACTION_TIMEOUT",
            Self::OtherAccess => "STREAM_FORBIDDEN",
            Self::TooManyStreams { .. } => "TOO_MANY_STREAMS",
            Self::Unavailable(_) => "UNAVAILABLE",
            Self::SlowReader { .. } => "SLOW_READER",
            Self::Session(error) => error.code(),
            Self::Random(_) | Self::Panicked => "INTERNAL_ERROR",
        };
        WireError { message: self.to_string(), code }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_)
            | Self::Statement(_)
            | Self::UnknownBaton
            | Self::StreamExpired
            | Self::TransactionTooLong { .. } => StatusCode::BAD_REQUEST,
            Self::SlowReader { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::OtherAccess => StatusCode::FORBIDDEN,
            Self::TooManyStreams { .. } | Self::Unavailable(_) | Self::Session(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Random(_) | Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status(), Json(self.wire())).into_response()
    }
}
