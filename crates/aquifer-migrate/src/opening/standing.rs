//! Which of two is newer: the database here, or what a bottomless bucket has of it.

use std::cmp::Ordering;
use std::path::Path;

use aquifer_log::Store;
use futures::TryStreamExt;

use super::local::Local;
use crate::backup::{Backup, Origin, Survey, find};
use crate::error::Result;
use crate::restore::blocking;

/// How the database here stands to the one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is none here, or an empty file.
    Missing,
    /// What is there is newer.
    Older,
    /// They are the same, as far as counters tell.
    Same,
    /// What is here is newer.
    Newer,
}

/// The newest generation in which there is anything.
pub(crate) async fn newest(store: &Store, database: &str) -> Result<Option<(Backup, Survey)>> {
    for backup in find(store, Origin::Bottomless).await? {
        if backup.database() == database {
            let survey = backup.survey().await?;
            if survey.snapshot.is_some() || survey.positions.is_some() || survey.parent.is_some() {
                return Ok(Some((backup, survey)));
            }
        }
    }
    Ok(None)
}

/// How the database in the file `local` stands to the newest generation of `database` in a bottomless bucket; `None` where
/// the bucket has nothing of it. By what bottomless goes by: the change counter of the database file, and, where it is the
/// same, how far the WAL is.
///
/// That is no proof: SQLite does not count every transaction of a database in WAL mode. Whoever acts on it keeps the
/// loser, as [`Existing::SetAside`](aquifer_replicate::restore::Existing::SetAside) does.
pub async fn compare(local: &Path, store: &Store, database: &str) -> Result<Option<Standing>> {
    let path = local.to_owned();
    let local = blocking(move || Local::look(&path)).await?;
    let Some((backup, survey)) = newest(store, database).await? else { return Ok(None) };
    standing(local, &backup, &survey).await.map(Some)
}

pub(crate) async fn standing(local: Option<Local>, backup: &Backup, survey: &Survey) -> Result<Standing> {
    let Some(local) = local else { return Ok(Standing::Missing) };
    let there = (survey.change_counter.unwrap_or(0), backup.committed(survey).await?.0);
    Ok(match (local.change_counter, u64::from(local.frames)).cmp(&there) {
        Ordering::Less => Standing::Older,
        Ordering::Equal => Standing::Same,
        Ordering::Greater => Standing::Newer,
    })
}

impl Backup {
    /// Of a generation of bottomless: the last frame that ends a transaction, 0 if there is none, and the checksum of the
    /// WAL that is noted with it, 0 if there is none. `survey` is its own.
    pub async fn committed(&self, survey: &Survey) -> Result<(u64, u64)> {
        if let Some(noted) = survey.consistent {
            return Ok(noted);
        }
        let Some((_, last)) = survey.positions else { return Ok((0, 0)) };
        // Single pages count from when it is noted that they do. Runs of frames, which have an ending, end with a commit.
        let mut objects = self.store.list(&self.prefix, None);
        while let Some(object) = objects.try_next().await? {
            let name = self.prefix.strip(&object.key).unwrap_or_default();
            if name.starts_with(|first: char| first.is_ascii_digit()) {
                return Ok((if name.contains('.') { last } else { 0 }, 0));
            }
        }
        Ok((0, 0))
    }
}
