//! Why there is no way to a revision, by what a user does about it.

use aquifer_format::{GenerationId, Revision, Timestamp, Txid, TxidRange};
use futures::{StreamExt, TryStreamExt};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::name::DatabaseName;
use crate::store::{Key, StoreError};

/// A plan could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The store has no database of this name.
    #[error("{url} has no database '{name}'{}", did_you_mean(nearest))]
    NoSuchDatabase {
        /// The store.
        url: String,
        /// The name asked for.
        name: DatabaseName,
        /// Names of databases in the store that look like it, the likeliest first.
        nearest: Vec<DatabaseName>,
    },

    /// The database has no generation of this id.
    #[error("{url}: database '{name}' has no generation {generation} (`aquifer ls {name}` lists them)")]
    NoSuchGeneration {
        /// The store.
        url: String,
        /// The database.
        name: DatabaseName,
        /// The id asked for, or that of a parent that a generation builds on.
        generation: GenerationId,
    },

    /// Nothing of the database, or of the generation that was named, ever became durable.
    #[error("{url}: database '{name}' has no data yet: its first batch never became durable")]
    Empty {
        /// The store.
        url: String,
        /// The database.
        name: DatabaseName,
    },

    /// The txid is not there yet.
    #[error("txid {asked} is beyond the last one of generation {generation}, which is {head}")]
    BeyondHead {
        /// The generation.
        generation: GenerationId,
        /// The txid asked for.
        asked: Txid,
        /// The generation's last durable txid.
        head: Txid,
    },

    /// The moment is before everything that is kept.
    #[error("{asked} is before the first moment that generation {generation} can restore, {first}")]
    BeforeFirst {
        /// The generation.
        generation: GenerationId,
        /// The moment asked for.
        asked: Timestamp,
        /// The last commit of the oldest revision that is kept.
        first: Timestamp,
    },

    /// The txid was there, and retention or compaction left only others.
    #[error(
        "txid {asked} of generation {generation} is no longer kept; restorable are {}",
        neighbours(*before, *after)
    )]
    NotKept {
        /// The generation.
        generation: GenerationId,
        /// The txid asked for.
        asked: Txid,
        /// The last restorable one before it.
        before: Option<Txid>,
        /// The first restorable one after it, as far as is known.
        after: Option<Txid>,
    },

    /// Txids are missing: objects were lost or deleted by someone else. What comes before is not affected.
    #[error(
        "generation {generation}: txids {missing} are missing between {} and '{after}'; restore to txid {} or \
         before works",
        before.as_ref().map_or_else(|| "the start".to_owned(), |key| format!("'{key}'")),
        missing.first.previous()
    )]
    Gap {
        /// The generation.
        generation: GenerationId,
        /// The txids for which there is no segment.
        missing: TxidRange,
        /// The object that ends right before them; none if the generation lacks its start.
        before: Option<Key>,
        /// The object that starts right after them.
        after: Key,
    },

    /// A fork builds on a database that is not in the store, or not with what the fork needs of it.
    #[error(
        "{url}: '{name}' was forked from '{parent}' at {revision}, and is not whole without that database beside it: \
         {reason}"
    )]
    LostParent {
        /// The store.
        url: String,
        /// The database that builds on the other one.
        name: DatabaseName,
        /// The one that it was forked from.
        parent: DatabaseName,
        /// What it builds on.
        revision: Revision,
        /// Why that cannot be had.
        reason: Box<PlanError>,
    },

    /// Two segments that should continue each other do not: one of them belongs to another history.
    #[error(
        "segment '{newer}' does not continue '{older}': that ends with {} pages of checksum {}, this starts from \
         {} of {}",
        .end.0, .end.1, .start.0, .start.1
    )]
    Discontinuous {
        /// The earlier object.
        older: Key,
        /// The later object.
        newer: Key,
        /// Pages and checksum of the database after the earlier one.
        end: (u32, aquifer_format::DbChecksum),
        /// Pages and checksum of the database before the later one.
        start: (u32, aquifer_format::DbChecksum),
    },

    /// The segment that everything starts from does not hold every page.
    #[error("segment '{key}' should be a whole database to start from, and is not")]
    NotABase {
        /// The object.
        key: Key,
    },

    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<StoreError> for PlanError {
    fn from(error: StoreError) -> PlanError {
        PlanError::Log(error.into())
    }
}

