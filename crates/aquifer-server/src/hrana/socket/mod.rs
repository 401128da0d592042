//! Hrana over `WebSocket`, versions 1 to 3 in JSON: many streams over one connection.
//!
//! No answer leaves before what it wrote or could have seen is durable. When the connection ends, whatever runs is
//! stopped, and its transactions are rolled back.

mod connection;
mod messages;
mod outbox;
mod stream;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use tokio::sync::watch;

use super::{Database, Hrana};
use crate::sql::Access;

/// The protocols that are spoken, best first. Clients that name none mean version 1, which the others contain.
const PROTOCOLS: [&str; 2] = ["hrana3", "hrana2"];

/// What one connection may take.
#[derive(Clone, Debug)]
pub struct SocketSettings {
    /// Streams that are open at the same time.
    pub streams: usize,
    /// Requests that are not answered yet; no more is read from a client who has so many.
    pub requests: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// How long a client may take to say who it is.
    pub hello: Duration,
    /// How long a client may be silent, or take nothing of what it is sent. It is asked for a sign of life before.
    pub silence: Duration,
    /// How long a token that was good is taken for good without another look at it.
    pub trust: Duration,
}

impl Default for SocketSettings {
    fn default() -> Self {
        Self {
            streams: 64,
            requests: 128,
            message_bytes: 16 << 20,
            hello: Duration::from_secs(10),
            silence: Duration::from_mins(1),
            trust: Duration::from_secs(10),
        }
    }
}

/// The code of those who are turned away for now, whoever they are.
pub const UNAVAILABLE: &str = "UNAVAILABLE";

/// Who is not let in, and why.
#[derive(Clone, Debug)]
pub struct TurnedAway {
    /// As in the errors of SQL.
    pub code: &'static str,
    /// What to do about it.
    pub message: String,
}

/// The database behind a door, and what may be done with it.
pub type Entered<D> = Result<(Arc<Hrana<D>>, Access), TurnedAway>;

/// Lets clients in, when they have said who they are.
pub trait Door: Send + Sync + 'static {
    /// What is behind it.
    type Database: Database;
    /// A request's place among those in work; free when this is dropped.
    type Turn: Send + Sync + 'static;

    /// The database for whoever has this token, or none. Asked again while a connection lasts.
    fn enter(&self, token: Option<&str>) -> impl Future<Output = Entered<Self::Database>> + Send;

    /// Counts a request of whoever was let in with this token.
    ///
    /// # Errors
    /// When these are too many: this one is refused.
    fn count(&self, token: Option<&str>) -> Result<(), TurnedAway>;

    /// Waits until it is a request's turn to be worked on. Cancel-safe.
    ///
    /// # Errors
    /// When too many others are in work for too long: this one is refused.
    fn turn(&self) -> impl Future<Output = Result<Self::Turn, TurnedAway>> + Send;
}

/// Whether one of the protocols that the client offers is spoken here, or it offers none.
pub fn is_spoken(upgrade: &WebSocketUpgrade) -> bool {
    let mut offered = upgrade.requested_protocols().peekable();
    offered.peek().is_none() || offered.any(|offer| PROTOCOLS.iter().any(|spoken| offer == *spoken))
}

/// Answers a request to upgrade, and serves the connection until it ends or `ending` becomes true.
pub fn socket(
    upgrade: WebSocketUpgrade,
    door: impl Door,
    settings: SocketSettings,
    ending: watch::Receiver<bool>,
) -> Response {
    upgrade
        .protocols(PROTOCOLS)
        .max_message_size(settings.message_bytes)
        .max_frame_size(settings.message_bytes)
        .on_upgrade(move |socket| connection::serve(socket, door, settings, ending))
}
