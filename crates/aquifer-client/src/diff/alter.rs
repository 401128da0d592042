//! From a table's definition in the base to the one it has now: which ALTER TABLE statements lead there.
//!
//! Candidates come from the names of the columns, and SQLite is the judge: they are run in a scratch database that has
//! the base's tables, and are right when that gives the very definition which the current image has. What is not found
//! so is created anew.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::layout::Layout;
use super::schema::{Schema, quoted};

/// How a table came to be what it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Altered {
    /// Its name in the base, in lower case.
    pub(crate) base: String,
    /// Its turn among the tables with statements.
    pub(crate) order: usize,
    /// The statements, in order. Empty: it has the same definition.
    pub(crate) statements: Vec<String>,
    /// For each of its columns, which one of the base's it was; `None`: added since.
    pub(crate) columns: Vec<Option<usize>>,
}

/// Which tables of `base` live on in `current`, by their current names in lower case. Those that do not are dropped,
/// and the others of `current` are created.
pub(crate) fn alterations(base: &Schema, current: &Schema) -> BTreeMap<String, Altered> {
    let mut altered = BTreeMap::new();
    let mut changed = Vec::new();
    for (name, now) in &current.tables {
        match base.tables.get(name) {
            Some(before) if before.sql == now.sql => {
                let columns = (0..now.columns.len()).map(Some).collect();
                altered.insert(
                    name.clone(),
                    Altered { base: name.clone(), order: 0, statements: Vec::new(), columns },
                );
            }
            Some(before) => changed.push((before, now)),
            None => {
                // Renaming leaves a table where it is.
                let gone = |(name, before): &(&String, &Layout)| {
                    before.root == now.root && !current.tables.contains_key(*name)
                };
                changed.extend(base.tables.iter().find(gone).map(|(_, before)| (before, now)));
            }
        }
    }
    if !changed.is_empty() {
        // Whatever SQLite refuses here, it is no worse than creating the tables anew.
        let found = Scratch::new(base, current).and_then(|scratch| scratch.alter(&changed));
        altered.extend(found.unwrap_or_default());
    }
    altered
}

/// A database in memory with the base's tables and indexes.
struct Scratch(Connection);

impl Scratch {
    fn new(base: &Schema, current: &Schema) -> rusqlite::Result<Scratch> {
        let db = Connection::open_in_memory()?;
        for table in base.tables.values() {
            db.execute_batch(&table.sql)?;
        }
        for index in
            base.others.iter().filter(|other| other.kind == "index" && current.others.contains(other))
        {
            db.execute_batch(&index.sql)?;
        }
        Ok(Scratch(db))
    }

    fn alter(&self, changed: &[(&Layout, &Layout)]) -> rusqlite::Result<Vec<(String, Altered)>> {
        // All names first: other tables' foreign keys follow them.
        for (before, now) in changed.iter().filter(|(before, now)| before.name != now.name) {
            self.0.execute_batch(&rename(before, now))?;
        }
        let mut found = Vec::new();
        let mut open = changed.to_vec();
        // Renaming a column changes the definitions of tables whose foreign keys name it: they may have to wait.
        loop {
            let before = open.len();
            let mut left = Vec::new();
            for (before, now) in open {
                match self.first_way(before, now)? {
                    Some(altered) => {
                        let order = found.len();
                        found.push((now.name.to_ascii_lowercase(), Altered { order, ..altered }));
                    }
                    None => left.push((before, now)),
                }
            }
            if left.is_empty() || left.len() == before {
                return Ok(found);
            }
            open = left;
        }
    }

    fn first_way(&self, before: &Layout, now: &Layout) -> rusqlite::Result<Option<Altered>> {
        let candidates = candidates(before, now);
        // A new name is quoted in the definition if it was in the statement.
        let ways = candidates.iter().flat_map(|steps| [(steps, as_it_is as Write), (steps, quoted)]);
        for (steps, write) in ways {
            self.0.execute_batch("SAVEPOINT candidate")?;
            if let Ok(Some(mut statements)) = self.columns(before, now, steps, write) {
                self.0.execute_batch("RELEASE candidate")?;
                if before.name != now.name {
                    statements.insert(0, rename(before, now));
                }
                let base = before.name.to_ascii_lowercase();
                return Ok(Some(Altered { base, order: 0, statements, columns: steps.columns.clone() }));
            }
            self.0.execute_batch("ROLLBACK TO candidate; RELEASE candidate")?;
        }
        Ok(None)
    }

