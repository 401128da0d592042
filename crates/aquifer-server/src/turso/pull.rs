//! From a request for pages to the answer.
//!
//! | the client has | it asks for | it gets |
//! |---|---|---|
//! | nothing | the latest | every page that it selects, page 1 in any case: a bootstrap without it corrupts the client |
//! | nothing | a revision | the pages that it selects, of that revision: the further parts of a bootstrap |
//! | a revision of this history | the latest, or a later one | what changed in between |
//! | a revision of another history | anything | every page, to replace all that it has |

use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{PageSize, Pgno, Revision};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::reading::{self, Encoder, Reading, Selection, ZSTD_LEVEL};
use super::selector::{Selector, SelectorError};
use super::shared::{Made, Shared};
use super::source::{PageHost, PageSource, SourceError};
use aquifer_protocol::WireRevision;
use aquifer_protocol::pull_updates::{
    ApplyMode, PageEncoding, Protocol, PullHeader, PullRequest, RawEncoding, StreamKind, ZstdEncoding,
};

/// Why there is no answer, or why it was cut off.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The body is not the message that it should be.
    #[error("the body is no pull-updates request: {0}")]
    Request(#[from] prost::DecodeError),
    /// The page selector is not one.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The revision that is asked for is not one of an Aquifer server.
    #[error(
        "'{0}' is no revision of this server: send a server_revision that it has answered with, or none for the latest"
    )]
    Revision(String),
    /// The revision that is asked for is not there.
    #[error(
        "revision {0} is not kept any more, or is of another database: begin again without a server_revision"
    )]
    Gone(WireRevision),
    /// Turso's clients read pages of one size only.
    #[error(
        "the database has pages of {0} bytes, and Turso's clients read pages of 4096 bytes only: import a copy made \
         with `PRAGMA page_size = 4096; VACUUM`"
    )]
    PageSize(PageSize),
    /// The query whose pages are wanted cannot be run.
    #[error("the query of server_query_selector cannot be run: {0}")]
    Query(#[source] SourceError),
    /// The host failed.
    #[error("the pages cannot be read")]
    Source(#[source] SourceError),
}

impl PullError {
    /// The HTTP status to answer with.
    pub fn status(&self) -> u16 {
        match self {
            PullError::Request(_) | PullError::Selector(_) | PullError::Revision(_) | PullError::Query(_) => {
                400
            }
            PullError::Gone(_) => 410,
            PullError::PageSize(_) => 422,
            PullError::Source(_) => 500,
        }
    }
}

/// A request, understood.
pub struct Pull {
    encoding: PageEncoding,
    /// The revision that is asked for; `None` = the latest.
    wanted: Option<Revision>,
    client: Client,
    wait: Duration,
    selector: Option<Selector>,
    query: Option<String>,
}

/// What the client has.
enum Client {
    Nothing,
    At(Revision),
    /// A revision that no Aquifer server gave out: the client comes from another server.
    Foreign,
}

impl Client {
    fn revision(&self) -> Option<Revision> {
        match self {
            Client::At(revision) => Some(*revision),
            Client::Nothing | Client::Foreign => None,
        }
    }
}

impl Pull {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// A body, a selector or a `server_revision` that cannot be understood. A `client_revision` may be anything.
    pub fn parse(body: Bytes) -> Result<Pull, PullError> {
        let request = PullRequest::decode(body)?;
        let wanted = match request.server_revision.as_str() {
            "" => None,
            text => match WireRevision::parse(text) {
                Some(WireRevision(revision)) => Some(revision),
                None => return Err(PullError::Revision(text.chars().take(80).collect())),
            },
        };
        let client = match request.client_revision.as_str() {
            "" => Client::Nothing,
            text => WireRevision::parse(text).map_or(Client::Foreign, |revision| Client::At(revision.0)),
        };
        let selector = if request.server_pages_selector.is_empty() {
            None
        } else {
            Some(Selector::parse(request.server_pages_selector.clone())?)
        };
        Ok(Pull {
            // What is not zstd is raw, also when it is an encoding that is not known here: the answer says so.
            encoding: request.encoding(),
            wanted,
            client,
            wait: Duration::from_millis(request.long_poll_timeout_ms.into()),
            selector,
            query: Some(request.server_query_selector).filter(|sql| !sql.is_empty()),
        })
    }

    /// Waits for something newer if the client wants that, at most `max_wait`. A waiting request costs no thread.
    /// Cancel-safe.
    pub async fn wait<H: PageHost>(&self, host: &H, max_wait: Duration) {
        if let (Client::At(client), None, false) = (&self.client, self.wanted, self.wait.is_zero()) {
            let mut revisions = host.revisions();
            // Out of time, or the database is being closed: the answer says that there is nothing new.
            let _ = timeout(
                self.wait.min(max_wait),
                revisions.wait_for(|latest| latest.is_some_and(|latest| latest != *client)),
            )
            .await;
        }
    }

    /// Begins the answer. Cancel-safe: nothing is changed, and what is pinned is let go.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn answer<H: PageHost>(self, host: Arc<H>) -> Result<Answer<H::Source>, PullError> {
        let Some(shared) = self.shared(host.as_ref()) else { return self.answer_alone(host).await };
        let (mut pull, mut own) = (Some(self), None);
        let make = {
            let (pull, own, host) = (&mut pull, &mut own, Arc::clone(&host));
            move || async move {
                let pull = pull.take().expect("it is made once");
                let answer = pull.answer_alone(host).await?;
                if answer.rest.is_none() {
                    return Ok::<_, PullError>(Made::Whole(answer.header, answer.first));
                }
                *own = Some(answer);
                Ok(Made::TooLarge)
            }
        };
        match shared.get_or_try_init(make).await? {
            Made::Whole(header, first) => {
                Ok(Answer { header: header.clone(), first: first.clone(), rest: None })
            }
            Made::TooLarge => match (own, pull) {
                (Some(own), _) => Ok(own),
                (None, Some(pull)) => pull.answer_alone(host).await,
                (None, None) => Err(PullError::Source("the answer got lost".into())),
            },
        }
    }

    /// The answer that others get too.
    fn shared<H: PageHost>(&self, host: &H) -> Option<Arc<Shared>> {
        let latest = (*host.revisions().borrow())?;
        let client = self.client.revision().filter(|client| client.generation == latest.generation)?;
        let is_plain = self.wanted.is_none() && self.selector.is_none() && self.query.is_none();
        is_plain.then(|| host.answers().to(latest, client.txid, self.encoding))
    }

    async fn answer_alone<H: PageHost>(self, host: Arc<H>) -> Result<Answer<H::Source>, PullError> {
        let pinned = host.pin(self.wanted, self.client.revision()).await.map_err(PullError::Source)?;
        let Some(source) = pinned else {
            return Err(match self.wanted {
                Some(revision) => PullError::Gone(WireRevision(revision)),
                None => PullError::Source("the database has no revision".into()),
            });
        };
        spawn_blocking(move || self.begin(source)).await.map_err(|error| PullError::Source(error.into()))?
    }

    /// The header and the first pages. Blocks.
    fn begin<S: PageSource>(self, mut source: S) -> Result<Answer<S>, PullError> {
        if source.page_size() != PageSize::DEFAULT {
            return Err(PullError::PageSize(source.page_size()));
        }
        let (since, apply_mode) = match self.client {
            Client::Nothing => (None, ApplyMode::Incremental),
            Client::Foreign => (None, ApplyMode::ReplaceBase),
            Client::At(client) => match source.base(client) {
                Some(txid) => (Some(txid), ApplyMode::Incremental),
                None => (None, ApplyMode::ReplaceBase),
            },
        };
        let header = header(&source, self.encoding, apply_mode);
        let nothing_new = since == Some(source.revision().txid);
        let mut first = BytesMut::new();
        header.encode_length_delimited(&mut first).map_err(|error| PullError::Source(error.into()))?;
        if nothing_new || source.pages() == 0 {
            return Ok(Answer { header, first: first.freeze(), rest: None });
        }
        let selection = match (self.selector, self.query) {
            (Some(selector), _) => Selection::Ids(selector),
            (None, Some(sql)) => match source.touched_by(&sql).map_err(PullError::Query)? {
                Some(mut pages) => {
                    pages.sort_unstable();
                    Selection::Pages(pages)
                }
                None => Selection::All,
            },
            (None, None) => Selection::All,
        };
        let reading = Reading {
            // A client that has nothing (any more) begins with this answer.
            with_first: since.is_none() && (self.wanted.is_none() || apply_mode == ApplyMode::ReplaceBase),
            source,
            selection,
            since,
            encoder: Encoder::new(self.encoding)?,
            from: Pgno::ONE,
        };
        let (first, rest) = reading.part(first)?;
        Ok(Answer { header, first, rest })
    }
}

