//! `aquifer restore NAME_OR_PATH -o FILE`

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use aquifer_format::{GenerationId, Revision, Timestamp};
use aquifer_log::store::Patience;
use aquifer_log::{DatabaseName, DatabaseStore, LogError, StoreError};
use aquifer_migrate::Origin;
use aquifer_replicate::follow::{FollowBuilder, FollowEvent, Followed};
use aquifer_replicate::restore::{Existing, Outcome, Phase, RestoreError, Restored, Restorer};
use clap::Args;
use serde::Serialize;

use crate::commands::foreign::{self, Foreign};
use crate::error::CliError;
use crate::exit::Exit;
use crate::moment::Moment;
use crate::output::Report;
use crate::session::Session;
use crate::time::show;
use crate::units::{Bytes, Length, count};

/// Restore a database into a file, at its newest revision or at any other
///
/// Every page is verified before the file appears: it is there whole, or not at all.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Restore {
    /// The database: its name, or the path of the file that was replicated; with --from the URL of the backup
    #[arg(value_name = "NAME_OR_PATH")]
    name: String,

    /// The file to make
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// The database's name, whatever NAME_OR_PATH looks like
    #[arg(long = "name", value_name = "NAME")]
    exact_name: Option<DatabaseName>,

    #[command(flatten)]
    from: Foreign,

    #[command(flatten)]
    moment: Moment,

    /// Do nothing, with success, if the file exists
    #[arg(long, conflicts_with = "force")]
    if_not_exists: bool,

    /// Do nothing, with success, if there is no such database in the store
    #[arg(long)]
    if_replica_exists: bool,

    /// Replace the file if it exists, unless another program has it open
    #[arg(long)]
    force: bool,

    /// Run SQLite's integrity_check as well, before the file appears; checksums are verified always
    #[arg(long)]
    verify: bool,

    /// Keep the file at the newest revision from then on, as a warm standby: others may read it, nobody else write.
    /// Started again, it goes on where it was
    #[arg(long, conflicts_with_all = ["timestamp", "txid", "verify", "if_not_exists", "origin"])]
    follow: bool,

    /// How often --follow looks for something new: one request each time
    #[arg(long, value_name = "LENGTH", default_value = "1s", requires = "follow")]
    follow_interval: Length,

    /// Memory to use at most
    #[arg(long, value_name = "SIZE", default_value = "192MiB")]
    memory_limit: Bytes,
}

#[derive(Debug, Serialize)]
struct Done {
    outcome: &'static str,
    output: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<DatabaseName>,
    #[serde(flatten)]
    restored: Option<Facts>,
}

#[derive(Debug, Serialize)]
struct Facts {
    revision: Revision,
    pages: u32,
    page_size: u32,
    checksum: String,
    last_commit: Timestamp,
    segments: usize,
    integrity_checked: bool,
    skipped: Vec<GenerationId>,
    bytes_fetched: u64,
    requests: u64,
    duration_ms: u128,
}

/// A step of a standby, one JSON line each.
#[derive(Debug, Serialize)]
struct Step {
    revision: Revision,
    last_commit: Timestamp,
    pages_written: u32,
    /// Why it was compared with a whole restored image, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    restored_because: Option<String>,
}

impl From<&Followed> for Step {
    fn from(followed: &Followed) -> Step {
        Step {
            revision: followed.revision,
            last_commit: followed.last_commit,
            pages_written: followed.pages_written,
            restored_because: followed.restored_because.clone(),
        }
    }
}

impl Report for Step {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let Step { revision, pages_written, .. } = self;
        writeln!(
            out,
            "at txid {} of generation {}, last commit {}: {}",
            revision.txid,
            revision.generation,
            show(self.last_commit),
            count(u64::from(*pages_written), "page")
        )
    }
}

