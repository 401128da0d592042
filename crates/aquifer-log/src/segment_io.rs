//! Reading segments from a store: the end of an object first, then only the groups that are wanted.

use std::ops::Range;
use std::sync::Arc;

use aquifer_format::segment::{
    Damage, Form, FormatError, Group, GroupRef, GroupScratch, HEADER_LEN, OpenError, Part, SegmentInfo,
};
use aquifer_format::{GenerationId, PageHash, Pgno};
use bytes::Bytes;

use crate::error::LogError;
use crate::layout::{Layout, SegmentKey};
use crate::store::{Key, Store};

/// An opened segment: its trailer and index are known and verified. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SegmentHandle {
    store: Store,
    segment: SegmentKey,
    key: Key,
    info: Arc<SegmentInfo>,
    /// The object that holds the groups: `key`, or its companion.
    groups_key: Key,
    /// The whole object, where reading its end read all of it.
    whole: Option<Bytes>,
}

impl SegmentHandle {
    pub(crate) async fn open(
        store: &Store,
        layout: &Layout,
        generation: GenerationId,
        segment: SegmentKey,
    ) -> Result<SegmentHandle, LogError> {
        let key = layout.segment(generation, segment);
        let damaged = |source| LogError::Segment { url: store.url().to_owned(), key: key.clone(), source };
        let (mut suffix, len) = store.get_suffix(&key, SegmentInfo::SUFFIX_LEN).await?;
        let info = loop {
            match SegmentInfo::open(&suffix, len) {
                Ok(info) => break info,
                Err(OpenError::Format(source)) => return Err(damaged(source)),
                Err(OpenError::NeedMore { suffix_len }) if suffix_len > suffix.len() as u64 => {
                    let longer = store.get_suffix(&key, suffix_len).await?.0;
                    if longer.len() <= suffix.len() {
                        let damage = Damage::Truncated { expected: suffix_len, found: longer.len() as u64 };
                        return Err(damaged(FormatError::Damaged { part: Part::Object, damage }));
                    }
                    suffix = longer;
                }
                Err(OpenError::NeedMore { suffix_len }) => {
                    let damage = Damage::Truncated { expected: suffix_len, found: suffix.len() as u64 };
                    return Err(damaged(FormatError::Damaged { part: Part::Object, damage }));
                }
            }
        };
        if info.meta().range != segment.range {
            let found = info.meta().range;
            return Err(LogError::Misplaced { url: store.url().to_owned(), key, found });
        }
        let groups_key = match info.trailer().form {
            Form::InObject => key.clone(),
            Form::External => layout.companion(generation, segment, info.meta().writer),
        };
        let whole = (suffix.len() as u64 == len && groups_key == key).then_some(suffix);
        Ok(SegmentHandle { store: store.clone(), segment, key, info: Arc::new(info), groups_key, whole })
    }

    /// Its name inside the generation.
    pub fn segment(&self) -> SegmentKey {
        self.segment
    }

    /// Its object.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The object that holds its groups: the same, or a companion.
    pub fn groups_key(&self) -> &Key {
        &self.groups_key
    }

    /// Its trailer and index.
    pub fn info(&self) -> &SegmentInfo {
        &self.info
    }

    /// Bytes of the object that opening it read and kept, so that fetching its groups costs no request.
    pub fn kept_bytes(&self) -> usize {
        self.whole.as_ref().map_or(0, Bytes::len)
    }

    /// Gives the memory of [`SegmentHandle::kept_bytes`] back: groups are then fetched when they are wanted.
    pub fn forget_bytes(&mut self) {
        self.whole = None;
    }

    /// Cuts a range of groups, by number, into pieces to fetch with one request each: of at most `max_bytes`,
    /// or one group.
    pub fn pieces(&self, groups: Range<usize>, max_bytes: u64) -> Vec<Range<usize>> {
        let all = self.info.groups();
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for number in groups.start..groups.end.min(all.len()) {
            match pieces.last_mut() {
                Some(piece) if all[number].end() - all[piece.start].offset <= max_bytes => piece.end += 1,
                _ => pieces.push(number..number + 1),
            }
        }
        pieces
    }

    /// Fetches adjacent groups, by number, with one request; with none if opening the segment read all of it.
    ///
    /// # Panics
    /// If the range is empty or goes beyond the last group.
    pub async fn fetch(&self, groups: Range<usize>) -> Result<FetchedGroups, LogError> {
        let range = self.bytes_of(&groups);
        let bytes = match self.kept(&range) {
            Some(bytes) => bytes,
            None => self.store.get_range(&self.groups_key, range).await?,
        };
        self.fetched(groups, bytes)
    }

