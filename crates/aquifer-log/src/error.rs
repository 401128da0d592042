//! What can go wrong with a log, by what a caller does about it.

use aquifer_format::segment::{EncodeError, FormatError};
use aquifer_format::{Pgno, TxidRange};

use crate::name::DatabaseName;
use crate::store::{Key, StoreError};

/// Reading or writing a log failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The store failed; the error says whether to try again.
    #[error(transparent)]
    Store(#[from] StoreError),

    /// An object's bytes are not those that were written, or of a format that this program does not read.
    #[error("{url}: segment '{key}': {source}")]
    Segment {
        /// The store.
        url: String,
        /// The object.
        key: Key,
        /// What is wrong with it.
        source: FormatError,
    },

    /// A segment lies under a name that says other txids than it says itself: objects were renamed or copied.
    #[error(
        "{url}: segment '{key}' holds txids {found}, not those that its name says: it was renamed or copied here"
    )]
    Misplaced {
        /// The store.
        url: String,
        /// The object.
        key: Key,
        /// The txids that it holds.
        found: TxidRange,
    },

    /// A record (JSON) cannot be read.
    #[error("{url}: record '{key}' cannot be read: {reason}")]
    Record {
        /// The store.
        url: String,
        /// The object.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },

    /// A record is of a newer format.
    #[error(
        "{url}: record '{key}' is of format version {found}, this program reads up to {supported}: use a newer one"
    )]
    RecordVersion {
        /// The store.
        url: String,
        /// The object.
        key: Key,
        /// Its version.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },

    /// A name that must be free is taken by an object of someone else.
    #[error("{url}: '{key}' exists already and is not ours")]
    Taken {
        /// The store.
        url: String,
        /// The object.
        key: Key,
    },

    /// The database is being made of another one, or that was interrupted.
    #[error(
        "{url}: '{name}' is being made as a fork of another database: try again; if that was interrupted, make the fork \
         again or delete it"
    )]
    BeingForked {
        /// The store.
        url: String,
        /// The database.
        name: DatabaseName,
    },

    /// Segments that were to be merged do not continue each other: one of them belongs to another history.
    #[error("{url}: segment '{newer}' does not continue '{older}': it belongs to another history")]
    NotAdjacent {
        /// The store.
        url: String,
        /// The earlier object.
        older: Key,
        /// The later object.
        newer: Key,
    },

    /// A page put together from segments is not the one that was written, though each segment's checksums hold:
    /// a writer made a wrong difference, or memory failed. `verify` tells which revisions are affected.
    #[error("page {pgno} as of txid {} does not have its hash when put together from txids {range}", range.last)]
    PageMismatch {
        /// The page.
        pgno: Pgno,
        /// The txids that were put together.
        range: TxidRange,
    },

    /// A segment's entry for a page does not lead to the content that it says it does.
    #[error(
        "{url}: segment '{key}': page {pgno} does not have its hash when put together from the chain up to here"
    )]
    WrongPage {
        /// The store.
        url: String,
        /// The object with the entry.
        key: Key,
        /// The page.
        pgno: Pgno,
    },

    /// Segments that should amount to a whole database lack a page, or all pages together are not those that
    /// were there.
    #[error("txids {range} do not amount to the whole database: {reason}")]
    NotWhole {
        /// The txids that were put together.
        range: TxidRange,
        /// What is wrong.
        reason: String,
    },

    /// Segments that were merged do not hold the pages that they must.
    #[error("cannot merge txids {range}: {source}")]
    Encode {
        /// The txids.
        range: TxidRange,
        /// What is wrong.
        source: EncodeError,
    },

    /// A scratch directory could not be made.
    #[error("cannot make a scratch directory: {0}. TMPDIR says where to")]
    Scratch(std::io::Error),

    /// What a caller staged for upload could not be read.
    #[error("cannot read the staged segment for '{key}': {source}")]
    Staged {
        /// The object that it was to become.
        key: Key,
        /// The cause.
        source: std::io::Error,
    },
}

impl LogError {
    /// Whether the same call may succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        matches!(self, LogError::Store(e) if e.is_transient())
    }

    /// Whether there simply is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, LogError::Store(e) if e.is_not_found())
    }
}
