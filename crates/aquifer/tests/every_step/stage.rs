//! A server, and the program as a process to which something is done at one of its steps.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::blows::Blow;

pub(crate) struct Stage {
    dir: TempDir,
    server: Child,
    address: String,
}

/// How a sync ended to which something was done.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether it had so many steps.
    pub(crate) was_hit: bool,
    pub(crate) is_killed: bool,
    /// `None`: it was killed.
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("client")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--store"]);
        command.arg(dir.path().join("store")).arg("--data-dir").arg(dir.path().join("served"));
        let mut server = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = event["fields"]["address"].as_str() {
                break address.to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Stage { dir, server, address }
    }

    /// A file of a client.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("client").join(name)
    }

    /// Removes a database with all that is beside it.
    pub(crate) fn remove(&self, name: &str) {
        for suffix in ["", "-wal", "-shm", "-aquifer", "-aquifer-wal", "-aquifer-shm", "-aquifer-lock"] {
            let _ = std::fs::remove_file(self.path(&format!("{name}{suffix}")));
        }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("http://{}/db/{database}", self.address)
    }

    fn command(&self, file: &str, database: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
        command.args(["sync", "--require-online", "--remote", &self.url(database)]).args(options);
        command.arg(self.path(file)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Syncs, which must go well.
    pub(crate) fn sync(&self, file: &str, database: &str, options: &[&str]) {
        let done = self.command(file, database, options).output().unwrap();
        assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    }

    /// Syncs, up to a step; counted from 1.
    pub(crate) fn sync_until(
        &self,
        blow: Blow,
        step: u64,
        file: &str,
        database: &str,
        options: &[&str],
    ) -> Ended {
        let told = self.dir.path().join("told");
        let _ = std::fs::remove_file(&told);
        let mut command = self.command(file, database, options);
        command.env("LD_PRELOAD", shim()).env("STEP_DIR", self.dir.path().join("client"));
        command.env("STEP_MODE", blow.mode()).env("STEP_AT", step.to_string()).env("STEP_TOLD", &told);
        let done = command.output().unwrap();
        let is_killed = done.status.signal() == Some(9);
        let steps = std::fs::read_to_string(&told).ok().and_then(|steps| steps.parse::<u64>().ok());
        assert!(is_killed || steps.is_some_and(|steps| steps > 0), "nothing is counted: {done:?}");
        Ended {
            was_hit: is_killed || steps.is_some_and(|steps| steps >= step),
            is_killed,
            code: done.status.code(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The library that counts steps.
fn shim() -> &'static Path {
    static SHIM: LazyLock<PathBuf> = LazyLock::new(|| {
        let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (library, made) = (built.join("shim.so"), built.join(format!("shim-{}.so", std::process::id())));
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&made);
        compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/every_step/shim.c")).arg("-ldl");
        assert!(compiler.status().unwrap().success());
        // Another run of these tests may be using it.
        std::fs::rename(made, &library).unwrap();
        library
    });
    &SHIM
}

/// The rows of a query, a line for each, of a database that must be sound.
pub(crate) fn rows(file: &Path, sql: &str) -> Vec<String> {
    let db = Connection::open(file).unwrap();
    let lines = |sql: &str| -> Vec<String> {
        let mut statement = db.prepare(sql).unwrap();
        let columns = statement.column_count();
        let found = statement.query_map([], |row| {
            let values: rusqlite::Result<Vec<rusqlite::types::Value>> =
                (0..columns).map(|at| row.get(at)).collect();
            Ok(format!("{:?}", values?))
        });
        found.unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(lines("PRAGMA integrity_check"), ["[Text(\"ok\")]"]);
    lines(sql)
}

pub(crate) fn run(file: &Path, sql: &str) {
    Connection::open(file).unwrap().execute_batch(sql).unwrap();
}
