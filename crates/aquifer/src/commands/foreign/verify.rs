//! `aquifer verify --from ORIGIN URL`

use std::io::{self, Write};
use std::path::Path;

use aquifer_migrate::Origin;
use serde::Serialize;

use super::restore::write_rest;
use super::{Facts, Foreign, with_progress};
use crate::error::CliError;
use crate::moment::Moment;
use crate::output::Report;
use crate::session::Session;

#[derive(Debug, Serialize)]
pub(crate) struct Proof(Facts);

impl Foreign {
    /// Restores into a directory that is removed again, and has SQLite check the database: others' formats prove less
    /// than ours.
    pub(crate) async fn verify(
        &self,
        session: &Session,
        (origin, url): (Origin, &str),
        moment: &Moment,
        temp_dir: &Path,
    ) -> Result<Proof, CliError> {
        let directory = tempfile::Builder::new().prefix("aquifer-verify-").tempdir_in(temp_dir);
        let directory = directory.map_err(|source| CliError::File {
            action: "write in",
            path: temp_dir.to_owned(),
            source,
        })?;
        let restorer = self.restorer(url, origin, moment, &directory.path().join("restored.db"))?;
        let restored =
            with_progress(session, &format!("verify {url}"), restorer.integrity_check(true)).await?;
        let Some(restored) = restored else { unreachable!("nothing is in a new directory") };
        Ok(Proof(Facts::of(restored)))
    }
}

impl Report for Proof {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} can be restored: up to {}", self.0.subject(), self.0.last())?;
        write_rest(out, &self.0)
    }
}
