//! What to read, and how: the same for all formats.

use aquifer_format::{PageSize, Pgno, Timestamp};
use aquifer_log::store::ObjectInfo;
use aquifer_sqlite::wal::WalChecksum;

use crate::codec::Codec;

/// Which moment of a backup is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest.
    Latest,
    /// The last commit at or before this moment, as far as the format knows moments.
    Timestamp(Timestamp),
    /// The last commit at or before this position, inclusive: bottomless' frame number (of the generation), Litestream's
    /// txid, zlayer-storage's WAL sequence.
    Position(u64),
}

/// What a database is made from, oldest first.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The page size, where objects tell it before the first page.
    pub(crate) page_size: Option<PageSize>,
    /// Whether the objects do not prove that they belong together: SQLite must find the database whole then.
    pub(crate) check: bool,
    pub(crate) pieces: Vec<Piece>,
}

/// An object, and what to do with it.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) object: ObjectInfo,
    pub(crate) content: Content,
    /// When its last commit was made, where the format tells and the object itself does not.
    pub(crate) time: Option<Timestamp>,
    /// The position that it leads to.
    pub(crate) position: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A whole database file.
    Database(Codec),
    /// One page, gzip. Nothing says which of them end a transaction: all that are planned are one.
    Page(PageObject),
    /// Frames of a WAL, each a header and a page, without the WAL's header.
    Frames(FrameRun),
    /// A piece of a WAL file.
    Wal(WalPiece),
    /// An LTX file.
    Ltx(LtxRange),
}

/// A frame that is an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageObject {
    pub(crate) pgno: Pgno,
    /// CRC-64/ECMA-182 of the page, continued from `seed`.
    pub(crate) crc: u64,
    /// The CRC of the frame before; `None` where that is not known.
    pub(crate) seed: Option<u64>,
}

/// Frames that are an object together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameRun {
    pub(crate) codec: Codec,
    /// Their numbers, both inclusive.
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// Frames after this one are proven and not used.
    pub(crate) until: u32,
    /// Of the first run of a generation: its page size, and the checksum that the first frame continues.
    pub(crate) start: Option<(PageSize, WalChecksum)>,
}

/// A WAL file, or a piece of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalPiece {
    pub(crate) codec: Codec,
    /// Where in the WAL file it begins, in bytes; 0 where a WAL begins.
    pub(crate) offset: u64,
    /// Whether what does not continue the frames before it is damage. Otherwise the file is one that SQLite began to
    /// write anew: what the WAL was before stands behind its last frame.
    pub(crate) all: bool,
}

/// The transactions of an LTX file, both inclusive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LtxRange {
    pub(crate) min: u64,
    pub(crate) max: u64,
}
