//! Why a command failed: what, where, and what to do next.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use aquifer_client::remote::RemoteError;
use aquifer_format::GenerationId;
use aquifer_log::{DatabaseName, LogError, PlanError, RemoveError, StoreError};
use aquifer_migrate::MigrateError;
use aquifer_replicate::follow::FollowError;
use aquifer_replicate::restore::RestoreError;
use aquifer_server::hosted::HostError;
use aquifer_server::hosted::import::ImportError;
use serde::Serialize;

use crate::config::ConfigError;
use crate::exit::Exit;
use crate::progress::note;

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line makes no sense, in a way that clap cannot know.
    #[error("{0}")]
    Usage(String),

    #[error(transparent)]
    Config(#[from] ConfigError),

    #[error("{store} has no database '{name}'")]
    NoDatabase {
        store: String,
        name: String,
        /// Names that are there and look similar.
        nearest: Vec<DatabaseName>,
    },

    #[error("database '{name}' has no generation {generation} in {store}")]
    NoGeneration { store: String, name: DatabaseName, generation: GenerationId },

    /// bottomless-cli's words, for a bucket with nothing in it.
    #[error("could not autodetect the database: {0} has none. Please pass it explicitly with -d option")]
    Undetected(String),

    #[error("{url}: generation {generation} not found for {database}")]
    NoBottomlessGeneration { url: String, generation: GenerationId, database: String },

    #[error("no generation of '{database}' is that old")]
    NothingSoOld { database: String },

    /// Nothing was deleted: there is nobody to ask.
    #[error("{0} would be deleted, and there is no terminal to ask on")]
    Unconfirmed(String),

    /// Nothing was deleted: the answer was no.
    #[error("nothing was deleted")]
    Declined,

    #[error(transparent)]
    Log(#[from] LogError),

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(transparent)]
    Plan(Box<PlanError>),

    #[error(transparent)]
    Restore(Box<RestoreError>),

    #[error(transparent)]
    Follow(Box<FollowError>),

    #[error(transparent)]
    Migrate(Box<MigrateError>),

    #[error(transparent)]
    Replicate(Box<aquifer_replicate::Error>),

    #[error(transparent)]
    Remove(RemoveError),

    #[error("'{name}' could not be shipped: {reason}")]
    Outage { name: DatabaseName, reason: String },

    #[error("{} could not be shipped: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },

    #[error(transparent)]
    Build(aquifer_sqlite::Error),

    #[error("cannot serve metrics on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },

    #[error("cannot serve databases on {address}: {source}")]
    Serve { address: SocketAddr, source: io::Error },

    #[error(transparent)]
    Host(#[from] HostError),

    #[error("cannot import {}: {source}", file.display())]
    Import { file: PathBuf, source: Box<ImportError> },

    #[error("cannot ask {server}")]
    Asked { server: String, source: reqwest::Error },

    #[error("{server}: {reason}")]
    Answered { server: String, reason: String, exit: Exit },

    #[error("{}: {source}", path.display())]
    Sync { path: PathBuf, source: Box<aquifer_client::Error> },

    #[error("{path} is not synced with any server: there is no {path}-aquifer", path = path.display())]
    NotSynced { path: PathBuf },

    /// Two servers could acknowledge commits of which one is lost.
    #[error(
        "{store} does not keep two servers of one database apart ({seen}): use a store that honours put-if-absent, or, \
         where there is never more than one server, --allow-unfenced"
    )]
    Unfenced { store: String, seen: String },

    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },

    #[error("cannot write to stdout: {0}")]
    Output(#[source] io::Error),

    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
}

impl From<PlanError> for CliError {
    fn from(error: PlanError) -> CliError {
        CliError::Plan(Box::new(error))
    }
}

impl From<RestoreError> for CliError {
    fn from(error: RestoreError) -> CliError {
        CliError::Restore(Box::new(error))
    }
}

impl From<MigrateError> for CliError {
    fn from(error: MigrateError) -> CliError {
        CliError::Migrate(Box::new(error))
    }
}

