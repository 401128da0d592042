//! Proof that a revision can be restored, without writing it anywhere.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use aquifer_format::segment::{GroupScratch, SegmentTally};
use aquifer_format::{DbChecksum, GenerationId, PageHash, Pgno, Revision, Timestamp, Txid};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::database::{DatabaseStore, Generation};
use crate::error::LogError;
use crate::layout::Level;
use crate::merge::{Merge, MergedPage, PageSink, reduce};
use crate::plan::{Plan, PlanError, Target};
use crate::segment_io::SegmentHandle;
use crate::store::Key;
use crate::whole::WholeCheck;

/// Segments whose ends are read at a time.
const CHECKING: usize = 16;
/// Bytes of groups fetched with one request.
const PIECE: u64 = 4 << 20;

/// What is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The objects that a restore of the revision reads.
    #[default]
    Plan,
    /// Besides, every other segment of the generation, of all levels: what restores to other moments read.
    All,
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyProgress {
    /// Bytes of groups that were read and found right.
    pub bytes_done: u64,
    /// Bytes of groups to read. Grows when the plan is done and other segments follow.
    pub bytes_total: u64,
}

/// What was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The revision that can be restored.
    pub revision: Revision,
    /// When its last commit was seen.
    pub last_commit: Timestamp,
    /// Segments read, each with every byte of it.
    pub segments: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    /// Pages of the revision whose content was put together and has its hash.
    pub pages: u64,
    /// Generations passed over because nothing of them ever became durable.
    pub skipped: Vec<GenerationId>,
    /// How long it took.
    pub duration: Duration,
}

/// Reads everything that a restore to `target` reads, in memory that does not depend on its size, and checks all
/// that can be checked: every byte against its checksum, that each segment continues the one before it, every
/// page's final content against its hash, and the whole against the database's checksum.
///
/// An error names the object that is at fault, as far as one can be told.
///
/// Cancel-safe. `progress` is called about every few megabytes.
pub async fn verify(
    db: &DatabaseStore,
    generation: Option<GenerationId>,
    target: Target,
    scope: Scope,
    progress: impl Fn(VerifyProgress) + Send + Sync,
) -> Result<Verified, PlanError> {
    let started = Instant::now();
    let plan = Plan::make(db, generation, target).await?;
    verify_made(db, &plan, scope, started, &progress).await
}

/// As [`verify`] of the newest revision, with [`Scope::All`], for a generation whose record is not written yet: nobody
/// finds it before it is proven.
///
/// Cancel-safe.
pub async fn verify_unpublished(db: &DatabaseStore, generation: &Generation) -> Result<Verified, PlanError> {
    let started = Instant::now();
    let plan = Plan::of_generation(db, generation, Target::Latest).await?;
    verify_made(db, &plan, Scope::All, started, &|_| {}).await
}

async fn verify_made(
    db: &DatabaseStore,
    plan: &Plan,
    scope: Scope,
    started: Instant,
    progress: &(dyn Fn(VerifyProgress) + Send + Sync),
) -> Result<Verified, PlanError> {
    let mut meter = Meter { now: VerifyProgress::default(), tell: progress };
    let pages = verify_plan(plan, &mut meter).await?;
    let mut verified = Verified {
        revision: plan.revision,
        last_commit: plan.last_commit,
        segments: plan.steps.len() as u64,
        bytes: plan.stored_bytes(),
        pages,
        skipped: plan.skipped.clone(),
        duration: Duration::ZERO,
    };
    if scope == Scope::All {
        verify_others(db, plan, &mut verified, &mut meter).await?;
    }
    verified.duration = started.elapsed();
    Ok(verified)
}

struct Meter<'a> {
    now: VerifyProgress,
    tell: &'a (dyn Fn(VerifyProgress) + Send + Sync),
}

impl Meter<'_> {
    fn expect(&mut self, handle: &SegmentHandle) {
        self.now.bytes_total += groups_len(handle);
    }

    fn set(&mut self, bytes_done: u64) {
        self.now.bytes_done = bytes_done.min(self.now.bytes_total);
        (self.tell)(self.now);
    }
}

fn groups_len(handle: &SegmentHandle) -> u64 {
    handle.info().groups().iter().map(|group| u64::from(group.len)).sum()
}

/// Verifies the revision of a plan; tells how many pages it has.
async fn verify_plan(plan: &Plan, meter: &mut Meter<'_>) -> Result<u64, LogError> {
    let steps: Vec<SegmentHandle> = plan.steps.iter().map(|step| step.handle.clone()).collect();
    check_ends(&steps).await?;
    let reduced = named(plan, reduce(steps.clone()).await).await?;
    reduced.segments.iter().for_each(|handle| meter.expect(handle));
    let mut merge = Merge::new(&reduced.segments)?;
    let meta = merge.meta().clone();
    let mut sink = Some(CheckSink(WholeCheck::new(&meta)));
    loop {
        let ran = merge.run(&mut sink).await;
        let done = named(plan, ran).await?;
        meter.set(merge.fetched_bytes());
        if done {
            break;
        }
    }
    let Some(CheckSink(check)) = sink else { unreachable!("given back") };
    let pages = check.pages();
    check.finish(&meta)?;
    Ok(pages)
}

/// An error about a page becomes one about the object that has it wrong.
async fn named<T>(plan: &Plan, result: Result<T, LogError>) -> Result<T, LogError> {
    match result {
        Err(LogError::PageMismatch { pgno, range }) => match first_wrong(plan, pgno).await? {
            Some((url, key)) => Err(LogError::WrongPage { url, key, pgno }),
            None => Err(LogError::PageMismatch { pgno, range }),
        },
        other => other,
    }
}

