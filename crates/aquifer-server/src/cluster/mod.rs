//! Which of several servers on one store answers for a database.
//!
//! ```text
//!   term    a server lives, as others can see: it renews servers/<term>.json      term.rs
//!   claim   a term serves a database: it created owner/<epoch>.json               claim.rs
//!   judge   a term that others saw unchanged for a whole lease is over            peers.rs
//! ```
//!
//! # The promise
//! Whoever asks a server sees everything that any server had acknowledged before. That no acknowledged commit is lost
//! is not promised here: the put-if-absent of level 0 sees to that, whatever clocks do.
//!
//! # Why it holds
//! Claims of a database follow each other, epoch by epoch, and each is created only if absent. The next one is made
//! only when the term of the one before is over, or has released it. A server answers only after it has seen, by its own
//! clocks, that its term is not over:
//!
//! - A sign of life counts from when it was *sent*, for [`valid`](Term) two thirds of a lease, by whichever of two
//!   clocks ran faster (a suspended machine). If the answer to the next one comes later than that, the term is over for
//!   good, however well the put went: the server goes on as a new term, and has to claim what it had open once more.
//! - Another server takes a term for over when it has read the same sign of life twice, the second time a whole lease
//!   after the first *answer*, by a clock that may only run slow. Every sign of life that counted had arrived by then.
//! - Between the two there is a third of a lease for clocks that do not run at the same speed.
//! - What its server put into the log before its term was over, the next one finds when it opens the database. What
//!   arrives later was not acknowledged: the check comes after the put. If the next server has put something meanwhile,
//!   there is no room for it; if not, it becomes the next batch, and the next server is fenced by it, opens the database
//!   anew, and goes on. So no empty batch has to be put in order to claim.
//!
//! A term without requests ends by itself, and begins anew with the next request: a server that idles asks nothing of
//! its store.

mod claim;
mod peers;
mod proof;
mod term;

pub use claim::{Claim, Elsewhere};
pub(crate) use proof::proof;
pub use term::Term;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_log::store::Patience;
use aquifer_log::{ServerSecret, Store};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::hosted::HostError;
use peers::{Peers, Standing};

/// Terms of its own that a server remembers.
const REMEMBERED: usize = 256;

/// How a server takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Where other servers, and clients, reach this one; `None`: they do not.
    pub url: Option<String>,
    /// For how long a server that gave no sign of life keeps its databases.
    pub lease: Duration,
}

impl Default for ClusterOptions {
    fn default() -> ClusterOptions {
        ClusterOptions { url: None, lease: Duration::from_secs(10) }
    }
}

/// One server among those of a store. Clones are the same server.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    host: String,
    secret: Option<ServerSecret>,
    options: ClusterOptions,
    current: Mutex<Option<Arc<Term>>>,
    /// Held while a term begins. When the last attempt failed, and why.
    beginning: tokio::sync::Mutex<Option<(Instant, HostError)>>,
    /// Terms of this server that are over.
    past: Mutex<VecDeque<Uuid>>,
    peers: Peers,
    /// Where the id of the term is noted, for this server's next run.
    note: PathBuf,
}

impl Cluster {
    /// A server that is not in use yet. `note` is a file of this server alone: what a run of it that died had claimed,
    /// the next one need not wait for. Blocks for a moment.
    pub fn new(store: &Store, options: ClusterOptions, note: PathBuf) -> Cluster {
        // Whoever waits longer than a lease for the store has lost it meanwhile.
        let patience = Patience { tries: 4, total: options.lease, attempt: options.lease };
        let store = store.with_patience(patience);
        let before = std::fs::read_to_string(&note).ok().and_then(|text| text.trim().parse().ok());
        let shared = Shared {
            store,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            secret: proof::secret(),
            options,
            current: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            past: Mutex::new(before.into_iter().collect()),
            peers: Peers::default(),
            note,
        };
        Cluster { shared: Arc::new(shared) }
    }

    /// How it takes part.
    pub fn options(&self) -> &ClusterOptions {
        &self.shared.options
    }

    fn is_own(&self, term: Uuid) -> bool {
        self.shared.current.lock().as_ref().is_some_and(|current| current.id() == term)
    }

    /// Whether another server is over, as far as can be told by now. Asks the store, unless it was asked just before.
    pub async fn is_over(&self, server: Uuid) -> bool {
        let shared = &self.shared;
        if shared.peers.was_live(server, shared.options.lease / 8) {
            return false;
        }
        matches!(shared.peers.judge(&shared.store, server).await, Ok(Standing::Over))
    }
}

impl Shared {
    fn is_past(&self, term: Uuid) -> bool {
        self.past.lock().contains(&term)
    }

    fn remember(&self, term: Uuid) {
        let mut past = self.past.lock();
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(term);
    }
}
