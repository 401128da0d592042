//! Lag from a commit to its durable segment in a local store.

use std::path::Path;
use std::time::{Duration, Instant};

use aquifer_format::Txid;
use aquifer_log::{DatabaseName, Store, StoreUrl};
use aquifer_replicate::Replicator;
use rusqlite::Connection;

use super::table::{Limit, Table};
use super::{Result, median};

pub(super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for (databases, limit) in [(1, 10.0), (100, 25.0)] {
        let dir = dir.join(databases.to_string());
        std::fs::create_dir(&dir)?;
        let mut lags = runtime.block_on(measure(&dir, databases))?;
        let what =
            if databases == 1 { "one database".to_owned() } else { format!("{databases} active databases") };
        table.limited(
            "lag",
            &format!("{what}: commit to durable, median"),
            median(&mut lags),
            " ms",
            Limit::AtMost(limit),
        );
        table.plain("lag", &format!("{what}: the same, 99 of 100"), lags[lags.len() * 99 / 100], " ms");
    }
    Ok(())
}

async fn measure(dir: &Path, databases: usize) -> Result<Vec<f64>> {
    let store = Store::open(&StoreUrl::directory(dir.join("store")))?;
    let replicator = std::sync::Arc::new(Replicator::builder(store).start());
    let mut applications = Vec::new();
    for n in 0..databases {
        let path = dir.join(format!("app{n}.db"));
        let app = Connection::open(&path)?;
        app.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t(k INTEGER PRIMARY KEY, v)",
        )?;
        let name = replicator.add(&path, None)?;
        applications.push((app, name));
    }
    replicator.sync().await?;
    let per_application = (600 / databases).max(20);
    let tasks = applications.into_iter().enumerate().map(|(n, (app, name))| {
        let replicator = std::sync::Arc::clone(&replicator);
        tokio::spawn(async move { one(app, name, &replicator, per_application, n as u64).await })
    });
    let mut lags = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        lags.extend(task.await?.map_err(|e| e.to_string())?);
    }
    Ok(lags)
}

/// Commits at intervals of 15 to 35 ms (1 database) or so that all together are evenly spread, and waits for each.
async fn one(
    app: Connection,
    name: DatabaseName,
    replicator: &Replicator,
    commits: usize,
    seed: u64,
) -> std::result::Result<Vec<f64>, aquifer_replicate::Error> {
    let mut lags = Vec::new();
    let mut durable = replicator.sync_database(&name).await?.map_or(Txid::ZERO, |r| r.txid);
    for n in 0..commits {
        let pause = 15 + (n as u64 * 7 + seed * 13) % 20;
        tokio::time::sleep(Duration::from_millis(if commits < 100 { pause * 20 } else { pause })).await;
        let committed = tokio::task::block_in_place(|| {
            app.execute("INSERT INTO t(v) VALUES(randomblob(100))", []).map(|_| Instant::now())
        });
        let Ok(committed) = committed else { continue };
        durable = replicator.wait_durable(&name, durable.next()).await?.txid;
        lags.push(committed.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(lags)
}
