//! Cursors: the results of a batch as JSON lines while it runs, in bounded memory whatever their size.
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rusqlite::Row;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::Failure;
use super::request::CursorBody;
use super::response::{Col, WireError, milliseconds, values};
use super::streams::{Baton, Stream};
use super::{Database, Hrana, Running, StopOnDrop};
use crate::sql::{Access, Column, Interrupter, Sink, SqlError, Step, Summary, Value};

/// A chunk is sent when it has this many bytes (one row can make it larger).
const CHUNK: usize = 32 << 10;
/// Chunks between the statement and the socket.
const CHUNKS: usize = 2;

/// A line of the answer.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Entry {
    StepBegin {
        step: usize,
        cols: Vec<Col>,
    },
    Row {
        row: Vec<Value>,
    },
    StepEnd {
        affected_row_count: u64,
        last_insert_rowid: Option<String>,
        rows_read: u64,
        rows_written: u64,
        query_duration_ms: f64,
    },
    StepError {
        step: usize,
        error: WireError,
    },
    Error {
        error: WireError,
    },
}

/// Lines on their way, and whether they reveal something that may not be durable yet.
struct Chunk {
    lines: Vec<u8>,
    reveals: bool,
}

/// Answers `POST …/v3/cursor`: the batch in `body`, as JSON lines while it runs. The statement waits for its reader.
///
/// No line leaves before what it could have seen is durable. When the answer is dropped, what runs is stopped and
/// rolled back. The baton is valid when the last line has arrived.
pub async fn cursor<D: Database>(hrana: &Arc<Hrana<D>>, access: Access, body: &[u8]) -> Response {
    answer(hrana, access, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer<D: Database>(
    hrana: &Arc<Hrana<D>>,
    access: Access,
    body: &[u8],
) -> Result<Response, Failure> {
    let CursorBody { baton, batch } = serde_json::from_slice(body)?;
    let steps = batch.into_steps()?;
    let mut stream = hrana.stream(baton.as_deref(), access).await?;
    let interrupter = stream.session().interrupter();
    let baton = Baton::for_stream(&stream)?;
    let first = format!("{{\"baton\":\"{}\",\"base_url\":null}}\n", baton.text());
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let writer = Writer {
        chunks,
        runtime: Handle::current(),
        interrupter: interrupter.clone(),
        patience: hrana.settings.slow_reader,
        chunk: Chunk { lines: Vec::new(), reveals: false },
        fresh: false,
    };
    let counted = Running::one(&hrana.running);
    let span = tracing::Span::current();
    let running = tokio::task::spawn_blocking(move || {
        let stream = span.in_scope(|| run(stream, &steps, writer));
        drop(counted);
        stream
    });
    let answer =
        Answer { hrana: hrana.clone(), stop: StopOnDrop(Some(interrupter)), baton, receiver, running };
    let lines = futures::stream::unfold(Some(answer), |answer| async move {
        let (lines, answer) = answer?.next().await?;
        Some((Ok::<_, std::convert::Infallible>(lines), answer))
    });
    let all = futures::StreamExt::chain(futures::stream::once(async move { Ok(Bytes::from(first)) }), lines);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(all)).into_response())
}

/// The half that the socket pulls.
struct Answer<D> {
    hrana: Arc<Hrana<D>>,
    stop: StopOnDrop,
    baton: Baton,
    receiver: mpsc::Receiver<Chunk>,
    running: JoinHandle<Option<Stream>>,
}

impl<D: Database> Answer<D> {
    /// The next lines; `None` beside them when they are the last, `None` when there are none.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        let Some(Chunk { lines, reveals }) = self.receiver.recv().await else {
            let error = match (&mut self.running).await {
                Ok(Some(stream)) => {
                    self.stop.disarm();
                    self.hrana.streams.park(stream, &self.baton);
                    return None;
                }
                Ok(None) => Failure::SlowReader { patience: self.hrana.settings.slow_reader }.wire(),
                Err(_) => Failure::Panicked.wire(),
            };
            return Some((line(&Entry::Error { error }).into(), None));
        };
        if reveals && let Err(error) = self.hrana.database.durable().await {
            let error = Failure::Unavailable(error).wire();
            return Some((line(&Entry::Error { error }).into(), None));
        }
        Some((lines.into(), Some(self)))
    }
}

