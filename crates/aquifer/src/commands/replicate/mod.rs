//! `aquifer replicate FILE… [-- command …]`

mod child;
mod discovery;
mod health;
mod once;
mod roster;
mod run;
mod verifier;

use std::ffi::OsString;
use std::path::PathBuf;

use aquifer_log::{DatabaseName, Store};
use aquifer_replicate::{ReplicaOptions, Replicator};
use clap::Args;

use crate::config::{DatabaseEntry, DatabaseSettings, DirectoryEntry, ReplicateSettings};
use crate::error::CliError;
use crate::exit::Exit;
use crate::fencing::Fencing;
use crate::session::Session;
use crate::units::Length;
use roster::Roster;

/// Replicate databases into the store, for as long as it runs
///
/// With a command after --, databases that are missing are restored first, the command is run, what it wrote is
/// shipped when it ends, and its exit code is passed on.
#[derive(Debug, Args)]
pub(crate) struct Replicate {
    /// Database files; directories, whose databases are replicated, new ones too; or patterns such as 'data/*.db'
    /// (quoted) [default: those of the configuration file]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Ship what there is, and end
    #[arg(long, conflicts_with = "command")]
    once: bool,

    /// With --once: give up, with code 6, when the store has been away for so long
    #[arg(long, value_name = "LENGTH", default_value = "30s", requires = "once")]
    give_up_after: Length,

    /// The database's name in the store, if there is one FILE [default: the file's name]
    #[arg(long, value_name = "NAME")]
    name: Option<DatabaseName>,

    /// Leave out files of these names in directories and patterns, as in 'tmp-*'
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Begin a new generation even where the newest can be continued
    #[arg(long)]
    new_generation: bool,

    #[command(flatten)]
    flags: ReplicateSettings,

    /// A command to run meanwhile
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What to replicate.
#[derive(Debug)]
struct Sources {
    databases: Vec<DatabaseEntry>,
    directories: Vec<DirectoryEntry>,
}

impl Replicate {
    /// Whether it ends by itself.
    pub(crate) fn is_once(&self) -> bool {
        self.once
    }

    /// What the command line says about replication.
    pub(crate) fn flags(&self) -> ReplicateSettings {
        self.flags.clone()
    }

    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        aquifer_sqlite::check_build().map_err(CliError::Build)?;
        let sources = self.sources(session)?;
        if self.once {
            return once::ship(self, session, &sources).await;
        }
        run::replicate(self, session, sources).await
    }

    /// The files of the command line, or else those of the configuration file.
    fn sources(&self, session: &Session) -> Result<Sources, CliError> {
        let usage = |message: &str| Err(CliError::Usage(message.to_owned()));
        let mut sources = Sources { databases: Vec::new(), directories: Vec::new() };
        if self.files.is_empty() {
            sources.databases.clone_from(&session.settings.databases);
            sources.directories.clone_from(&session.settings.directories);
        }
        for path in self.files.iter().cloned() {
            let own = DatabaseSettings::default();
            if discovery::is_pattern(&path) || path.is_dir() {
                let exclude = self.exclude.clone();
                sources.directories.push(DirectoryEntry { path, exclude, own });
            } else {
                sources.databases.push(DatabaseEntry { path, name: None, own });
            }
        }
        if let Some(name) = &self.name {
            match (&mut sources.databases[..], &sources.directories[..]) {
                ([only], []) => only.name = Some(name.to_string()),
                _ => return usage("--name names one database: give one FILE"),
            }
        }
        if sources.databases.is_empty() && sources.directories.is_empty() {
            return usage("nothing to replicate: name a FILE, or a configuration file with databases");
        }
        Ok(sources)
    }

    /// The replicator, with no databases yet.
    async fn replicator(&self, session: &Session) -> Result<Replicator, CliError> {
        let store = fit_for_writing(session.store()?, session, self.once).await?;
        let mut builder = Replicator::builder(store);
        if let Some(requests) = session.settings.replicate.process.max_requests_per_hour {
            builder = builder.max_requests_per_hour(requests);
        }
        Ok(builder.start())
    }

    /// Adds a database, as its settings say.
    fn add(
        &self,
        replicator: &Replicator,
        roster: &Roster,
        session: &Session,
        database: &DatabaseEntry,
    ) -> Result<DatabaseName, CliError> {
        let name = database_name(database)?;
        let settings = session.settings.of(&database.own);
        replicator.add_with(&database.path, Some(name.clone()), self.options(&settings, &name))?;
        roster.note(&name, &settings);
        Ok(name)
    }

    fn options(&self, settings: &DatabaseSettings, name: &DatabaseName) -> ReplicaOptions {
        let (new_generation, upkeep) = (self.new_generation, settings.upkeep());
        let mut options = ReplicaOptions { new_generation, upkeep, ..ReplicaOptions::default() };
        if let Some(interval) = settings.interval {
            options.interval = interval.0;
        }
        if let Some(wal) = settings.wal {
            options.switch_to_wal = wal;
        }
        if let Some(most) = settings.max_staging {
            options.max_staging = most.0;
        }
        // One directory per database, also where they share a parent.
        options.state_dir = settings.state_dir.as_ref().map(|parent| parent.join(name.to_component()));
        options
    }
}

/// The name that was given, or that of the file.
fn database_name(database: &DatabaseEntry) -> Result<DatabaseName, CliError> {
    let name = match &database.name {
        Some(name) => name.clone(),
        None => database.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    name.parse().map_err(|e: aquifer_log::DatabaseNameError| {
        CliError::Usage(format!("{}: {e}: give it a name with --name", database.path.display()))
    })
}

/// Finds out whether the store keeps writers apart, and works without if not: loudly.
async fn fit_for_writing(store: Store, session: &Session, once: bool) -> Result<Store, CliError> {
    // The promise is one of the store's software: an outage at the start does not change it. Who ships once is told.
    let found = match Fencing::probe(&store).await {
        Err(e) if e.is_transient() && !once => {
            tracing::warn!(error = %e, "the store cannot be reached yet; going on");
            return Ok(store);
        }
        found => found?,
    };
    if found.fenced {
        return Ok(store);
    }
    session.remark(
        "warning: this store does not keep two writers of one database apart (`aquifer doctor` tells more): make \
         sure that there is only one",
    );
    tracing::warn!(store = store.url(), "the store does not honour put-if-absent: writers are not fenced");
    Ok(store.unfenced())
}
