//! What is found when a database is opened.

use std::path::Path;

use aquifer_sqlite::{Handle, PinnedDatabase, WalPosition};
use roaring::RoaringBitmap;
use rusqlite::Connection;
use uuid::Uuid;

use super::tracking::patiently;
use super::{Engine, Settings};
use crate::adopt::{self, Adopting};
use crate::bootstrap::Bootstrapping;
use crate::sidecar::{Base, FileStamp, PreImages, Sidecar, State, Tracked};
use crate::{Error, Result};

/// What is found when a database is opened.
pub(crate) enum Opened {
    /// It can be synced.
    Ready(Box<Engine>),
    /// There is nothing yet.
    Absent,
    /// Its first fetch was begun, and is to be continued.
    Bootstrapping(Box<Bootstrapping>),
    /// A client of libSQL's keeps it.
    OfLibsql(Box<Adopting>),
}

impl Engine {
    /// Opens a database for sync. One that has no sidecar gets one: nothing of it is on the server yet.
    pub(crate) fn open(path: &Path, settings: Settings) -> Result<Opened> {
        if adopt::info_of(path).exists() {
            return Ok(Opened::OfLibsql(Box::new(Adopting::begin(path)?)));
        }
        let mut sidecar = Sidecar::open(path)?;
        if let Some(sidecar) = sidecar.as_mut().filter(|sidecar| sidecar.state().is_adopting) {
            adopt::adopted(sidecar)?;
        }
        // Not before: who had the sidecar until now may have put the database into place.
        let is_there = path.exists();
        match sidecar {
            None if is_there => {
                let sidecar = Sidecar::create(path, State::new(Base::empty()))?;
                Engine::over(path, sidecar, settings).map(|engine| Opened::Ready(Box::new(engine)))
            }
            None => Ok(Opened::Absent),
            Some(sidecar) => match &sidecar.state().bootstrap {
                Some(_) => Ok(match Bootstrapping::resume(path, sidecar)? {
                    crate::bootstrap::Resumed::Installed(sidecar) => {
                        Opened::Ready(Box::new(Engine::over(path, sidecar, settings)?))
                    }
                    crate::bootstrap::Resumed::Unfinished(bootstrapping) => {
                        Opened::Bootstrapping(Box::new(bootstrapping))
                    }
                }),
                None if is_there => Ok(Opened::Ready(Box::new(Engine::over(path, sidecar, settings)?))),
                None => Err(missing(path, &sidecar)),
            },
        }
    }

    /// Makes an empty database and its sidecar, where there is neither: to be worked with before there is a remote one.
    pub(crate) fn create(path: &Path, settings: Settings) -> Result<Engine> {
        // In this order: a database without a sidecar is one to be seeded from, a sidecar without a database an error.
        make_empty(path)?;
        let sidecar = Sidecar::create(path, State::new(Base::empty()))?;
        Engine::over(path, sidecar, settings)
    }

    /// A database that is exactly what its sidecar says the base is.
    pub(crate) fn installed(path: &Path, sidecar: &mut Sidecar, base: Base) -> Result<()> {
        let stamp = FileStamp::of(path).map_err(Error::file("read", path))?;
        let schema_version = super::frames::schema_version_in(path)?;
        sidecar.update(|db, state| {
            Sidecar::put_changed(db, &RoaringBitmap::new())?;
            state.base = base;
            state.schema_version = schema_version;
            state.bootstrap = None;
            state.tracked = Some(Tracked::new(&WalPosition::NO_WAL, stamp, true));
            state.last_pull = Some(crate::now());
            Ok(())
        })?;
        Ok(())
    }

    fn over(path: &Path, sidecar: Sidecar, settings: Settings) -> Result<Engine> {
        let is_empty = std::fs::metadata(path).map_err(Error::file("read", path))?.len() == 0;
        if is_empty {
            make_empty(path)?;
        }
        patiently(|| Handle::switch_to_wal(path))?;
        let remembered = sidecar.state().tracked.as_ref().and_then(Tracked::wal);
        let (pinned, mut continuity) = patiently(|| PinnedDatabase::open(path, remembered.as_ref()))?;
        let changed = RoaringBitmap::new();
        let mut engine = Engine {
            path: path.to_owned(),
            sidecar,
            pinned,
            changed,
            in_the_way: None,
            commits: 0,
            offered: 0,
            settings,
            #[cfg(test)]
            at: None,
            #[cfg(test)]
            is_replaying_all: false,
        };
        let (local, known) = (engine.page_size().get(), engine.state().page_size);
        if known != 0 && known != local {
            return Err(Error::PageSize { path: path.to_owned(), local, remote: known });
        }
        if engine.state().pull.is_some() {
            engine.settle()?;
            (engine.pinned, continuity) = patiently(|| PinnedDatabase::open(path, remembered.as_ref()))?;
        }
        engine.resume(continuity)?;
        engine.track()?;
        Ok(engine)
    }
}

impl Base {
    /// The empty database: nothing was pulled yet.
    pub(crate) fn empty() -> Base {
        Base { revision: None, pages: 0, number: 0 }
    }
}

impl State {
    pub(crate) fn new_client_id() -> String {
        format!("aquifer-{}", Uuid::now_v7())
    }

    /// Of a copy that the server does not know yet.
    pub(crate) fn new(base: Base) -> State {
        State {
            client_id: State::new_client_id(),
            file: None,
            remote: None,
            protocol: None,
            schema_version: 0,
            page_size: 0,
            base,
            tracked: None,
            change_id: 0,
            attempt: None,
            pushed: None,
            pull: None,
            bootstrap: None,
            is_adopting: false,
            last_push: None,
            last_pull: None,
            sent: 0,
            received: 0,
        }
    }
}

/// Makes a file without content a database without tables.
pub(crate) fn make_empty(path: &Path) -> Result<()> {
    let failed = |source| aquifer_sqlite::Error::Sqlite { path: path.to_owned(), source };
    let db = Connection::open(path).map_err(failed)?;
    let is_wal = aquifer_sqlite::use_wal(&db).map_err(failed)?;
    if is_wal { Ok(()) } else { Err(aquifer_sqlite::Error::NoWal(path.to_owned()).into()) }
}

fn missing(path: &Path, sidecar: &Sidecar) -> Error {
    // Rows that were not pushed yet are in the database alone, and nobody knows how many.
    let has_work = sidecar.changed().is_ok_and(|changed| !changed.is_empty())
        || PreImages::of(sidecar.state().base.number)
            .pages(sidecar.db())
            .is_ok_and(|pages| !pages.is_empty())
        || sidecar.state().base.revision.is_none();
    let unpushed = if has_work { ". It had changes that were not pushed" } else { "" };
    Error::DatabaseMissing { path: path.to_owned(), unpushed }
}
