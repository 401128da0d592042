//! Thousands of clients that wait for changes of one database.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use aquifer_protocol::pull_updates::{PullHeader, PullRequest};
use prost::Message as _;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::super::Result;
use super::super::process::aquifer;
use super::super::table::{Limit, Table};
use super::client::request_head;
use super::server::{Server, wait};

const BENCH: &str = "serve-poll";
const CLIENTS: usize = 5000;
const ROUNDS: usize = 5;
const PATH: &str = "/db/app/pull-updates";

pub(in super::super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    // The server inherits it.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let server = Server::start(&aquifer()?, &dir.join("data"), dir.join("store").as_os_str(), &[])?;
    server.execute("app", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)")?;
    server.execute("app", "INSERT INTO t VALUES(1, 0)")?;
    let first = server.client().post(PATH, &[])?;
    let revision: Arc<str> = PullHeader::decode_length_delimited(&first[..])?.server_revision.into();
    let base = server.resident()?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (answered, mut answers) = mpsc::unbounded_channel();
    for _ in 0..CLIENTS {
        let (address, revision, answered) = (server.address, Arc::clone(&revision), answered.clone());
        runtime.spawn(async move {
            if let Err(error) = poll(address, &revision, &answered).await {
                let _ = answered.send(Err(error.to_string()));
            }
        });
    }
    let mut slowest: f64 = 0.0;
    for round in 0..ROUNDS {
        all_wait(&server)?;
        // Something else than before: what leaves every page as it was makes no revision.
        server.execute("app", &format!("UPDATE t SET v = {}", round + 1))?;
        let committed = Instant::now();
        for _ in 0..CLIENTS {
            let at: Instant = answers.blocking_recv().ok_or("no client is left")??;
            slowest = slowest.max(at.saturating_duration_since(committed).as_secs_f64() * 1000.0);
        }
    }
    all_wait(&server)?;
    let memory = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let what = format!("{CLIENTS} clients wait: the server's memory");
    table.limited(BENCH, &what, memory(server.resident()?), " MiB", Limit::AtMost(200.0));
    table.plain(BENCH, "nobody waits: the server's memory", memory(base), " MiB");
    let what =
        format!("{CLIENTS} clients wait: from a commit's answer to the last client's, slowest of {ROUNDS}");
    table.limited(BENCH, &what, slowest, " ms", Limit::AtMost(250.0));
    server.stop()
}

/// Waits until the server knows that all clients wait.
fn all_wait(server: &Server) -> Result<()> {
    let waiting = || server.metric("aquifer_http_requests_in_flight").ok();
    let all = wait(|| waiting().filter(|waiting| *waiting >= CLIENTS as f64));
    all.map(drop).ok_or_else(|| "not all clients got to wait".into())
}

/// Waits for a change, tells when it came, and waits for the next.
async fn poll(
    address: std::net::SocketAddr,
    revision: &str,
    answered: &mpsc::UnboundedSender<std::result::Result<Instant, String>>,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut revision = revision.to_owned();
    loop {
        let request = PullRequest {
            client_revision: revision,
            long_poll_timeout_ms: 300_000,
            ..PullRequest::default()
        };
        let body = request.encode_to_vec();
        let mut request = request_head("POST", PATH, body.len()).into_bytes();
        request.extend_from_slice(&body);
        stream.write_all(&request).await?;
        let body = answer(&mut stream).await?;
        let at = Instant::now();
        let header = PullHeader::decode_length_delimited(&body[..]).map_err(std::io::Error::other)?;
        revision = header.server_revision;
        if answered.send(Ok(at)).is_err() {
            return Ok(());
        }
    }
}

/// The body of an answer with a length, which all small ones have.
async fn answer(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    const FIELD: &str = "content-length: ";
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix(FIELD)?.parse::<usize>().ok());
            let is_ok = head.starts_with("HTTP/1.1 200 ");
            let length = length.filter(|_| is_ok).ok_or_else(|| std::io::Error::other(head))?;
            let mut body = buffer.split_off(end + 4);
            let there = body.len();
            body.resize(length, 0);
            stream.read_exact(&mut body[there..]).await?;
            return Ok(body);
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
