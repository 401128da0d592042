//! Terms: unbroken times during which a server gave signs of life.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aquifer_format::{Moment, Timestamp};
use aquifer_log::{LogError, ServerRecord, Store};
use parking_lot::Mutex;
use uuid::Uuid;

use super::{Cluster, Shared};
use crate::hosted::HostError;

/// A sign of life is given so many times in a lease.
const BEATS: u32 = 5;
/// A term that nobody used for so many leases ends.
const UNUSED_LEASES: u32 = 6;

/// An unbroken time during which this server gave signs of life.
#[derive(Debug)]
pub struct Term {
    id: Uuid,
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the last sign of life that counts was sent.
    renewed: Moment,
    used: Instant,
    ended: bool,
}

impl Term {
    /// Its id, under which others find this server.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether it is not over: what the server knows of databases that it claimed is the newest there is. Counts as use.
    pub fn holds(&self) -> bool {
        let mut state = self.state.lock();
        let holds = self.is_within(&state);
        if holds {
            state.used = Instant::now();
        }
        holds
    }

    /// For how long a sign of life counts here: less than others wait for the next one.
    fn valid(lease: Duration) -> Duration {
        lease * 2 / 3
    }

    fn is_within(&self, state: &State) -> bool {
        !state.ended && state.renewed.elapsed() < Term::valid(self.lease)
    }

    fn is_over(&self) -> bool {
        !self.is_within(&self.state.lock())
    }

    fn is_unused(&self) -> bool {
        self.state.lock().used.elapsed() > self.lease * UNUSED_LEASES
    }

    /// A sign of life has arrived that was sent at this moment. It does not count when the term was over before its
    /// answer came: others may have looked in between.
    fn renewed(&self, sent: Moment) {
        let mut state = self.state.lock();
        if self.is_within(&state) {
            state.renewed = sent;
        }
    }

    fn end(&self) {
        self.state.lock().ended = true;
    }
}

impl Cluster {
    /// The term of this server; begins one where there is none. Cancel-safe.
    pub async fn term(&self) -> Result<Arc<Term>, HostError> {
        let shared = &self.shared;
        let current = || shared.current.lock().clone().filter(|term| term.holds());
        if let Some(term) = current() {
            return Ok(term);
        }
        let asked = Instant::now();
        let mut failed = shared.beginning.lock().await;
        if let Some(term) = current() {
            return Ok(term);
        }
        // While the store is away, those who wait for the same thing do not wait for each other.
        if let Some((at, error)) = &*failed
            && *at >= asked
        {
            return Err(error.clone());
        }
        let begun = self.begin().await;
        *failed = begun.as_ref().err().map(|error| (Instant::now(), error.clone()));
        begun
    }

    async fn begin(&self) -> Result<Arc<Term>, HostError> {
        let shared = &self.shared;
        let over = shared.current.lock().take();
        if let Some(over) = over {
            shared.is_over(&over);
        }
        let id = Uuid::now_v7();
        shared.note(id).await;
        let record = shared.record(id);
        let sent = Moment::now();
        record.announce(&shared.store).await.map_err(LogError::from)?;
        let state = State { renewed: sent, used: Instant::now(), ended: false };
        let term = Arc::new(Term { id, lease: shared.options.lease, state: Mutex::new(state) });
        tokio::spawn(beat(Arc::downgrade(shared), Arc::clone(&term), record));
        if !term.holds() {
            return Err(HostError::SlowStore { lease: shared.options.lease });
        }
        tracing::debug!(%id, "announced");
        *shared.current.lock() = Some(Arc::clone(&term));
        Ok(term)
    }

    /// Ends the term, when everything that it claimed is released or lost: others need not wait for anything.
    pub async fn leave(&self) {
        let Some(term) = self.shared.current.lock().take() else { return };
        self.shared.is_over(&term);
        say_ended(&self.shared.store, &term).await;
    }
}

/// Gives signs of life, until nobody uses the term or it is over.
async fn beat(shared: Weak<Shared>, term: Arc<Term>, mut record: ServerRecord) {
    loop {
        tokio::time::sleep(term.lease / BEATS).await;
        let Some(shared) = shared.upgrade() else { return };
        if term.is_over() || term.is_unused() {
            shared.is_over(&term);
            say_ended(&shared.store, &term).await;
            return;
        }
        record.beat += 1;
        let sent = Moment::now();
        match tokio::time::timeout(term.lease, record.announce(&shared.store)).await {
            Ok(Ok(())) => term.renewed(sent),
            Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
            Err(_) => tracing::warn!("cannot renew the lease: the store does not answer"),
        }
    }
}

/// Others need not wait until they see it. If it fails, they wait.
async fn say_ended(store: &Store, term: &Term) {
    let said = tokio::time::timeout(term.lease, ServerRecord::end(store, term.id)).await;
    if !matches!(said, Ok(Ok(()))) {
        tracing::debug!(id = %term.id, "others will find out that the term is over");
    }
}

impl Shared {
    fn record(&self, id: Uuid) -> ServerRecord {
        ServerRecord {
            id,
            host: self.host.clone(),
            url: self.options.url.clone(),
            started: Timestamp::now(),
            beat: 1,
            lease_millis: u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX),
            secret: self.secret.clone(),
        }
    }

    fn is_over(&self, term: &Arc<Term>) {
        term.end();
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, term)) {
            *current = None;
        }
        drop(current);
        if !self.is_past(term.id) {
            self.remember(term.id);
        }
    }

    /// Without the note, the next run waits like any other server.
    async fn note(&self, id: Uuid) {
        let path = self.note.clone();
        let noted = tokio::task::spawn_blocking(move || std::fs::write(path, id.to_string())).await;
        if let Ok(Err(error)) = noted {
            tracing::warn!(path = %self.note.display(), %error, "cannot note the id of this server");
        }
    }
}
