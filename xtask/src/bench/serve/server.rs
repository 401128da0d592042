//! A server that runs for a bench.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::Result;
use super::super::process::Running;
use super::client::Client;
use super::sql;

const PATIENCE: Duration = Duration::from_mins(1);

/// `aquifer serve`.
pub(in super::super) struct Server {
    running: Running,
    pub(in super::super) address: SocketAddr,
}

impl Server {
    /// Starts it on a store, with its data directory and waits until it is ready.
    pub(in super::super) fn start(
        aquifer: &Path,
        data_dir: &Path,
        store: &OsStr,
        environment: &[(String, String)],
    ) -> Result<Server> {
        let address = free_address()?;
        let listen = address.to_string();
        let arguments = ["serve", "--listen", &listen, "--store"].map(OsStr::new);
        let rest = [store, OsStr::new("--data-dir"), data_dir.as_os_str()];
        let arguments = [&arguments[..], &rest].concat();
        let running = Running::start_in(aquifer, &arguments, environment)?;
        let server = Server { running, address };
        wait(|| server.client().get("/health").is_ok().then_some(()))
            .ok_or("the server does not get ready")?;
        Ok(server)
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Runs SQL on a database, without arguments.
    pub(in super::super) fn execute(&self, database: &str, statement: &str) -> Result<()> {
        Ok(sql::execute(&mut self.client(), &sql::path(database), statement)?)
    }

    /// The sum of the samples of a metric.
    pub(super) fn metric(&self, name: &str) -> Result<f64> {
        Ok(self.samples(name)?.into_iter().map(|(_, value)| value).sum())
    }

    /// The samples of a metric, each with the value of its first label.
    pub(super) fn samples(&self, name: &str) -> Result<Vec<(String, f64)>> {
        let page = String::from_utf8(self.client().get("/metrics")?)?;
        let samples = page.lines().filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let (found, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let label = labels.split('"').nth(1).unwrap_or_default();
            (found == name).then(|| Ok((label.to_owned(), value.parse::<f64>()?)))
        });
        samples.collect()
    }

    /// Bytes of memory that it holds now.
    pub(super) fn resident(&self) -> Result<u64> {
        self.running.resident()
    }

    pub(in super::super) fn stop(self) -> Result<()> {
        self.running.stop()
    }
}

/// An address on which nobody listens.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// Asks again until there is an answer; `None` if there is none for too long.
pub(super) fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}
