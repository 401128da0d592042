//! A server that has a database, and a copy of it that is synced.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use aquifer_testkit::workload::{Build, Kind, build};

use super::super::Result;
use super::super::process::{Running, Taken, run as run_program};
use super::super::serve::Server;

const DATABASE: &str = "app";

/// A server that has a database, and a copy of it that is synced.
pub(super) struct Copy {
    aquifer: PathBuf,
    pub(super) server: Server,
    pub(super) file: PathBuf,
}

/// What a sync said of itself, and what its program took.
pub(super) struct Synced {
    pub(super) taken: Taken,
    report: serde_json::Value,
}

impl Copy {
    /// Makes a key-value database of this size, gives it to a server, and fetches it.
    pub(super) fn new(aquifer: &Path, dir: &Path, bytes: u64) -> Result<Copy> {
        let (origin, store) = (dir.join("origin.db"), dir.join("store"));
        build(&origin, &Build::new(Kind::Kv, bytes, 1))?;
        let arguments =
            ["import".as_ref(), origin.as_os_str(), DATABASE.as_ref(), "--store".as_ref(), store.as_os_str()];
        run_program(aquifer, &arguments)?;
        std::fs::remove_file(&origin)?;
        let server = Server::start(aquifer, &dir.join("data"), store.as_os_str(), &[])?;
        server.execute(DATABASE, "SELECT 1")?;
        let copy = Copy { aquifer: aquifer.to_owned(), server, file: dir.join("copy.db") };
        copy.sync(&[])?;
        Ok(copy)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/db/{DATABASE}", self.server.address)
    }

    /// Runs SQL on the server.
    pub(super) fn execute(&self, statement: &str) -> Result<()> {
        self.server.execute(DATABASE, statement)
    }

    /// Runs `aquifer sync` once.
    pub(super) fn sync(&self, options: &[&str]) -> Result<Synced> {
        let url = self.url();
        let mut arguments = vec!["sync".as_ref(), self.file.as_os_str(), "--remote".as_ref(), url.as_ref()];
        arguments.extend(["--json", "--require-online"].iter().chain(options).map(OsStr::new));
        let taken = run_program(&self.aquifer, &arguments)?;
        let report = serde_json::from_str(&taken.output)?;
        Ok(Synced { taken, report })
    }

    /// Runs `aquifer sync --watch` until it is dropped; it has synced once when this returns.
    pub(super) fn watch(&self) -> Result<Running> {
        let url = self.url();
        let arguments =
            ["sync".as_ref(), self.file.as_os_str(), "--watch".as_ref(), "--remote".as_ref(), url.as_ref()];
        Running::start(&self.aquifer, &arguments)
    }
}

impl Synced {
    /// How long a part of it took, in milliseconds.
    pub(super) fn took(&self, part: &str) -> Result<f64> {
        self.report["took_ms"][part].as_f64().ok_or_else(|| self.without(part))
    }

    /// How many there were of something.
    pub(super) fn count(&self, what: &str) -> Result<f64> {
        self.report[what].as_f64().ok_or_else(|| self.without(what))
    }

    fn without(&self, what: &str) -> Box<dyn std::error::Error> {
        format!("no {what} in {}", self.report).into()
    }

    /// The most memory that it held at once, in MiB.
    pub(super) fn mebibytes(&self) -> f64 {
        self.taken.peak as f64 / f64::from(1 << 20)
    }
}
