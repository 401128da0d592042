//! A WebSocket of a database that another server has: bytes both ways, until one side ends.
//!
//! Frames are passed on as they come; of each only the head is looked at, so that a client whose server is gone can be
//! told so in a frame of its own.

mod frames;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aquifer_log::DatabaseName;
use axum::extract::ws::{CloseCode, close_code};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::Service;
use super::metrics::OpenSocket;
use crate::cluster::Elsewhere;
use frames::{Frames, close_frame};

/// Bytes on their way in each direction.
const BUFFER: usize = 16 << 10;
/// How long a client may take to close its side, too.
const PARTING: Duration = Duration::from_secs(2);

type Io = TokioIo<Upgraded>;

/// Why a relay ends.
enum End {
    /// The client is gone, or both sides have said what they had to say.
    Over,
    /// The client is to be told.
    Told(CloseCode, &'static str),
}

const GONE: End = End::Told(close_code::AGAIN, "the server that has the database broke off: connect again");
const SILENT: End =
    End::Told(close_code::AGAIN, "the server that has the database gives no sign of life: connect again");
const SHUTDOWN: End = End::Told(close_code::AWAY, "the server is shutting down");

/// Passes a connection on, when both ends have agreed to it.
pub(super) fn start(
    service: Arc<Service>,
    name: DatabaseName,
    other: Elsewhere,
    client: OnUpgrade,
    owner: OnUpgrade,
) {
    let open = OpenSocket::forwarded(&service);
    let relay = async move {
        match tokio::try_join!(client, owner) {
            Ok((client, owner)) => {
                run(&service, &name, other, TokioIo::new(client), TokioIo::new(owner)).await;
            }
            Err(error) => tracing::debug!(database = %name, %error, "a socket did not come to be"),
        }
        drop(open);
    };
    tokio::spawn(relay);
}

async fn run(service: &Service, name: &DatabaseName, other: Elsewhere, client: Io, owner: Io) {
    let (client_reads, client_writes) = tokio::io::split(client);
    let (owner_reads, owner_writes) = tokio::io::split(owner);
    let mut up = Lane::new(client_reads, owner_writes);
    let mut down = Lane::new(owner_reads, client_writes);
    let end = pass(service, name, other, &mut up, &mut down).await;
    // Its owner stops what runs.
    drop(up.writer);
    if let End::Told(code, reason) = end {
        service.forget(name);
        tracing::info!(database = %name, code, reason, "a socket is closed");
        if down.frames.is_between() && !down.frames.is_closed() {
            let _ = timeout(PARTING, down.writer.write_all(&close_frame(code, reason))).await;
        }
    }
    let _ = timeout(PARTING, down.writer.shutdown()).await;
    // A connection that is closed before all that came is read loses what was sent last.
    let _ = timeout(PARTING, tokio::io::copy(&mut up.reader, &mut tokio::io::sink())).await;
}

async fn pass(
    service: &Service,
    name: &DatabaseName,
    other: Elsewhere,
    up: &mut Lane,
    down: &mut Lane,
) -> End {
    let signs = Signs { heard: Mutex::new(Instant::now()), awaited: AtomicBool::new(false) };
    let mut silent = pin!(signs.given_up(service, name, other));
    let mut ending = pin!(service.ending());
    loop {
        tokio::select! {
            moved = down.step() => match moved {
                Ok(Moved::In) => signs.heard(),
                Ok(Moved::Out) => {}
                Ok(Moved::End) if up.has_ended || down.frames.is_closed() => return End::Over,
                Ok(Moved::End) | Err(Broken::Reading) => return GONE,
                Err(Broken::Writing) => return End::Over,
            },
            moved = up.step(), if !up.has_ended => match moved {
                Ok(Moved::In) => {}
                // Signs of life alone need no answer.
                Ok(Moved::Out) => if up.frames.take_data() { signs.awaited.store(true, Ordering::Relaxed) },
                Ok(Moved::End) => {
                    up.has_ended = true;
                    if up.writer.shutdown().await.is_err() {
                        return GONE;
                    }
                }
                Err(Broken::Reading) => return End::Over,
                Err(Broken::Writing) => return GONE,
            },
            () = &mut silent => return SILENT,
            () = &mut ending => return SHUTDOWN,
        }
    }
}

/// What was heard of the owner.
struct Signs {
    heard: Mutex<Instant>,
    /// Whether the client has asked something since.
    awaited: AtomicBool,
}

impl Signs {
    fn heard(&self) {
        *self.heard.lock() = Instant::now();
        self.awaited.store(false, Ordering::Relaxed);
    }

    /// Returns when the owner is over, or says nothing though it would have asked for a sign of life by itself. While
    /// nobody waits for it, the store is not asked.
    async fn given_up(&self, service: &Service, name: &DatabaseName, mut other: Elsewhere) {
        let (lease, silence) = (service.hosts.cluster().options().lease, service.settings.socket.silence);
        loop {
            tokio::time::sleep((lease / 4).min(silence / 3)).await;
            let silent_for = self.heard.lock().elapsed();
            let is_awaited = silent_for >= lease / 4 && self.awaited.load(Ordering::Relaxed);
            if silent_for > silence || (is_awaited && service.is_gone(name, &mut other).await) {
                return;
            }
        }
    }
}

/// One direction.
struct Lane {
    reader: ReadHalf<Io>,
    writer: WriteHalf<Io>,
    buffer: Box<[u8]>,
    /// What of the buffer was read and not written yet.
    waiting: std::ops::Range<usize>,
    is_unflushed: bool,
    has_ended: bool,
    /// Of what was written.
    frames: Frames,
}

enum Moved {
    In,
    Out,
    End,
}

/// Which side a connection broke off on.
enum Broken {
    Reading,
    Writing,
}

impl Lane {
    fn new(reader: ReadHalf<Io>, writer: WriteHalf<Io>) -> Lane {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let frames = Frames::default();
        Lane { reader, writer, buffer, waiting: 0..0, is_unflushed: false, has_ended: false, frames }
    }

    /// Reads when everything is written, else writes. Cancel-safe.
    async fn step(&mut self) -> Result<Moved, Broken> {
        if !self.waiting.is_empty() {
            let bytes = &self.buffer[self.waiting.clone()];
            let written = match self.writer.write(bytes).await {
                Ok(0) | Err(_) => return Err(Broken::Writing),
                Ok(written) => written,
            };
            self.frames.passed(&bytes[..written]);
            self.waiting.start += written;
            self.is_unflushed = true;
            return Ok(Moved::Out);
        }
        if self.is_unflushed {
            self.writer.flush().await.map_err(|_| Broken::Writing)?;
            self.is_unflushed = false;
        }
        let read = self.reader.read(&mut self.buffer).await.map_err(|_| Broken::Reading)?;
        self.waiting = 0..read;
        Ok(if read == 0 { Moved::End } else { Moved::In })
    }
}