fn header(source: &impl PageSource, encoding: PageEncoding, apply_mode: ApplyMode) -> PullHeader {
    let zstd = encoding == PageEncoding::Zstd;
    PullHeader {
        server_revision: WireRevision(source.revision()).to_string(),
        db_size: u64::from(source.pages()),
        raw_encoding: (!zstd).then_some(RawEncoding {}),
        zstd_encoding: zstd.then(|| ZstdEncoding { level: ZSTD_LEVEL, pages_dict: Vec::new() }),
        stream_kind: StreamKind::Pages.into(),
        apply_mode: apply_mode.into(),
        protocol: Protocol::Pages.into(),
    }
}

/// An answer whose beginning is there and whose rest is read as it is sent. Holds its revision until it is dropped.
pub struct Answer<S> {
    header: PullHeader,
    first: Bytes,
    rest: Option<Reading<S>>,
}

impl<S: PageSource> Answer<S> {
    /// What the answer begins with.
    pub fn header(&self) -> &PullHeader {
        &self.header
    }

    /// What its client has when it has taken all of it.
    pub fn revision(&self) -> Option<Revision> {
        WireRevision::parse(&self.header.server_revision).map(|WireRevision(revision)| revision)
    }

    /// The length of the whole body in bytes where it is all there already: a server that sends it spares small
    /// answers the chunked encoding.
    pub fn len_if_complete(&self) -> Option<usize> {
        self.rest.is_none().then_some(self.first.len())
    }

    /// The body: header and pages, in parts of about 256 KiB, two of which are in memory at most. After an error
    /// nothing more comes; the body must then be cut off, not ended, or the client takes it for whole.
    ///
    /// To be called within a Tokio runtime. Dropping the stream is how to cancel it.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, PullError>> + Send + 'static {
        stream::iter([Ok(self.first)]).chain(reading::parts(self.rest))
    }
}
