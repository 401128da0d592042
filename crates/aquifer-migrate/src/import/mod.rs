//! Import: backups of another program become generations of an Aquifer store, with their history.
//!
//! Each object that ends with a commit becomes a batch of level 0, with the time that its format tells. The generations'
//! records go last, when everything is written and proven: what is left of an import that was interrupted is no
//! generation, and retention sweeps it.

mod batch;
mod imported;
mod order;
mod recorder;
mod unpublished;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use aquifer_format::PageSize;
use aquifer_log::store::Store;
use aquifer_log::{DatabaseStore, LogError, StoreError};

use crate::backup::{Backup, Origin, choose};
use crate::error::{MigrateError, Result};
use crate::plan::Target;
pub use imported::{Imported, ImportedGeneration, LeftOut};
use unpublished::Unpublished;

/// Imports a backup of another program into a store.
#[derive(Debug, Clone)]
#[must_use = "it imports nothing before `import` is called"]
pub struct Importer {
    from: Store,
    origin: Origin,
    to: DatabaseStore,
    database: Option<String>,
    generation: Option<String>,
    all_generations: bool,
    page_size: Option<PageSize>,
    temp_dir: PathBuf,
}

/// What became of the generations that were found.
#[derive(Default)]
struct Outcome {
    /// Newest first.
    written: Vec<Unpublished>,
    left_out: Vec<LeftOut>,
    not_imported: usize,
}

impl Importer {
    /// Imports the newest line of history of the only database in `from`. `to` must not exist.
    pub fn new(from: Store, origin: Origin, to: DatabaseStore) -> Importer {
        Importer {
            from,
            origin,
            to,
            database: None,
            generation: None,
            all_generations: false,
            page_size: None,
            temp_dir: std::env::temp_dir(),
        }
    }

    /// This database, where there are several.
    pub fn database(mut self, name: impl Into<String>) -> Importer {
        self.database = Some(name.into());
        self
    }

    /// This generation instead of the newest.
    pub fn generation(mut self, id: impl Into<String>) -> Importer {
        self.generation = Some(id.into());
        self
    }

    /// Whether the generations before the newest are imported, too: each in which there is anything becomes a generation, in
    /// the order in which the origin has them, so that the newest that had begun is what a moment is restored from. One
    /// that another goes on from is part of that one's history. One that cannot be read is left out.
    pub fn all_generations(mut self, all: bool) -> Importer {
        self.all_generations = all;
        self
    }

    /// Refuses databases with pages of another size.
    pub fn only_page_size(mut self, size: PageSize) -> Importer {
        self.page_size = Some(size);
        self
    }

    /// Where a file as large as the database is made for as long as it runs, instead of the system's place.
    pub fn temp_dir(mut self, directory: impl AsRef<Path>) -> Importer {
        directory.as_ref().clone_into(&mut self.temp_dir);
        self
    }

    /// Imports, and proves what it has imported before anybody can find it: every segment, and SQLite's `integrity_check` of
    /// the newest revision of each generation.
    ///
    /// # Errors
    /// [`MigrateError::Exists`] if the store has a database of that name, also one that was deleted and may be had back;
    /// what reading the newest backup, or writing to the store, fails with; [`MigrateError::Partly`] if the newest
    /// generation is there and older ones could not be made visible.
    ///
    /// # Cancel safety
    /// Dropping the future, or an error other than `Partly`, leaves no database, or in the moment of the last writes one
    /// that has the whole newest generation. Objects may be left, which retention sweeps.
    pub async fn import(self) -> Result<Imported> {
        let name = self.to.name();
        if self.is_there().await? {
            return Err(MigrateError::Exists { url: self.to.store().url().to_owned(), name: name.clone() });
        }
        let (database, generation) = (self.database.as_deref(), self.generation.as_deref());
        let found = choose(&self.from, self.origin, database, generation, Target::Latest).await?;
        let mut outcome = Outcome::default();
        if let Err(error) = self.write(&found, &mut outcome).await {
            discard_all(&self.to, outcome.written).await;
            return Err(error);
        }
        self.publish(outcome).await
    }

    async fn is_there(&self) -> Result<bool> {
        let there = match self.to.latest_generation().await {
            Ok(latest) => latest.is_some(),
            // The first write makes the directory.
            Err(LogError::Store(StoreError::NoStore { .. })) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        Ok(there || self.to.control().await?.deleted.is_some())
    }

    /// Writes the newest backup that has anything in it, and those before it where they are wanted.
    async fn write(&self, found: &[Backup], outcome: &mut Outcome) -> Result<()> {
        let begins = order::begins(found);
        let mut held: HashSet<String> = HashSet::new();
        for (at, backup) in found.iter().enumerate() {
            if held.contains(backup.prefix()) {
                continue;
            }
            if !outcome.written.is_empty() && !self.all_generations {
                outcome.not_imported += 1;
                continue;
            }
            let older = if self.all_generations { &found[at + 1..] } else { &[] };
            let left_out = |reason| LeftOut { generation: backup.generation().map(str::to_owned), reason };
            match self.write_one(backup, older, begins[at]).await {
                Ok(Some((written, history))) => {
                    held.extend(history.holds);
                    outcome.left_out.extend(history.left_out.map(left_out));
                    outcome.written.push(written);
                }
                Ok(None) => {}
                Err(error) if !outcome.written.is_empty() && error.is_of_the_backup() => {
                    outcome.left_out.push(left_out(error));
                }
                Err(error) => return Err(error),
            }
        }
        if outcome.written.is_empty() {
            return Err(MigrateError::NoBackup {
                url: self.from.url().to_owned(),
                of: "with anything in it".to_owned(),
                hint: "DATABASE-GENERATION/, ltx/, generations/ or snapshots/",
            });
        }
        Ok(())
    }

    /// Makes the generations visible, the newest first: however far it comes, what is newest is.
    async fn publish(&self, outcome: Outcome) -> Result<Imported> {
        let Outcome { written, left_out, not_imported } = outcome;
        for (published, generation) in written.iter().enumerate() {
            let Err(source) = generation.publish(&self.to).await else { continue };
            let is_unknown = matches!(&source, MigrateError::Store(error) if error.outcome_unknown());
            if published > 0 {
                return Err(MigrateError::Partly {
                    url: self.to.store().url().to_owned(),
                    name: self.to.name().clone(),
                    newest: written[0].imported.revision,
                    missing: written.len() - published,
                    source: Box::new(source),
                });
            }
            if !is_unknown {
                discard_all(&self.to, written).await;
            }
            return Err(source);
        }
        let mut generations = written.into_iter().map(|written| written.imported);
        let Some(newest) = generations.next() else { unreachable!("without any it is an error before") };
        Ok(Imported { newest, older: generations.collect(), left_out, not_imported })
    }
}

async fn discard_all(to: &DatabaseStore, written: Vec<Unpublished>) {
    for generation in written {
        generation.discard(to).await;
    }
}