impl Facts {
    fn of(restored: Restored, integrity_checked: bool) -> Facts {
        Facts {
            revision: restored.revision,
            pages: restored.pages,
            page_size: restored.page_size.get(),
            checksum: restored.checksum.to_string(),
            last_commit: restored.last_commit,
            segments: restored.segments,
            integrity_checked,
            skipped: restored.skipped,
            bytes_fetched: restored.bytes_fetched,
            requests: restored.requests,
            duration_ms: restored.duration.as_millis(),
        }
    }
}

impl Restore {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        if self.follow {
            return self.follow(session).await;
        }
        if let Some(origin) = self.from.origin {
            let done = self.restore_from(session, origin).await?;
            session.output.print(&done)?;
            if done.is_restored() {
                foreign::next::after_restore(session, origin, &self.name, &self.output);
            }
            return Ok(Exit::Ok);
        }
        session.output.print(&self.restore(session).await?)?;
        Ok(Exit::Ok)
    }

    /// Until interrupted, or an error that waiting does not mend.
    async fn follow(&self, session: &Session) -> Result<Exit, CliError> {
        aquifer_sqlite::check_build().map_err(CliError::Build)?;
        let database = match self.database(session).await {
            Err(e) if self.if_replica_exists && is_no_replica(&e) => {
                let (outcome, output) = ("no-replica", self.output.clone());
                session.output.print(&Done { outcome, output, name: None, restored: None })?;
                return Ok(Exit::Ok);
            }
            database => database?,
        };
        let name = database.name();
        let mut builder = FollowBuilder::new(database.store().clone(), name.clone(), &self.output)
            .existing(if self.force { Existing::Replace } else { Existing::Refuse })
            .memory_limit(self.memory_limit())
            .progress(show_progress(session, name));
        if let Some(generation) = self.moment.generation()? {
            builder = builder.generation(generation);
        }
        let mut follower = builder.start().await?;
        session.remark(&format!(
            "following '{name}' into {}, at {}",
            self.output.display(),
            follower.revision()
        ));
        let ended = follower.run(self.follow_interval.0, |event| match event {
            FollowEvent::Followed(followed) => {
                // Nobody may be listening any more: the standby is what matters.
                if let Err(error) = session.output.print_line(&Step::from(followed)) {
                    tracing::warn!(%error, "a step could not be told");
                }
            }
            FollowEvent::Waiting(error) => tracing::warn!(%error, "cannot follow at the moment"),
            _ => {}
        });
        match ended.await {
            Err(error) => Err(error.into()),
            Ok(never) => match never {},
        }
    }

    /// A backup that another program made.
    async fn restore_from(
        &self,
        session: &Session,
        origin: Origin,
    ) -> Result<foreign::restore::Done, CliError> {
        let source = (origin, self.name.as_str());
        let restored = self
            .from
            .restore(session, source, &self.moment, &self.output, self.existing(), self.verify)
            .await;
        match restored {
            Err(CliError::Migrate(e)) if self.if_replica_exists && e.is_no_backup() => {
                Ok(foreign::restore::Done::no_replica(&self.output))
            }
            restored => restored,
        }
    }

    fn existing(&self) -> Existing {
        match (self.force, self.if_not_exists) {
            (true, _) => Existing::Replace,
            (_, true) => Existing::Keep,
            _ => Existing::Refuse,
        }
    }

    fn memory_limit(&self) -> usize {
        usize::try_from(self.memory_limit.0).unwrap_or(usize::MAX)
    }

    async fn restore(&self, session: &Session) -> Result<Done, CliError> {
        let done = |outcome, name, restored| Done { outcome, output: self.output.clone(), name, restored };
        // Before the store is asked: it need not be there then.
        if self.if_not_exists && self.output.exists() {
            return Ok(done("kept", None, None));
        }
        if self.moment.timestamp.is_some_and(|moment| moment > Timestamp::now()) {
            session.remark("--timestamp is in the future: what is newest now is restored");
        }
        let database = match self.database(session).await {
            Err(e) if self.if_replica_exists && is_no_replica(&e) => {
                return Ok(done("no-replica", None, None));
            }
            database => database?,
        };
        let name = Some(database.name().clone());
        match self.restorer(session, &database)?.restore().await.map_err(CliError::from) {
            Ok(Outcome::Restored(restored)) => {
                Ok(done("restored", name, Some(Facts::of(restored, self.verify))))
            }
            Ok(Outcome::Kept) => Ok(done("kept", name, None)),
            Err(e) if self.if_replica_exists && is_no_replica(&e) => Ok(done("no-replica", name, None)),
            Err(e) => Err(e),
        }
    }

    async fn database(&self, session: &Session) -> Result<DatabaseStore, CliError> {
        match &self.exact_name {
            Some(name) => {
                let store = session.store()?.with_patience(Patience::BACKGROUND);
                Ok(DatabaseStore::new(store, name.clone()))
            }
            None => session.patient_database(&self.name).await,
        }
    }

    fn restorer(&self, session: &Session, database: &DatabaseStore) -> Result<Restorer, CliError> {
        let restorer = Restorer::new(database.store().clone(), database.name().clone(), &self.output)
            .existing(self.existing())
            .target(self.moment.target())
            .integrity_check(self.verify)
            .memory_limit(self.memory_limit())
            .progress(show_progress(session, database.name()));
        Ok(match self.moment.generation()? {
            Some(generation) => restorer.generation(generation),
            None => restorer,
        })
    }
}

