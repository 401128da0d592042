//! The other side: a sync server over HTTP.
//!
//! - [`Remote`]: one database of a server. Makes no request before it is asked something;
//! - [`PullQuery`], [`Pull`]: pages, as Turso's pull-updates brings them, one after the other;
//! - [`Batch`], [`SqlStream`]: SQL, as Hrana over HTTP has it;
//! - `frames`: pages as numbered frames, as libSQL's offline sync has them;
//! - [`RemoteError`]: what went wrong, by what a caller does about it.
//!
//! ```text
//!   address   which URLs there are                      decode   from bytes to pages
//!   http      one request: redirects, limits of time    pull     a pull's pages, from the socket
//!   retry     when to try again                         hrana/   batches, answers, streams
//!   abilities what a server turned out not to know
//! ```
//!
//! # Cancelling
//! Every future here may be dropped at any await. What that leaves behind is said at each: a pull changes nothing
//! anywhere; a batch may have been executed, or may yet be.
//!
//! # Redirects
//! 307 and 308 are followed, three at most, and never from https to http. Token and encryption key go along: they go
//! to the server that was named, and to whom that server sends us, which could pass them on itself. Nothing is
//! remembered: the next request goes to the server that was named, only a stream stays where it was sent.

mod abilities;
mod address;
mod decode;
mod error;
mod frames;
mod hrana;
mod http;
mod options;
mod pull;
mod retry;
mod traffic;

pub use address::AddressError;
pub use error::RemoteError;
pub(crate) use frames::{Export, FRAMES, Frame, FramesPulled};
pub use hrana::{
    Batch, BatchAnswer, Condition, SqlFailure, SqlStream, StepOutcome, StepResult, Unsendable, sendable,
};
pub use options::{Proxy, RemoteOptions, Retries, Secret};
pub use pull::{Pull, PullQuery};
pub use traffic::Traffic;

use std::fmt;
use std::sync::Arc;

use address::Address;
use http::Http;

/// One database of a sync server. Clones are the same remote: they share connections and counters.
#[derive(Clone)]
pub struct Remote {
    http: Arc<Http>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.url()).finish()
    }
}

impl Remote {
    /// The database at this URL: `libsql://…` and `turso://…` (both mean https), `https://…`, or `http://…`. Its path
    /// is the beginning of every request's, as in `https://example.com/db/shop`. No request is made.
    ///
    /// # Errors
    /// A URL, a token or a proxy that cannot be used.
    pub fn new(url: &str, options: RemoteOptions) -> Result<Remote, RemoteError> {
        let address = Address::parse(url)?;
        Ok(Remote { http: Arc::new(Http::new(address, options)?) })
    }

    /// The URL that requests go to, as in `https://example.com/db/shop`.
    pub fn url(&self) -> &str {
        self.http.address().as_str()
    }

    /// What has been sent and received.
    pub fn traffic(&self) -> &Traffic {
        self.http.traffic()
    }
}
