//! A database's log in a store: its generations, its segments, and how a writer extends it.

use aquifer_format::segment::{OpenError, SegmentInfo, SegmentMeta};
use aquifer_format::{GenerationId, Timestamp, Txid};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use object_store::PutPayload;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::LogError;
use crate::generation::GenerationRecord;
use crate::layout::{Layout, Level, ObjectKind, SegmentKey};
use crate::name::DatabaseName;
use crate::segment_io::SegmentHandle;
use crate::store::{Created, Key, Listing, ObjectInfo, Patience, Prefix, Store, StoreError};

/// What is read of a staged segment before it is written on.
const READ_AT_ONCE: usize = 256 * 1024;

/// One database's part of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DatabaseStore {
    store: Store,
    name: DatabaseName,
    layout: Layout,
}

/// A generation that has a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its id.
    pub id: GenerationId,
    /// Its record.
    pub record: GenerationRecord,
}

/// A segment, as a listing tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedSegment {
    /// Its name.
    pub segment: SegmentKey,
    /// Bytes of its object, without those of a companion.
    pub len: u64,
    /// When it was written, by the store's clock.
    pub last_modified: Timestamp,
}

/// What came of shipping a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shipped {
    /// The txid is durable in the store with our content.
    Committed,
    /// The txid is taken by another writer's segment, which says this. Ours is not stored and never will be:
    /// stop, and acknowledge nothing more.
    Fenced(Box<SegmentMeta>),
}

impl Shipped {
    /// Whether the batch is durable.
    pub fn is_committed(&self) -> bool {
        matches!(self, Shipped::Committed)
    }
}

impl DatabaseStore {
    /// The database of this name. No I/O; it need not exist.
    pub fn new(store: Store, name: DatabaseName) -> DatabaseStore {
        let layout = Layout::new(&name);
        DatabaseStore { store, name, layout }
    }

