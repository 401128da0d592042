//! A program that keeps its own database alive: `cargo run --example embed -- app.db ./aquifer-data`.
//!
//! It writes a row a second and prints the revision in which each is durable.

use std::time::Duration;

use aquifer_log::{Store, StoreUrl};
use aquifer_replicate::Replicator;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "app.db".into());
    let url: StoreUrl = arguments.next().unwrap_or_else(|| "./aquifer-data".into()).parse()?;

    let app = rusqlite::Connection::open(&path)?;
    app.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS log(n INTEGER PRIMARY KEY, at TEXT)",
    )?;

    let replicator = Replicator::builder(Store::open(&url)?).start();
    let name = replicator.add(&path, None)?;
    loop {
        app.execute("INSERT INTO log(at) VALUES(datetime())", [])?;
        // Returns when the row is in the store.
        let revision = replicator.sync_database(&name).await?;
        println!(
            "row {} is durable in {}",
            app.last_insert_rowid(),
            revision.ok_or("nothing was committed")?
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
