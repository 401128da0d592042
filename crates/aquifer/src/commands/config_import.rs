//! `aquifer config import FILE`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::config::translate_litestream;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;

/// A configuration file is shorter.
const MOST: u64 = 1 << 20;

/// Make a configuration file of a litestream.yml
///
/// Prints it: what has no equivalent is named in comments, and how the backups come over that there are. Secrets are not
/// written down: they come from the environment.
#[derive(Debug, Args)]
pub(crate) struct ConfigImport {
    /// The litestream.yml
    file: PathBuf,

    /// Write it into this file, which must not exist
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<PathBuf>,
    toml: String,
    left_out: usize,
}

impl ConfigImport {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let read = |source| CliError::File { action: "read", path: self.file.clone(), source };
        let mut yaml = String::new();
        let file = std::fs::File::open(&self.file).map_err(read)?;
        io::Read::read_to_string(&mut io::Read::take(file, MOST), &mut yaml).map_err(read)?;
        let translated = translate_litestream(&yaml, |name| std::env::var(name).ok()).map_err(|reason| {
            CliError::Usage(format!("{} is no litestream.yml: {reason}", self.file.display()))
        })?;
        if let Some(output) = &self.output {
            let failed = |source| CliError::File { action: "write", path: output.clone(), source };
            let mut file = std::fs::File::create_new(output).map_err(failed)?;
            file.write_all(translated.toml.as_bytes()).map_err(failed)?;
        }
        let (toml, left_out) = (translated.toml, translated.left_out);
        session.output.print(&Made { output: self.output.clone(), toml, left_out })?;
        Ok(Exit::Ok)
    }
}

impl Report for Made {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(output) = &self.output else { return out.write_all(self.toml.as_bytes()) };
        writeln!(out, "{} is made; {} settings have no equivalent", output.display(), self.left_out)
    }
}
