//! One stream of a socket: its requests run one after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::ws::close_code;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Door;
use super::messages;
use super::outbox::{Outbox, Place};
use crate::hrana::entries::{Entries, Next};
use crate::hrana::error::Failure;
use crate::hrana::pipeline::{Ran, respond};
use crate::hrana::request::{Batch, Request};
use crate::hrana::response::WireError;
use crate::hrana::streams::{Held, Stream};
use crate::hrana::{Database, Hrana, StopOnDrop};
use crate::sql::{Access, StoredSql};

/// How long a stream without a transaction is kept, if nobody else needs its place.
const KEPT: Duration = Duration::from_mins(10);

/// A request for a stream.
pub(super) struct Job {
    /// The request's number.
    pub(super) id: i32,
    pub(super) work: Work,
    pub(super) place: Place,
}

pub(super) enum Work {
    Open,
    /// Anything that SQL over HTTP knows too, with the SQL that is stored.
    Run(Request, StoredSql),
    OpenCursor(Batch, StoredSql),
    FetchCursor {
        max_count: u32,
    },
    CloseCursor,
    Close,
}

/// What becomes of a stream from one request to the next.
enum State<E: Door> {
    /// It was not opened, or has ended; what is said of it.
    Ended(WireError),
    Held(Held),
    /// A batch runs, or has run, and its entries are fetched.
    Cursor(Cursor<E>),
}

struct Cursor<E: Door> {
    /// `None` when the batch has ended. It is in work until then.
    entries: Option<(Entries<E::Database>, E::Turn)>,
    /// Lines that are not fetched yet.
    lines: VecDeque<String>,
    /// What there is after the cursor.
    after: Result<Held, WireError>,
}

pub(super) struct SocketStream<E: Door> {
    door: Arc<E>,
    hrana: Arc<Hrana<E::Database>>,
    access: Access,
    outbox: Outbox,
    state: State<E>,
    /// Answers that wait for durability. They do not keep the next request waiting: what a client sends at once
    /// becomes durable at once.
    waiting: JoinSet<()>,
}

fn closed() -> WireError {
    WireError { message: "the stream is not open".into(), code: "STREAM_CLOSED" }
}

impl<E: Door> SocketStream<E> {
    pub(super) fn new(door: Arc<E>, hrana: Arc<Hrana<E::Database>>, access: Access, outbox: Outbox) -> Self {
        Self { door, hrana, access, outbox, state: State::Ended(closed()), waiting: JoinSet::new() }
    }

