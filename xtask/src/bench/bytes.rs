//! Bytes shipped per byte of WAL frames.

use std::path::Path;

use aquifer_format::{Timestamp, Txid, WriterNonce};
use aquifer_replicate::capture::{Capture, NextBatch, Spill, WalLimits};

use super::table::{Limit, Table};
use super::{Result, WORKLOADS, Workload};

const LIMITS: [f64; 4] = [8.0, 14.0, 6.0, 2.0];
const TRANSACTIONS: u64 = 5000;

pub(super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    for (workload, limit) in WORKLOADS.iter().zip(LIMITS) {
        for per_batch in [100, 1] {
            let Shares { shipped, lz4 } = measure(dir, workload, per_batch)?;
            let batch = if per_batch == 1 { "1 transaction" } else { "100 transactions" };
            let what = format!("{}, {batch} a batch: shipped of WAL frames", workload.name);
            table.limited("bytes", &what, shipped, " %", Limit::AtMost(limit));
            if per_batch == 1 {
                table.plain(
                    "bytes",
                    &format!("{}: the same frames as lz4 page images", workload.name),
                    lz4,
                    " %",
                );
            }
        }
    }
    Ok(())
}

struct Shares {
    shipped: f64,
    lz4: f64,
}

fn measure(dir: &Path, workload: &Workload, per_batch: u64) -> Result<Shares> {
    let path = dir.join("app.db");
    let (db, mut work) = workload.open(&path, 64)?;
    let mut capture = Capture::open(&path, None, WalLimits::default(), Spill::to(dir.to_owned()))?;
    let mut next = NextBatch {
        txid: Txid::FIRST,
        writer: WriterNonce::random(),
        frames: 0,
        not_before: Timestamp::default(),
    };
    capture.next_batch(&next)?;
    let (mut shipped, mut frames) = (0, 0);
    for n in 1..=TRANSACTIONS {
        work.step(&db)?;
        if n % per_batch == 0 {
            next.txid = next.txid.next();
            if let Some(batch) = capture.next_batch(&next)? {
                shipped += batch.encoded.info.stored_len();
                frames += batch.wal_bytes;
            }
        }
    }
    let lz4 = lz4_of_frames(&path, capture.page_size().bytes())?;
    Ok(Shares { shipped: 100.0 * shipped as f64 / frames as f64, lz4: 100.0 * lz4 as f64 / frames as f64 })
}

/// What one lz4 block per frame would take, as LTX does.
fn lz4_of_frames(path: &Path, page_size: usize) -> Result<u64> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let wal = std::fs::read(wal)?;
    let mut total = 0;
    for frame in wal[32..].chunks_exact(24 + page_size) {
        if frame[8..16] != wal[16..24] {
            break;
        }
        total += lz4_flex::block::compress(&frame[24..]).len() as u64 + 6;
    }
    Ok(total)
}
