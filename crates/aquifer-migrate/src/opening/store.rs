//! A database here, and an Aquifer store that has it.

use std::fs;
use std::path::PathBuf;

use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno};
use aquifer_log::{DatabaseStore, Plan, Target};
use aquifer_replicate::ReplicaOptions;
use aquifer_replicate::restore::{Existing, Restorer};
use aquifer_replicate::state::{Head, MapFile, StateDir};
use aquifer_sqlite::{Handle, PinnedDatabase};
use futures::{StreamExt, TryStreamExt, stream};

use super::local::{Local, change_counter};
use super::opener::{Opened, Opener, RestoreAction, done, existing};
use crate::error::{MigrateError, Result};
use crate::restore::blocking;

/// Segments opened at a time.
const AT_ONCE: usize = 32;
/// Segments of the newest generation that are looked through, newest first, for the image that is here.
const LOOKED_THROUGH: usize = 2000;

/// The database here, with what is in its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Image {
    page_size: PageSize,
    pages: u32,
    checksum: DbChecksum,
    change_counter: u32,
}

impl Image {
    fn is(&self, plan: &Plan) -> bool {
        (self.page_size, self.pages, self.checksum) == (plan.page_size, plan.size_after, plan.checksum_after)
    }
}

impl Opener {
    pub(super) async fn against_store(
        &self,
        local: Option<Local>,
        database: &DatabaseStore,
        plan: &Plan,
    ) -> Result<Opened> {
        if local.is_none() {
            return self.restore(local, database).await;
        }
        self.make_wal().await?;
        let (path, state) = (self.path.clone(), self.state_directory(database));
        let (image, head) = blocking(move || Ok((image(&path)?, head(&state)?))).await?;
        if image.is(plan) {
            return Ok(Opened { action: RestoreAction::Reuse, shipped: Some(plan.revision) });
        }
        if was_there(database, plan, head.as_ref(), &image).await? {
            return self.restore(local, database).await;
        }
        // What this machine's own replica left goes on, unless somebody else has gone on in its place.
        if head.is_some_and(|head| head.generation == plan.revision.generation) {
            match self.ship(database.store(), database.name(), self.options.clone()).await {
                Ok(shipped) => return Ok(Opened { action: RestoreAction::Reuse, shipped }),
                Err(MigrateError::Replicate(error)) if error.is_taken_over() => {}
                Err(error) => return Err(error),
            }
        }
        // Both have what the other has not.
        if image.change_counter < self.counter_there(database).await? {
            return self.restore(local, database).await;
        }
        let options = ReplicaOptions { new_generation: true, ..self.options.clone() };
        let shipped = self.ship(database.store(), database.name(), options).await?;
        Ok(Opened { action: RestoreAction::SnapshotNeeded, shipped })
    }

    /// What is there takes the place of what is here, and of what a replica knew of that.
    async fn restore(&self, local: Option<Local>, database: &DatabaseStore) -> Result<Opened> {
        let restorer = Restorer::new(database.store().clone(), database.name().clone(), &self.path);
        let restored = restorer.existing(existing(local)).integrity_check(true).restore().await?.restored();
        let state = self.state_directory(database);
        blocking(move || forget(&state)).await?;
        Ok(match restored {
            Some(restored) => Opened { action: done(restored.installed), shipped: Some(restored.revision) },
            None => unreachable!("a file that is there is replaced"),
        })
    }

    fn state_directory(&self, database: &DatabaseStore) -> PathBuf {
        let directory = self.options.state_dir.clone().unwrap_or_else(|| StateDir::beside(&self.path));
        directory.join(StateDir::name_of(database.store().url(), database.name().as_str()))
    }

    /// The change counter of what is there.
    async fn counter_there(&self, database: &DatabaseStore) -> Result<u32> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(".".as_ref()).to_owned();
        let made = tempfile::Builder::new().prefix(".aquifer-open-").tempdir_in(&directory);
        let made = made.map_err(|e| MigrateError::io("write in", &directory, e))?;
        let file = made.path().join("there.db");
        let restorer = Restorer::new(database.store().clone(), database.name().clone(), &file);
        restorer.existing(Existing::Refuse).restore().await?;
        blocking(move || {
            let header = Handle::read_header(&file)?;
            drop(made);
            Ok(change_counter(&header))
        })
        .await
    }
}

fn image(path: &std::path::Path) -> Result<Image> {
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

/// Where this machine's own replica stood, if there was one.
fn head(state: &std::path::Path) -> Result<Option<Head>> {
    if !state.is_dir() {
        return Ok(None);
    }
    let failed = |e| MigrateError::io("read", state, e);
    let Some(directory) = StateDir::open(state).map_err(failed)? else {
        return Err(MigrateError::Replicated { state: state.to_owned() });
    };
    let (_, known) = MapFile::load(directory.path()).map_err(failed)?;
    Ok(known.map(|(head, _)| head))
}

fn forget(state: &std::path::Path) -> Result<()> {
    if !state.is_dir() {
        return Ok(());
    }
    let failed = |e| MigrateError::io("remove", state, e);
    let Some(_locked) = StateDir::open(state).map_err(failed)? else {
        return Err(MigrateError::Replicated { state: state.to_owned() });
    };
    fs::remove_dir_all(state).map_err(failed)
}

/// Whether the store's history went through the image that is here: where the replica here stood, or else at the end of a
/// segment of the newest generation.
async fn was_there(
    database: &DatabaseStore,
    newest: &Plan,
    head: Option<&Head>,
    image: &Image,
) -> Result<bool> {
    if let Some(head) = head
        && let Ok(plan) = Plan::make(database, Some(head.generation), Target::Txid(head.txid)).await
        && image.is(&plan)
    {
        return Ok(true);
    }
    let generation = newest.revision.generation;
    let mut segments = Vec::new();
    for level in database.levels(generation).await? {
        let listed: Vec<_> =
            database.segments(generation, level, aquifer_format::Txid::ZERO).try_collect().await?;
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
