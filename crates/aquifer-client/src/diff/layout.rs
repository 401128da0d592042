//! How a table's rows are stored: which value of a record belongs to which column.

use aquifer_format::Pgno;
use aquifer_sqlite::btree::Value;
use rusqlite::{Connection, params};

use super::key::Collation;

/// A table of one image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) sql: String,
    pub(crate) root: Pgno,
    /// All columns in the table's order, generated ones too.
    pub(crate) columns: Vec<Column>,
    /// The column of each value of a record.
    pub(crate) stored: Vec<usize>,
    pub(crate) key: Key,
    pub(crate) is_strict: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) declared: String,
    pub(crate) default: Option<String>,
    /// Generated columns cannot be written: they follow from the others.
    pub(crate) is_generated: bool,
}

impl Column {
    /// Integers in a column of reals are stored as integers where that is shorter: sqlite.org/datatype3.html, 3.1.
    pub(crate) fn is_real(&self) -> bool {
        let declared = self.declared.to_ascii_uppercase();
        let has = |part| declared.contains(part);
        !["INT", "CHAR", "CLOB", "TEXT", "BLOB"].into_iter().any(has)
            && ["REAL", "FLOA", "DOUB"].into_iter().any(has)
    }
}

/// What rows of a table are found by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Key {
    /// The rowid, and the column that is another name of it.
    Rowid(Option<usize>),
    /// The first values of each record.
    Primary(Vec<KeyPart>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeyPart {
    pub(crate) column: usize,
    /// `None`: one that only the application has.
    pub(crate) collation: Option<Collation>,
    pub(crate) is_descending: bool,
}

impl Layout {
    /// Asks SQLite for it.
    pub(crate) fn read(
        db: &Connection,
        name: &str,
        sql: String,
        root: Pgno,
        without_rowid: bool,
        is_strict: bool,
    ) -> rusqlite::Result<Layout> {
        // Hidden: 1 in virtual tables, 2 generated and not stored, 3 generated and stored.
        let mut statement = db.prepare_cached(
            "SELECT name, type, dflt_value, pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid",
        )?;
        let mut columns = Vec::new();
        let (mut stored, mut primary) = (Vec::new(), None);
        let mut rows = statement.query([name])?;
        while let Some(row) = rows.next()? {
            let hidden: i64 = row.get(4)?;
            if hidden != 2 {
                stored.push(columns.len());
            }
            if row.get::<_, i64>(3)? != 0 {
                primary = Some(columns.len());
            }
            columns.push(Column {
                name: row.get(0)?,
                declared: row.get(1)?,
                default: row.get(2)?,
                is_generated: hidden > 1,
            });
        }
        let index: Option<String> = db
            .prepare_cached("SELECT name FROM pragma_index_list(?1) WHERE origin = 'pk'")?
            .query_map([name], |row| row.get(0))?
            .next()
            .transpose()?;
        let key = match index {
            Some(index) if without_rowid => {
                let mut parts = Vec::new();
                stored.clear();
                let mut statement = db.prepare_cached(
                    "SELECT cid, coll, \"desc\", key FROM pragma_index_xinfo(?1) ORDER BY seqno",
                )?;
                let mut rows = statement.query(params![index])?;
                while let Some(row) = rows.next()? {
                    let column = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX);
                    stored.push(column);
                    if row.get(3)? {
                        let collation = Collation::named(&row.get::<_, String>(1)?);
                        parts.push(KeyPart { column, collation, is_descending: row.get(2)? });
                    }
                }
                Key::Primary(parts)
            }
            // A primary key without an index of its own is the rowid.
            Some(_) => Key::Rowid(None),
            None => Key::Rowid(primary),
        };
        let sane = |column: &usize| *column < columns.len();
        if !stored.iter().all(sane) || without_rowid != matches!(key, Key::Primary(_)) {
            return Err(rusqlite::Error::InvalidQuery);
        }
        Ok(Layout { name: name.to_owned(), sql, root, columns, stored, key, is_strict })
    }

    /// The name by which SQL reaches the rowid; `None` without one, and where columns have taken all its names.
    pub(crate) fn rowid(&self) -> Option<&'static str> {
        let is_free = |name: &&str| !self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        matches!(self.key, Key::Rowid(_)).then(|| ["rowid", "_rowid_", "oid"].into_iter().find(is_free))?
    }

    /// What a record that is too short for the column has in it: the column was added after the record was written.
    pub(crate) fn default(&self, scratch: &Connection, column: usize) -> rusqlite::Result<Value> {
        let Column { declared, default, .. } = &self.columns[column];
        let Some(default) = default else { return Ok(Value::Null) };
        // SQLite drops the parentheses around an expression, and a lone word is text only without them.
        for default in [default.clone(), format!("({default})")] {
            let strict = if self.is_strict { "STRICT" } else { "" };
            let create = format!("CREATE TEMP TABLE short(x INT, c {declared} DEFAULT {default}) {strict}");
            if scratch.execute_batch(&create).is_ok() {
                scratch.execute_batch("INSERT INTO short(x) VALUES(1)")?;
                let value = scratch.query_row("SELECT c FROM short", [], |row| row.get(0));
                scratch.execute_batch("DROP TABLE short")?;
                return value;
            }
        }
        Err(rusqlite::Error::InvalidQuery)
    }
}
