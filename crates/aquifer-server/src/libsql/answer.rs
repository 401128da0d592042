//! The frames of an answer, read and sent part by part.

use std::collections::BTreeSet;

use aquifer_format::{PageSize, Pgno};
use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use tokio::task::spawn_blocking;

use super::frames::{self, FRAME, PAGE};
use crate::hosted::PinnedPages;
use crate::turso::source::{PageSource, SourceError};

/// Bytes read and sent at a time.
pub(super) const PART: usize = 256 * 1024;

/// Frames that a reader takes over together: first the pages that it lacks, then others, up to the last number.
#[derive(Debug)]
pub struct Answer {
    source: PinnedPages,
    /// The pages that the reader lacks.
    lacking: BTreeSet<Pgno>,
    /// How many frames are to be sent.
    frames: u32,
    sent: u32,
    /// The first page that was not looked at yet for filling.
    from: Pgno,
}

impl Answer {
    /// So many frames, no fewer than pages that the reader lacks.
    pub(super) fn new(source: PinnedPages, lacking: BTreeSet<Pgno>, frames: u32) -> Answer {
        Answer { source, lacking, frames, sent: 0, from: Pgno::ONE }
    }

    /// Bytes of all frames.
    pub fn len(&self) -> u64 {
        u64::from(self.frames) * FRAME as u64
    }

    /// Never: where there is no frame, there is no answer.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// The frames, in parts. Dropping the stream lets go of what they are read from.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, SourceError>> + Send + 'static {
        let order: Vec<Pgno> = self.lacking.iter().copied().collect();
        stream::unfold(Some((self, order)), |rest| async {
            let (answer, order) = rest.filter(|(answer, _)| answer.sent < answer.frames)?;
            let read =
                spawn_blocking(move || answer.part(&order).map(|(part, answer)| (part, (answer, order))));
            match read.await.map_err(SourceError::from).flatten() {
                Ok((part, rest)) => Some((Ok(part), Some(rest))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    fn part(mut self, order: &[Pgno]) -> Result<(Bytes, Answer), SourceError> {
        let pages = self.source.pages();
        let round = pages - u32::from(pages >= PageSize::DEFAULT.lock_page().get());
        let mut out = BytesMut::with_capacity(PART);
        let mut page = vec![0; PAGE];
        while self.sent < self.frames && out.len() + FRAME <= PART {
            // No page comes twice before a mark.
            let in_round = self.sent % round;
            if in_round == 0 {
                self.from = Pgno::ONE;
            }
            let pgno = match order.get(in_round as usize) {
                // Cut off since: its number is filled as others are.
                Some(pgno) if pgno.get() <= pages => *pgno,
                _ => self.next_filling(),
            };
            self.sent += 1;
            let is_mark = self.sent == self.frames || self.sent.is_multiple_of(round);
            self.source.read(pgno, &mut page)?;
            frames::put(&mut out, pgno, if is_mark { pages } else { 0 }, &page);
        }
        Ok((out.freeze(), self))
    }

    fn next_filling(&mut self) -> Pgno {
        while self.lacking.contains(&self.from) || self.from == PageSize::DEFAULT.lock_page() {
            self.from = self.from.next();
        }
        let filling = self.from;
        self.from = filling.next();
        filling
    }
}
