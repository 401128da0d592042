//! How the database here stands to the newest revision of an Aquifer store, as far as that can be proven.

use std::path::{Path, PathBuf};

use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Txid};
use aquifer_log::{DatabaseStore, Plan, Target};
use aquifer_replicate::restore::read_page;
use aquifer_replicate::state::{Head, MapFile, PageMap, StateDir};
use aquifer_sqlite::{Continuity, PinnedDatabase};
use futures::{StreamExt, TryStreamExt, stream};

use super::local::{Local, change_counter};
use super::standing::Standing;
use crate::error::{MigrateError, Result};
use crate::restore::blocking;

/// Segments opened at a time.
const AT_ONCE: usize = 32;
/// Segments of the newest generation that are looked through, newest first, for the image that is here. One request
/// each, a few seconds for all; see [`Opener`](super::Opener), "Which is newer", for what it means that there may be more.
const LOOKED_THROUGH: usize = 2000;

/// How the database here stands to what is there, and what shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// It is the same image.
    Same,
    /// The store's history went through it.
    Behind,
    /// It goes on from what this machine's replica has shipped, and so does nobody else.
    Ahead,
    /// Nothing shows how. Both may have what the other has not.
    Apart,
}

/// The database here, with what is in its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Image {
    page_size: PageSize,
    pages: u32,
    checksum: DbChecksum,
    pub(super) change_counter: u32,
}

/// What this machine's replica knew last of an image in a store, not newer than a given one.
struct Known {
    head: Head,
    map: PageMap,
}

