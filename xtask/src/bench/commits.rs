//! Commits per second of an application, with and without a replica.

use std::ffi::OsStr;
use std::path::Path;

use aquifer_testkit::workload::{Build, Kind, build};

use super::process::{Running, aquifer, run as run_process};
use super::table::{Limit, Table};
use super::{Result, median};

const ROUNDS: usize = 5;

pub(super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let aquifer = aquifer()?;
    for (rows, transactions) in [(1, 60_000), (1000, 400)] {
        let (mut alone, mut watched) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            for with in [false, true] {
                let dir = dir.join(format!("{rows}-{round}-{with}"));
                std::fs::create_dir(&dir)?;
                let path = dir.join("app.db");
                build(&path, &Build::new(Kind::Kv, 32 << 20, 1))?;
                let store = dir.join("store");
                let daemon = if with {
                    let args =
                        [OsStr::new("replicate"), path.as_os_str(), OsStr::new("--store"), store.as_os_str()];
                    let daemon = Running::start(&aquifer, &args)?;
                    // The first image is shipped before the load begins.
                    while !is_shipped(&store) {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    Some(daemon)
                } else {
                    None
                };
                let rate = application(&path, rows, transactions)?;
                if with {
                    watched.push(rate);
                } else {
                    alone.push(rate);
                }
                // What was written stays until all is measured: ext4 without a journal looks at every file that was
                // deleted in the last minutes when it makes one.
                if let Some(daemon) = daemon {
                    daemon.stop()?;
                }
            }
        }
        let (alone, watched) = (median(&mut alone), median(&mut watched));
        let what =
            format!("{rows}-row transactions, synchronous NORMAL: commits with replicate, of those without");
        table.limited("commits", &what, watched / alone, "x", Limit::AtLeast(0.95));
        table.plain("commits", &format!("{rows}-row transactions: commits without"), alone, "/s");
    }
    Ok(())
}

/// Whether the first segment is there.
fn is_shipped(store: &Path) -> bool {
    let Ok(generations) = std::fs::read_dir(store.join("app.db")) else { return false };
    generations.flatten().any(|g| g.path().join("0/0000000000000001.seg").exists())
}

/// Runs the load in a process of its own; returns transactions per second.
pub(super) fn application(path: &Path, rows: u64, transactions: u64) -> Result<f64> {
    let (rows, transactions) = (rows.to_string(), transactions.to_string());
    let arguments = [
        "workload",
        "work",
        "--kind",
        "kv",
        "--mode",
        "insert",
        "--sync",
        "normal",
        "--batch",
        &rows,
        "--txns",
        &transactions,
        "--db",
    ];
    let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    arguments.push(path.as_os_str());
    let taken = run_process(std::env::current_exe()?, &arguments)?;
    let rate = taken.output.split("= ").nth(1).and_then(|rest| rest.split('/').next());
    Ok(rate.ok_or_else(|| format!("no rate in '{}'", taken.output))?.trim().parse()?)
}
