//! The write-ahead log's bytes. Source: sqlite.org/fileformat2.html, section 4, "The Write-Ahead Log".

mod ahead;
mod checksum;
mod header;
mod reader;

pub(crate) use ahead::Ahead;
pub use checksum::WalChecksum;
pub use header::{FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Salts, WalHeader};
pub use reader::{Frame, FrameReader, page_offset};

/// What is wrong with a WAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The file is shorter than the part that was to be read.
    #[error("ends at byte {len}, within {part}")]
    Truncated {
        /// Length in bytes.
        len: u64,
        /// What was being read.
        part: &'static str,
    },
    /// The first four bytes are none of SQLite's two magic numbers.
    #[error("starts with {0:08x}, which is no WAL's magic number")]
    Magic(u32),
    /// A version of the WAL format that is not known.
    #[error("has format version {0}, known is 3007000")]
    Version(u32),
    /// A page size that SQLite does not know.
    #[error("has page size {0}")]
    PageSize(u32),
    /// The header does not match its checksum.
    #[error("has a header that does not match its checksum")]
    HeaderChecksum,
    /// The WAL was reset: its salts are not those expected.
    #[error("has salts {found:?} at frame {frame} (0: the header), expected {expected:?}: it was reset")]
    Salts {
        /// 1-based frame number, 0 for the header.
        frame: u32,
        /// The salts that were expected.
        expected: Salts,
        /// The salts that are there.
        found: Salts,
    },
    /// A frame does not continue the cumulative checksum.
    #[error("has a frame {frame} that does not match the cumulative checksum")]
    FrameChecksum {
        /// 1-based frame number.
        frame: u32,
    },
    /// A frame for page 0, which does not exist.
    #[error("has a frame {frame} for page 0")]
    PageZero {
        /// 1-based frame number.
        frame: u32,
    },
    /// The last frame read is none that ends a transaction, or sets another database size than was promised.
    #[error("has a frame {frame} that commits {found} pages where the WAL's index says {expected}")]
    Commit {
        /// 1-based frame number.
        frame: u32,
        /// Pages that the index promised.
        expected: u32,
        /// Pages that the frame says; 0 for a frame that commits nothing.
        found: u32,
    },
}
