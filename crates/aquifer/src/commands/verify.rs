//! `aquifer verify NAME`

use std::io::{self, Write};
use std::path::PathBuf;

use aquifer_format::{GenerationId, Revision, Timestamp};
use aquifer_log::{DatabaseName, DatabaseStore, Scope, Target, Verified, verify};
use aquifer_migrate::Origin;
use aquifer_replicate::restore::Restorer;
use clap::Args;
use serde::Serialize;

use crate::commands::foreign::{self, Foreign};
use crate::commands::restore::show_progress;
use crate::error::CliError;
use crate::exit::Exit;
use crate::moment::Moment;
use crate::output::Report;
use crate::session::Session;
use crate::time::show;
use crate::units::{Bytes, Length, count};

/// Prove that a database can be restored, without writing it out
///
/// Reads all that a restore reads and checks every byte of it, that the history has no gap, the content of every
/// page, and the whole database's checksum. Ends with code 4 if anything is wrong.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The database: its name, or the path of its file; with --from the URL of the backup
    name: String,

    #[command(flatten)]
    from: Foreign,

    #[command(flatten)]
    moment: Moment,

    /// All segments of the generation, also those that only restores to other moments read
    #[arg(long)]
    all: bool,

    /// Restore into a temporary file as well, and run SQLite's integrity_check on it, as --from does always
    #[arg(long)]
    deep: bool,

    /// Where --deep puts its file, which is as large as the database [default: the system's]
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
}

/// What was proven, as it is told: also by `copy`.
#[derive(Debug, Serialize)]
pub(crate) struct Proof {
    pub(crate) name: DatabaseName,
    pub(crate) revision: Revision,
    pub(crate) last_commit: Timestamp,
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
    pub(crate) pages: u64,
    /// Whether SQLite's integrity_check was run, and passed.
    pub(crate) integrity_checked: bool,
    pub(crate) skipped: Vec<GenerationId>,
    pub(crate) duration_ms: u128,
}

impl Proof {
    fn new(name: &DatabaseName, verified: Verified, integrity_checked: bool) -> Proof {
        Proof {
            name: name.clone(),
            revision: verified.revision,
            last_commit: verified.last_commit,
            segments: verified.segments,
            bytes: verified.bytes,
            pages: verified.pages,
            integrity_checked,
            skipped: verified.skipped,
            duration_ms: verified.duration.as_millis(),
        }
    }
}

impl Verify {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        if let Some(origin) = self.from.origin {
            session.output.print(&self.verify_from(session, origin).await?)?;
            return Ok(Exit::Ok);
        }
        let database = session.patient_database(&self.name).await?;
        let (generation, target) = (self.moment.generation()?, self.moment.target());
        let scope = if self.all { Scope::All } else { Scope::Plan };
        let verified = prove(session, &database, generation, target, scope).await?;
        if self.deep {
            self.restore(session, &database, verified.revision).await?;
        }
        session.output.print(&Proof::new(database.name(), verified, self.deep))?;
        Ok(Exit::Ok)
    }

    /// A backup that another program made.
    async fn verify_from(
        &self,
        session: &Session,
        origin: Origin,
    ) -> Result<foreign::verify::Proof, CliError> {
        self.from.verify(session, (origin, &self.name), &self.moment, &self.temp_dir()).await
    }

    fn temp_dir(&self) -> PathBuf {
        self.temp_dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Restores the very revision that was verified, and throws it away.
    async fn restore(
        &self,
        session: &Session,
        database: &DatabaseStore,
        revision: Revision,
    ) -> Result<(), CliError> {
        let parent = self.temp_dir();
        let directory = tempfile::Builder::new().prefix("aquifer-verify-").tempdir_in(&parent);
        let directory =
            directory.map_err(|source| CliError::File { action: "write in", path: parent, source })?;
        let file = directory.path().join("restored.db");
        Restorer::new(database.store().clone(), database.name().clone(), file)
            .generation(revision.generation)
            .target(Target::Txid(revision.txid))
            .integrity_check(true)
            .progress(show_progress(session, database.name()))
            .restore()
            .await?;
        Ok(())
    }
}

/// Verifies with progress.
pub(crate) async fn prove(
    session: &Session,
    database: &DatabaseStore,
    generation: Option<GenerationId>,
    target: Target,
    scope: Scope,
) -> Result<Verified, CliError> {
    let progress = session.progress(&format!("verify {}", database.name()));
    let show = |now: aquifer_log::VerifyProgress| progress.set(now.bytes_done, now.bytes_total);
    let verified = verify(database, generation, target, scope, show).await;
    progress.finish();
    Ok(verified?)
}

impl Report for Proof {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "'{}' can be restored: txid {} of generation {}, last commit {}",
            self.name,
            self.revision.txid,
            self.revision.generation,
            show(self.last_commit)
        )?;
        for generation in &self.skipped {
            writeln!(out, "generation {generation} was passed over: nothing of it ever became durable")?;
        }
        let millis = u64::try_from(self.duration_ms).unwrap_or(u64::MAX);
        writeln!(
            out,
            "{}, {} in {}, {}{}",
            count(self.pages, "page"),
            Bytes(self.bytes),
            count(self.segments, "segment"),
            Length(std::time::Duration::from_millis(millis)),
            if self.integrity_checked { "; integrity_check ok" } else { "" }
        )
    }
}
