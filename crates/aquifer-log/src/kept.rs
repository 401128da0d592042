//! Whether a moment that something is to build on is still kept.
//!
//! Who builds on a revision says so first: with a record of a fork ([`forks`](crate::forks)), or as a generation whose
//! record names its parent. Then it looks whether retention, or somebody else, has given up what leads there; if so, it
//! takes back what it said. Who deletes has said before what it gives up, and looks last, whether anybody has begun to
//! build on it. So one of the two sees the other.

use std::collections::HashSet;

use crate::database::DatabaseStore;
use crate::fork::ForkError;
use crate::plan::{Plan, Target};
use crate::retain::RetiredRecord;

/// Whether what leads to a revision stays. If there is something in the store already that says that it is needed, it
/// does; else it does for about as long as retention's grace time.
///
/// # Errors
/// [`ForkError::NotKept`] and [`ForkError::Deleted`] if not, [`ForkError::Plan`] if it is gone.
pub async fn check_kept(from: &DatabaseStore, plan: &Plan) -> Result<(), ForkError> {
    let revision = plan.revision;
    let not_kept = || ForkError::NotKept { name: from.name().clone(), revision };
    if from.control().await?.deleted.is_some() {
        return Err(ForkError::Deleted { name: from.name().clone() });
    }
    let mut looked_at = HashSet::new();
    let mut retired = HashSet::new();
    for step in &plan.steps {
        if !looked_at.insert((&step.database, step.generation)) {
            continue;
        }
        let db = DatabaseStore::new(from.store().clone(), step.database.clone());
        let record = RetiredRecord::read(&db, step.generation).await?;
        if record.is_whole() {
            return Err(not_kept());
        }
        retired.extend(record.keys().map(str::to_owned));
    }
    // Only now: what was in no record before, and is there still, is deleted by nobody who has not looked since.
    let plan = Plan::make(from, Some(revision.generation), Target::Txid(revision.txid)).await?;
    let stays = plan.steps.iter().all(|step| {
        looked_at.contains(&(&step.database, step.generation))
            && !retired.contains(step.handle.key().as_str())
    });
    if stays { Ok(()) } else { Err(not_kept()) }
}