impl From<FollowError> for CliError {
    fn from(error: FollowError) -> CliError {
        CliError::Follow(Box::new(error))
    }
}

impl From<aquifer_replicate::Error> for CliError {
    fn from(error: aquifer_replicate::Error) -> CliError {
        CliError::Replicate(Box::new(error))
    }
}

impl From<RemoveError> for CliError {
    fn from(error: RemoveError) -> CliError {
        match error {
            RemoveError::Log(error) => CliError::Log(error),
            error => CliError::Remove(error),
        }
    }
}

impl CliError {
    /// The code that the program ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            CliError::Usage(_) | CliError::Config(_) => Exit::Usage,
            CliError::NoDatabase { .. }
            | CliError::NoGeneration { .. }
            | CliError::NotSynced { .. }
            | CliError::Undetected(_)
            | CliError::NoBottomlessGeneration { .. }
            | CliError::NothingSoOld { .. }
            | CliError::Remove(RemoveError::NoSuchGeneration { .. }) => Exit::NotFound,
            CliError::Unconfirmed(_) | CliError::Remove(_) => Exit::Exists,
            CliError::Log(e) => of_log(e),
            CliError::Plan(e) => of_plan(e),
            CliError::Restore(e) => of_restore(e),
            CliError::Follow(e) => match &**e {
                FollowError::Restore(e) => of_restore(e),
                FollowError::Plan(e) => of_plan(e),
                FollowError::Log(e) => of_log(e),
                _ => Exit::Error,
            },
            CliError::Migrate(e) => of_migrate(e),
            CliError::Replicate(e) => of_replicate(e),
            CliError::Outage { .. } | CliError::Asked { .. } => Exit::Unavailable,
            CliError::Answered { exit, .. } => *exit,
            CliError::Import { source, .. } => match &**source {
                ImportError::Host(
                    HostError::Exists(_) | HostError::Deleted { .. } | HostError::Purged(_),
                ) => Exit::Exists,
                ImportError::Host(HostError::Log(e)) => of_log(e),
                ImportError::Host(HostError::Replica(e)) => of_replicate(e),
                ImportError::Damaged(_) => Exit::Damaged,
                _ => Exit::Error,
            },
            CliError::Sync { source, .. } => of_sync(source),
            CliError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            CliError::Store(e) => of_store(e),
            CliError::Declined
            | CliError::Unreadable { .. }
            | CliError::Build(_)
            | CliError::Listen { .. }
            | CliError::Serve { .. }
            | CliError::Host(_)
            | CliError::Unfenced { .. }
            | CliError::File { .. }
            | CliError::Output(_)
            | CliError::Start(_) => Exit::Error,
        }
    }

    /// What to do about it, where the message does not say so itself.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            CliError::NoDatabase { nearest, .. } if nearest.is_empty() => Some(
                "`aquifer ls` lists the databases of a store; --store or AQUIFER_STORE names another".into(),
            ),
            CliError::NoDatabase { nearest, .. } => {
                let names: Vec<_> = nearest.iter().map(|name| format!("'{name}'")).collect();
                Some(format!("did you mean {}?", names.join(" or ")))
            }
            CliError::NoGeneration { name, .. } => Some(format!("`aquifer ls {name}` lists its generations")),
            CliError::Unconfirmed(_) => Some("say --yes".into()),
            CliError::Log(e) => hint_of_log(e),
            CliError::Plan(e) => hint_of_plan(e),
            CliError::Restore(e) => match &**e {
                RestoreError::Plan(e) => hint_of_plan(e),
                RestoreError::Log(e) => hint_of_log(e),
                _ => None,
            },
            _ => None,
        }
    }
}

fn hint_of_log(error: &LogError) -> Option<String> {
    let is_damage = matches!(error, LogError::Segment { .. } | LogError::Misplaced { .. });
    is_damage.then(|| {
        "`aquifer verify NAME --all` says what else is damaged; `aquifer restore` with --txid or --generation restores \
         what does not need this object; `aquifer replicate --new-generation` makes a whole new copy of the database"
            .to_owned()
    })
}

