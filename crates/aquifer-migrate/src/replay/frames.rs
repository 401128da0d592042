//! Frames of a WAL: each continues the checksum of those before it.

use std::io::Read;

use aquifer_format::Pgno;
use aquifer_sqlite::wal::{FRAME_HEADER_LEN, FrameHeader, Salts, WalChecksum, WalHeader};

use crate::image::{Sink, SinkError};
use crate::plan::FrameRun;

/// The frames so far of one generation.
pub(super) struct Chain {
    checksum: WalChecksum,
    /// Of the first frame on: they never change within a generation.
    salts: Option<Salts>,
    /// `None` before the first frame, which shows it.
    big_endian: Option<bool>,
}

/// Hands the frames of an object on. The last one that commits, if any does.
pub(super) fn replay(
    sink: &mut impl Sink,
    chain: &mut Option<Chain>,
    content: &mut impl Read,
    run: FrameRun,
) -> Result<Option<u64>, SinkError> {
    let mut committed = None;
    if let Some((size, checksum)) = run.start {
        // A generation begins; what its parent left open was never committed.
        sink.roll_back();
        if !sink.set_page_size(size) {
            return Err(SinkError::Content(format!(
                "its generation has pages of {size} bytes, others have not"
            )));
        }
        *chain = Some(Chain::after(checksum));
        committed = Some(0);
    }
    let (Some(size), Some(chain)) = (sink.page_size(), chain) else {
        return Err(SinkError::Content("frames without a beginning".to_owned()));
    };
    let mut frame = vec![0; FRAME_HEADER_LEN + size.bytes()];
    for number in run.first..=run.last {
        content.read_exact(&mut frame).map_err(SinkError::Read)?;
        let (pgno, commit) = chain.next(number, &frame).map_err(|problem| match problem {
            SinkError::Content(reason) if number == run.first && run.start.is_some() => {
                SinkError::Content(format!("{reason}, which '.meta' tells"))
            }
            problem => problem,
        })?;
        if number > run.until {
            continue;
        }
        sink.page(pgno, &frame[FRAME_HEADER_LEN..])?;
        if commit > 0 {
            sink.commit(commit)?;
            committed = Some(u64::from(number));
        }
    }
    match content.read(&mut frame[..1]).map_err(SinkError::Read)? {
        0 => Ok(committed),
        _ => Err(SinkError::Content(format!("it holds more than the frames {} to {}", run.first, run.last))),
    }
}

impl Chain {
    /// Of the frames that continue this checksum; its byte order and salts are what the first one shows.
    pub(super) fn after(checksum: WalChecksum) -> Chain {
        Chain { checksum, salts: None, big_endian: None }
    }

    /// Of the frames of a WAL file.
    pub(super) fn of(header: &WalHeader) -> Chain {
        Chain { checksum: header.checksum, salts: Some(header.salts), big_endian: Some(header.big_endian) }
    }

    /// Whether a frame that was not proven says that it is one of these and commits.
    pub(super) fn has_commit(&self, frame: &[u8]) -> bool {
        let header = frame.first_chunk().map(FrameHeader::parse);
        header.is_some_and(|header| header.commit > 0 && Some(header.salts) == self.salts)
    }

    /// Proves a frame. Its page, and the size of the database if it commits.
    pub(super) fn next(&mut self, number: u32, frame: &[u8]) -> Result<(Pgno, u32), SinkError> {
        let Some((header, _)) = frame.split_first_chunk::<FRAME_HEADER_LEN>() else {
            return Err(SinkError::Content("a frame without a header".to_owned()));
        };
        let header = FrameHeader::parse(header);
        let orders: &[bool] = match self.big_endian {
            Some(true) => &[true],
            Some(false) => &[false],
            None => &[false, true],
        };
        let fits = |order: &&bool| FrameHeader::continues(self.checksum, frame, **order) == header.checksum;
        let Some(order) = orders.iter().find(fits) else {
            return Err(SinkError::Content(format!(
                "frame {number} does not continue the checksum of the frames before it"
            )));
        };
        self.big_endian = Some(*order);
        self.checksum = header.checksum;
        if *self.salts.get_or_insert(header.salts) != header.salts {
            return Err(SinkError::Content(format!("frame {number} is of another WAL than those before it")));
        }
        let Some(pgno) = header.pgno else {
            return Err(SinkError::Content(format!("frame {number} is of page 0")));
        };
        Ok((pgno, header.commit))
    }
}
