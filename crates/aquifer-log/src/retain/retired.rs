//! `retired.json`: what is not needed any more, and since when that is known.

use std::collections::BTreeMap;
use std::time::Duration;

use aquifer_format::{GenerationId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::generation::{decode, encode};
use crate::store::{Key, Store};

const VERSION: u32 = 1;

/// What `retired.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetiredRecord {
    version: u32,
    /// Since when nothing of the generation is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) whole: Option<Timestamp>,
    /// Keys by the time since which they are not needed.
    #[serde(default)]
    objects: BTreeMap<String, Timestamp>,
}

impl Default for RetiredRecord {
    fn default() -> RetiredRecord {
        RetiredRecord { version: VERSION, whole: None, objects: BTreeMap::new() }
    }
}

/// What follows from a record and what is unneeded now.
pub(super) struct Phases {
    /// To be deleted, in this order, with their lengths.
    pub(super) due: Vec<(Key, u64)>,
    /// What waits.
    pub(super) record: RetiredRecord,
    pub(super) newly_retired: u64,
}

impl RetiredRecord {
    /// The record, empty if there is none. One that cannot be read is taken for none: this only puts off what it
    /// spoke of.
    pub(crate) async fn read(
        db: &DatabaseStore,
        generation: GenerationId,
    ) -> Result<RetiredRecord, LogError> {
        let key = db.layout().retired_record(generation);
        let bytes = match db.store().get(&key).await {
            Ok(bytes) => bytes,
            Err(e) if e.is_not_found() => return Ok(RetiredRecord::default()),
            Err(e) => return Err(e.into()),
        };
        match RetiredRecord::parse(db.store(), &key, &bytes) {
            Err(error @ LogError::Record { .. }) => {
                tracing::warn!(%error, "starting anew");
                Ok(RetiredRecord::default())
            }
            read => read,
        }
    }

    pub(crate) fn parse(store: &Store, key: &Key, bytes: &[u8]) -> Result<RetiredRecord, LogError> {
        let record: RetiredRecord = decode(store, key, bytes)?;
        if record.version > VERSION {
            let (url, found) = (store.url().to_owned(), record.version);
            return Err(LogError::RecordVersion { url, key: key.clone(), found, supported: VERSION });
        }
        Ok(record)
    }

    /// Whether the generation is retired as a whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// The keys of what is retired of it.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().map(String::as_str)
    }

    /// This, with the generation retired as a whole.
    pub(crate) fn with_whole(&self, since: Timestamp) -> RetiredRecord {
        RetiredRecord { whole: Some(since), ..self.clone() }
    }

    /// Objects that wait.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Divides the objects that are unneeded now into those whose time has come and those that wait. What the
    /// record speaks of and is needed again, or gone, is forgotten.
    pub(super) fn advance(&self, unneeded: Vec<(Key, u64)>, grace: Duration, now: Timestamp) -> Phases {
        let mut phases = Phases { due: Vec::new(), record: RetiredRecord::default(), newly_retired: 0 };
        for (key, len) in unneeded {
            let known = self.objects.get(key.as_str()).copied();
            phases.newly_retired += u64::from(known.is_none());
            let since = known.unwrap_or(now);
            if now.since(since) >= grace && (known.is_some() || grace.is_zero()) {
                phases.due.push((key, len));
            } else {
                phases.record.objects.insert(key.as_str().to_owned(), since);
            }
        }
        phases
    }

    /// Writes it, if it is not what was there. Of two who do so at the same time one wins, and what the other
    /// retired just now is retired by its next run.
    pub(crate) async fn write(
        &self,
        db: &DatabaseStore,
        generation: GenerationId,
        old: &RetiredRecord,
    ) -> Result<(), LogError> {
        let key = db.layout().retired_record(generation);
        if self == old {
            return Ok(());
        }
        if *self == RetiredRecord::default() {
            return Ok(db.store().delete(&key).await?);
        }
        Ok(db.store().put(&key, encode(self)).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).unwrap()
    }

    #[test]
    fn only_what_has_been_unneeded_for_the_grace_time_is_due() {
        let grace = Duration::from_secs(10);
        let at = Timestamp::from_millis;
        let unneeded = |names: &[&str]| names.iter().map(|n| (key(n), 1)).collect::<Vec<_>>();
        let first = RetiredRecord::default().advance(unneeded(&["a", "b"]), grace, at(0));
        assert_eq!((first.due.len(), first.newly_retired), (0, 2));
        let second = first.record.advance(unneeded(&["a", "b", "c"]), grace, at(9_999));
        assert_eq!((second.due.len(), second.newly_retired), (0, 1));
        // "b" is needed again for a while: its time starts anew.
        let third = second.record.advance(unneeded(&["a", "c"]), grace, at(10_000));
        assert_eq!(third.due, unneeded(&["a"]));
        let fourth = third.record.advance(unneeded(&["b", "c"]), grace, at(20_000));
        assert_eq!(fourth.due, unneeded(&["c"]));
        assert_eq!(fourth.newly_retired, 1);
        // A clock that goes back only makes it wait.
        let fifth = fourth.record.advance(unneeded(&["b"]), grace, at(-50_000));
        assert!(fifth.due.is_empty());
        assert_eq!(fifth.record, fourth.record);
    }
}
