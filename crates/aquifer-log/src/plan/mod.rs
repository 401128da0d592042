//! Which segments make up a revision: a base that holds every page, and the fewest segments that lead from
//! there to the revision.

mod error;
mod moment;
mod route;
mod search;

use aquifer_format::{DbChecksum, GenerationId, PageSize, Revision, Timestamp, Txid};
use futures::stream::{self, StreamExt, TryStreamExt};

pub use error::PlanError;
pub(crate) use route::{Routes, way};

use crate::database::{DatabaseStore, Generation};
use crate::error::LogError;
use crate::layout::SegmentKey;
use crate::name::DatabaseName;
use crate::segment_io::SegmentHandle;
use search::{Catalog, Found, Leg};

/// Segments opened at a time.
const OPENING: usize = 32;
/// Most bytes of small segments that a plan keeps from opening them. Beyond it they are fetched again.
const KEPT_BYTES: usize = 32 << 20;

/// A moment of a database's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// The last durable txid.
    #[default]
    Latest,
    /// This txid.
    Txid(Txid),
    /// The last txid whose last commit is not later.
    Timestamp(Timestamp),
}

/// How to get to a revision.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The generation of the revision.
    pub generation: GenerationId,
    /// What is reached.
    pub revision: Revision,
    /// Size of the database's pages.
    pub page_size: PageSize,
    /// Pages of the database.
    pub size_after: u32,
    /// Checksum of the database.
    pub checksum_after: DbChecksum,
    /// When the revision's last commit was seen.
    pub last_commit: Timestamp,
    /// What to fold, oldest first: each continues the one before it exactly.
    ///
    /// In a plan from [`Plan::make`] the first one is the base, an image of every page. It may belong to another
    /// generation, that the revision's one descends from, and that to another database, that this one was forked from.
    pub steps: Vec<Step>,
    /// Generations passed over because nothing of them ever became durable, newest first. Never one that was
    /// named.
    pub skipped: Vec<GenerationId>,
}

/// A segment of a plan.
#[derive(Debug, Clone)]
pub struct Step {
    /// The database that it belongs to.
    pub database: DatabaseName,
    /// The generation that it belongs to.
    pub generation: GenerationId,
    /// The segment, opened.
    pub handle: SegmentHandle,
}

