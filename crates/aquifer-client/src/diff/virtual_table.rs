//! Virtual tables: what they hold, not the shadow tables in which they hold it.

use std::collections::{BTreeMap, VecDeque};

use aquifer_format::Pgno;
use aquifer_sqlite::btree::Value;
use rusqlite::{Connection, Row};

use super::image::Image;
use super::layout::Layout;
use super::schema::quoted;
use super::{Error, Key, Result, RowChange};

/// A virtual table of one image.
#[derive(Debug)]
pub(crate) struct VirtualTable {
    pub(crate) name: String,
    pub(crate) sql: String,
    /// Columns that can be written.
    pub(crate) columns: Vec<String>,
    /// Roots of its shadow tables and of their indexes, by name.
    pub(crate) shadows: BTreeMap<String, Pgno>,
    pub(crate) content: Content,
}

/// Where the rows of a virtual table are.
#[derive(Debug)]
pub(crate) enum Content {
    /// In a shadow table: by rowid, and otherwise as they were written.
    Shadow(Layout),
    /// In nodes of its own, so that it has to be asked for them.
    Nodes,
    /// In another table: what it has of its own is an index, and can be built again.
    Elsewhere,
    /// Nobody can tell, and why.
    Unknown(&'static str),
}

impl VirtualTable {
    /// Asks SQLite for it.
    pub(crate) fn read(
        db: &Connection,
        name: String,
        sql: String,
        shadows: BTreeMap<String, Pgno>,
    ) -> rusqlite::Result<VirtualTable> {
        let mut statement =
            db.prepare_cached("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid")?;
        let columns = statement.query_map([&name], |row| row.get(0))?;
        let columns: Vec<String> = columns.collect::<rusqlite::Result<_>>()?;
        let content = match module(&sql).as_str() {
            "fts5" => {
                let shadow = format!("{name}_content");
                match shadows.get(&shadow) {
                    Some(&root) => {
                        let layout = Layout::read(db, &shadow, String::new(), root, false, false)?;
                        let is_plain = layout.columns.len() == columns.len() + 1;
                        let locales = Content::Unknown("its full-text index keeps more than the text");
                        if is_plain { Content::Shadow(layout) } else { locales }
                    }
                    None if is_contentless(&name, &sql) => {
                        Content::Unknown("its full-text index does not keep the text")
                    }
                    None => Content::Elsewhere,
                }
            }
            "rtree" | "rtree_i32" => Content::Nodes,
            _ => Content::Unknown("only the program that made this virtual table knows its rows"),
        };
        Ok(VirtualTable { name, sql, columns, shadows, content })
    }
}

/// The module that a virtual table uses, in lower case.
fn module(sql: &str) -> String {
    let mut quote = None;
    let mut word = String::new();
    let mut is_next = false;
    for c in sql.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => {}
            None if c.is_alphanumeric() || c == '_' => word.push(c.to_ascii_lowercase()),
            None => {
                if is_next && !word.is_empty() {
                    return word;
                }
                is_next |= word == "using";
                word.clear();
                quote = match c {
                    '[' => Some(']'),
                    '"' | '`' | '\'' => Some(c),
                    _ => None,
                };
            }
        }
    }
    word
}

/// Whether a full-text index without a table of its own is one without any: then it cannot be built again.
fn is_contentless(name: &str, sql: &str) -> bool {
    let table = quoted(name);
    let rebuilt =
        Connection::open_in_memory().and_then(|db| db.execute_batch(&format!("{sql}; {}", rebuild(&table))));
    rebuilt.is_err_and(|error| error.to_string().contains("contentless"))
}

/// The statement that builds a full-text index from the table that it is about.
pub(crate) fn rebuild(table: &str) -> String {
    format!("INSERT INTO {table}({table}) VALUES('rebuild')")
}

/// Rows of a virtual table by rowid, some at a time.
pub(crate) struct Rows {
    image: Image,
    db: Connection,
    sql: String,
    ready: VecDeque<(i64, Vec<Value>)>,
    /// Where to go on; `None`: that was the end.
    from: Option<i64>,
}

/// Rows that are held at a time.
const ROWS: usize = 256;

impl Rows {
    pub(super) fn new(image: Image, table: &str, columns: &[String]) -> Result<Rows> {
        let columns: Vec<_> = columns.iter().map(|column| format!("v.{}", quoted(column))).collect();
        // An R-tree finds a row by its rowid, but does not list them in order: its shadow table does.
        let sql = format!(
            "SELECT s.rowid, {} FROM {} s CROSS JOIN {} v ON v.rowid = s.rowid
             WHERE s.rowid >= ?1 ORDER BY s.rowid LIMIT {ROWS}",
            columns.join(", "),
            quoted(&format!("{table}_rowid")),
            quoted(table)
        );
        let db = image.open()?;
        Ok(Rows { image, db, sql, ready: VecDeque::new(), from: Some(i64::MIN) })
    }

    /// Sees to it that the next row is there, if there is one.
    fn fill(&mut self) -> Result<()> {
        let Some(from) = self.from.filter(|_| self.ready.is_empty()) else { return Ok(()) };
        let row = |row: &Row<'_>| {
            let columns = row.as_ref().column_count();
            Ok((row.get(0)?, (1..columns).map(|i| row.get(i)).collect::<rusqlite::Result<_>>()?))
        };
        let found = self
            .db
            .prepare_cached(&self.sql)
            .and_then(|mut select| select.query_map([from], row)?.collect::<rusqlite::Result<VecDeque<_>>>());
        let side = self.image.side;
        self.ready = found.map_err(|source| Error::Sqlite { side, source })?;
        self.from =
            self.ready.back().filter(|_| self.ready.len() == ROWS).and_then(|row| row.0.checked_add(1));
        Ok(())
    }
}

/// The rows of a virtual table that differ.
pub(crate) struct Merge {
    /// `None`: there was no such table.
    pub(crate) base: Option<Rows>,
    pub(crate) current: Rows,
}

impl Merge {
    pub(crate) fn step(&mut self) -> Result<Option<RowChange>> {
        loop {
            if let Some(base) = &mut self.base {
                base.fill()?;
            }
            self.current.fill()?;
            let before = self.base.as_ref().and_then(|base| base.ready.front()).map(|row| row.0);
            let now = self.current.ready.front().map(|row| row.0);
            let has_before = before.is_some() && (now.is_none() || before <= now);
            let has_now = now.is_some() && (before.is_none() || now <= before);
            let before = self.base.as_mut().filter(|_| has_before).and_then(|base| base.ready.pop_front());
            let now =
                Some(&mut self.current).filter(|_| has_now).and_then(|current| current.ready.pop_front());
            match (before, now) {
                (None, None) => return Ok(None),
                (Some((rowid, old)), None) => {
                    return Ok(Some(RowChange::Delete { key: Key::Rowid(rowid), old }));
                }
                (None, Some((rowid, new))) => {
                    return Ok(Some(RowChange::Insert { key: Key::Rowid(rowid), new }));
                }
                (Some((rowid, old)), Some((_, new))) if old != new => {
                    return Ok(Some(RowChange::Update { key: Key::Rowid(rowid), old, new }));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_of_a_virtual_table_is_found_in_its_sql() {
        for (sql, expected) in [
            ("CREATE VIRTUAL TABLE t USING fts5(x)", "fts5"),
            ("CREATE VIRTUAL TABLE \"a using b\" using\n\tRTree ( id, a, b)", "rtree"),
            ("CREATE VIRTUAL TABLE [x] USING m", "m"),
        ] {
            assert_eq!(module(sql), expected);
        }
    }
}