    /// Takes requests until nobody can send one any more. When it is dropped, what runs is stopped and rolled back.
    pub(super) async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(Job { id, work, place }) = jobs.recv().await {
            while self.waiting.try_join_next().is_some() {}
            match work {
                Work::Open => {
                    let opened = self.open().await;
                    self.answer_plainly(id, "open_stream", opened, place);
                }
                Work::Run(request, stored) => self.execute(id, request, stored, place).await,
                Work::OpenCursor(batch, stored) => {
                    let opened = self.open_cursor(batch, stored).await;
                    self.answer_plainly(id, "open_cursor", opened, place);
                }
                Work::FetchCursor { max_count } => self.fetch(id, max_count, place).await,
                Work::CloseCursor => {
                    self.close_cursor().await;
                    self.answer_plainly(id, "close_cursor", Ok(()), place);
                }
                Work::Close => {
                    self.close_cursor().await;
                    if let Ok(stream) = self.take() {
                        self.hrana.streams.end(stream);
                    }
                    self.state = State::Ended(closed());
                    self.answer_plainly(id, "close_stream", Ok(()), place);
                }
            }
        }
        // Whoever closes a stream still gets the answers of before.
        self.waiting.join_all().await;
    }

    fn answer_plainly(&self, id: i32, kind: &str, result: Result<(), WireError>, place: Place) {
        let text = match result {
            Ok(()) => messages::done(id, kind),
            Err(error) => messages::failed(id, &error),
        };
        self.outbox.send(text, None, place);
    }

    async fn turn(&self) -> Result<E::Turn, WireError> {
        self.door.turn().await.map_err(|away| away.wire())
    }

    async fn open(&mut self) -> Result<(), WireError> {
        let _turn = self.turn().await?;
        let stream = self.hrana.stream(None, self.access).await.map_err(|failure| failure.wire())?;
        self.state = State::Held(self.hold(stream).map_err(|failure| failure.wire())?);
        Ok(())
    }

    fn hold(&self, stream: Stream) -> Result<Held, Failure> {
        self.hrana.streams.hold(stream, KEPT)
    }

    /// The stream, for as long as it takes to run something.
    fn take(&mut self) -> Result<Stream, WireError> {
        match std::mem::replace(&mut self.state, State::Ended(closed())) {
            State::Held(held) => held.take(self.hrana.rights(self.access).0).map_err(|failure| {
                let error = match failure {
                    Failure::UnknownBaton => Failure::StreamExpired.wire(),
                    failure => failure.wire(),
                };
                self.state = State::Ended(error.clone());
                error
            }),
            State::Ended(error) => {
                self.state = State::Ended(error.clone());
                Err(error)
            }
            State::Cursor(cursor) => {
                self.state = State::Cursor(cursor);
                let message = "the stream has an open cursor: close_cursor comes first".into();
                Err(WireError { message, code: "CURSOR_OPEN" })
            }
        }
    }

    async fn execute(&mut self, id: i32, request: Request, stored: StoredSql, place: Place) {
        let turn = match self.turn().await {
            Ok(turn) => turn,
            Err(error) => return self.outbox.send(messages::failed(id, &error), None, place),
        };
        match self.take() {
            Ok(stream) => match self.run_on(stream, id, request, stored).await {
                Ok(text) => self.send_when_durable(id, text, place, turn).await,
                Err(failure) => {
                    self.state = State::Ended(failure.wire());
                    self.outbox.send(messages::failed(id, &failure.wire()), None, place);
                }
            },
            Err(error) => self.outbox.send(messages::failed(id, &error), None, place),
        }
    }

    /// The answer's text; the stream is held again.
    async fn run_on(
        &mut self,
        mut stream: Stream,
        id: i32,
        request: Request,
        stored: StoredSql,
    ) -> Result<String, Failure> {
        let mut stop = StopOnDrop(Some(stream.session().interrupter()));
        let policy = self.hrana.settings.on_push_conflict;
        stream.session().use_stored(stored);
        let will_write = request.wants_lock(stream.session());
        let (mut stream, (kept, text)) = self
            .hrana
            .run(stream, will_write, move |session| {
                let mut ran = Ran::nothing(session, policy);
                let text = messages::answer(id, &respond(session, request, &mut ran));
                (ran.kept, text)
            })
            .await?;
        stream.session().use_stored(StoredSql::default());
        stop.disarm();
        self.hrana.rejected.fetch_add(kept, Ordering::Relaxed);
        self.state = State::Held(self.hold(stream)?);
        Ok(text)
    }

    async fn send_when_durable(&mut self, id: i32, text: String, place: Place, turn: E::Turn) {
        let room = self.outbox.room_for(&text).await;
        let (hrana, outbox) = (self.hrana.clone(), self.outbox.clone());
        self.waiting.spawn(async move {
            let durable = hrana.database.durable().await;
            drop(turn);
            match durable {
                Ok(_) => outbox.send(text, room, place),
                Err(unavailable) => {
                    let failure = Failure::Unavailable(unavailable);
                    outbox.send(messages::failed(id, &failure.wire()), room, place);
                    // Whoever comes anew may find it where it is served now.
                    outbox.close(close_code::AGAIN, "the database is not available");
                }
            }
        });
    }

    async fn open_cursor(&mut self, batch: Batch, stored: StoredSql) -> Result<(), WireError> {
        let steps = batch.into_steps().map_err(|error| Failure::Statement(error).wire())?;
        let turn = self.turn().await?;
        let mut stream = self.take()?;
        stream.session().use_stored(stored);
        let entries = Some((Entries::of(&self.hrana, stream, steps).await, turn));
        self.state = State::Cursor(Cursor { entries, lines: VecDeque::new(), after: Err(closed()) });
        Ok(())
    }

    async fn fetch(&mut self, id: i32, max_count: u32, place: Place) {
        let streams = self.hrana.streams.clone();
        let State::Cursor(cursor) = &mut self.state else {
            let message = "the cursor is not open".into();
            let error = WireError { message, code: "CURSOR_CLOSED" };
            self.outbox.send(messages::failed(id, &error), None, place);
            return;
        };
        if cursor.lines.is_empty()
            && let Some((entries, _)) = &mut cursor.entries
        {
            let next = entries.next().await;
            if !matches!(next, Next::Lines(_)) {
                cursor.entries = None;
            }
            match next {
                Next::Lines(lines) | Next::Failed(lines) => cursor.take_in(&lines),
                Next::Last(lines, mut stream) => {
                    cursor.take_in(&lines);
                    stream.session().use_stored(StoredSql::default());
                    cursor.after = streams.hold(*stream, KEPT).map_err(|failure| failure.wire());
                }
            }
        }
        let count = cursor.lines.len().min(max_count as usize);
        let lines: Vec<String> = cursor.lines.drain(..count).collect();
        let done = cursor.lines.is_empty() && cursor.entries.is_none();
        let text = messages::entries(id, &lines, done);
        let room = self.outbox.room_for(&text).await;
        self.outbox.send(text, room, place);
    }

    async fn close_cursor(&mut self) {
        let State::Cursor(Cursor { entries, after, .. }) =
            std::mem::replace(&mut self.state, State::Ended(closed()))
        else {
            return;
        };
        let after = match entries {
            None => after,
            Some((entries, _turn)) => match entries.end().await {
                Some(mut stream) => {
                    stream.session().use_stored(StoredSql::default());
                    self.hold(stream).map_err(|failure| failure.wire())
                }
                None => Err(Failure::StreamExpired.wire()),
            },
        };
        self.state = after.map_or_else(State::Ended, State::Held);
    }
}

impl<E: Door> Cursor<E> {
    fn take_in(&mut self, lines: &[u8]) {
        self.lines.extend(String::from_utf8_lossy(lines).lines().map(str::to_owned));
    }
}
