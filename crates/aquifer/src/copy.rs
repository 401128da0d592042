//! Copying a generation from one store to another, object by object.
//!
//! Its record goes last, so a copy that was interrupted is no generation yet; repeated, it goes on with what is
//! missing. A finished copy is brought up to date the same way.

use std::collections::{HashMap, HashSet};

use aquifer_format::GenerationId;
use aquifer_format::segment::{OpenError, SegmentInfo};
use aquifer_log::layout::ObjectKind;
use aquifer_log::store::{Created, Key, ObjectInfo};
use aquifer_log::{
    DatabaseStore, Generation, Level, LogError, Plan, SegmentKey, StoreError, Target, snapshot_of,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::CliError;
use crate::progress::Progress;

/// Objects on their way at a time.
const AT_ONCE: usize = 8;
/// What is read of a companion before it is written on; all other objects are small enough for memory.
const PIECE: u64 = 8 << 20;
/// Listings of a source whose compaction and retention go on meanwhile.
const ROUNDS: usize = 4;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Objects written.
    pub(crate) objects: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Objects that were there already.
    pub(crate) present: u64,
}

/// The generation and those of the database that it builds on, oldest first: what a copy of it needs.
pub(crate) async fn ancestry(from: &DatabaseStore, newest: Generation) -> Result<Vec<Generation>, CliError> {
    let mut line = vec![newest];
    while let Some(child) = line.last()
        && let Some(parent) = child.record.parent.clone().filter(|parent| parent.elsewhere(from).is_none())
        && from.first_through_parent(child.id).await?.is_some()
    {
        let id = parent.revision.generation;
        let record = from.generation_record(id).await?.ok_or_else(|| CliError::NoGeneration {
            store: from.store().url().to_owned(),
            name: from.name().clone(),
            generation: id,
        })?;
        line.push(Generation { id, record });
    }
    line.reverse();
    Ok(line)
}

/// Copies a generation, its record last. One that was forked from another database gets a snapshot of its beginning in
/// the copy, which so needs nothing of the other one.
///
/// May be dropped at any time: what is there then is no generation, or the one that was there before.
pub(crate) async fn copy_generation(
    from: &DatabaseStore,
    to: &DatabaseStore,
    generation: &Generation,
    progress: &Progress,
) -> Result<Copied, CliError> {
    let copy = Copy { from, to, generation: generation.id };
    let mut copied = Copied::default();
    copy.all(progress, &mut copied).await?;
    let mut record = generation.record.clone();
    if record.parent.as_ref().is_some_and(|parent| parent.elsewhere(from).is_some()) {
        record = record.by_itself();
        if let Some(first) = from.first_through_parent(generation.id).await? {
            let plan = Plan::make(from, Some(generation.id), Target::Txid(first)).await?;
            copied.objects += u64::from(snapshot_of(to, &plan).await?.written.is_some());
        }
    }
    let key = to.layout().generation_record(generation.id);
    if let Created::Taken(_) = to.store().create(&key, record.encode()).await? {
        return Err(LogError::Taken { url: to.store().url().to_owned(), key }.into());
    }
    // Without a record it looked like the remains of a removal, which retention clears away: once more, for what it
    // may have taken, and for what was shipped meanwhile.
    copied.present = 0;
    let before = copied.objects;
    copy.all(progress, &mut copied).await?;
    copied.present = copied.present.saturating_sub(before);
    Ok(copied)
}

struct Copy<'a> {
    from: &'a DatabaseStore,
    to: &'a DatabaseStore,
    generation: GenerationId,
}

