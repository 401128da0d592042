//! How databases are replicated.

use std::path::PathBuf;
use std::time::Duration;

use crate::capture::WalLimits;
use crate::replica::UpkeepOptions;

/// Which of the two is the database, where the file and the store differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Primary {
    /// The file: applications own it. Where the newest generation is another image, a new one is begun.
    #[default]
    File,
    /// The store: the file is a cache of it. Where the newest generation is another image, or was extended by somebody
    /// else, replication stops with [`Error::Outdated`](crate::Error::Outdated) or
    /// [`Error::Fenced`](crate::Error::Fenced), and the file is to be restored anew. Nothing is replicated while the
    /// store cannot be asked. A generation is begun only where there is none.
    Store,
}

/// How a database is replicated. The defaults ship each batch as soon as the one before it is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaOptions {
    /// The least time between two puts. Zero: as soon as the last put is done, but 200 times a second at most. Longer
    /// costs fewer requests and more lag.
    pub interval: Duration,
    /// Where local state is kept; `None`: in `.NAME-aquifer` beside the database.
    pub state_dir: Option<PathBuf>,
    /// Switch a database with a rollback journal to WAL mode.
    pub switch_to_wal: bool,
    /// Which of file and store is the database.
    pub primary: Primary,
    /// Begin a new generation even where the newest one could be continued.
    pub new_generation: bool,
    /// Bytes of segments kept on disk while the store cannot be reached. Beyond, nothing is captured until it can be,
    /// and what changed meanwhile is found by comparing pages: nothing is lost, and the WAL is not held.
    pub max_staging: u64,
    /// When a put takes longer than this, what is committed meanwhile is captured to disk instead of waiting in the WAL.
    pub stage_after: Duration,
    /// For how long it is believed that nobody else has extended the generation since it was last looked at or put to.
    /// Later, the store is asked after a put, with two requests. Must be shorter than the time for which any retention
    /// of this database keeps a segment, grace time included.
    pub proof_lasts: Duration,
    /// Sizes at which the WAL is checkpointed.
    pub wal: WalLimits,
    /// Compaction, snapshots, retention.
    pub upkeep: UpkeepOptions,
    /// How often to look when there is no notification. Scaled up where there are very many databases.
    pub poll: Duration,
}

impl Default for ReplicaOptions {
    fn default() -> ReplicaOptions {
        ReplicaOptions {
            interval: Duration::ZERO,
            state_dir: None,
            switch_to_wal: false,
            primary: Primary::File,
            new_generation: false,
            max_staging: 1 << 30,
            stage_after: Duration::from_secs(2),
            proof_lasts: Duration::from_mins(10),
            wal: WalLimits::default(),
            upkeep: UpkeepOptions::default(),
            poll: Duration::from_secs(1),
        }
    }
}

impl ReplicaOptions {
    /// [`proof_lasts`](ReplicaOptions::proof_lasts), shorter where this replica's own retention is.
    pub(crate) fn proof_lasts(&self) -> Duration {
        let kept = self.upkeep.retention.map(|retention| (retention.window + retention.grace) / 2);
        kept.map_or(self.proof_lasts, |kept| kept.min(self.proof_lasts))
    }
}
