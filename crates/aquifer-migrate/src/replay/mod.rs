//! Decodes and proves the objects of a plan, one after the other.

mod feed;
mod frames;
mod ltx;
mod lz4_page;
mod page;
mod wal;

use std::io;

use aquifer_log::store::{Key, Store};

use crate::codec::Codec;
use crate::error::{MigrateError, Result};
use crate::image::{Sink, SinkError};
use crate::plan::{Content, Piece, Plan};
use feed::Feed;
use frames::Chain;
use ltx::LtxState;
pub(crate) use ltx::{CHECKSUM_FLAG, HEADER_LEN as LTX_HEADER_LEN, LtxHeader, NO_CHECKSUM};
use wal::WalState;

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// The position of the last commit, 0 if there is none.
    pub(crate) position: u64,
    /// Objects that were read.
    pub(crate) objects: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// Replays a plan into a sink. Blocks: not for the runtime's own threads, but needs its handle.
pub(crate) fn replay(store: &Store, plan: &Plan, sink: &mut impl Sink) -> Result<Replayed> {
    let mut replay = Replay {
        store,
        feed: Feed::new(store, &plan.pieces),
        sink,
        chain: None,
        wal: None,
        ltx: LtxState::default(),
        last_page: 0,
        replayed: Replayed::default(),
    };
    if let Some(size) = plan.page_size {
        replay.sink.set_page_size(size);
    }
    for piece in &plan.pieces {
        if let Err(problem) = replay.piece(piece) {
            return Err(replay.error(&piece.object.key, problem));
        }
        replay.replayed.objects += 1;
        replay.replayed.bytes += piece.object.len;
    }
    replay.sink.roll_back();
    if let Some(last) = plan.pieces.last()
        && let Err(problem) = replay.end(last)
    {
        return Err(replay.error(&last.object.key, problem));
    }
    Ok(replay.replayed)
}

struct Replay<'a, S> {
    store: &'a Store,
    feed: Feed,
    sink: &'a mut S,
    /// Where the frames of a generation are.
    chain: Option<Chain>,
    /// Where the pieces of a WAL file are.
    wal: Option<WalState>,
    /// Where LTX files are.
    ltx: LtxState,
    /// Of the pages that are objects.
    last_page: u32,
    replayed: Replayed,
}

impl<S: Sink> Replay<'_, S> {
    fn piece(&mut self, piece: &Piece) -> Result<(), SinkError> {
        // Some decoders take this for nothing that was compressed.
        if piece.object.len == 0 && !matches!(piece.content, Content::Database(Codec::Raw)) {
            return Err(SinkError::Content("it has no content".to_owned()));
        }
        let mut time = piece.time;
        let object = &piece.object;
        match &piece.content {
            Content::Page(page) => {
                page::replay(self.sink, &self.feed.page(object)?, *page)?;
                self.last_page = self.last_page.max(page.pgno.get());
                self.replayed.position = self.replayed.position.max(piece.position);
                return Ok(());
            }
            Content::Database(codec) => {
                self.chain = None;
                self.sink.database(&mut self.feed.decompressed(object, *codec)?)?;
                self.replayed.position = piece.position;
            }
            Content::Frames(run) => {
                let mut content = self.feed.decompressed(object, run.codec)?;
                let committed = frames::replay(self.sink, &mut self.chain, &mut content, *run)?;
                self.replayed.position = committed.unwrap_or(self.replayed.position);
            }
            Content::Wal(part) => {
                let mut content = self.feed.decompressed(object, part.codec)?;
                if wal::replay(self.sink, &mut self.wal, &mut content, *part)? {
                    self.replayed.position = piece.position;
                }
            }
            Content::Ltx(range) => {
                let mut content = io::BufReader::with_capacity(1 << 16, self.feed.object(object)?);
                time = Some(self.ltx.replay(self.sink, &mut content, *range)?);
                self.replayed.position = range.max;
            }
        }
        if !self.feed.is_at_end() {
            return Err(SinkError::Content("it goes on after its end".to_owned()));
        }
        self.sink.point(time)
    }

    /// Pages without commits: page 1 says how many there are.
    fn end(&mut self, last: &Piece) -> Result<(), SinkError> {
        if !matches!(last.content, Content::Page(_)) {
            return Ok(());
        }
        let there = self.sink.pages().max(self.last_page);
        let pages = self.sink.header_pages()?.unwrap_or(there);
        if pages > there {
            return Err(SinkError::Content(format!(
                "page 1 counts {pages} pages, and there are {there} only"
            )));
        }
        self.sink.commit(pages)?;
        self.sink.point(last.time)
    }

    fn error(&mut self, key: &Key, problem: SinkError) -> MigrateError {
        let damaged =
            |reason| MigrateError::Damaged { url: self.store.url().to_owned(), key: key.clone(), reason };
        match (self.feed.failure(), problem) {
            (Some(failed), _) => failed.into(),
            (None, SinkError::Local(error)) => *error,
            (None, SinkError::Room(source)) => {
                MigrateError::NoRoom { url: self.store.url().to_owned(), key: key.clone(), source }
            }
            (None, SinkError::Content(reason)) => damaged(reason),
            (None, SinkError::Read(error)) => damaged(match error.kind() {
                io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
                _ => format!("it cannot be decompressed: {error}"),
            }),
        }
    }
}
