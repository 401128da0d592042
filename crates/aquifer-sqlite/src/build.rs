//! Whether the SQLite in this program can do what Aquifer needs.

use crate::{Error, Result};

/// Checks the compile-time options of the SQLite in this program. Call once at start-up.
///
/// # Errors
/// [`Error::Build`] names the first option that is missing.
pub fn check_build() -> Result<()> {
    let db = rusqlite::Connection::open_in_memory()
        .map_err(|source| Error::Sqlite { path: ":memory:".into(), source })?;
    let used = |option: &str| -> Result<bool> {
        db.query_row("SELECT sqlite_compileoption_used(?)", [option], |row| row.get(0))
            .map_err(|source| Error::Sqlite { path: ":memory:".into(), source })
    };
    for option in ["ENABLE_DBPAGE_VTAB", "ENABLE_SNAPSHOT"] {
        if !used(option)? {
            return Err(Error::Build(option));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_sqlite_has_what_we_need() {
        check_build().unwrap();
    }

    #[test]
    fn foreign_keys_are_off_by_default_as_in_stock_sqlite() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let on: bool = db.query_row("PRAGMA foreign_keys", [], |row| row.get(0)).unwrap();
        assert!(!on);
    }
}
