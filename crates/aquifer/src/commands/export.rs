//! `aquifer export NAME URL --format litestream`

use std::io::{self, Write};
use std::path::PathBuf;

use aquifer_format::{Revision, Txid};
use aquifer_log::store::{Patience, StoreUrl};
use aquifer_log::{DatabaseName, Store};
use aquifer_migrate::Exporter;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::error::CliError;
use crate::exit::Exit;
use crate::moment::Moment;
use crate::output::Report;
use crate::session::Session;
use crate::units::{Bytes, count};

/// Write a database where another program restores it from
///
/// Nothing is overwritten: only earlier exports may be there, and stay.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The database: its name, or the path of its file
    #[arg(value_name = "NAME_OR_PATH")]
    name: String,

    /// Where to: a directory, or the URL of a bucket with the path of the replica
    url: StoreUrl,

    /// For which program
    #[arg(long, value_enum)]
    format: ExportFormat,

    #[command(flatten)]
    moment: Moment,

    /// With what is still kept of the generation before that moment: each batch is one that can be restored. The place must be
    /// empty
    #[arg(long)]
    history: bool,

    /// Where a copy of the database is made meanwhile [default: the system's]
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExportFormat {
    /// A replica that Litestream 0.5 restores
    Litestream,
}

#[derive(Debug, Serialize)]
struct Done {
    name: DatabaseName,
    url: String,
    format: &'static str,
    revision: Revision,
    pages: u32,
    page_size: u32,
    object: String,
    oldest: Txid,
    increments: u64,
    bytes: u64,
}

impl Export {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let ExportFormat::Litestream = self.format;
        let database = session.patient_database(&self.name).await?;
        let to = Store::open(&self.url)?.with_patience(Patience::BACKGROUND);
        let url = to.url().to_owned();
        let name = database.name().clone();
        let temp_dir = self.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        let mut exporter = Exporter::new(database, to).target(self.moment.target());
        exporter = exporter.history(self.history).temp_dir(temp_dir);
        if let Some(generation) = self.moment.generation()? {
            exporter = exporter.generation(generation);
        }
        let progress = session.progress(&format!("export {name}"));
        let exported = exporter.export().await;
        progress.finish();
        let exported = exported?;
        session.output.print(&Done {
            name,
            url,
            format: "litestream",
            revision: exported.revision,
            pages: exported.pages,
            page_size: exported.page_size,
            object: exported.key.to_string(),
            oldest: exported.oldest,
            increments: exported.increments,
            bytes: exported.bytes,
        })?;
        Ok(Exit::Ok)
    }
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "exported '{}' at txid {} of generation {} to {} ({}): {} as {}",
            self.name,
            self.revision.txid,
            self.revision.generation,
            self.url,
            self.object,
            Bytes(u64::from(self.pages) * u64::from(self.page_size)),
            Bytes(self.bytes)
        )?;
        if self.increments > 0 {
            let increments = count(self.increments, "increment");
            writeln!(
                out,
                "the snapshot is of txid {}, and {increments} lead from there to txid {}",
                self.oldest, self.revision.txid
            )?;
        }
        Ok(())
    }
}