/// How the database in the file `local` stands to the newest revision that an Aquifer store has of `database`; `None`
/// where that has nothing of it.
///
/// Proven, where [`Opener`](super::Opener) says that it can be: then it is also told from a copy that is only older. Otherwise, and for
/// a database in a rollback-journal mode, by change counters, as [`compare`](super::compare) does. `state_dir` is where the
/// local state of this machine's replica is, if not beside the database.
pub async fn compare_with_store(
    local: &Path,
    database: &DatabaseStore,
    state_dir: Option<&Path>,
) -> Result<Option<Standing>> {
    let newest = match Plan::make(database, None, Target::Latest).await {
        Ok(plan) => plan,
        Err(e) if e.is_no_replica() => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let path = local.to_owned();
    let Some(found) = blocking(move || Local::look(&path)).await? else { return Ok(Some(Standing::Missing)) };
    let state = state_dir.map_or_else(|| StateDir::beside(local), Path::to_owned);
    let counter = match relation(local, &state, database, &newest).await {
        Ok((Relation::Same, _)) => return Ok(Some(Standing::Same)),
        Ok((Relation::Behind, _)) => return Ok(Some(Standing::Older)),
        Ok((Relation::Ahead, _)) => return Ok(Some(Standing::Newer)),
        Ok((Relation::Apart, image)) => image.change_counter,
        Err(MigrateError::Sqlite(aquifer_sqlite::Error::NotWal(_))) => found.change_counter,
        Err(error) => return Err(error),
    };
    let is_older = counter < counter_there(database, &newest).await?;
    Ok(Some(if is_older { Standing::Older } else { Standing::Newer }))
}

/// The change counter of a revision.
pub(super) async fn counter_there(database: &DatabaseStore, plan: &Plan) -> Result<u32> {
    let page = read_page(database.store(), plan, Pgno::ONE).await?;
    Ok(page.as_deref().and_then(<[u8]>::first_chunk).map_or(0, change_counter))
}

/// `state` is the directory in which the states of the database's replicas are.
pub(super) async fn relation(
    local: &Path,
    state: &Path,
    database: &DatabaseStore,
    newest: &Plan,
) -> Result<(Relation, Image)> {
    let path = local.to_owned();
    let image = blocking(move || Image::of(&path)).await?;
    if image.is(newest) {
        return Ok((Relation::Same, image));
    }
    let (state, last) = (state.to_owned(), newest.revision.txid);
    let known = blocking(move || known(&state, last)).await?;
    let in_newest = known.iter().find(|known| known.head.generation == newest.revision.generation);
    let shipped_last = in_newest.filter(|known| known.is(newest));
    if let Some(known) = shipped_last
        && goes_on_from(local, known.head).await?
    {
        return Ok((Relation::Ahead, image));
    }
    if was_there(database, newest, &known, &image).await? {
        return Ok((Relation::Behind, image));
    }
    // Of the run before, batches may be in the store that it did not live to note.
    let is_ours = |known: &Known| {
        newest.steps.last().is_some_and(|step| known.head.is_ours(step.handle.info().meta().writer))
    };
    let is_ahead = shipped_last.is_some() || in_newest.is_some_and(is_ours);
    Ok((if is_ahead { Relation::Ahead } else { Relation::Apart }, image))
}

impl Image {
    /// Blocks.
    fn of(path: &Path) -> Result<Image> {
        let (database, _) = PinnedDatabase::open(path, None)?;
        let mut image = Image {
            page_size: database.page_size(),
            pages: database.pages()?,
            checksum: DbChecksum::EMPTY,
            change_counter: 0,
        };
        database.scan::<MigrateError>(|pgno, page| {
            if pgno == Pgno::ONE {
                image.change_counter = page.first_chunk().map_or(0, change_counter);
            }
            image.checksum.toggle(PageHash::of(pgno, page));
            Ok(())
        })?;
        Ok(image)
    }

    fn is(&self, plan: &Plan) -> bool {
        (self.page_size, self.pages, self.checksum) == (plan.page_size, plan.size_after, plan.checksum_after)
    }
}

impl Known {
    fn is(&self, plan: &Plan) -> bool {
        (self.head.txid, self.map.pages(), self.map.checksum())
            == (plan.revision.txid, plan.size_after, plan.checksum_after)
    }
}

/// What replicas on this machine knew, each up to a txid. What they wrote is read as it is: a replica that runs is in
/// nobody's way, and what it is just writing proves itself or is left out. Blocks.
fn known(state: &Path, last: Txid) -> Result<Vec<Known>> {
    let failed = |e| MigrateError::io("read", state, e);
    let mut found = Vec::new();
    if !state.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(state).map_err(failed)? {
        let directory: PathBuf = entry.map_err(failed)?.path();
        if directory.is_dir() {
            let (_, known) = MapFile::load_up_to(&directory, last).map_err(failed)?;
            found.extend(known.map(|(head, map)| Known { head, map }));
        }
    }
    Ok(found)
}

/// Whether the WAL proves that the database was this image, and what was committed since.
async fn goes_on_from(local: &Path, head: Head) -> Result<bool> {
    let path = local.to_owned();
    blocking(move || Ok(PinnedDatabase::open(&path, Some(&head.wal))?.1 == Continuity::Proven)).await
}

/// Whether the store's history went through the image that is here: where a replica here stood, or else at the end of a
/// segment of the newest generation.
async fn was_there(database: &DatabaseStore, newest: &Plan, known: &[Known], image: &Image) -> Result<bool> {
    for Known { head, .. } in known {
        if let Ok(plan) = Plan::make(database, Some(head.generation), Target::Txid(head.txid)).await
            && image.is(&plan)
        {
            return Ok(true);
        }
    }
    let generation = newest.revision.generation;
    let mut segments = Vec::new();
    for level in database.levels(generation).await? {
        let listed: Vec<_> = database.segments(generation, level, Txid::ZERO).try_collect().await?;
        segments.extend(listed.into_iter().map(|listed| listed.segment));
    }
    segments.sort_by_key(|segment| std::cmp::Reverse(segment.range.last));
    segments.dedup_by_key(|segment| segment.range.last);
    segments.truncate(LOOKED_THROUGH);
    let mut opened =
        stream::iter(segments).map(|segment| database.open_segment(generation, segment)).buffered(AT_ONCE);
    while let Some(segment) = opened.try_next().await? {
        let meta = segment.info().meta();
        if (meta.page_size, meta.size_after, meta.checksum_after)
            == (image.page_size, image.pages, image.checksum)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