    /// [`SegmentHandle::fetch`] for a thread that may block, on which it reads where objects are files. Must be
    /// called inside a runtime of tokio's.
    ///
    /// # Panics
    /// As `fetch`.
    pub fn fetch_blocking(&self, groups: Range<usize>) -> Result<FetchedGroups, LogError> {
        let range = self.bytes_of(&groups);
        match self.kept(&range).or_else(|| self.store.read_range(&self.groups_key, range)) {
            Some(bytes) => self.fetched(groups, bytes),
            None => tokio::runtime::Handle::current().block_on(self.fetch(groups)),
        }
    }

    /// Visits every entry, ascending by page, without what it does to the page: which page, and its hash afterwards.
    /// Fetches at most `max_bytes` at a time, or one group.
    pub async fn for_each_page(
        &self,
        max_bytes: u64,
        mut visit: impl FnMut(Pgno, PageHash) + Send,
    ) -> Result<(), LogError> {
        let mut scratch = GroupScratch::new();
        for piece in self.pieces(0..self.info.groups().len(), max_bytes) {
            let fetched = self.fetch(piece.clone()).await?;
            for number in piece {
                let group = fetched.decode(number, &mut scratch)?;
                group.entries().for_each(|entry| visit(entry.pgno, entry.hash));
                scratch.recycle(group);
            }
        }
        Ok(())
    }

    /// Where adjacent groups are in their object.
    fn bytes_of(&self, groups: &Range<usize>) -> Range<u64> {
        match &self.info.groups()[groups.clone()] {
            [] => panic!("an empty range of groups cannot be fetched"),
            [only] => only.offset..only.end(),
            [first, .., last] => first.offset..last.end(),
        }
    }

    fn kept(&self, range: &Range<u64>) -> Option<Bytes> {
        // The trailer's and index's checks include that groups end where the index starts.
        self.whole.as_ref().map(|whole| whole.slice(range.start as usize..range.end as usize))
    }

    fn fetched(&self, groups: Range<usize>, bytes: Bytes) -> Result<FetchedGroups, LogError> {
        let Range { start, end } = self.bytes_of(&groups);
        if (bytes.len() as u64) < end - start {
            let part = Part::Group { number: groups.start, offset: start };
            let damage = Damage::Truncated { expected: end - start, found: bytes.len() as u64 };
            return Err(self.damaged(FormatError::Damaged { part, damage }));
        }
        Ok(FetchedGroups { handle: self.clone(), groups, start, bytes })
    }

    /// Reads the header of the object that holds the groups and checks its length: what a reader of groups need
    /// not do, since each group proves itself, but a verification must.
    pub async fn check_ends(&self) -> Result<(), LogError> {
        if self.whole.is_some() {
            // Opening it has checked its header.
            return Ok(());
        }
        let head = self.store.get_range(&self.groups_key, 0..HEADER_LEN as u64).await?;
        let groups_len = match self.info.trailer().form {
            Form::External => self.store.head(&self.groups_key).await?.len,
            // The part of an in-object segment that is the same as a companion.
            Form::InObject => self.info.trailer().groups_end,
        };
        self.info.check_companion(&head, groups_len).map_err(|e| self.damaged(e))?;
        if let Form::External = self.info.trailer().form {
            let object = self.store.get(&self.key).await?;
            match SegmentInfo::open(&object, object.len() as u64) {
                Err(OpenError::Format(source)) => {
                    let (url, key) = (self.store.url().to_owned(), self.key.clone());
                    return Err(LogError::Segment { url, key, source });
                }
                Err(OpenError::NeedMore { .. }) => unreachable!("the whole object was given"),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// The store that it lies in, for messages.
    pub(crate) fn url(&self) -> &str {
        self.store.url()
    }

    pub(crate) fn damaged(&self, source: FormatError) -> LogError {
        LogError::Segment { url: self.store.url().to_owned(), key: self.groups_key.clone(), source }
    }
}

/// Adjacent groups of a segment, fetched and not yet decoded.
#[derive(Debug, Clone)]
pub struct FetchedGroups {
    handle: SegmentHandle,
    groups: Range<usize>,
    start: u64,
    bytes: Bytes,
}

impl FetchedGroups {
    /// The groups' numbers.
    pub fn numbers(&self) -> Range<usize> {
        self.groups.clone()
    }

    /// Bytes fetched.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: at least one group was fetched.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Decodes and verifies a group. CPU work of up to a millisecond; no I/O.
    ///
    /// # Panics
    /// If the group was not fetched.
    pub fn decode(&self, number: usize, scratch: &mut GroupScratch) -> Result<Group, LogError> {
        assert!(self.groups.contains(&number), "group {number} is not among {:?}", self.groups);
        let info = &self.handle.info;
        let group: &GroupRef = &info.groups()[number];
        let frame = (group.offset - self.start) as usize..(group.end() - self.start) as usize;
        Group::decode(&self.bytes[frame], info.meta().page_size, number, group, scratch)
            .map_err(|e| self.handle.damaged(e))
    }
}
