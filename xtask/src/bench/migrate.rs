//! Restores from what other programs left: bottomless against a replay of frame after frame, as bottomless itself restores,
//! and Litestream's format against our own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aquifer_log::store::Prefix;
use aquifer_log::{DatabaseStore, Store, StoreUrl};
use aquifer_migrate::{Exporter, Origin, Restorer};
use aquifer_testkit::s3_server::{Conditions, S3Server};
use aquifer_testkit::workload::{Build, Kind, build};
use crc_fast::{CrcAlgorithm, Digest};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::TryStreamExt;
use rusqlite::Connection;

use super::restore::replicate;
use super::table::{Limit, Table};
use super::{Result, median};

const ROUNDS: usize = 3;
const FRAMES: usize = 20_000;
const ROWS: usize = 2_000;
const PAGE: usize = 4096;
const GENERATION: &str = "app.db-e4ce79c3-7fd7-7abe-b6dc-9ffcaf8392e1";
/// What the S3 server takes for a request, on top of what it does.
const LATENCY: Duration = Duration::from_millis(1);

pub(super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bottomless(dir, table))?;
    runtime.block_on(litestream(dir, table))
}

async fn bottomless(dir: &Path, table: &mut Table) -> Result<()> {
    let bucket = dir.join("bottomless");
    let objects = frames(dir)?;
    std::fs::create_dir_all(bucket.join(GENERATION))?;
    for (name, content) in &objects {
        std::fs::write(bucket.join(GENERATION).join(name), content)?;
    }
    let store = Store::open(&StoreUrl::directory(&bucket))?;
    compare("a directory", &store, dir, ROUNDS, table).await?;
    let server = S3Server::start(Conditions::Honoured).await;
    for (name, content) in objects {
        server.put_object(&format!("backups/{GENERATION}/{name}"), content);
    }
    server.set_latency(LATENCY);
    let store = Store::open_with_environment(&server.url("backups").parse()?, server.environment())?;
    compare("S3 with 1 ms a request", &store, dir, 1, table).await
}

/// A bucket as bottomless 0.1 writes it: the objects of a generation, by name.
fn frames(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let path = dir.join("app.db");
    let db = Connection::open(&path)?;
    db.execute_batch(
        "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; \
         CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)",
    )?;
    // A row for each page, half of it of no pattern.
    let mut put =
        db.prepare("REPLACE INTO t VALUES(?1, CAST(randomblob(1500) || zeroblob(1500) AS BLOB))")?;
    for row in 0..ROWS {
        put.execute([row as i64])?;
    }
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    let mut objects = vec![("db.gz".to_owned(), gzip(&std::fs::read(&path)?)?)];
    for n in 0..FRAMES {
        // Each row in its turn, in an order that is none.
        put.execute([(n * 769 % ROWS) as i64])?;
    }
    let wal = std::fs::read(dir.join("app.db-wal"))?;
    let (mut crc, mut last) = (0, [0; 24]);
    for (n, frame) in wal[32..].chunks_exact(24 + PAGE).take(FRAMES).enumerate() {
        let (header, page) = frame.split_at(24);
        last.copy_from_slice(header);
        let pgno = u32::from_be_bytes([last[0], last[1], last[2], last[3]]);
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc64Ecma182, crc);
        digest.update(page);
        crc = digest.finalize();
        objects.push((format!("{:012}-{pgno:012}-{crc:016x}", n + 1), gzip(page)?));
    }
    let consistent = [&(FRAMES as u32).to_be_bytes(), &last[16..]].concat();
    objects.push((".consistent".to_owned(), consistent));
    Ok(objects)
}

fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

async fn compare(what: &str, store: &Store, dir: &Path, rounds: usize, table: &mut Table) -> Result<()> {
    let (restored, replayed) = (dir.join("restored.db"), dir.join("replayed.db"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(restore(store, Origin::Bottomless, &restored).await?);
        let start = Instant::now();
        frame_by_frame(store, &replayed).await?;
        theirs.push(start.elapsed().as_secs_f64());
        if std::fs::read(&restored)? != std::fs::read(&replayed)? {
            return Err("restored another database than a replay of all frames".into());
        }
        std::fs::remove_file(&restored)?;
        std::fs::remove_file(&replayed)?;
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let what = format!("bottomless, {FRAMES} frames over {ROWS} pages, {what}");
    table.limited(
        "migrate",
        &format!("{what}: of a replay of each frame"),
        theirs / ours,
        "x",
        Limit::AtLeast(10.0),
    );
    table.plain("migrate", &format!("{what}: restore"), ours, " s");
    table.plain("migrate", &format!("{what}: a replay of each frame"), theirs, " s");
    Ok(())
}

/// What bottomless' own restore does: every frame, in order, each written where it belongs.
async fn frame_by_frame(store: &Store, to: &Path) -> Result<()> {
    let directory = Prefix::ROOT.dir(GENERATION);
    let file = File::create_new(to)?;
    let mut database = Vec::new();
    GzDecoder::new(&store.get(&directory.key("db.gz")).await?[..]).read_to_end(&mut database)?;
    file.write_all_at(&database, 0)?;
    let mut listing = store.list(&directory, None);
    let mut page = Vec::with_capacity(PAGE);
    while let Some(object) = listing.try_next().await? {
        let mut numbers = object.key.file_name().split('-');
        let (Some(_), Some(pgno), Some(_)) = (numbers.next(), numbers.next(), numbers.next()) else {
            continue;
        };
        let pgno: u64 = pgno.parse()?;
        page.clear();
        GzDecoder::new(&store.get(&object.key).await?[..]).read_to_end(&mut page)?;
        file.write_all_at(&page, (pgno - 1) * PAGE as u64)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Seconds.
async fn restore(from: &Store, origin: Origin, to: &Path) -> Result<f64> {
    let start = Instant::now();
    Restorer::new(from.clone(), origin, to).restore().await?;
    Ok(start.elapsed().as_secs_f64())
}

async fn litestream(dir: &Path, table: &mut Table) -> Result<()> {
    let source = dir.join("large");
    std::fs::create_dir(&source)?;
    let path = source.join("app.db");
    build(&path, &Build::new(Kind::Orders, 1 << 30, 1))?;
    let bytes = std::fs::metadata(&path)?.len();
    replicate(&path, &dir.join("store"), 0).await?;
    std::fs::remove_dir_all(&source)?;
    let store = Store::open(&StoreUrl::directory(dir.join("store")))?;
    let replica = Store::open(&StoreUrl::directory(dir.join("replica")))?;
    let name: aquifer_log::DatabaseName = "app.db".parse()?;
    let database = DatabaseStore::new(store.clone(), name.clone());
    Exporter::new(database, replica.clone()).temp_dir(dir).export().await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let to = dir.join("restored.db");
    for _ in 0..ROUNDS {
        let start = Instant::now();
        aquifer_replicate::restore::Restorer::new(store.clone(), name.clone(), &to).restore().await?;
        ours.push(start.elapsed().as_secs_f64());
        std::fs::remove_file(&to)?;
        theirs.push(restore(&replica, Origin::Litestream, &to).await?);
        std::fs::remove_file(&to)?;
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let rate = |seconds| bytes as f64 / seconds / 1e6;
    table.limited(
        "migrate",
        "a Litestream replica of 1 GB, of our own format",
        ours / theirs,
        "x",
        Limit::AtLeast(0.6),
    );
    table.plain("migrate", "a Litestream replica of 1 GB: restore", rate(theirs), " MB/s");
    table.plain("migrate", "our own format: restore", rate(ours), " MB/s");
    Ok(())
}
