//! Turso's client for Python, doing what ours does.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::Result;
use super::super::process::{Taken, run as run_program};

/// The package that it comes in.
pub(super) const PACKAGE: &str = "pyturso==0.8.3";
const SCRIPT: &str = include_str!("with_turso.py");

/// The client, installed.
pub(super) struct Turso {
    python: PathBuf,
    script: PathBuf,
    file: PathBuf,
}

impl Turso {
    /// Installs it. `None` where that cannot be done.
    pub(super) fn install(dir: &Path) -> Result<Option<Turso>> {
        let home = dir.join("python");
        let python = home.join("bin/python");
        let done = |command: &mut Command| {
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        if !done(Command::new("python3").args(["-m", "venv"]).arg(&home))
            || !done(Command::new(&python).args(["-m", "pip", "install", PACKAGE]))
        {
            return Ok(None);
        }
        let script = dir.join("with_turso.py");
        std::fs::write(&script, SCRIPT)?;
        Ok(Some(Turso { python, script, file: dir.join("turso.db") }))
    }

    /// Fetches the database where that is not done yet, changes these rows, and pushes or pulls: the seconds of that.
    pub(super) fn run(
        &self,
        url: &str,
        what: &str,
        first: u64,
        step: u64,
        rows: u64,
    ) -> Result<(f64, Taken)> {
        let numbers = [first, step, rows].map(|number| number.to_string());
        let mut arguments = vec![self.script.as_os_str(), self.file.as_os_str(), url.as_ref(), what.as_ref()];
        arguments.extend(numbers.iter().map(OsStr::new));
        let taken = run_program(&self.python, &arguments)?;
        Ok((taken.output.trim().parse()?, taken))
    }
}
