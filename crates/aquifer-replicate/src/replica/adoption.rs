//! What a replica does at its start that has nothing of its own to go on with: it continues the newest generation of the
//! store if that is exactly the database in the file, or begins one.

use std::collections::VecDeque;
use std::path::Path;

use aquifer_format::{GenerationId, Timestamp, Txid, WriterNonce};
use aquifer_log::{DatabaseStore, GenerationRecord, LogError, Plan, PlanError, Target, remove_generation};
use aquifer_sqlite::WalPosition;
use futures::TryStreamExt;

use super::recovery::{Start, must_not_be_served, open_capture, outdated};
use super::{Shared, staging};
use crate::capture::Capture;
use crate::options::{Primary, ReplicaOptions};
use crate::state::{Head, PageMap, StateDir};
use crate::{Error, Result};

/// A database file, and the store in which its history is to go on.
#[derive(Clone, Copy)]
pub(super) struct Adoption<'a> {
    pub(super) database: &'a DatabaseStore,
    pub(super) path: &'a Path,
    pub(super) options: &'a ReplicaOptions,
    pub(super) shared: &'a Shared,
    pub(super) directory: &'a StateDir,
}

/// The newest generation is this database, or the database is to be captured from its beginning.
enum Adopted {
    Same(Start),
    Other(Capture),
}

impl Adoption<'_> {
    /// Continues the newest generation if it is exactly this database, else begins a new one.
    pub(super) async fn adopt_or_begin(self) -> Result<Start> {
        let capture = open_capture(self.path, None, self.options, self.shared, self.directory).await?;
        match self.adopt(capture).await? {
            Adopted::Same(start) => Ok(start),
            Adopted::Other(capture) => self.begin(capture).await,
        }
    }

    /// Continues the newest generation if it is exactly this database: after somebody else had gone on, the file was
    /// restored to what they left.
    pub(super) async fn adopt_restored(self) -> Result<Option<Start>> {
        let capture = open_capture(self.path, None, self.options, self.shared, self.directory).await?;
        match self.adopt(capture).await? {
            Adopted::Same(start) => Ok(Some(start)),
            Adopted::Other(_) => Ok(None),
        }
    }

    /// The newest revision, as far as there is one that can be continued.
    async fn newest(self) -> Result<Option<Plan>> {
        if self.options.new_generation {
            return Ok(None);
        }
        match Plan::make(self.database, None, Target::Latest).await {
            Ok(plan) => Ok(Some(plan)),
            Err(e) if e.is_no_replica() => Ok(None),
            Err(PlanError::Log(e)) if e.is_transient() => Err(e.into()),
            // What is there is somebody's data: no generation may hide it.
            Err(e) if self.options.primary == Primary::Store => Err(e.into()),
            Err(e) => {
                tracing::warn!(error = %e, "the newest generation cannot be continued");
                Ok(None)
            }
        }
    }

    async fn adopt(self, mut capture: Capture) -> Result<Adopted> {
        let Some(plan) = self.newest().await? else { return Ok(Adopted::Other(capture)) };
        let is_same = if plan.page_size == capture.page_size() {
            let (adopted, is_same) = self
                .shared
                .workers
                .run(move || {
                    let is_same = capture.adopt_if(plan.size_after, plan.checksum_after);
                    (capture, is_same)
                })
                .await;
            capture = adopted;
            is_same?
        } else {
            false
        };
        if !is_same {
            if self.options.primary == Primary::Store {
                return Err(outdated(self.database, self.path));
            }
            tracing::info!(newest = %plan.revision, "the newest generation is another image than this database");
            return Ok(Adopted::Other(capture));
        }
        tracing::info!(revision = %plan.revision, "continuing the newest generation");
        let head = Head {
            generation: plan.revision.generation,
            txid: plan.revision.txid,
            writer: WriterNonce::random(),
            previous: None,
            page_size: plan.page_size,
            last_commit: plan.last_commit,
            wal: *capture.position(),
        };
        let map = capture.map().clone();
        let (staged, capture) = (VecDeque::new(), Some(capture));
        Ok(Adopted::Same(Start { head, map, staged, capture, is_settled: true }))
    }

    async fn begin(self, capture: Capture) -> Result<Start> {
        let Adoption { database, path, options, shared, directory } = self;
        let (writer, page_size) = (WriterNonce::random(), capture.page_size());
        let mut record = GenerationRecord::new(page_size, writer);
        record.host.clone_from(&shared.host);
        record.source = path.display().to_string();
        let generation = match options.primary {
            Primary::File => {
                let generation = database.create_generation(record).await?;
                // A server that has claimed the database since may not have seen it.
                if let Err(error) = must_not_be_served(database, options).await {
                    if let Err(left) = remove_generation(database, generation.id).await {
                        tracing::warn!(generation = %generation.id, error = %left, "an empty generation is left");
                    }
                    return Err(error);
                }
                generation
            }
            // Other servers may be at it. If one was faster, the first put tells.
            Primary::Store => database.begin(record).await?,
        };
        if generation.record.page_size != page_size {
            return Err(outdated(database, path));
        }
        tracing::info!(generation = %generation.id, "new generation");
        // What waited for the store was to go on with another history.
        for (_, file, _) in
            staging::load(&directory.staging(), Txid::ZERO).map_err(Error::state(directory.staging()))?
        {
            staging::remove(&file).map_err(Error::state(file))?;
        }
        let head = Head {
            generation: generation.id,
            txid: Txid::ZERO,
            writer,
            previous: None,
            page_size,
            last_commit: Timestamp::default(),
            wal: WalPosition::NO_WAL,
        };
        let map = PageMap::empty(page_size);
        let (staged, capture) = (VecDeque::new(), Some(capture));
        Ok(Start { head, map, staged, capture, is_settled: true })
    }
}

/// The newest generation that has anything, if that is a newer one than this: then a restore takes it, whatever is shipped
/// into this one. One LIST, as a rule.
pub(super) async fn superseding(
    database: &DatabaseStore,
    generation: GenerationId,
) -> Result<Option<GenerationId>> {
    let mut newer = database.generation_ids();
    while let Some(id) = newer.try_next().await.map_err(LogError::from)?.filter(|id| *id != generation) {
        // Without a record its removal was begun, without a segment nothing of it became durable.
        if database.generation_record(id).await?.is_some() && !database.levels(id).await?.is_empty() {
            return Ok(Some(id));
        }
    }
    Ok(None)
}
