//! A server, and machines that have a copy of its database each: an application that writes into it, and `aquifer sync`.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use aquifer_testkit::proxy::{Proxy, ProxyFault};
use aquifer_testkit::workload::Rng;
use rusqlite::Connection;
use tokio::runtime::Runtime;

use crate::stage::kill;

const SCHEMA: &str = "
PRAGMA journal_mode=WAL;
CREATE TABLE line(who TEXT, n INTEGER, part INTEGER, data BLOB);
CREATE TABLE latest(who TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;
CREATE TABLE recent(who TEXT, n INTEGER, PRIMARY KEY(who, n));
CREATE TABLE shared(k INTEGER PRIMARY KEY, v, w);
CREATE INDEX line_n ON line(n);";

/// The server, behind a proxy that loses some answers.
pub(crate) struct Cloud {
    /// `None` once it was given up for someone to look at.
    dir: Option<tempfile::TempDir>,
    server: Option<Child>,
    /// How many empty disks there were.
    disks: u64,
    proxy: Proxy,
    runtime: Runtime,
}

impl Cloud {
    pub(crate) fn new(seed: u64) -> Cloud {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let proxy = runtime.block_on(Proxy::start(nobody));
        let mut rng = Rng::new(seed);
        proxy.set_faults(move |_, _| {
            rng.one_in(25).then(|| match rng.below(4) {
                0 => ProxyFault::Status(503),
                1 => ProxyFault::CutReply,
                _ => ProxyFault::DropReply,
            })
        });
        let dir = Some(tempfile::TempDir::new().unwrap());
        let mut cloud = Cloud { dir, server: None, disks: 0, proxy, runtime };
        cloud.start(true);
        cloud
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().unwrap().path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/db/app", self.proxy.address())
    }

    /// Starts a server, whose disk is empty or the one before.
    pub(crate) fn start(&mut self, is_empty: bool) {
        self.disks += u64::from(is_empty);
        let disk = self.path(&format!("disk-{}", self.disks));
        let mut command = self.aquifer("serve");
        command.args(["--listen", "127.0.0.1:0", "--lease", "500ms", "--log-format", "json", "--store"]);
        command.arg(self.path("store")).arg("--data-dir").arg(disk);
        command.stderr(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap());
        let mut kept = OpenOptions::new().create(true).append(true).open(self.path("serve.log")).unwrap();
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended: see serve.log");
            std::io::Write::write_all(&mut kept, line.as_bytes()).unwrap();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = event["fields"]["address"].as_str() {
                break address.parse().unwrap();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut kept));
        self.proxy.set_server(address);
        self.server = Some(server);
    }

    pub(crate) fn kill(&mut self) {
        kill(self.server.take().unwrap());
    }

    /// From now on all requests are answered.
    pub(crate) fn calm(&self) {
        self.proxy.set_faults(|_, _| None);
    }

    fn aquifer(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
        let log = OpenOptions::new().create(true).append(true).open(self.path(&format!("{verb}.log")));
        command.arg(verb).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.unwrap());
        command.env("RUST_LOG", "info,aquifer_client=debug");
        command
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            kill(server);
        }
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("what was there is kept in {}", dir.keep().display());
        }
        let _ = &self.runtime;
    }
}

/// An application of one copy, as long as its process lives.
struct Writer {
    child: Child,
    acknowledged: Arc<AtomicU64>,
    listener: JoinHandle<()>,
}

/// What has been written under one name, on one machine.
#[derive(Debug)]
pub(crate) struct Author {
    pub(crate) who: String,
    /// Its last transaction of which was said that it is committed.
    pub(crate) acknowledged: u64,
    /// The last one that a sync has said to be on the server.
    pub(crate) pushed: u64,
    /// Whether what it had not pushed is lost, with its machine.
    pub(crate) is_lost: bool,
}

/// A machine with a copy of the database.
pub(crate) struct Machine {
    pub(crate) file: PathBuf,
    name: &'static str,
    writer: Option<Writer>,
    sync: Option<(Child, bool)>,
    /// The last one is the one that writes now.
    pub(crate) authors: Vec<Author>,
}

impl Machine {
    pub(crate) fn new(cloud: &Cloud, name: &'static str) -> Machine {
        let file = cloud.path(&format!("{name}.db"));
        let mut machine = Machine { file, name, writer: None, sync: None, authors: Vec::new() };
        machine.next_author();
        machine
    }

