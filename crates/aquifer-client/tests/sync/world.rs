//! A server, and copies of its database.

use std::path::PathBuf;

use aquifer_client::remote::Remote;
use aquifer_client::{Builder, Database, Protocol};
use aquifer_log::Store;
use aquifer_testkit::proxy::Proxy;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::server::{Server, Setup, Stage, options};
use crate::tursodb::Tursodb;

/// A server behind a proxy that can be told to fail.
pub(crate) struct World {
    stage: Stage,
    server: Host,
    pub(crate) protocol: Protocol,
    pub(crate) proxy: Proxy,
}

enum Host {
    Aquifer(Server),
    Tursodb(Tursodb),
}

/// Who is synced with, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Our server, which speaks both.
    Aquifer(Protocol),
    /// Turso's, with its own engine.
    Tursodb,
}

/// All of which there is one here.
pub(crate) fn peers() -> Vec<Peer> {
    let tursodb = Tursodb::program().map(|_| Peer::Tursodb);
    [Peer::Aquifer(Protocol::Turso), Peer::Aquifer(Protocol::Libsql)].into_iter().chain(tursodb).collect()
}

impl Peer {
    /// Whether changes go as SQL.
    pub(crate) fn is_sql(self) -> bool {
        self != Peer::Aquifer(Protocol::Libsql)
    }
}

impl World {
    pub(crate) async fn new() -> World {
        World::speaking(Protocol::Auto).await
    }

    /// Its copies are synced in this protocol.
    pub(crate) async fn speaking(protocol: Protocol) -> World {
        World::of(Peer::Aquifer(protocol)).await
    }

    pub(crate) async fn of(peer: Peer) -> World {
        let stage = Stage::new();
        let (server, protocol) = match peer {
            Peer::Aquifer(protocol) => (Host::Aquifer(stage.server("one", Setup::default()).await), protocol),
            Peer::Tursodb => {
                let program = Tursodb::program().unwrap();
                (
                    Host::Tursodb(Tursodb::start(&program, &stage.dir.path().join("tursodb.db"))),
                    Protocol::Auto,
                )
            }
        };
        let proxy = Proxy::start(server.address()).await;
        World { stage, server, protocol, proxy }
    }

    /// Kills Turso's server, and starts it with this file.
    pub(crate) fn restart(&mut self, file: &str) {
        let Host::Tursodb(server) = &mut self.server else { panic!("it is another server") };
        // Two of one file would wait for each other.
        server.kill();
        *server = Tursodb::start(&Tursodb::program().unwrap(), &self.stage.dir.path().join(file));
        self.proxy.set_server(server.address);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.stage.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.proxy.address(), self.server.path())
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
        let url = format!("http://{}{}", self.server.address(), self.server.path());
        let remote = Remote::new(&url, options()).unwrap();
        for sql in sql.split(";\n").filter(|sql| !sql.trim().is_empty()) {
            remote.execute(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }
}

impl Host {
    fn address(&self) -> std::net::SocketAddr {
        match self {
            Host::Aquifer(server) => server.address,
            Host::Tursodb(server) => server.address,
        }
    }

    /// Where it has the database.
    fn path(&self) -> &'static str {
        match self {
            Host::Aquifer(_) => "/db/app",
            Host::Tursodb(_) => "",
        }
    }
}

/// Inserts rows 1 to `rows` into `t(k, v)`, each with so many random bytes.
pub(crate) fn many(rows: usize, bytes: usize) -> String {
    let rows = (1..=rows).map(|k| format!("({k}, hex(randomblob({bytes})))"));
    format!("INSERT INTO t VALUES {}", rows.collect::<Vec<_>>().join(", "))
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
