//! The bytes of many objects, in order, fetched side by side and ahead of who reads them.

use std::io::{self, Read};
use std::ops::Range;

use aquifer_log::store::{Key, ObjectInfo, Store, StoreError};
use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

/// Bytes of a request. Objects of up to this size are one.
const REQUEST: u64 = 1 << 20;
/// Requests on their way, or answered and not read yet: with [`REQUEST`] a bound on memory.
const AHEAD: usize = 48;

/// Reads objects one after the other. Blocks: not for the runtime's own threads.
pub(crate) struct Feed {
    answers: mpsc::Receiver<Result<Bytes, StoreError>>,
    /// What was answered and not read.
    rest: Bytes,
    /// Bytes of the current object that have not come yet.
    missing: u64,
    /// Why the store failed; readers see an I/O error, since decoders stand in between.
    failed: Option<StoreError>,
}

impl Feed {
    /// Of these objects, in this order, as long as they were when they were listed. Needs a runtime of tokio's.
    pub(crate) fn new(store: &Store, objects: Vec<(Key, u64)>) -> Feed {
        let (sender, answers) = mpsc::channel(1);
        let store = store.clone();
        tokio::spawn(async move {
            let requests = objects.into_iter().flat_map(|(key, len)| {
                let starts = (0..len).step_by(REQUEST as usize);
                starts.map(move |start| (key.clone(), start..len.min(start + REQUEST)))
            });
            let answers = stream::iter(requests).map(|(key, range)| fetch(store.clone(), key, range));
            let mut answers = std::pin::pin!(answers.buffered(AHEAD));
            while let Some(answer) = answers.next().await {
                let failed = answer.is_err();
                // Nobody listens any more: the rest need not be fetched.
                if sender.send(answer).await.is_err() || failed {
                    break;
                }
            }
        });
        Feed { answers, rest: Bytes::new(), missing: 0, failed: None }
    }

    /// The next object. What was not read of the one before is skipped.
    pub(crate) fn object(&mut self, object: &ObjectInfo) -> io::Result<ObjectReader<'_>> {
        self.skip()?;
        self.missing = object.len;
        Ok(ObjectReader(self))
    }

    /// Whether all of the current object was read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.missing == 0 && self.rest.is_empty()
    }

    /// Why the store failed, if it did: once.
    pub(crate) fn failure(&mut self) -> Option<StoreError> {
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
            match self.answers.blocking_recv() {
                Some(Ok(answer)) => {
                    self.missing -= answer.len() as u64;
                    self.rest = answer;
                }
                Some(Err(error)) => {
                    let message = error.to_string();
                    self.failed = Some(error);
                    return Err(io::Error::other(message));
                }
                None => return Err(io::Error::other("reading was given up")),
            }
        }
        Ok(&self.rest)
    }
}

/// A piece of an object, exactly as long as asked for.
async fn fetch(store: Store, key: Key, range: Range<u64>) -> Result<Bytes, StoreError> {
    let len = range.end - range.start;
    let bytes = store.get_range(&key, range).await?;
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    // It was replaced by a shorter one since it was listed.
    Err(StoreError::NotFound { url: store.url().to_owned(), key })
}

/// One object's bytes.
pub(crate) struct ObjectReader<'a>(&'a mut Feed);

impl Read for ObjectReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.0.fill()?;
        let n = there.len().min(buffer.len());
        buffer[..n].copy_from_slice(&there[..n]);
        self.0.rest.advance(n);
        Ok(n)
    }
}
