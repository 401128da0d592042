//! Replicators of files take no part in claims. What a server acknowledged is found all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_format::GenerationId;
use aquifer_log::{DatabaseStore, Store};
use aquifer_replicate::{Error as ReplicaError, Replicator};
use aquifer_server::hosted::{HostError, Hosted, Hosts};
use aquifer_testkit::fault_store::{Fault, FaultStore, Gate, Op, Rule};
use rusqlite::Connection;

use crate::{LONG, PATIENCE, SHORT, Stage, TABLE, app, execute, rows, servers};

/// A file of another application, replicated as the database: on another machine.
struct Beside {
    replicator: Arc<Replicator>,
    link: FaultStore,
}

impl Beside {
    /// With the row 1000.
    fn new(stage: &Stage) -> Beside {
        let link = FaultStore::new(Arc::clone(stage.objects.inner()));
        let store = Store::from_object_store(Arc::new(link.clone()), "test");
        Beside { replicator: Arc::new(Replicator::builder(store).start()), link }
    }

    /// Begins to replicate; up to what is durable then.
    fn begin(&self, stage: &Stage) -> tokio::task::JoinHandle<Result<GenerationId, ReplicaError>> {
        let (file, replicator) = (stage.dir.path().join("file.db"), Arc::clone(&self.replicator));
        let setup = format!("PRAGMA journal_mode=WAL; {TABLE}; INSERT INTO t VALUES(1000)");
        Connection::open(&file).unwrap().execute_batch(&setup).unwrap();
        tokio::spawn(async move {
            replicator.add(&file, Some(app()))?;
            Ok(replicator.sync_database(&app()).await?.unwrap().generation)
        })
    }
}

/// A server that has a database open, with the row 1, and whose term has lapsed.
async fn lapsed(stage: &Stage) -> (Hosts, FaultStore, Arc<Hosted>) {
    let (server, link) = stage.leased("a", SHORT);
    let hosted = server.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    execute(&hosted, "INSERT INTO t VALUES(1)");
    hosted.durable().await.unwrap();
    link.inject(Rule::on(Op::Put, "servers/", Fault::Unreachable));
    let store = Store::from_object_store(Arc::clone(stage.objects.inner()), "test");
    let deadline = Instant::now() + PATIENCE;
    while servers(&store).await > 0 {
        assert!(Instant::now() < deadline, "its term does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (server, link, hosted)
}

async fn latest(stage: &Stage) -> GenerationId {
    let store = Store::from_object_store(Arc::clone(stage.objects.inner()), "test");
    DatabaseStore::new(store, app()).latest_generation().await.unwrap().unwrap().id
}

#[tokio::test]
async fn a_server_that_wakes_finds_that_a_newer_generation_was_begun_meanwhile() {
    for commits in [true, false] {
        let stage = Stage::new();
        let (server, link, hosted) = lapsed(&stage).await;
        let beside = Beside::new(&stage);
        let begun = beside.begin(&stage).await.unwrap().unwrap();
        beside.replicator.shutdown().await.unwrap();
        link.clear();
        if commits {
            execute(&hosted, "INSERT INTO t VALUES(2)");
        }
        let told = hosted.durable().await;
        assert!(matches!(told, Err(HostError::TakenOver(_))), "{commits}: {told:?}");
        drop(hosted);
        let hosted = server.open(&app()).await.unwrap();
        assert_eq!(rows(&hosted), [1000].into());
        execute(&hosted, "INSERT INTO t VALUES(3)");
        assert_eq!(hosted.durable().await.unwrap().unwrap().generation, begun);
    }
}

#[tokio::test]
async fn a_server_that_wakes_and_cannot_look_for_newer_generations_answers_nothing() {
    let stage = Stage::new();
    let (_server, link, hosted) = lapsed(&stage).await;
    let beside = Beside::new(&stage);
    beside.begin(&stage).await.unwrap().unwrap();
    link.clear();
    // The claim is made, and what comes after it fails. Then it does not.
    link.inject(Rule::on(Op::Get, "generation.json", Fault::Deny).times(1));
    let told = hosted.durable().await;
    assert!(matches!(told, Err(HostError::Log(_))), "{told:?}");
    let told = hosted.durable().await;
    assert!(matches!(told, Err(HostError::TakenOver(_))), "{told:?}");
}

#[tokio::test]
async fn a_file_is_not_replicated_as_a_database_that_a_server_claims_while_it_begins() {
    let stage = Stage::new();
    let (beside, gate) = (Beside::new(&stage), Gate::new());
    beside.link.inject(Rule::on(Op::Create, "generation.json", Fault::Hold(gate.clone())).times(1));
    let beginning = beside.begin(&stage);
    gate.arrived(1).await;
    // It has found no claim, and stands still.
    let (server, _) = stage.leased("a", Duration::from_secs(1));
    let hosted = server.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    let own = hosted.durable().await.unwrap().unwrap().generation;
    gate.open();
    let refused = beginning.await.unwrap();
    assert!(matches!(refused, Err(ReplicaError::Served { .. })), "{refused:?}");
    assert_eq!(latest(&stage).await, own);
    execute(&hosted, "INSERT INTO t VALUES(1)");
    hosted.durable().await.unwrap();
}

#[tokio::test]
async fn what_a_server_commits_is_not_hidden_by_a_generation_whose_first_batch_comes_late() {
    let stage = Stage::new();
    let (server, link, hosted) = lapsed(&stage).await;
    let (beside, gate) = (Beside::new(&stage), Gate::new());
    beside.link.inject(Rule::on(Op::Create, ".seg", Fault::Hold(gate.clone())).times(1));
    let beginning = beside.begin(&stage);
    gate.arrived(1).await;
    link.clear();
    let told = hosted.durable().await;
    assert!(matches!(told, Err(HostError::TakenOver(_))), "{told:?}");
    drop(hosted);
    let hosted = server.open(&app()).await.unwrap();
    execute(&hosted, "INSERT INTO t VALUES(2)");
    let own = hosted.durable().await.unwrap().unwrap().generation;
    drop(hosted);
    gate.open();
    let begun = beginning.await.unwrap().unwrap();
    assert_ne!(begun, own);
    server.shutdown().await.unwrap();
    let (other, _) = stage.leased("b", LONG);
    assert_eq!(rows(&other.open(&app()).await.unwrap()), [1, 2].into());
}
