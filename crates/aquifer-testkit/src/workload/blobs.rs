//! Files kept as blobs, of which no byte can be compressed.

use rusqlite::{Connection, Result, params};

use super::build::{Size, grow};
use super::text::Source;

const SCHEMA: &str = "
CREATE TABLE files(id INTEGER PRIMARY KEY, name TEXT, mime TEXT, sha BLOB, data BLOB);
CREATE UNIQUE INDEX files_sha ON files(sha);";

pub(super) fn build(db: &mut Connection, source: &mut Source, size: Size) -> Result<()> {
    db.execute_batch(SCHEMA)?;
    grow(db, size, |tx| (0..20).try_for_each(|_| insert(tx, source)))
}

/// One more file; sizes are log-uniform from 1 KiB to 256 KiB.
pub(super) fn insert(db: &Connection, source: &mut Source) -> Result<()> {
    let len = (1024.0 * 256f64.powf(source.rng.unit())) as usize;
    let mut data = vec![0; len];
    source.rng.fill(&mut data);
    let mut sha = [0; 32];
    source.rng.fill(&mut sha);
    let name = format!("{}_{}.jpg", source.word(), source.rng.below(100_000));
    db.prepare_cached("INSERT INTO files(name,mime,sha,data) VALUES(?,?,?,?)")?.execute(params![
        name,
        "image/jpeg",
        sha,
        data
    ])?;
    Ok(())
}
