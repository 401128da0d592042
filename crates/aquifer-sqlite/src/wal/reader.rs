//! Reads frames of a WAL file and proves each of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use aquifer_format::{PageSize, Pgno};

use super::{FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Salts, WalChecksum, WalError, WalHeader};

/// Bytes read at a time. Large enough that the system call does not show, small enough to stay in the cache.
const CHUNK: usize = 256 << 10;

/// A verified frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// 1-based number in the WAL.
    pub number: u32,
    /// The page that it holds.
    pub pgno: Pgno,
    /// For the last frame of a transaction the pages of the database after it; 0 in all others.
    pub commit: u32,
    /// The page's new content.
    pub page: &'a [u8],
}

/// Reads a WAL file from a known frame on, in order, verifying salts and the cumulative checksum.
#[derive(Debug)]
pub struct FrameReader<'f> {
    file: &'f File,
    page_size: PageSize,
    big_endian: bool,
    salts: Salts,
    /// Number of the last verified frame.
    frame: u32,
    /// Cumulative checksum up to it.
    checksum: WalChecksum,
    buffer: Vec<u8>,
    /// How much of `buffer` was read.
    filled: usize,
    /// Where in `buffer` the next frame starts.
    at: usize,
}

impl<'f> FrameReader<'f> {
    /// Reads the WAL's header, and stands before frame 1.
    ///
    /// # Errors
    /// Whatever is wrong with the header, or [`WalError::Salts`] if it has others than `salts`.
    pub fn from_start(file: &'f File, salts: Salts) -> io::Result<Result<FrameReader<'f>, WalError>> {
        let mut bytes = [0; HEADER_LEN];
        let n = read_up_to(file, &mut bytes, 0)?;
        if n < HEADER_LEN {
            return Ok(Err(WalError::Truncated { len: n as u64, part: "its header" }));
        }
        let header = match WalHeader::parse(&bytes) {
            Ok(header) => header,
            Err(e) => return Ok(Err(e)),
        };
        if header.salts != salts {
            return Ok(Err(WalError::Salts { frame: 0, expected: salts, found: header.salts }));
        }
        Ok(Ok(FrameReader {
            file,
            page_size: header.page_size,
            big_endian: header.big_endian,
            salts,
            frame: 0,
            checksum: header.checksum,
            buffer: Vec::new(),
            filled: 0,
            at: 0,
        }))
    }

    /// Goes on after frame `frame`, which was verified before and had the cumulative checksum `checksum`.
    pub fn resume(
        file: &'f File,
        page_size: PageSize,
        big_endian: bool,
        salts: Salts,
        frame: u32,
        checksum: WalChecksum,
    ) -> FrameReader<'f> {
        FrameReader {
            file,
            page_size,
            big_endian,
            salts,
            frame,
            checksum,
            buffer: Vec::new(),
            filled: 0,
            at: 0,
        }
    }

    /// Gives it memory to read into, before the first frame.
    pub fn set_buffer(&mut self, buffer: Vec<u8>) {
        (self.buffer, self.filled, self.at) = (buffer, 0, 0);
    }

    /// Takes the memory back, to be given to another reader.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Number of the last verified frame, and the cumulative checksum up to it.
    pub fn position(&self) -> (u32, WalChecksum) {
        (self.frame, self.checksum)
    }

    /// Whether checksums read big-endian words.
    pub fn big_endian(&self) -> bool {
        self.big_endian
    }

    /// Size of the database's pages.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The next frame, at most number `last` (inclusive); `None` when that has been read.
    pub fn next(&mut self, last: u32) -> io::Result<Result<Option<Frame<'_>>, WalError>> {
        if self.frame >= last {
            return Ok(Ok(None));
        }
        let len = FRAME_HEADER_LEN + self.page_size.bytes();
        if self.filled < self.at + len {
            let offset = HEADER_LEN as u64 + u64::from(self.frame) * len as u64;
            let frames = (CHUNK / len).clamp(1, (last - self.frame) as usize);
            if self.buffer.len() < frames * len {
                self.buffer.resize(frames * len, 0);
            }
            let n = read_up_to(self.file, &mut self.buffer[..frames * len], offset)?;
            self.filled = n - n % len;
            self.at = 0;
            if self.filled == 0 {
                return Ok(Err(WalError::Truncated { len: offset + n as u64, part: "a frame" }));
            }
        }
        let number = self.frame + 1;
        let bytes = &self.buffer[self.at..self.at + len];
        self.at += len;
        let (head, page) = bytes.split_at(FRAME_HEADER_LEN);
        let header = FrameHeader::parse(head.as_array().expect("split at its length"));
        if header.salts != self.salts {
            return Ok(Err(WalError::Salts { frame: number, expected: self.salts, found: header.salts }));
        }
        let checksum = FrameHeader::continues(self.checksum, bytes, self.big_endian);
        if checksum != header.checksum {
            return Ok(Err(WalError::FrameChecksum { frame: number }));
        }
        let Some(pgno) = header.pgno else {
            return Ok(Err(WalError::PageZero { frame: number }));
        };
        self.frame = number;
        self.checksum = checksum;
        Ok(Ok(Some(Frame { number, pgno, commit: header.commit, page })))
    }
}

