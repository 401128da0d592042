//! Segments: immutable objects that hold, per page changed in a range of txids, one entry.
//!
//! The specification is `docs/format.md`. In reading order:
//!
//! - [`EntryKind`], [`Entry`], [`encode_delta`], [`encode_image`]: what is known of one page, as runs of bytes;
//! - [`SegmentEncoder`]: pages in ascending order become an object, streamed out as it grows;
//! - [`SegmentInfo`], [`Trailer`], [`Index`]: what the end of an object says about it;
//! - [`Group`]: up to 64 KiB of entries, compressed and verified on their own;
//! - [`SegmentBytes`]: a whole segment in memory;
//! - [`PageFold`], [`merge`]: the algebra that compaction and restore stand on.

mod bytes;
mod codec;
mod diff;
mod encoder;
mod entry;
mod error;
mod fold;
mod frame;
mod group;
mod header;
mod index;
mod info;
mod level;
mod merge;
mod runs;
mod trailer;
mod varint;

pub use bytes::{EntryCursor, SegmentBytes};
pub use diff::{encode_delta, encode_image};
pub use encoder::{EncodeError, Finished, FinishedExternal, SegmentEncoder};
pub use entry::{Entry, EntryKind};
pub use error::{Damage, Expected, FormatError, Part};
pub use fold::{Folded, PageFold};
pub use group::{Group, GroupScratch};
pub use header::{Form, HEADER_LEN, VERSION};
pub use index::{GroupRef, Index};
pub use info::{OpenError, SegmentInfo, SegmentTally};
pub use level::CompressionLevel;
pub use merge::{MergeError, merge};
pub use trailer::{SegmentMeta, Trailer};

/// A group is closed before its entries (hashes, table and data, uncompressed) exceed this many bytes; a
/// single entry may be larger.
pub const GROUP_TARGET: usize = 64 * 1024;

/// No valid group has more bytes of hashes, table and data, uncompressed. Readers check it before they allocate.
pub const MAX_GROUP: usize = 128 * 1024;

/// No valid group frame is longer, header included.
pub const MAX_FRAME: usize = frame::FRAME_HEADER_LEN + MAX_GROUP;
