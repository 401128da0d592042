//! The bytes of many objects, in order, fetched side by side and ahead of who reads them.

use std::io::{self, Read};
use std::iter;
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread::available_parallelism;

use aquifer_log::store::{Key, ObjectInfo, Store, StoreError};
use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::page;
use crate::codec::Codec;
use crate::image::SinkError;
use crate::plan::{Content, PageObject, Piece};

/// Bytes of a request. Objects of up to this size are one.
const REQUEST: u64 = 1 << 20;
/// Requests on their way, or answered and not read yet: with [`REQUEST`] a bound on memory.
const AHEAD: usize = 48;
/// Where objects are files, so many small ones are read at once: to hand one over takes longer than to read it.
const FILES: usize = 32;
/// A file is small up to this size, in bytes.
const SMALL: u64 = REQUEST / FILES as u64;

/// Reads objects one after the other. Blocks: not for the runtime's own threads.
pub(super) struct Feed {
    received: mpsc::Receiver<Vec<Answer>>,
    /// Of a batch that has come.
    answers: std::vec::IntoIter<Answer>,
    /// What was answered and not read.
    rest: Bytes,
    /// Bytes of the current object that have not come yet.
    missing: u64,
    /// Why the store failed; readers see an I/O error, since decoders stand in between.
    failed: Option<StoreError>,
}

type Answer = Result<Bytes, Failed>;

enum Failed {
    Store(StoreError),
    Page(SinkError),
}

/// A piece of an object, to be fetched.
struct Request {
    key: Key,
    range: Range<u64>,
    /// What it holds, where that can be decoded as soon as it is there: it needs nothing of what comes before.
    page: Option<PageObject>,
}

impl Feed {
    /// Of these pieces, in this order, as long as they were when they were listed. Needs a runtime of tokio's.
    pub(super) fn new(store: &Store, pieces: &[Piece]) -> Feed {
        let (sender, received) = mpsc::channel(1);
        let store = store.clone();
        let objects: Vec<_> = pieces.iter().map(|piece| (piece.object.clone(), page_of(piece))).collect();
        tokio::spawn(async move {
            let is_local = store.is_local();
            let threads = available_parallelism().map_or(2, usize::from);
            let ahead = if is_local { threads + 1 } else { AHEAD };
            let requests = objects.into_iter().flat_map(|(object, page)| requests(object, page));
            let batches = stream::iter(batches(requests, is_local));
            let answers = batches.map(|batch| answer(store.clone(), batch));
            let mut answers = std::pin::pin!(answers.buffered(ahead));
            while let Some(answers) = answers.next().await {
                let failed = answers.iter().any(Result::is_err);
                // Nobody listens any more: the rest need not be fetched.
                if sender.send(answers).await.is_err() || failed {
                    break;
                }
            }
        });
        Feed { received, answers: Vec::new().into_iter(), rest: Bytes::new(), missing: 0, failed: None }
    }

    /// The next object. What was not read of the one before is skipped.
    pub(super) fn object(&mut self, object: &ObjectInfo) -> Result<ObjectReader<'_>, SinkError> {
        self.skip().map_err(SinkError::Read)?;
        self.missing = object.len;
        Ok(ObjectReader(self))
    }

    /// What was compressed in the next object.
    pub(super) fn decompressed(
        &mut self,
        object: &ObjectInfo,
        codec: Codec,
    ) -> Result<Box<dyn Read + '_>, SinkError> {
        codec.reader(self.object(object)?).map_err(SinkError::Read)
    }

    /// The next object, which is a page: decoded, and proven to be what its name says.
    pub(super) fn page(&mut self, object: &ObjectInfo) -> Result<Bytes, SinkError> {
        if object.len > REQUEST {
            return Err(SinkError::Content(format!("it has {} bytes, more than a page takes", object.len)));
        }
        self.skip().map_err(SinkError::Read)?;
        match self.answer() {
            Ok(page) => Ok(page),
            Err(Failed::Page(problem)) => Err(problem),
            Err(Failed::Store(error)) => Err(SinkError::Read(self.fail(error))),
        }
    }

    /// Whether all of the current object was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.missing == 0 && self.rest.is_empty()
    }

    /// Why the store failed, if it did: once.
    pub(super) fn failure(&mut self) -> Option<StoreError> {
        self.failed.take()
    }

    fn skip(&mut self) -> io::Result<()> {
        while !self.is_at_end() {
            let len = self.fill()?.len();
            self.rest.advance(len);
        }
        Ok(())
    }

    /// What is there next, without waiting if there is something; empty at the object's end.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() && self.missing > 0 {
            match self.answer() {
                Ok(answer) => {
                    self.missing -= answer.len() as u64;
                    self.rest = answer;
                }
                Err(Failed::Store(error)) => return Err(self.fail(error)),
                Err(Failed::Page(_)) => return Err(io::Error::other("a page where none was asked for")),
            }
        }
        Ok(&self.rest)
    }

    fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.answers.next() {
                return answer;
            }
            let Some(batch) = self.received.blocking_recv() else {
                return Err(Failed::Page(SinkError::Read(io::Error::other("reading was given up"))));
            };
            self.answers = batch.into_iter();
        }
    }

    fn fail(&mut self, error: StoreError) -> io::Error {
        let message = error.to_string();
        self.failed = Some(error);
        io::Error::other(message)
    }
}

