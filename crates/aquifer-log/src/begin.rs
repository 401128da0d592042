//! The first generation of a database that several servers may open at once.
//!
//! Level 0 keeps two writers of one generation apart, but not two who begin generations of their own: the newer one
//! would hide what was acknowledged in the other. So which generation is the first is decided by a create of its own,
//! `first.json`; whoever loses uses the winner's.

use aquifer_format::{GenerationId, WriterNonce};
use serde::{Deserialize, Serialize};

use crate::database::{DatabaseStore, Generation};
use crate::error::LogError;
use crate::generation::{GenerationRecord, decode, encode};
use crate::store::Created;

/// What `first.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FirstRecord {
    generation: GenerationId,
    /// Makes the record one that nobody else writes.
    writer: WriterNonce,
}

impl DatabaseStore {
    /// The generation that a database without history begins with: the one that was begun so before, by anyone, or a
    /// new one with this record.
    ///
    /// After an error, or if the future is dropped, call it again. A generation without segments may be left.
    ///
    /// # Errors
    /// [`LogError::Taken`] if the generation that was the first is gone: somebody removed it, and not the database.
    pub async fn begin(&self, record: GenerationRecord) -> Result<Generation, LogError> {
        if let Some(first) = self.first_record().await? {
            return self.begun(&first).await;
        }
        let writer = record.writer;
        let generation = self.create_generation(record).await?;
        let ours = FirstRecord { generation: generation.id, writer };
        let key = self.layout().first();
        match self.store().create(&key, encode(&ours)).await? {
            Created::New | Created::AlreadyOurs => Ok(generation),
            Created::Taken(theirs) => {
                self.store().delete(&self.layout().generation_record(generation.id)).await?;
                self.begun(&decode(self.store(), &key, &theirs)?).await
            }
        }
    }

    async fn first_record(&self) -> Result<Option<FirstRecord>, LogError> {
        let key = self.layout().first();
        match self.store().get(&key).await {
            Ok(bytes) => decode(self.store(), &key, &bytes).map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn begun(&self, first: &FirstRecord) -> Result<Generation, LogError> {
        let record = self.generation_record(first.generation).await?;
        record
            .map(|record| Generation { id: first.generation, record })
            .ok_or_else(|| LogError::Taken { url: self.store().url().to_owned(), key: self.layout().first() })
    }
}