impl PlanError {
    /// Whether the same call may succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        matches!(self, PlanError::Log(e) if e.is_transient())
    }

    /// Whether there is nothing to restore from, rather than something wrong with it.
    pub fn is_no_replica(&self) -> bool {
        matches!(
            self,
            PlanError::NoSuchDatabase { .. }
                | PlanError::Empty { .. }
                | PlanError::Log(LogError::Store(StoreError::NoStore { .. }))
        )
    }

    pub(super) async fn no_such_database(db: &DatabaseStore) -> PlanError {
        // Advice only: that it cannot be given is not worth an error.
        let names = DatabaseStore::list(db.store()).take(MOST_NAMES).try_collect::<Vec<_>>().await;
        let nearest = nearest(db.name(), names.unwrap_or_default());
        PlanError::NoSuchDatabase { url: db.store().url().to_owned(), name: db.name().clone(), nearest }
    }

    pub(super) fn no_such_generation(db: &DatabaseStore, generation: GenerationId) -> PlanError {
        let (url, name) = (db.store().url().to_owned(), db.name().clone());
        PlanError::NoSuchGeneration { url, name, generation }
    }

    pub(super) fn empty(db: &DatabaseStore) -> PlanError {
        PlanError::Empty { url: db.store().url().to_owned(), name: db.name().clone() }
    }
}

/// Names looked at for the sake of advice.
const MOST_NAMES: usize = 10_000;
/// Names that a message suggests.
const SUGGESTIONS: usize = 3;

/// The names that look most like `name`.
fn nearest(name: &DatabaseName, names: Vec<DatabaseName>) -> Vec<DatabaseName> {
    let asked = name.to_string();
    let mut near: Vec<_> = names
        .into_iter()
        .filter_map(|other| {
            let text = other.to_string();
            let distance =
                if text.contains(&asked) || asked.contains(&text) { 1 } else { edits(&asked, &text) };
            // A third of the letters wrong is no typing error any more.
            (distance <= asked.chars().count().div_ceil(3)).then_some((distance, other))
        })
        .collect();
    near.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.to_string().cmp(&b.1.to_string())));
    near.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

/// Levenshtein's distance: letters to insert, delete or replace.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn did_you_mean(nearest: &[DatabaseName]) -> String {
    if nearest.is_empty() {
        return " (`aquifer ls` lists those that it has)".to_owned();
    }
    let names: Vec<_> = nearest.iter().map(|name| format!("'{name}'")).collect();
    format!("; did you mean {}?", names.join(" or "))
}

fn neighbours(before: Option<Txid>, after: Option<Txid>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{before} before it and {after} after it"),
        (Some(before), None) => format!("those up to {before}"),
        (None, Some(after)) => format!("those from {after} on"),
        (None, None) => "no others near it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_recognised_and_an_unrelated_one_is_not_suggested() {
        let names = |all: &[&str]| all.iter().map(|n| n.parse().unwrap()).collect::<Vec<DatabaseName>>();
        let known = names(&["orders.db", "order.db", "customers.db", "x.db"]);
        assert_eq!(nearest(&"oders.db".parse().unwrap(), known.clone()), names(&["orders.db", "order.db"]));
        assert_eq!(nearest(&"orders".parse().unwrap(), known.clone()), names(&["orders.db"]));
        assert_eq!(nearest(&"inventory.db".parse().unwrap(), known), names(&[]));
    }
}
