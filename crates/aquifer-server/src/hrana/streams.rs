//! Streams: sessions that live from one request to the next, named by a baton.
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::Settings;
use super::error::Failure;
use super::spare::Spare;
use super::turns::{Turn, Turns};
use crate::sql::{Access, Session, Threads};

/// The streams of one database, and the sessions between two.
pub(super) struct Streams {
    spare: Arc<Spare>,
    turns: Turns,
    threads: Threads,
    parked: Mutex<HashMap<u64, Parked>>,
    slots: Arc<Semaphore>,
    next_id: AtomicU64,
    limit: usize,
    idle: Duration,
    wait: Duration,
    transaction: Duration,
}

struct Parked {
    stream: Stream,
    secret: [u8; 16],
    since: Instant,
    expiry: AbortHandle,
}

/// A session and its place among the streams. When dropped, the session is closed where blocking does no harm.
pub(super) struct Stream {
    id: u64,
    access: Access,
    /// Always there, but while it is being dropped.
    session: Option<Session>,
    slot: Option<OwnedSemaphorePermit>,
    /// Its turn to write, as long as it holds the lock.
    turn: Option<Turn>,
    threads: Threads,
    /// When a request first left its transaction open.
    open_since: Option<Instant>,
}

impl Stream {
    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("a stream has its session until it is dropped")
    }

    /// What ran last has ended: if it does not hold the lock, it is the next writer's turn.
    pub(super) fn has_run(&mut self) {
        if !self.session().holds_lock() {
            self.turn = None;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The slot is free only when the connection is closed: it counts connections.
        let (session, slot, turn) = (self.session.take(), self.slot.take(), self.turn.take());
        if session.is_some() {
            self.threads.spawn(move || {
                drop(session);
                drop((turn, slot));
            });
        }
    }
}

/// What names a stream to its client until its next answer: 128 bits that nobody can guess, new each time.
pub(super) struct Baton {
    id: u64,
    secret: [u8; 16],
}

impl Baton {
    pub(super) fn for_stream(stream: &Stream) -> Result<Self, Failure> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(Failure::Random)?;
        Ok(Self { id: stream.id, secret })
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{:x}.", self.id);
        for byte in self.secret {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        if secret.len() != 32 || !secret.is_ascii() {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, digits) in bytes.iter_mut().zip(secret.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self { id: u64::from_str_radix(id, 16).ok()?, secret: bytes })
    }
}

/// A parked stream that is closed when this is dropped.
pub(super) struct Held {
    streams: Arc<Streams>,
    baton: Baton,
    access: Access,
}

impl Held {
    /// The stream, if it has not expired and was opened with these rights.
    pub(super) fn take(self, access: Access) -> Result<Stream, Failure> {
        self.streams.take(&self.baton, access)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It is not there any more when it was taken or has expired.
        let _ = self.streams.take(&self.baton, self.access);
    }
}

/// Whether the secrets are the same, in a time that tells nothing about where they differ.
fn same(left: [u8; 16], right: [u8; 16]) -> bool {
    u128::from_ne_bytes(left) ^ u128::from_ne_bytes(right) == 0
}

