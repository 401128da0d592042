//! What every command starts from: the settings, the store, and the database that was named.

use std::path::Path;
use std::time::Duration;

use aquifer_format::GenerationId;
use aquifer_log::store::Patience;
use aquifer_log::{DatabaseName, DatabaseStore, Generation, Store};
use futures::TryStreamExt;

use crate::config::Settings;
use crate::error::CliError;
use crate::output::Output;
use crate::progress::{Progress, note};

/// A person waits for the answer: a store that is away is told soon, one that stumbles is forgiven.
pub(crate) const INTERACTIVE: Patience =
    Patience { tries: 5, total: Duration::from_secs(15), attempt: Duration::from_secs(10) };

/// Names that are close enough to be suggested.
const SIMILAR: f64 = 0.75;
/// Suggestions at most.
const SUGGESTIONS: usize = 3;

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Session {
    /// Where results go.
    pub(crate) output: Output,
    /// Command line, environment and configuration file, merged.
    pub(crate) settings: Settings,
}

impl Session {
    /// The store, for a command that answers at once. No I/O.
    pub(crate) fn store(&self) -> Result<Store, CliError> {
        Ok(Store::open(&self.settings.store.value)?.with_patience(INTERACTIVE))
    }

    /// The database that a user means by a name or by the path of its file.
    ///
    /// Names may contain slashes, so what looks like a path is a name if there is a database of that name, and
    /// else the name is that of the file.
    pub(crate) async fn database(&self, name_or_path: &str) -> Result<DatabaseStore, CliError> {
        let store = self.store()?;
        for name in candidates(name_or_path)? {
            let database = DatabaseStore::new(store.clone(), name);
            if database.generation_ids().try_next().await?.is_some() {
                return Ok(database);
            }
        }
        Err(CliError::NoDatabase {
            store: store.url().to_owned(),
            nearest: nearest(&store, name_or_path).await?,
            name: name_or_path.to_owned(),
        })
    }

    /// As [`Session::database`], for work that rides out a restart of the store.
    pub(crate) async fn patient_database(&self, name_or_path: &str) -> Result<DatabaseStore, CliError> {
        let found = self.database(name_or_path).await?;
        Ok(DatabaseStore::new(found.store().with_patience(Patience::BACKGROUND), found.name().clone()))
    }

    /// A generation of a database: the one named, else the newest.
    pub(crate) async fn generation(
        &self,
        database: &DatabaseStore,
        id: Option<GenerationId>,
    ) -> Result<Generation, CliError> {
        let found = match id {
            Some(id) => database.generation_record(id).await?.map(|record| Generation { id, record }),
            None => database.latest_generation().await?,
        };
        let store = || database.store().url().to_owned();
        found.ok_or_else(|| match id {
            Some(generation) => {
                CliError::NoGeneration { store: store(), name: database.name().clone(), generation }
            }
            None => CliError::NoDatabase {
                store: store(),
                name: database.name().to_string(),
                nearest: Vec::new(),
            },
        })
    }

    /// Shows progress, unless the user wants none.
    pub(crate) fn progress(&self, what: &str) -> Progress {
        Progress::start(what, self.output.quiet)
    }

    /// A remark for people on stderr, unless the user wants none.
    pub(crate) fn remark(&self, text: &str) {
        if !self.output.quiet {
            note(text);
        }
    }
}

/// What a user may mean, the likelier first.
fn candidates(name_or_path: &str) -> Result<Vec<DatabaseName>, CliError> {
    let usage = |e: aquifer_log::DatabaseNameError| CliError::Usage(e.to_string());
    let file = Path::new(name_or_path).file_name().and_then(|file| file.to_str());
    match name_or_path.parse::<DatabaseName>() {
        Ok(name) => {
            let mut names = vec![name];
            if let Some(file) = file
                && file != name_or_path
            {
                names.extend(file.parse::<DatabaseName>());
            }
            Ok(names)
        }
        // A long path is no name, but its file's may be one.
        Err(error) => match file {
            Some(file) => Ok(vec![file.parse().map_err(usage)?]),
            None => Err(usage(error)),
        },
    }
}

/// The databases whose names look like what was asked for.
async fn nearest(store: &Store, wanted: &str) -> Result<Vec<DatabaseName>, CliError> {
    let names: Vec<DatabaseName> = DatabaseStore::list(store).try_collect().await?;
    let wanted = Path::new(wanted).file_name().map_or(wanted.into(), |file| file.to_string_lossy());
    let mut similar: Vec<(f64, DatabaseName)> = names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&wanted, name.as_str()), name))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .collect();
    similar.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(similar.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        candidates(text).unwrap().into_iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn path_may_be_a_name_or_lead_to_one() {
        assert_eq!(names("app.db"), ["app.db"]);
        assert_eq!(names("/srv/app.db"), ["/srv/app.db", "app.db"]);
        assert_eq!(names("team/app.db"), ["team/app.db", "app.db"]);
        assert_eq!(names(&format!("{}/app.db", "x".repeat(300))), ["app.db"]);
        assert!(candidates("").is_err());
    }
}
