//! One connection of the server, over several requests.

use std::time::Duration;

use aquifer_protocol::REVISION_HEADER;
use aquifer_sqlite::btree::Value;

use super::super::Remote;
use super::super::address::Address;
use super::super::error::RemoteError;
use super::super::http::Request;
use super::answer::{self, BatchAnswer, StepResult};
use super::batch::Batch;

/// Why a stream is over in the middle of a request.
const GIVEN_UP: &str = "a request before this one failed, or was given up";

/// A connection of the server, with its open transaction. Servers give it up, and roll back, when they hear nothing for
/// about ten seconds, also after this was dropped; [`SqlStream::close`] is faster.
#[derive(Debug)]
pub struct SqlStream {
    remote: Remote,
    state: State,
}

#[derive(Debug)]
enum State {
    New,
    /// To be named by this baton, at this address.
    Open(String, Address),
    /// It cannot be named any more, for this reason.
    Over(&'static str),
}

impl Remote {
    /// Runs a batch on a connection of its own, which is closed after it: what is not committed by then is rolled back.
    /// It is sent once.
    ///
    /// Not cancel-safe: the server may have run the batch, or may yet run it.
    ///
    /// # Errors
    /// What is said by [`RemoteError::may_have_happened`]. Steps that fail are no error: see [`BatchAnswer`].
    pub async fn batch(&self, batch: &Batch) -> Result<BatchAnswer, RemoteError> {
        self.send_batch(self.http.address(), batch, None, true).await.map(|(answer, _)| answer)
    }

    /// Runs one statement by itself, and gives its rows. What it may leave behind is that of [`Remote::batch`].
    ///
    /// # Errors
    /// As [`Remote::batch`], and [`RemoteError::Sql`] if the statement fails.
    pub async fn execute(&self, sql: &str, args: &[Value]) -> Result<StepResult, RemoteError> {
        let mut batch = Batch::new();
        batch.step(None, sql, args, true)?;
        let answer = self.batch(&batch).await?;
        answer::only(answer, self.url())
    }

    /// A connection of the server. No request is made before the first batch.
    pub fn sql_stream(&self) -> SqlStream {
        SqlStream { remote: self.clone(), state: State::New }
    }

    async fn send_batch(
        &self,
        address: &Address,
        batch: &Batch,
        baton: Option<&str>,
        close: bool,
    ) -> Result<(BatchAnswer, State), RemoteError> {
        let request = |close| Request {
            route: "/v2/pipeline".into(),
            content_type: "application/json",
            body: Some(batch.body(baton, close).into()),
            takes_refusals: false,
            wait: Duration::ZERO,
        };
        let abilities = &self.http.abilities;
        let close = close && abilities.close();
        let answer = match self.http.ask(address, &request(close)).await {
            Err(error) if close && abilities.lacks_close(&error) => {
                self.http.ask(address, &request(false)).await?
            }
            asked => asked?,
        };
        let revision = answer.header(REVISION_HEADER).map(str::to_owned);
        let (address, remote) = (answer.address.clone(), answer.address.as_str().to_owned());
        let body = answer.bytes(self.http.options.answer_bytes).await?;
        let protocol = |reason| RemoteError::Protocol { remote: remote.clone(), reason };
        let parsed = answer::parse(&body, batch.len()).map_err(protocol)?;
        let state = match (parsed.baton, parsed.base_url) {
            (None, _) => State::Over("it gave no baton to go on with"),
            (Some(baton), None) => State::Open(baton, address),
            (Some(baton), Some(base)) => {
                let stays = address.sent_to(&base);
                let reason = || protocol(format!("its stream goes on at '{base}', where we do not follow"));
                State::Open(baton, stays.ok_or_else(reason)?)
            }
        };
        match parsed.batch {
            Ok(steps) => Ok((BatchAnswer { steps, revision }, state)),
            Err(failure) => Err(RemoteError::Sql { remote, failure }),
        }
    }
}

impl SqlStream {
    /// Runs a batch. What it leaves open is there for the next one.
    ///
    /// Not cancel-safe: the server may have run the batch, or may yet run it. The stream is over then.
    ///
    /// # Errors
    /// As [`Remote::batch`], after which the stream is over; and [`RemoteError::StreamLost`] for a stream that is.
    pub async fn batch(&mut self, batch: &Batch) -> Result<BatchAnswer, RemoteError> {
        self.send(batch, false).await
    }

    /// Whether the next batch goes to the connection that the last one has used.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(..))
    }

    /// Closes the stream; what is not committed is rolled back.
    ///
    /// Cancel-safe in so far as the server does the same by itself after a while.
    ///
    /// # Errors
    /// What a request may come to: the server then closes it later.
    pub async fn close(mut self) -> Result<(), RemoteError> {
        match self.state {
            State::Open(..) => self.send(&Batch::new(), true).await.map(|_| ()),
            State::New | State::Over(_) => Ok(()),
        }
    }

    async fn send(&mut self, batch: &Batch, close: bool) -> Result<BatchAnswer, RemoteError> {
        // A baton is good for one request, whatever becomes of it.
        let (baton, address) = match std::mem::replace(&mut self.state, State::Over(GIVEN_UP)) {
            State::New => (None, self.remote.http.address().clone()),
            State::Open(baton, address) => (Some(baton), address),
            State::Over(why) => {
                self.state = State::Over(why);
                let (remote, message) = (self.remote.url().to_owned(), why.to_owned());
                return Err(RemoteError::StreamLost { remote, message });
            }
        };
        let (answer, state) = self.remote.send_batch(&address, batch, baton.as_deref(), close).await?;
        self.state = state;
        Ok(answer)
    }
}
