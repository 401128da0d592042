//! Daemon, application and restore are killed at random moments: no acknowledged commit is lost, and nothing that is
//! restored is ever torn.
//!
//! `AQUIFER_TORTURE_ROUNDS` sets how many kills there are (`cargo xtask torture` runs hundreds), `AQUIFER_TORTURE_SEED`
//! what they are.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aquifer_testkit::app::{AppOptions, AppProcess, Language, Mix, check_log};
use aquifer_testkit::workload::Rng;

struct Stage {
    dir: tempfile::TempDir,
    database: PathBuf,
    store: PathBuf,
    /// The last transaction that a restore has brought back: it was durable, and stays so.
    restored: u64,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::TempDir::new().unwrap();
        let (database, store) = (dir.path().join("app.db"), dir.path().join("store"));
        Stage { dir, database, store, restored: 0 }
    }

    fn aquifer(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
        command.args(arguments).arg("--store").arg(&self.store).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn daemon(&self) -> Child {
        let mut daemon = self.aquifer(&["replicate"]);
        daemon.arg(&self.database).stderr(Stdio::null()).spawn().unwrap()
    }

    fn restore_to(&self, to: &Path) -> Command {
        let mut restore = self.aquifer(&["restore", "app.db", "--force"]);
        restore.arg("-o").arg(to);
        restore
    }

    /// Restores the newest state, and proves that it is whole and not older than what was restored before.
    fn restore(&mut self) -> u64 {
        let to = self.dir.path().join("restored.db");
        let done = self.restore_to(&to).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let n = check_log(&to).unwrap();
        assert!(n >= self.restored, "restored {n} after {}", self.restored);
        self.restored = n;
        n
    }
}

/// Ends it in order; it ships what is committed.
fn terminate(mut daemon: Child) {
    let stopped = Command::new("kill").arg(daemon.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(daemon.wait().unwrap().success());
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn kill_9_of_anything_at_any_time_loses_nothing_and_tears_nothing() {
    let number = |name: &str, default| std::env::var(name).ok().map_or(default, |n| n.parse().unwrap());
    let rounds: u64 = number("AQUIFER_TORTURE_ROUNDS", 24);
    let seed: u64 = number("AQUIFER_TORTURE_SEED", 1);
    let mut rng = Rng::new(seed);
    let mut stage = Stage::new();
    let mut committed = 0;
    for round in 0..rounds {
        let options = AppOptions { seed: seed * 1000 + round, mix: Mix::Hostile, ..AppOptions::default() };
        let language = if rng.below(4) == 0 { Language::Python } else { Language::Rust };
        let mut app = AppProcess::start(language, &stage.database, &options).unwrap();
        let mut daemon = stage.daemon();
        app.run().unwrap();
        let pause = |rng: &mut Rng| std::thread::sleep(Duration::from_millis(rng.range(5, 300)));
        pause(&mut rng);
        let what = rng.below(5);
        match what {
            0 => {
                // The daemon dies under load, and another one takes over.
                kill(daemon);
                pause(&mut rng);
                daemon = stage.daemon();
                pause(&mut rng);
                committed = app.kill();
            }
            1 => {
                committed = app.kill();
                pause(&mut rng);
            }
            2 => {
                // A restore dies; its target is untouched or whole.
                let to = stage.dir.path().join("killed.db");
                let restore = stage.restore_to(&to).stderr(Stdio::null()).spawn().unwrap();
                std::thread::sleep(Duration::from_millis(rng.range(1, 80)));
                kill(restore);
                if to.exists() {
                    check_log(&to).unwrap();
                }
                committed = app.kill();
            }
            3 => {
                if committed > 0 {
                    let n = stage.restore();
                    assert!(n <= app.acknowledged() + 1);
                }
                committed = app.stop().unwrap();
            }
            _ => committed = app.stop().unwrap(),
        }
        if rng.below(2) == 0 {
            kill(daemon);
        } else {
            terminate(daemon);
            let durable = stage.restore();
            assert!(
                durable >= committed,
                "round {round} ({what}): {durable} durable of {committed} committed"
            );
        }
        let n = check_log(&stage.database).unwrap();
        assert!(n >= committed, "round {round} ({what}): the database itself lost {committed}, it has {n}");
        committed = n;
    }
    let done = stage.aquifer(&["replicate", "--once"]).arg(&stage.database).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(stage.restore(), committed);
    let done = stage.aquifer(&["verify", "app.db", "--deep"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
