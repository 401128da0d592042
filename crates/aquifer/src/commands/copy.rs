//! `aquifer copy NAME DEST_STORE`

use std::io::{self, Write};

use aquifer_format::{GenerationId, Revision};
use aquifer_log::store::Location;
use aquifer_log::{DatabaseName, DatabaseStore, PlanError, Scope, Store, StoreUrl, Target};
use clap::Args;
use serde::Serialize;

use crate::commands::verify::prove;
use crate::copy::{ancestry, copy_generation};
use crate::error::CliError;
use crate::exit::Exit;
use crate::fencing::Fencing;
use crate::output::Report;
use crate::session::Session;
use crate::units::{Bytes, count};

/// Copy a generation to another store
///
/// What is at the destination already is not copied again, so an interrupted copy is continued, and a finished
/// one brought up to date, by the same command. Generations that it builds on are copied as well.
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// The database: its name, or the path of its file
    name: String,

    /// Where to: s3://bucket/prefix, gs://…, az://…, or a directory
    #[arg(value_name = "DEST_STORE")]
    destination: StoreUrl,

    /// Generation to copy [default: the newest]
    #[arg(short, long, value_name = "ID")]
    generation: Option<GenerationId>,

    /// The database's name at the destination [default: the same]
    #[arg(long = "as", value_name = "NAME")]
    new_name: Option<DatabaseName>,

    /// Do not prove afterwards that the copy can be restored: saves reading it once
    #[arg(long)]
    no_verify: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    from: String,
    to: String,
    name: DatabaseName,
    /// Oldest first.
    generations: Vec<GenerationId>,
    objects: u64,
    bytes: u64,
    /// Objects that were there already.
    present: u64,
    /// What was proven to be restorable from the copy.
    verified: Option<Revision>,
}

impl Copy {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let from = session.patient_database(&self.name).await?;
        let newest = session.generation(&from, self.generation).await?;
        let name = self.new_name.as_ref().unwrap_or(from.name()).clone();
        if same(&self.destination, &session.settings.store.value) && name == *from.name() {
            return Err(CliError::Usage("the destination is the store that the database is in".into()));
        }
        let to = DatabaseStore::new(self.destination().await?, name);
        let progress = session.progress(&format!("copy {}", from.name()));
        let mut done = Done {
            from: from.store().url().to_owned(),
            to: to.store().url().to_owned(),
            name: to.name().clone(),
            generations: Vec::new(),
            objects: 0,
            bytes: 0,
            present: 0,
            verified: None,
        };
        for generation in ancestry(&from, newest).await? {
            let copied = copy_generation(&from, &to, &generation, &progress).await?;
            done.generations.push(generation.id);
            done.objects += copied.objects;
            done.bytes += copied.bytes;
            done.present += copied.present;
        }
        progress.finish();
        if !self.no_verify {
            // Of a generation that nothing was shipped to yet there is nothing to prove.
            let generation = done.generations.last().copied();
            match prove(session, &to, generation, Target::Latest, Scope::Plan).await {
                Ok(verified) => done.verified = Some(verified.revision),
                Err(CliError::Plan(e)) if matches!(*e, PlanError::Empty { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        session.output.print(&done)?;
        Ok(Exit::Ok)
    }

    /// A store that ignores the condition of a put-if-absent is looked at before it is written to.
    async fn destination(&self) -> Result<Store, CliError> {
        let store = Store::open(&self.destination)?;
        let found = Fencing::probe(&store).await?;
        Ok(if found.fenced { store } else { store.unfenced() })
    }
}

/// Whether two URLs name one store. Different URLs of one bucket are not recognised: copying a generation to itself
/// finds every object there already.
fn same(a: &StoreUrl, b: &StoreUrl) -> bool {
    match (a.location(), b.location()) {
        (Location::Directory(a), Location::Directory(b)) => {
            matches!((std::path::absolute(a), std::path::absolute(b)), (Ok(a), Ok(b)) if a == b)
        }
        _ => a == b,
    }
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let generation = self.generations.last().map_or_else(String::new, ToString::to_string);
        writeln!(out, "copied '{}' ({generation}) to {}", self.name, self.to)?;
        let older = self.generations.len().saturating_sub(1);
        if older > 0 {
            writeln!(out, "with the {older} it builds on")?;
        }
        writeln!(
            out,
            "{} in {}; {} there already",
            Bytes(self.bytes),
            count(self.objects, "object"),
            self.present
        )?;
        match self.verified {
            Some(revision) => writeln!(out, "verified: txid {} can be restored from it", revision.txid),
            None => Ok(()),
        }
    }
}