fn hint_of_plan(error: &PlanError) -> Option<String> {
    match error {
        PlanError::Log(e) => hint_of_log(e),
        PlanError::LostParent { parent, .. } => Some(format!(
            "copy the directory '{0}' of the store that this one was copied from as well; `aquifer copy` makes copies of \
             forks that are whole by themselves",
            parent.to_component()
        )),
        PlanError::BeforeFirst { .. } | PlanError::BeyondHead { .. } | PlanError::NotKept { .. } => Some(
            "`aquifer info NAME` tells what can be restored, `aquifer ls NAME` lists older generations"
                .into(),
        ),
        _ => None,
    }
}

fn of_log(error: &LogError) -> Exit {
    match error {
        LogError::Store(e) => of_store(e),
        LogError::Segment { .. }
        | LogError::Misplaced { .. }
        | LogError::Record { .. }
        | LogError::NotAdjacent { .. }
        | LogError::PageMismatch { .. }
        | LogError::WrongPage { .. }
        | LogError::NotWhole { .. } => Exit::Damaged,
        LogError::Taken { .. } => Exit::Exists,
        _ => Exit::Error,
    }
}

fn of_plan(error: &PlanError) -> Exit {
    match error {
        PlanError::Gap { .. } | PlanError::Discontinuous { .. } | PlanError::NotABase { .. } => Exit::Damaged,
        PlanError::Log(e) => of_log(e),
        PlanError::NoSuchDatabase { .. }
        | PlanError::NoSuchGeneration { .. }
        | PlanError::LostParent { .. }
        | PlanError::Empty { .. }
        | PlanError::BeyondHead { .. }
        | PlanError::BeforeFirst { .. }
        | PlanError::NotKept { .. } => Exit::NotFound,
        _ => Exit::Error,
    }
}

fn of_restore(error: &RestoreError) -> Exit {
    match error {
        RestoreError::Plan(e) => of_plan(e),
        RestoreError::Log(e) => of_log(e),
        RestoreError::TargetExists(_) | RestoreError::TargetInUse { .. } => Exit::Exists,
        RestoreError::Page { .. }
        | RestoreError::NoImage { .. }
        | RestoreError::Checksum { .. }
        | RestoreError::Integrity { .. } => Exit::Damaged,
        _ => Exit::Error,
    }
}

fn of_migrate(error: &MigrateError) -> Exit {
    match error {
        MigrateError::Store(e) => of_store(e),
        MigrateError::Target(e) => of_restore(e),
        MigrateError::Log(e) => of_log(e),
        MigrateError::Proof(e) => of_plan(e),
        MigrateError::Partly { source, .. } => of_migrate(source),
        MigrateError::NoBackup { .. } | MigrateError::NoGeneration { .. } => Exit::NotFound,
        MigrateError::Exists { .. } | MigrateError::Occupied { .. } => Exit::Exists,
        MigrateError::SeveralDatabases { .. } | MigrateError::Unsupported { .. } => Exit::Usage,
        MigrateError::Damaged { .. }
        | MigrateError::Missing { .. }
        | MigrateError::Broken { .. }
        | MigrateError::Integrity { .. } => Exit::Damaged,
        _ => Exit::Error,
    }
}

fn of_replicate(error: &aquifer_replicate::Error) -> Exit {
    match error {
        error if error.is_taken_over() => Exit::Fenced,
        aquifer_replicate::Error::Served { .. } => Exit::Exists,
        aquifer_replicate::Error::Log(e) => of_log(e),
        aquifer_replicate::Error::Sqlite(aquifer_sqlite::Error::Missing(_)) => Exit::NotFound,
        _ => Exit::Error,
    }
}

