//! Restore: a database file from somebody else's backup.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_log::store::Store;
use aquifer_replicate::restore::{Destination, Existing, Installed, Temporary};
use tokio::task::spawn_blocking;

use crate::backup::{Backup, Origin, choose};
use crate::error::{MigrateError, Result};
use crate::image::Image;
use crate::plan::{Plan, Target};
use crate::replay::{Replayed, replay};

/// Restores a database from a backup of another program into a file.
#[derive(Debug, Clone)]
#[must_use = "it restores nothing before `restore` is called"]
pub struct Restorer {
    store: Store,
    origin: Origin,
    output: PathBuf,
    database: Option<String>,
    generation: Option<String>,
    target: Target,
    existing: Existing,
    integrity_check: bool,
}

/// A restored database.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What it was restored from.
    pub backup: Backup,
    /// The last position that is in it, as the format counts; 0 if nothing came after the snapshot.
    pub position: u64,
    /// Its pages; 0 for a database that nothing was ever written to.
    pub pages: u32,
    /// Their size in bytes, 0 without any.
    pub page_size: u32,
    /// Objects that it was made from.
    pub objects: usize,
    /// Their bytes.
    pub bytes_fetched: u64,
    /// Newer generations passed over because there is nothing in them.
    pub skipped: Vec<String>,
    /// Whether SQLite's integrity check was run.
    pub integrity_checked: bool,
    /// Time that it took.
    pub duration: Duration,
    /// What became of the file that was there before.
    pub installed: Installed,
}

impl Restorer {
    /// Restores the newest state of the only database in `store` into the file `output`, which must not exist.
    pub fn new(store: Store, origin: Origin, output: impl AsRef<Path>) -> Restorer {
        Restorer {
            store,
            origin,
            output: output.as_ref().to_owned(),
            database: None,
            generation: None,
            target: Target::Latest,
            existing: Existing::Refuse,
            integrity_check: false,
        }
    }

    /// This database, where there are several.
    pub fn database(mut self, name: impl Into<String>) -> Restorer {
        self.database = Some(name.into());
        self
    }

    /// From this generation instead of the newest.
    pub fn generation(mut self, id: impl Into<String>) -> Restorer {
        self.generation = Some(id.into());
        self
    }

    /// At this moment or position instead of the newest.
    pub fn target(mut self, target: Target) -> Restorer {
        self.target = target;
        self
    }

    /// What to do with a file that is there already.
    pub fn existing(mut self, existing: Existing) -> Restorer {
        self.existing = existing;
        self
    }

    /// Whether to run SQLite's `integrity_check` before the file is put in place. It is run in any case where a
    /// format's objects do not prove that they belong together.
    pub fn integrity_check(mut self, check: bool) -> Restorer {
        self.integrity_check = check;
        self
    }

    /// Restores; `None` if the file exists and is to be kept. Needs a runtime of tokio's with its time driver.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the target as it was, and the temporary file is removed. In the moment of the final
    /// rename it may still happen.
    pub async fn restore(self) -> Result<Option<Restored>> {
        let started = Instant::now();
        let (path, existing) = (self.output.clone(), self.existing);
        let checked = blocking(move || Ok(Destination::check(&path, existing)?)).await?;
        let Some(destination) = checked else { return Ok(None) };
        let (backup, plan, skipped) = self.plan().await?;
        let plan = plan.unwrap_or(Plan { page_size: None, check: false, pieces: Vec::new() });
        let (check, store, prefix) =
            (self.integrity_check || plan.check, self.store.clone(), backup.prefix().to_owned());
        let made = blocking(move || {
            let temporary = destination.create_temporary()?;
            let made = make(&store, &plan, &temporary)?;
            if check && made.pages > 0 {
                check_integrity(&temporary.path, prefix)?;
            }
            let installed = destination.install(temporary)?;
            Ok((made, installed))
        });
        let (Made { replayed, pages, page_size }, installed) = made.await?;
        Ok(Some(Restored {
            backup,
            position: replayed.position,
            pages,
            page_size,
            objects: replayed.objects,
            bytes_fetched: replayed.bytes,
            skipped,
            integrity_checked: check && pages > 0,
            duration: started.elapsed(),
            installed,
        }))
    }

    /// What to restore. Where nothing was said, generations without anything in them are passed over: a process began
    /// them and was gone before it had a snapshot. So are those without anything from the moment that is wanted. If there is
    /// nothing in any, it is the newest, without a plan.
    async fn plan(&self) -> Result<(Backup, Option<Plan>, Vec<String>)> {
        let (database, generation) = (self.database.as_deref(), self.generation.as_deref());
        let found = choose(&self.store, self.origin, database, generation, self.target).await?;
        let (mut skipped, mut too_early) = (Vec::new(), None);
        for backup in &found {
            match (backup.plan(self.target).await, self.target) {
                (Ok(Some(plan)), _) => return Ok((backup.clone(), Some(plan), skipped)),
                (Ok(None), _) => skipped.extend(backup.generation().map(str::to_owned)),
                (Err(error @ MigrateError::NoGeneration { .. }), Target::Timestamp(_)) => {
                    too_early = too_early.or(Some(error));
                }
                (Err(error), _) => return Err(error),
            }
        }
        too_early.map_or_else(|| Ok((found[0].clone(), None, Vec::new())), Err)
    }
}

/// Restores the newest state of the only database in `from`, if there is no file at `output`: what an application calls before
/// it opens its database. True if it was restored; false if the file is there already, or there is no backup.
///
/// The database is made beside its place and checked by SQLite before it has its name: the file is whole, or not there.
///
/// ```no_run
/// # async fn example(from: aquifer_log::Store) -> Result<(), aquifer_migrate::MigrateError> {
/// if aquifer_migrate::auto_restore(from, aquifer_migrate::Origin::Zlayer, "app.db").await? {
///     println!("app.db was lost, and is back");
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A backup that is there and cannot be restored is an error, not `false`: an application that began anew then would replace
/// it in the end.
pub async fn auto_restore(from: Store, origin: Origin, output: impl AsRef<Path>) -> Result<bool> {
    let restorer = Restorer::new(from, origin, output).existing(Existing::Keep).integrity_check(true);
    match restorer.restore().await {
        Ok(restored) => Ok(restored.is_some()),
        Err(error) if error.is_no_backup() => Ok(false),
        Err(error) => Err(error),
    }
}

struct Made {
    replayed: Replayed,
    pages: u32,
    page_size: u32,
}

/// Makes the database in the temporary file, and flushes it.
fn make(store: &Store, plan: &Plan, temporary: &Temporary) -> Result<Made> {
    let mut image = Image::new(Arc::clone(&temporary.file), &temporary.path);
    let replayed = replay(store, plan, &mut image)?;
    let (pages, page_size) = image.finish()?;
    Ok(Made { replayed, pages, page_size: page_size.map_or(0, aquifer_format::PageSize::get) })
}

pub(crate) fn check_integrity(path: &Path, prefix: String) -> Result<()> {
    let problems = aquifer_sqlite::integrity_check(path)?;
    if problems.is_empty() { Ok(()) } else { Err(MigrateError::Integrity { prefix, problems }) }
}

/// Runs it on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}
