//! Frames as they travel: 24 bytes of header and a page.

use std::collections::BTreeMap;

use aquifer_format::{PageSize, Pgno};
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a frame's page.
pub(super) const PAGE: usize = PageSize::DEFAULT.bytes();
/// Bytes of a frame.
pub(super) const FRAME: usize = 24 + PAGE;
/// Bytes of page 1 that SQLite rewrites by itself when it commits.
const REWRITTEN: [std::ops::Range<usize>; 2] = [24..28, 92..100];

/// Frames that cannot be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// Not as many bytes as frames are announced.
    #[error("{found} bytes are not {expected} frames of {FRAME} bytes")]
    Length {
        /// Frames announced.
        expected: u32,
        /// Bytes there are.
        found: usize,
    },
    /// Pages count from 1.
    #[error("frame {0} is of page 0")]
    PageZero(u32),
    /// The last commit has no such page.
    #[error("frame {frame} is of page {page}, and the database has {size} pages after it")]
    BeyondSize {
        /// The frame's place among those pushed, from 0.
        frame: u32,
        /// Its page.
        page: u32,
        /// Pages of the database.
        size: u32,
    },
    /// Page 1 is not one.
    #[error("page 1 is not the first page of a database with pages of {PAGE} bytes")]
    FirstPage,
}

/// The frames of one or more transactions, read.
#[derive(Debug)]
pub(super) struct Pushed {
    /// The newest content of each page.
    pub(super) pages: BTreeMap<Pgno, Bytes>,
    /// Pages of the database after the last commit.
    pub(super) size: u32,
    pub(super) frames: u32,
}

/// Whether there are as many frames as announced, and whether the last one is a commit.
pub(super) fn ends_with_commit(body: &[u8], expected: u32) -> Result<bool, FrameError> {
    if expected == 0 || body.len() != expected as usize * FRAME {
        return Err(FrameError::Length { expected, found: body.len() });
    }
    Ok(word(body, body.len() - FRAME + 4) > 0)
}

/// Reads frames of which the last is a commit.
pub(super) fn read(body: &Bytes) -> Result<Pushed, FrameError> {
    let frames = u32::try_from(body.len() / FRAME).unwrap_or(u32::MAX);
    ends_with_commit(body, frames)?;
    let size = word(body, body.len() - FRAME + 4);
    let mut pages = BTreeMap::new();
    // What a transaction wrote and a later one cut off may lie beyond the end.
    let mut size_then = 0;
    let mut largest = (0, 0);
    for (frame, at) in (0..).zip((0..body.len()).step_by(FRAME)) {
        let Some(pgno) = Pgno::new(word(body, at)) else { return Err(FrameError::PageZero(frame)) };
        pages.insert(pgno, body.slice(at + 24..at + FRAME));
        largest = largest.max((pgno.get(), frame));
        size_then = word(body, at + 4);
        if size_then > 0 {
            if largest.0 > size_then {
                return Err(FrameError::BeyondSize { frame: largest.1, page: largest.0, size: size_then });
            }
            largest = (0, 0);
        }
    }
    debug_assert_eq!(size_then, size);
    pages.retain(|pgno, _| pgno.get() <= size);
    if let Some(first) = pages.get(&Pgno::ONE)
        && !(first.starts_with(b"SQLite format 3\0") && first[16..18] == (PAGE as u16).to_be_bytes())
    {
        return Err(FrameError::FirstPage);
    }
    Ok(Pushed { pages, size, frames })
}

/// Appends a frame. A `size` other than 0 marks it as a commit.
pub(super) fn put(out: &mut BytesMut, pgno: Pgno, size: u32, page: &[u8]) {
    out.put_u32(pgno.get());
    out.put_u32(size);
    // Salts and checksums are the reader's own affair.
    out.put_bytes(0, 16);
    out.put_slice(page);
}

/// Whether a page is what was pushed, but for what SQLite rewrites.
pub(super) fn is_same(pgno: Pgno, pushed: &[u8], page: &[u8]) -> bool {
    if pgno != Pgno::ONE {
        return pushed == page;
    }
    let differs = |at: usize| !REWRITTEN.iter().any(|range| range.contains(&at)) && pushed[at] != page[at];
    pushed.len() == page.len() && !(0..page.len()).any(differs)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(frames: &[(u32, u32, u8)]) -> Bytes {
        let mut out = BytesMut::new();
        for &(pgno, size, fill) in frames {
            out.put_u32(pgno);
            out.put_u32(size);
            out.put_bytes(9, 16);
            out.put_bytes(fill, PAGE);
        }
        out.freeze()
    }

    #[test]
    fn the_newest_content_of_each_page_counts() {
        let pushed = read(&frames(&[(2, 0, 1), (9, 9, 2), (2, 0, 3), (3, 5, 4)])).unwrap();
        let pages: Vec<_> = pushed.pages.iter().map(|(pgno, page)| (pgno.get(), page[0])).collect();
        assert_eq!((pages, pushed.size, pushed.frames), (vec![(2, 3), (3, 4)], 5, 4));
    }

    #[test]
    fn frames_that_cannot_be_are_refused() {
        assert_eq!(read(&frames(&[(0, 3, 1)])).unwrap_err(), FrameError::PageZero(0));
        let beyond = read(&frames(&[(2, 0, 1), (7, 0, 1), (3, 6, 1)])).unwrap_err();
        assert_eq!(beyond, FrameError::BeyondSize { frame: 1, page: 7, size: 6 });
        assert_eq!(read(&frames(&[(1, 6, 1)])).unwrap_err(), FrameError::FirstPage);
        let one = frames(&[(2, 2, 1)]);
        assert!(ends_with_commit(&one, 1).unwrap());
        assert!(!ends_with_commit(&frames(&[(2, 2, 1), (2, 0, 1)]), 2).unwrap());
        for (body, count) in [(one.slice(1..), 1), (one.clone(), 2), (one, 0), (Bytes::new(), 0)] {
            assert!(ends_with_commit(&body, count).is_err());
        }
    }

    #[test]
    fn what_sqlite_rewrites_is_no_difference_and_all_else_is() {
        let page: Vec<u8> = vec![7; PAGE];
        for at in [0, 23, 24, 27, 28, 91, 92, 99, 100, 4095] {
            let mut other = page.clone();
            other[at] = 8;
            let rewritten = (24..28).contains(&at) || (92..100).contains(&at);
            assert_eq!(is_same(Pgno::ONE, &page, &other), rewritten, "{at}");
            assert!(!is_same(Pgno::new(2).unwrap(), &page, &other));
        }
    }

    proptest! {
        #[test]
        fn any_frames_are_read_or_refused(headers in prop::collection::vec((0u32..5, 0u32..5), 1..6)) {
            let of: Vec<_> = headers.into_iter().map(|(pgno, size)| (pgno, size, 1)).collect();
            let body = frames(&of);
            if ends_with_commit(&body, of.len() as u32).unwrap() {
                let _ = read(&body);
            }
        }
    }
}
