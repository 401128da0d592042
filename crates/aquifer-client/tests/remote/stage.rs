//! A server as `aquifer serve` runs it, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use aquifer_client::remote::{Pull, PullQuery, Remote, RemoteError, RemoteOptions, Retries};
use aquifer_format::Pgno;
use aquifer_log::Store;
use aquifer_server::auth::{AuthOptions, Authority};
use aquifer_server::cluster::ClusterOptions;
use aquifer_server::hosted::{HostOptions, Hosts};
use aquifer_server::hrana::Settings;
use aquifer_server::http::{ConnectionLimits, Listening, Options, Service, Tls};
use aquifer_sqlite::btree::Value;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// How a server is run.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) token: Option<&'static str>,
    pub(crate) settings: Settings,
    pub(crate) redirect: bool,
    pub(crate) tls: Option<Tls>,
}

pub(crate) struct Stage {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

/// Ends with this value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    pub(crate) fn new() -> Stage {
        Stage { dir: TempDir::new().unwrap(), store: Store::open(&"memory://".parse().unwrap()).unwrap() }
    }

    /// One more server of the store.
    pub(crate) async fn server(&self, name: &str, setup: Setup) -> Server {
        let auth = AuthOptions {
            anonymous: setup.token.is_none(),
            tokens: setup.token.iter().map(ToString::to_string).collect(),
            ..AuthOptions::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cluster = ClusterOptions { url: Some(format!("http://{address}")), ..ClusterOptions::default() };
        let options = HostOptions { cluster, ..HostOptions::default() };
        let hosts = Hosts::new(self.store.clone(), self.dir.path().join(name), options).unwrap();
        let http = Options { redirect: setup.redirect, ..Options::default() };
        let service = Service::with(hosts, Authority::new(&auth).unwrap(), setup.settings, http);
        let listening = Listening::new(listener, ConnectionLimits::default(), setup.tls);
        let task = tokio::spawn(listening.serve(service.router(), std::future::pending())).abort_handle();
        Server { address, task }
    }
}

/// A remote that does not try again, and asks no proxy of this machine.
pub(crate) fn options() -> RemoteOptions {
    RemoteOptions {
        proxy: aquifer_client::remote::Proxy::None,
        retries: Retries { count: 0, ..Retries::default() },
        ..RemoteOptions::default()
    }
}

pub(crate) fn remote(address: SocketAddr) -> Remote {
    remote_with(address, options())
}

pub(crate) fn remote_with(address: SocketAddr, options: RemoteOptions) -> Remote {
    Remote::new(&format!("http://{address}/db/shop"), options).unwrap()
}

/// Runs a statement; the first value of its only row, if it has one.
pub(crate) async fn run(remote: &Remote, sql: &str) -> Option<Value> {
    let result = remote.execute(sql, &[]).await.unwrap();
    result.rows.into_iter().next().and_then(|row| row.into_iter().next())
}

/// All that is still to come.
pub(crate) async fn rest(pull: &mut Pull) -> Result<Vec<(Pgno, Bytes)>, RemoteError> {
    let mut pages = Vec::new();
    while let Some(page) = pull.next_page().await? {
        pages.push(page);
    }
    Ok(pages)
}

/// The whole database.
pub(crate) fn everything() -> PullQuery {
    PullQuery::default()
}

/// With so many retries, almost without waiting.
pub(crate) fn persistent(count: u32) -> RemoteOptions {
    RemoteOptions {
        retries: Retries { count, base: Duration::from_millis(1), ..Retries::default() },
        ..options()
    }
}
