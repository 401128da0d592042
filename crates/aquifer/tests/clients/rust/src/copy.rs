//! `libsql` with the database in a file of its own.

use hyper::client::HttpConnector;
use libsql::{Builder, Connection, Database};

use crate::stage::{database, token};

/// A copy of the database, and a connection to it.
pub(crate) struct Copy {
    database: Database,
    pub(crate) connection: Connection,
}

impl Copy {
    /// One that writes into its own file, and pushes and pulls at a sync.
    pub(crate) async fn offline(name: &str, token: String) -> libsql::Result<Copy> {
        let builder = Builder::new_synced_database(format!("{name}.db"), database(), token);
        Copy::open(builder.connector(HttpConnector::new()).build().await?)
    }

    /// One whose writes go to the server.
    pub(crate) async fn replica(name: &str) -> libsql::Result<Copy> {
        let builder = Builder::new_remote_replica(format!("{name}.db"), database(), token());
        Copy::open(builder.connector(HttpConnector::new()).build().await?)
    }

    fn open(database: Database) -> libsql::Result<Copy> {
        let connection = database.connect()?;
        Ok(Copy { database, connection })
    }

    pub(crate) async fn sync(&self) -> libsql::Result<()> {
        self.database.sync().await.map(|_| ())
    }
}
