//! `cargo xtask workload`: the seeded generator on the command line.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aquifer_testkit::workload::{Build, Kind, KvMode, WalStats, Work, build, wal_stats};
use clap::{Args, Subcommand};
use rusqlite::Connection;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Builds a database.
    Db(Db),
    /// Runs transactions against a database that `db` made.
    Work(Transactions),
    /// Counts the frames, transactions and pages of a WAL.
    Wal {
        /// The `-wal` file.
        file: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct Db {
    /// orders, json, blobs or kv.
    #[arg(long)]
    kind: Kind,
    /// The file to write; one that exists is replaced.
    #[arg(long)]
    out: PathBuf,
    /// Size in MiB.
    #[arg(long, default_value_t = 256)]
    size_mb: u64,
    /// Decides the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes per page.
    #[arg(long, default_value_t = 4096)]
    page_size: u32,
    /// Leave it with a rollback journal.
    #[arg(long)]
    no_wal: bool,
    /// Leave out the updates and deletes at the end.
    #[arg(long)]
    no_age: bool,
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("end").args(["txns", "until_wal_mb"]).required(true).multiple(true)))]
pub(crate) struct Transactions {
    /// orders, json, blobs or kv.
    #[arg(long)]
    kind: Kind,
    /// The database.
    #[arg(long)]
    db: PathBuf,
    /// Stop after this many transactions.
    #[arg(long)]
    txns: Option<u64>,
    /// Stop when the WAL has this many MiB.
    #[arg(long)]
    until_wal_mb: Option<u64>,
    /// Rows (kv) or business operations (others) per transaction.
    #[arg(long, default_value_t = 1)]
    batch: u64,
    /// Decides the transactions.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// PRAGMA synchronous.
    #[arg(long, default_value = "normal", value_parser = ["off", "normal", "full"])]
    sync: String,
    /// PRAGMA `wal_autocheckpoint`, in pages; 0: never.
    #[arg(long, default_value_t = 1000)]
    autocheckpoint: u32,
    /// insert, uniform or skewed (kv only).
    #[arg(long, default_value_t = KvMode::Insert)]
    mode: KvMode,
    /// Leave the WAL behind, as a crash does.
    #[arg(long)]
    keep_wal: bool,
    /// At most this many transactions per second.
    #[arg(long)]
    rate: Option<u32>,
}

pub(crate) fn run(command: &Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Db(options) => make(options),
        Command::Work(options) => work(options),
        Command::Wal { file } => {
            print(&wal_stats(file)?);
            Ok(())
        }
    }
}

fn make(options: &Db) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let bytes = build(
        &options.out,
        &Build {
            kind: options.kind,
            bytes: options.size_mb << 20,
            seed: options.seed,
            page_size: options.page_size,
            wal: !options.no_wal,
            age: !options.no_age,
        },
    )?;
    println!("{bytes} bytes in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn work(options: &Transactions) -> Result<(), Box<dyn Error>> {
    let db = Connection::open(&options.db)?;
    db.set_prepared_statement_cache_capacity(64);
    db.busy_timeout(Duration::from_secs(10))?;
    db.execute_batch(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous={}; PRAGMA wal_autocheckpoint={};
         PRAGMA cache_size=-200000;",
        options.sync, options.autocheckpoint
    ))?;
    let wal = wal_of(&options.db);
    let mut work = Work::new(&db, options.kind, options.seed, options.batch, options.mode)?;
    let begun = Instant::now();
    let mut done = 0;
    while options.txns.is_none_or(|txns| done < txns) {
        work.step(&db)?;
        done += 1;
        if let Some(limit) = options.until_wal_mb
            && done % 16 == 0
            && fs::metadata(&wal)?.len() >= limit << 20
        {
            break;
        }
        if let Some(rate) = options.rate.filter(|&rate| rate > 0) {
            let due = Duration::from_secs_f64(done as f64 / f64::from(rate));
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{done} transactions in {seconds:.3} s = {:.0}/s", done as f64 / seconds);
    print(&wal_stats(&wal)?);
    if options.keep_wal {
        // Closing would checkpoint and delete the WAL; ending the process does not.
        std::process::exit(0);
    }
    Ok(())
}

fn wal_of(db: &Path) -> PathBuf {
    let mut wal = db.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

fn print(stats: &WalStats) {
    println!(
        "wal: {} bytes, {} frames, {} transactions of {:.2} frames on {:.2} pages, {} distinct pages",
        stats.bytes,
        stats.frames,
        stats.transactions,
        stats.frames as f64 / stats.transactions.max(1) as f64,
        stats.transaction_pages as f64 / stats.transactions.max(1) as f64,
        stats.distinct_pages
    );
}
