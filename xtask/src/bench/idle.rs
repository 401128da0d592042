//! What databases cost to which nobody writes.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Result;
use super::process::{Running, aquifer};
use super::table::{Limit, Table};

const WATCHED: Duration = Duration::from_secs(20);

pub(super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let aquifer = aquifer()?;
    let empty = dir.join("empty");
    std::fs::create_dir(&empty)?;
    let base = start(&aquifer, &empty, &dir.join("empty-store"))?;
    std::thread::sleep(Duration::from_secs(2));
    let base_memory = base.resident()?;
    base.stop()?;
    for (databases, limited) in [(1000, true), (10_000, false)] {
        let home = dir.join(databases.to_string());
        let store = dir.join(format!("{databases}-store"));
        std::fs::create_dir(&home)?;
        make(&home, databases)?;
        let daemon = start(&aquifer, &home, &store)?;
        let started = Instant::now();
        while shipped(&store) < databases {
            if started.elapsed() > Duration::from_mins(10) {
                return Err(format!("only {} of {databases} were shipped", shipped(&store)).into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        table.plain(
            "idle",
            &format!("{databases} databases: until all are shipped"),
            started.elapsed().as_secs_f64(),
            " s",
        );
        // The checkpoint that follows a second after the last commit is no idling, nor is falling asleep.
        std::thread::sleep(Duration::from_secs(10));
        let (cpu, at) = (daemon.cpu()?, Instant::now());
        std::thread::sleep(WATCHED);
        let cpu = 100.0 * daemon.cpu()?.saturating_sub(cpu).as_secs_f64() / at.elapsed().as_secs_f64();
        let memory = daemon.resident()?.saturating_sub(base_memory) as f64 / f64::from(1 << 20);
        let (what_memory, what_cpu) = (
            format!("{databases} idle databases: memory above the empty process"),
            format!("{databases} idle databases: CPU of one core"),
        );
        if limited {
            table.limited("idle", &what_memory, memory, " MiB", Limit::AtMost(64.0));
            table.limited("idle", &what_cpu, cpu, " %", Limit::AtMost(1.0));
        } else {
            table.plain("idle", &what_memory, memory, " MiB");
            table.plain("idle", &what_cpu, cpu, " %");
        }
        daemon.stop()?;
    }
    Ok(())
}

fn start(aquifer: &Path, home: &Path, store: &Path) -> Result<Running> {
    Running::start(
        aquifer,
        &[OsStr::new("replicate"), home.as_os_str(), OsStr::new("--store"), store.as_os_str()],
    )
}

/// Copies of one small database.
fn make(home: &Path, databases: usize) -> Result<()> {
    let first = home.join("0.db");
    let app = rusqlite::Connection::open(&first)?;
    app.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 2)",
    )?;
    app.close().map_err(|(_, e)| e)?;
    for n in 1..databases {
        std::fs::copy(&first, home.join(format!("{n}.db")))?;
    }
    Ok(())
}

fn shipped(store: &Path) -> usize {
    let Ok(databases) = std::fs::read_dir(store) else { return 0 };
    databases
        .flatten()
        .filter(|d| {
            std::fs::read_dir(d.path()).is_ok_and(|mut g| {
                g.any(|g| g.is_ok_and(|g| g.path().join("0/0000000000000001.seg").exists()))
            })
        })
        .count()
}
