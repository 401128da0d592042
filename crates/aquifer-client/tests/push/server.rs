//! A server's database, a client's, and the base that both began with.

use std::path::PathBuf;

use aquifer_client::push::{PushError, Reals, Step, Summary, Transform, statements};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection, params_from_iter};

use crate::files::{diff, dump};

/// Why a transaction was rolled back.
pub(crate) struct Failed {
    pub(crate) step: Step,
    pub(crate) message: String,
}

impl std::fmt::Debug for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}: {}", self.step.sql, self.step.args, self.message)
    }
}

/// Runs steps in one transaction, all or none.
pub(crate) fn run(db: &Connection, steps: &[Step]) -> Result<(), Failed> {
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    for step in steps {
        match execute(db, step) {
            Err(_) if step.is_optional => {}
            Err(message) => {
                db.execute_batch("ROLLBACK").unwrap();
                return Err(Failed { step: step.clone(), message });
            }
            Ok(()) => {}
        }
    }
    db.execute_batch("COMMIT").unwrap();
    Ok(())
}

/// One step: one statement, with as many arguments as it has parameters.
pub(crate) fn execute(db: &Connection, step: &Step) -> Result<(), String> {
    assert_eq!(Batch::new(db, &step.sql).count().unwrap_or(1), 1, "{}", step.sql);
    let run = || {
        let mut statement = db.prepare_cached(&step.sql)?;
        assert_eq!(statement.parameter_count(), step.args.len(), "{}", step.sql);
        let mut rows = statement.query(params_from_iter(&step.args))?;
        while rows.next()?.is_some() {}
        Ok(())
    };
    run().map_err(|error: rusqlite::Error| error.to_string())
}

pub(crate) struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// All three are this.
    pub(crate) fn new(base: &str) -> Stage {
        let stage = Stage { dir: tempfile::tempdir().unwrap() };
        let db = Connection::open(stage.path("base")).unwrap();
        db.execute_batch(base).unwrap();
        drop(db);
        stage.begin();
        stage
    }

    /// An empty one: what is in `base` is to be copied by [`begin`](Stage::begin).
    pub(crate) fn empty() -> Stage {
        Stage { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn begin(&self) {
        for copy in ["current", "server"] {
            std::fs::copy(self.path("base"), self.path(copy)).unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.db"))
    }

    pub(crate) fn open(&self, name: &str) -> Connection {
        let db = Connection::open(self.path(name)).unwrap();
        db.execute_batch("PRAGMA synchronous=OFF; PRAGMA foreign_keys=OFF").unwrap();
        db
    }

    pub(crate) fn local(&self, sql: &str) -> &Stage {
        self.open("current").execute_batch(sql).unwrap();
        self
    }

    pub(crate) fn remote(&self, sql: &str) -> &Stage {
        self.open("server").execute_batch(sql).unwrap();
        self
    }

    pub(crate) fn prepared(
        &self,
        takes_part: &dyn Fn(&str) -> bool,
        transform: Option<&dyn Transform>,
    ) -> Result<(Vec<Step>, Summary), PushError> {
        let mut steps = Vec::new();
        let summary = statements(
            &diff(&self.path("base"), &self.path("current")),
            takes_part,
            transform,
            Reals::Exact,
            &mut |step| {
                steps.push(step);
                Ok(())
            },
        )?;
        assert_eq!(summary.statements, steps.len() as u64);
        Ok((steps, summary))
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.prepared(&|_| true, None).unwrap().0
    }

    /// Pushes to the server.
    pub(crate) fn push(&self) -> Result<(), Failed> {
        run(&self.open("server"), &self.steps())
    }

    pub(crate) fn content(&self, name: &str) -> Vec<String> {
        dump(&self.open(name))
    }

    /// Nothing happened on the server: so afterwards it has what the client has.
    pub(crate) fn arrives(&self) {
        if let Err(failed) = self.push() {
            panic!("{failed:?}");
        }
        assert_eq!(self.content("server"), self.content("current"));
        let check: String =
            self.open("server").query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }

    /// What happened on the server keeps it as it is.
    pub(crate) fn is_refused(&self) -> Failed {
        let before = self.content("server");
        let Err(failed) = self.push() else { panic!("the push went through: {:?}", self.steps()) };
        assert_eq!(self.content("server"), before);
        failed
    }
}
