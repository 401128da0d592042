//! A base, what was done to it here and on the server, and what comes of both.

use std::path::PathBuf;

use aquifer_client::rebase::{ByDefault, Conflict, Record, Resolver, Summary, rebase};
use aquifer_sqlite::btree::Value;
use aquifer_sqlite::{Overlay, open_overlay, open_pages};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::files::{File, diff, select};

pub(crate) struct Stage {
    dir: TempDir,
}

/// The image after a rebase.
pub(crate) struct Rebased {
    pub(crate) db: Connection,
    pub(crate) overlay: Overlay,
    pub(crate) conflicts: Vec<Conflict>,
}

impl Stage {
    pub(crate) fn new(base: &str, ours: &str, theirs: &str) -> Stage {
        let stage = Stage::of(|db| run(db, base));
        stage.ours(|db| run(db, ours));
        stage.theirs(|db| run(db, theirs));
        stage
    }

    /// A base that both sides have.
    pub(crate) fn of(base: impl FnOnce(&Connection)) -> Stage {
        let stage = Stage { dir: tempfile::tempdir().unwrap() };
        let db = Connection::open(stage.path("base")).unwrap();
        run(&db, "PRAGMA foreign_keys=OFF; PRAGMA synchronous=OFF");
        base(&db);
        drop(db);
        for side in ["ours", "theirs"] {
            std::fs::copy(stage.path("base"), stage.path(side)).unwrap();
        }
        stage
    }

    pub(crate) fn ours(&self, work: impl FnOnce(&Connection)) {
        self.work("ours", work);
    }

    pub(crate) fn theirs(&self, work: impl FnOnce(&Connection)) {
        self.work("theirs", work);
    }

    fn work(&self, side: &str, work: impl FnOnce(&Connection)) {
        let db = self.open(side);
        run(&db, "PRAGMA foreign_keys=OFF; PRAGMA synchronous=OFF");
        work(&db);
    }

    pub(crate) fn open(&self, side: &str) -> Connection {
        Connection::open(self.path(side)).unwrap()
    }

    pub(crate) fn path(&self, side: &str) -> PathBuf {
        self.dir.path().join(side)
    }

    pub(crate) fn rebase(&self) -> Rebased {
        self.rebase_by(&ByDefault)
    }

    pub(crate) fn rebase_by(&self, resolver: &dyn Resolver) -> Rebased {
        self.rebase_of(&|_| true, resolver).unwrap()
    }

    pub(crate) fn rebase_of(
        &self,
        tables: &dyn Fn(&str) -> bool,
        resolver: &dyn Resolver,
    ) -> aquifer_client::rebase::Result<Rebased> {
        let mut conflicts = Vec::new();
        let mut record = |conflict: Conflict| {
            // As the sidecar keeps it.
            let text = serde_json::to_string(&conflict)?;
            conflicts.push(serde_json::from_str::<Conflict>(&text)?);
            Ok(())
        };
        let (db, overlay, summary) = self.rebase_into(tables, resolver, &mut record)?;
        assert_eq!(summary.conflicts, conflicts.len() as u64);
        let check = select(&db, "PRAGMA integrity_check");
        assert_eq!(check, [[Value::Text(b"ok".to_vec())]]);
        Ok(Rebased { db, overlay, conflicts })
    }

    pub(crate) fn rebase_into(
        &self,
        tables: &dyn Fn(&str) -> bool,
        resolver: &dyn Resolver,
        record: Record<'_>,
    ) -> aquifer_client::rebase::Result<(Connection, Overlay, Summary)> {
        let local = diff(&self.path("base"), &self.path("ours"));
        let theirs = || Box::new(File::open(&self.path("theirs")));
        let (db, overlay) = open_overlay(theirs(), tempfile::tempfile().unwrap()).unwrap();
        let (remote, _) = open_pages(theirs()).unwrap();
        let summary = rebase(&db, &remote, &local, tables, resolver, record)?;
        Ok((db, overlay, summary))
    }
}

impl Rebased {
    /// What a query gives, as text: rows separated by commas, values by spaces.
    pub(crate) fn asked(&self, sql: &str) -> String {
        asked(&self.db, sql)
    }

    pub(crate) fn messages(&self) -> Vec<&str> {
        self.conflicts.iter().map(|conflict| conflict.message.as_str()).collect()
    }

    /// Kinds and outcomes of what was recorded.
    pub(crate) fn recorded(&self) -> String {
        let one = |conflict: &Conflict| {
            let json = |value: serde_json::Value| value.as_str().unwrap().to_owned();
            let [kind, outcome] = [serde_json::json!(conflict.kind), serde_json::json!(conflict.outcome)];
            format!("{}: {}", json(kind), json(outcome))
        };
        self.conflicts.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

pub(crate) fn asked(db: &Connection, sql: &str) -> String {
    let text = |value: &Value| match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Real(n) => format!("{n:?}"),
        Value::Text(text) | Value::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    };
    let row = |row: &Vec<Value>| row.iter().map(text).collect::<Vec<_>>().join(" ");
    select(db, sql).iter().map(row).collect::<Vec<_>>().join(", ")
}

pub(crate) fn run(db: &Connection, sql: &str) {
    db.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}
