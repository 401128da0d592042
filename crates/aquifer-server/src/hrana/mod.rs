//! Hrana over HTTP and WebSocket, versions 2 and 3 in JSON: SQL for remote clients, and the push of Turso's sync clients.
//!
//! SQL runs on [threads of its own](crate::sql::Threads). A client that goes away has its statement interrupted and its transaction
//! rolled back; a transaction outlives its request only under a baton, for as long as a stream may be idle.
mod cursor;
mod entries;
mod error;
mod host;
mod pipeline;
mod request;
mod response;
mod socket;
mod spare;
mod streams;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

pub use cursor::cursor;
pub use host::{Database, Unavailable};
pub use pipeline::pipeline;
pub use socket::{Door, Entered, SocketSettings, TurnedAway, UNAVAILABLE, is_spoken, socket};
pub use spare::Room as SpareSessions;

use crate::sql::{Access, Interrupter, Limits, Observer, OnPushConflict, Session, Threads};
use error::Failure;
use streams::{Stream, Streams};

pub use aquifer_protocol::REVISION_HEADER;

/// What a database grants its remote clients.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What one request may take.
    pub limits: Limits,
    /// Connections that clients may hold at the same time.
    pub streams: usize,
    /// How long a stream waits for its next request, before its transaction is rolled back.
    pub stream_idle: Duration,
    /// How long a transaction may be open over several requests.
    pub transaction: Duration,
    /// How long a request waits for a free place among the streams.
    pub stream_wait: Duration,
    /// How long a cursor waits for a reader that takes nothing.
    pub slow_reader: Duration,
    /// What becomes of a sync client's push with a statement that the database refuses.
    pub on_push_conflict: OnPushConflict,
    /// Bytes of one request's body.
    pub body_bytes: usize,
    /// Who is told of every statement.
    pub observer: Observer,
    /// What SQL runs on.
    pub threads: Threads,
    /// Where sessions wait for their next stream.
    pub spare_sessions: SpareSessions,
    /// What one WebSocket may take.
    pub socket: SocketSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            streams: 128,
            stream_idle: Duration::from_secs(10),
            transaction: Duration::from_secs(30),
            stream_wait: Duration::from_secs(5),
            slow_reader: Duration::from_secs(30),
            on_push_conflict: OnPushConflict::Keep,
            body_bytes: 64 << 20,
            observer: Observer::default(),
            threads: Threads::default(),
            spare_sessions: SpareSessions::default(),
            socket: SocketSettings::default(),
        }
    }
}

/// A database's Hrana service: the streams that its clients hold.
pub struct Hrana<D> {
    database: Arc<D>,
    streams: Arc<Streams>,
    settings: Settings,
    rejected: AtomicU64,
    running: Arc<AtomicUsize>,
}

impl<D: Database> Hrana<D> {
    /// Serves `database`.
    pub fn new(database: Arc<D>, settings: Settings) -> Arc<Self> {
        let streams = Streams::new(&settings);
        Arc::new(Self { database, streams, settings, rejected: AtomicU64::new(0), running: Arc::default() })
    }

    /// The database that it serves.
    pub fn database(&self) -> &D {
        &self.database
    }

    /// Ends all streams that wait for their next request, and rolls their transactions back: for a database that is
    /// being closed.
    pub fn close_idle_streams(&self) {
        self.streams.close_parked();
    }

    /// Connections that clients hold at this moment, for a request or for its next.
    pub fn open_streams(&self) -> usize {
        self.streams.open_now()
    }

    /// Requests whose SQL runs at this moment, or waits for a lock or a slow reader.
    pub fn running_requests(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Statements of sync clients' pushes that the database has refused and that were kept in `aquifer_rejected`, since
    /// this service began.
    pub fn rejected_statements(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Runs `work` on a stream, on a thread that may block; when it is the stream's turn to write, if it will.
    async fn run<T: Send + 'static>(
        &self,
        mut stream: Stream,
        will_write: bool,
        work: impl FnOnce(&mut Session) -> T + Send + 'static,
    ) -> Result<(Stream, T), Failure> {
        let running = Running::one(&self.running);
        if will_write {
            self.streams.wait_for_turn(&mut stream).await;
        }
        // What is logged on that thread says for which request.
        let span = tracing::Span::current();
        let worked = self.settings.threads.spawn(move || {
            let worked = span.in_scope(|| work(stream.session()));
            stream.has_run();
            drop(running);
            (stream, worked)
        });
        worked.await.map_err(|_| Failure::Panicked)
    }

    /// What somebody with this access may do at this moment, and why not more.
    fn rights(&self, access: Access) -> (Access, Option<String>) {
        let refusal = self.database.writable().err();
        (if refusal.is_some() { Access::ReadOnly } else { access }, refusal)
    }

    /// The stream that `baton` names, or a new one.
    async fn stream(&self, baton: Option<&str>, access: Access) -> Result<Stream, Failure> {
        let (access, refusal) = self.rights(access);
        if let Some(baton) = baton {
            return self.streams.resume(baton, access);
        }
        let (database, limits) = (self.database.clone(), self.settings.limits.clone());
        let observer = self.settings.observer.clone();
        let connect = move || {
            let session = Session::open(database.connect(access)?, access, limits);
            let session = session.map_err(Failure::Session)?.observed_by(observer);
            Ok(session.read_only_because(refusal))
        };
        self.streams.open(access, connect).await
    }
}

/// Counts a request among those that run, until it is dropped.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn one(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Stops a session when its answer is no longer awaited: when this is dropped before it is disarmed.
struct StopOnDrop(Option<Interrupter>);

impl StopOnDrop {
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(interrupter) = self.0.take() {
            interrupter.interrupt();
        }
    }
}
