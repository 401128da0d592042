//! A generation that is written and proven, and that nobody can find yet.

use aquifer_format::{GenerationId, Revision, Timestamp, WriterNonce};
use aquifer_log::store::Created;
use aquifer_log::{
    DatabaseStore, Generation, GenerationRecord, LogError, discard_unpublished, verify_unpublished,
};
use tokio::runtime::Handle;

use super::Importer;
use super::imported::ImportedGeneration;
use super::recorder::Recorder;
use crate::backup::{Backup, History};
use crate::error::{MigrateError, Result};
use crate::replay::replay;
use crate::restore::{blocking, check_integrity};

/// A generation without its record.
pub(super) struct Unpublished {
    generation: Generation,
    pub(super) imported: ImportedGeneration,
}

impl Importer {
    /// Writes a backup as a generation that begins at `at_least` or later, by its id; `None` if there is nothing in it.
    ///
    /// After an error nothing is left of it, as far as the store can be reached.
    pub(super) async fn write_one(
        &self,
        backup: &Backup,
        older: &[Backup],
        at_least: Timestamp,
    ) -> Result<Option<(Unpublished, History)>> {
        let Some(history) = backup.history(older).await? else { return Ok(None) };
        let begun = history.plan.pieces.iter().filter_map(|piece| piece.time).min();
        let begun = backup.created().or(begun).unwrap_or_else(Timestamp::now);
        let id = GenerationId::new(begun.max(at_least));
        match self.write_as(id, backup, history).await {
            Err(error) => {
                discard(&self.to, id).await;
                Err(error)
            }
            written => written,
        }
    }

    async fn write_as(
        &self,
        id: GenerationId,
        backup: &Backup,
        mut history: History,
    ) -> Result<Option<(Unpublished, History)>> {
        let writer = WriterNonce::random();
        let (from, to, directory) = (self.from.clone(), self.to.clone(), self.temp_dir.clone());
        let (limit, prefix, runtime) = (self.page_size, backup.prefix().to_owned(), Handle::current());
        let (recorded, replayed, history) = blocking(move || {
            let failed = |source| MigrateError::io("write in", &directory, source);
            let file =
                tempfile::Builder::new().prefix("aquifer-import-").tempfile_in(&directory).map_err(failed)?;
            let mut recorder = Recorder::new(&file, to, id, writer, limit, runtime)?;
            let replayed = replay(&from, &history.plan, &mut recorder)?;
            let recorded = recorder.finish()?;
            check_integrity(file.path(), prefix)?;
            history.plan.pieces.clear();
            Ok((recorded, replayed, history))
        })
        .await?;
        let Some(recorded) = recorded else { return Err(backup.broken("nothing was ever written to it")) };
        let mut record = GenerationRecord::new(recorded.page_size, writer);
        record.created_at = recorded.first_commit;
        let of =
            backup.generation().map_or_else(String::new, |generation| format!(", generation {generation}"));
        record.source = format!("{} at {}{of}", backup.format().name(), self.from.url());
        let generation = Generation { id, record };
        verify_unpublished(&self.to, &generation).await?;
        let imported = ImportedGeneration {
            backup: backup.clone(),
            revision: Revision { generation: id, txid: recorded.txid },
            pages: recorded.pages,
            page_size: recorded.page_size.get(),
            first_commit: recorded.first_commit,
            last_commit: recorded.last_commit,
            batches: recorded.txid.get(),
            bytes_fetched: replayed.bytes,
        };
        Ok(Some((Unpublished { generation, imported }, history)))
    }
}

impl Unpublished {
    /// Makes it a generation that everybody finds.
    pub(super) async fn publish(&self, to: &DatabaseStore) -> Result<()> {
        let Generation { id, record } = &self.generation;
        let key = to.layout().generation_record(*id);
        match to.store().create(&key, record.encode()).await? {
            Created::Taken(_) => Err(LogError::Taken { url: to.store().url().to_owned(), key }.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn discard(self, to: &DatabaseStore) {
        discard(to, self.generation.id).await;
    }
}

/// Removes what was written, as far as the store can be reached: what stays is swept by retention.
async fn discard(to: &DatabaseStore, id: GenerationId) {
    if let Err(error) = discard_unpublished(to, id).await {
        tracing::debug!(%error, generation = %id, "what was written of it stays");
    }
}
