//! `aquifer import --from ORIGIN URL NAME`

use std::io::{self, Write};
use std::path::Path;

use aquifer_format::{PageSize, Revision, Timestamp};
use aquifer_log::{DatabaseName, DatabaseStore, Store};
use aquifer_migrate::{Importer, Origin};
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
    revision: Revision,
    pages: u32,
    page_size: u32,
    format: &'static str,
    database: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    batches: u64,
    first_commit: Timestamp,
    last_commit: Timestamp,
    bytes_fetched: u64,
}

impl Foreign {
    /// Makes a database of a backup, with its history.
    pub(crate) async fn import(
        &self,
        session: &Session,
        (origin, url): (Origin, &str),
        (store, name): (Store, &DatabaseName),
        generation: Option<&str>,
        temp_dir: &Path,
        any_page_size: bool,
    ) -> Result<Done, CliError> {
        let to = DatabaseStore::new(store.clone(), name.clone());
        let mut importer = Importer::new(Foreign::store(url)?, origin, to).temp_dir(temp_dir);
        if let Some(database) = &self.database {
            importer = importer.database(database);
        }
        if let Some(generation) = generation {
            importer = importer.generation(generation);
        }
        if !any_page_size {
            importer = importer.only_page_size(PageSize::DEFAULT);
        }
        let progress = session.progress(&format!("import {url}"));
        let imported = importer.import().await;
        progress.finish();
        let imported = imported?;
        Ok(Done {
            name: name.clone(),
            store: store.url().to_owned(),
            revision: imported.revision,
            pages: imported.pages,
            page_size: imported.page_size,
            format: imported.backup.format().name(),
            database: imported.backup.database().to_owned(),
            generation: imported.backup.generation().map(str::to_owned),
            batches: imported.batches,
            first_commit: imported.first_commit,
            last_commit: imported.last_commit,
            bytes_fetched: imported.bytes_fetched,
        })
    }
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let size = Bytes(u64::from(self.pages) * u64::from(self.page_size));
        writeln!(
            out,
            "'{}' is in {} ({size}) at txid {} of generation {}",
            self.name, self.store, self.revision.txid, self.revision.generation
        )?;
        writeln!(
            out,
            "from {}: {} from {} to {}, read from {}; all proven, integrity_check ok",
            self.format,
            count(self.batches, "moment"),
            show(self.first_commit),
            show(self.last_commit),
            Bytes(self.bytes_fetched)
        )
    }
}