/// The first object of a plan whose entry for a page does not lead to the content that it says.
async fn first_wrong(plan: &Plan, pgno: Pgno) -> Result<Option<(String, Key)>, LogError> {
    let mut page = vec![0; plan.page_size.bytes()];
    let mut scratch = GroupScratch::new();
    for handle in plan.steps.iter().map(|step| &step.handle) {
        let Some((number, _)) = handle.info().index().find(pgno) else { continue };
        let group = handle.fetch(number..number + 1).await?.decode(number, &mut scratch)?;
        if let Some(entry) = group.find(pgno) {
            entry.apply(&mut page);
            if PageHash::of(pgno, &page) != entry.hash {
                return Ok(Some((handle.url().to_owned(), handle.key().clone())));
            }
        }
        scratch.recycle(group);
    }
    Ok(None)
}

/// Headers, and companions' lengths.
async fn check_ends(handles: &[SegmentHandle]) -> Result<(), LogError> {
    stream::iter(handles).map(Ok).try_for_each_concurrent(CHECKING, SegmentHandle::check_ends).await
}

/// Verifies the segments of the generation that the plan does not need: each by itself, that of a snapshot's pages
/// each has its hash, and that all segments which start or end at a txid agree about the database there.
async fn verify_others(
    db: &DatabaseStore,
    plan: &Plan,
    verified: &mut Verified,
    meter: &mut Meter<'_>,
) -> Result<(), PlanError> {
    let generation = plan.generation;
    let planned: HashSet<Key> = plan.steps.iter().map(|step| step.handle.key().clone()).collect();
    let mut states = States::default();
    for step in plan.steps.iter().filter(|step| step.generation == generation) {
        states.add(&step.handle)?;
    }
    for level in db.levels(generation).await? {
        let opening = db.segments(generation, level, Txid::ZERO).map_err(LogError::from);
        let opening = opening.map_ok(|listed| db.open_segment(generation, listed.segment));
        let mut opened = opening.try_buffered(CHECKING);
        while let Some(handle) = opened.try_next().await? {
            states.add(&handle)?;
            if planned.contains(handle.key()) {
                continue;
            }
            meter.expect(&handle);
            verify_segment(&handle, meter).await?;
            verified.segments += 1;
            verified.bytes += handle.info().stored_len();
        }
    }
    Ok(())
}

/// Verifies one segment.
async fn verify_segment(handle: &SegmentHandle, meter: &mut Meter<'_>) -> Result<(), LogError> {
    handle.check_ends().await?;
    let before = meter.now.bytes_done;
    if handle.segment().level == Level::Snapshot {
        let mut merge = Merge::new(std::slice::from_ref(handle))?;
        let meta = merge.meta().clone();
        let mut sink = Some(CheckSink(WholeCheck::new(&meta)));
        while !merge.run(&mut sink).await.map_err(|e| wrong_page(handle, e))? {
            meter.set(before + merge.fetched_bytes());
        }
        meter.set(before + merge.fetched_bytes());
        let Some(CheckSink(check)) = sink else { unreachable!("given back") };
        return check.finish(&meta);
    }
    let mut tally = SegmentTally::new();
    let mut done = before;
    for piece in handle.pieces(0..handle.info().groups().len(), PIECE) {
        let fetched = handle.fetch(piece).await?;
        let (of, len) = (handle.clone(), fetched.len() as u64);
        let checked = tokio::task::spawn_blocking(move || {
            let (mut tally, mut scratch) = (SegmentTally::new(), GroupScratch::new());
            for number in fetched.numbers() {
                let group = fetched.decode(number, &mut scratch)?;
                tally.add(&group, of.info());
                scratch.recycle(group);
            }
            Ok::<_, LogError>(tally)
        });
        tally.combine(&crate::merge::unless_cancelled(checked.await).await?);
        done += len;
        meter.set(done);
    }
    tally.check(handle.info()).map_err(|e| handle.damaged(e))
}

fn wrong_page(handle: &SegmentHandle, error: LogError) -> LogError {
    match error {
        LogError::PageMismatch { pgno, .. } => {
            LogError::WrongPage { url: handle.url().to_owned(), key: handle.key().clone(), pgno }
        }
        other => other,
    }
}

/// The database at each txid where a segment starts or ends, by whom that was said first.
#[derive(Default)]
struct States(BTreeMap<Txid, (u32, DbChecksum, Key)>);

impl States {
    fn add(&mut self, handle: &SegmentHandle) -> Result<(), PlanError> {
        let meta = handle.info().meta();
        if handle.segment().level != Level::Snapshot {
            let start = (meta.size_before, meta.checksum_before);
            self.agree(meta.range.first.previous(), start, handle, false)?;
        }
        self.agree(meta.range.last, (meta.size_after, meta.checksum_after), handle, true)
    }

    fn agree(
        &mut self,
        txid: Txid,
        (size, checksum): (u32, DbChecksum),
        handle: &SegmentHandle,
        ends: bool,
    ) -> Result<(), PlanError> {
        let key = handle.key().clone();
        match self.0.get(&txid) {
            Some((known_size, known, other)) if (*known_size, *known) != (size, checksum) => {
                let (known, found) = ((*known_size, *known), (size, checksum));
                let (older, newer) = if ends { (key, other.clone()) } else { (other.clone(), key) };
                let (end, start) = if ends { (found, known) } else { (known, found) };
                Err(PlanError::Discontinuous { older, newer, end, start })
            }
            Some(_) => Ok(()),
            None => {
                self.0.insert(txid, (size, checksum, key));
                Ok(())
            }
        }
    }
}

struct CheckSink(WholeCheck);

impl PageSink for CheckSink {
    fn page(&mut self, pgno: Pgno, page: MergedPage<'_>) -> Result<(), LogError> {
        self.0.add(pgno, &page)
    }
}
