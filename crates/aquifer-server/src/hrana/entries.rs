//! The results of a batch as lines of JSON while it runs, in bounded memory whatever their size.
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_format::Revision;
use rusqlite::Row;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::Failure;
use super::response::{Col, WireError, milliseconds, values};
use super::streams::Stream;
use super::{Database, Hrana, Running, StopOnDrop};
use crate::sql::{Column, Interrupter, Sink, SqlError, Step, Summary, Value};

/// A chunk is sent when it has this many bytes (one row can make it larger).
const CHUNK: usize = 32 << 10;
/// Chunks between the statement and the socket.
const CHUNKS: usize = 2;

/// A line.
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

/// Lines on their way.
#[derive(Default)]
struct Chunk {
    lines: Vec<u8>,
    /// Whether they reveal something that may not be durable yet.
    reveals: bool,
    /// Whether none come after them.
    is_last: bool,
}

/// The entries of a batch that runs. When this is dropped, what runs is stopped and rolled back.
pub(super) struct Entries<D> {
    hrana: Arc<Hrana<D>>,
    stop: StopOnDrop,
    receiver: mpsc::Receiver<Chunk>,
    running: JoinHandle<Option<Stream>>,
    revision: Option<Revision>,
}

/// What comes next of a batch's entries.
pub(super) enum Next {
    /// Lines, each with its line feed.
    Lines(Vec<u8>),
    /// The last lines, and the stream, which goes on. There may be none.
    Last(Vec<u8>, Box<Stream>),
    /// A last line, with the error that ended the batch and its stream.
    Failed(Vec<u8>),
}

impl<D: Database> Entries<D> {
    /// Starts a batch, which waits for whoever takes its entries; if it will write, when it is its turn to.
    pub(super) async fn of(hrana: &Arc<Hrana<D>>, mut stream: Stream, steps: Vec<Step>) -> Self {
        if stream.session().want_lock(&steps) {
            hrana.streams.wait_for_turn(&mut stream).await;
        }
        let interrupter = stream.session().interrupter();
        let (chunks, receiver) = mpsc::channel(CHUNKS);
        let writer = Writer {
            chunks,
            runtime: Handle::current(),
            interrupter: interrupter.clone(),
            patience: hrana.settings.slow_reader,
            chunk: Chunk::default(),
            fresh: false,
            gave_up: false,
        };
        let counted = Running::one(&hrana.running);
        let span = tracing::Span::current();
        let running = hrana.settings.threads.spawn(move || {
            let stream = span.in_scope(|| run(stream, &steps, writer));
            drop(counted);
            stream
        });
        let (hrana, stop) = (hrana.clone(), StopOnDrop(Some(interrupter)));
        Self { hrana, stop, receiver, running, revision: None }
    }

    /// Up to which revision the entries so far may have seen the database, if they tell anything of it.
    pub(super) fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// The next lines, when what they could have seen is durable. Not cancel-safe. Not to be asked again after the
    /// end.
    pub(super) async fn next(&mut self) -> Next {
        let chunk = self.receiver.recv().await;
        let Chunk { lines, reveals, is_last } = chunk.unwrap_or(Chunk { is_last: true, ..Chunk::default() });
        if reveals {
            match self.hrana.database.durable().await {
                Ok(revision) => self.revision = Some(revision),
                Err(error) => return failed(&Failure::Unavailable(error)),
            }
        }
        if !is_last {
            return Next::Lines(lines);
        }
        // Not later: whoever has the last line may ask for the stream at once, and take no notice of the answer's end.
        match (&mut self.running).await {
            Ok(Some(stream)) => {
                self.stop.disarm();
                Next::Last(lines, Box::new(stream))
            }
            Ok(None) => failed(&Failure::SlowReader { patience: self.hrana.settings.slow_reader }),
            Err(_) => failed(&Failure::Panicked),
        }
    }

    /// Ends the batch where it is; what its open transaction has done stays in it. `None` when the stream has ended.
    pub(super) async fn end(self) -> Option<Stream> {
        let Self { mut stop, receiver, running, .. } = self;
        drop(receiver);
        let stream = running.await.ok().flatten();
        stop.disarm();
        stream
    }
}

/// Runs the batch to its end; when nobody reads any more, only until then. When its reader takes nothing, this ends
/// the stream here and now: nobody may ever ask for it.
fn run(mut stream: Stream, steps: &[Step], mut writer: Writer) -> Option<Stream> {
    let ran = stream.session().batch(steps, &mut writer);
    stream.has_run();
    let _ = match ran {
        Ok(()) => writer.finish(),
        Err(SqlError::Cancelled) => Ok(()),
        Err(error) => {
            writer.write(&Entry::Error { error: error.into() }, false).and_then(|()| writer.finish())
        }
    };
    (!writer.gave_up).then_some(stream)
}

fn failed(failure: &Failure) -> Next {
    Next::Failed(line(&Entry::Error { error: failure.wire() }))
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
    /// Whether its reader took nothing for too long.
    gave_up: bool,
}

impl Writer {
    /// Adds an entry, and says whether it reveals something that may not be durable yet.
    fn write(&mut self, entry: &Entry, reveals: bool) -> Result<(), SqlError> {
        // Before, not after: the last line must be in the last chunk.
        let sent = if self.chunk.lines.len() >= CHUNK { self.send() } else { Ok(()) };
        serde_json::to_writer(&mut self.chunk.lines, entry).expect("an entry has only what JSON can carry");
        self.chunk.lines.push(b'\n');
        self.chunk.reveals |= reveals;
        sent
    }

    /// Hands over what there is, as the last.
    fn finish(&mut self) -> Result<(), SqlError> {
        self.chunk.is_last = true;
        self.send()
    }

    /// Hands the lines over, once there is room; the statement is cancelled when nobody takes them in time.
    fn send(&mut self) -> Result<(), SqlError> {
        let chunk = std::mem::take(&mut self.chunk);
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
            Ok(Err(_)) => Err(SqlError::Cancelled),
            Err(_) => {
                self.gave_up = true;
                Err(SqlError::Cancelled)
            }
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
        self.write(&Entry::StepBegin { step, cols: columns.into_iter().map(Into::into).collect() }, true)
    }

    fn row(&mut self, row: &Row<'_>, columns: &[String]) -> Result<(), SqlError> {
        let row = values(row, columns)?;
        let is_first = std::mem::take(&mut self.fresh);
        self.write(&Entry::Row { row }, is_first)
    }

    fn end(&mut self, _step: usize, summary: Summary) -> Result<(), SqlError> {
        let entry = Entry::StepEnd {
            affected_row_count: summary.affected_row_count,
            last_insert_rowid: summary.last_insert_rowid.map(|rowid| rowid.to_string()),
            rows_read: summary.rows_read,
            rows_written: summary.rows_written,
            query_duration_ms: milliseconds(summary.duration),
        };
        self.write(&entry, true)
    }

    fn failed(&mut self, step: usize, error: SqlError) -> Result<(), SqlError> {
        self.write(&Entry::StepError { step, error: error.into() }, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Access, Limits, Session};

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
            chunk: Chunk::default(),
            fresh: false,
            gave_up: false,
        };
        let entry = Entry::Row { row: vec![Value::Text("x".repeat(1000))] };
        let written = (0..1000).take_while(|_| writer.write(&entry, false).is_ok()).count();
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
