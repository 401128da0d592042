//! Answers that many clients get: thousands who wait are told of the same commit at the same time, and it is read and
//! encoded once for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use aquifer_format::{Revision, Txid};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use aquifer_protocol::pull_updates::{PageEncoding, PullHeader};

/// The answers that are on their way to whoever waited for the latest revision of a database.
#[derive(Debug, Default)]
pub struct Answers(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    revision: Option<Revision>,
    /// Kept for as long as somebody is about to get them.
    answers: HashMap<(Txid, PageEncoding), Weak<Shared>>,
}

/// An answer that is made by the first who wants it.
pub(super) type Shared = OnceCell<Made>;

/// What came of it.
#[derive(Clone, Debug)]
pub(super) enum Made {
    /// All of it.
    Whole(PullHeader, Bytes),
    /// It is too large for that: everybody reads it as fast as they take it.
    TooLarge,
}

impl Answers {
    /// The answer to those who know of the changes up to `since`, in the history of `latest`, the latest revision.
    pub(super) fn to(&self, latest: Revision, since: Txid, encoding: PageEncoding) -> Arc<Shared> {
        let mut shared = self.0.lock();
        if shared.revision != Some(latest) {
            *shared = Latest { revision: Some(latest), answers: HashMap::new() };
        }
        let key = (since, encoding);
        if let Some(answer) = shared.answers.get(&key).and_then(Weak::upgrade) {
            return answer;
        }
        shared.answers.retain(|_, answer| answer.strong_count() > 0);
        let answer = Arc::new(Shared::new());
        shared.answers.insert(key, Arc::downgrade(&answer));
        answer
    }
}

#[cfg(test)]
mod tests {
    use aquifer_format::{GenerationId, Timestamp};

    use super::*;

    #[test]
    fn who_has_the_same_gets_the_same_and_nothing_is_kept_for_nobody() {
        let generation = GenerationId::new(Timestamp::from_millis(5));
        let revision = |txid| Revision { generation, txid: Txid::new(txid) };
        let answers = Answers::default();
        let to = |latest, since, encoding| answers.to(revision(latest), Txid::new(since), encoding);
        let first = to(7, 5, PageEncoding::Raw);
        assert!(Arc::ptr_eq(&first, &to(7, 5, PageEncoding::Raw)));
        assert!(!Arc::ptr_eq(&first, &to(7, 6, PageEncoding::Raw)));
        assert!(!Arc::ptr_eq(&first, &to(7, 5, PageEncoding::Zstd)));
        assert_eq!(
            answers.0.lock().answers.len(),
            2,
            "of those that are gone, the last one is noticed later"
        );
        assert!(!Arc::ptr_eq(&first, &to(8, 5, PageEncoding::Raw)));
    }
}