    /// The statements that change the columns, if they lead to the very definition that is there now.
    fn columns(
        &self,
        before: &Layout,
        now: &Layout,
        steps: &Steps,
        write: Write,
    ) -> rusqlite::Result<Option<Vec<String>>> {
        let table = quoted(&now.name);
        let mut statements = Vec::new();
        for &(from, to) in &steps.renamed {
            let (from, to) = (quoted(&before.columns[from].name), write(&now.columns[to].name));
            statements.push(format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}"));
        }
        for &column in &steps.dropped {
            statements
                .push(format!("ALTER TABLE {table} DROP COLUMN {}", quoted(&before.columns[column].name)));
        }
        for statement in &statements {
            self.0.execute_batch(statement)?;
        }
        if steps.is_adding {
            let definition = self.definition(&now.name)?;
            for added in added(&definition, &now.sql) {
                let statement = format!("ALTER TABLE {table} ADD COLUMN {added}");
                self.0.execute_batch(&statement)?;
                statements.push(statement);
            }
        }
        Ok((self.definition(&now.name)? == now.sql).then_some(statements))
    }

    fn definition(&self, table: &str) -> rusqlite::Result<String> {
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        self.0.query_row(sql, [table], |row| row.get(0))
    }
}

/// How the new name of a column is written.
type Write = fn(&str) -> String;

/// Without quotes, where that means the same.
fn as_it_is(name: &str) -> String {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_plain = name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit());
    if is_plain { name.to_owned() } else { quoted(name) }
}

fn rename(before: &Layout, now: &Layout) -> String {
    format!("ALTER TABLE {} RENAME TO {}", quoted(&before.name), quoted(&now.name))
}

/// One way from one list of columns to another.
struct Steps {
    /// Columns of the base and of now.
    renamed: Vec<(usize, usize)>,
    /// Columns of the base.
    dropped: Vec<usize>,
    is_adding: bool,
    columns: Vec<Option<usize>>,
}

fn candidates(before: &Layout, now: &Layout) -> Vec<Steps> {
    let (old, new) = (&before.columns, &now.columns);
    let mut candidates = Vec::new();
    // Each kept its place.
    if old.len() <= new.len() {
        let renamed = (0..old.len()).filter(|&i| old[i].name != new[i].name).map(|i| (i, i)).collect();
        let columns = (0..new.len()).map(|i| (i < old.len()).then_some(i)).collect();
        let is_adding = old.len() < new.len();
        candidates.push(Steps { renamed, dropped: Vec::new(), is_adding, columns });
    }
    // Each kept its name.
    let place = |i: usize| old.iter().position(|column| column.name.eq_ignore_ascii_case(&new[i].name));
    let columns: Vec<_> = (0..new.len()).map(place).collect();
    let dropped: Vec<_> = (0..old.len()).filter(|i| !columns.contains(&Some(*i))).collect();
    if !dropped.is_empty() {
        let is_adding = columns.contains(&None);
        candidates.push(Steps { renamed: Vec::new(), dropped, is_adding, columns });
    }
    // One was dropped, and another renamed.
    if new.len() + 1 == old.len() {
        for gone in 0..old.len() {
            let columns: Vec<_> = (0..new.len()).map(|i| if i < gone { i } else { i + 1 }).collect();
            let places = columns.iter().enumerate().map(|(i, &old)| (old, i));
            let renamed: Vec<_> = places.filter(|&(o, n)| old[o].name != new[n].name).collect();
            if renamed.len() == 1 {
                let columns = columns.into_iter().map(Some).collect();
                candidates.push(Steps { renamed, dropped: vec![gone], is_adding: false, columns });
            }
        }
    }
    candidates
}

