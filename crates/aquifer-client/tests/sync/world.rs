//! A server, and copies of its database.

use std::path::PathBuf;

use aquifer_client::remote::Remote;
use aquifer_client::{Builder, Database, Protocol};
use aquifer_log::Store;
use aquifer_testkit::proxy::Proxy;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::server::{Server, Setup, Stage, options};

/// A server behind a proxy that can be told to fail.
pub(crate) struct World {
    stage: Stage,
    server: Server,
    pub(crate) protocol: Protocol,
    pub(crate) proxy: Proxy,
}

/// The server speaks both.
pub(crate) const BOTH: [Protocol; 2] = [Protocol::Turso, Protocol::Libsql];

impl World {
    pub(crate) async fn new() -> World {
        World::speaking(Protocol::Auto).await
    }

    /// Its copies are synced in this protocol.
    pub(crate) async fn speaking(protocol: Protocol) -> World {
        let stage = Stage::new();
        let server = stage.server("one", Setup::default()).await;
        let proxy = Proxy::start(server.address).await;
        World { stage, server, protocol, proxy }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.stage.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/db/app", self.proxy.address())
    }

    pub(crate) fn builder(&self, name: &str) -> Builder {
        Builder::new(self.path(name)).remote_options(options()).remote(self.url()).protocol(self.protocol)
    }

    /// A copy of the database, synced when it is opened first.
    pub(crate) async fn open(&self, name: &str) -> Database {
        self.builder(name).open().await.unwrap()
    }

    /// Whether a request pushes something, or finds out what became of that.
    pub(crate) fn is_push(path: &str, body: &[u8]) -> bool {
        path.ends_with("/pipeline") || path.contains("/sync/") && !body.is_empty()
    }

    /// Where the server keeps the database.
    pub(crate) fn store(&self) -> Store {
        self.stage.store.clone()
    }

    /// Runs SQL on the server, as another client of it does.
    pub(crate) async fn on_server(&self, sql: &str) {
        let url = format!("http://{}/db/app", self.server.address);
        let remote = Remote::new(&url, options()).unwrap();
        for sql in sql.split(";\n").filter(|sql| !sql.trim().is_empty()) {
            remote.execute(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }
}

/// What a query gives, a line for each row.
pub(crate) fn rows(db: &Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let values = (0..columns).map(|at| {
            Ok(match row.get::<_, Value>(at)? {
                Value::Null => "NULL".to_owned(),
                Value::Integer(n) => n.to_string(),
                Value::Real(n) => format!("{n:?}"),
                Value::Text(text) => text,
                Value::Blob(blob) => format!("{blob:?}"),
            })
        });
        Ok(values.collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// The same of a synced database, which must be sound.
pub(crate) fn local(db: &Database, sql: &str) -> Vec<String> {
    let db = db.connect().unwrap();
    assert_eq!(rows(&db, "PRAGMA integrity_check"), ["ok"]);
    rows(&db, sql)
}

pub(crate) fn run(db: &Database, sql: &str) {
    db.connect().unwrap().execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}
