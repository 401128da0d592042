//! `aquifer import --from ORIGIN URL NAME`

use std::io::{self, Write};
use std::path::Path;

use aquifer_format::{PageSize, Revision, Timestamp};
use aquifer_log::{DatabaseName, DatabaseStore, Store};
use aquifer_migrate::{ImportedGeneration, Importer, Origin};
use serde::Serialize;

use super::Foreign;
use crate::error::CliError;
use crate::output::Report;
use crate::session::Session;
use crate::time::show;
use crate::units::{Bytes, count};

#[derive(Debug, Serialize)]
pub(crate) struct Done {
    name: DatabaseName,
    store: String,
    #[serde(flatten)]
    newest: Generation,
    /// Those before it, newest first.
    older: Vec<Generation>,
    left_out: Vec<LeftOut>,
    /// Generations before the newest that were not asked for.
    not_imported: usize,
}

/// A generation that was imported.
#[derive(Debug, Serialize)]
struct Generation {
    revision: Revision,
    pages: u32,
    page_size: u32,
    format: &'static str,
    database: String,
    #[serde(rename = "generation", skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    batches: u64,
    first_commit: Timestamp,
    last_commit: Timestamp,
    bytes_fetched: u64,
}

/// What could not be read.
#[derive(Debug, Serialize)]
struct LeftOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    reason: String,
}

/// Which generations are imported.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    Newest,
    This(&'a str),
    All,
}

impl Foreign {
    /// Makes a database of a backup, with its history.
    pub(crate) async fn import(
        &self,
        session: &Session,
        (origin, url): (Origin, &str),
        (store, name): (Store, &DatabaseName),
        which: Which<'_>,
        temp_dir: &Path,
        any_page_size: bool,
    ) -> Result<Done, CliError> {
        let to = DatabaseStore::new(store.clone(), name.clone());
        let mut importer = Importer::new(Foreign::store(url)?, origin, to).temp_dir(temp_dir);
        if let Some(database) = &self.database {
            importer = importer.database(database);
        }
        importer = match which {
            Which::Newest => importer,
            Which::This(generation) => importer.generation(generation),
            Which::All => importer.all_generations(true),
        };
        if !any_page_size {
            importer = importer.only_page_size(PageSize::DEFAULT);
        }
        let progress = session.progress(&format!("import {url}"));
        let imported = importer.import().await;
        progress.finish();
        let imported = imported?;
        for left_out in &imported.left_out {
            let generation = left_out.generation.as_deref().unwrap_or("-");
            session.remark(&format!("left out, of generation {generation}: {}", left_out.reason));
        }
        if imported.not_imported > 0 {
            let (are, them) = if imported.not_imported == 1 { ("is", "it") } else { ("are", "them") };
            session.remark(&format!(
                "{} {are} not imported: to have {them}, too, import with --all-generations, under another name",
                count(imported.not_imported as u64, "older generation"),
            ));
        }
        let left_out = imported.left_out.into_iter();
        Ok(Done {
            name: name.clone(),
            store: store.url().to_owned(),
            newest: Generation::of(&imported.newest),
            older: imported.older.iter().map(Generation::of).collect(),
            left_out: left_out
                .map(|left_out| LeftOut {
                    generation: left_out.generation,
                    reason: left_out.reason.to_string(),
                })
                .collect(),
            not_imported: imported.not_imported,
        })
    }
}

impl Generation {
    fn of(imported: &ImportedGeneration) -> Generation {
        Generation {
            revision: imported.revision,
            pages: imported.pages,
            page_size: imported.page_size,
            format: imported.backup.format().name(),
            database: imported.backup.database().to_owned(),
            origin: imported.backup.generation().map(str::to_owned),
            batches: imported.batches,
            first_commit: imported.first_commit,
            last_commit: imported.last_commit,
            bytes_fetched: imported.bytes_fetched,
        }
    }
}

/// How many moments, of when, and what was read for them.
fn moments(generations: &[Generation]) -> String {
    let first = generations.iter().map(|generation| generation.first_commit).min();
    let last = generations.iter().map(|generation| generation.last_commit).max();
    let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
    let batches = generations.iter().map(|generation| generation.batches).sum();
    let read = Bytes(generations.iter().map(|generation| generation.bytes_fetched).sum());
    format!("{} from {} to {}, read from {read}", count(batches, "moment"), show(first), show(last))
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let Generation { revision, pages, page_size, format, .. } = &self.newest;
        let size = Bytes(u64::from(*pages) * u64::from(*page_size));
        writeln!(
            out,
            "'{}' is in {} ({size}) at txid {} of generation {}",
            self.name, self.store, revision.txid, revision.generation
        )?;
        let newest = moments(std::slice::from_ref(&self.newest));
        writeln!(out, "from {format}: {newest}; all proven, integrity_check ok")?;
        if self.older.is_empty() {
            return Ok(());
        }
        let older = count(self.older.len() as u64, "older generation");
        writeln!(out, "and {older}: {}; all proven, too", moments(&self.older))
    }
}
