//! What can go wrong with a store, by what a caller does about it.

use std::error::Error as StdError;
use std::fmt;

use super::key::Key;
use super::url::ParseStoreUrlError;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// An operation on a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no object of this name. Nothing is wrong with the store.
    #[error("{url} has no object '{key}'")]
    NotFound {
        /// The store.
        url: String,
        /// The object asked for.
        key: Key,
    },

    /// The directory that a store's URL names does not exist.
    #[error(
        "no store at {url}: the directory does not exist. Check --store, or replicate a database into it first"
    )]
    NoStore {
        /// The store.
        url: String,
    },

    /// The store could not be reached or kept failing. Trying again later may work.
    #[error(
        "could not {action} in {url} after {tries} {}: {reason}{}",
        if *tries == 1 { "try" } else { "tries" },
        if *outcome_unknown { ". Whether the store did it all the same is unknown" } else { "" }
    )]
    Unavailable {
        /// The store.
        url: String,
        /// What was tried: a verb and the object's key.
        action: String,
        /// How many times it was tried.
        tries: u32,
        /// What the last try met.
        reason: String,
        /// Whether the store may have done it nevertheless (an answer was lost). Repeat the very same request to
        /// find out; never send another payload under the same key.
        outcome_unknown: bool,
        /// The cause.
        source: BoxError,
    },

    /// The credentials are missing, wrong, expired, or do not permit this.
    #[error(
        "{url} does not permit to {action}: {reason}. Check the credentials in the environment and what they may do"
    )]
    Denied {
        /// The store.
        url: String,
        /// What was tried.
        action: String,
        /// What the store answered.
        reason: String,
        /// The cause.
        source: BoxError,
    },

    /// The store refuses this request and would refuse it again: a wrong bucket, region or endpoint, or a
    /// request that it does not support.
    #[error("{url} refuses to {action}: {reason}")]
    Refused {
        /// The store.
        url: String,
        /// What was tried.
        action: String,
        /// What the store answered, and what to do where that is known.
        reason: String,
        /// The cause.
        source: BoxError,
    },

    /// The store's settings (URL and environment) make no sense together.
    #[error("cannot use the store {url}: {reason}")]
    Config {
        /// The store.
        url: String,
        /// What is wrong.
        reason: String,
        /// The cause.
        source: Option<BoxError>,
    },

    /// The store's URL cannot be read.
    #[error(transparent)]
    Url(#[from] ParseStoreUrlError),
}

impl StoreError {
    /// Whether there simply is no such object (or no such store).
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::NotFound { .. } | StoreError::NoStore { .. })
    }

    /// Whether the same request may succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }

    /// Whether the store may have done what was asked although this error says that it failed.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, StoreError::Unavailable { outcome_unknown: true, .. })
    }
}

/// Why one attempt failed, as a backend saw it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
    pub(crate) source: BoxError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No such object.
    NotFound,
    /// No such directory of a store.
    NoStore,
    /// A create met an object, or another create of the same key in flight.
    Exists,
    Denied,
    Refused,
    /// Worth another try; the request was never sent.
    NotSent,
    /// Worth another try; the store may have done it.
    Unknown,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, source: impl Into<BoxError>) -> Failure {
        let source = source.into();
        Failure { kind, reason: source.to_string(), source }
    }

    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.kind, FailureKind::NotSent | FailureKind::Unknown)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
