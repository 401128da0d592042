//! What an application's writes cost where its database is synced.

use std::path::Path;

use aquifer_testkit::workload::{Build, Kind, build};

use super::super::commits::application;
use super::super::process::aquifer;
use super::super::table::{Limit, Table};
use super::super::{Result, median};
use super::copy::Copy;

const BENCH: &str = "sync-writes";
const ROUNDS: usize = 5;
const BYTES: u64 = 32 << 20;

pub(in super::super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let aquifer = aquifer()?;
    for (rows, transactions) in [(1, 60_000), (1000, 400)] {
        let (mut plain, mut synced, mut watched) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let dir = dir.join(format!("{rows}-{round}"));
            let alone = dir.join("plain.db");
            std::fs::create_dir(&dir)?;
            build(&alone, &Build::new(Kind::Kv, BYTES, 1))?;
            plain.push(application(&alone, rows, transactions)?);
            for is_watched in [false, true] {
                let dir = dir.join(if is_watched { "watched" } else { "synced" });
                std::fs::create_dir(&dir)?;
                let copy = Copy::new(&aquifer, &dir, BYTES)?;
                let watch = if is_watched { Some(copy.watch()?) } else { None };
                let rate = application(&copy.file, rows, transactions)?;
                if is_watched {
                    watched.push(rate);
                } else {
                    synced.push(rate);
                }
                drop(watch);
                copy.sync(&[])?;
            }
        }
        let plain = median(&mut plain);
        let what = |how| format!("{rows}-row transactions, synchronous NORMAL: commits {how}");
        let limit = Limit::AtLeast(0.97);
        table.limited(BENCH, &what("to a synced database"), median(&mut synced) / plain, "x", limit);
        let how = "while sync --watch pushes them to a server on the same machine";
        table.plain(BENCH, &what(how), median(&mut watched) / plain, "x");
        table.plain(BENCH, &what("of plain SQLite"), plain, "/s");
    }
    Ok(())
}
