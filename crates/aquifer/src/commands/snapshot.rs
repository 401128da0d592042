//! `aquifer snapshot NAME`

use std::io::{self, Write};

use aquifer_format::{GenerationId, Revision, Txid};
use aquifer_log::{DatabaseName, Target, snapshot};
use clap::Args;
use serde::Serialize;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;
use crate::units::Bytes;

/// Make a snapshot in the store, from what is in the store
///
/// Restores after it are faster, and retention can delete more. The database itself is not touched.
#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// The database: its name, or the path of its file
    name: String,

    /// Generation to make a snapshot of [default: the newest]
    #[arg(short, long, value_name = "ID")]
    generation: Option<GenerationId>,

    /// As of this txid [default: the newest]
    #[arg(long, value_name = "N")]
    txid: Option<Txid>,
}

#[derive(Debug, Serialize)]
struct Done {
    name: DatabaseName,
    revision: Revision,
    /// False if there was one already.
    created: bool,
    /// Of the snapshot, if it was made now.
    bytes: Option<u64>,
}

impl Snapshot {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let database = session.patient_database(&self.name).await?;
        let target = self.txid.map_or(Target::Latest, Target::Txid);
        let made = snapshot(&database, self.generation, target).await?;
        let info = made.written.and_then(|written| written.info);
        session.output.print(&Done {
            name: database.name().clone(),
            revision: made.revision,
            created: info.is_some(),
            bytes: info.map(|info| info.stored_len()),
        })?;
        Ok(Exit::Ok)
    }
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let Done { name, revision, .. } = self;
        match self.bytes {
            Some(bytes) => writeln!(out, "snapshot of '{name}' at {revision}: {}", Bytes(bytes)),
            None => writeln!(out, "'{name}' has a snapshot at {revision} already"),
        }
    }
}