impl Copy<'_> {
    /// Copies until all that a listing shows is there.
    async fn all(&self, progress: &Progress, copied: &mut Copied) -> Result<(), CliError> {
        for _ in 1..ROUNDS {
            match self.round(progress, copied).await {
                // An object vanished: compaction put its content elsewhere before retention deleted it.
                Err(CliError::Store(StoreError::NotFound { .. })) => {}
                done => return done,
            }
        }
        self.round(progress, copied).await
    }

    /// Copies what is there now and not in the destination.
    async fn round(&self, progress: &Progress, copied: &mut Copied) -> Result<(), CliError> {
        let listed = self.from.store().list(&self.from.layout().generation(self.generation), None);
        let listed: Vec<ObjectInfo> = listed.try_collect().await?;
        let present = self.present().await?;
        let total = listed.iter().map(|object| object.len).sum();
        let segments: HashSet<SegmentKey> = listed
            .iter()
            .filter_map(|object| match self.kind(&object.key) {
                ObjectKind::Segment(segment) => Some(segment),
                _ => None,
            })
            .collect();
        // A segment is published by the object that refers to its companion: companions first.
        let (mut companions, mut publishing) = (Vec::new(), Vec::new());
        for object in listed {
            match self.kind(&object.key) {
                // One whose segment is not there yet is an upload in progress, or what is left of one.
                ObjectKind::Companion { segment, .. } if segments.contains(&segment) => {
                    companions.push((object, segment));
                }
                ObjectKind::Segment(segment) => publishing.push((object, segment)),
                _ => {}
            }
        }
        // In the order of the history: what a reader of a copy that is brought up to date sees, has no holes
        // but those of the few objects on their way.
        publishing.sort_by_key(|(_, segment)| segment.range.last);
        let mut done = 0;
        for objects in [companions, publishing] {
            let work = stream::iter(objects).map(|(object, segment)| {
                let there = present.get(&object.key).copied();
                async move {
                    let is_there = there == Some(object.len);
                    if !is_there {
                        self.copy_object(&object, segment).await?;
                    }
                    Ok::<_, CliError>((object.len, is_there))
                }
            });
            let mut work = std::pin::pin!(work.buffer_unordered(AT_ONCE));
            while let Some((len, is_there)) = work.try_next().await? {
                if is_there {
                    copied.present += 1;
                } else {
                    copied.objects += 1;
                    copied.bytes += len;
                }
                done += len;
                progress.set(done, total);
            }
        }
        Ok(())
    }

    fn kind(&self, key: &Key) -> ObjectKind {
        self.from.layout().kind(self.generation, key)
    }

    /// The lengths of the objects that the destination has, by their keys in the source.
    async fn present(&self) -> Result<HashMap<Key, u64>, CliError> {
        let prefix = self.to.layout().generation(self.generation);
        let mut present = HashMap::new();
        let mut listing = self.to.store().list(&prefix, None);
        loop {
            match listing.try_next().await {
                Ok(Some(object)) => {
                    if let Some(key) = rebase(&object.key, self.to, self.from, self.generation) {
                        present.insert(key, object.len);
                    }
                }
                Ok(None) => return Ok(present),
                // The first write makes the directory.
                Err(StoreError::NoStore { .. }) => return Ok(HashMap::new()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    async fn copy_object(&self, object: &ObjectInfo, segment: SegmentKey) -> Result<(), CliError> {
        let Some(key) = rebase(&object.key, self.from, self.to, self.generation) else {
            unreachable!("'{}' was listed under the generation", object.key)
        };
        let (from, to) = (self.from.store(), self.to.store());
        if let ObjectKind::Companion { .. } = self.kind(&object.key) {
            let mut upload = to.upload(&key, object.len);
            let mut at = 0;
            while at < object.len {
                let piece = from.get_range(&object.key, at..object.len.min(at + PIECE)).await?;
                at += piece.len() as u64;
                upload.write(piece).await?;
            }
            upload.complete().await?;
            return Ok(());
        }
        let content = from.get(&object.key).await?;
        self.check(&object.key, &content)?;
        match to.create(&key, content).await? {
            // Two compactors encode the same range differently: either serves. A shipped txid is one batch.
            Created::Taken(_) if segment.level == Level::Shipped => {
                Err(LogError::Taken { url: to.url().to_owned(), key }.into())
            }
            _ => Ok(()),
        }
    }

    /// Does not copy what is damaged: its trailer and index at least must be right.
    fn check(&self, key: &Key, content: &Bytes) -> Result<(), CliError> {
        match SegmentInfo::open(content, content.len() as u64) {
            Err(OpenError::Format(source)) => {
                let url = self.from.store().url().to_owned();
                Err(LogError::Segment { url, key: key.clone(), source }.into())
            }
            _ => Ok(()),
        }
    }
}

/// The key that an object of one database has in another.
fn rebase(key: &Key, from: &DatabaseStore, to: &DatabaseStore, generation: GenerationId) -> Option<Key> {
    let rest = from.layout().generation(generation).strip(key)?.to_owned();
    Key::parse(format!("{}{rest}", to.layout().generation(generation))).ok()
}
