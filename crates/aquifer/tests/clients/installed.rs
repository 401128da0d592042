//! Whether the clients are there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What runs a client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Runtime {
    Node,
    Python,
}

impl Runtime {
    /// What runs a script of this kind; `None`, said once, when its clients are not installed.
    pub(crate) fn command(self, script: &str) -> Option<Command> {
        static NODE: OnceLock<Option<PathBuf>> = OnceLock::new();
        static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
        let program = match self {
            Runtime::Node => NODE.get_or_init(|| self.program_or_skip()),
            Runtime::Python => PYTHON.get_or_init(|| self.program_or_skip()),
        };
        let mut command = Command::new(program.as_ref()?);
        command.arg(self.folder().join(script));
        Some(command)
    }

    fn program_or_skip(self) -> Option<PathBuf> {
        let (program, lock, stamp) = match self {
            Runtime::Node => ("node", "package-lock.json", "node_modules/.installed"),
            Runtime::Python => ("venv/bin/python", "requirements.txt", "venv/.installed"),
        };
        let folder = self.folder();
        let wanted = fs::read(folder.join(lock)).unwrap();
        if fs::read(folder.join(stamp)).is_ok_and(|installed| installed == wanted) {
            let program = if program.contains('/') { folder.join(program) } else { program.into() };
            return Some(program);
        }
        let missing = format!(
            "the clients of {self:?} are not installed as {} wants them: run crates/aquifer/tests/clients/install",
            folder.join(lock).display()
        );
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
        // Not `eprintln!`: the test harness swallows that in tests that pass.
        let _ = writeln!(std::io::stderr(), "skipped: {missing}");
        None
    }

    fn folder(self) -> PathBuf {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        clients.join(match self {
            Runtime::Node => "js",
            Runtime::Python => "python",
        })
    }
}
