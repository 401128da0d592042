//! `aquifer import FILE NAME`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aquifer_log::{DatabaseName, Store};
use aquifer_server::hosted::import::{ImportError, Imported, import};
use clap::Args;
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use crate::commands::foreign::import::Which;
use crate::commands::foreign::{self, Foreign};
use crate::error::CliError;
use crate::exit::Exit;
use crate::fencing::Fencing;
use crate::output::Report;
use crate::session::Session;
use crate::units::Bytes;

/// Pages copied at a time; others may write in between.
const PAGES: i32 = 1024;

/// Make a database of an SQLite file: from then on the store's is the one to use
///
/// The file stays as it is, and may be in use: what is committed when the copy is made is imported. With --from a backup
/// of another program is imported, with the moments that it can be restored to. A database of that name is never overwritten. To keep replicating a file that applications go on writing to, use `replicate`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file; with --from the URL of the backup
    file: PathBuf,

    /// The database's name in the store
    name: DatabaseName,

    #[command(flatten)]
    from: Foreign,

    /// With --from: this generation [default: the newest]
    #[arg(short, long, value_name = "ID", requires = "origin")]
    generation: Option<String>,

    /// With --from: the generations before the newest, too, each as one of the database, so that any moment of them can be
    /// restored. One that cannot be read is left out, and told
    #[arg(long, requires = "origin", conflicts_with = "generation")]
    all_generations: bool,

    /// Take pages of other sizes than 4096 bytes, too, which sync clients cannot use
    #[arg(long)]
    any_page_size: bool,

    /// Where the copy is made
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Done {
    name: DatabaseName,
    store: String,
    #[serde(flatten)]
    imported: Imported,
}

impl Import {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        aquifer_sqlite::check_build().map_err(CliError::Build)?;
        let store = self.store(session).await?;
        let temp_dir = self.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        if let Some(origin) = self.from.origin {
            let url = self.file.to_str().ok_or_else(|| CliError::Usage("a URL is UTF-8".to_owned()))?;
            let (to, which) = ((store, &self.name), self.which());
            let imported = self.from.import(session, (origin, url), to, which, &temp_dir, self.any_page_size);
            session.output.print(&imported.await?)?;
            foreign::next::after_import(session, &self.name);
            return Ok(Exit::Ok);
        }
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| CliError::File { action, path, source }
        };
        std::fs::metadata(&self.file).map_err(failed("read", &self.file))?;
        let scratch = tempfile::Builder::new().prefix("aquifer-import-").tempdir_in(&temp_dir);
        let scratch = scratch.map_err(failed("write to", &temp_dir))?;
        let (from, to) = (self.file.clone(), scratch.path().join("db.sqlite"));
        let copied = to.clone();
        let copying = tokio::task::spawn_blocking(move || copy(&from, &copied)).await;
        copying.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())).map_err(|e| {
            CliError::Import {
                file: self.file.clone(),
                source: Box::new(ImportError::NotADatabase(e.to_string())),
            }
        })?;
        let imported = import(&store, &self.name, &to, self.any_page_size).await;
        let imported = imported
            .map_err(|source| CliError::Import { file: self.file.clone(), source: Box::new(source) })?;
        let store = store.url().to_owned();
        session.output.print(&Done { name: self.name.clone(), store, imported })?;
        Ok(Exit::Ok)
    }
}

impl Import {
    fn which(&self) -> Which<'_> {
        match &self.generation {
            Some(generation) => Which::This(generation),
            None if self.all_generations => Which::All,
            None => Which::Newest,
        }
    }

    async fn store(&self, session: &Session) -> Result<Store, CliError> {
        let store = session.store()?;
        if Fencing::probe(&store).await?.fenced {
            return Ok(store);
        }
        let url = store.url();
        session.remark(&format!(
            "{url} does not keep two writers apart: nobody else may make '{}' now",
            self.name
        ));
        Ok(store.unfenced())
    }
}

/// Copies a database as it is at this moment, whoever has it open.
fn copy(from: &Path, to: &Path) -> Result<(), rusqlite::Error> {
    let from = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut to = Connection::open(to)?;
    Backup::new(&from, &mut to)?.run_to_completion(PAGES, std::time::Duration::ZERO, None)
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let Imported { revision, pages, page_size } = &self.imported;
        let size = Bytes(u64::from(*pages) * u64::from(*page_size));
        writeln!(
            out,
            "'{}' is in {} ({size}) at txid {} of generation {}",
            self.name, self.store, revision.txid, revision.generation
        )
    }
}