/// A listener that shows a restore's progress for as long as the restorer keeps it.
pub(crate) fn show_progress(
    session: &Session,
    name: &DatabaseName,
) -> impl Fn(aquifer_replicate::restore::Progress) + Send + Sync + 'static {
    let progress = Arc::new(session.progress(&format!("restore {name}")));
    let name = name.clone();
    move |now| {
        match now.phase {
            Phase::Sync => progress.phase(&format!("restore {name}: flush to disk")),
            Phase::Check => progress.phase(&format!("restore {name}: integrity_check")),
            _ => {}
        }
        progress.set(now.bytes_done, now.bytes_total);
    }
}

/// Whether there is nothing to restore from, rather than something wrong with it.
pub(crate) fn is_no_replica(error: &CliError) -> bool {
    let no_store = |e: &LogError| matches!(e, LogError::Store(StoreError::NoStore { .. }));
    match error {
        CliError::NoDatabase { .. } | CliError::Store(StoreError::NoStore { .. }) => true,
        CliError::Log(e) => no_store(e),
        CliError::Restore(e) => match &**e {
            RestoreError::Log(e) => no_store(e),
            RestoreError::Plan(e) => e.is_no_replica(),
            _ => false,
        },
        _ => false,
    }
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let output = self.output.display();
        let Some(facts) = &self.restored else {
            return match self.outcome {
                "kept" => writeln!(out, "{output} exists already: nothing was done"),
                _ => writeln!(out, "there is no replica to restore from: nothing was done"),
            };
        };
        let name = self.name.as_ref().map(ToString::to_string).unwrap_or_default();
        writeln!(
            out,
            "restored '{name}' to {output}: txid {} of generation {}, last commit {}",
            facts.revision.txid,
            facts.revision.generation,
            show(facts.last_commit)
        )?;
        for generation in &facts.skipped {
            writeln!(out, "generation {generation} was passed over: nothing of it ever became durable")?;
        }
        let size = u64::from(facts.pages) * u64::from(facts.page_size);
        let millis = u64::try_from(facts.duration_ms).unwrap_or(u64::MAX);
        writeln!(
            out,
            "{} from {} in {}, {}; all checksums verified{}",
            Bytes(size),
            Bytes(facts.bytes_fetched),
            count(facts.segments as u64, "segment"),
            Length(std::time::Duration::from_millis(millis)),
            if facts.integrity_checked { ", integrity_check ok" } else { "" }
        )
    }
}
