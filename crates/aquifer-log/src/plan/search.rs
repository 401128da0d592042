//! Which segments there are between a base and a target, listing no more than lies there.

use aquifer_format::{GenerationId, Revision, Txid, TxidRange};
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};

use super::{PlanError, Routes, Target, moment};
use crate::database::{DatabaseStore, Generation, ListedSegment};
use crate::error::LogError;
use crate::generation::Parent;
use crate::layout::{Level, SegmentKey};

/// A way.
pub(super) struct Found {
    /// The segments, oldest first, a leg for each generation.
    pub(super) legs: Vec<Leg>,
    /// Where it leads.
    pub(super) txid: Txid,
}

/// The part of a way that lies in one generation.
pub(super) struct Leg {
    /// Its database: not that of the other legs where one was forked from another.
    pub(super) db: DatabaseStore,
    pub(super) generation: GenerationId,
    /// Oldest first.
    pub(super) segments: Vec<SegmentKey>,
}

/// What a generation has, before its segments are listed.
pub(super) struct Catalog<'a> {
    pub(super) db: &'a DatabaseStore,
    pub(super) generation: GenerationId,
    /// Ascending by txid.
    pub(super) snapshots: Vec<ListedSegment>,
    /// Without that of snapshots, from the one with the largest segments down to 0.
    pub(super) levels: Vec<Level>,
}

impl<'a> Catalog<'a> {
    pub(super) async fn read(
        db: &'a DatabaseStore,
        generation: GenerationId,
    ) -> Result<Catalog<'a>, LogError> {
        let mut levels = db.levels(generation).await?;
        let mut snapshots = Vec::new();
        if levels.last() == Some(&Level::Snapshot) {
            levels.pop();
            snapshots = db.segments(generation, Level::Snapshot, Txid::ZERO).try_collect().await?;
        }
        levels.reverse();
        Ok(Catalog { db, generation, snapshots, levels })
    }

    /// The last snapshot of a txid up to `target`, or of all.
    fn base(&self, target: Option<Txid>) -> Option<ListedSegment> {
        let until = |s: &&ListedSegment| target.is_none_or(|target| s.segment.range.last <= target);
        self.snapshots.iter().rev().find(until).copied()
    }

    /// Lists the segments of a level that start after a txid, up to the first that starts after `until`.
    pub(super) async fn list(
        &self,
        level: Level,
        after: Txid,
        until: Option<Txid>,
    ) -> Result<Listed, LogError> {
        let mut listing = self.db.segments(self.generation, level, after);
        let mut listed = Listed { segments: Vec::new(), next: None };
        while let Some(found) = listing.try_next().await? {
            if until.is_some_and(|until| found.segment.range.first > until) {
                listed.next = Some(found);
                break;
            }
            listed.segments.push(found);
        }
        Ok(listed)
    }

    /// The fewest segments from `from` to `target`, or to the last txid there is.
    async fn route(&self, from: Txid, target: Option<Txid>) -> Result<Vec<ListedSegment>, PlanError> {
        let mut routes = Routes::new(from, Vec::new());
        let mut next = None;
        // Each level is listed only from where the ones above it lead to: the thousands of small segments that a
        // large one covers are then never looked at.
        for &level in &self.levels {
            let reached = routes.furthest();
            if Some(reached) == target {
                break;
            }
            let listed = self.list(level, reached, target).await?;
            next = earlier(next, listed.next);
            routes = with(routes, target, listed.segments);
        }
        if let Some(way) = whole(&routes, target) {
            return Ok(way);
        }
        // A hole in a level: perhaps there is a way around it.
        let mut all = Vec::new();
        for &level in &self.levels {
            let listed = self.list(level, from, target).await?;
            next = earlier(next, listed.next);
            all.extend(listed.segments);
        }
        // What was shipped between the listings must not look like a hole.
        all.extend(routes.into_segments());
        let beyond: Vec<_> = all.iter().copied().filter(|s| is_beyond(target, s)).collect();
        let routes = with(Routes::new(from, Vec::new()), target, all);
        whole(&routes, target).ok_or_else(|| self.no_way(&routes, target, &beyond, next))
    }

    /// Why there is no way.
    fn no_way(
        &self,
        routes: &Routes,
        target: Option<Txid>,
        beyond: &[ListedSegment],
        next: Option<ListedSegment>,
    ) -> PlanError {
        let (generation, reached) = (self.generation, routes.furthest());
        let first = |s: &ListedSegment| s.segment.range.first;
        let last = |s: &ListedSegment| s.segment.range.last;
        let after_reached = routes.segments().iter().chain(beyond).chain(&next).chain(&self.snapshots);
        // The nearest object that starts, and the nearest that ends, after what can be reached.
        let starting =
            after_reached.clone().filter(|s| first(s) > reached).min_by_key(|s| (first(s), last(s)));
        let ending = after_reached.filter(|s| last(s) > reached).min_by_key(|s| last(s)).map(last);
        let before = (reached > Txid::ZERO).then_some(reached);
        let covering = beyond.iter().any(|s| first(s) <= reached.next());
        match (target, starting) {
            // Segments as shipped are gone; larger ones, or a snapshot, go past it.
            (Some(asked), _) if covering || (before.is_none() && self.starts_late()) => {
                PlanError::NotKept { generation, asked, before, after: ending }
            }
            (_, Some(after)) if first(after) > reached.next() => PlanError::Gap {
                generation,
                missing: TxidRange { first: reached.next(), last: first(after).previous() },
                before: routes.to(reached).and_then(|way| way.last().copied()).map(|s| self.key(&s)),
                after: self.key(after),
            },
            (Some(asked), _) => PlanError::BeyondHead { generation, asked, head: reached },
            (None, _) => PlanError::empty(self.db),
        }
    }

    /// Whether retention has removed the generation's beginning: it leaves a snapshot to start from.
    fn starts_late(&self) -> bool {
        !self.snapshots.is_empty()
    }

    fn key(&self, listed: &ListedSegment) -> crate::store::Key {
        self.db.layout().segment(self.generation, listed.segment)
    }
}

