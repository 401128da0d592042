//! One connection: messages come in, go to their streams, and answers go out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseCode, CloseFrame, Message, WebSocket, close_code};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::messages::{self, ClientMessage, SocketRequest};
use super::outbox::{Outbox, Outgoing, Place};
use super::stream::{Job, SocketStream, Work};
use super::{Door, SocketSettings, TurnedAway, UNAVAILABLE};
use crate::hrana::Hrana;
use crate::hrana::error::Failure;
use crate::hrana::request::Request;
use crate::hrana::response::WireError;
use crate::sql::{Access, StoredSql};

/// How long a client may take to answer that it, too, closes the connection.
const PARTING: Duration = Duration::from_secs(2);

/// The client is not there any more.
struct Gone;

/// Why the connection is to end: a code of RFC 6455, and words for whoever reads the client's log.
type End = (CloseCode, String);

/// Serves a client until it goes, must go, or `ending` becomes true.
pub(super) async fn serve<E: Door>(
    socket: WebSocket,
    door: E,
    settings: SocketSettings,
    mut ending: watch::Receiver<bool>,
) {
    let (sink, mut incoming) = socket.split();
    let (outbox, outgoing) = Outbox::new();
    let silence = settings.silence;
    let mut writing = Box::pin(write(sink, outgoing, silence));
    let mut connection = Connection::new(door, settings, outbox.clone());
    let ended = tokio::select! {
        // The last words were sent, or nobody takes them.
        () = &mut writing => None,
        ended = connection.read(&mut incoming) => match ended {
            Ok(end) => Some(end),
            Err(Gone) => return,
        },
        _ = ending.wait_for(|ending| *ending) => Some((close_code::AWAY, "the server is shutting down".into())),
    };
    // Stops what runs, and lets go of the places of the requests.
    drop(connection);
    if let Some((code, reason)) = ended {
        tracing::debug!(code, reason, "a socket is closed");
        outbox.close(code, reason);
        let _ = timeout(silence, writing).await;
    }
    // A connection that is closed before all that came is read loses what was sent last.
    let _ = timeout(PARTING, async { while let Some(Ok(_)) = incoming.next().await {} }).await;
}

/// Sends what is put into the outbox, and asks for signs of life, until the end or until the client takes nothing.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    silence: Duration,
) {
    loop {
        let (message, held) = match timeout(silence / 3, outgoing.recv()).await {
            Err(_) => (Message::Ping(bytes::Bytes::new()), None),
            Ok(Some(Outgoing::Text(text, room, place))) => (Message::Text(text.into()), Some((room, place))),
            Ok(Some(Outgoing::Close(code, reason))) => {
                let frame = CloseFrame { code, reason: short(&reason).into() };
                let _ = timeout(silence, sink.send(Message::Close(Some(frame)))).await;
                return;
            }
            Ok(None) => return,
        };
        if !matches!(timeout(silence, sink.send(message)).await, Ok(Ok(()))) {
            return;
        }
        drop(held);
    }
}

/// A control frame has room for 123 bytes of reason.
fn short(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(123)]
}

struct Connection<E: Door> {
    door: Arc<E>,
    settings: SocketSettings,
    outbox: Outbox,
    guest: Option<Guest<E::Database>>,
    streams: HashMap<i32, mpsc::UnboundedSender<Job>>,
    /// Which stream a cursor is on.
    cursors: HashMap<i32, i32>,
    stored: StoredSql,
    /// The streams at work.
    tasks: JoinSet<()>,
    unanswered: Arc<Semaphore>,
}

/// Whoever was let in.
struct Guest<D> {
    token: Option<String>,
    hrana: Arc<Hrana<D>>,
    access: Access,
    since: Instant,
}

impl TurnedAway {
    pub(super) fn wire(&self) -> WireError {
        WireError { message: self.message.clone(), code: self.code }
    }

    fn end(self) -> End {
        // Whoever comes anew may find it where it is served now.
        let code = if self.code == UNAVAILABLE { close_code::AGAIN } else { close_code::POLICY };
        (code, self.message)
    }
}

impl<D> Guest<D> {
    fn is(&self, hrana: &Arc<Hrana<D>>, access: Access) -> bool {
        Arc::ptr_eq(&self.hrana, hrana) && self.access == access
    }
}

