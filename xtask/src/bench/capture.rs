//! CPU of capture, encoding included, against that of reading and checksumming the same WAL.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use aquifer_format::{Timestamp, Txid, WriterNonce};
use aquifer_replicate::capture::{Capture, NextBatch, Spill, WalLimits};
use aquifer_sqlite::wal::{FrameReader, WalHeader};
use rustix::time::{ClockId, clock_gettime};

use super::table::{Limit, Table};
use super::{Result, WORKLOADS, Workload};

const TRANSACTIONS: u64 = 20_000;
/// Transactions that collect while a put is in flight.
const PER_BATCH: u64 = 100;

pub(super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    for workload in &WORKLOADS {
        let cost = measure(dir, workload)?;
        let gigabytes = cost.bytes as f64 / 1e9;
        let what = format!("{}: CPU of capture, of reading and checksumming", workload.name);
        table.limited(
            "capture",
            &what,
            cost.capture.as_secs_f64() / cost.read.as_secs_f64(),
            "x",
            Limit::AtMost(3.0),
        );
        table.plain(
            "capture",
            &format!("{}: reading and checksumming the WAL", workload.name),
            gigabytes / cost.read.as_secs_f64(),
            " GB/s",
        );
        table.plain(
            "capture",
            &format!("{}: capture of the WAL", workload.name),
            gigabytes / cost.capture.as_secs_f64(),
            " GB/s",
        );
    }
    Ok(())
}

struct Cost {
    bytes: u64,
    read: Duration,
    capture: Duration,
}

fn measure(dir: &Path, workload: &Workload) -> Result<Cost> {
    let path = dir.join("app.db");
    let (db, mut work) = workload.open(&path, 128)?;
    let mut capture = Capture::open(&path, None, WalLimits::default(), Spill::to(dir.to_owned()))?;
    let mut next = NextBatch {
        txid: Txid::FIRST,
        writer: WriterNonce::random(),
        frames: 0,
        not_before: Timestamp::default(),
    };
    capture.next_batch(&next)?;
    let (mut bytes, mut spent) = (0, Duration::ZERO);
    for n in 1..=TRANSACTIONS {
        work.step(&db)?;
        if n % PER_BATCH == 0 {
            next.txid = next.txid.next();
            let start = cpu();
            let batch = capture.next_batch(&next)?;
            spent += cpu().saturating_sub(start);
            bytes += batch.map_or(0, |batch| batch.wal_bytes);
        }
    }
    Ok(Cost { bytes, read: read(&path)?, capture: spent })
}

/// Reads and verifies the whole WAL.
fn read(database: &Path) -> Result<Duration> {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    let file = File::open(path)?;
    let mut head = [0; 32];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0)?;
    let header = WalHeader::parse(&head)?;
    let start = cpu();
    let mut reader = FrameReader::from_start(&file, header.salts)??;
    while let Ok(Some(_)) = reader.next(u32::MAX)? {}
    Ok(cpu().saturating_sub(start))
}

/// CPU time of this thread, user and system.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
