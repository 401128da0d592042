//! libSQL's offline sync: a view of the log as numbered frames.
//!
//! - `frames`: frames as they travel;
//! - `index`: how many frames each batch has;
//! - `answer`: the frames that a reader gets;
//! - `spans`: the stretches of the log that frames are numbered in, which the protocol calls generations;
//! - `staged`: transactions that come in parts;
//! - this file: the requests.
//!
//! # Invariants
//! - A reader that takes over the frames up to a mark has the database as of a durable revision.
//! - What is pushed is written only on top of exactly the frames that its client has. The answer `ok` to its last frame
//!   means that it is durable.
//! - A transaction is seen whole or not at all, however many requests it came in.

mod answer;
mod frames;
mod index;
mod spans;
mod staged;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_format::{PageSize, Pgno, Revision};
use aquifer_log::LogError;
use aquifer_replicate::{Applied, Error as ReplicaError, PageWrite};
use bytes::Bytes;
use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use crate::hosted::{Pages, PinnedPages};
use crate::turso::source::{PageHost, PageSource, SourceError};
use answer::PART;
use frames::{PAGE, Pushed};
use spans::{Place, Spans};
use staged::{Part, Staged};

pub use answer::Answer;
pub use frames::FrameError;

/// A span of more frames is ended: its clients keep all of them in their WALs.
const LONG: u32 = 10_000;
/// How long a push waits for the write transactions of others.
const BUSY: Duration = Duration::from_secs(5);
/// How often it is said in the store that spans are in use.
const RENEW: Duration = Duration::from_hours(24);

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The frames cannot be taken.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// The range is none.
    #[error("frames {0} to {1} are no range: they count from 1, and the end is exclusive")]
    Range(u32, u32),
    /// The client is in a span that is not there.
    #[error(
        "generation {0} is not kept any more, or is of another database: this copy cannot be synced; remove it with its \
         -info file, after saving what it has not pushed, and sync again"
    )]
    Gone(u32),
    /// Too much waits for the end of its transaction.
    #[error("more than {} bytes of unfinished transactions: push smaller ones", staged::MOST)]
    TooMuch,
    /// libSQL's clients have pages of one size.
    #[error(
        "the database has pages of {0} bytes, and libSQL's clients have pages of 4096 bytes only: import a copy made \
         with `PRAGMA page_size = 4096; VACUUM`"
    )]
    PageSize(PageSize),
    /// The pages cannot be read or written at the moment.
    #[error("the database cannot be synced at the moment: {0}")]
    Unavailable(SourceError),
}

impl SyncError {
    /// The HTTP status to answer with. 400 and 500 would mean the end of a generation to a client that pulls.
    pub fn status(&self) -> u16 {
        match self {
            SyncError::Frames(_) | SyncError::Range(..) | SyncError::PageSize(_) => 422,
            SyncError::Gone(_) => 410,
            SyncError::TooMuch => 413,
            SyncError::Unavailable(_) => 503,
        }
    }
}

impl From<LogError> for SyncError {
    fn from(error: LogError) -> SyncError {
        SyncError::Unavailable(error.into())
    }
}

impl From<ReplicaError> for SyncError {
    fn from(error: ReplicaError) -> SyncError {
        SyncError::Unavailable(error.into())
    }
}

/// What a client that pulls gets.
#[derive(Debug)]
pub enum Pulled {
    /// These frames.
    Frames(Answer),
    /// There are no more in this span.
    End {
        /// The number of the current span.
        current: u32,
        /// The last frame of the span that was asked for.
        frames: u32,
    },
}

/// What a client that pushes gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushAnswer {
    /// Whether other frames are where these should go.
    pub is_conflict: bool,
    /// The current span.
    pub span: u32,
    /// The last frame that is there.
    pub frames: u32,
    /// To go on with, where the transaction is not whole yet.
    pub baton: Option<u64>,
}

