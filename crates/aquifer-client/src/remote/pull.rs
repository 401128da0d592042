//! Pages of the server's database, from the socket.

use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{PageSize, Pgno};
use aquifer_protocol::pull_updates::{PageEncoding, PullRequest};
use bytes::Bytes;
use prost::Message as _;
use roaring::RoaringBitmap;

use super::Remote;
use super::decode::{Decoder, Expected, Head, Malformed};
use super::error::RemoteError;
use super::http::{Answer, AnswerBody, Http, Request};

/// What is asked for. The default is the whole database, as it is now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PullQuery {
    /// The revision that this client has: the answer brings what has changed since. `None`: it has nothing.
    pub client_revision: Option<String>,
    /// The revision that is wanted. `None`: the latest.
    pub server_revision: Option<String>,
    /// The pages that are wanted, by [`Pgno`] (1-based). `None`: all. The server may send page 1 beside them. Together
    /// with `client_revision`, those of them that have changed.
    pub pages: Option<RoaringBitmap>,
    /// How long the server shall wait for something newer than `client_revision`. Servers wait a few minutes at the
    /// longest, and some not at all.
    pub long_poll: Option<Duration>,
}

/// An answer whose beginning is there. Dropping it closes its connection.
pub struct Pull {
    http: Arc<Http>,
    body: AnswerBody,
    decoder: Decoder,
    content_type: Option<String>,
    /// The revision that a client has once it has applied the answer.
    pub revision: String,
    /// Size of the database at that revision, in pages.
    pub pages: u32,
    /// Whether the answer is to replace all that the client has: what it has is of another history.
    pub replace_base: bool,
}

impl PullQuery {
    fn request(&self, encoding: PageEncoding) -> PullRequest {
        let mut selector = Vec::new();
        if let Some(pages) = &self.pages {
            // The wire counts from 0.
            let ids: RoaringBitmap = pages.iter().filter_map(|pgno| pgno.checked_sub(1)).collect();
            ids.serialize_into(&mut selector).expect("memory can be written to");
        }
        let wait = self.long_poll.unwrap_or_default().as_millis();
        let mut request = PullRequest {
            server_revision: self.server_revision.clone().unwrap_or_default(),
            client_revision: self.client_revision.clone().unwrap_or_default(),
            server_pages_selector: selector.into(),
            long_poll_timeout_ms: wait.try_into().unwrap_or(u32::MAX),
            ..PullRequest::default()
        };
        request.set_encoding(encoding);
        request
    }

    fn expected(&self) -> Expected {
        match (&self.client_revision, &self.pages) {
            (Some(_), _) => Expected::Changed,
            (None, None) => Expected::All,
            (None, Some(pages)) => {
                Expected::These(pages.iter().filter_map(|pgno| pgno.checked_sub(1)).collect())
            }
        }
    }
}

impl Remote {
    /// Asks for pages, again and again as [`Retries`](super::Retries) say, until an answer begins.
    ///
    /// Cancel-safe: nothing is changed on the server.
    ///
    /// # Errors
    /// [`RemoteError::Gone`] for a `server_revision` that the server does not keep any more; otherwise what any request
    /// may come to.
    pub async fn pull(&self, query: &PullQuery) -> Result<Pull, RemoteError> {
        let answer = self.ask_again(query).await?;
        if !answer.tells_its_end() {
            let reason = "where it ends cannot be told from a connection that breaks";
            return Err(answer.body.protocol(reason.into()));
        }
        let mut pull = Pull {
            http: Arc::clone(&self.http),
            content_type: answer.header("content-type").map(str::to_owned),
            body: answer.body,
            decoder: Decoder::new(query.expected()),
            revision: String::new(),
            pages: 0,
            replace_base: false,
        };
        loop {
            let head = pull.decoder.head();
            if let Some(Head { revision, pages, replace_base }) =
                head.map_err(|malformed| pull.error(&malformed))?
            {
                return Ok(Pull { revision, pages, replace_base, ..pull });
            }
            if !pull.receive().await? {
                return Err(pull.error(&pull.decoder.broken_off()));
            }
        }
    }

    async fn ask_again(&self, query: &PullQuery) -> Result<Answer<'_>, RemoteError> {
        let http = &self.http;
        let mut failed = 0;
        loop {
            let zstd = http.abilities.zstd();
            let encoding = if zstd { PageEncoding::Zstd } else { PageEncoding::Raw };
            let request = Request {
                route: "/pull-updates".into(),
                content_type: "application/protobuf",
                body: Some(query.request(encoding).encode_to_vec().into()),
                takes_refusals: false,
                wait: query.long_poll.unwrap_or_default(),
            };
            let error = match http.ask(http.address(), &request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if zstd && http.abilities.lacks_zstd(&error) {
                continue;
            }
            http.pause(&mut failed, error).await?;
        }
    }
}

impl Pull {
    /// The next page, or `None` when that was all: every page is as the server has it at [`Pull::revision`], none comes
    /// twice, and none is missing that was to be told by this side. Their order is the server's.
    ///
    /// Cancel-safe: no page is lost when this is dropped and called again.
    ///
    /// # Errors
    /// [`RemoteError::Interrupted`] when the connection breaks: what came before may be used, and the rest be asked for
    /// anew with [`Pull::revision`] as the `server_revision` and the missing ones as `pages`.
    pub async fn next_page(&mut self) -> Result<Option<(Pgno, Bytes)>, RemoteError> {
        loop {
            let page = self.decoder.page();
            if let Some(page) = page.map_err(|malformed| self.error(&malformed))? {
                return Ok(Some(page));
            }
            if !self.receive().await? {
                return self.decoder.end().map(|()| None).map_err(|malformed| self.error(&malformed));
            }
        }
    }

    /// Of every page; `None` before the first is there.
    pub fn page_size(&self) -> Option<PageSize> {
        self.decoder.page_size()
    }

    /// Waits for more of the answer; whether there was any.
    async fn receive(&mut self) -> Result<bool, RemoteError> {
        let part = self.body.next(self.http.traffic()).await?;
        if let Some(part) = &part {
            self.decoder.feed(part);
        }
        Ok(part.is_some())
    }

    fn error(&self, malformed: &Malformed) -> RemoteError {
        let hint = match &self.content_type {
            Some(of) if !of.contains("protobuf") => {
                format!(" (it is {of}: is the URL right, or does this network want a login?)")
            }
            _ => String::new(),
        };
        self.body.protocol(format!("{malformed}{hint}"))
    }
}
