//! Taking over a database that one of libSQL's own clients keeps.
//!
//! Such a client notes in `<db>-info` up to which frame of a generation of the server's its file goes; what its WAL has
//! beyond that frame is work that was not pushed. The server's image as of that frame becomes the base, and the file stays as it
//! is. That both have to do with each other is proven page by page: what the WAL has not changed since that frame
//! must be what the server has.
//!
//! Whoever goes on with the file in libSQL's way afterwards would write old pages over new ones. So the note is put aside,
//! to `<db>-info-adopted`: without it libSQL's clients refuse the file.

use std::fs::File;
use std::path::{Path, PathBuf};

use aquifer_format::Pgno;
use aquifer_sqlite::PinnedDatabase;
use aquifer_sqlite::wal::FrameReader;
use rustc_hash::FxHashMap;
use serde::Deserialize;

use crate::engine::directory_of;
use crate::frames::Place;
use crate::pull::Incoming;
use crate::sidecar::{Base, PageMap, PreImages, Sidecar, State, hash_of, with_suffix};
use crate::{Error, Result};

/// A database that is being taken over.
pub(crate) struct Adopting {
    path: PathBuf,
    /// `None`: there is none yet.
    sidecar: Option<Sidecar>,
    /// Up to where the file is the server's.
    place: Place,
    local: Local,
}

/// What is in the file.
struct Local {
    pinned: PinnedDatabase,
    /// The last frame of the WAL.
    frames: u32,
    /// The last frame of each page that is in the WAL.
    last: FxHashMap<u32, u32>,
}

/// The note beside a database.
#[derive(Deserialize)]
struct Info {
    hash: u32,
    version: u32,
    durable_frame_num: u32,
    generation: u32,
}

/// Where libSQL's clients note how far they are.
pub(crate) fn info_of(database: &Path) -> PathBuf {
    with_suffix(database, "-info")
}

impl Info {
    fn place(database: &Path) -> Result<Place> {
        let path = info_of(database);
        let bytes = std::fs::read(&path).map_err(Error::file("read", &path))?;
        let info: Info = serde_json::from_slice(&bytes)
            .map_err(|error| refused(database, format!("it cannot be read: {error}")))?;
        let words = [info.version, info.durable_frame_num, info.generation];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        if info.version != 0 {
            return Err(refused(database, format!("its version is {}, and 0 is known", info.version)));
        }
        if crc32(&bytes) != info.hash || info.generation == 0 {
            return Err(refused(database, "it is damaged: its hash does not fit".to_owned()));
        }
        Ok(Place { generation: info.generation, frame: info.durable_frame_num })
    }
}

impl Adopting {
    /// Finds out what is there. Nothing is changed.
    pub(crate) fn begin(path: &Path) -> Result<Adopting> {
        let place = Info::place(path)?;
        if !path.exists() {
            return Err(refused(path, "the database is missing".to_owned()));
        }
        let sidecar = Sidecar::open(path)?;
        if sidecar.as_ref().is_some_and(|sidecar| !sidecar.state().is_adopting) {
            return Err(refused(path, "it is synced by Aquifer already, whose sidecar is there".to_owned()));
        }
        let local = Local::of(path)?;
        if local.frames < place.frame {
            let reason = format!(
                "its WAL has {} frames, and {} are on the server: something else than libSQL has moved them into the \
                 database, and what is not pushed yet cannot be told",
                local.frames, place.frame
            );
            return Err(refused(path, reason));
        }
        Ok(Adopting { path: path.to_owned(), sidecar, place, local })
    }

    /// Places that the file may be of, to be asked for one after the other: what was pushed may not have been noted.
    pub(crate) fn places(&self) -> Vec<Place> {
        let mut places = vec![Place { frame: self.local.frames, ..self.place }, self.place];
        places.dedup();
        places
    }

    pub(crate) fn directory(&self) -> &Path {
        directory_of(&self.path)
    }