/// Runs the batch to its end; when nobody reads any more, only until then, and ends the stream here and now: the
/// other half may never be asked again.
fn run(mut stream: Stream, steps: &[Step], mut writer: Writer) -> Option<Stream> {
    let ended = match stream.session().batch(steps, &mut writer) {
        Ok(()) => writer.send(),
        Err(SqlError::Cancelled) => Err(SqlError::Cancelled),
        Err(error) => writer.write(&Entry::Error { error: error.into() }).and_then(|()| writer.send()),
    };
    ended.ok().map(|()| stream)
}

fn line(entry: &Entry) -> Vec<u8> {
    let mut line = serde_json::to_vec(entry).expect("an entry has only what JSON can carry");
    line.push(b'\n');
    line
}

/// The half that the statement writes to.
struct Writer {
    chunks: mpsc::Sender<Chunk>,
    runtime: Handle,
    interrupter: Interrupter,
    patience: Duration,
    chunk: Chunk,
    /// Whether the running step has written no row yet: its first row tells which snapshot it sees.
    fresh: bool,
}

impl Writer {
    fn write(&mut self, entry: &Entry) -> Result<(), SqlError> {
        serde_json::to_writer(&mut self.chunk.lines, entry).expect("an entry has only what JSON can carry");
        self.chunk.lines.push(b'\n');
        if self.chunk.lines.len() >= CHUNK { self.send() } else { Ok(()) }
    }

    /// Hands the lines over, once there is room; the statement is cancelled when nobody takes them in time.
    fn send(&mut self) -> Result<(), SqlError> {
        if self.chunk.lines.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Chunk { lines: Vec::new(), reveals: false });
        let Err(mpsc::error::TrySendError::Full(chunk)) = self.chunks.try_send(chunk) else {
            return self.read();
        };
        let since = Instant::now();
        let sent = self
            .runtime
            .block_on(async { tokio::time::timeout(self.patience, self.chunks.send(chunk)).await });
        self.interrupter.extend(since.elapsed());
        match sent {
            Ok(Ok(())) => Ok(()),
            _ => Err(SqlError::Cancelled),
        }
    }

    fn read(&self) -> Result<(), SqlError> {
        if self.chunks.is_closed() { Err(SqlError::Cancelled) } else { Ok(()) }
    }
}

impl Sink for Writer {
    fn begin(&mut self, step: usize, columns: Vec<Column>) -> Result<(), SqlError> {
        self.fresh = true;
        // The columns tell the schema, which may have been changed just now.
        self.chunk.reveals = true;
        self.write(&Entry::StepBegin { step, cols: columns.into_iter().map(Into::into).collect() })
    }

    fn row(&mut self, row: &Row<'_>, columns: &[String]) -> Result<(), SqlError> {
        let row = values(row, columns)?;
        self.chunk.reveals |= std::mem::take(&mut self.fresh);
        self.write(&Entry::Row { row })
    }

    fn end(&mut self, _step: usize, summary: Summary) -> Result<(), SqlError> {
        self.chunk.reveals = true;
        self.write(&Entry::StepEnd {
            affected_row_count: summary.affected_row_count,
            last_insert_rowid: summary.last_insert_rowid.map(|rowid| rowid.to_string()),
            rows_read: summary.rows_read,
            rows_written: summary.rows_written,
            query_duration_ms: milliseconds(summary.duration),
        })
    }

    fn failed(&mut self, step: usize, error: SqlError) -> Result<(), SqlError> {
        self.chunk.reveals = true;
        self.write(&Entry::StepError { step, error: error.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Limits, Session};

    #[test]
    fn a_cursor_holds_no_more_than_a_few_chunks_for_a_reader_that_takes_nothing() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let session = Session::open(connection, Access::ReadWrite, Limits::default()).unwrap();
        let (chunks, mut receiver) = mpsc::channel(CHUNKS);
        let mut writer = Writer {
            chunks,
            runtime: runtime.handle().clone(),
            interrupter: session.interrupter(),
            patience: Duration::from_millis(1),
            chunk: Chunk { lines: Vec::new(), reveals: false },
            fresh: false,
        };
        let entry = Entry::Row { row: vec![Value::Text("x".repeat(1000))] };
        let written = (0..1000).take_while(|_| writer.write(&entry).is_ok()).count();
        assert!(
            written * 1000 < (CHUNKS + 1) * (CHUNK + 1000),
            "{written} rows were taken from the statement"
        );
        drop(writer);
        let mut held = 0;
        while let Ok(chunk) = receiver.try_recv() {
            held += chunk.lines.len();
        }
        assert!(held > 0 && held < CHUNKS * (CHUNK + 2000), "{held} bytes wait");
    }
}