/// The columns' definitions that ALTER TABLE ADD COLUMN has inserted into a table's, each behind a comma and a space.
fn added<'a>(before: &str, now: &'a str) -> Vec<&'a str> {
    let Some(length) = now.len().checked_sub(before.len()) else { return Vec::new() };
    let common = before.bytes().zip(now.bytes()).take_while(|(a, b)| a == b).count();
    // Where the text goes on as the insertion begins, the common part seems longer than it is.
    let at = (0..=common).rev().find(|&at| {
        now.get(at..at + length).is_some_and(|inserted| inserted.starts_with(", "))
            && now.get(at + length..) == before.get(at..)
    });
    at.map(|at| split(&now[at + 2..at + length])).unwrap_or_default()
}

/// The parts of a list, cut at the commas that are not within parentheses, quotes or comments.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    let mut quote: Option<u8> = None;
    let bytes = list.as_bytes();
    for (i, &byte) in bytes.iter().enumerate() {
        if let Some(end) = quote {
            quote = quote.filter(|_| byte != end);
            continue;
        }
        match byte {
            b'\'' | b'"' | b'`' => quote = Some(byte),
            b'[' => quote = Some(b']'),
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(list[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(list[start..].trim());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found between two databases that begin alike.
    fn found(begin: &str, change: &str) -> BTreeMap<String, Altered> {
        let (base, current) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        base.execute_batch(begin).unwrap();
        current.execute_batch(begin).unwrap();
        current.execute_batch(change).unwrap();
        alterations(&Schema::of(&base).unwrap(), &Schema::of(&current).unwrap())
    }

    #[test]
    fn alterations_are_found_as_they_were_made() {
        let begin = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c, CHECK(c <> ',')); CREATE TABLE p(k);
                     CREATE TABLE f(x REFERENCES t(a)); CREATE INDEX t_c ON t(c);";
        for statements in [
            vec!["ALTER TABLE \"t\" RENAME COLUMN \"b\" TO \"d\""],
            vec!["ALTER TABLE \"t\" RENAME COLUMN \"b\" TO d"],
            vec!["ALTER TABLE \"t\" RENAME COLUMN \"a\" TO \"id\""],
            vec!["ALTER TABLE \"t\" DROP COLUMN \"b\""],
            vec!["ALTER TABLE \"t\" ADD COLUMN d INT DEFAULT (1+2)"],
            vec![
                "ALTER TABLE \"t\" ADD COLUMN d DEFAULT ', e'",
                "ALTER TABLE \"t\" ADD COLUMN e DECIMAL(4, 2)",
            ],
            vec!["ALTER TABLE \"t\" RENAME COLUMN \"c\" TO \"d\"", "ALTER TABLE \"t\" ADD COLUMN c"],
            vec![
                "ALTER TABLE \"t\" DROP COLUMN \"b\"",
                "ALTER TABLE \"t\" ADD COLUMN b2 CHECK(b2 IN (1, 2))",
            ],
            vec!["ALTER TABLE \"t\" RENAME COLUMN \"c\" TO \"d\"", "ALTER TABLE \"t\" DROP COLUMN \"b\""],
            vec!["ALTER TABLE \"t\" RENAME TO \"u\"", "ALTER TABLE \"u\" RENAME COLUMN \"b\" TO \"B b\""],
        ] {
            let found = found(begin, &statements.join(";"));
            assert_eq!(found.len(), 3, "{statements:?}: {found:?}");
            let all: Vec<_> = found.values().flat_map(|altered| altered.statements.clone()).collect();
            assert_eq!(all, statements);
        }
    }

    #[test]
    fn a_table_that_was_created_again_in_another_shape_is_not_taken_for_altered() {
        let begin = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)";
        for other in [
            "CREATE TABLE t(a, b TEXT)",
            "CREATE TABLE t(b TEXT, a INTEGER PRIMARY KEY)",
            "CREATE TABLE t(x, y, z)",
        ] {
            assert_eq!(found(begin, &format!("DROP TABLE t; {other}")), BTreeMap::new());
        }
        assert_eq!(found(begin, "DROP TABLE t"), BTreeMap::new());
    }
}
