//! Frames that are read one after the other, many at a time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use aquifer_format::PageSize;

use super::{FRAME_HEADER_LEN, page_offset};

/// Bytes that are read at once.
const BYTES: usize = 128 << 10;
/// Frames may be passed over and still be read one after the other.
const SKIPPED: u32 = 4;

/// What was read of frames beyond those that were asked for. SQLite writes the pages of a transaction in their order,
/// so that whoever asks for them in that order asks for frames that follow each other.
///
/// The frames up to the last one that it is told of must stay what they are as long as it lives.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Number of the first frame in `bytes`.
    first: u32,
    bytes: Vec<u8>,
    /// The frame that was asked for last.
    last: u32,
}

impl Ahead {
    /// Reads a page from a frame. `end`: the last frame that may be read.
    pub(crate) fn read(
        &mut self,
        wal: &File,
        page_size: PageSize,
        frame: u32,
        end: u32,
        page: &mut [u8],
    ) -> io::Result<()> {
        let length = FRAME_HEADER_LEN + page_size.bytes();
        let is_next = frame > self.last && frame - self.last <= 1 + SKIPPED;
        self.last = frame;
        let count = (self.bytes.len() / length) as u32;
        if frame < self.first || frame - self.first >= count {
            if !is_next || frame >= end {
                return wal.read_exact_at(page, page_offset(page_size, frame));
            }
            let count = ((BYTES / length).max(1) as u32).min(end - frame + 1);
            self.bytes.resize(count as usize * length, 0);
            // Until it is read, nothing is there.
            self.first = u32::MAX;
            let from = page_offset(page_size, frame) - FRAME_HEADER_LEN as u64;
            wal.read_exact_at(&mut self.bytes, from)?;
            self.first = frame;
        }
        let at = (frame - self.first) as usize * length + FRAME_HEADER_LEN;
        page.copy_from_slice(&self.bytes[at..at + page_size.bytes()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_is_in_the_file_in_whatever_order_they_are_read() {
        let size = PageSize::MIN;
        let file = tempfile::tempfile().unwrap();
        let frames = 100;
        for frame in 1..=frames {
            file.write_all_at(&vec![frame as u8; size.bytes()], page_offset(size, frame)).unwrap();
        }
        let mut page = vec![0; size.bytes()];
        let one_after_the_other = (1..=frames).collect::<Vec<_>>();
        let backwards = (1..=frames).rev().collect();
        let skipping =
            (1..=frames).filter(|frame| frame % 7 < 3).chain([2, 100, 1, 99, 100, 50, 51, 40]).collect();
        for order in [one_after_the_other, backwards, skipping] {
            let mut ahead = Ahead::default();
            for frame in order {
                ahead.read(&file, size, frame, frames, &mut page).unwrap();
                assert_eq!(page, vec![frame as u8; size.bytes()]);
            }
        }
    }

    #[test]
    fn frames_behind_the_last_one_are_not_read() {
        let size = PageSize::MIN;
        let file = tempfile::tempfile().unwrap();
        let write = |frame: u32, byte: u8| {
            file.write_all_at(&vec![byte; size.bytes()], page_offset(size, frame)).unwrap();
        };
        for (frame, byte) in [(1, 1), (2, 2), (3, 9)] {
            write(frame, byte);
        }
        let (mut page, mut ahead) = (vec![0; size.bytes()], Ahead::default());
        for end in [2, 3] {
            for frame in 1..=end {
                ahead.read(&file, size, frame, end, &mut page).unwrap();
                assert_eq!(page[0], frame as u8);
            }
            // Now it is there.
            write(3, 3);
        }
        assert!(ahead.read(&file, size, 4, 4, &mut page).is_err());
        ahead.read(&file, size, 2, 3, &mut page).unwrap();
        assert_eq!(page[0], 2);
    }
}
