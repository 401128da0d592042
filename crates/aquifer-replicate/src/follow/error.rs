//! Why a database cannot be followed, by what a caller does about it.

use std::io;
use std::path::{Path, PathBuf};

use aquifer_format::PageSize;
use aquifer_log::{LogError, PlanError};

use crate::restore::RestoreError;

/// Following failed. What readers see of the standby is one whole revision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// Another process follows into this file.
    #[error("{0} is kept up to date by another process already")]
    Followed(PathBuf),

    /// Restoring, for the first time or anew, failed.
    #[error(transparent)]
    Restore(Box<RestoreError>),

    /// There is no way to the next revision, and the error says why.
    #[error(transparent)]
    Plan(#[from] PlanError),

    /// Reading the store failed, or an object in it is damaged.
    #[error(transparent)]
    Log(#[from] LogError),

    /// Changing the standby failed.
    #[error(transparent)]
    Sqlite(#[from] aquifer_sqlite::Error),

    /// The new history has pages of another size, which no transaction can change.
    #[error(
        "{path} has pages of {has} bytes, and the database now has pages of {wants}: stop all readers, \
         delete the file, and follow again"
    )]
    PageSize {
        /// The standby.
        path: PathBuf,
        /// Its pages.
        has: PageSize,
        /// Those of the new history.
        wants: PageSize,
    },

    /// The file that says where the standby stands could not be read or written.
    #[error("cannot {what} the state of the standby {path}: {source}")]
    State {
        /// What was tried.
        what: &'static str,
        /// The standby.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<RestoreError> for FollowError {
    fn from(error: RestoreError) -> FollowError {
        FollowError::Restore(Box::new(error))
    }
}

impl FollowError {
    pub(super) fn state(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FollowError {
        let path = path.to_owned();
        move |source| FollowError::State { what, path, source }
    }

    /// Whether the same call may succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        match self {
            FollowError::Restore(error) => error.is_transient(),
            FollowError::Plan(error) => error.is_transient(),
            FollowError::Log(error) => error.is_transient(),
            FollowError::Sqlite(error) => error.is_transient(),
            _ => false,
        }
    }
}
