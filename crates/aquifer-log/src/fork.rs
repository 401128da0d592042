//! Forks: a database that begins with a revision of another one, without copying anything of it.

use aquifer_format::{GenerationId, Revision, Txid, WriterNonce};

use crate::begin::Begun;
use crate::database::{DatabaseStore, Generation, Shipped};
use crate::error::LogError;
use crate::generation::{GenerationRecord, Parent};
use crate::kept::check_kept;
use crate::name::DatabaseName;
use crate::plan::{Plan, PlanError, Target};
use crate::seal::put_empty;
use crate::store::StoreError;

/// What came of [`fork`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forked {
    /// The new database's generation.
    pub generation: Generation,
    /// The revision of the other database that it begins with.
    pub parent: Revision,
}

/// A fork, or a branch, was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForkError {
    /// There is such a database, or somebody makes one at the same time.
    #[error("{url} has a database '{name}' already")]
    Taken {
        /// The store.
        url: String,
        /// The new database's name.
        name: DatabaseName,
    },
    /// The database that was to go on elsewhere is deleted.
    #[error("'{name}' is deleted: undelete it first")]
    Deleted {
        /// Its name.
        name: DatabaseName,
    },
    /// The moment can still be restored, but not for long.
    #[error(
        "'{name}' at {revision} is not kept any more, and is about to be deleted by retention: take a later moment, or \
         restore it to a file and import that"
    )]
    NotKept {
        /// The database.
        name: DatabaseName,
        /// The revision.
        revision: Revision,
    },
    /// There is no way to the moment.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl From<LogError> for ForkError {
    fn from(error: LogError) -> ForkError {
        ForkError::Plan(error.into())
    }
}

impl From<StoreError> for ForkError {
    fn from(error: StoreError) -> ForkError {
        ForkError::Plan(error.into())
    }
}

/// Makes a database, `to`, that begins with what `from` was at a moment, and has a history of its own from there. The
/// cost does not depend on the size of either: four small objects. What of `from` leads to the moment stays in the
/// store for as long as the fork needs it ([`forks`](DatabaseStore::forks)).
///
/// After an error, and if the future is dropped, call it again: it goes on with what an interrupted call has left.
pub async fn fork(
    from: &DatabaseStore,
    generation: Option<GenerationId>,
    target: Target,
    to: &DatabaseStore,
    host: &str,
) -> Result<Forked, ForkError> {
    let plan = Plan::make(from, generation, target).await?;
    let parent = Parent { database: Some(from.name().clone()), revision: plan.revision };
    let record = GenerationRecord::new(plan.page_size, WriterNonce::random());
    let mut record = record.continuing(parent.clone());
    host.clone_into(&mut record.host);
    let id = place(to, &record).await?;
    // From here on what is needed is kept: see `forks`.
    from.hold(to.name(), id, plan.revision).await?;
    if let Err(refused) = check_kept(from, &plan).await {
        from.let_go(to.name(), id).await?;
        return Err(refused);
    }
    let begun = match to.begin_as(id, record).await? {
        // It was not there when we looked, or is what an interrupted call has left.
        Begun::Ours(generation) => generation,
        Begun::Others => {
            from.let_go(to.name(), id).await?;
            return Err(taken(to));
        }
    };
    match put_empty(to, id, Txid::FIRST, &plan).await? {
        Shipped::Committed => {}
        // Another call has found this one unfinished, and was faster.
        Shipped::Fenced(_) => return Err(taken(to)),
    }
    // Whoever stood still for a day was taken for one that came to nothing.
    to.keep_parent(id, Some(&parent), true).await?;
    tracing::info!(database = %to.name(), of = %parent, "forked");
    Ok(Forked { generation: begun, parent: plan.revision })
}

/// The id of the fork's generation: a new one, or that of a call for the same that was interrupted.
async fn place(to: &DatabaseStore, record: &GenerationRecord) -> Result<GenerationId, ForkError> {
    if to.control().await?.deleted.is_some() {
        return Err(taken(to));
    }
    if let Some(first) = to.first().await? {
        let is_unfinished = match to.generation_record(first).await? {
            Some(found) => found.parent == record.parent && to.levels(first).await?.is_empty(),
            None => false,
        };
        return if is_unfinished { Ok(first) } else { Err(taken(to)) };
    }
    if let Some(there) = to.latest_generation().await? {
        // Without a batch, and not decided on as the first, it is what is left of a fork; or what a replicator has
        // begun, whose first batch is on its way.
        let is_fork = there.record.parent.as_ref().is_some_and(|parent| parent.database.is_some());
        if !is_fork || !to.levels(there.id).await?.is_empty() {
            return Err(taken(to));
        }
    }
    Ok(to.next_generation_id(record.created_at).await?)
}

fn taken(to: &DatabaseStore) -> ForkError {
    ForkError::Taken { url: to.store().url().to_owned(), name: to.name().clone() }
}
