//! A database that a server answers for is not replicated from a file.

use std::time::Duration;

use aquifer_format::Timestamp;
use aquifer_log::{DatabaseStore, OwnerRecord, ServerRecord, Store};
use aquifer_replicate::{Error, ReplicaOptions, Replicator};
use uuid::Uuid;

use crate::support::Application;

/// A server that has claimed the database `app.db`.
struct Server {
    store: Store,
    record: ServerRecord,
    claim: OwnerRecord,
}

impl Server {
    async fn claiming(store: &Store, lease: Duration) -> Server {
        let (id, host, started) = (Uuid::now_v7(), "elsewhere".to_owned(), Timestamp::now());
        let lease_millis = lease.as_millis() as u64;
        let record =
            ServerRecord { id, host: host.clone(), url: None, secret: None, started, beat: 0, lease_millis };
        record.announce(store).await.unwrap();
        let claim = OwnerRecord { server: id, host, since: started, released: false };
        let database = DatabaseStore::new(store.clone(), "app.db".parse().unwrap());
        assert!(database.claim(1, &claim).await.unwrap());
        Server { store: store.clone(), record, claim }
    }

    /// Gives signs of life for ever.
    async fn live(mut self) {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.record.beat += 1;
            self.record.announce(&self.store).await.unwrap();
        }
    }
}

/// What comes of replicating a file as `app.db`, and who the error names.
async fn replicate(store: &Store, app: &Application, options: ReplicaOptions) -> Result<(), Error> {
    let replicator = Replicator::builder(store.clone()).options(options).start();
    replicator.add(&app.path, None).unwrap();
    replicator.sync().await?;
    replicator.shutdown().await
}

fn memory() -> Store {
    Store::open(&"memory://".parse().unwrap()).unwrap()
}

#[tokio::test]
async fn a_name_that_a_living_server_holds_is_refused_and_nothing_is_written() {
    let (store, app) = (memory(), Application::new());
    // It gives so many signs of life in its lease that each look sees a new one.
    let server = Server::claiming(&store, Duration::from_secs(10)).await;
    let database = DatabaseStore::new(store.clone(), "app.db".parse().unwrap());
    let (claim, living) = (server.claim.clone(), tokio::spawn(server.live()));
    for new_generation in [false, true] {
        let options = ReplicaOptions { new_generation, ..ReplicaOptions::default() };
        let refused = replicate(&store, &app, options).await.unwrap_err();
        assert!(matches!(&refused, Error::Served { host, .. } if host == "elsewhere"), "{refused}");
        assert!(refused.to_string().contains("--name"), "{refused}");
        assert!(database.latest_generation().await.unwrap().is_none());
    }
    // It gives the database back.
    let owner = database.owner().await.unwrap().unwrap();
    assert_eq!(owner.record, claim);
    database.release(&owner).await.unwrap();
    replicate(&store, &app, ReplicaOptions::default()).await.unwrap();
    living.abort();
}

#[tokio::test]
async fn what_a_server_claimed_that_is_gone_or_dead_can_be_replicated() {
    for is_gone in [false, true] {
        let (store, app) = (memory(), Application::new());
        let server = Server::claiming(&store, Duration::from_millis(50)).await;
        if is_gone {
            ServerRecord::end(&store, server.record.id).await.unwrap();
        }
        replicate(&store, &app, ReplicaOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_was_replicated_before_is_refused_as_well() {
    let (store, app) = (memory(), Application::new());
    replicate(&store, &app, ReplicaOptions::default()).await.unwrap();
    let server = Server::claiming(&store, Duration::from_secs(10)).await;
    let living = tokio::spawn(server.live());
    let refused = replicate(&store, &app, ReplicaOptions::default()).await.unwrap_err();
    assert!(matches!(refused, Error::Served { .. }), "{refused}");
    living.abort();
}
