//! `cargo xtask bench`: the figures of docs/benchmarks.md.
//!
//! Each figure is a ratio to something on the same machine in the same run: plain SQLite, `cp`, reading and
//! checksumming the same WAL. Rows say whether the limit is met; they are printed as they are.

mod bytes;
mod capture;
mod commits;
mod idle;
mod lag;
mod migrate;
mod process;
mod restore;
mod serve;
mod sync;
mod table;

use std::error::Error;
use std::path::{Path, PathBuf};

use aquifer_testkit::workload::{Build, Kind, KvMode, Work, build};
use clap::Args;
use rusqlite::Connection;

use table::Table;

/// Settings of the benches.
#[derive(Args)]
pub(crate) struct Options {
    /// Only benches whose name contains this.
    filter: Option<String>,
    /// Where the databases are made; a temporary directory if not said. What is measured depends on its disk.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Measures in a directory of its own, and writes down what it found.
type Bench = fn(&Path, &mut Table) -> Result<()>;

/// Result of a bench.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Runs the benches and prints one table.
pub(crate) fn run(options: &Options) -> Result<()> {
    let scratch = match &options.dir {
        Some(dir) => tempfile::TempDir::new_in(dir)?,
        None => tempfile::TempDir::new()?,
    };
    let benches: [(&str, Bench); 14] = [
        ("commits", commits::run),
        ("lag", lag::run),
        ("capture", capture::run),
        ("bytes", bytes::run),
        ("restore", restore::run),
        ("migrate", migrate::run),
        ("idle", idle::run),
        ("serve-durable", serve::durable),
        ("serve-poll", serve::poll),
        ("serve-pull", serve::pull),
        ("serve-push", serve::push),
        ("serve-fleet", serve::fleet),
        ("sync-writes", sync::writes),
        ("sync-large", sync::large),
    ];
    let mut table = Table::default();
    for (name, bench) in benches {
        if options.filter.as_deref().is_none_or(|filter| name.contains(filter)) {
            eprintln!("bench {name} …");
            let dir = scratch.path().join(name);
            std::fs::create_dir(&dir)?;
            bench(&dir, &mut table)?;
            std::fs::remove_dir_all(&dir)?;
        }
    }
    table.print();
    Ok(())
}

/// The middle one; sorts them.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The four workloads of the architecture page, as they are named there.
struct Workload {
    name: &'static str,
    kind: Kind,
    mode: KvMode,
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "orders", kind: Kind::Orders, mode: KvMode::Insert },
    Workload { name: "JSON documents", kind: Kind::Json, mode: KvMode::Insert },
    Workload { name: "key-value inserts", kind: Kind::Kv, mode: KvMode::Insert },
    Workload { name: "single-row updates, skewed", kind: Kind::Kv, mode: KvMode::UpdateSkewed },
];

impl Workload {
    /// Makes its database and opens it as an application would, without checkpoints.
    fn open(&self, path: &Path, megabytes: u64) -> Result<(Connection, Work)> {
        build(path, &Build::new(self.kind, megabytes << 20, 1))?;
        let db = Connection::open(path)?;
        db.set_prepared_statement_cache_capacity(64);
        db.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; \
             PRAGMA cache_size=-200000",
        )?;
        let work = Work::new(&db, self.kind, 7, 1, self.mode)?;
        Ok((db, work))
    }
}