impl Plan {
    /// Finds the way to `target`, in the generation named or else in the newest one that has it: the newest that
    /// has any segment, and for a moment before its first commit the one before that.
    ///
    /// Reads listings, and the end of each segment of the plan. That every segment continues the one before it is
    /// checked; its pages are not read.
    pub async fn make(
        db: &DatabaseStore,
        generation: Option<GenerationId>,
        target: Target,
    ) -> Result<Plan, PlanError> {
        if let Some(id) = generation {
            let record = db.generation_record(id).await?;
            let record = record.ok_or_else(|| PlanError::no_such_generation(db, id))?;
            return Plan::of_generation(db, &Generation { id, record }, target).await;
        }
        let mut ids = db.generation_ids();
        let mut skipped = Vec::new();
        let mut too_early = None;
        while let Some(id) = ids.try_next().await? {
            // Without a record its removal was begun.
            let Some(record) = db.generation_record(id).await? else { continue };
            match Plan::of_generation(db, &Generation { id, record }, target).await {
                Ok(plan) => return Ok(Plan { skipped, ..plan }),
                Err(PlanError::Empty { .. }) => skipped.push(id),
                Err(error @ PlanError::BeforeFirst { .. }) => too_early = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(match too_early {
            Some(error) => error,
            None if skipped.is_empty() => PlanError::no_such_database(db).await,
            None => PlanError::empty(db),
        })
    }

    /// Finds the way from a revision that is already there to a later one of the same generation; `None` if there
    /// is nothing newer. [`Plan::steps`] then has no base: they apply to that revision's pages.
    pub async fn since(
        db: &DatabaseStore,
        revision: Revision,
        target: Target,
    ) -> Result<Option<Plan>, PlanError> {
        let Found { legs, txid } = search::since(db, revision, target).await?;
        if txid <= revision.txid { Ok(None) } else { Plan::open(db, legs).await.map(Some) }
    }

    /// The way to a target within one generation.
    pub(crate) async fn of_generation(
        db: &DatabaseStore,
        generation: &Generation,
        target: Target,
    ) -> Result<Plan, PlanError> {
        let Found { legs, .. } = search::from_base(db, generation, target).await?;
        let plan = Plan::open(db, legs).await?;
        match plan.steps.first() {
            Some(Step { handle, .. })
                if !(handle.info().is_snapshot() && handle.info().meta().starts_empty()) =>
            {
                Err(PlanError::NotABase { key: handle.key().clone() })
            }
            _ => Ok(plan),
        }
    }

    /// Opens the steps, which are at least one, and checks that each continues the one before it.
    async fn open(db: &DatabaseStore, legs: Vec<Leg>) -> Result<Plan, PlanError> {
        let mut opening = Vec::new();
        for Leg { db, generation, segments } in &legs {
            opening.extend(segments.iter().map(|segment| open_step(db, *generation, *segment)));
        }
        let mut opened = stream::iter(opening).buffered(OPENING);
        let mut steps: Vec<Step> = Vec::new();
        let mut kept = 0;
        while let Some(mut step) = opened.try_next().await? {
            if let Some(older) = steps.last() {
                check_continues(older, &step)?;
            }
            kept += step.handle.kept_bytes();
            if kept > KEPT_BYTES {
                kept -= step.handle.kept_bytes();
                step.handle.forget_bytes();
            }
            steps.push(step);
        }
        let Some(last) = steps.last() else { return Err(PlanError::empty(db)) };
        let (generation, meta) = (last.generation, last.handle.info().meta().clone());
        Ok(Plan {
            generation,
            revision: Revision { generation, txid: meta.range.last },
            page_size: meta.page_size,
            size_after: meta.size_after,
            checksum_after: meta.checksum_after,
            last_commit: meta.last_commit,
            steps,
            skipped: Vec::new(),
        })
    }

    /// Bytes of all objects of the plan, as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.handle.info().stored_len()).sum()
    }
}

async fn open_step(
    db: &DatabaseStore,
    generation: GenerationId,
    segment: SegmentKey,
) -> Result<Step, PlanError> {
    let handle = db.open_segment(generation, segment).await?;
    Ok(Step { database: db.name().clone(), generation, handle })
}

/// The last kept txid of a generation whose last commit is not later than a moment; `None` if all that is kept is
/// later, or there is nothing.
pub(crate) async fn txid_at(
    db: &DatabaseStore,
    generation: GenerationId,
    moment: Timestamp,
) -> Result<Option<Txid>, LogError> {
    let catalog = Catalog::read(db, generation).await?;
    match moment::resolve(&catalog, Target::Timestamp(moment)).await {
        Ok(txid) => Ok(txid),
        Err(PlanError::BeforeFirst { .. } | PlanError::Empty { .. }) => Ok(None),
        Err(PlanError::Log(error)) => Err(error),
        Err(other) => unreachable!("a search for a moment: {other}"),
    }
}

/// Invariant 4. The names' txids are adjacent already, or the later segment begins a generation that forked.
fn check_continues(older: &Step, newer: &Step) -> Result<(), PlanError> {
    let (end, start) = (older.handle.info().meta(), newer.handle.info().meta());
    if (end.page_size, end.size_after, end.checksum_after)
        == (start.page_size, start.size_before, start.checksum_before)
    {
        return Ok(());
    }
    Err(PlanError::Discontinuous {
        older: older.handle.key().clone(),
        newer: newer.handle.key().clone(),
        end: (end.size_after, end.checksum_after),
        start: (start.size_before, start.checksum_before),
    })
}
