//! Servers of one store, and a database of theirs.

use std::pin::pin;
use std::sync::Arc;

use aquifer_log::Store;
use aquifer_server::hosted::{HostOptions, Hosted, Hosts};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tempfile::TempDir;

pub(crate) const TABLE: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)";

pub(crate) struct Stage {
    dir: TempDir,
    store: Store,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        Stage { dir: TempDir::new().unwrap(), store: Store::open(&"memory://".parse().unwrap()).unwrap() }
    }

    /// A server with a disk of its own.
    pub(crate) fn hosts(&self, name: &str) -> Hosts {
        Hosts::new(self.store.clone(), self.dir.path().join(name), HostOptions::default()).unwrap()
    }

    /// The first server, with a database in which this was run.
    pub(crate) async fn served(&self, sql: &[&str]) -> (Hosts, Arc<Hosted>) {
        let hosts = self.hosts("one");
        let hosted = open(&hosts).await;
        for sql in sql {
            write(&hosted, sql).await;
        }
        (hosts, hosted)
    }
}

pub(crate) async fn open(hosts: &Hosts) -> Arc<Hosted> {
    hosts.open(&"app".parse().unwrap()).await.unwrap()
}

/// Runs SQL, durably.
pub(crate) async fn write(hosted: &Hosted, sql: &str) {
    hosted.connect(false).unwrap().execute_batch(sql).unwrap();
    hosted.durable().await.unwrap();
}

/// All that a stream brings, which must come to its end.
pub(crate) async fn bytes_of<E: std::fmt::Debug>(parts: impl Stream<Item = Result<Bytes, E>>) -> Vec<u8> {
    let mut parts = pin!(parts);
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await {
        bytes.extend(part.unwrap());
    }
    bytes
}