fn of_sync(error: &aquifer_client::Error) -> Exit {
    use aquifer_client::Error;
    match error {
        Error::Remote(e) => of_remote(e),
        Error::NoRemote { .. } | Error::OtherProtocol { .. } | Error::WholeDatabase { .. } => Exit::Usage,
        Error::NotAttached { .. }
        | Error::OtherRemote { .. }
        | Error::OtherDatabase { .. }
        | Error::OtherHistory { .. }
        | Error::LibsqlCopy { .. } => Exit::Exists,
        Error::DatabaseMissing { .. } => Exit::NotFound,
        Error::Refused { .. } => Exit::Refused,
        error if error.passes() => Exit::Unavailable,
        _ => Exit::Error,
    }
}

fn of_remote(error: &RemoteError) -> Exit {
    match error {
        RemoteError::Address(_) | RemoteError::Option { .. } => Exit::Usage,
        RemoteError::NotFound { .. } | RemoteError::Gone { .. } => Exit::NotFound,
        RemoteError::Unauthorized { .. }
        | RemoteError::Forbidden { .. }
        | RemoteError::Untrusted { .. }
        | RemoteError::Refused { .. } => Exit::Refused,
        error if error.passes() => Exit::Unavailable,
        _ => Exit::Error,
    }
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::NotFound { .. } | StoreError::NoStore { .. } => Exit::NotFound,
        StoreError::Unavailable { .. } => Exit::Unavailable,
        StoreError::Denied { .. } | StoreError::Refused { .. } => Exit::Refused,
        StoreError::Config { .. } | StoreError::Url(_) => Exit::Usage,
        _ => Exit::Error,
    }
}

/// An error as it is told.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    error: TellTale,
}

#[derive(Debug, Serialize)]
struct TellTale {
    kind: &'static str,
    exit_code: u8,
    message: String,
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Told {
    /// What there is to tell of an error.
    pub(crate) fn of(error: &CliError) -> Told {
        let exit = error.exit();
        let message = error.to_string();
        let causes = causes(error, &message);
        Told {
            error: TellTale {
                kind: exit.name(),
                exit_code: exit.code(),
                message,
                causes,
                hint: error.hint(),
            },
        }
    }

    /// Says it on stderr.
    pub(crate) fn note(&self, json: bool) {
        note(&if json { self.json() } else { self.text() });
    }

    /// For people: the message, each cause that it does not repeat, and what to do.
    pub(crate) fn text(&self) -> String {
        let TellTale { message, causes, hint, .. } = &self.error;
        let mut text = format!("error: {message}");
        for cause in causes {
            text += &format!("\n  because: {cause}");
        }
        if let Some(hint) = hint {
            text += &format!("\n  hint: {hint}");
        }
        text
    }

    /// For programs: one line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|e| format!("{{\"error\":{{\"message\":\"{e}\"}}}}"))
    }
}

/// The causes, outermost first, without those that a message before already contains.
fn causes(error: &dyn StdError, message: &str) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        let told = message.contains(&text) || causes.iter().any(|said| said.contains(&text));
        if !told {
            causes.push(text);
        }
        next = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_that_a_message_contains_is_not_told_twice() {
        let error = CliError::File {
            action: "read",
            path: "x.toml".into(),
            source: io::Error::new(io::ErrorKind::NotFound, "gone"),
        };
        assert_eq!(Told::of(&error).text(), "error: cannot read x.toml: gone");
    }

    #[test]
    fn causes_follow_their_message() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let outer = Outer(io::Error::other("inner"));
        assert_eq!(causes(&outer, "outer"), ["inner"]);
    }

    #[test]
    fn every_kind_of_trouble_with_a_store_has_its_code() {
        let url = || "s3://b".to_owned();
        let (action, reason) = ("read 'x'".to_owned(), "why".to_owned());
        let denied = StoreError::Denied { url: url(), action, reason, source: "why".into() };
        assert_eq!(CliError::from(denied).exit(), Exit::Refused);
        assert_eq!(CliError::from(StoreError::NoStore { url: url() }).exit(), Exit::NotFound);
        let unavailable = StoreError::Unavailable {
            url: url(),
            action: "read".into(),
            tries: 3,
            reason: "refused".into(),
            outcome_unknown: false,
            source: "refused".into(),
        };
        assert_eq!(CliError::from(LogError::from(unavailable)).exit(), Exit::Unavailable);
    }
}
