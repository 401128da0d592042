//! What a generation consists of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use aquifer_format::segment::Form;
use aquifer_format::{GenerationId, Timestamp, Txid, WriterNonce};
use futures::TryStreamExt;

use super::needed::Needed;
use crate::database::{DatabaseStore, ListedSegment, first_through_parent};
use crate::error::LogError;
use crate::layout::{Level, ObjectKind, SegmentKey};
use crate::store::{Key, ObjectInfo};

/// Groups without a segment that are as old as this belong to a writer that gave up: the segment follows its
/// groups at once, or when the store is back.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);

/// All objects of a generation whose purpose is known.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    generation: Option<GenerationId>,
    /// By level; ascending by txid.
    pub(super) segments: BTreeMap<Level, Vec<ListedSegment>>,
    companions: HashMap<SegmentKey, Vec<(WriterNonce, ObjectInfo)>>,
    now: Timestamp,
}

impl Inventory {
    pub(super) async fn read(
        db: &DatabaseStore,
        generation: GenerationId,
        now: Timestamp,
    ) -> Result<Inventory, LogError> {
        let mut inventory = Inventory { generation: Some(generation), now, ..Inventory::default() };
        for level in db.levels(generation).await? {
            let mut listing = db.objects(generation, level, Txid::ZERO);
            while let Some((kind, info)) = listing.try_next().await? {
                match kind {
                    ObjectKind::Segment(segment) => {
                        let (len, last_modified) = (info.len, info.last_modified);
                        let listed = ListedSegment { segment, len, last_modified };
                        inventory.segments.entry(level).or_default().push(listed);
                    }
                    ObjectKind::Companion { segment, writer } => {
                        inventory.companions.entry(segment).or_default().push((writer, info));
                    }
                    // Of other programs, or of versions to come.
                    _ => {}
                }
            }
        }
        Ok(inventory)
    }

    /// The last txid.
    pub(super) fn head(&self) -> Option<Txid> {
        self.all().map(|listed| listed.segment.range.last).max()
    }

    /// The segments of all levels.
    pub(super) fn all(&self) -> impl Iterator<Item = &ListedSegment> {
        self.segments.values().flatten()
    }

    /// Snapshots, ascending.
    pub(super) fn snapshots(&self) -> &[ListedSegment] {
        self.segments.get(&Level::Snapshot).map_or(&[], Vec::as_slice)
    }

    /// The levels but that of snapshots, from the one with the largest segments down to 0.
    pub(super) fn large_to_small(&self) -> impl Iterator<Item = &[ListedSegment]> + Clone {
        let levels = self.segments.iter().rev().filter(|(level, _)| **level != Level::Snapshot);
        levels.map(|(_, segments)| segments.as_slice())
    }

    pub(super) fn len(&self) -> u64 {
        self.all().count() as u64 + self.companions.values().map(Vec::len).sum::<usize>() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        let companions = self.companions.values().flatten().map(|(_, info)| info.len);
        self.all().map(|listed| listed.len).chain(companions).sum()
    }

    /// Whether something of it is restored through what the generation continues, once these objects are gone.
    pub(super) fn needs_parent_without(&self, db: &DatabaseStore, gone: &HashSet<Key>) -> bool {
        let Some(generation) = self.generation else { return false };
        let left = self.all().map(|listed| listed.segment);
        let left = left.filter(|segment| !gone.contains(&db.layout().segment(generation, *segment)));
        first_through_parent(&left.collect::<Vec<_>>()).is_some()
    }

    /// The objects that are not needed, with their lengths: segments first, so that none is there without its
    /// groups.
    pub(super) async fn all_but(
        &self,
        db: &DatabaseStore,
        needed: &Needed,
    ) -> Result<Vec<(Key, u64)>, LogError> {
        let Some(generation) = self.generation else { return Ok(Vec::new()) };
        let unneeded = self.all().filter(|listed| !needed.segments.contains(&listed.segment));
        let mut objects: Vec<_> =
            unneeded.map(|s| (db.layout().segment(generation, s.segment), s.len)).collect();
        let present: HashSet<SegmentKey> = self.all().map(|s| s.segment).collect();
        for (segment, companions) in &self.companions {
            let used = if needed.segments.contains(segment) {
                let handle = db.open_segment(generation, *segment).await?;
                (handle.info().trailer().form == Form::External).then_some(handle.info().meta().writer)
            } else {
                None
            };
            for (writer, info) in companions {
                // The segment may be on its way, even if another one of that name is there already: its writer
                // deletes the groups itself when it hears so.
                let abandoned = self.now.since(info.last_modified) >= ABANDONED_AFTER;
                let goes_with_segment = present.contains(segment) && !needed.segments.contains(segment);
                if Some(*writer) != used && (abandoned || goes_with_segment) {
                    objects.push((info.key.clone(), info.len));
                }
            }
        }
        Ok(objects)
    }
}
