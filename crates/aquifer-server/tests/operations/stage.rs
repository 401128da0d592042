//! A server as `aquifer serve` runs it, in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_log::Store;
use aquifer_server::auth::{AuthOptions, Authority};
use aquifer_server::cluster::ClusterOptions;
use aquifer_server::hosted::{Durability, HostError, HostOptions, Hosts};
use aquifer_server::hrana::Settings;
use aquifer_server::http::{ConnectionLimits, Listening, Options, Service, Tls};
use aquifer_testkit::fault_store::FaultStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How a server is run.
pub(crate) struct Setup {
    pub(crate) tokens: Vec<&'static str>,
    pub(crate) settings: Settings,
    pub(crate) options: Options,
    pub(crate) connections: ConnectionLimits,
    pub(crate) tls: Option<Tls>,
    pub(crate) durability: Durability,
    pub(crate) lease: Duration,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            tokens: Vec::new(),
            settings: Settings::default(),
            options: Options::default(),
            connections: ConnectionLimits::default(),
            tls: None,
            durability: Durability::default(),
            lease: ClusterOptions::default().lease,
        }
    }
}

pub(crate) struct Stage {
    pub(crate) dir: TempDir,
    pub(crate) faults: FaultStore,
    pub(crate) store: Store,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let faults = FaultStore::in_memory();
        let store = Store::from_object_store(Arc::new(faults.clone()), "test");
        Stage { dir: TempDir::new().unwrap(), faults, store }
    }

    /// One more server of the store, which does what it is told to without asking whether another one is at it.
    pub(crate) fn hosts(&self) -> Hosts {
        Hosts::new(self.store.clone(), self.dir.path().join("alone"), HostOptions::default()).unwrap()
    }

    /// Without tokens it lets everybody in, and administer.
    pub(crate) async fn server(&self, name: &str, setup: Setup) -> Server {
        let auth = AuthOptions {
            anonymous: setup.tokens.is_empty(),
            anonymous_admin: true,
            tokens: setup.tokens.iter().map(ToString::to_string).collect(),
            ..AuthOptions::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cluster = ClusterOptions { url: Some(format!("http://{address}")), lease: setup.lease };
        let options = HostOptions { cluster, durability: setup.durability, ..HostOptions::default() };
        let new = || Hosts::new(self.store.clone(), self.dir.path().join(name), options.clone());
        let mut hosts = new();
        // Of one that has just vanished.
        eventually("the directory is free", async || {
            if matches!(hosts, Err(HostError::DataDirInUse(_))) {
                hosts = new();
            }
            hosts.is_ok()
        })
        .await;
        let hosts = hosts.unwrap();
        let service = Service::with(hosts, Authority::new(&auth).unwrap(), setup.settings, setup.options);
        let listening = Listening::new(listener, setup.connections, setup.tls);
        let task = tokio::spawn(listening.serve(service.router(), std::future::pending()));
        Server { address, service, task }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<Service>,
    task: tokio::task::JoinHandle<()>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Server {
    /// Sends a request with more lines in its head.
    pub(crate) async fn send(&self, method: &str, path: &str, head: &[&str], body: &str) -> Answer {
        self.exchange(method, path, head, body.as_bytes()).await
    }

    /// To a host of another name.
    pub(crate) async fn send_to(&self, host: &str, method: &str, path: &str, body: &str) -> Answer {
        self.exchange_with(host, method, path, &[], body.as_bytes()).await
    }

    pub(crate) async fn send_bytes(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.exchange(method, path, &[], body).await
    }

    async fn exchange(&self, method: &str, path: &str, head: &[&str], body: &[u8]) -> Answer {
        self.exchange_with("aquifer", method, path, head, body).await
    }

    async fn exchange_with(
        &self,
        host: &str,
        method: &str,
        path: &str,
        head: &[&str],
        body: &[u8],
    ) -> Answer {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let head: String = head.iter().flat_map(|line| [line, "\r\n"]).collect();
        let len = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{head}content-length: {len}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        // A server that refuses the body may have closed before it was sent.
        let _ = socket.write_all(body).await;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        Answer::parse(&String::from_utf8(answer).unwrap())
    }

    pub(crate) async fn get(&self, path: &str, head: &[&str]) -> Answer {
        self.send("GET", path, head, "").await
    }

    /// Runs a statement.
    pub(crate) async fn execute(&self, base: &str, head: &[&str], sql: &str) -> Answer {
        let body = json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]});
        self.send("POST", &format!("{base}/v2/pipeline"), head, &body.to_string()).await
    }

    /// The values of the first column of what a statement, which must succeed, answers.
    pub(crate) async fn values(&self, base: &str, sql: &str) -> Vec<String> {
        let answer = self.execute(base, &[], sql).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["results"][0]["type"], "ok", "{answer}");
        let rows = answer["results"][0]["response"]["result"]["rows"].as_array().unwrap().clone();
        rows.iter().map(|row| row[0]["value"].as_str().unwrap().to_owned()).collect()
    }

    /// Its process is killed.
    pub(crate) async fn vanish(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// The value of a line of `/metrics`.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let page = self.get("/metrics", &[]).await.body;
        let value = page.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {line}: {page}")).parse().unwrap()
    }
}

/// Repeats until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
