//! One row as SQL: what it is found by, what it must have been, what it becomes.

use std::borrow::Cow;

use aquifer_sqlite::btree::Value;

use super::exact::{Reals, in_powers_of_two, is_delicate};
use crate::diff::{Key, Table, quoted};
use crate::remote::sendable;

/// Bytes of the longest value that is sent to be compared.
const COMPARED: usize = 64 << 10;

/// Samples that are compared of longer ones, and the bytes or characters of each.
const SAMPLES: usize = 64;
const SAMPLE: usize = 64;

/// A table, as statements name it.
pub(super) struct Names {
    pub(super) table: String,
    pub(super) columns: Vec<String>,
    /// What a row is found by: the rowid, or the columns of the primary key.
    pub(super) key: Vec<String>,
    /// Which column is the rowid.
    pub(super) rowid_column: Option<usize>,
    /// The rowid has to be given beside the columns.
    pub(super) is_rowid_apart: bool,
}

impl Names {
    /// `None`: nothing finds its rows.
    pub(super) fn of(table: &Table) -> Option<Names> {
        let columns: Vec<_> = table.columns.iter().map(|name| quoted(name)).collect();
        let primary = table.primary_key();
        let key: Vec<_> = if primary.is_empty() {
            vec![table.rowid()?.to_owned()]
        } else {
            primary.into_iter().map(|column| columns[column].clone()).collect()
        };
        let is_rowid_apart = table.primary_key().is_empty() && table.rowid_column().is_none();
        let rowid_column = table.rowid_column();
        Some(Names { table: quoted(&table.name), columns, key, rowid_column, is_rowid_apart })
    }

    /// The columns that an updated row is compared by: those that changed. Where rowids are hidden all of them: VACUUM
    /// may have given the rowid to another row, in which these are the same.
    pub(super) fn guarded(&self, changed: &[usize]) -> Vec<usize> {
        if self.is_rowid_apart { self.compared().collect() } else { changed.to_vec() }
    }

    /// The columns that a deleted row is compared by: its rowid is what it was found by.
    pub(super) fn compared(&self) -> impl Iterator<Item = usize> {
        (0..self.columns.len()).filter(|&column| Some(column) != self.rowid_column)
    }
}

pub(super) fn key_values(key: &Key) -> Vec<Value> {
    match key {
        Key::Rowid(rowid) => vec![Value::Integer(*rowid)],
        Key::Primary(values) => values.clone(),
    }
}

/// A statement about one row, with what its values need.
pub(super) struct Single {
    pub(super) sql: String,
    pub(super) args: Vec<Value>,
    reals: Reals,
}

impl Single {
    /// For a server that reads reals so.
    pub(super) fn new(reals: Reals) -> Single {
        Single { sql: String::new(), args: Vec::new(), reals }
    }

    pub(super) fn push(&mut self, sql: &str) -> &mut Single {
        self.sql.push_str(sql);
        self
    }

    pub(super) fn value(&mut self, value: &Value) -> &mut Single {
        if let Value::Real(real) = value
            && self.reals == Reals::Near
            && is_delicate(*real)
        {
            let (sql, arg) = in_powers_of_two(*real);
            self.push(&sql).args.push(arg);
            return self;
        }
        let (sql, arg) = sendable(value);
        self.push(sql).args.push(arg.into_owned());
        self
    }

    /// ` WHERE` the key is this one.
    pub(super) fn found_by(&mut self, names: &Names, key: &Key) -> &mut Single {
        for (i, (name, value)) in names.key.iter().zip(key_values(key)).enumerate() {
            self.push(if i == 0 { " WHERE " } else { " AND " }).push(name).push(" = ").value(&value);
        }
        self
    }

    /// ` AND` the column has this very value.
    pub(super) fn guard(&mut self, name: &str, old: &Value) -> &mut Single {
        let kind = match old {
            Value::Null => "null",
            Value::Integer(_) => "integer",
            Value::Real(_) => "real",
            Value::Text(_) => "text",
            Value::Blob(_) => "blob",
        };
        self.push(&format!(" AND typeof({name}) = '{kind}'"));
        match Sampled::of(old) {
            Some(sampled) => {
                let parts: Vec<_> =
                    sampled.starts.iter().map(|start| format!("substr({name}, {start}, {SAMPLE})")).collect();
                self.push(&format!(" AND length({name}) = {}", sampled.length));
                self.push(&format!(" AND CAST({} AS BLOB) IS CAST(", parts.join(" || ")))
                    .value(&sampled.bytes);
                self.push(" AS BLOB)")
            }
            None if *old == Value::Null => self,
            None => self.push(&format!(" AND {name} IS ")).value(old).push(" COLLATE BINARY"),
        }
    }
}

/// Whether a value is too long to be sent only to be compared.
pub(super) fn is_sampled(value: &Value) -> bool {
    Sampled::of(value).is_some()
}

/// Whether a value goes into a statement as it is, of a server that reads reals so.
pub(super) fn is_plain(value: &Value, reals: Reals) -> bool {
    let is_read = reals == Reals::Exact || !matches!(value, Value::Real(real) if is_delicate(*real));
    is_read && matches!(sendable(value), ("?", Cow::Borrowed(_)))
}

/// What a long value is known by.
struct Sampled {
    /// Bytes of a blob, characters of text.
    length: usize,
    /// Where the samples begin, 1-based.
    starts: Vec<usize>,
    /// All of them together, as a value of the same type.
    bytes: Value,
}

impl Sampled {
    fn of(value: &Value) -> Option<Sampled> {
        let spread = |length: usize| (0..SAMPLES).map(move |i| i * (length - SAMPLE) / (SAMPLES - 1));
        match value {
            Value::Text(text) if text.len() > COMPARED => {
                // SQLite's functions stop at a zero.
                let text = std::str::from_utf8(text).ok().filter(|text| !text.contains('\0'))?;
                let length = text.chars().count();
                let starts: Vec<_> = spread(length).collect();
                let (mut sampled, mut rest, mut at) = (String::new(), text, 0);
                for &start in &starts {
                    let skipped =
                        rest.char_indices().nth(start - at).map_or(rest.len(), |(skipped, _)| skipped);
                    (rest, at) = (&rest[skipped..], start);
                    sampled.extend(rest.chars().take(SAMPLE));
                }
                let bytes = Value::Text(sampled.into_bytes());
                Some(Sampled { length, starts: starts.iter().map(|start| start + 1).collect(), bytes })
            }
            Value::Blob(bytes) if bytes.len() > COMPARED => {
                let starts: Vec<_> = spread(bytes.len()).collect();
                let sampled = starts.iter().flat_map(|&start| &bytes[start..start + SAMPLE]).copied();
                let sampled = Value::Blob(sampled.collect());
                Some(Sampled {
                    length: bytes.len(),
                    starts: starts.iter().map(|start| start + 1).collect(),
                    bytes: sampled,
                })
            }
            _ => None,
        }
    }
}
