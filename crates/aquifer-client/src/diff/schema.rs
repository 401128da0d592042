//! What is in a database, as SQLite itself says.

use std::collections::BTreeMap;

use aquifer_format::Pgno;
use aquifer_sqlite::btree::Value;
use rusqlite::Connection;

use super::image::Image;
use super::layout::Layout;
use super::virtual_table::VirtualTable;
use super::{Error, Result};

/// The schema of one image.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// Ordinary tables by their name in lower case: SQLite does not tell the cases of ASCII letters apart.
    pub(crate) tables: BTreeMap<String, Layout>,
    /// Virtual tables by their name in lower case.
    pub(crate) virtual_tables: BTreeMap<String, VirtualTable>,
    /// Indexes, triggers and views that have SQL, in the order in which they were created.
    pub(crate) others: Vec<Other>,
    /// Roots of all trees: tables, indexes, the schema itself.
    pub(crate) roots: Vec<Pgno>,
    /// The last rowids of AUTOINCREMENT tables, by table.
    pub(crate) sequences: BTreeMap<String, Value>,
}

/// An index, a trigger or a view.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Other {
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The table that it belongs to, in lower case.
    pub(crate) table: String,
    pub(crate) sql: String,
}

impl Schema {
    pub(super) fn read(image: &Image) -> Result<Schema> {
        let db = image.open()?;
        Schema::of(&db).map_err(|source| Error::Sqlite { side: image.side, source })
    }

    /// The schema of an open database.
    pub(crate) fn of(db: &Connection) -> rusqlite::Result<Schema> {
        let mut schema = Schema { roots: vec![Pgno::ONE], ..Schema::default() };
        // What kind of table each is.
        let mut kinds = BTreeMap::new();
        let mut statement =
            db.prepare("SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main'")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            kinds.insert(row.get::<_, String>(0)?, (row.get::<_, String>(1)?, row.get(2)?, row.get(3)?));
        }
        let (mut shadows, mut virtual_tables) = (Vec::new(), BTreeMap::new());
        let mut statement =
            db.prepare("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY rowid")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name, table): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let root = row.get::<_, Option<u32>>(3)?.and_then(Pgno::new);
            let sql: Option<String> = row.get(4)?;
            schema.roots.extend(root);
            let of = kinds.get(&table).map_or("", |(of, ..)| of.as_str());
            if of == "shadow" {
                shadows.extend(root.map(|root| (name, table, root)));
                continue;
            }
            // Automatic indexes come with their tables; SQLite's own tables are made by it.
            let Some(sql) = sql.filter(|_| !name.starts_with("sqlite_")) else { continue };
            let key = name.to_ascii_lowercase();
            match (kind.as_str(), of, root) {
                ("table", "virtual", _) => {
                    virtual_tables.insert(key, (name, sql, BTreeMap::new()));
                }
                ("table", _, Some(root)) => {
                    let (without_rowid, strict) = kinds.get(&table).map_or((false, false), |k| (k.1, k.2));
                    schema.tables.insert(key, Layout::read(db, &name, sql, root, without_rowid, strict)?);
                }
                _ => schema.others.push(Other { kind, name, table: table.to_ascii_lowercase(), sql }),
            }
        }
        for (name, table, root) in shadows {
            // `search_data` belongs to `search`; the longest name that fits.
            let owner = table.match_indices('_').rev().map(|(end, _)| table[..end].to_ascii_lowercase());
            let mut owner = owner.filter(|owner| virtual_tables.contains_key(owner));
            if let Some((.., shadows)) = owner.next().and_then(|owner| virtual_tables.get_mut(&owner)) {
                shadows.insert(name, root);
            }
        }
        for (key, (name, sql, shadows)) in virtual_tables {
            schema.virtual_tables.insert(key, VirtualTable::read(db, name, sql, shadows)?);
        }
        if kinds.contains_key("sqlite_sequence") {
            let mut statement = db.prepare("SELECT name, seq FROM sqlite_sequence WHERE name IS NOT NULL")?;
            let sequences = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            schema.sequences = sequences.collect::<rusqlite::Result<_>>()?;
        }
        Ok(schema)
    }

    /// The view of this name, which is in lower case.
    pub(crate) fn view(&self, name: &str) -> Option<&Other> {
        self.others.iter().find(|other| other.kind == "view" && other.name.eq_ignore_ascii_case(name))
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
