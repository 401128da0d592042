//! How the application opens its database and what its transactions are like.

use serde::{Deserialize, Serialize};

/// Given to the process as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppOptions {
    /// Decides what the transactions do.
    pub seed: u64,
    /// What the transactions are like.
    pub mix: Mix,
    /// `PRAGMA journal_mode`, set at each open.
    pub journal_mode: JournalMode,
    /// `PRAGMA synchronous`.
    pub synchronous: Synchronous,
    /// Milliseconds that a transaction waits for a lock before it prints `busy`.
    pub busy_timeout_ms: u32,
    /// `PRAGMA wal_autocheckpoint`, in pages; 0 = never.
    pub autocheckpoint: u32,
    /// Bytes per page of a new database.
    pub page_size: u32,
    /// `PRAGMA auto_vacuum` of a new database.
    pub auto_vacuum: AutoVacuum,
}

impl Default for AppOptions {
    /// SQLite's own defaults, in WAL mode with `synchronous=NORMAL`, and five seconds of patience.
    fn default() -> AppOptions {
        AppOptions {
            seed: 1,
            mix: Mix::Mixed,
            journal_mode: JournalMode::Wal,
            synchronous: Synchronous::Normal,
            busy_timeout_ms: 5000,
            autocheckpoint: 1000,
            page_size: 4096,
            auto_vacuum: AutoVacuum::None,
        }
    }
}

/// What the transactions are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// One log row and one transfer each.
    Small,
    /// Also many transfers, megabytes of blobs, deletes, and pages allocated and freed in one transaction.
    Mixed,
    /// Also `VACUUM`, checkpoints by the application, schema changes, and large transactions rolled back after
    /// their frames were already in the WAL.
    Hostile,
}

/// `PRAGMA journal_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "SQLite's own words")]
pub enum JournalMode {
    Wal,
    Delete,
}

/// `PRAGMA synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "SQLite's own words")]
pub enum Synchronous {
    Off,
    Normal,
    Full,
}

/// `PRAGMA auto_vacuum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "SQLite's own words")]
pub enum AutoVacuum {
    None,
    Full,
    Incremental,
}

macro_rules! word {
    ($type:ty, $($variant:ident => $word:literal),+) => {
        impl $type {
            /// As SQLite spells it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}
word!(JournalMode, Wal => "wal", Delete => "delete");
word!(Synchronous, Off => "off", Normal => "normal", Full => "full");
word!(AutoVacuum, None => "none", Full => "full", Incremental => "incremental");
