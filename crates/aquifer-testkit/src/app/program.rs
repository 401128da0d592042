//! Which program the application process runs.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// What the application is written in, and so whose SQLite it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// The bundled SQLite, and every [`Mix`](super::Mix).
    Rust,
    /// The SQLite of the machine's Python.
    Python,
}

impl Language {
    pub(super) fn command(self) -> io::Result<Command> {
        match self {
            Language::Rust => Ok(Command::new(rust_program()?)),
            Language::Python => {
                let mut command = Command::new("python3");
                command.arg("-u").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/app.py"));
                Ok(command)
            }
        }
    }
}

/// Path of the program. `cargo test --workspace` has built it; a test of another crate alone has not.
fn rust_program() -> io::Result<&'static PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAM.get_or_init(find_or_build).as_ref().map_err(|message| io::Error::other(message.clone()))
}

fn find_or_build() -> Result<PathBuf, String> {
    let program = sibling_program().map_err(|error| format!("cannot tell where cargo builds: {error}"))?;
    if is_current(&program).unwrap_or(false) {
        return Ok(program);
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "aquifer-testkit", "--bin", "testkit-app"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    // <target directory>/<profile>/testkit-app
    let profile = program.parent().ok_or("the build directory has no name")?;
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.arg("--target-dir").arg(profile.parent().ok_or("the target directory has no name")?);
    match cargo.status() {
        Ok(status) if status.success() && program.exists() => Ok(program),
        Ok(status) => {
            Err(format!("`cargo build --bin testkit-app` did not make {}: {status}", program.display()))
        }
        Err(error) => Err(format!("cannot run cargo to build testkit-app: {error}")),
    }
}

/// Tests and benches run from `<target>/<profile>/deps`, programs from `<target>/<profile>`.
fn sibling_program() -> io::Result<PathBuf> {
    let mut directory = env::current_exe()?;
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    Ok(directory.join(format!("testkit-app{}", env::consts::EXE_SUFFIX)))
}

/// Whether the program is newer than its sources.
fn is_current(program: &Path) -> io::Result<bool> {
    let built = fs::metadata(program)?.modified()?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    Ok(newest(&sources.join("app"))?.max(newest(&sources.join("workload"))?) <= built)
}

fn newest(directory: &Path) -> io::Result<SystemTime> {
    fs::read_dir(directory)?
        .try_fold(SystemTime::UNIX_EPOCH, |newest, entry| Ok(newest.max(entry?.metadata()?.modified()?)))
}
