//! What a generation consists of, as listings tell it: nothing is opened.

use std::collections::BTreeMap;

use aquifer_format::{GenerationId, Timestamp, Txid};
use aquifer_log::layout::ObjectKind;
use aquifer_log::{DatabaseStore, Level, SegmentKey, StoreError};
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
    /// The oldest txid that can be restored: of the first segment, or of the oldest snapshot.
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
            // What starts at txid 1 and is no snapshot leads to every txid after it; see `retain`.
            let restorable = match segment.level {
                Level::Snapshot => last,
                _ => first,
            };
            if (segment.level == Level::Snapshot || first == Txid::FIRST)
                && survey.oldest.is_none_or(|oldest| restorable < oldest)
            {
                survey.oldest = Some(restorable);
            }
        }
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
