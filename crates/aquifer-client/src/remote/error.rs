//! What went wrong, by what a caller does about it.

use std::time::Duration;

use super::address::AddressError;
use super::hrana::{SqlFailure, Unsendable};

/// Whatever lies beneath an error.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a remote did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The URL cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// An option cannot be used.
    #[error("{what} cannot be used: {reason}")]
    Option {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A value of a batch cannot be sent.
    #[error(transparent)]
    Unsendable(#[from] Unsendable),
    /// There is no connection, and nothing was sent. A normal state.
    #[error("{remote} cannot be reached; it will be tried again at the next sync")]
    Offline {
        /// Which.
        remote: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// The server does not prove to be the one that was named, or does not speak TLS. Nothing was sent.
    #[error(
        "no connection to {remote} comes about that can be trusted: name the authority of its certificate if that is \
         not one of the system's, or say http:// if it speaks no TLS"
    )]
    Untrusted {
        /// Which.
        remote: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// The connection broke, or too much time passed, after something was sent.
    #[error("the connection to {remote} broke before the whole answer was there")]
    Interrupted {
        /// Which.
        remote: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// 401.
    #[error("{remote} does not accept the token, or wants one: {message}")]
    Unauthorized {
        /// Which.
        remote: String,
        /// What it says.
        message: String,
    },
    /// 403.
    #[error("{remote} does not allow this with this token: {message}")]
    Forbidden {
        /// Which.
        remote: String,
        /// What it says.
        message: String,
    },
    /// 404.
    #[error("{remote} is not there: {message}; is the URL right? Aquifer's databases are at /db/<name>")]
    NotFound {
        /// Which.
        remote: String,
        /// What it says.
        message: String,
    },
    /// 410: the revision that was asked for, or the database, is there no more.
    #[error("{remote} does not have this any more: {message}")]
    Gone {
        /// Which.
        remote: String,
        /// What it says.
        message: String,
    },
    /// 429, 502, 503 or 504: it will pass.
    #[error("{remote} cannot answer at the moment ({status}): {message}")]
    Unavailable {
        /// Which.
        remote: String,
        /// The status.
        status: u16,
        /// When to ask again at the earliest, as the server says.
        retry_after: Option<Duration>,
        /// What it says.
        message: String,
    },
    /// A stream's transaction was given up by the server: it was rolled back.
    #[error("{remote} has closed the stream, and rolled back what was not committed: {message}")]
    StreamLost {
        /// Which.
        remote: String,
        /// What it says.
        message: String,
    },
    /// Any other status.
    #[error("{remote} refused the request ({status}): {message}")]
    Refused {
        /// Which.
        remote: String,
        /// The status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// A statement, or a whole batch, that the server did not run to its end.
    #[error("{remote} could not run the SQL: {failure}")]
    Sql {
        /// Which.
        remote: String,
        /// What it says.
        failure: SqlFailure,
    },
    /// An answer that means nothing here.
    #[error("{remote} gave an answer that cannot be used: {reason}")]
    Protocol {
        /// Which.
        remote: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl RemoteError {
    /// Whether there is just no connection: nothing was sent, and nothing is wrong with it.
    pub fn is_offline(&self) -> bool {
        matches!(self, RemoteError::Offline { .. })
    }

    /// Whether the same request may succeed later, with nothing changed on this side.
    pub fn passes(&self) -> bool {
        match self {
            RemoteError::Offline { .. }
            | RemoteError::Interrupted { .. }
            | RemoteError::Unavailable { .. } => true,
            RemoteError::Refused { status, .. } => matches!(status, 408 | 500),
            _ => false,
        }
    }

    /// Whether the server may have done what it was asked, or may yet do it. Where this says no, it did not and will not.
    pub fn may_have_happened(&self) -> bool {
        match self {
            RemoteError::Interrupted { .. } | RemoteError::Protocol { .. } | RemoteError::Sql { .. } => true,
            // A server that committed, and then could not make it durable in time, says so with one of these too.
            RemoteError::Unavailable { status, .. } | RemoteError::Refused { status, .. } => *status >= 500,
            RemoteError::Address(_)
            | RemoteError::Option { .. }
            | RemoteError::Unsendable(_)
            | RemoteError::Offline { .. }
            | RemoteError::Untrusted { .. }
            | RemoteError::Unauthorized { .. }
            | RemoteError::Forbidden { .. }
            | RemoteError::NotFound { .. }
            | RemoteError::Gone { .. }
            | RemoteError::StreamLost { .. } => false,
        }
    }

    /// How long the server wants not to be asked.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            RemoteError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The error that a status other than success means.
    pub(super) fn of_status(
        remote: String,
        status: u16,
        retry_after: Option<Duration>,
        message: String,
    ) -> RemoteError {
        match status {
            401 => RemoteError::Unauthorized { remote, message },
            403 => RemoteError::Forbidden { remote, message },
            404 => RemoteError::NotFound { remote, message },
            410 => RemoteError::Gone { remote, message },
            429 | 502 | 503 | 504 => RemoteError::Unavailable { remote, status, retry_after, message },
            _ => RemoteError::Refused { remote, status, message },
        }
    }
}
