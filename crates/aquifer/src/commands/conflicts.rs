//! `aquifer conflicts`

use std::io::{self, Write};
use std::path::PathBuf;

use aquifer_client::rebase::{Conflict, Outcome, Row};
use aquifer_client::{Builder, RecordedConflict, recorded_conflicts, recorded_stats};
use aquifer_format::Timestamp;
use clap::Args;
use serde::Serialize;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;
use crate::time::show;

/// Tell where changes made here met others made elsewhere, and what became of them
///
/// All that lost is here, with its values. Asks no server.
#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    /// The database
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Only those after the one with this number
    #[arg(long, value_name = "N", default_value = "0")]
    after: i64,

    /// At most so many
    #[arg(long, value_name = "N", default_value = "1000")]
    limit: usize,

    /// Forget those up to this number, and tell nothing
    #[arg(long, value_name = "N", conflicts_with_all = ["after", "limit"])]
    forget: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Found {
    database: PathBuf,
    conflicts: Vec<One>,
}

#[derive(Debug, Serialize)]
struct One {
    id: i64,
    at: Timestamp,
    revision: Option<String>,
    #[serde(flatten)]
    conflict: Conflict,
}

#[derive(Debug, Serialize)]
struct Forgotten {
    database: PathBuf,
    forgotten: usize,
}

impl Conflicts {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, CliError> {
        let path = self.file;
        let failed = |source| CliError::Sync { path: path.clone(), source: Box::new(source) };
        if recorded_stats(&path).map_err(failed)?.is_none() {
            return Err(CliError::NotSynced { path });
        }
        if let Some(up_to) = self.forget {
            let database = Builder::new(&path).open().await.map_err(failed)?;
            let forgotten = database.forget_conflicts(up_to).await.map_err(failed)?;
            session.output.print(&Forgotten { database: path, forgotten })?;
            return Ok(Exit::Ok);
        }
        let found = recorded_conflicts(&path, self.after, self.limit).map_err(failed)?;
        let conflicts = found
            .into_iter()
            .map(|RecordedConflict { id, at, revision, conflict }| One {
                id,
                at: Timestamp::from_millis(at),
                revision,
                conflict,
            })
            .collect();
        session.output.print(&Found { database: path, conflicts })?;
        Ok(Exit::Ok)
    }
}

impl Report for Found {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.conflicts.is_empty() {
            return writeln!(out, "no conflicts");
        }
        for One { id, at, conflict, .. } in &self.conflicts {
            let whose = match conflict.outcome {
                Outcome::Ours => "ours stays",
                Outcome::Theirs => "theirs stays",
                Outcome::Resolved => "resolved",
            };
            writeln!(out, "{id}  {}  {}  {whose}: {}", show(*at), conflict.table, conflict.message)?;
            let rows = [("before", &conflict.base), ("ours", &conflict.local), ("theirs", &conflict.remote)];
            for (side, row) in rows {
                if let Some(row) = row {
                    writeln!(out, "    {side:7} {}", json(row)?)?;
                }
            }
            if let Some(statement) = &conflict.statement {
                writeln!(out, "    {statement}")?;
            }
        }
        Ok(())
    }
}

fn json(row: &Row) -> io::Result<String> {
    serde_json::to_string(row).map_err(io::Error::other)
}

impl Report for Forgotten {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: forgot {} conflicts", self.database.display(), self.forgotten)
    }
}
