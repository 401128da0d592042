//! Many rows in one statement.
//!
//! A server runs a statement with a hundred rows much faster than a hundred statements, and prepares each text once
//! only. So statements of one kind come with as many rows as fit, and what remains with the largest power of two.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_sqlite::btree::Value;

use super::row::Names;

/// Rows of one statement at most.
const ROWS: usize = 128;

/// Bytes of values in one statement, about.
const BYTES: usize = 64 << 10;

/// Bytes of one statement's text: servers keep prepared what is not longer than 4 KiB.
const TEXT: usize = 3 << 10;

/// Rows that wait for others of their kind, of all kinds of a table.
const WAITING: usize = 4 * ROWS;

/// What a statement does, and so what its rows have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// All columns, and the rowid if it is none of them.
    Insert,
    /// The key; the old values that are compared; the new ones of these columns.
    Update(Vec<usize>),
    /// The key; all old values.
    Delete,
}

/// A statement, and the rows that it is about.
pub(super) struct Statement {
    pub(super) sql: Arc<str>,
    pub(super) args: Vec<Value>,
    pub(super) rows: usize,
    /// How many rows it changed has to be asked: it finds only those that are as they were.
    pub(super) is_guarded: bool,
}

/// Rows of one table that wait for others.
pub(super) struct Groups<'a> {
    names: &'a Names,
    waiting: BTreeMap<Kind, Group>,
    count: usize,
    texts: BTreeMap<(Kind, usize), Arc<str>>,
}

#[derive(Default)]
struct Group {
    args: Vec<Value>,
    rows: usize,
    bytes: usize,
}

impl<'a> Groups<'a> {
    pub(super) fn new(names: &'a Names) -> Groups<'a> {
        Groups { names, waiting: BTreeMap::new(), count: 0, texts: BTreeMap::new() }
    }

    /// Adds a row; gives the statements that have enough rows.
    pub(super) fn add(&mut self, kind: &Kind, row: Vec<Value>) -> Vec<Statement> {
        let most = self.most(kind);
        let group = self.waiting.entry(kind.clone()).or_default();
        group.bytes += row.iter().map(bytes).sum::<usize>();
        group.rows += 1;
        group.args.extend(row);
        self.count += 1;
        if group.rows >= most || group.bytes >= BYTES {
            self.flush(kind)
        } else if self.count >= WAITING {
            self.finish()
        } else {
            Vec::new()
        }
    }

    /// Statements for all rows that wait.
    pub(super) fn finish(&mut self) -> Vec<Statement> {
        let kinds: Vec<_> = self.waiting.keys().cloned().collect();
        kinds.iter().flat_map(|kind| self.flush(kind)).collect()
    }

    fn flush(&mut self, kind: &Kind) -> Vec<Statement> {
        let Some(mut group) = self.waiting.remove(kind) else { return Vec::new() };
        self.count -= group.rows;
        let most = self.most(kind);
        let mut statements = Vec::new();
        while group.rows > 0 {
            let rows = if group.rows >= most { most } else { 1 << group.rows.ilog2() };
            let rest = group.args.split_off(rows * self.width(kind));
            let args = std::mem::replace(&mut group.args, rest);
            group.rows -= rows;
            let names = self.names;
            let text = || sql(names, kind, rows).into();
            let sql = Arc::clone(self.texts.entry((kind.clone(), rows)).or_insert_with(text));
            statements.push(Statement { sql, args, rows, is_guarded: *kind != Kind::Insert });
        }
        statements
    }

    /// Values of a row.
    fn width(&self, kind: &Kind) -> usize {
        match kind {
            Kind::Insert => self.names.columns.len() + usize::from(self.names.is_rowid_apart),
            Kind::Update(columns) => self.names.key.len() + self.names.guarded(columns).len() + columns.len(),
            Kind::Delete => self.names.key.len() + self.names.compared().count(),
        }
    }

    /// Rows of a statement.
    fn most(&self, kind: &Kind) -> usize {
        // `(?,?),` each; of deletions by a key of several columns all is written for each.
        let text = match kind {
            Kind::Delete if self.names.key.len() > 1 => sql(self.names, kind, 1).len(),
            _ => 2 * self.width(kind) + 2,
        };
        (TEXT / text).clamp(1, ROWS)
    }
}

fn bytes(value: &Value) -> usize {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}

fn sql(names: &Names, kind: &Kind, rows: usize) -> String {
    let Names { table, columns, key, .. } = names;
    let values = |width: usize| {
        let row = format!("({})", vec!["?"; width].join(","));
        vec![row.as_str(); rows].join(",")
    };
    let found = || {
        // The signs keep SQLite from reading the table, and looking for each of its rows among the values.
        let parts = key.iter().enumerate().map(|(i, key)| format!("t.{key} = +v.column{}", i + 1));
        parts.collect::<Vec<_>>().join(" AND ")
    };
    // Equal are values of the same type and bytes, whatever the column's collation.
    let guards = |columns: &mut dyn Iterator<Item = usize>| {
        let first = key.len() + 1;
        let parts = columns.enumerate().map(|(i, column)| {
            let (name, old) = (&names.columns[column], first + i);
            format!(
                " AND t.{name} IS +v.column{old} COLLATE BINARY AND typeof(t.{name}) = typeof(v.column{old})"
            )
        });
        parts.collect::<String>()
    };
    match kind {
        // A conflict clause of the table's own would replace or ignore what is there.
        Kind::Insert => {
            let mut names_of = columns.clone();
            names_of.extend(key.first().filter(|_| names.is_rowid_apart).cloned());
            let width = names_of.len();
            format!("INSERT OR ABORT INTO {table}({}) VALUES {}", names_of.join(","), values(width))
        }
        Kind::Update(changed) => {
            let guarded = names.guarded(changed);
            let first = key.len() + guarded.len() + 1;
            let set = changed.iter().enumerate();
            let set = set.map(|(i, &column)| format!("{} = v.column{}", columns[column], first + i));
            format!(
                "UPDATE OR ABORT {table} AS t SET {} FROM (VALUES {}) AS v WHERE {}{}",
                set.collect::<Vec<_>>().join(", "),
                values(key.len() + guarded.len() + changed.len()),
                found(),
                guards(&mut guarded.into_iter())
            )
        }
        // SQLite would look for the first column of a key only.
        Kind::Delete if key.len() > 1 => {
            let row = |row: usize| {
                let first = 1 + row * (key.len() + names.compared().count());
                let found = key.iter().enumerate().map(|(i, key)| format!("{key} = ?{}", first + i));
                let guards = names.compared().enumerate().map(|(i, column)| {
                    let (name, old) = (&columns[column], first + key.len() + i);
                    // What a function gives has no collation; COLLATE would keep SQLite from using the key.
                    format!("ifnull({name}, NULL) IS ?{old} AND typeof({name}) = typeof(?{old})")
                });
                format!("({})", found.chain(guards).collect::<Vec<_>>().join(" AND "))
            };
            format!("DELETE FROM {table} WHERE {}", (0..rows).map(row).collect::<Vec<_>>().join(" OR "))
        }
        Kind::Delete => {
            let key = key.join(", ");
            format!(
                "DELETE FROM {table} WHERE {key} IN (SELECT t.{key} FROM (VALUES {}) AS v CROSS JOIN {table} AS t WHERE {}{})",
                values(1 + names.compared().count()),
                found(),
                guards(&mut names.compared())
            )
        }
    }
}