/// What was listed.
pub(super) struct Listed {
    /// The segments that start up to the limit, ascending.
    pub(super) segments: Vec<ListedSegment>,
    /// The first one after it, if the limit ended the listing.
    pub(super) next: Option<ListedSegment>,
}

fn earlier(a: Option<ListedSegment>, b: Option<ListedSegment>) -> Option<ListedSegment> {
    a.into_iter().chain(b).min_by_key(|s| s.segment.range.first)
}

fn is_beyond(target: Option<Txid>, listed: &ListedSegment) -> bool {
    target.is_some_and(|target| listed.segment.range.last > target)
}

/// Routes over more segments, none of which goes beyond the target.
fn with(routes: Routes, target: Option<Txid>, more: Vec<ListedSegment>) -> Routes {
    let from = routes.from();
    let mut segments = routes.into_segments();
    segments.extend(more);
    segments.retain(|s| !is_beyond(target, s));
    Routes::new(from, segments)
}

/// The way to the target, or to the end of everything known.
fn whole(routes: &Routes, target: Option<Txid>) -> Option<Vec<ListedSegment>> {
    let head = routes.segments().iter().map(|s| s.segment.range.last).max();
    routes.to(target.unwrap_or_else(|| head.unwrap_or(Txid::ZERO).max(routes.from())))
}

/// The way to a target from a snapshot, or from the generation's beginning.
pub(super) fn from_base<'a>(
    db: &'a DatabaseStore,
    generation: &'a Generation,
    target: Target,
) -> BoxFuture<'a, Result<Found, PlanError>> {
    async move {
        let catalog = Catalog::read(db, generation.id).await?;
        let target = moment::resolve(&catalog, target).await?;
        let base = catalog.base(target);
        let from = base.map_or(Txid::ZERO, |base| base.segment.range.last);
        let way = catalog.route(from, target).await?;
        let last = way.last().or(base.as_ref());
        let Some(txid) = last.map(|s| s.segment.range.last) else { return Err(PlanError::empty(db)) };
        let segments = base.iter().chain(&way).map(|s| s.segment).collect();
        let mut legs = match generation.record.parent.as_ref().filter(|_| base.is_none()) {
            Some(parent) => of_parent(db, parent).await?,
            None => Vec::new(),
        };
        legs.push(Leg { db: db.clone(), generation: generation.id, segments });
        Ok(Found { legs, txid })
    }
    .boxed()
}

/// The way to the revision that a generation forked from.
async fn of_parent(db: &DatabaseStore, parent: &Parent) -> Result<Vec<Leg>, PlanError> {
    let Some(elsewhere) = parent.elsewhere(db) else {
        return Ok(to_revision(db, parent.revision).await?.legs);
    };
    match to_revision(&elsewhere, parent.revision).await {
        Ok(found) => Ok(found.legs),
        Err(error @ PlanError::Log(_)) => Err(error),
        Err(reason) => Err(PlanError::LostParent {
            url: db.store().url().to_owned(),
            name: db.name().clone(),
            parent: elsewhere.name().clone(),
            revision: parent.revision,
            reason: Box::new(reason),
        }),
    }
}

async fn to_revision(db: &DatabaseStore, revision: Revision) -> Result<Found, PlanError> {
    let id = revision.generation;
    let Some(record) = db.generation_record(id).await? else {
        return Err(match db.latest_generation().await? {
            Some(_) => PlanError::no_such_generation(db, id),
            None => PlanError::no_such_database(db).await,
        });
    };
    from_base(db, &Generation { id, record }, Target::Txid(revision.txid)).await
}

/// The way from a revision to a later one of its generation.
pub(super) async fn since(
    db: &DatabaseStore,
    revision: Revision,
    target: Target,
) -> Result<Found, PlanError> {
    let (generation, from) = (revision.generation, revision.txid);
    // Nothing but level 0 has news for who is up to date, and one listing says so.
    if target == Target::Latest {
        let news = db.segments(generation, Level::Shipped, from).try_next().await.map_err(LogError::from)?;
        if news.is_none() {
            return Ok(Found { legs: Vec::new(), txid: from });
        }
    }
    let catalog = Catalog::read(db, generation).await?;
    let target = moment::resolve(&catalog, target).await?;
    if target.is_some_and(|target| target <= from) {
        return Ok(Found { legs: Vec::new(), txid: from });
    }
    let way = catalog.route(from, target).await?;
    let txid = way.last().map_or(from, |s| s.segment.range.last);
    let segments = way.into_iter().map(|s| s.segment).collect();
    Ok(Found { legs: vec![Leg { db: db.clone(), generation, segments }], txid })
}
