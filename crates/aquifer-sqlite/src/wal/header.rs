//! The WAL's header and its frames' headers.

use aquifer_format::{PageSize, Pgno};

use super::{WalChecksum, WalError};

/// Bytes of the WAL's header.
pub const HEADER_LEN: usize = 32;
/// Bytes of a frame's header, which stands before the frame's page.
pub const FRAME_HEADER_LEN: usize = 24;

/// Magic number of a WAL whose checksums read little-endian words; with the lowest bit set: big-endian.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// The two salts that tell a WAL's frames from those of an earlier use of the same file, as they stand in the file.
///
/// At each reset SQLite adds 1 to the first (big-endian) and draws the second at random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Salts(pub [u8; 8]);

impl std::fmt::Debug for Salts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// The header of a WAL file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalHeader {
    /// Whether checksums read big-endian words.
    pub big_endian: bool,
    /// Size of the database's pages.
    pub page_size: PageSize,
    /// How often the WAL was reset.
    pub resets: u32,
    /// Its salts, which its frames repeat.
    pub salts: Salts,
    /// Checksum of the header, which that of the first frame continues.
    pub checksum: WalChecksum,
}

impl WalHeader {
    /// Reads and verifies a header.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<WalHeader, WalError> {
        let magic = u32_be(bytes, 0);
        if magic & !1 != MAGIC {
            return Err(WalError::Magic(magic));
        }
        let big_endian = magic & 1 == 1;
        let version = u32_be(bytes, 4);
        if version != VERSION {
            return Err(WalError::Version(version));
        }
        let page_size = u32_be(bytes, 8);
        let page_size = PageSize::new(page_size).map_err(|_| WalError::PageSize(page_size))?;
        let checksum = WalChecksum::default().over(&bytes[..24], big_endian);
        if checksum != (WalChecksum { s0: u32_be(bytes, 24), s1: u32_be(bytes, 28) }) {
            return Err(WalError::HeaderChecksum);
        }
        Ok(WalHeader { big_endian, page_size, resets: u32_be(bytes, 12), salts: salts(bytes), checksum })
    }
}

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The page that the frame holds, or `None` in a frame for page 0, which none should be.
    pub pgno: Option<Pgno>,
    /// For the last frame of a transaction the pages of the database after it; 0 in all others.
    pub commit: u32,
    /// The WAL's salts when the frame was written.
    pub salts: Salts,
    /// The cumulative checksum up to and including this frame.
    pub checksum: WalChecksum,
}

impl FrameHeader {
    /// Reads a frame's header; it is verified together with its page, by [`FrameHeader::continues`].
    pub fn parse(bytes: &[u8; FRAME_HEADER_LEN]) -> FrameHeader {
        FrameHeader {
            pgno: Pgno::new(u32_be(bytes, 0)),
            commit: u32_be(bytes, 4),
            salts: Salts(std::array::from_fn(|i| bytes[8 + i])),
            checksum: WalChecksum { s0: u32_be(bytes, 16), s1: u32_be(bytes, 20) },
        }
    }

    /// The cumulative checksum that the frame (24-byte header and page) must carry after `before`.
    #[inline]
    pub fn continues(before: WalChecksum, frame: &[u8], big_endian: bool) -> WalChecksum {
        before.over(&frame[..8], big_endian).over(&frame[FRAME_HEADER_LEN..], big_endian)
    }
}

fn salts(header: &[u8; HEADER_LEN]) -> Salts {
    Salts(std::array::from_fn(|i| header[16 + i]))
}

fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: [u8; HEADER_LEN]) {
            let _ = WalHeader::parse(&bytes);
        }
    }
}
