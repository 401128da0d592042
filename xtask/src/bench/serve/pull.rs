//! What it takes to pull: a whole database, and one page after a long history.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aquifer_protocol::pull_updates::{PageData, PullHeader, PullRequest};
use aquifer_testkit::workload::{Build, Kind, build};
use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::{Buf as _, Bytes};
use prost::Message as _;
use tokio::io::AsyncReadExt as _;

use super::super::process::{aquifer, run as run_program};
use super::super::table::{Limit, Table};
use super::super::{Result, median};
use super::client::Client;
use super::server::Server;
use super::sql;

const BENCH: &str = "serve-pull";
const BYTES: u64 = 1_000_000_000;
const RUNS: usize = 5;
const COMMITS: usize = 1_000_000;
/// Commits sent in one request.
const AT_ONCE: usize = 1000;
const ROWS: usize = 1000;

pub(in super::super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let aquifer = aquifer()?;
    bootstrap(&aquifer, dir, table)?;
    incremental(&aquifer, dir, table)
}

fn bootstrap(aquifer: &Path, dir: &Path, table: &mut Table) -> Result<()> {
    let (file, store) = (dir.join("app.db"), dir.join("store"));
    let size = build(&file, &Build::new(Kind::Orders, BYTES, 1))?;
    let arguments =
        ["import".as_ref(), file.as_os_str(), "app".as_ref(), "--store".as_ref(), store.as_os_str()];
    run_program(aquifer, &arguments)?;
    let server = Server::start(aquifer, &dir.join("data"), store.as_os_str(), &[])?;
    server.execute("app", "SELECT 1")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
    let plain = listener.local_addr()?;
    let router = Router::new().route("/file", get(move || send(file.clone())));
    let serving = runtime.spawn(async move { axum::serve(listener, router).await });
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let before = server.resident()?;
    let mut most = before;
    for _ in 0..RUNS {
        theirs.push(fetch(plain, "GET", "/file", size)?);
        ours.push(fetch(server.address, "POST", "/db/app/pull-updates", size)?);
        most = most.max(server.resident()?);
    }
    serving.abort();
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let what = "bootstrap of 1 GB, of what axum sends of a file";
    table.limited(BENCH, what, ours / theirs, "x", Limit::AtLeast(0.5));
    table.plain(BENCH, "bootstrap of 1 GB", ours, " MB/s");
    table.plain(BENCH, "axum sends a file of 1 GB", theirs, " MB/s");
    server.stop()
}

/// A file as axum sends it.
async fn send(path: PathBuf) -> std::result::Result<impl IntoResponse, String> {
    let file = tokio::fs::File::open(path).await.map_err(|e| e.to_string())?;
    let length = file.metadata().await.map_err(|e| e.to_string())?.len();
    let parts = futures::stream::try_unfold(file, |mut file| async move {
        let mut part = Vec::with_capacity(256 << 10);
        (&mut file).take(256 << 10).read_to_end(&mut part).await?;
        Ok::<_, std::io::Error>((!part.is_empty()).then_some((Bytes::from(part), file)))
    });
    Ok(([(CONTENT_LENGTH, length)], Body::from_stream(parts)))
}

/// Megabytes a second of an answer that has at least so many bytes.
fn fetch(address: SocketAddr, method: &str, path: &str, at_least: u64) -> Result<f64> {
    let started = Instant::now();
    let mut received = 0;
    Client::new(address).receive(method, path, &[], |part| received += part.len() as u64)?;
    if received < at_least {
        return Err(format!("{path}: {received} bytes of {at_least}").into());
    }
    Ok(at_least as f64 / 1e6 / started.elapsed().as_secs_f64())
}

fn incremental(aquifer: &Path, dir: &Path, table: &mut Table) -> Result<()> {
    let server = Server::start(aquifer, &dir.join("data-2"), dir.join("store-2").as_os_str(), &[])?;
    server.execute("app", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)")?;
    server.execute(
        "app",
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) \
             INSERT INTO t SELECT i, randomblob(1000) FROM n"
        ),
    )?;
    let young = pulls(&server)?;
    let (mut client, path) = (server.client(), sql::path("app"));
    let started = Instant::now();
    for first in (0..COMMITS).step_by(AT_ONCE) {
        let mut statements = String::new();
        for n in first..first + AT_ONCE {
            write!(statements, "UPDATE t SET v = {n} WHERE k = {};", 1 + n * 7 % ROWS)?;
        }
        sql::sequence(&mut client, &path, &statements)?;
    }
    table.plain(
        BENCH,
        "1,000 commits a request, 1,000,000 in all: commits",
        COMMITS as f64 / started.elapsed().as_secs_f64(),
        "/s",
    );
    let old = pulls(&server)?;
    let what = "pull of 1 changed page after 1,000,000 commits, median";
    table.limited(BENCH, what, old, " ms", Limit::AtMost(5.0));
    table.plain(BENCH, "the same without a history", young, " ms");
    server.stop()
}

/// Changes one page and pulls it, again and again. The median of the pulls in milliseconds.
fn pulls(server: &Server) -> Result<f64> {
    let mut client = server.client();
    let mut pull = |since: &str| -> Result<(String, usize)> {
        let request = PullRequest { client_revision: since.to_owned(), ..PullRequest::default() };
        let mut body = Bytes::from(client.post("/db/app/pull-updates", &request.encode_to_vec())?);
        let header = PullHeader::decode_length_delimited(&mut body)?;
        let mut pages = 0;
        while body.has_remaining() {
            PageData::decode_length_delimited(&mut body)?;
            pages += 1;
        }
        Ok((header.server_revision, pages))
    };
    let (mut revision, _) = pull("")?;
    let mut times = Vec::new();
    for n in 0..100 {
        server.execute("app", &format!("UPDATE t SET v = -{n} WHERE k = {}", 1 + n * 13 % ROWS))?;
        let started = Instant::now();
        let (next, pages) = pull(&revision)?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        if pages != 1 {
            return Err(format!("{pages} pages instead of the one that changed").into());
        }
        revision = next;
    }
    Ok(median(&mut times))
}