    /// Makes the tables.
    pub(crate) fn found(&self) {
        Connection::open(&self.file).unwrap().execute_batch(SCHEMA).unwrap();
    }

    fn next_author(&mut self) {
        let who = format!("{}{}", self.name, self.authors.len());
        self.authors.push(Author { who, acknowledged: 0, pushed: 0, is_lost: false });
    }

    pub(crate) fn author(&mut self) -> &mut Author {
        self.authors.last_mut().unwrap()
    }

    /// Starts the application if it does not run. It finds all that it has committed.
    pub(crate) fn write(&mut self, seed: u64) {
        if self.writer.is_some() {
            return;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kill_9/writer.py");
        let mut command = Command::new("python3");
        command.arg("-u").arg(script).arg(&self.file).args([&self.author().who, &seed.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        let n = first.trim_end().strip_prefix("ready ").expect("the application starts").parse().unwrap();
        let known = self.author().acknowledged;
        assert!(n == known || n == known + 1, "{} has {n} of {known}", self.author().who);
        let acknowledged = Arc::new(AtomicU64::new(n));
        let listener = std::thread::spawn({
            let acknowledged = Arc::clone(&acknowledged);
            move || {
                let mut line = String::new();
                // The last line of one who was killed may have been cut off: it says nothing.
                while said.read_line(&mut line).is_ok() && line.ends_with('\n') {
                    let n = line.trim_end().strip_prefix("committed ").and_then(|n| n.parse().ok());
                    acknowledged.store(n.expect("committed N"), Ordering::SeqCst);
                    line.clear();
                }
            }
        });
        self.writer = Some(Writer { child, acknowledged, listener });
    }

    /// Kills the application. It must have run until then.
    pub(crate) fn kill_writer(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        assert!(writer.child.try_wait().unwrap().is_none(), "the application failed");
        kill(writer.child);
        writer.listener.join().unwrap();
        self.author().acknowledged = writer.acknowledged.load(Ordering::SeqCst);
    }

    fn command(&self, cloud: &Cloud) -> Command {
        let mut command = cloud.aquifer("sync");
        command.arg(&self.file).arg("--remote").arg(cloud.url());
        command
    }

    /// Starts to sync, once or to stay in sync, if it does not run.
    pub(crate) fn sync(&mut self, cloud: &Cloud, is_watch: bool) {
        if let Some((child, false)) = &mut self.sync
            && let Some(ended) = child.try_wait().unwrap()
        {
            self.assert_synced(ended);
            self.sync = None;
        }
        if self.sync.is_none() {
            let mut command = self.command(cloud);
            if is_watch {
                command.arg("--watch");
            }
            self.sync = Some((command.spawn().unwrap(), is_watch));
        }
    }

    /// Kills what syncs. One that stays in sync must have run until then.
    pub(crate) fn kill_sync(&mut self) {
        let Some((mut child, is_watch)) = self.sync.take() else { return };
        match child.try_wait().unwrap() {
            Some(ended) => {
                assert!(!is_watch, "{} is not kept in sync any more ({ended}): see sync.log", self.name);
                self.assert_synced(ended);
            }
            None => drop(kill(child)),
        }
    }

    /// It was synced, or the server could not do its part at that moment.
    fn assert_synced(&self, ended: ExitStatus) {
        assert!(matches!(ended.code(), Some(0 | 6)), "{} was not synced ({ended}): see sync.log", self.name);
    }

    /// Syncs once, to the end. False: the server could not be reached.
    pub(crate) fn sync_now(&mut self, cloud: &Cloud) -> bool {
        self.kill_sync();
        let before = match &self.writer {
            Some(writer) => writer.acknowledged.load(Ordering::SeqCst),
            None => self.author().acknowledged,
        };
        let ended = self.command(cloud).arg("--require-online").status().unwrap();
        self.assert_synced(ended);
        if ended.success() {
            self.author().pushed = before;
        }
        ended.success()
    }

    /// The machine is gone with all that is on it. What another one has instead is what was pushed.
    pub(crate) fn lose(&mut self) {
        self.kill_writer();
        self.kill_sync();
        for suffix in ["", "-wal", "-shm", "-aquifer", "-aquifer-wal", "-aquifer-shm"] {
            let mut path = self.file.clone().into_os_string();
            path.push(suffix);
            let _ = fs::remove_file(path);
        }
        self.author().is_lost = true;
        self.next_author();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in
            [self.writer.take().map(|w| w.child), self.sync.take().map(|s| s.0)].into_iter().flatten()
        {
            kill(child);
        }
    }
}
