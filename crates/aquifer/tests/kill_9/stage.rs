//! Where a life takes place: a store, a database, and the program as processes to kill.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use aquifer_testkit::app::{AppProcess, check_log};
use aquifer_testkit::s3_server::{Conditions, HttpFault, S3Server};
use aquifer_testkit::workload::Rng;
use tokio::runtime::Runtime;

/// What the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// A directory.
    Directory,
    /// An S3 server in this process, of whose answers some are errors and some are lost.
    S3,
}

pub(crate) struct Stage {
    /// `None` once it was given up for someone to look at.
    dir: Option<tempfile::TempDir>,
    pub(crate) database: PathBuf,
    store: String,
    environment: Vec<(String, String)>,
    server: Option<(S3Server, Runtime)>,
    standby: Option<Child>,
    /// The last transaction that a restore has brought back: it was durable, and stays so.
    pub(crate) restored: u64,
    /// The last transaction that the standby had.
    followed: u64,
}

impl Stage {
    pub(crate) fn new(kind: StoreKind, seed: u64) -> Stage {
        let dir = tempfile::TempDir::new().unwrap();
        let database = dir.path().join("app.db");
        let server = (kind == StoreKind::S3).then(|| faulty_s3(seed));
        let (store, environment) = match &server {
            Some((server, _)) => (server.url("torture"), server.environment()),
            None => (dir.path().join("store").display().to_string(), Vec::new()),
        };
        let dir = Some(dir);
        Stage { dir, database, store, environment, server, standby: None, restored: 0, followed: 0 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().unwrap().path().join(name)
    }

    /// The program; its log is kept for whoever looks into what was found.
    pub(crate) fn aquifer(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
        command.args(arguments).arg("--store").arg(&self.store).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log(arguments[0]));
        command
    }

    fn log(&self, name: &str) -> File {
        OpenOptions::new().create(true).append(true).open(self.path(&format!("{name}.log"))).unwrap()
    }

    /// A daemon that also deletes history, as much as it may.
    pub(crate) fn daemon(&self) -> Child {
        let arguments = ["replicate", "--retain", "3s", "--retain-grace", "10s", "--log-level", "debug"];
        self.aquifer(&arguments).arg(&self.database).spawn().unwrap()
    }

    pub(crate) fn restore_to(&self, to: &Path) -> Command {
        let mut restore = self.aquifer(&["restore", "app.db", "--force"]);
        restore.arg("-o").arg(to);
        restore
    }

    /// Restores the newest state, and proves that it is whole and not older than what was restored before.
    pub(crate) fn restore(&mut self) -> u64 {
        let to = self.path("restored.db");
        run(&mut self.restore_to(&to));
        let n = check_log(&to).unwrap();
        assert!(n >= self.restored, "restored {n} after {}", self.restored);
        self.restored = n;
        n
    }

    /// The machine is gone, with the database and all local state: another one begins with what is in the store.
    pub(crate) fn lose_machine(&mut self) -> u64 {
        for file in ["app.db", "app.db-wal", "app.db-shm"] {
            let _ = fs::remove_file(self.path(file));
        }
        let _ = fs::remove_dir_all(self.path(".app.db-aquifer"));
        run(&mut self.restore_to(&self.database));
        let n = check_log(&self.database).unwrap();
        assert!(n >= self.restored, "restored {n} after {}", self.restored);
        self.restored = n;
        n
    }

    /// Starts to follow, or goes on.
    pub(crate) fn follow(&mut self) {
        if self.standby.is_none() {
            let arguments =
                ["restore", "app.db", "--follow", "--follow-interval", "20ms", "--log-level", "debug"];
            let mut command = self.aquifer(&arguments);
            command.arg("-o").arg(self.path("standby.db")).stderr(self.log("follow"));
            self.standby = Some(command.spawn().unwrap());
        }
    }

    /// The standby is whole for its readers, and never goes back.
    pub(crate) fn check_standby(&mut self) -> u64 {
        let there = self.path("standby.db");
        if let Some(standby) = &mut self.standby {
            assert_eq!(standby.try_wait().unwrap(), None, "the standby ended: see follow.log");
        }
        if there.exists() {
            let n = check_log(&there).unwrap();
            assert!(n >= self.followed, "the standby is at {n} after {}", self.followed);
            self.followed = n;
        }
        self.followed
    }

    pub(crate) fn kill_standby(&mut self) {
        if let Some(standby) = self.standby.take() {
            kill(standby);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill_standby();
        if !std::thread::panicking() {
            return;
        }
        if let Some((server, _)) = &self.server {
            for key in server.keys() {
                let path = self.path("bucket").join(&key);
                let _ = fs::create_dir_all(path.parent().unwrap());
                let _ = fs::write(path, server.object(&key).unwrap_or_default());
            }
        }
        if let Some(dir) = self.dir.take() {
            eprintln!("what was there is kept in {}", dir.keep().display());
        }
    }
}

/// Runs a command to its end, which must be a good one.
pub(crate) fn run(command: &mut Command) {
    let done = command.stderr(Stdio::piped()).output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Ends a daemon in order: it ships what is committed. False if it had not come so far as to listen to signals.
pub(crate) fn terminate(mut daemon: Child) -> bool {
    let stopped = Command::new("kill").arg(daemon.id().to_string()).status().unwrap();
    assert!(stopped.success());
    let ended = daemon.wait().unwrap();
    assert!(ended.success() || ended.signal() == Some(15), "{ended}: see replicate.log");
    ended.success()
}

/// Kills a process, which may have ended before; tells how it ended.
pub(crate) fn kill(mut child: Child) -> ExitStatus {
    child.kill().unwrap();
    let ended = child.wait().unwrap();
    KILLS.set(KILLS.get() + u64::from(ended.signal() == Some(9)));
    ended
}

/// Kills an application, which must not have ended before; tells its last acknowledged transaction.
pub(crate) fn kill_app(app: AppProcess) -> u64 {
    KILLS.set(KILLS.get() + 1);
    app.kill()
}

thread_local! {
    static KILLS: Cell<u64> = const { Cell::new(0) };
}

/// How many processes were killed by this test, which runs on one thread, while they ran.
pub(crate) fn kills() -> u64 {
    KILLS.get()
}

/// One request in fifty is answered with an error or not at all, half of those after it was done.
fn faulty_s3(seed: u64) -> (S3Server, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(S3Server::start(Conditions::Honoured));
    let mut rng = Rng::new(seed);
    server.set_faults(move |_| {
        rng.one_in(50).then(|| match rng.below(4) {
            0 => HttpFault::Answer(503, "SlowDown"),
            1 => HttpFault::CloseBefore,
            2 => HttpFault::CloseAfter,
            _ => HttpFault::AnswerAfter(500, "InternalError"),
        })
    });
    (server, runtime)
}
