//! `aquifer compact NAME`

use std::io::{self, Write};

use aquifer_format::{GenerationId, TxidRange};
use aquifer_log::{Compactor, DatabaseName, Level, Levels};
use clap::Args;
use serde::Serialize;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;
use crate::survey::Survey;
use crate::units::{Bytes, count};

/// Compact what is due: runs of small segments become larger ones
///
/// `replicate` does so by itself; this is for replicas that nothing writes to any more. What was compacted stays
/// until retention deletes it.
#[derive(Debug, Args)]
pub(crate) struct Compact {
    /// The database: its name, or the path of its file
    name: String,

    /// Generation to compact [default: the newest]
    #[arg(short, long, value_name = "ID")]
    generation: Option<GenerationId>,

    /// Segments that become one of the next level
    #[arg(long, value_name = "N", default_value_t = Levels::default().fanout, value_parser = clap::value_parser!(u32).range(2..))]
    fanout: u32,
}

#[derive(Debug, Serialize)]
struct Done {
    name: DatabaseName,
    generation: GenerationId,
    segments: Vec<Made>,
}

#[derive(Debug, Serialize)]
struct Made {
    level: Level,
    txids: TxidRange,
    bytes: u64,
}

impl Compact {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let database = session.patient_database(&self.name).await?;
        let generation = session.generation(&database, self.generation).await?.id;
        let survey = Survey::of(&database, generation).await?;
        let levels = Levels { fanout: self.fanout, ..Levels::default() };
        let mut done = Done { name: database.name().clone(), generation, segments: Vec::new() };
        let mut compactor = Compactor::new(database, generation, levels);
        while let Some(head) = survey.newest
            && let Some(written) = compactor.step(head).await?
        {
            // None: another compactor was faster, which is as good.
            if let Some(info) = written.info {
                done.segments.push(Made {
                    level: written.segment.level,
                    txids: written.segment.range,
                    bytes: info.stored_len(),
                });
            }
        }
        session.output.print(&done)?;
        Ok(Exit::Ok)
    }
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let bytes = self.segments.iter().map(|made| made.bytes).sum();
        match self.segments.len() {
            0 => writeln!(out, "'{}': nothing is due", self.name),
            n => writeln!(out, "'{}': made {}, {}", self.name, count(n as u64, "segment"), Bytes(bytes)),
        }
    }
}