/// One database's frames.
#[derive(Debug)]
pub struct Frames {
    pages: Arc<Pages>,
    /// Loaded with the first request.
    spans: Arc<Mutex<Option<Spans>>>,
    /// Held by who reads the spans from the store.
    loading: tokio::sync::Mutex<()>,
    /// Held by who pushes, and by who ends a span: a push belongs to one span.
    turn: tokio::sync::Mutex<()>,
    staged: Mutex<Staged>,
    renewed: Mutex<Option<Instant>>,
}

impl Frames {
    /// Of these pages.
    pub fn new(pages: Arc<Pages>) -> Frames {
        Frames {
            pages,
            spans: Arc::default(),
            loading: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            staged: Mutex::default(),
            renewed: Mutex::default(),
        }
    }

    /// The number of the current span. Cancel-safe.
    pub async fn current(&self) -> Result<u32, SyncError> {
        self.end_long_span().await?;
        let durable = self.up_to_date().await?;
        self.with(durable, |spans| spans.current().number)
    }

    /// The frames of a span from `first` on. Those to before `end`, if a batch ends there: who asks for no more has a
    /// reason. Else all there are, since a transaction cannot be cut without knowing where its reader began. (Clients take
    /// what they get.) Cancel-safe.
    pub async fn pull(&self, span: u32, first: u32, end: u32) -> Result<Pulled, SyncError> {
        if first == 0 || end <= first {
            return Err(SyncError::Range(first, end));
        }
        let durable = self.up_to_date().await?;
        let (place, frames, current, exact) = self.with(durable, |spans| {
            let (index, place) = spans.find(span).ok_or(SyncError::Gone(span))?;
            let exact = index.ends_at(end - 1).filter(|txid| *txid < durable.txid);
            let frames = match place {
                Place::Current => index.frames_until(durable.txid),
                Place::Ended { frames, .. } => frames,
            };
            Ok::<_, SyncError>((place, frames, spans.current().number, exact))
        })??;
        if first > frames {
            let current =
                if place == Place::Current && self.end_long_span().await? { current + 1 } else { current };
            return Ok(Pulled::End { current, frames });
        }
        if let Some(txid) = exact
            && let Ok(source) = self.pin(Some(Revision { txid, ..durable })).await
            && let Ok(answer) = self.answer(span, first, source).await?
        {
            return Ok(Pulled::Frames(answer));
        }
        let at = match place {
            Place::Current => None,
            Place::Ended { end, .. } => Some(Revision { txid: end, ..durable }),
        };
        let source = self.pin(at).await?;
        match self.answer(span, first, source).await? {
            Ok(answer) => Ok(Pulled::Frames(answer)),
            Err(lacking) => self.make_room(span, place, lacking).await,
        }
    }

    /// What a reader gets who has the frames before `first`, to have these pages; or how many numbers too few there are.
    async fn answer(
        &self,
        span: u32,
        first: u32,
        source: PinnedPages,
    ) -> Result<Result<Answer, u32>, SyncError> {
        // The pages may be of a later revision than the one that was durable a moment ago.
        let durable = self.up_to_date().await?;
        let until = source.revision().txid;
        let (frames, lacking) = self.with(durable, |spans| {
            let (index, _) = spans.find(span).ok_or(SyncError::Gone(span))?;
            Ok::<_, SyncError>((index.frames_until(until), index.lacking(first - 1, until)))
        })??;
        let room = (frames + 1).saturating_sub(first);
        let pages = u32::try_from(lacking.len()).unwrap_or(u32::MAX);
        Ok(match pages.checked_sub(room) {
            Some(few @ 1..) => Err(few),
            _ => Ok(Answer::new(source, lacking, room)),
        })
    }

    /// A reader was interrupted between two marks of a long answer, where no batch ends, and lacks more pages than it has
    /// numbers for. A commit that changes nothing gives it numbers.
    async fn make_room(&self, span: u32, place: Place, frames: u32) -> Result<Pulled, SyncError> {
        if place != Place::Current {
            return Err(SyncError::Gone(span));
        }
        let fits = Box::new(|_: Revision| true);
        let write = PageWrite { fits, pages: Vec::new(), size: None, frames: frames + 1 };
        self.pages.replicator().apply(self.pages.database().name(), write).await?;
        Err(SyncError::Unavailable("room for frames was made just now: try again".into()))
    }