/// Offset in the WAL file of the page inside a 1-based frame.
pub fn page_offset(page_size: PageSize, frame: u32) -> u64 {
    let len = (FRAME_HEADER_LEN + page_size.bytes()) as u64;
    HEADER_LEN as u64 + u64::from(frame - 1) * len + FRAME_HEADER_LEN as u64
}

/// Reads until `buffer` is full or the file ends; returns the bytes read.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const SALTS: Salts = Salts([0, 0, 0, 77, 0, 0, 0, 99]);
    const PAGE: usize = 512;

    /// A WAL of so many frames, each of another page; every third commits.
    fn wal(frames: u32) -> Vec<u8> {
        let mut wal = Vec::new();
        for word in [0x377f_0682, 3_007_000, PAGE as u32, 0, 77, 99] {
            wal.extend_from_slice(&u32::to_be_bytes(word));
        }
        let mut sum = WalChecksum::default().over(&wal, false);
        wal.extend_from_slice(&[sum.s0.to_be_bytes(), sum.s1.to_be_bytes()].concat());
        for n in 1..=frames {
            let commit = if n % 3 == 0 { n } else { 0 };
            let head = [n.to_be_bytes(), commit.to_be_bytes()].concat();
            let page = [n as u8; PAGE];
            sum = sum.over(&head, false).over(&page, false);
            wal.extend_from_slice(&head);
            wal.extend_from_slice(&SALTS.0);
            wal.extend_from_slice(&[sum.s0.to_be_bytes(), sum.s1.to_be_bytes()].concat());
            wal.extend_from_slice(&page);
        }
        wal
    }

    /// Page numbers, commits and first bytes of the frames that are accepted, and the error that ends them.
    fn read(bytes: &[u8], last: u32) -> (Vec<(u32, u32, u8)>, Option<WalError>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut reader = match FrameReader::from_start(&file, SALTS).unwrap() {
            Ok(reader) => reader,
            Err(e) => return (Vec::new(), Some(e)),
        };
        let mut frames = Vec::new();
        loop {
            match reader.next(last).unwrap() {
                Ok(Some(frame)) => {
                    assert!(frame.page.iter().all(|b| *b == frame.page[0]), "a page that never was");
                    frames.push((frame.pgno.get(), frame.commit, frame.page[0]));
                }
                Ok(None) => return (frames, None),
                Err(e) => return (frames, Some(e)),
            }
        }
    }

    proptest! {
        #[test]
        fn of_a_damaged_wal_only_true_frames_are_accepted(
            frames in 1u32..20,
            changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
            cut in any::<Index>(),
            is_cut: bool,
        ) {
            let whole = wal(frames);
            let (expected, error) = read(&whole, frames);
            prop_assert_eq!((expected.len() as u32, error), (frames, None));
            let mut damaged = whole.clone();
            for (at, byte) in changes {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            if is_cut {
                damaged.truncate(cut.index(damaged.len()));
            }
            // The bytes of the header that tell how often the WAL was reset are covered by its checksum as well.
            let (found, error) = read(&damaged, frames);
            prop_assert_eq!(&found[..], &expected[..found.len()]);
            prop_assert_eq!(error.is_none(), found.len() == expected.len());
            prop_assert!(damaged == whole || error.is_some(), "some byte is not covered");
        }

        #[test]
        fn arbitrary_frames_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000), last: u32) {
            let damaged = [&wal(0)[..], &bytes].concat();
            prop_assert_eq!(read(&damaged, last).0, []);
        }
    }
}
