//! Whether the clients are there.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What runs a client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Runtime {
    Node,
    Python,
    /// A program that has the clients and their scenarios compiled in.
    Rust,
}

impl Runtime {
    /// Runs a script of this kind; `None`, said once, when its clients are not installed.
    pub(crate) fn command(self, script: &str) -> Option<Command> {
        let mut command = Command::new(self.program()?);
        match self {
            Runtime::Node | Runtime::Python => command.arg(self.folder().join(script)),
            Runtime::Rust => command.arg(script),
        };
        Some(command)
    }

    /// What runs scripts of this kind; `None`, said once, when its clients are not installed.
    pub(crate) fn program(self) -> Option<&'static Path> {
        static NODE: OnceLock<Option<PathBuf>> = OnceLock::new();
        static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
        static RUST: OnceLock<Option<PathBuf>> = OnceLock::new();
        let installed = match self {
            Runtime::Node => &NODE,
            Runtime::Python => &PYTHON,
            Runtime::Rust => &RUST,
        };
        installed.get_or_init(|| self.program_or_skip()).as_deref()
    }

    fn program_or_skip(self) -> Option<PathBuf> {
        let (program, stamp) = match self {
            Runtime::Node => ("node", "node_modules/.installed"),
            Runtime::Python => ("venv/bin/python", "venv/.installed"),
            Runtime::Rust => ("target/debug/clients", "target/.installed"),
        };
        let folder = self.folder();
        if fs::read(folder.join(stamp)).is_ok_and(|installed| installed == self.wanted().unwrap()) {
            let program = if program.contains('/') { folder.join(program) } else { program.into() };
            return Some(program);
        }
        let missing = format!(
            "the clients of {self:?} are not installed as {} wants them: run crates/aquifer/tests/clients/install",
            folder.display()
        );
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
        // Not `eprintln!`: the test harness swallows that in tests that pass.
        let _ = writeln!(std::io::stderr(), "skipped: {missing}");
        None
    }

    /// What `install` leaves behind when what is installed is of today: the lock file, and the sources of what is compiled.
    fn wanted(self) -> io::Result<Vec<u8>> {
        let folder = self.folder();
        let mut files = match self {
            Runtime::Node => vec![folder.join("package-lock.json")],
            Runtime::Python => vec![folder.join("requirements.txt")],
            Runtime::Rust => {
                let sources = fs::read_dir(folder.join("src"))?.map(|entry| Ok(entry?.path()));
                sources.chain([Ok(folder.join("Cargo.lock"))]).collect::<io::Result<_>>()?
            }
        };
        files.sort();
        Ok(files.iter().map(fs::read).collect::<io::Result<Vec<_>>>()?.concat())
    }

    /// Where its clients are.
    pub(crate) fn folder(self) -> PathBuf {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aquifer/tests/clients");
        clients.join(match self {
            Runtime::Node => "js",
            Runtime::Python => "python",
            Runtime::Rust => "rust",
        })
    }
}
