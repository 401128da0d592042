//! Import: a backup of another program becomes a generation of an Aquifer store, with its history.
//!
//! Each object that ends with a commit becomes a batch of level 0, with the time that its format tells. The generation's
//! record goes last: what is left of an import that was interrupted is no generation, and retention sweeps it.

mod batch;
mod recorder;

use std::path::{Path, PathBuf};

use aquifer_format::{GenerationId, PageSize, Revision, Timestamp, WriterNonce};
use aquifer_log::store::{Created, Store};
use aquifer_log::{DatabaseStore, GenerationRecord, LogError, Scope, StoreError, verify};
use tokio::runtime::Handle;

use crate::backup::{Backup, Origin, choose};
use crate::error::{MigrateError, Result};
use crate::plan::Target;
use crate::replay::replay;
use crate::restore::{blocking, check_integrity};
use recorder::Recorder;

/// Imports a backup of another program into a store.
#[derive(Debug, Clone)]
#[must_use = "it imports nothing before `import` is called"]
pub struct Importer {
    from: Store,
    origin: Origin,
    to: DatabaseStore,
    database: Option<String>,
    generation: Option<String>,
    page_size: Option<PageSize>,
    temp_dir: PathBuf,
}

/// What was imported.
#[derive(Debug, Clone)]
pub struct Imported {
    /// What it was imported from.
    pub backup: Backup,
    /// The newest revision.
    pub revision: Revision,
    /// Its pages.
    pub pages: u32,
    /// Their size in bytes.
    pub page_size: u32,
    /// When the first of its batches was committed, as the origin tells.
    pub first_commit: Timestamp,
    /// When the last one was.
    pub last_commit: Timestamp,
    /// Batches of its history, each a moment that can be restored.
    pub batches: u64,
    /// Bytes read.
    pub bytes_fetched: u64,
}

impl Importer {
    /// Imports the newest line of history of the only database in `from`. `to` must not exist.
    pub fn new(from: Store, origin: Origin, to: DatabaseStore) -> Importer {
        let temp_dir = std::env::temp_dir();
        Importer { from, origin, to, database: None, generation: None, page_size: None, temp_dir }
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

    /// Imports, and proves what it has imported: every segment, and SQLite's `integrity_check` of the newest revision.
    ///
    /// # Errors
    /// [`MigrateError::Exists`] if the store has a database of that name, also one that was deleted and may be had back;
    /// what reading the backup, or writing to the store, fails with.
    ///
    /// # Cancel safety
    /// Dropping the future, or an error, leaves no database; objects may be left, which retention sweeps.
    pub async fn import(self) -> Result<Imported> {
        let name = self.to.name();
        if self.is_there().await? {
            return Err(MigrateError::Exists { url: self.to.store().url().to_owned(), name: name.clone() });
        }
        let (backup, plan) = self.history().await?;
        let writer = WriterNonce::random();
        let begun = plan.pieces.iter().filter_map(|piece| piece.time).min().unwrap_or_else(Timestamp::now);
        let generation = GenerationId::new(begun);
        let (from, to, directory) = (self.from.clone(), self.to.clone(), self.temp_dir.clone());
        let (limit, prefix, runtime) = (self.page_size, backup.prefix().to_owned(), Handle::current());
        let (recorded, replayed) = blocking(move || {
            let failed = |source| MigrateError::io("write in", &directory, source);
            let file =
                tempfile::Builder::new().prefix("aquifer-import-").tempfile_in(&directory).map_err(failed)?;
            let mut recorder = Recorder::new(&file, to, generation, writer, limit, runtime)?;
            let replayed = replay(&from, &plan, &mut recorder)?;
            let recorded = recorder.finish()?;
            check_integrity(file.path(), prefix)?;
            Ok((recorded, replayed))
        })
        .await?;
        let Some(recorded) = recorded else { return Err(backup.broken("nothing was ever written to it")) };
        let mut record = GenerationRecord::new(recorded.page_size, writer);
        record.created_at = begun;
        record.source = format!("{} at {}", backup.format().name(), self.from.url());
        self.publish(generation, &record).await?;
        Ok(Imported {
            backup,
            revision: Revision { generation, txid: recorded.txid },
            pages: recorded.pages,
            page_size: recorded.page_size.get(),
            first_commit: recorded.first_commit,
            last_commit: recorded.last_commit,
            batches: recorded.txid.get(),
            bytes_fetched: replayed.bytes,
        })
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

    /// The newest backup that has anything in it, in as many steps as it has.
    async fn history(&self) -> Result<(Backup, crate::plan::Plan)> {
        let (database, generation) = (self.database.as_deref(), self.generation.as_deref());
        let found = choose(&self.from, self.origin, database, generation, Target::Latest).await?;
        for backup in found {
            if let Some(plan) = backup.history().await? {
                return Ok((backup, plan));
            }
        }
        Err(MigrateError::NoBackup {
            url: self.from.url().to_owned(),
            of: "with anything in it".to_owned(),
            hint: "DATABASE-GENERATION/, ltx/, generations/ or snapshots/",
        })
    }

    /// Makes it a generation, and proves it.
    async fn publish(&self, generation: GenerationId, record: &GenerationRecord) -> Result<()> {
        let key = self.to.layout().generation_record(generation);
        if let Created::Taken(_) = self.to.store().create(&key, record.encode()).await? {
            return Err(LogError::Taken { url: self.to.store().url().to_owned(), key }.into());
        }
        verify(&self.to, Some(generation), aquifer_log::Target::Latest, Scope::All, |_| {}).await?;
        Ok(())
    }
}
