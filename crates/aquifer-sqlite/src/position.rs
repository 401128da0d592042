//! Where in a WAL one is.

use crate::wal::{Salts, WalChecksum};

/// A place between two transactions in a WAL, as SQLite's own WAL index states it: everything up to and including
/// frame [`frame`](WalPosition::frame) is committed, and the cumulative checksum there must be
/// [`checksum`](WalPosition::checksum).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalPosition {
    /// The WAL's salts; all zeros where there is no WAL yet.
    pub salts: Salts,
    /// Number of the last committed frame; 0: the WAL is empty and the database file holds everything.
    pub frame: u32,
    /// Cumulative checksum at that frame.
    pub checksum: WalChecksum,
    /// Whether the WAL's checksums read big-endian words.
    pub big_endian: bool,
    /// Pages of the database; 0 where the WAL does not tell (then the file's size does).
    pub pages: u32,
}

impl WalPosition {
    /// Where there is no WAL: nothing was written since the database was opened by its first user.
    pub const NO_WAL: WalPosition = WalPosition {
        salts: Salts([0; 8]),
        frame: 0,
        checksum: WalChecksum { s0: 0, s1: 0 },
        big_endian: false,
        pages: 0,
    };

    /// The beginning of the same WAL.
    #[must_use]
    pub fn start(&self) -> WalPosition {
        WalPosition { frame: 0, checksum: WalChecksum { s0: 0, s1: 0 }, pages: 0, ..*self }
    }

    /// Bytes of an encoded position.
    pub const LEN: usize = 28;

    /// As it is kept on disk; little-endian.
    pub fn to_bytes(&self) -> [u8; WalPosition::LEN] {
        let mut bytes = [0; WalPosition::LEN];
        let words = [self.frame, self.checksum.s0, self.checksum.s1, u32::from(self.big_endian), self.pages];
        bytes[..8].copy_from_slice(&self.salts.0);
        for (to, word) in bytes[8..].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What [`to_bytes`](WalPosition::to_bytes) made.
    pub fn from_bytes(bytes: &[u8; WalPosition::LEN]) -> WalPosition {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[8 + 4 * at + i]));
        WalPosition {
            salts: Salts(std::array::from_fn(|i| bytes[i])),
            frame: word(0),
            checksum: WalChecksum { s0: word(1), s1: word(2) },
            big_endian: word(3) != 0,
            pages: word(4),
        }
    }

    /// From the 48 bytes of a `sqlite3_snapshot`, which are a copy of the WAL index's header
    /// (`struct WalIndexHdr` in wal.c; SQLite is compiled into this program, so its layout is known).
    pub(crate) fn from_index_header(header: &[u8; 48]) -> WalPosition {
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        WalPosition {
            salts: Salts(std::array::from_fn(|i| header[32 + i])),
            frame: word(16),
            checksum: WalChecksum { s0: word(24), s1: word(28) },
            big_endian: header[13] != 0,
            pages: word(20),
        }
    }
}
