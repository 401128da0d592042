//! `aquifer sync status`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aquifer_client::{Builder, Error, SidecarError, Stats, recorded_stats};
use aquifer_format::Timestamp;
use serde::Serialize;

use super::target::failed;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Report, write_fields};
use crate::session::Session;
use crate::time::show;
use crate::units::Bytes;

#[derive(Debug, Serialize)]
struct Status {
    databases: Vec<One>,
}

#[derive(Debug, Serialize)]
struct One {
    database: PathBuf,
    remote: Option<String>,
    /// Whether another process syncs it at this moment.
    busy: bool,
    revision: Option<String>,
    unpushed: Option<u64>,
    push_open: bool,
    conflicts: u64,
    wal_bytes: u64,
    last_push: Option<Timestamp>,
    last_pull: Option<Timestamp>,
    sent_bytes: u64,
    received_bytes: u64,
    client_id: String,
}

pub(super) async fn run(session: &Session, files: &[PathBuf]) -> Result<Exit, CliError> {
    let mut databases = Vec::new();
    for file in files {
        databases.push(one(file).await?);
    }
    session.output.print(&Status { databases })?;
    Ok(Exit::Ok)
}

async fn one(file: &Path) -> Result<One, CliError> {
    let recorded = recorded_stats(file).map_err(failed(file))?;
    let recorded = recorded.ok_or_else(|| CliError::NotSynced { path: file.to_owned() })?;
    let opened = Builder::new(file).open().await;
    let (stats, busy) = match opened {
        Ok(database) => (database.stats().await.map_err(failed(file))?, false),
        Err(Error::Sidecar(SidecarError::Locked(_))) => (recorded, true),
        // Its first fetch is not complete.
        Err(Error::NoRemote { .. }) => (recorded, false),
        Err(error) => return Err(failed(file)(error)),
    };
    let Stats {
        client_id,
        remote,
        revision,
        unpushed,
        is_push_open,
        conflicts,
        wal_bytes,
        sent,
        received,
        ..
    } = stats;
    Ok(One {
        database: file.to_owned(),
        remote,
        busy,
        revision,
        unpushed,
        push_open: is_push_open,
        conflicts,
        wal_bytes,
        last_push: stats.last_push.map(Timestamp::from_millis),
        last_pull: stats.last_pull.map(Timestamp::from_millis),
        sent_bytes: sent,
        received_bytes: received,
        client_id,
    })
}

impl Report for Status {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        for (i, one) in self.databases.iter().enumerate() {
            if i > 0 {
                writeln!(out)?;
            }
            let or = |text: Option<String>, none: &str| text.unwrap_or_else(|| none.to_owned());
            let when = |at: Option<Timestamp>| or(at.map(show), "never");
            let mut unpushed = or(one.unpushed.map(|n| n.to_string()), "not known");
            if one.busy {
                unpushed = "not known: another process syncs it at this moment".into();
            }
            if one.push_open {
                unpushed += " (the answer to a push was lost: the next sync finds out)";
            }
            write_fields(
                out,
                &[
                    ("database", one.database.display().to_string()),
                    ("remote", or(one.remote.clone(), "none")),
                    ("revision", or(one.revision.clone(), "none")),
                    ("changes to push", unpushed),
                    ("last push", when(one.last_push)),
                    ("last pull", when(one.last_pull)),
                    ("conflicts", one.conflicts.to_string()),
                    ("WAL", Bytes(one.wal_bytes).to_string()),
                    ("sent", Bytes(one.sent_bytes).to_string()),
                    ("received", Bytes(one.received_bytes).to_string()),
                ],
            )?;
        }
        Ok(())
    }
}
