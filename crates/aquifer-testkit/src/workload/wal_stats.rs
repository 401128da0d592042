//! What a WAL holds: the denominators of the figures in `docs/benchmarks.md`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

/// Counts over the frames of a WAL's current salts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Frames, up to the last commit.
    pub frames: u64,
    /// Commits.
    pub transactions: u64,
    /// Pages that occur, each counted once.
    pub distinct_pages: u64,
    /// Pages that occur in a transaction, summed over the transactions.
    pub transaction_pages: u64,
    /// The WAL's header and frames, in bytes.
    pub bytes: u64,
}

const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Counts the frames of the WAL at `path`, by salts alone: for WALs that this process made or trusts.
///
/// # Errors
/// Those of reading; an empty WAL is not an error.
pub fn wal_stats(path: &Path) -> io::Result<WalStats> {
    let mut wal = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut header = [0; WAL_HEADER];
    if !read_whole(&mut wal, &mut header)? {
        return Ok(WalStats::default());
    }
    let page_size = be_u32(&header[8..12]) as usize;
    let mut frame = vec![0; FRAME_HEADER + page_size];
    let mut stats = WalStats { bytes: WAL_HEADER as u64, ..WalStats::default() };
    let (mut pages, mut open, mut open_frames) = (HashSet::new(), HashSet::new(), 0);
    // The header's salts are at 16..24, a frame's copy of them at 8..16.
    while read_whole(&mut wal, &mut frame)? && frame[8..16] == header[16..24] {
        open_frames += 1;
        open.insert(be_u32(&frame[0..4]));
        if be_u32(&frame[4..8]) > 0 {
            stats.transactions += 1;
            stats.frames += open_frames;
            stats.transaction_pages += open.len() as u64;
            pages.extend(open.drain());
            open_frames = 0;
        }
    }
    stats.distinct_pages = pages.len() as u64;
    stats.bytes += stats.frames * frame.len() as u64;
    Ok(stats)
}

fn be_u32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

/// False where the file ends first.
fn read_whole(from: &mut impl Read, into: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
