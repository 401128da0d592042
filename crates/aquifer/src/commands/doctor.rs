//! `aquifer doctor [FILE…]`

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use aquifer_format::PageSize;
use aquifer_log::store::{Prefix, Verdict};
use aquifer_log::{Store, StoreError};
use clap::Args;
use serde::Serialize;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Report;
use crate::session::Session;

/// Creates that race for one scratch object.
const RACERS: usize = 16;

/// Check this program, the store, and databases that are to be replicated
///
/// Writes and deletes scratch objects under .aquifer/ in the store. Databases are looked at and not touched.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Database files to check; those of the configuration file are checked as well
    files: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Check {
    /// What was checked.
    subject: String,
    result: Health,
    /// What was found.
    finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Health {
    Ok,
    Warning,
    Failed,
}

impl Check {
    fn ok(subject: impl Into<String>, finding: impl Into<String>) -> Check {
        Check { subject: subject.into(), result: Health::Ok, finding: finding.into(), advice: None }
    }

    fn warning(subject: impl Into<String>, finding: impl Into<String>, advice: &str) -> Check {
        let advice = Some(advice.to_owned());
        Check { subject: subject.into(), result: Health::Warning, finding: finding.into(), advice }
    }

    fn failed(subject: impl Into<String>, finding: impl Into<String>, advice: Option<&str>) -> Check {
        let advice = advice.map(str::to_owned);
        Check { subject: subject.into(), result: Health::Failed, finding: finding.into(), advice }
    }
}

impl Doctor {
    pub(crate) async fn run(&self, session: &Session) -> Result<Exit, CliError> {
        let mut checks = vec![match aquifer_sqlite::check_build() {
            Ok(()) => Check::ok("program", "its SQLite has all that is needed"),
            Err(e) => Check::failed("program", e.to_string(), None),
        }];
        match session.store() {
            Ok(store) => checks.extend(check_store(&store).await),
            Err(e) => {
                checks.push(Check::failed("store", e.to_string(), None));
            }
        }
        let configured = session.settings.databases.iter().map(|entry| &entry.path);
        checks.extend(configured.chain(&self.files).map(|path| check_file(path)));
        let failed = checks.iter().any(|check| check.result == Health::Failed);
        session.output.print(&Diagnosis { checks })?;
        Ok(if failed { Exit::Damaged } else { Exit::Ok })
    }
}

async fn check_store(store: &Store) -> Vec<Check> {
    let url = store.url();
    match store.first_dir(&Prefix::ROOT).await {
        Ok(_) => {}
        Err(StoreError::NoStore { .. }) => {
            // Not made here: the path may be a slip.
            return vec![Check::warning(
                format!("store {url}"),
                "the directory does not exist",
                "the first `replicate` makes it; if there should be one, check --store and AQUIFER_STORE",
            )];
        }
        Err(e) => return vec![Check::failed(format!("store {url}"), e.to_string(), None)],
    }
    let mut checks = vec![Check::ok(format!("store {url}"), "can be read")];
    let started = std::time::Instant::now();
    let before = store.counts().total();
    let capabilities = store.probe_race(RACERS).await;
    let elapsed = started.elapsed().as_millis();
    let capabilities = match capabilities {
        Ok(capabilities) => capabilities,
        Err(e) => {
            checks.push(Check::failed("writing", e.to_string(), None));
            return checks;
        }
    };
    let requests = store.counts().total() - before;
    checks.push(Check::ok("writing", format!("{requests} requests, {elapsed} ms")));
    checks.push(match capabilities.put_if_absent {
        Verdict::Honoured => {
            Check::ok("put-if-absent", format!("honoured: of {RACERS} writers at once one succeeded"))
        }
        Verdict::Broken(how) | Verdict::Unsupported(how) => Check::failed(
            "put-if-absent",
            how,
            Some(
                "two writers of one database cannot be kept apart in this store: make sure yourself that there \
                 is only one, or use another store",
            ),
        ),
    });
    checks
}

/// Looks at a database file's header. Opening it aside from SQLite is harmless here: nothing in this process has
/// it open, whose locks could be dropped.
fn check_file(path: &Path) -> Check {
    let subject = format!("database {}", path.display());
    let mut header = [0; 100];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Check::warning(subject, "is empty", "it is replicated once something was written to it");
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Check::failed(subject, "does not exist", None);
        }
        Err(e) => return Check::failed(subject, format!("cannot be read: {e}"), None),
        Ok(()) => {}
    }
    // Offsets are those of sqlite.org/fileformat2.html, "The Database Header".
    if !header.starts_with(b"SQLite format 3\0") {
        let advice = "is it another kind of file, or encrypted? Encrypted databases cannot be replicated";
        return Check::failed(subject, "is no SQLite database", Some(advice));
    }
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u32::from(size),
    };
    if let Err(e) = PageSize::new(page_size) {
        return Check::failed(subject, e.to_string(), None);
    }
    if (header[18], header[19]) == (2, 2) {
        Check::ok(subject, format!("in WAL mode, pages of {page_size} bytes"))
    } else {
        Check::warning(
            subject,
            "is in a rollback-journal mode",
            "switch it with `PRAGMA journal_mode=WAL`, or let `replicate --wal` do so",
        )
    }
}

impl Report for Diagnosis {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        for Check { subject, result, finding, advice } in &self.checks {
            let word = match result {
                Health::Ok => "ok     ",
                Health::Warning => "warning",
                Health::Failed => "FAILED ",
            };
            writeln!(out, "{word}  {subject}: {finding}")?;
            if let Some(advice) = advice {
                writeln!(out, "         {advice}")?;
            }
        }
        Ok(())
    }
}