impl<E: Door> Connection<E> {
    fn new(door: E, settings: SocketSettings, outbox: Outbox) -> Self {
        let unanswered = Arc::new(Semaphore::new(settings.requests));
        Self {
            door: Arc::new(door),
            settings,
            outbox,
            guest: None,
            streams: HashMap::new(),
            cursors: HashMap::new(),
            stored: StoredSql::default(),
            tasks: JoinSet::new(),
            unanswered,
        }
    }

    /// Reads until the client goes, or must go.
    async fn read(&mut self, incoming: &mut SplitStream<WebSocket>) -> Result<End, Gone> {
        // Signs of life alone do not keep a stranger connected.
        let hello_by = tokio::time::Instant::now() + self.settings.hello;
        loop {
            // The client is not read from while it has too many requests open: TCP slows it down.
            let place = self.unanswered.clone().acquire_owned().await.ok();
            let sign_by = tokio::time::Instant::now() + self.settings.silence;
            let deadline = if self.guest.is_some() { sign_by } else { hello_by };
            let message = match timeout_at(deadline, incoming.next()).await {
                Err(_) if self.guest.is_none() => return Ok((close_code::POLICY, "no hello came".into())),
                Err(_) => return Ok((close_code::AWAY, "the client gave no sign of life".into())),
                Ok(None | Some(Ok(Message::Close(_)))) => return Err(Gone),
                Ok(Some(Err(error))) => return Ok((close_code::PROTOCOL, error.to_string())),
                Ok(Some(Ok(message))) => message,
            };
            match message {
                Message::Text(text) => {
                    if let Err(end) = self.take(&text, place).await {
                        return Ok(end);
                    }
                }
                Message::Binary(_) => {
                    return Ok((close_code::UNSUPPORTED, "messages are JSON, in frames of text".into()));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {}
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    async fn take(&mut self, text: &str, place: Place) -> Result<(), End> {
        let malformed = |why: String| (close_code::PROTOCOL, why);
        match ClientMessage::parse(text).map_err(|error| malformed(error.to_string()))? {
            ClientMessage::Hello { token } => self.let_in(token).await,
            ClientMessage::Request { id, request } => {
                let Some(guest) = &self.guest else {
                    return Err(malformed("a hello must come before requests".into()));
                };
                let counted = self.door.count(guest.token.as_deref());
                self.look_again().await?;
                match (counted, serde_json::from_str(request.get())) {
                    (Err(away), _) => self.refuse(id, &away.wire(), place),
                    (_, Err(error)) => self.refuse(id, &Failure::Malformed(error).wire(), place),
                    (_, Ok(request)) => self.dispatch(id, request, place),
                }
                Ok(())
            }
        }
    }

    async fn let_in(&mut self, token: Option<String>) -> Result<(), End> {
        match self.door.enter(token.as_deref()).await {
            Ok((hrana, access)) => {
                if self.guest.as_ref().is_some_and(|guest| !guest.is(&hrana, access)) {
                    // Streams keep the rights with which they were opened.
                    self.streams.clear();
                    self.cursors.clear();
                }
                self.guest = Some(Guest { token, hrana, access, since: Instant::now() });
                self.outbox.send(messages::hello(None), None, None);
                Ok(())
            }
            Err(away) => {
                self.outbox.send(messages::hello(Some(&away.wire())), None, None);
                Err(away.end())
            }
        }
    }

    /// Makes sure now and then that the token still gives the same rights to the same database.
    async fn look_again(&mut self) -> Result<(), End> {
        let Some(guest) = self.guest.as_mut().filter(|guest| guest.since.elapsed() >= self.settings.trust)
        else {
            return Ok(());
        };
        let entered = self.door.enter(guest.token.as_deref()).await;
        let (hrana, access) = entered.map_err(TurnedAway::end)?;
        if !guest.is(&hrana, access) {
            return Err((close_code::AGAIN, "what the token opens has changed: connect again".into()));
        }
        guest.since = Instant::now();
        Ok(())
    }

    fn dispatch(&mut self, id: i32, request: SocketRequest, place: Place) {
        let stored = self.stored.clone();
        let (stream, work) = match request {
            SocketRequest::OpenStream { stream_id } => return self.open_stream(id, stream_id, place),
            SocketRequest::CloseStream { stream_id } => {
                self.cursors.retain(|_, stream| *stream != stream_id);
                return match self.streams.remove(&stream_id) {
                    Some(stream) => drop(stream.send(Job { id, work: Work::Close, place })),
                    None => self.outbox.send(messages::done(id, "close_stream"), None, place),
                };
            }
            SocketRequest::StoreSql { sql_id, sql } => {
                let stored = match &self.guest {
                    Some(guest) => self.stored.store(sql_id, sql, &guest.hrana.settings.limits),
                    None => Ok(()),
                };
                return match stored {
                    Ok(()) => self.outbox.send(messages::done(id, "store_sql"), None, place),
                    Err(error) => self.refuse(id, &error.into(), place),
                };
            }
            SocketRequest::CloseSql { sql_id } => {
                self.stored.close(sql_id);
                return self.outbox.send(messages::done(id, "close_sql"), None, place);
            }
            SocketRequest::OpenCursor { stream_id, cursor_id, batch } => {
                if self.cursors.contains_key(&cursor_id) {
                    let message = format!("the cursor id {cursor_id} is in use: close_cursor it first");
                    return self.refuse(id, &WireError { message, code: "CURSOR_ID_IN_USE" }, place);
                }
                if self.streams.contains_key(&stream_id) {
                    self.cursors.insert(cursor_id, stream_id);
                }
                (stream_id, Work::OpenCursor(batch, stored))
            }
            SocketRequest::FetchCursor { cursor_id, max_count } => {
                let Some(stream) = self.cursors.get(&cursor_id) else {
                    let message = format!("there is no cursor {cursor_id}");
                    return self.refuse(id, &WireError { message, code: "CURSOR_CLOSED" }, place);
                };
                (*stream, Work::FetchCursor { max_count })
            }
            SocketRequest::CloseCursor { cursor_id } => match self.cursors.remove(&cursor_id) {
                Some(stream) => (stream, Work::CloseCursor),
                None => return self.outbox.send(messages::done(id, "close_cursor"), None, place),
            },
            SocketRequest::Execute { stream_id, stmt } => {
                (stream_id, Work::Run(Request::Execute { stmt }, stored))
            }
            SocketRequest::Batch { stream_id, batch } => {
                (stream_id, Work::Run(Request::Batch { batch }, stored))
            }
            SocketRequest::Sequence { stream_id, sql, sql_id } => {
                (stream_id, Work::Run(Request::Sequence { sql, sql_id }, stored))
            }
            SocketRequest::Describe { stream_id, sql, sql_id } => {
                (stream_id, Work::Run(Request::Describe { sql, sql_id }, stored))
            }
            SocketRequest::GetAutocommit { stream_id } => {
                (stream_id, Work::Run(Request::GetAutocommit, stored))
            }
        };
        let Some(stream) = self.streams.get(&stream) else {
            let message = format!("there is no stream {stream}: open_stream it first");
            return self.refuse(id, &WireError { message, code: "STREAM_CLOSED" }, place);
        };
        let _ = stream.send(Job { id, work, place });
    }

    fn open_stream(&mut self, id: i32, stream_id: i32, place: Place) {
        let Some(guest) = &self.guest else { return };
        if self.streams.contains_key(&stream_id) {
            let message = format!("the stream id {stream_id} is in use: close_stream it first");
            return self.refuse(id, &WireError { message, code: "STREAM_ID_IN_USE" }, place);
        }
        if self.streams.len() >= self.settings.streams {
            let failure = Failure::TooManyStreams { limit: self.settings.streams };
            return self.refuse(id, &failure.wire(), place);
        }
        let (sender, jobs) = mpsc::unbounded_channel();
        let stream =
            SocketStream::new(self.door.clone(), guest.hrana.clone(), guest.access, self.outbox.clone());
        self.tasks.spawn(stream.run(jobs));
        let _ = sender.send(Job { id, work: Work::Open, place });
        self.streams.insert(stream_id, sender);
    }

    fn refuse(&self, id: i32, error: &WireError, place: Place) {
        self.outbox.send(messages::failed(id, error), None, place);
    }
}
