//! Sets of pages, and other lists, by name.

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension};

/// A set of pages; empty where there is none of this name.
pub(super) fn get(db: &Connection, name: &str) -> rusqlite::Result<RoaringBitmap> {
    let bytes = get_bytes(db, name)?;
    if bytes.is_empty() {
        return Ok(RoaringBitmap::new());
    }
    RoaringBitmap::deserialize_from(bytes.as_slice())
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, e.into()))
}

pub(super) fn put(db: &Connection, name: &str, pages: &RoaringBitmap) -> rusqlite::Result<()> {
    let mut bytes = Vec::with_capacity(pages.serialized_size());
    // Into memory it cannot fail.
    let _ = pages.serialize_into(&mut bytes);
    put_bytes(db, name, &bytes)
}

/// Empty where there are none of this name.
pub(super) fn get_bytes(db: &Connection, name: &str) -> rusqlite::Result<Vec<u8>> {
    let sql = "SELECT content FROM sets WHERE name = ?1";
    Ok(db.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?.unwrap_or_default())
}

pub(super) fn put_bytes(db: &Connection, name: &str, bytes: &[u8]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO sets(name, content) VALUES (?1, ?2)
               ON CONFLICT(name) DO UPDATE SET content = excluded.content";
    db.prepare_cached(sql)?.execute((name, bytes)).map(drop)
}

pub(super) fn forget(db: &Connection, name: &str) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM sets WHERE name = ?1")?.execute([name]).map(drop)
}

/// Pages that a first fetch has brought.
pub(crate) struct Received;

const RECEIVED: &str = "received";

impl Received {
    pub(crate) fn get(db: &Connection) -> rusqlite::Result<RoaringBitmap> {
        get(db, RECEIVED)
    }

    pub(crate) fn put(db: &Connection, pages: &RoaringBitmap) -> rusqlite::Result<()> {
        put(db, RECEIVED, pages)
    }
}
