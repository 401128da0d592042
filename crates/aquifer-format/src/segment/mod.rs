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
//!
//! ```
//! use aquifer_format::segment::{CompressionLevel, SegmentBytes, SegmentEncoder, SegmentMeta};
//! use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce};
//!
//! // Page 2 of three changes.
//! let (pgno, old, mut new) = (Pgno::ONE.next(), [7; 4096], [7; 4096]);
//! new[100..104].copy_from_slice(b"wave");
//! let (old_hash, new_hash) = (PageHash::of(pgno, &old), PageHash::of(pgno, &new));
//! let before = DbChecksum::from_u64(0x5eed);
//! let mut after = before;
//! after.replace(old_hash, new_hash);
//!
//! let mut encoder = SegmentEncoder::new(PageSize::DEFAULT, CompressionLevel::SHIP);
//! encoder.push_delta(pgno, &old, &new, new_hash);
//! let finished = encoder.finish(&SegmentMeta {
//!     page_size: PageSize::DEFAULT,
//!     range: TxidRange::one(Txid::new(17)),
//!     size_before: 3,
//!     size_after: 3,
//!     checksum_before: before,
//!     checksum_after: after,
//!     commits: 1,
//!     frames: 0,
//!     first_commit: Timestamp::now(),
//!     last_commit: Timestamp::now(),
//!     writer: WriterNonce::random(),
//! })?;
//! let object = finished.tail; // nothing was drained before
//! assert!(object.len() < 200);
//!
//! let segment = SegmentBytes::parse(&object)?;
//! let mut entries = segment.entries();
//! let mut page = old;
//! while let Some(entry) = entries.next()? {
//!     entry.apply(&mut page);
//!     assert_eq!(PageHash::of(entry.pgno, &page), entry.hash);
//! }
//! assert_eq!(page, new);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
mod owned;
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
pub use owned::{FoldScratch, OwnedEntry};
pub use trailer::{SegmentMeta, Trailer};

/// A group is closed before its entries (hashes, table and data, uncompressed) exceed this many bytes; a
/// single entry may be larger.
pub const GROUP_TARGET: usize = 64 * 1024;

/// No valid group has more bytes of hashes, table and data, uncompressed. Readers check it before they allocate.
pub const MAX_GROUP: usize = 128 * 1024;

/// No valid group frame is longer, header included.
pub const MAX_FRAME: usize = frame::FRAME_HEADER_LEN + MAX_GROUP;