impl Streams {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        let Settings { streams: limit, stream_idle: idle, threads, .. } = settings;
        Arc::new(Self {
            spare: Spare::new(settings.spare_sessions.clone(), threads.clone()),
            turns: Turns::new(settings.limits.busy_timeout),
            threads: threads.clone(),
            parked: Mutex::default(),
            slots: Arc::new(Semaphore::new(*limit)),
            next_id: AtomicU64::new(1),
            limit: *limit,
            idle: *idle,
            wait: settings.stream_wait,
            transaction: settings.transaction,
        })
    }

    /// A new stream; `connect` makes its session on a thread that may block.
    ///
    /// When all places are taken, the stream that has been idle longest without a transaction gives up its own;
    /// else this waits a while for one.
    pub(super) async fn open(
        &self,
        access: Access,
        connect: impl FnOnce() -> Result<Session, Failure> + Send + 'static,
    ) -> Result<Stream, Failure> {
        let slot = if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            slot
        } else {
            self.evict();
            tokio::time::timeout(self.wait, self.slots.clone().acquire_owned())
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(Failure::TooManyStreams { limit: self.limit })?
        };
        let session = match self.spare.take(access) {
            Some(session) => session,
            None => self.threads.spawn(connect).await.map_err(|_| Failure::Panicked)??,
        };
        Ok(Stream {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            access,
            session: Some(session),
            slot: Some(slot),
            turn: None,
            threads: self.threads.clone(),
            open_since: None,
        })
    }

    /// Waits for the stream's turn to write, where it does not have it; see [`Turns`]. Cancel-safe.
    pub(super) async fn wait_for_turn(&self, stream: &mut Stream) {
        if stream.turn.is_none() && !stream.session().holds_lock() {
            let (turn, waited) = self.turns.wait().await;
            stream.turn = turn;
            stream.session().has_waited(waited);
        }
    }

    /// Ends a stream that nobody can stop any more from elsewhere: another one may go on with its session.
    pub(super) fn end(&self, mut stream: Stream) {
        if let Some(session) = stream.session.take_if(Session::renew) {
            self.spare.keep(session, stream.access);
        }
    }

    /// Streams that have a place.
    pub(super) fn open_now(&self) -> usize {
        self.limit - self.slots.available_permits()
    }

    /// The stream that `baton` names. The baton is worth nothing from then on.
    pub(super) fn resume(&self, baton: &str, access: Access) -> Result<Stream, Failure> {
        self.take(&Baton::parse(baton).ok_or(Failure::UnknownBaton)?, access)
    }

    fn take(&self, baton: &Baton, access: Access) -> Result<Stream, Failure> {
        let mut parked = self.parked.lock();
        let found = parked.get(&baton.id).filter(|parked| same(parked.secret, baton.secret));
        match found {
            None => return Err(Failure::UnknownBaton),
            Some(parked) if parked.stream.access != access => return Err(Failure::OtherAccess),
            Some(_) => {}
        }
        let parked = parked.remove(&baton.id).ok_or(Failure::UnknownBaton)?;
        parked.expiry.abort();
        match parked.stream.open_since {
            // Others wait for its locks, however diligently its client asks.
            Some(since) if since.elapsed() >= self.transaction => {
                Err(Failure::TransactionTooLong { limit: self.transaction })
            }
            _ => Ok(parked.stream),
        }
    }

    /// Keeps `stream` for whoever brings `baton`, for as long as a stream may be idle; then its transaction is
    /// rolled back.
    pub(super) fn park(self: &Arc<Self>, stream: Stream, baton: &Baton) {
        self.park_for(self.idle, stream, baton);
    }

    fn park_for(self: &Arc<Self>, idle: Duration, mut stream: Stream, baton: &Baton) {
        let is_open = !stream.session().is_autocommit();
        stream.open_since = is_open.then(|| stream.open_since.unwrap_or_else(Instant::now));
        let Baton { id, secret } = *baton;
        let streams = Arc::downgrade(self);
        // Held until the stream is in: an expiry at once must find it.
        let mut parked = self.parked.lock();
        let expiry = tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            if let Some(streams) = streams.upgrade() {
                let mut parked = streams.parked.lock();
                // It may have been resumed and parked again under another secret at this very moment.
                if parked.get(&id).is_some_and(|parked| parked.secret == secret) {
                    parked.remove(&id);
                    tracing::debug!(stream = id, "an idle stream has expired");
                }
            }
        });
        parked.insert(id, Parked { stream, secret, since: Instant::now(), expiry: expiry.abort_handle() });
    }

    /// Keeps `stream` for as long as what is returned lives; `long` while no transaction is open, in which case it may
    /// have to give up its place to another one.
    pub(super) fn hold(self: &Arc<Self>, mut stream: Stream, long: Duration) -> Result<Held, Failure> {
        let (baton, access) = (Baton::for_stream(&stream)?, stream.access);
        let idle = if stream.session().is_idle() { long } else { self.idle };
        self.park_for(idle, stream, &baton);
        Ok(Held { streams: self.clone(), baton, access })
    }

    /// Closes every parked stream; their transactions are rolled back.
    pub(super) fn close_parked(&self) {
        let parked = std::mem::take(&mut *self.parked.lock());
        for parked in parked.into_values() {
            parked.expiry.abort();
        }
        self.spare.clear();
    }

    fn evict(&self) {
        let mut parked = self.parked.lock();
        let longest_idle = parked
            .iter_mut()
            .filter_map(|(id, parked)| parked.stream.session().is_idle().then_some((parked.since, *id)))
            .min();
        if let Some(evicted) = longest_idle.and_then(|(_, id)| parked.remove(&id)) {
            drop(parked);
            evicted.expiry.abort();
            self.end(evicted.stream);
        }
    }
}
