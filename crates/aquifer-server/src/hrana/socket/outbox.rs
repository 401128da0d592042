//! What is on its way to the client, and how much of it there may be.

use std::sync::Arc;

use axum::extract::ws::CloseCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes of answers that may wait for the client to take them, in units of [`UNIT`]; one answer can be larger.
const ROOM: u32 = 16 << 10;
const UNIT: usize = 1 << 10;

/// Something to send.
pub(super) enum Outgoing {
    /// A message. What it holds is free again when it has been sent.
    Text(String, Option<OwnedSemaphorePermit>, Place),
    /// The end.
    Close(CloseCode, String),
}

/// A request's place among those that are not answered yet; free when this is dropped.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// Where answers are put.
#[derive(Clone)]
pub(super) struct Outbox {
    sender: mpsc::UnboundedSender<Outgoing>,
    room: Arc<Semaphore>,
}

impl Outbox {
    /// An outbox, and what takes from it.
    pub(super) fn new() -> (Outbox, mpsc::UnboundedReceiver<Outgoing>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Outbox { sender, room: Arc::new(Semaphore::new(ROOM as usize)) }, receiver)
    }

    /// Waits until the client has taken enough of what came before. Cancel-safe.
    pub(super) async fn room_for(&self, text: &str) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(text.len() / UNIT + 1).unwrap_or(ROOM).min(ROOM);
        // It is never closed.
        self.room.clone().acquire_many_owned(units).await.ok()
    }

    /// Sends a message of any size.
    pub(super) fn send(&self, text: String, room: Option<OwnedSemaphorePermit>, place: Place) {
        // Nobody takes it: the client is gone.
        let _ = self.sender.send(Outgoing::Text(text, room, place));
    }

    /// Ends the connection after what was sent before.
    pub(super) fn close(&self, code: CloseCode, reason: impl Into<String>) {
        let _ = self.sender.send(Outgoing::Close(code, reason.into()));
    }
}
