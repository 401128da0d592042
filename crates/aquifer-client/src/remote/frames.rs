//! Pages as numbered frames, as libSQL's offline sync has them.
//!
//! The server counts frames from 1 in each generation, which begins with a database file. What a client pushes is
//! taken only where its numbers come next: so the same frames may be sent again, and are taken once.

use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{PageSize, Pgno};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use super::Remote;
use super::error::RemoteError;
use super::http::{Answer, AnswerBody, Http, Request, said};

/// Frames that are asked for, or sent, at once.
pub(crate) const FRAMES: u32 = 128;
/// Bytes before the page: its number, the size of the database if it is the last of a transaction, and 16 that are
/// the sender's own affair.
const HEADER: usize = 24;
const PAGE: usize = PageSize::DEFAULT.bytes();
const FRAME: usize = HEADER + PAGE;
/// Bytes of an answer that is no frames.
const ANSWER: usize = 64 << 10;
/// Bytes of a database's header.
const FILE_HEADER: usize = 100;

/// A frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) pgno: Pgno,
    /// Pages of the database, in the last frame of a transaction; else 0.
    pub(crate) size: u32,
    pub(crate) page: Bytes,
}

impl Frame {
    /// As it travels.
    pub(crate) fn put(out: &mut Vec<u8>, pgno: Pgno, size: u32, page: &[u8]) {
        out.extend(pgno.get().to_be_bytes());
        out.extend(size.to_be_bytes());
        out.extend([0; 16]);
        out.extend(page);
    }

    /// `None`: it is of page 0.
    fn of(mut bytes: Bytes) -> Option<Frame> {
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let (pgno, size) = (Pgno::new(word(0))?, word(4));
        Some(Frame { pgno, size, page: bytes.split_off(HEADER) })
    }

    /// Whole frames as they travel.
    pub(crate) fn all(frames: &Bytes) -> impl Iterator<Item = Frame> {
        (0..frames.len() / FRAME).filter_map(|at| Frame::of(frames.slice(at * FRAME..(at + 1) * FRAME)))
    }
}

/// What a server answers to who asks for frames.
pub(crate) enum FramesPulled {
    /// These.
    Some(Box<FrameStream>),
    /// There are none.
    End {
        /// The generation that the server is in.
        generation: u32,
        /// The last frame, of the generation that was asked for if that is the current one.
        last: Option<u32>,
    },
}

/// What a server answers to frames.
#[derive(Debug, Deserialize)]
pub(crate) struct FramesPushed {
    /// `ok` or `conflict`.
    status: String,
    /// The last frame that is there.
    #[serde(default)]
    pub(crate) max_frame_no: u32,
    /// To go on with.
    pub(crate) baton: Option<String>,
}

impl FramesPushed {
    /// Whether others' frames are where these should go.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status == "conflict"
    }
}

/// Frames, from the socket.
pub(crate) struct FrameStream {
    http: Arc<Http>,
    body: AnswerBody,
    buffer: BytesMut,
}

impl FrameStream {
    /// The next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, RemoteError> {
        if !fill(&mut self.buffer, FRAME, &mut self.body, &self.http).await? {
            return match self.buffer.len() {
                0 => Ok(None),
                rest => Err(self.body.protocol(format!("its last frame is {rest} bytes long"))),
            };
        }
        let frame = Frame::of(self.buffer.split_to(FRAME).freeze());
        frame.map(Some).ok_or_else(|| self.body.protocol("a frame is of page 0".to_owned()))
    }

    pub(crate) fn error(&self, reason: String) -> RemoteError {
        self.body.protocol(reason)
    }
}

/// A database file, from the socket.
pub(crate) struct Export {
    http: Arc<Http>,
    body: AnswerBody,
    buffer: BytesMut,
    /// Bytes of a page.
    pub(crate) page_size: PageSize,
    /// Its pages.
    pub(crate) pages: u32,
    next: u32,
}

impl Export {
    /// The next page, from the first on. Cancel-safe.
    pub(crate) async fn next_page(&mut self) -> Result<Option<(Pgno, Bytes)>, RemoteError> {
        let size = self.page_size.bytes();
        if !fill(&mut self.buffer, size, &mut self.body, &self.http).await? {
            if self.next == self.pages && self.buffer.is_empty() {
                return Ok(None);
            }
            let (next, pages) = (self.next, self.pages);
            return Err(self.body.protocol(format!("a database of {pages} pages ends after {next}")));
        }
        let pgno = Pgno::from_index(self.next);
        self.next += 1;
        if self.next > self.pages {
            return Err(self.body.protocol(format!("a database of {} pages goes on", self.pages)));
        }
        Ok(Some((pgno, self.buffer.split_to(size).freeze())))
    }
}

/// Waits until so many bytes are there; false: there are no more than those that are.
async fn fill(
    buffer: &mut BytesMut,
    bytes: usize,
    body: &mut AnswerBody,
    http: &Http,
) -> Result<bool, RemoteError> {
    while buffer.len() < bytes {
        match body.next(http.traffic()).await? {
            Some(part) => buffer.extend_from_slice(&part),
            None => return Ok(false),
        }
    }
    Ok(true)
}

impl Remote {
    /// Waits before something is tried again that has failed, now for one time more.
    ///
    /// # Errors
    /// That it is no use.
    pub(crate) async fn pause(&self, failed: &mut u32, error: RemoteError) -> Result<(), RemoteError> {
        self.http.pause(failed, error).await
    }

