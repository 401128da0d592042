//! Put-if-absent that knows what came of it.

use bytes::Bytes;
use object_store::PutPayload;

use super::backend::Part;
use super::counts::Request;
use super::error::{Failure, FailureKind};
use super::retry::Attempts;
use super::{Key, Store, StoreError};

/// What came of a [`Store::create`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The object is there, made by this call.
    New,
    /// The object is there with exactly our bytes: an answer was lost, or an earlier call with the same payload
    /// had succeeded. As good as new.
    AlreadyOurs,
    /// The name is taken by an object with other content, which is this. Ours is not stored, and will not be.
    Taken(Bytes),
}

impl Created {
    /// Whether the object is stored with our content.
    pub fn is_ours(&self) -> bool {
        matches!(self, Created::New | Created::AlreadyOurs)
    }
}

impl Store {
    /// Creates an object, if there is none of this name.
    ///
    /// The payload must contain something that no other writer's payload can (a nonce): equal bytes are taken
    /// for our own. After an error with [`StoreError::outcome_unknown`], and after this future was dropped, the
    /// object may exist or still come to exist: call again with the very same payload to find out.
    pub async fn create(&self, key: &Key, payload: impl Into<PutPayload>) -> Result<Created, StoreError> {
        let payload = payload.into();
        let len = payload.content_length() as u64;
        let mut attempts = Attempts::new(self.patience);
        let mut next = if self.fenced { Step::Send } else { Step::Look { met: false } };
        loop {
            let failure = match next {
                Step::Send => match self.send(key, &payload, len).await {
                    Ok(()) => return Ok(Created::New),
                    Err(failure) if failure.kind == FailureKind::Exists => {
                        next = Step::Look { met: true };
                        continue;
                    }
                    Err(failure) => {
                        if failure.kind == FailureKind::Unknown {
                            next = Step::Look { met: false };
                        }
                        failure
                    }
                },
                Step::Look { met } => match self.look(key, len).await {
                    Ok(found) if is_same(&payload, &found) => return Ok(Created::AlreadyOurs),
                    Ok(found) => return Ok(Created::Taken(found)),
                    Err(failure) if matches!(failure.kind, FailureKind::NotFound | FailureKind::NoStore) => {
                        next = Step::Send;
                        if !met {
                            continue;
                        }
                        // Deleted since, or in conflict with a create in flight that then failed.
                        let reason = "the store answers that it exists, and then that it does not";
                        Failure::new(FailureKind::NotSent, reason)
                    }
                    // Not to know whose object it is, is not to know the outcome; unless nothing was sent yet.
                    Err(failure) if failure.is_transient() && (met || attempts.outcome_unknown()) => {
                        Failure { kind: FailureKind::Unknown, ..failure }
                    }
                    Err(failure) if failure.is_transient() => {
                        Failure { kind: FailureKind::NotSent, ..failure }
                    }
                    Err(failure) => failure,
                },
            };
            self.again(&mut attempts, Request::Create, key.as_str(), failure).await?;
        }
    }

    async fn look(&self, key: &Key, expected: u64) -> Result<Bytes, Failure> {
        let found = self.attempt(Request::Get, 0, expected, self.shared.backend.get(key, Part::All)).await?;
        self.shared.counters.received(found.bytes.len() as u64);
        Ok(found.bytes)
    }

    async fn send(&self, key: &Key, payload: &PutPayload, len: u64) -> Result<(), Failure> {
        let backend = &self.shared.backend;
        if self.fenced {
            self.attempt(Request::Create, len, 0, backend.create(key, payload.clone())).await
        } else {
            self.attempt(Request::Put, len, 0, backend.put(key, payload.clone())).await
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    Send,
    /// An object is there (`met`), or may be after a lost answer: reading it tells whose it is. Sending again
    /// unread would overwrite it in a store that ignores conditions.
    Look {
        met: bool,
    },
}

fn is_same(payload: &PutPayload, mut found: &[u8]) -> bool {
    for part in payload {
        match found.strip_prefix(&part[..]) {
            Some(rest) => found = rest,
            None => return false,
        }
    }
    found.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_compare_across_their_parts() {
        let payload: PutPayload =
            [Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")].into_iter().collect();
        assert!(is_same(&payload, b"abc"));
        for other in [&b"ab"[..], b"abcd", b"abd", b""] {
            assert!(!is_same(&payload, other));
        }
    }
}
