//! Objects written as a stream, in memory that does not depend on their size.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::PutPayload;
use tokio::task::JoinSet;

use super::backend::BackendUpload;
use super::counts::Request;
use super::error::{Failure, FailureKind};
use super::retry::{Attempts, Patience};
use super::{Key, Store, StoreError};

/// Bytes of a part, if the object does not ask for larger ones. S3 wants at least 5 MiB, and R2 wants all parts
/// of an object but the last to be equal.
const PART: usize = 8 << 20;
/// Parts that an object may have: S3 allows 10,000.
const MAX_PARTS: u64 = 10_000;
/// Parts on their way at a time. With the one that fills they bound the memory.
const IN_FLIGHT: usize = 2;

/// An object that is being written. It appears, whole, when [`Upload::complete`] returns, and replaces one of
/// the same name.
///
/// Dropped before, it is given up: what was sent is discarded, at once or, where a process died, by a rule that
/// the bucket's owner should have (S3: `AbortIncompleteMultipartUpload`).
#[derive(Debug)]
pub struct Upload {
    store: Store,
    key: Key,
    part_size: usize,
    filling: Vec<Bytes>,
    filling_len: usize,
    sent: u64,
    parts: usize,
    /// Once there was more than one part's worth.
    multipart: Option<Multipart>,
}

#[derive(Debug)]
struct Multipart {
    backend: Arc<dyn BackendUpload>,
    in_flight: JoinSet<Result<(), StoreError>>,
    over: bool,
}

impl Store {
    /// Starts to write an object as a stream. `expected_len` is about how long it will be at most: it decides
    /// how large the parts are (up to 80 GB any guess will do). Nothing is sent yet.
    pub fn upload(&self, key: &Key, expected_len: u64) -> Upload {
        Upload {
            store: self.clone(),
            key: key.clone(),
            part_size: part_size(expected_len),
            filling: Vec::new(),
            filling_len: 0,
            sent: 0,
            parts: 0,
            multipart: None,
        }
    }
}

/// The size of parts for an object of this length, with 10 % to spare: whole MiB.
fn part_size(expected_len: u64) -> usize {
    let least = expected_len.div_ceil(MAX_PARTS * 9 / 10).next_multiple_of(1 << 20);
    PART.max(usize::try_from(least).unwrap_or(usize::MAX))
}

impl Upload {
    /// Appends bytes. Waits while enough parts are on their way already.
    ///
    /// Not cancel-safe: an upload whose `write` was dropped must be dropped as well.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            // Only now: what fits into one part is put with one request.
            if self.filling_len == self.part_size {
                self.send_part().await?;
            }
            let piece = bytes.split_to(bytes.len().min(self.part_size - self.filling_len));
            self.filling_len += piece.len();
            self.filling.push(piece);
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.sent + self.filling_len as u64
    }

    /// Whether nothing was written so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Publishes the object; its length is returned. Dropping the future leaves the outcome unknown.
    pub async fn complete(mut self) -> Result<u64, StoreError> {
        let len = self.len();
        if self.multipart.is_none() {
            let payload: PutPayload = std::mem::take(&mut self.filling).into_iter().collect();
            self.store.put(&self.key, payload).await?;
            return Ok(len);
        }
        if self.filling_len > 0 {
            self.send_part().await?;
        }
        self.wait_until_in_flight(0).await?;
        let Some(multipart) = &mut self.multipart else { unreachable!("checked above") };
        multipart.over = true;
        let backend = Arc::clone(&multipart.backend);
        let mut attempts = Attempts::new(self.store.patience);
        loop {
            let completed = self.store.attempt(Request::Multipart, 0, 0, backend.complete()).await;
            let Err(failure) = completed else { return Ok(len) };
            // Perhaps it was done and the answer lost: then the store has forgotten the upload, and the object is
            // there. One of this length that was there before is as good: what has one name has one content.
            if failure.kind == FailureKind::Unknown && self.is_there(len).await {
                return Ok(len);
            }
            if !backend.repeats_requests() {
                attempts.exhaust();
            }
            self.store.again(&mut attempts, Request::Multipart, self.key.as_str(), failure).await?;
        }
    }

    /// Gives the object up and waits until the store has forgotten what was sent.
    pub async fn abort(mut self) -> Result<(), StoreError> {
        let Some(mut multipart) = self.multipart.take() else { return Ok(()) };
        multipart.in_flight.shutdown().await;
        multipart.over = true;
        let backend = Arc::clone(&multipart.backend);
        let attempt = || self.store.attempt(Request::Multipart, 0, 0, backend.abort());
        match self.store.retrying(Request::Multipart, self.key.as_str(), attempt).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    async fn is_there(&self, len: u64) -> bool {
        self.store.head(&self.key).await.is_ok_and(|info| info.len == len)
    }

    async fn send_part(&mut self) -> Result<(), StoreError> {
        self.wait_until_in_flight(IN_FLIGHT - 1).await?;
        if self.multipart.is_none() {
            let begin =
                || self.store.attempt(Request::Multipart, 0, 0, self.store.shared.backend.upload(&self.key));
            let backend = self.store.retrying(Request::Multipart, self.key.as_str(), begin).await?;
            self.multipart = Some(Multipart { backend, in_flight: JoinSet::new(), over: false });
        }
        let Some(multipart) = &mut self.multipart else { unreachable!("begun above") };
        let payload: PutPayload = std::mem::take(&mut self.filling).into_iter().collect();
        let (len, number) = (self.filling_len as u64, self.parts);
        (self.filling_len, self.sent, self.parts) = (0, self.sent + len, self.parts + 1);

        // Parts are begun in order: not every store numbers them.
        let backend = Arc::clone(&multipart.backend);
        let mut first = Some(Arc::clone(&backend).part(number, payload.clone()));
        let (mut store, key) = (self.store.clone(), self.key.clone());
        if !backend.repeats_requests() {
            store.patience = Patience { tries: 1, ..store.patience };
        }
        multipart.in_flight.spawn(async move {
            let attempt = || {
                let part: BoxFuture<'static, Result<(), Failure>> = match first.take() {
                    Some(part) => part,
                    None => Arc::clone(&backend).part(number, payload.clone()),
                };
                store.attempt(Request::Multipart, len, 0, part)
            };
            store.retrying(Request::Multipart, key.as_str(), attempt).await
        });
        Ok(())
    }

    async fn wait_until_in_flight(&mut self, most: usize) -> Result<(), StoreError> {
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        while multipart.in_flight.len() > most {
            match multipart.in_flight.join_next().await {
                Some(Ok(sent)) => sent?,
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => break,
            }
        }
        Ok(())
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Best effort, as there may be no runtime any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let backend = Arc::clone(&self.backend);
            runtime.spawn(async move { backend.abort().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_large_enough_for_the_object_to_fit() {
        assert_eq!(part_size(0), PART);
        assert_eq!(part_size(70_000_000_000), PART);
        for len in [80 << 30, 1 << 40, 5 << 40] {
            let size = part_size(len) as u64;
            assert!(
                size.is_multiple_of(1 << 20) && len.div_ceil(size) <= MAX_PARTS * 9 / 10,
                "{len}: {size}"
            );
        }
    }
}
