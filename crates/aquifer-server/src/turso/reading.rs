//! The pages of an answer, read and encoded part by part on blocking threads.

use aquifer_format::{Pgno, Txid};
use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::stream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::pull::PullError;
use super::selector::Selector;
use super::source::PageSource;
use aquifer_protocol::pull_updates::{PageEncoding, put_page};

/// About as many bytes of pages go into one part; two parts of an answer are in memory at most.
const PART_BYTES: usize = 256 * 1024;

/// For pages that are compressed while a client waits.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// Which of the pages of a revision are wanted, whether they changed or not.
pub(super) enum Selection {
    All,
    Ids(Selector),
    /// Ascending.
    Pages(Vec<Pgno>),
}

impl Selection {
    /// The first wanted page that is `from` or later.
    fn next(&self, from: Pgno) -> Option<Pgno> {
        match self {
            Selection::All => Some(from),
            Selection::Ids(ids) => ids.next(from.get() - 1).and_then(|id| Pgno::new(id.checked_add(1)?)),
            Selection::Pages(pages) => pages.get(pages.partition_point(|page| *page < from)).copied(),
        }
    }
}

/// Where the reading of an answer's pages stands.
pub(super) struct Reading<S> {
    pub(super) source: S,
    pub(super) selection: Selection,
    /// Page 1 is part of the answer even if it is not selected.
    pub(super) with_first: bool,
    /// Only pages that changed after this.
    pub(super) since: Option<Txid>,
    pub(super) encoder: Encoder,
    /// No page before this one is wanted any more.
    pub(super) from: Pgno,
}

impl<S: PageSource> Reading<S> {
    /// Appends the next part to `out`. Gives itself back unless that was the last part. Blocks.
    pub(super) fn part(mut self, mut out: BytesMut) -> Result<(Bytes, Option<Self>), PullError> {
        let page_size = self.source.page_size().bytes();
        // One more tells whether there is another part.
        let count = PART_BYTES.div_ceil(page_size);
        let mut pages = self.next_pages(count + 1);
        let next = (pages.len() > count).then(|| pages.pop()).flatten();
        let mut page = vec![0; page_size];
        out.reserve(pages.len() * (page_size + 16));
        for pgno in &pages {
            self.source.read(*pgno, &mut page).map_err(PullError::Source)?;
            put_page(&mut out, pgno.get() - 1, self.encoder.encode(&page)?);
        }
        Ok((out.freeze(), next.map(|from| Reading { from, ..self })))
    }

    /// Up to `count` of the pages that are wanted and not sent yet.
    fn next_pages(&self, count: usize) -> Vec<Pgno> {
        let in_database = |pgno: &Pgno| pgno.get() <= self.source.pages();
        let wanted = |from| {
            let first = self.with_first && from == Pgno::ONE;
            if first { Some(Pgno::ONE) } else { self.selection.next(from) }
        };
        match self.since {
            None => std::iter::successors(wanted(self.from), |page| wanted(page.next()))
                .take_while(in_database)
                .take(count)
                .collect(),
            Some(since) => self
                .source
                .changed_since(since, self.from)
                .take_while(in_database)
                .filter(|page| wanted(*page) == Some(*page))
                .take(count)
                .collect(),
        }
    }
}

/// The parts after the first, each read while the one before it is being sent. Dropping the stream ends the reading
/// after the part that is being read.
pub(super) fn parts<S: PageSource>(
    rest: Option<Reading<S>>,
) -> impl Stream<Item = Result<Bytes, PullError>> + Send + 'static {
    stream::unfold(rest.map(spawn), |next| async {
        match next?.await.map_err(|error| PullError::Source(error.into())).flatten() {
            Ok((part, rest)) => Some((Ok(part), rest.map(spawn))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

type NextPart<S> = JoinHandle<Result<(Bytes, Option<Reading<S>>), PullError>>;

fn spawn<S: PageSource>(reading: Reading<S>) -> NextPart<S> {
    spawn_blocking(move || reading.part(BytesMut::new()))
}

/// Encodes one page after the other.
pub(super) struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    encoded: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(encoding: PageEncoding) -> Result<Encoder, PullError> {
        let zstd = match encoding {
            PageEncoding::Raw => None,
            PageEncoding::Zstd => Some(
                zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(|error| PullError::Source(error.into()))?,
            ),
        };
        Ok(Encoder { zstd, encoded: Vec::new() })
    }

    fn encode<'a>(&'a mut self, page: &'a [u8]) -> Result<&'a [u8], PullError> {
        let Some(zstd) = &mut self.zstd else { return Ok(page) };
        self.encoded.resize(zstd::zstd_safe::compress_bound(page.len()), 0);
        let len = zstd
            .compress_to_buffer(page, &mut self.encoded[..])
            .map_err(|error| PullError::Source(error.into()))?;
        Ok(&self.encoded[..len])
    }
}
