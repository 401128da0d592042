//! A WAL file, whole or in pieces.

use std::io::Read;

use aquifer_sqlite::wal::{FRAME_HEADER_LEN, HEADER_LEN, WalHeader};

use super::frames::Chain;
use crate::image::{Sink, SinkError, fill};
use crate::plan::WalPiece;

/// A WAL file so far.
pub(super) struct WalState {
    chain: Chain,
    /// Frames read.
    frames: u32,
    /// Where the next piece begins, in bytes.
    offset: u64,
}

/// Hands the frames of a piece on. Whether any of them commits.
pub(super) fn replay(
    sink: &mut impl Sink,
    state: &mut Option<WalState>,
    content: &mut impl Read,
    piece: WalPiece,
) -> Result<bool, SinkError> {
    if piece.offset == 0 {
        sink.roll_back();
        *state = match begin(sink, content)? {
            Some(begun) => Some(begun),
            // SQLite has truncated it.
            None if !piece.all => return Ok(false),
            None => return Err(SinkError::Content("it is empty".to_owned())),
        };
    }
    let (Some(state), Some(size)) = (state, sink.page_size()) else {
        return Err(SinkError::Content("a piece of a WAL without its beginning".to_owned()));
    };
    if piece.offset > 0 && state.offset != piece.offset {
        return Err(SinkError::Content(format!(
            "it begins at byte {} of its WAL, and what comes before it ends at {}",
            piece.offset, state.offset
        )));
    }
    let mut frame = vec![0; FRAME_HEADER_LEN + size.bytes()];
    let mut committed = false;
    while read_whole(content, &mut frame, piece.all)? {
        let (pgno, commit) = match state.chain.next(state.frames + 1, &frame) {
            Ok(proven) => proven,
            Err(_) if !piece.all => return tail(state, content, &mut frame).map(|()| committed),
            Err(damage) => return Err(damage),
        };
        state.frames += 1;
        state.offset += frame.len() as u64;
        sink.page(pgno, &frame[FRAME_HEADER_LEN..])?;
        if commit > 0 {
            sink.commit(commit)?;
            committed = true;
        }
    }
    Ok(committed)
}

/// What follows the last frame: of the WAL before this one, or a transaction that was being written. A commit of this WAL
/// behind a frame that does not fit is damage.
fn tail(state: &WalState, content: &mut impl Read, frame: &mut [u8]) -> Result<(), SinkError> {
    while read_whole(content, frame, false)? {
        if state.chain.has_commit(frame) {
            return Err(SinkError::Content(format!(
                "frame {} does not continue the checksum of the frames before it, and commits follow",
                state.frames + 1
            )));
        }
    }
    Ok(())
}

fn begin(sink: &mut impl Sink, content: &mut impl Read) -> Result<Option<WalState>, SinkError> {
    let mut header = [0; HEADER_LEN];
    if !read_whole(content, &mut header, true)? {
        return Ok(None);
    }
    let header =
        WalHeader::parse(&header).map_err(|damage| SinkError::Content(format!("as a WAL it {damage}")))?;
    if !sink.set_page_size(header.page_size) {
        return Err(SinkError::Content(format!(
            "it is a WAL of a database with pages of {} bytes, which this one has not",
            header.page_size
        )));
    }
    Ok(Some(WalState { chain: Chain::of(&header), frames: 0, offset: HEADER_LEN as u64 }))
}

/// Fills the buffer; false at the end. A part of it is damage if `all` says so, and the end otherwise.
fn read_whole(content: &mut impl Read, buffer: &mut [u8], all: bool) -> Result<bool, SinkError> {
    match fill(content, buffer)? {
        len if len == buffer.len() => Ok(true),
        len if len > 0 && all => {
            Err(SinkError::Content(format!("it ends within a frame, after {len} bytes")))
        }
        _ => Ok(false),
    }
}