fn page_of(piece: &Piece) -> Option<PageObject> {
    match piece.content {
        Content::Page(page) if piece.object.len <= REQUEST => Some(page),
        _ => None,
    }
}

fn requests(object: ObjectInfo, page: Option<PageObject>) -> impl Iterator<Item = Request> {
    let ObjectInfo { key, len, .. } = object;
    let starts = (0..len).step_by(REQUEST as usize);
    starts.map(move |start| Request { key: key.clone(), range: start..len.min(start + REQUEST), page })
}

/// What is fetched at once.
fn batches(requests: impl Iterator<Item = Request>, are_files: bool) -> impl Iterator<Item = Vec<Request>> {
    let mut requests = requests.peekable();
    iter::from_fn(move || {
        let mut batch = vec![requests.next()?];
        while are_files && batch.len() < FILES {
            let Some(small) = requests.next_if(|request| request.len() <= SMALL) else { break };
            batch.push(small);
        }
        Some(batch)
    })
}

async fn answer(store: Store, batch: Vec<Request>) -> Vec<Answer> {
    if store.is_local() {
        return blocking(move || batch.iter().map(|request| request.read(&store)).collect()).await;
    }
    let mut answers = Vec::with_capacity(batch.len());
    for request in batch {
        let bytes = request.fetch(&store).await;
        answers.push(match request.page {
            Some(_) => blocking(move || request.decode(bytes?)).await,
            None => bytes,
        });
    }
    answers
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.unwrap_or_else(|e| resume_unwind(e.into_panic()))
}

impl Request {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// From a file. Blocks.
    fn read(&self, store: &Store) -> Answer {
        let bytes = match store.read_range(&self.key, self.range.clone()) {
            Some(bytes) => self.whole(store, bytes),
            None => Handle::current().block_on(self.fetch(store)),
        };
        self.decode(bytes?)
    }

    async fn fetch(&self, store: &Store) -> Answer {
        let bytes = store.get_range(&self.key, self.range.clone()).await.map_err(Failed::Store)?;
        self.whole(store, bytes)
    }

    /// Exactly as long as asked for.
    fn whole(&self, store: &Store, bytes: Bytes) -> Answer {
        if bytes.len() as u64 == self.len() {
            return Ok(bytes);
        }
        // It was replaced by a shorter one since it was listed.
        Err(Failed::Store(StoreError::NotFound { url: store.url().to_owned(), key: self.key.clone() }))
    }

    fn decode(&self, bytes: Bytes) -> Answer {
        match self.page {
            Some(page) => page::decode(&bytes, page).map_err(Failed::Page),
            None => Ok(bytes),
        }
    }
}

/// One object's bytes.
pub(super) struct ObjectReader<'a>(&'a mut Feed);

impl Read for ObjectReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.0.fill()?;
        let n = there.len().min(buffer.len());
        buffer[..n].copy_from_slice(&there[..n]);
        self.0.rest.advance(n);
        Ok(n)
    }
}
