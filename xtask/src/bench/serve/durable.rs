//! How long a commit over HTTP takes, whose answer waits until a store with a known latency has it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use aquifer_log::Store;
use aquifer_log::store::Prefix;
use aquifer_testkit::s3_server::{Conditions, S3Server};

use super::super::process::aquifer;
use super::super::table::{Limit, Table};
use super::super::{Result, median};
use super::client::Client;
use super::server::Server;
use super::sql;

const BENCH: &str = "serve-durable";
const LATENCY: Duration = Duration::from_millis(50);
const WRITERS: usize = 64;
const COMMITS: usize = 50;

pub(in super::super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let store = runtime.block_on(S3Server::start(Conditions::Honoured));
    let url = store.url("bench");
    let server = Server::start(&aquifer()?, &dir.join("data"), OsStr::new(&url), &store.environment())?;
    server.execute("app", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)")?;
    store.set_latency(LATENCY);
    let latency = runtime.block_on(put(&url, store.environment()))?;
    table.plain(BENCH, "the store: one put, median (L)", latency, " ms");
    let serial = writers(server.address, 1)?;
    let limit = Limit::AtMost(1.3 * latency + 5.0);
    table.limited(BENCH, "1 writer: commit to answer, median", serial.median, " ms", limit);
    let many = writers(server.address, WRITERS)?;
    let what = format!("{WRITERS} writers: commit to answer, median");
    table.limited(BENCH, &what, many.median, " ms", limit);
    table.plain(BENCH, "1 writer: commits", serial.per_second, "/s");
    let what = format!("{WRITERS} writers: commits, of those of 1 writer");
    table.limited(BENCH, &what, many.per_second / serial.per_second, "x", Limit::AtLeast(20.0));
    server.stop()
}

/// The median of puts through the client that the server uses, in milliseconds.
async fn put(url: &str, environment: Vec<(String, String)>) -> Result<f64> {
    let store = Store::open_with_environment(&url.parse()?, environment)?;
    let mut times = Vec::new();
    for n in 0..21 {
        let key = Prefix::ROOT.dir("latency").key(&n.to_string());
        let started = Instant::now();
        store.put(&key, vec![0; 300]).await?;
        times.push(milliseconds(started));
    }
    Ok(median(&mut times))
}

struct Written {
    /// In milliseconds.
    median: f64,
    per_second: f64,
}

/// So many writers at the same time, each with a connection of its own and one commit after the other.
fn writers(address: SocketAddr, count: usize) -> Result<Written> {
    let started = Instant::now();
    let threads = (0..count).map(|_| std::thread::spawn(move || writer(address))).collect::<Vec<_>>();
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| "a writer panicked")??);
    }
    let per_second = times.len() as f64 / started.elapsed().as_secs_f64();
    Ok(Written { median: median(&mut times), per_second })
}

fn writer(address: SocketAddr) -> std::io::Result<Vec<f64>> {
    let (mut client, path) = (Client::new(address), sql::path("app"));
    let mut times = Vec::new();
    for _ in 0..COMMITS {
        let started = Instant::now();
        sql::execute(&mut client, &path, "INSERT INTO t(v) VALUES(randomblob(100))")?;
        times.push(milliseconds(started));
    }
    Ok(times)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
