//! What a generation consists of, as listings tell it: nothing is opened.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_format::{GenerationId, Timestamp, Txid, TxidRange};
use aquifer_log::layout::ObjectKind;
use aquifer_log::{DatabaseStore, SegmentKey, StoreError};
use futures::TryStreamExt;
use serde::Serialize;

/// Segments of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct LevelSurvey {
    /// Segments.
    pub(crate) segments: u64,
    /// Bytes of their objects.
    pub(crate) bytes: u64,
    /// First txid of any of them.
    pub(crate) first: Txid,
    /// Last txid of any of them, inclusive.
    pub(crate) last: Txid,
}

/// A generation's objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Survey {
    /// From here on every txid can be restored: older ones retention may have left, but not all of them. `None` if not
    /// even the newest can be.
    pub(crate) oldest: Option<Txid>,
    /// The newest txid.
    pub(crate) newest: Option<Txid>,
    /// A segment that ends with the newest txid.
    #[serde(skip)]
    pub(crate) head: Option<SegmentKey>,
    /// When the store took the newest object of a segment, by the store's clock.
    pub(crate) last_write: Option<Timestamp>,
    /// All objects.
    pub(crate) objects: u64,
    /// Bytes of all objects.
    pub(crate) bytes: u64,
    /// Objects that this program does not know.
    pub(crate) unknown_objects: u64,
    /// By level: as shipped, compacted, snapshots.
    pub(crate) levels: BTreeMap<String, LevelSurvey>,
}

impl Survey {
    /// Lists a generation's objects.
    pub(crate) async fn of(database: &DatabaseStore, generation: GenerationId) -> Result<Survey, StoreError> {
        let layout = database.layout();
        let mut survey = Survey {
            oldest: None,
            newest: None,
            head: None,
            last_write: None,
            objects: 0,
            bytes: 0,
            unknown_objects: 0,
            levels: BTreeMap::new(),
        };
        let mut segments = Vec::new();
        let mut objects = database.store().list(&layout.generation(generation), None);
        while let Some(object) = objects.try_next().await? {
            survey.objects += 1;
            survey.bytes += object.len;
            let (segment, is_segment) = match layout.kind(generation, &object.key) {
                ObjectKind::Segment(segment) => (segment, true),
                ObjectKind::Companion { segment, .. } => (segment, false),
                ObjectKind::GenerationRecord | ObjectKind::RetiredRecord => continue,
                ObjectKind::Unknown => {
                    survey.unknown_objects += 1;
                    continue;
                }
            };
            let (first, last) = (segment.range.first, segment.range.last);
            let level = survey.levels.entry(segment.level.to_string()).or_insert(LevelSurvey {
                segments: 0,
                bytes: 0,
                first,
                last,
            });
            level.bytes += object.len;
            if !is_segment {
                continue;
            }
            level.segments += 1;
            level.first = level.first.min(first);
            level.last = level.last.max(last);
            if survey.newest.is_none_or(|newest| last > newest) {
                survey.newest = Some(last);
                survey.head = Some(segment);
            }
            survey.last_write = survey.last_write.max(Some(object.last_modified));
            segments.push(segment.range);
        }
        survey.oldest = survey.newest.and_then(|newest| all_restorable_from(segments, newest));
        // A companion whose segment was never published.
        survey.levels.retain(|_, level| level.segments > 0);
        Ok(survey)
    }

    /// The restorable txids as text: `1-42`, or `-` where there is none.
    pub(crate) fn range(&self) -> String {
        match (self.oldest, self.newest) {
            (Some(oldest), Some(newest)) if oldest == newest => oldest.to_string(),
            (Some(oldest), Some(newest)) => format!("{oldest}-{newest}"),
            _ => "-".to_owned(),
        }
    }
}

/// The txid from which on to `newest` every one can be restored; `None` if `newest` itself cannot be.
fn all_restorable_from(mut segments: Vec<TxidRange>, newest: Txid) -> Option<Txid> {
    segments.sort_unstable_by_key(|range| range.last);
    // Before the first txid there is the empty database. Snapshots begin at the first txid, whatever it is that they end with.
    let mut restorable = BTreeSet::from([Txid::ZERO]);
    for range in segments {
        if restorable.contains(&range.first.previous()) {
            restorable.insert(range.last);
        }
    }
    let mut oldest = None;
    let mut txid = newest;
    while txid > Txid::ZERO && restorable.contains(&txid) {
        oldest = Some(txid);
        txid = txid.previous();
    }
    oldest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_begins_where_nothing_after_it_is_missing() {
        let oldest = |segments: &[(u64, u64)]| {
            let range =
                |(first, last): &(u64, u64)| TxidRange { first: Txid::new(*first), last: Txid::new(*last) };
            let segments: Vec<_> = segments.iter().map(range).collect();
            let newest = segments.iter().map(|range| range.last).max()?;
            all_restorable_from(segments, newest).map(Txid::get)
        };
        assert_eq!(oldest(&[(1, 1), (2, 2), (3, 3)]), Some(1));
        // Retention took 2 to 4, of which only their compaction is left.
        assert_eq!(oldest(&[(1, 1), (2, 5), (6, 6), (7, 7)]), Some(5));
        // Snapshots.
        assert_eq!(oldest(&[(1, 4), (5, 5), (6, 6)]), Some(4));
        assert_eq!(oldest(&[(1, 2), (5, 5), (1, 5), (6, 6)]), Some(5));
        assert_eq!(oldest(&[(1, 1), (3, 3)]), None);
        assert_eq!(oldest(&[]), None);
    }
}
