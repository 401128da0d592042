//! Spans: stretches of a generation whose frames are numbered, for clients of libSQL's sync protocol (which calls them
//! generations).
//!
//! A span begins after a txid, its frames are numbered from 1, and it ends where the next one begins. Which numbers a
//! batch has follows from its own segment and those before it; so as long as a span may be asked for, the level-0
//! segments of its batches stay ([`retain`](crate::retain())), and its beginning stays restorable.

use std::time::Duration;

use aquifer_format::{GenerationId, Timestamp, Txid, WriterNonce};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::generation::{decode, encode};
use crate::store::Created;

/// For how long after it was begun or renewed a span keeps what it needs.
const HELD: Duration = Duration::from_hours(7 * 24);

/// A span of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its number, which is unique in the generation; the next span's is one more.
    pub number: u32,
    /// The txid that it begins after.
    pub start: Txid,
    /// When it was begun or last renewed, by the store's clock.
    pub renewed: Timestamp,
}

/// What `spans/<number>.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SpanRecord {
    start: Txid,
    /// Makes the record one that nobody else writes.
    writer: WriterNonce,
}

impl DatabaseStore {
    /// The spans of a generation, by number. One LIST, and one GET each.
    pub async fn spans(&self, generation: GenerationId) -> Result<Vec<Span>, LogError> {
        let prefix = self.layout().spans(generation);
        let mut listing = self.store().list(&prefix, None);
        let mut spans = Vec::new();
        while let Some(info) = listing.try_next().await? {
            let Some(number) = self.layout().span_number(generation, &info.key) else { continue };
            let record: SpanRecord = match self.store().get(&info.key).await {
                Ok(bytes) => decode(self.store(), &info.key, &bytes)?,
                Err(e) if e.is_not_found() => continue,
                Err(e) => return Err(e.into()),
            };
            spans.push(Span { number, start: record.start, renewed: info.last_modified });
        }
        spans.sort_by_key(|span| span.number);
        Ok(spans)
    }

    /// Begins a span, or finds the one that somebody else has begun with this number.
    pub async fn begin_span(
        &self,
        generation: GenerationId,
        number: u32,
        start: Txid,
    ) -> Result<Span, LogError> {
        let key = self.layout().span(generation, number);
        let ours = SpanRecord { start, writer: WriterNonce::random() };
        let start = match self.store().create(&key, encode(&ours)).await? {
            Created::New | Created::AlreadyOurs => start,
            Created::Taken(theirs) => decode::<SpanRecord>(self.store(), &key, &theirs)?.start,
        };
        Ok(Span { number, start, renewed: Timestamp::now() })
    }

    /// Says that a span is still in use.
    pub async fn renew_span(&self, generation: GenerationId, span: &Span) -> Result<(), LogError> {
        let record = SpanRecord { start: span.start, writer: WriterNonce::random() };
        Ok(self.store().put(&self.layout().span(generation, span.number), encode(&record)).await?)
    }

    /// Gives a span up: whoever asks for it is told that it is gone.
    pub async fn remove_span(&self, generation: GenerationId, number: u32) -> Result<(), LogError> {
        Ok(self.store().delete(&self.layout().span(generation, number)).await?)
    }

    /// The spans that keep what they need, at this time by the store's clock.
    pub(crate) async fn held_spans(
        &self,
        generation: GenerationId,
        now: Timestamp,
    ) -> Result<Vec<Span>, LogError> {
        let mut spans = self.spans(generation).await?;
        spans.retain(|span| now.since(span.renewed) < HELD);
        Ok(spans)
    }
}
