//! `aquifer restore --from ORIGIN URL -o FILE`

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aquifer_migrate::Origin;
use aquifer_replicate::restore::Existing;
use serde::Serialize;

use super::{Facts, Foreign, with_progress};
use crate::error::CliError;
use crate::moment::Moment;
use crate::output::Report;
use crate::session::Session;
use crate::units::{Bytes, Length, count};

#[derive(Debug, Serialize)]
pub(crate) struct Done {
    outcome: &'static str,
    output: PathBuf,
    #[serde(flatten)]
    facts: Option<Facts>,
}

impl Foreign {
    /// Restores into a file.
    pub(crate) async fn restore(
        &self,
        session: &Session,
        (origin, url): (Origin, &str),
        moment: &Moment,
        output: &Path,
        existing: Existing,
        integrity_check: bool,
    ) -> Result<Done, CliError> {
        let restorer = self.restorer(url, origin, moment, output)?;
        let restorer = restorer.existing(existing).integrity_check(integrity_check);
        let restored = with_progress(session, &format!("restore {url}"), restorer).await?;
        let outcome = if restored.is_some() { "restored" } else { "kept" };
        Ok(Done { outcome, output: output.to_owned(), facts: restored.map(Facts::of) })
    }
}

impl Done {
    /// Whether there is a database now that is not empty.
    pub(crate) fn is_restored(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.pages > 0)
    }

    /// There was no backup, and that is fine.
    pub(crate) fn no_replica(output: &Path) -> Done {
        Done { outcome: "no-replica", output: output.to_owned(), facts: None }
    }
}

impl Report for Done {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let output = self.output.display();
        let Some(facts) = &self.facts else {
            return match self.outcome {
                "kept" => writeln!(out, "{output} exists already: nothing was done"),
                _ => writeln!(out, "there is no backup to restore from: nothing was done"),
            };
        };
        writeln!(out, "restored {} to {output}: up to {}", facts.subject(), facts.last())?;
        write_rest(out, facts)
    }
}

/// What was passed over, sizes, and what was checked.
pub(super) fn write_rest(out: &mut dyn Write, facts: &Facts) -> io::Result<()> {
    for generation in &facts.skipped {
        writeln!(out, "generation {generation} was passed over: there is nothing in it")?;
    }
    if facts.pages == 0 {
        return writeln!(out, "nothing was ever written to this database: it is empty");
    }
    let millis = u64::try_from(facts.duration_ms).unwrap_or(u64::MAX);
    writeln!(
        out,
        "{} from {} in {}, {}; all checksums verified{}",
        Bytes(u64::from(facts.pages) * u64::from(facts.page_size)),
        Bytes(facts.bytes_fetched),
        count(facts.objects as u64, "object"),
        Length(Duration::from_millis(millis)),
        if facts.integrity_checked { ", integrity_check ok" } else { "" }
    )
}
