//! What was decided when local and remote changes met.

use rusqlite::Connection;

use crate::rebase::Conflict;

/// A conflict, as it is kept.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RecordedConflict {
    /// Its number, ascending with time.
    pub id: i64,
    /// When it was decided, in milliseconds since 1970.
    pub at: i64,
    /// The server's revision that it was found in.
    pub revision: Option<String>,
    /// What it is about.
    #[serde(flatten)]
    pub conflict: Conflict,
}

/// The conflicts of a database.
pub(crate) struct Conflicts;

/// Of conflicts that a pull has found which is not applied yet.
const STAGED: i64 = 0;

impl Conflicts {
    /// Keeps conflicts until it is known whether the pull is applied.
    pub(crate) fn stage(db: &Connection, conflicts: &[Conflict]) -> rusqlite::Result<()> {
        let mut statement = db.prepare_cached("INSERT INTO conflicts(at, json) VALUES (?1, ?2)")?;
        for conflict in conflicts {
            let json = serde_json::to_string(conflict)
                .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
            statement.execute((STAGED, json))?;
        }
        Ok(())
    }

    pub(crate) fn drop_staged(db: &Connection) -> rusqlite::Result<()> {
        db.execute("DELETE FROM conflicts WHERE at = ?1", [STAGED]).map(drop)
    }

    /// They are what happened.
    pub(crate) fn promote(db: &Connection, at: i64, revision: Option<&str>) -> rusqlite::Result<()> {
        db.execute("UPDATE conflicts SET at = ?1, revision = ?2 WHERE at = ?3", (at, revision, STAGED))
            .map(drop)
    }

    /// Those after a number, in the order in which they were found.
    pub(crate) fn after(db: &Connection, id: i64, limit: usize) -> rusqlite::Result<Vec<RecordedConflict>> {
        let sql =
            "SELECT id, at, revision, json FROM conflicts WHERE at <> ?1 AND id > ?2 ORDER BY id LIMIT ?3";
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement.query_map((STAGED, id, limit as i64), |row| {
            let json: String = row.get(3)?;
            let conflict = serde_json::from_str(&json).map_err(|e| {
                rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, e.into())
            })?;
            Ok(RecordedConflict { id: row.get(0)?, at: row.get(1)?, revision: row.get(2)?, conflict })
        })?;
        rows.collect()
    }

    /// How many there are.
    pub(crate) fn count(db: &Connection) -> rusqlite::Result<u64> {
        db.query_row("SELECT count(*) FROM conflicts WHERE at <> ?1", [STAGED], |row| row.get::<_, i64>(0))
            .map(i64::cast_unsigned)
    }

    /// Forgets those up to a number.
    pub(crate) fn forget(db: &Connection, up_to: i64) -> rusqlite::Result<usize> {
        db.execute("DELETE FROM conflicts WHERE at <> ?1 AND id <= ?2", (STAGED, up_to))
    }
}