    /// The generation that the server is in. Cancel-safe, as all questions here are.
    pub(crate) async fn frames_generation(&self) -> Result<u32, RemoteError> {
        #[derive(Deserialize)]
        struct Info {
            current_generation: u32,
        }
        let mut failed = 0;
        loop {
            let asked = async {
                let answer = self.frames_request("/info".to_owned(), None, false).await?;
                let info: Info = read(answer).await?;
                Ok(info.current_generation)
            };
            match asked.await {
                Ok(generation) => return Ok(generation),
                Err(error) => self.http.pause(&mut failed, error).await?,
            }
        }
    }

    /// The database as it was at the beginning of a generation.
    pub(crate) async fn export(&self, generation: u32) -> Result<Export, RemoteError> {
        let mut failed = 0;
        loop {
            match self.export_once(generation).await {
                Ok(export) => return Ok(export),
                Err(error) => self.http.pause(&mut failed, error).await?,
            }
        }
    }

    async fn export_once(&self, generation: u32) -> Result<Export, RemoteError> {
        let answer = self.frames_request(format!("/export/{generation}"), None, false).await?;
        ends_tellably(&answer)?;
        let len: Option<u64> = answer.header("content-length").and_then(|len| len.parse().ok());
        let (mut body, mut buffer) = (answer.body, BytesMut::new());
        let http = Arc::clone(&self.http);
        if !fill(&mut buffer, FILE_HEADER, &mut body, &http).await? {
            if buffer.is_empty() {
                return Ok(Export { http, body, buffer, page_size: PageSize::DEFAULT, pages: 0, next: 0 });
            }
            return Err(body.protocol("it is no database".to_owned()));
        }
        let bytes = u32::from(u16::from_be_bytes([buffer[16], buffer[17]]));
        let is_database = buffer.starts_with(b"SQLite format 3\0");
        let page_size = PageSize::new(if bytes == 1 { 65536 } else { bytes });
        let Some(page_size) = page_size.ok().filter(|_| is_database) else {
            return Err(body.protocol("it is no database".to_owned()));
        };
        let pages = match len {
            Some(len) => u32::try_from(len / u64::from(page_size.get())).unwrap_or(u32::MAX),
            None => u32::from_be_bytes(std::array::from_fn(|i| buffer[28 + i])),
        };
        Ok(Export { http, body, buffer, page_size, pages, next: 0 })
    }

    /// Frames of a generation, from this one on, to before `end`. Servers may send fewer, and more.
    pub(crate) async fn frames(
        &self,
        generation: u32,
        first: u32,
        end: u32,
    ) -> Result<FramesPulled, RemoteError> {
        let mut failed = 0;
        loop {
            match self.frames_once(format!("/sync/{generation}/{first}/{end}")).await {
                Ok(pulled) => return Ok(pulled),
                Err(error) => self.http.pause(&mut failed, error).await?,
            }
        }
    }

    async fn frames_once(&self, route: String) -> Result<FramesPulled, RemoteError> {
        #[derive(Deserialize)]
        struct End {
            generation: u32,
            max_frame_no: Option<u32>,
        }
        let answer = self.frames_request(route, None, true).await?;
        if answer.status.is_success() {
            ends_tellably(&answer)?;
            let (http, body) = (Arc::clone(&self.http), answer.body);
            let frames = FrameStream { http, body, buffer: BytesMut::new() };
            return Ok(FramesPulled::Some(Box::new(frames)));
        }
        let (status, remote) = (answer.status.as_u16(), answer.address.as_str().to_owned());
        let body = answer.bytes(ANSWER).await?;
        if let Ok(End { generation, max_frame_no }) = serde_json::from_slice(&body) {
            return Ok(FramesPulled::End { generation, last: max_frame_no });
        }
        let message = said(&body).0.unwrap_or_default();
        Err(RemoteError::of_status(remote, status, None, message))
    }

    /// Sends frames with these numbers (`end` is exclusive), after those that a baton stands for. Sent once.
    ///
    /// Not cancel-safe: they may have been taken, or may yet be; who sends the same again finds out.
    pub(crate) async fn push_frames(
        &self,
        generation: u32,
        (first, end): (u32, u32),
        baton: Option<&str>,
        frames: Bytes,
    ) -> Result<FramesPushed, RemoteError> {
        let baton = baton.map_or(String::new(), |baton| format!("/{baton}"));
        let route = format!("/sync/{generation}/{first}/{end}{baton}");
        read(self.frames_request(route, Some(frames), false).await?).await
    }

    async fn frames_request(
        &self,
        route: String,
        body: Option<Bytes>,
        takes_refusals: bool,
    ) -> Result<Answer<'_>, RemoteError> {
        let content_type = "application/octet-stream";
        let request =
            Request { route: route.into(), content_type, body, takes_refusals, wait: Duration::ZERO };
        self.http.ask(self.http.address(), &request).await
    }
}

async fn read<T: serde::de::DeserializeOwned>(answer: Answer<'_>) -> Result<T, RemoteError> {
    let remote = answer.address.as_str().to_owned();
    let body = answer.bytes(ANSWER).await?;
    serde_json::from_slice(&body).map_err(|e| RemoteError::Protocol {
        remote,
        reason: format!("it is not what libSQL's servers say: {e}"),
    })
}

fn ends_tellably(answer: &Answer<'_>) -> Result<(), RemoteError> {
    if answer.tells_its_end() {
        return Ok(());
    }
    Err(answer.body.protocol("where it ends cannot be told from a connection that breaks".to_owned()))
}
