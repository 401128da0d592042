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

/// What came of beginning a database with a generation.
pub(crate) enum Begun {
    /// It begins with that one.
    Ours(Generation),
    /// It begins with another one.
    Others,
}

impl DatabaseStore {
    /// The generation that a database without history begins with: the one that was begun so before, by anyone, or a
    /// new one with this record.
    ///
    /// After an error, or if the future is dropped, call it again. A generation without segments may be left.
    ///
    /// # Errors
    /// [`LogError::Taken`] if the generation that was the first is gone: somebody removed it, and not the database.
    /// [`LogError::BeingForked`] if the database is being made of another one.
    pub async fn begin(&self, record: GenerationRecord) -> Result<Generation, LogError> {
        if let Some(first) = self.first().await? {
            return self.begun(first).await;
        }
        let id = self.next_generation_id(record.created_at).await?;
        match self.begin_as(id, record).await? {
            Begun::Ours(generation) => Ok(generation),
            Begun::Others => match self.first().await? {
                Some(first) => self.begun(first).await,
                None => Err(self.taken(self.layout().first())),
            },
        }
    }

    /// Begins the database with this generation, if that is not decided yet, or decided so. Again: the same.
    pub(crate) async fn begin_as(
        &self,
        id: GenerationId,
        record: GenerationRecord,
    ) -> Result<Begun, LogError> {
        let record_key = self.layout().generation_record(id);
        let (record, is_new) = match self.store().create(&record_key, record.encode()).await? {
            Created::New | Created::AlreadyOurs => (record, true),
            Created::Taken(found) => (GenerationRecord::decode(self.store(), &record_key, &found)?, false),
        };
        let (key, ours) =
            (self.layout().first(), FirstRecord { generation: id, writer: WriterNonce::random() });
        let first = match self.store().create(&key, encode(&ours)).await? {
            Created::New | Created::AlreadyOurs => ours,
            Created::Taken(theirs) => decode(self.store(), &key, &theirs)?,
        };
        if first.generation == id {
            return Ok(Begun::Ours(Generation { id, record }));
        }
        if is_new {
            self.store().delete(&record_key).await?;
        }
        Ok(Begun::Others)
    }

    /// The generation that the database begins with, if that is decided.
    pub(crate) async fn first(&self) -> Result<Option<GenerationId>, LogError> {
        let key = self.layout().first();
        match self.store().get(&key).await {
            Ok(bytes) => Ok(Some(decode::<FirstRecord>(self.store(), &key, &bytes)?.generation)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn begun(&self, first: GenerationId) -> Result<Generation, LogError> {
        let Some(record) = self.generation_record(first).await? else {
            return Err(self.taken(self.layout().first()));
        };
        // Its first batch says what it continues. Whoever put another one there would break it.
        if record.parent.is_some() {
            let (url, name) = (self.store().url().to_owned(), self.name().clone());
            return Err(LogError::BeingForked { url, name });
        }
        Ok(Generation { id: first, record })
    }
}
