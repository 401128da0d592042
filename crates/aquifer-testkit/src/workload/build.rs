//! Builds a database of a given kind and size that looks as if it had been lived in.

use std::fs;
use std::io;
use std::path::Path;

use rusqlite::{Connection, Result, Transaction};

use super::text::Source;
use super::{Kind, blobs, json, kv, orders};

/// What database to build.
#[derive(Clone, Debug)]
pub struct Build {
    /// The kind of application.
    pub kind: Kind,
    /// Size of the file aimed at, in bytes: met to 2 % and one batch (of blobs, 2 MB) above.
    pub bytes: u64,
    /// Decides the content.
    pub seed: u64,
    /// Bytes per page: a power of two from 512 to 65536.
    pub page_size: u32,
    /// Leave it in WAL mode (else: rollback journal).
    pub wal: bool,
    /// Update and delete some rows of `orders` and `json` at the end, so that pages are filled as those of a
    /// used database are.
    pub age: bool,
}

impl Build {
    /// An aged database in WAL mode with pages of 4096 bytes.
    pub const fn new(kind: Kind, bytes: u64, seed: u64) -> Build {
        Build { kind, bytes, seed, page_size: 4096, wal: true, age: true }
    }
}

/// Creates the database at `path`, in place of one that is there, and returns its size in bytes.
pub fn build(path: &Path, options: &Build) -> Result<u64> {
    remove_database(path).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let mut db = Connection::open(path)?;
    db.execute_batch(&format!(
        "PRAGMA page_size={}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
         PRAGMA cache_size=-400000; PRAGMA locking_mode=EXCLUSIVE;",
        options.page_size
    ))?;
    let mut source = Source::new(options.seed);
    // Ageing adds the last hundredths.
    let fill = if options.age { options.bytes * 98 / 100 } else { options.bytes };
    let size = Size { target: options.bytes, fill };
    match options.kind {
        Kind::Orders => orders::build(&mut db, &mut source, size, options.age)?,
        Kind::Json => json::build(&mut db, &mut source, size, options.age)?,
        Kind::Blobs => blobs::build(&mut db, &mut source, size)?,
        Kind::Kv => kv::build(&mut db, &mut source, size)?,
    }
    db.execute_batch("PRAGMA locking_mode=NORMAL; PRAGMA journal_mode=DELETE;")?;
    if options.wal {
        db.execute_batch("PRAGMA journal_mode=WAL;")?;
    }
    let bytes = page_bytes(&db)?;
    db.close().map_err(|(_, error)| error)?;
    Ok(bytes)
}

/// Size of the database in bytes, free pages included.
pub fn page_bytes(db: &Connection) -> Result<u64> {
    let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let page_size: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    Ok((pages * page_size) as u64)
}

/// Sizes in bytes: of the finished database, and at which to stop filling it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) target: u64,
    pub(super) fill: u64,
}

/// Runs `batch` in transactions of its own until the database has its size.
pub(super) fn grow(
    db: &mut Connection,
    size: Size,
    mut batch: impl FnMut(&Transaction<'_>) -> Result<()>,
) -> Result<()> {
    loop {
        let tx = db.transaction()?;
        batch(&tx)?;
        tx.commit()?;
        if page_bytes(db)? >= size.fill {
            return Ok(());
        }
    }
}

fn remove_database(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_size_decide_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        for kind in Kind::ALL {
            let (a, b, c) = (dir.path().join("a.db"), dir.path().join("b.db"), dir.path().join("c.db"));
            build(&a, &Build::new(kind, 1 << 20, 1)).unwrap();
            build(&b, &Build::new(kind, 1 << 20, 1)).unwrap();
            build(&c, &Build::new(kind, 1 << 20, 2)).unwrap();
            assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{kind}: same seed, other bytes");
            assert!(fs::read(&a).unwrap() != fs::read(&c).unwrap(), "{kind}: other seed, same bytes");
        }
    }

    #[test]
    fn every_kind_is_whole_and_has_its_size_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        for kind in Kind::ALL {
            for (page_size, wal) in [(512, false), (4096, true), (65536, true)] {
                let path = dir.path().join(format!("{kind}-{page_size}.db"));
                let options = Build { page_size, wal, ..Build::new(kind, 2 << 20, 3) };
                let bytes = build(&path, &options).unwrap();
                assert_eq!(bytes, fs::metadata(&path).unwrap().len());
                assert!(((2 << 20) * 98 / 100..6 << 20).contains(&bytes), "{kind}: {bytes} bytes");
                let db = Connection::open(&path).unwrap();
                let ask = |pragma: &str| {
                    db.query_row(&format!("PRAGMA {pragma}"), [], |row| {
                        row.get::<_, rusqlite::types::Value>(0)
                    })
                    .unwrap()
                };
                assert_eq!(ask("page_size"), i64::from(page_size).into());
                assert_eq!(ask("journal_mode"), if wal { "wal" } else { "delete" }.to_owned().into());
                assert_eq!(ask("integrity_check"), "ok".to_owned().into());
            }
        }
    }
}
