//! `aquifer sync`

mod report;
mod status;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use aquifer_client::{Builder, Database, Error, Synced, WatchEvent};
use clap::{Args, Subcommand};
use futures::future::join_all;
use tokio::time::sleep;

use crate::error::{CliError, Told};
use crate::exit::Exit;
use crate::session::Session;
use crate::signals::{SIGTERM, Signals};

use report::Report;
pub(crate) use target::Spoken;
use target::{Remote, Target};

/// Time between two tries to fetch a database for the first time, while the server cannot be reached.
const AGAIN: Duration = Duration::from_secs(5);

/// Keep databases in sync with a server's: push what was changed here, pull what was changed elsewhere
///
/// Applications use FILE as before, through ordinary connections, with or without a network. Where there is no FILE yet
/// it is fetched. Without FILE: those of the configuration file. That the server cannot be reached is told, and no
/// failure.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Sync {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Databases
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    remote: Remote,

    /// Stay in sync: push within a second what is committed here, and wait for what is new on the server
    #[arg(long)]
    watch: bool,

    /// Fail (code 6) when the server cannot be reached
    #[arg(long, conflicts_with = "watch")]
    require_online: bool,

    #[command(flatten)]
    direction: Direction,

    #[command(flatten)]
    beginning: Beginning,
}

#[derive(Debug, Args)]
struct Direction {
    /// Pull only what has to be known in order to push
    #[arg(long, conflicts_with_all = ["pull_only", "watch"])]
    push_only: bool,

    /// Push nothing
    #[arg(long, conflicts_with = "watch")]
    pull_only: bool,
}

/// What a database and a remote one have to do with each other.
#[derive(Debug, Args)]
struct Beginning {
    /// Add the rows of FILE to a remote database that has content of its own
    #[arg(long)]
    merge: bool,

    /// Where there is no FILE, begin with an empty database instead of fetching the server's first
    #[arg(long)]
    deferred: bool,

    /// The remote database is the one that FILE is a copy of, under a new URL
    #[arg(long)]
    moved: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell what there is to be pushed, and when was synced last; asks no server
    Status {
        /// Databases; without any, those of the configuration file
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

impl Sync {
    /// Whether it runs until it is told to end.
    pub(crate) fn is_watch(&self) -> bool {
        self.watch
    }

    pub(crate) async fn run(self, session: &Session) -> Result<Exit, CliError> {
        if let Some(Verb::Status { files }) = self.verb {
            let files = target::files(files, &session.settings.synced)?;
            return status::run(session, &files).await;
        }
        let files = target::files(self.files.clone(), &session.settings.synced)?;
        let targets = self.remote.targets(files, &session.settings.synced)?;
        let failed = |error: CliError| {
            Told::of(&error).note(session.output.json);
            error.exit()
        };
        let mut exits = Vec::new();
        if self.watch {
            let watched = targets.iter().map(async |target| failed(self.watch(session, target).await));
            let mut signals = Signals::listen()?;
            tokio::select! {
                ended = join_all(watched) => exits.extend(ended),
                // How services are ended.
                number = signals.next() => {
                    return Ok(if number == SIGTERM { Exit::Ok } else { Exit::Signal(number) });
                }
            }
        } else {
            for target in &targets {
                exits.push(self.sync(session, target).await.unwrap_or_else(failed));
            }
        }
        Ok(exits.into_iter().find(|exit| *exit != Exit::Ok).unwrap_or(Exit::Ok))
    }

    async fn sync(&self, session: &Session, target: &Target) -> Result<Exit, CliError> {
        let database = self.open(session, target).await?;
        let synced = if self.direction.push_only {
            told(database.push().await)
        } else if self.direction.pull_only {
            told(database.pull().await)
        } else {
            database.sync().await
        };
        let synced = synced.map_err(target.failed())?;
        session.output.print_line(&Report::of(target, &synced))?;
        Ok(if self.require_online && synced.offline.is_some() { Exit::Unavailable } else { Exit::Ok })
    }

    /// Until something is wrong that does not pass.
    async fn watch(&self, session: &Session, target: &Target) -> CliError {
        // Who reads the events may be gone: the database is to stay in sync all the same.
        let tell = |report: &Report| drop(session.output.print_line(report));
        let database = loop {
            match self.open(session, target).await {
                Ok(database) => break database,
                Err(CliError::Sync { source, .. }) if matches!(&*source, Error::Remote(e) if e.passes()) => {
                    tell(&Report::waiting(target, &source, AGAIN));
                    sleep(AGAIN).await;
                }
                Err(error) => return error,
            }
        };
        let watched = database.watch(|event| match event {
            WatchEvent::Synced(synced) => tell(&Report::of(target, synced)),
            WatchEvent::Waiting(error, again) => tell(&Report::waiting(target, error, again)),
            _ => {}
        });
        match watched.await {
            Err(error) => target.failed()(error),
            Ok(never) => match never {},
        }
    }

    /// Opens the database; fetches it first where it is not there.
    async fn open(&self, session: &Session, target: &Target) -> Result<Database, CliError> {
        let progress = session.progress(&format!("fetching {}", target.path.display()));
        let mut builder = Builder::new(&target.path)
            .remote(&target.remote)
            .remote_options(target.options()?)
            .tables_ignore(&target.ignore_tables)
            .protocol(target.protocol)
            .on_bootstrap(move |so_far| {
                let bytes = |pages: u64| pages * u64::from(so_far.page_size);
                progress.set(bytes(so_far.received), bytes(so_far.pages));
            });
        if let Some(rows) = target.push_batch_rows {
            builder = builder.push_batch_rows(rows);
        }
        if self.beginning.merge {
            builder = builder.merge();
        }
        if self.beginning.deferred {
            builder = builder.deferred();
        }
        if self.beginning.moved {
            builder = builder.moved();
        }
        builder.open().await.map_err(target.failed())
    }
}

/// The same as a whole sync says it.
fn told(done: aquifer_client::Result<Synced>) -> aquifer_client::Result<Synced> {
    match done {
        Err(Error::Remote(error)) if error.is_offline() => {
            let mut synced = Synced::default();
            synced.offline = Some(error.into());
            Ok(synced)
        }
        done => done,
    }
}