    /// The same database, with requests that keep trying for as long as told.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> DatabaseStore {
        DatabaseStore { store: self.store.with_patience(patience), ..self.clone() }
    }

    /// The names of all databases in a store, ascending by key. Directories that are none are skipped.
    pub fn list(store: &Store) -> Listing<DatabaseName> {
        let dirs = store.list_dirs(&Prefix::ROOT);
        dirs.try_filter_map(|dir| async move { Ok(DatabaseName::from_component(&dir)) }).boxed()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The database's name.
    pub fn name(&self) -> &DatabaseName {
        &self.name
    }

    /// The names of its objects.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The ids of its generations, newest first; also of such whose removal was interrupted, which have no
    /// record any more.
    pub fn generation_ids(&self) -> Listing<GenerationId> {
        let dirs = self.store.list_dirs(self.layout.database());
        dirs.try_filter_map(|dir| async move { Ok(dir.parse().ok()) }).boxed()
    }

    /// The newest generation. One LIST of one key and one GET, unless a removal was interrupted.
    pub async fn latest_generation(&self) -> Result<Option<Generation>, LogError> {
        let first = self.store.first_dir(self.layout.database()).await?;
        let Some(first) = first else { return Ok(None) };
        if let Ok(id) = first.parse()
            && let Some(record) = self.generation_record(id).await?
        {
            return Ok(Some(Generation { id, record }));
        }
        let mut ids = self.generation_ids();
        while let Some(id) = ids.try_next().await? {
            if let Some(record) = self.generation_record(id).await? {
                return Ok(Some(Generation { id, record }));
            }
        }
        Ok(None)
    }

    /// A generation's record, or `None` if there is no such generation.
    pub async fn generation_record(&self, id: GenerationId) -> Result<Option<GenerationRecord>, LogError> {
        let key = self.layout.generation_record(id);
        match self.store.get(&key).await {
            Ok(bytes) => GenerationRecord::decode(&self.store, &key, &bytes).map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a generation has a record, readable or not.
    pub(crate) async fn generation_record_exists(&self, id: GenerationId) -> Result<bool, LogError> {
        match self.store.head(&self.layout.generation_record(id)).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Begins a generation that sorts before all that are there, even if the clock was set back since.
    ///
    /// Not cancel-safe in so far as a generation without segments may be left.
    pub async fn create_generation(&self, record: GenerationRecord) -> Result<Generation, LogError> {
        let id = self.next_generation_id(record.created_at).await?;
        let key = self.layout.generation_record(id);
        match self.store.create(&key, record.encode()).await? {
            created if created.is_ours() => Ok(Generation { id, record }),
            _ => Err(self.taken(key)),
        }
    }

    /// An id for a generation that begins at this time, or later if there is one that begins then.
    pub(crate) async fn next_generation_id(&self, created_at: Timestamp) -> Result<GenerationId, LogError> {
        let newest = match self.generation_ids().try_next().await {
            Ok(newest) => newest,
            Err(StoreError::NoStore { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        let at_least = newest.map_or(0, |id| id.created_at().as_millis() + 1);
        Ok(GenerationId::new(Timestamp::from_millis(created_at.as_millis().max(at_least))))
    }

    /// The first txid of a generation that is restored through what the generation continues; `None` if it has none,
    /// or all that is kept is restored without that.
    pub async fn first_through_parent(&self, generation: GenerationId) -> Result<Option<Txid>, LogError> {
        let mut firsts = Vec::new();
        for level in self.levels(generation).await? {
            // Of those that begin at the same txid, the shortest is listed first.
            let first = self.segments(generation, level, Txid::ZERO).try_next().await?;
            firsts.extend(first.map(|listed| listed.segment));
        }
        Ok(first_through_parent(&firsts))
    }

    /// The levels of a generation that have objects, ascending.
    pub async fn levels(&self, generation: GenerationId) -> Result<Vec<Level>, LogError> {
        let dirs: Vec<String> =
            self.store.list_dirs(&self.layout.generation(generation)).try_collect().await?;
        let mut levels: Vec<Level> = dirs.iter().filter_map(|dir| dir.parse().ok()).collect();
        levels.sort_unstable();
        Ok(levels)
    }

    /// The segments of a level whose first txid is greater than `after` (of a snapshot: its last), ascending.
    pub fn segments(&self, generation: GenerationId, level: Level, after: Txid) -> Listing<ListedSegment> {
        let listing = self.objects(generation, level, after);
        let segments = listing.try_filter_map(|(kind, info)| async move {
            Ok(match kind {
                ObjectKind::Segment(segment) => {
                    Some(ListedSegment { segment, len: info.len, last_modified: info.last_modified })
                }
                _ => None,
            })
        });
        segments.boxed()
    }

    /// All objects of a level from where [`DatabaseStore::segments`] starts, companions and unknown ones too.
    pub fn objects(
        &self,
        generation: GenerationId,
        level: Level,
        after: Txid,
    ) -> Listing<(ObjectKind, ObjectInfo)> {
        let start = self.layout.after(generation, level, after);
        let layout = self.layout.clone();
        let objects = self.store.list(&self.layout.level(generation, level), Some(&start));
        objects.map_ok(move |info| (layout.kind(generation, &info.key), info)).boxed()
    }

    /// Opens a segment: one read of its end, two if its index is long.
    pub async fn open_segment(
        &self,
        generation: GenerationId,
        segment: SegmentKey,
    ) -> Result<SegmentHandle, LogError> {
        SegmentHandle::open(&self.store, &self.layout, generation, segment).await
    }

    /// Extends a generation by one txid: the commit of the log.
    ///
    /// `object` is the whole segment in its in-object form, and `info` what its encoder said of it. After an
    /// error whose outcome is unknown, and after this future was dropped, the txid may be taken by this very
    /// segment: call again with the same bytes, never with others, until it says `Committed` or `Fenced`.
    pub async fn put_level0(
        &self,
        generation: GenerationId,
        info: &SegmentInfo,
        object: impl Into<PutPayload>,
    ) -> Result<Shipped, LogError> {
        let segment = SegmentKey { level: Level::Shipped, range: info.meta().range };
        let key = self.layout.segment(generation, segment);
        let store = self.store.with_patience(Patience::COMMIT);
        self.shipped(&key, info, store.create(&key, object).await?)
    }

    /// As [`DatabaseStore::put_level0`], for a segment too large to be held in memory: reads its in-object form
    /// from the start of `object`, in memory that does not depend on its size.
    ///
    /// Large objects cannot be put if absent in one go, so its groups become an object of their own, and a small
    /// one that refers to them is put if absent. The rules are the same: after an error call again with the same
    /// bytes. A companion that was not referred to in the end is left for retention to sweep.
    pub async fn put_level0_large(
        &self,
        generation: GenerationId,
        info: &SegmentInfo,
        object: impl AsyncRead + Unpin,
    ) -> Result<Shipped, LogError> {
        let segment = SegmentKey { level: Level::Shipped, range: info.meta().range };
        let companion = self.layout.companion(generation, segment, info.meta().writer);
        let groups_len = info.trailer().groups_end;
        let mut upload = self.store.upload(&companion, groups_len);
        let mut groups = object.take(groups_len);
        loop {
            let mut piece = BytesMut::with_capacity(READ_AT_ONCE);
            let staged = |source| LogError::Staged { key: companion.clone(), source };
            if groups.read_buf(&mut piece).await.map_err(staged)? == 0 {
                break;
            }
            upload.write(piece.freeze()).await?;
        }
        if upload.len() != groups_len {
            let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file is too short");
            return Err(LogError::Staged { key: companion, source });
        }
        upload.complete().await?;
        let (_, external) = info.to_external();
        self.put_level0(generation, info, external).await
    }

    fn shipped(&self, key: &Key, info: &SegmentInfo, created: Created) -> Result<Shipped, LogError> {
        let Created::Taken(found) = created else { return Ok(Shipped::Committed) };
        let theirs = self.parse_whole(key, &found)?;
        Ok(if is_same_batch(info.meta(), theirs.meta()) {
            Shipped::Committed
        } else {
            Shipped::Fenced(Box::new(theirs.meta().clone()))
        })
    }

    fn parse_whole(&self, key: &Key, object: &Bytes) -> Result<SegmentInfo, LogError> {
        SegmentInfo::open(object, object.len() as u64).map_err(|error| match error {
            OpenError::Format(source) => {
                LogError::Segment { url: self.store.url().to_owned(), key: key.clone(), source }
            }
            OpenError::NeedMore { .. } => unreachable!("the whole object was given"),
        })
    }

    pub(crate) fn taken(&self, key: Key) -> LogError {
        LogError::Taken { url: self.store.url().to_owned(), key }
    }
}

/// The first txid that segments of a generation lead to from its beginning, and no snapshot among them does.
pub(crate) fn first_through_parent(segments: &[SegmentKey]) -> Option<Txid> {
    let of = |is_snapshot: bool| {
        let like =
            |s: &&SegmentKey| (s.level == Level::Snapshot) == is_snapshot && s.range.first == Txid::FIRST;
        segments.iter().filter(like).map(|s| s.range.last).min()
    };
    let (from_the_start, snapshot) = (of(false)?, of(true));
    snapshot.is_none_or(|snapshot| from_the_start < snapshot).then_some(from_the_start)
}

/// Whether two segments are one writer's encodings of one batch: it may have sent one inside its object and,
/// after a lost answer, the other with a companion.
fn is_same_batch(ours: &SegmentMeta, theirs: &SegmentMeta) -> bool {
    ours == theirs
}
