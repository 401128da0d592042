//! Backups that other programs made: what `--from` means for the commands that take it.

pub(crate) mod import;
mod ls;
pub(crate) mod next;
pub(crate) mod restore;
pub(crate) mod verify;

use std::path::Path;

use aquifer_log::Store;
use aquifer_log::store::{Patience, StoreUrl};
use aquifer_migrate::{Backup, Origin, Restored, Restorer, Target};
use clap::Args;
use serde::Serialize;

use crate::error::CliError;
use crate::moment::Moment;
use crate::session::Session;

/// Where another program's backup is.
#[derive(Debug, Args)]
pub(crate) struct Foreign {
    /// Read a backup of another program at the URL that is given instead of a name: bottomless, litestream, zlayer, or
    /// auto, which finds out by the layout. Nothing is written there
    #[arg(long = "from", value_name = "ORIGIN")]
    pub(crate) origin: Option<Origin>,

    /// With --from: the database, where the URL has backups of several
    #[arg(long, value_name = "NAME", requires = "origin")]
    pub(crate) database: Option<String>,
}

impl Foreign {
    /// The store at that URL, for work that rides out a restart of it.
    fn store(url: &str) -> Result<Store, CliError> {
        let url: StoreUrl =
            url.parse().map_err(|e| CliError::Usage(format!("--from reads from a URL: {e}")))?;
        Ok(Store::open(&url)?.with_patience(Patience::BACKGROUND))
    }

    fn restorer(
        &self,
        url: &str,
        origin: Origin,
        moment: &Moment,
        output: &Path,
    ) -> Result<Restorer, CliError> {
        let mut restorer =
            Restorer::new(Foreign::store(url)?, origin, output).target(match moment.target() {
                aquifer_log::Target::Timestamp(moment) => Target::Timestamp(moment),
                aquifer_log::Target::Txid(txid) => Target::Position(txid.get()),
                aquifer_log::Target::Latest => Target::Latest,
            });
        if let Some(database) = &self.database {
            restorer = restorer.database(database);
        }
        if let Some(generation) = &moment.generation {
            restorer = restorer.generation(generation);
        }
        Ok(restorer)
    }
}

/// Restores while a spinner shows that something is done.
async fn with_progress(
    session: &Session,
    what: &str,
    restorer: Restorer,
) -> Result<Option<Restored>, CliError> {
    let progress = session.progress(what);
    let restored = restorer.restore().await;
    progress.finish();
    Ok(restored?)
}

/// What was read, in JSON.
#[derive(Debug, Serialize)]
struct Facts {
    format: &'static str,
    #[serde(skip)]
    position_name: &'static str,
    database: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    /// Frame, txid or sequence number, as the format counts.
    position: u64,
    pages: u32,
    page_size: u32,
    objects: usize,
    bytes_fetched: u64,
    skipped: Vec<String>,
    integrity_checked: bool,
    duration_ms: u128,
}

impl Facts {
    fn of(restored: Restored) -> Facts {
        Facts {
            format: restored.backup.format().name(),
            position_name: restored.backup.format().position(),
            database: restored.backup.database().to_owned(),
            generation: restored.backup.generation().map(str::to_owned),
            position: restored.position,
            pages: restored.pages,
            page_size: restored.page_size,
            objects: restored.objects,
            bytes_fetched: restored.bytes_fetched,
            skipped: restored.skipped,
            integrity_checked: restored.integrity_checked,
            duration_ms: restored.duration.as_millis(),
        }
    }

    /// The last that is in it, for people.
    fn last(&self) -> String {
        format!("{} {}", self.position_name, self.position)
    }

    /// Which backup, for people.
    fn subject(&self) -> String {
        let name = if self.database.is_empty() { String::new() } else { format!(" '{}'", self.database) };
        match &self.generation {
            Some(generation) => format!("{}{name}, generation {generation}", self.format),
            None => format!("{}{name}", self.format),
        }
    }
}

/// The name that people know a backup by.
fn shown_name(backup: &Backup) -> &str {
    if backup.database().is_empty() { "-" } else { backup.database() }
}
