//! What is found in a store, and which of it is meant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aquifer_format::Timestamp;
use aquifer_log::store::{ObjectInfo, Prefix, Store, StoreError};
use serde::Serialize;

use crate::error::{MigrateError, Result};
use crate::formats::{self, litestream_03};
use crate::plan::{Plan, Target};

/// Whose backups to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Anybody's: what it is shows in the layout.
    #[default]
    Auto,
    /// bottomless, as a library and of the libSQL server.
    Bottomless,
    /// Litestream.
    Litestream,
    /// zlayer-storage.
    Zlayer,
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(name: &str) -> Result<Origin, String> {
        Ok(match name {
            "auto" => Origin::Auto,
            "bottomless" => Origin::Bottomless,
            "litestream" => Origin::Litestream,
            "zlayer" => Origin::Zlayer,
            other => return Err(format!("'{other}' is none of auto, bottomless, litestream, zlayer")),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Auto => "auto",
            Origin::Bottomless => "bottomless",
            Origin::Litestream => "litestream",
            Origin::Zlayer => "zlayer",
        })
    }
}

/// How a backup is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// bottomless: a directory for each generation.
    Bottomless,
    /// Litestream 0.5: LTX files in levels.
    Litestream,
    /// Litestream 0.3: generations of snapshots and WAL files.
    #[serde(rename = "litestream-0.3")]
    Litestream03,
    /// zlayer-storage: snapshots and WAL files.
    Zlayer,
}

impl Format {
    /// What its positions are, for people.
    pub const fn position(self) -> &'static str {
        match self {
            Format::Bottomless | Format::Zlayer => "frame",
            Format::Litestream => "txid",
            Format::Litestream03 => "WAL",
        }
    }

    /// As shown to people.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Bottomless => "bottomless",
            Format::Litestream => "Litestream",
            Format::Litestream03 => "Litestream 0.3",
            Format::Zlayer => "zlayer-storage",
        }
    }
}

/// A line of a database's history that can be restored by itself: a generation, or all that there is.
#[derive(Debug, Clone)]
pub struct Backup {
    pub(crate) store: Store,
    pub(crate) prefix: Prefix,
    format: Format,
    database: String,
    generation: Option<String>,
    created: Option<Timestamp>,
    /// What was listed in order to find it, where that says all.
    pub(crate) listed: Option<Arc<litestream_03::Files>>,
}

/// What is in a backup, as far as listings and small objects tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Survey {
    /// Its objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The whole database that the rest goes on from.
    pub snapshot: Option<Snapshot>,
    /// The first and the last position, both inclusive, that objects after the snapshot have: frames, txids or sequence
    /// numbers, as the format counts.
    pub positions: Option<(u64, u64)>,
    /// Of bottomless: the last frame that ends a transaction, where the format records it, and the checksum there.
    pub consistent: Option<(u64, u64)>,
    /// Of bottomless: the database's change counter when the generation began.
    pub change_counter: Option<u32>,
    /// The generation that this one goes on from.
    pub parent: Option<String>,
    /// When the newest object was written.
    pub last_write: Option<Timestamp>,
}

/// A whole database among objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Its bytes as stored.
    pub bytes: u64,
    /// When it was written.
    pub at: Timestamp,
}

impl Snapshot {
    pub(crate) fn of(object: &ObjectInfo) -> Snapshot {
        Snapshot { bytes: object.len, at: object.last_modified }
    }
}

/// What of a backup becomes a generation of a store.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) plan: Plan,
    /// The prefixes of other generations that it holds whole, with the moments of each.
    pub(crate) holds: Vec<String>,
    /// Why it does not begin where the backup's objects do.
    pub(crate) left_out: Option<MigrateError>,
}

impl History {
    /// All there is, and of one generation.
    pub(crate) fn of(plan: Plan) -> History {
        History { plan, holds: Vec::new(), left_out: None }
    }
}

impl Backup {
    pub(crate) fn new(store: &Store, format: Format, database: &str, prefix: Prefix) -> Backup {
        let (store, database) = (store.clone(), database.to_owned());
        Backup { store, prefix, format, database, generation: None, created: None, listed: None }
    }

    pub(crate) fn of_generation(self, generation: String, created: Timestamp) -> Backup {
        Backup { generation: Some(generation), created: Some(created), ..self }
    }

    /// How it is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The database's name there; empty where the layout has none.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The generation, as its format writes it.
    pub fn generation(&self) -> Option<&str> {
        self.generation.as_deref()
    }

    /// When it began, as far as the layout tells.
    pub fn created(&self) -> Option<Timestamp> {
        self.created
    }