    /// Takes the server's image as of a place for the base, if the file fits it; false: it does not.
    pub(crate) fn settle(&mut self, place: Place, image: &Incoming, remote: &str) -> Result<bool> {
        let (local, pages) = (&self.local, image.pages());
        let size = local.pinned.page_size();
        if image.page_size() != size {
            return Ok(false);
        }
        let mut is_same = true;
        let mut differing = Vec::new();
        local.pinned.scan::<Error>(|pgno, page| {
            if pgno.get() > pages || image.hash(pgno) != Some(hash_of(pgno, page)) {
                is_same &= local.last.get(&pgno.get()).is_some_and(|frame| *frame > place.frame);
                differing.push(pgno);
            }
            Ok(())
        })?;
        let here = local.pinned.pages()?;
        // Nothing came after this place: all must be the same.
        is_same &= here >= pages || local.frames > place.frame;
        if !is_same {
            return Ok(false);
        }
        differing.extend((here..pages).map(Pgno::from_index));
        let (remote, base) =
            (remote.to_owned(), Base { revision: Some(place.to_string()), pages, number: 1 });
        let mut page = vec![0; size.bytes()];
        let zeros = |pgno| hash_of(pgno, size.zero_page());
        let first = if image
            .read(Pgno::ONE, &mut page)
            .map_err(Error::file("read what was pulled into", &self.path))?
        {
            crate::engine::schema_version_of(&page)
        } else {
            0
        };
        let sidecar = match &mut self.sidecar {
            Some(begun) => begun,
            none => {
                let state = State { is_adopting: true, ..State::new(Base::empty()) };
                none.insert(Sidecar::create(&self.path, state)?)
            }
        };
        sidecar.update(|db, state| {
            db.execute("DELETE FROM page_map", [])?;
            PreImages::of(1).forget(db)?;
            let mut map = PageMap::new(db);
            for pgno in (0..pages).map(Pgno::from_index) {
                map.set(pgno, image.hash(pgno).unwrap_or_else(|| zeros(pgno)))?;
            }
            map.flush()?;
            for &pgno in differing.iter().filter(|pgno| pgno.get() <= pages) {
                if image
                    .read(pgno, &mut page)
                    .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?
                {
                    PreImages::of(1).put(db, pgno, &page)?;
                }
            }
            state.base = base;
            state.remote = Some(remote);
            state.protocol = Some(crate::Protocol::Libsql);
            state.schema_version = first;
            state.last_pull = Some(crate::now());
            Ok(())
        })?;
        Ok(true)
    }

    /// Puts the note aside: from now on it is a database of ours.
    pub(crate) fn finish(mut self) -> Result<()> {
        let info = info_of(&self.path);
        std::fs::rename(&info, with_suffix(&self.path, "-info-adopted"))
            .map_err(Error::file("put aside", &info))?;
        let directory = directory_of(&self.path);
        let flushed = File::open(directory).and_then(|file| file.sync_all());
        flushed.map_err(Error::file("flush", directory))?;
        self.sidecar.as_mut().map_or(Ok(()), adopted)
    }

    pub(crate) fn refused(&self, reason: String) -> Error {
        refused(&self.path, reason)
    }
}

/// The note is not there any more: what is recorded counts.
pub(crate) fn adopted(sidecar: &mut Sidecar) -> Result<()> {
    sidecar.update(|_, state| {
        state.is_adopting = false;
        Ok(())
    })?;
    Ok(())
}

impl Local {
    fn of(path: &Path) -> Result<Local> {
        let (pinned, _) = PinnedDatabase::open(path, None)?;
        let position = *pinned.position();
        let mut last = FxHashMap::default();
        if position.frame > 0 {
            let wal = with_suffix(path, "-wal");
            let failed = |source| aquifer_sqlite::Error::Wal { path: path.to_owned(), source };
            let file = File::open(&wal).map_err(Error::file("read", &wal))?;
            let reader = FrameReader::from_start(&file, position.salts).map_err(Error::file("read", &wal))?;
            let mut reader = reader.map_err(failed)?;
            while let Some(frame) =
                reader.next(position.frame).map_err(Error::file("read", &wal))?.map_err(failed)?
            {
                last.insert(frame.pgno.get(), frame.number);
            }
        }
        Ok(Local { pinned, frames: position.frame, last })
    }
}

fn refused(path: &Path, reason: String) -> Error {
    Error::LibsqlCopy { path: path.to_owned(), reason }
}

/// CRC-32 as zlib has it.
fn crc32(bytes: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_that_of_libsql() {
        assert_eq!(super::crc32(b"123456789"), 0xCBF4_3926);
    }
}