    /// The whole file as of the beginning of a span: its length in bytes, and its parts. Cancel-safe.
    pub async fn export(
        &self,
        span: u32,
    ) -> Result<(u64, impl Stream<Item = Result<Bytes, SourceError>> + Send + 'static), SyncError> {
        let durable = self.up_to_date().await?;
        let start = self.with(durable, |spans| spans.find(span).map(|(index, _)| index.start))?;
        let txid = start.ok_or(SyncError::Gone(span))?;
        let source = self.pin(Some(Revision { txid, ..durable })).await?;
        let pages = source.pages();
        let parts = stream::unfold(Some((source, Pgno::ONE)), move |rest| async move {
            let (source, from) = rest.filter(|(_, from)| from.get() <= pages)?;
            let read = spawn_blocking(move || read_part(source, from)).await;
            match read.map_err(SourceError::from).flatten() {
                Ok((part, source, next)) => Some((Ok(part), Some((source, next)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok((u64::from(pages) * PAGE as u64, parts))
    }

    /// Takes frames of a span, numbered from `first` to before `end`. Not cancel-safe: what was begun is done.
    pub async fn push(
        &self,
        span: u32,
        first: u32,
        end: u32,
        baton: Option<u64>,
        body: Bytes,
    ) -> Result<PushAnswer, SyncError> {
        let count = end.checked_sub(first).filter(|_| first > 0).ok_or(SyncError::Range(first, end))?;
        let is_whole = frames::ends_with_commit(&body, count)?;
        let _turn = self.turn.lock().await;
        let durable = self.up_to_date().await?;
        let (current, frames) = self.with(durable, |spans| {
            let current = spans.current();
            (current.number, current.frames_until(durable.txid))
        })?;
        let answer = PushAnswer { is_conflict: false, span: current, frames, baton: None };
        let begun = baton.and_then(|baton| self.staged.lock().take(baton, span, first));
        if begun.is_none() && baton.is_some() {
            // The rest of what is not here any more: the client sends it again, from where the server is.
            return Ok(answer);
        }
        let mut part = begun.unwrap_or_else(|| Part::new(span, first));
        if span != current && !(span == 1 && part.first == 1 && frames == 0) {
            let last = self.with(durable, |spans| spans.find(span).map(|(index, _)| index.frames()))?;
            if part.first > last.ok_or(SyncError::Gone(span))? {
                return Ok(PushAnswer { is_conflict: true, ..answer });
            }
            // They may be in it, and their client has not heard of that.
            part.append(&body, end);
            return self.push_again(durable, part, is_whole, answer).await;
        }
        if part.first > frames + 1 {
            return Ok(answer);
        }
        part.append(&body, end);
        if !is_whole {
            let baton = self.staged.lock().keep(part).ok_or(SyncError::TooMuch)?;
            return Ok(PushAnswer { frames: end - 1, baton: Some(baton), ..answer });
        }
        let first = part.first;
        let pushed = frames::read(&part.frames.freeze())?;
        let is_there = if first <= frames {
            self.is_there(durable, current, first, &pushed).await?
        } else {
            self.write(current, first, span != current, pushed).await?
        };
        if is_there {
            return Ok(PushAnswer { frames: end - 1, ..answer });
        }
        tracing::info!(
            database = %self.pages.database().name(),
            span, first, frames,
            "a client's frames conflict with those that are there"
        );
        Ok(PushAnswer { is_conflict: true, ..answer })
    }

    /// Takes frames of a span that has ended: all that can become of them is that they are there.
    async fn push_again(
        &self,
        durable: Revision,
        part: Part,
        is_whole: bool,
        answer: PushAnswer,
    ) -> Result<PushAnswer, SyncError> {
        let (span, first, end) = (part.span, part.first, part.next);
        if !is_whole {
            let baton = self.staged.lock().keep(part).ok_or(SyncError::TooMuch)?;
            return Ok(PushAnswer { span, frames: end - 1, baton: Some(baton), ..answer });
        }
        let pushed = frames::read(&part.frames.freeze())?;
        if self.is_there(durable, span, first, &pushed).await? {
            return Ok(PushAnswer { span, frames: end - 1, ..answer });
        }
        Ok(PushAnswer { is_conflict: true, ..answer })
    }

    /// Whether frames that a client pushes are those that are there: it pushed them before, and the answer was lost.
    async fn is_there(
        &self,
        durable: Revision,
        span: u32,
        first: u32,
        pushed: &Pushed,
    ) -> Result<bool, SyncError> {
        let frames = pushed.frames;
        let txid = self
            .with(durable, |spans| spans.find(span).and_then(|(index, _)| index.pushed_at(first, frames)))?;
        let Some(txid) = txid else { return Ok(false) };
        let mut source = self.pin(Some(Revision { txid, ..durable })).await?;
        let (pages, size) = (pushed.pages.clone(), pushed.size);
        let compared = spawn_blocking(move || {
            let mut page = vec![0; PAGE];
            for (pgno, content) in &pages {
                if pgno.get() > source.pages() {
                    return Ok(false);
                }
                source.read(*pgno, &mut page)?;
                if !frames::is_same(*pgno, content, &page) {
                    return Ok(false);
                }
            }
            Ok(source.pages() >= size)
        });
        compared.await.map_err(SourceError::from).flatten().map_err(SyncError::Unavailable)
    }

    /// Writes frames on top of those before them, durably. False if there are others by now.
    async fn write(
        &self,
        span: u32,
        first: u32,
        is_whole_database: bool,
        pushed: Pushed,
    ) -> Result<bool, SyncError> {
        if is_whole_database && pushed.pages.len() != pushed.size as usize {
            // Of a database that began without this server, all of it is needed.
            return Err(SyncError::Gone(1));
        }
        let since = Instant::now();
        loop {
            let write = self.page_write(span, first, is_whole_database, &pushed);
            match self.pages.replicator().apply(self.pages.database().name(), write).await {
                Ok(Applied::At(_)) => return Ok(true),
                // Others have it, or it was not known here what they have.
                Ok(Applied::DoesNotFit) => {
                    let durable = self.up_to_date().await?;
                    let is_next = |spans: &Spans| {
                        let current = spans.current();
                        current.number == span && current.frames() + 1 == first && !is_whole_database
                    };
                    if !self.with(durable, is_next)? {
                        return Ok(false);
                    }
                }
                // Somebody else's transaction is open.
                Err(error) if error.is_transient() && since.elapsed() < BUSY => {}
                Err(error) => return Err(error.into()),
            }
            if since.elapsed() > BUSY {
                return Err(SyncError::Unavailable("others write all the time: try again".into()));
            }
        }
    }

    fn page_write(&self, span: u32, first: u32, is_whole_database: bool, pushed: &Pushed) -> PageWrite {
        let (tracker, spans) = (Arc::clone(self.pages.tracker()), Arc::clone(&self.spans));
        let fits = move |before: Revision| {
            let mut spans = spans.lock();
            let Some(spans) = spans.as_mut().filter(|spans| spans.generation == before.generation) else {
                return false;
            };
            // What was committed until now is captured and counted, and nobody commits any more until this is.
            spans.catch_up(&tracker)
                && spans.current().end() == before.txid
                && spans.current().number == span
                && spans.current().frames() + 1 == first
                && (!is_whole_database || tracker.pages_at(before) == Some(1))
        };
        PageWrite {
            fits: Box::new(fits),
            pages: pushed.pages.iter().map(|(pgno, page)| (*pgno, page.to_vec())).collect(),
            size: Some(pushed.size),
            frames: pushed.frames,
        }
    }

    /// Has all batches up to the latest durable revision counted; returns that.
    async fn up_to_date(&self) -> Result<Revision, SyncError> {
        let tracker = self.pages.tracker();
        let not_yet = || SyncError::Unavailable("nothing is known to be durable yet".into());
        let durable = tracker.durable().borrow().ok_or_else(not_yet)?;
        if self.is_loaded(durable) {
            return Ok(durable);
        }
        let _one_at_a_time = self.loading.lock().await;
        if self.is_loaded(durable) {
            return Ok(durable);
        }
        let kept_after = tracker.keep_batches(durable.generation).ok_or_else(not_yet)?;
        // What was captured before batches were kept is read from the store.
        let name = self.pages.database().name();
        let durable = self.pages.replicator().wait_durable(name, kept_after).await?;
        let spans = Spans::load(self.pages.database(), durable.generation, kept_after).await?;
        *self.spans.lock() = Some(spans);
        if self.is_loaded(durable) {
            self.renew();
            return Ok(durable);
        }
        Err(SyncError::Unavailable("it was opened anew just now: try again".into()))
    }

    fn is_loaded(&self, durable: Revision) -> bool {
        let mut spans = self.spans.lock();
        let is_loaded = spans.as_mut().is_some_and(|spans| {
            spans.generation == durable.generation
                && spans.catch_up(self.pages.tracker())
                && spans.current().end() >= durable.txid
        });
        if !is_loaded {
            *spans = None;
        }
        is_loaded
    }

    fn with<T>(&self, at: Revision, read: impl FnOnce(&Spans) -> T) -> Result<T, SyncError> {
        let spans = self.spans.lock();
        let spans = spans.as_ref().filter(|spans| spans.generation == at.generation);
        spans.map(read).ok_or_else(|| SyncError::Unavailable("it was opened anew just now: try again".into()))
    }

    async fn pin(&self, at: Option<Revision>) -> Result<PinnedPages, SyncError> {
        let pinned = self.pages.pin(at, None).await;
        let gone = || SyncError::Unavailable("the revision is not kept any more".into());
        let source = pinned.map_err(SyncError::Unavailable)?.ok_or_else(gone)?;
        if source.page_size() == PageSize::DEFAULT {
            Ok(source)
        } else {
            Err(SyncError::PageSize(source.page_size()))
        }
    }

    /// Ends the current span if it is long, and says whether it did.
    async fn end_long_span(&self) -> Result<bool, SyncError> {
        let is_long = |spans: &Spans, at: Revision| spans.current().frames_until(at.txid) >= LONG;
        let durable = self.up_to_date().await?;
        if !self.with(durable, |spans| is_long(spans, durable))? {
            return Ok(false);
        }
        let _turn = self.turn.lock().await;
        let durable = self.up_to_date().await?;
        let number = self.with(durable, |spans| spans.current().number)?;
        if !self.with(durable, |spans| is_long(spans, durable))? {
            return Ok(false);
        }
        let database = self.pages.database();
        let next = database.begin_span(durable.generation, number + 1, durable.txid).await?;
        let gone = self.spans.lock().as_mut().map(|spans| spans.end_current(&next)).unwrap_or_default();
        for number in gone {
            database.remove_span(durable.generation, number).await?;
        }
        Ok(true)
    }

    /// Says in the store, now and then, that the spans are in use.
    fn renew(&self) {
        let mut renewed = self.renewed.lock();
        if renewed.is_some_and(|at| at.elapsed() < RENEW) {
            return;
        }
        *renewed = Some(Instant::now());
        let Some((generation, spans)) =
            self.spans.lock().as_ref().map(|spans| (spans.generation, spans.all()))
        else {
            return;
        };
        let database = self.pages.database().clone();
        tokio::spawn(async move {
            for (number, start) in spans {
                let span = aquifer_log::Span { number, start, renewed: aquifer_format::Timestamp::now() };
                if let Err(error) = database.renew_span(generation, &span).await {
                    tracing::warn!(database = %database.name(), %error, "cannot renew a span of frames");
                }
            }
        });
    }
}

fn read_part(mut source: PinnedPages, from: Pgno) -> Result<(Bytes, PinnedPages, Pgno), SourceError> {
    let last = source.pages().min(from.get() + (PART / PAGE) as u32 - 1);
    let mut out = vec![0; (last - from.get() + 1) as usize * PAGE];
    for (pgno, page) in (from.get()..).filter_map(Pgno::new).zip(out.chunks_exact_mut(PAGE)) {
        source.read(pgno, page)?;
    }
    Ok((out.into(), source, Pgno::from_index(last)))
}