    /// Where its objects are in the store: ends with a slash, or is empty.
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// Looks at what there is, without reading the database.
    pub async fn survey(&self) -> Result<Survey> {
        match self.format {
            Format::Bottomless => formats::bottomless::survey(self).await,
            Format::Litestream => formats::litestream::survey(self).await,
            Format::Litestream03 => formats::litestream_03::survey(self).await,
            Format::Zlayer => formats::zlayer::survey(self).await,
        }
    }

    /// The objects that make the database at the target. `None`: nothing was ever written to it.
    pub(crate) async fn plan(&self, target: Target) -> Result<Option<Plan>> {
        match self.format {
            Format::Bottomless => formats::bottomless::plan(self, target).await,
            Format::Litestream => formats::litestream::plan(self, target).await,
            Format::Litestream03 => formats::litestream_03::plan(self, target).await,
            Format::Zlayer => formats::zlayer::plan(self, target).await,
        }
    }

    /// What makes the newest state, in as many steps as there are moments of its history. `None`: nothing was ever written
    /// to it. `older` are the generations that are imported besides, in the order of [`find`].
    pub(crate) async fn history(&self, older: &[Backup]) -> Result<Option<History>> {
        match self.format {
            Format::Bottomless => formats::bottomless::history(self, older).await,
            Format::Litestream => formats::litestream::history(self).await,
            Format::Litestream03 => formats::litestream_03::history(self).await,
            Format::Zlayer => Ok(formats::zlayer::plan(self, Target::Latest).await?.map(History::of)),
        }
    }

    /// There is nothing from so long ago.
    pub(crate) fn nothing_before(&self, moment: Timestamp) -> MigrateError {
        MigrateError::NoGeneration {
            url: self.store.url().to_owned(),
            database: self.database.clone(),
            what: format!("that was written before {moment}"),
        }
    }

    pub(crate) fn broken(&self, reason: impl Into<String>) -> MigrateError {
        let (url, prefix) = (self.store.url().to_owned(), self.prefix().to_owned());
        MigrateError::Broken { url, prefix, reason: reason.into() }
    }
}

/// All backups of an origin in a store, by database, newest first. An empty store has none.
pub async fn find(store: &Store, origin: Origin) -> Result<Vec<Backup>> {
    match find_by_layout(store, origin).await {
        // Of a store that is to be written to it would be said otherwise.
        Err(MigrateError::Store(StoreError::NoStore { .. })) => Err(no_backup(store, origin, None)),
        found => found,
    }
}

async fn find_by_layout(store: &Store, origin: Origin) -> Result<Vec<Backup>> {
    let mut found = Vec::new();
    if matches!(origin, Origin::Auto | Origin::Bottomless) {
        found.extend(formats::bottomless::find(store).await?);
    }
    if origin != Origin::Bottomless && found.is_empty() {
        found.extend(formats::tree::find(store, origin).await?);
    }
    Ok(found)
}

fn no_backup(store: &Store, origin: Origin, database: Option<&str>) -> MigrateError {
    let of = database.map_or_else(String::new, |name| format!("of '{name}' "));
    MigrateError::NoBackup {
        url: store.url().to_owned(),
        of: format!("{of}that this program knows"),
        hint: match origin {
            Origin::Litestream => "ltx/ or generations/",
            Origin::Zlayer => "snapshots/",
            Origin::Bottomless => "DATABASE-GENERATION/",
            Origin::Auto => "DATABASE-GENERATION/, ltx/, generations/ or snapshots/",
        },
    }
}

/// Those of one database, newest first, narrowed down as asked for.
pub(crate) async fn choose(
    store: &Store,
    origin: Origin,
    database: Option<&str>,
    generation: Option<&str>,
    target: Target,
) -> Result<Vec<Backup>> {
    let mut found = find(store, origin).await?;
    if let Some(database) = database {
        found.retain(|backup| backup.database == database);
    }
    let url = || store.url().to_owned();
    let Some(first) = found.first() else { return Err(no_backup(store, origin, database)) };
    let mut names: Vec<String> = found.iter().map(|backup| backup.database.clone()).collect();
    names.dedup();
    if names.len() > 1 {
        return Err(MigrateError::SeveralDatabases { url: url(), names });
    }
    let name = first.database.clone();
    let none = |what: String| MigrateError::NoGeneration { url: url(), database: name.clone(), what };
    if let Some(generation) = generation {
        found.retain(|backup| backup.generation() == Some(generation));
        if found.is_empty() {
            return Err(none(format!("'{generation}'")));
        }
    }
    if let Target::Timestamp(moment) = target {
        found.retain(|backup| backup.created.is_none_or(|created| created <= moment));
        if found.is_empty() {
            return Err(none(format!("began before {moment}")));
        }
    }
    Ok(found)
}
