//! Databases are set back to moments that retention keeps, and to no others.

use std::sync::Arc;
use std::time::Duration;

use aquifer_format::{Revision, Timestamp, Txid};
use aquifer_log::{DatabaseStore, ForkError, PlanError, Retention, Target, retain, snapshot};
use aquifer_server::hosted::{HostError, Hosts};
use aquifer_testkit::fault_store::{Fault, FaultStore, Gate, Op, Rule};

use crate::{LONG, Stage, TABLE, app, execute, rows};

/// A server whose database has the row 1 at the revision that is returned, then 2 and 3, and a snapshot with these.
async fn stage(stage: &Stage) -> (Arc<Hosts>, FaultStore, Revision) {
    let (server, link) = stage.leased("a", LONG);
    let hosted = server.open(&app()).await.unwrap();
    execute(&hosted, TABLE);
    execute(&hosted, "INSERT INTO t VALUES(1)");
    let early = hosted.durable().await.unwrap().unwrap();
    for k in [2, 3] {
        execute(&hosted, &format!("INSERT INTO t VALUES({k})"));
        hosted.durable().await.unwrap();
    }
    drop(hosted);
    snapshot(&server.log(&app()), None, Target::Latest).await.unwrap();
    (Arc::new(server), link, early)
}

/// Retires all but the newest moment; so many hours later.
async fn retain_after(log: &DatabaseStore, hours: u32) {
    let now = Timestamp::now().after(Duration::from_hours(1) * (hours + 1));
    let retention = Retention { window: Duration::ZERO, grace: Duration::from_hours(1) };
    retain(log, &retention, now, now).await.unwrap();
}

async fn set_back(server: &Hosts, to: Revision) -> Result<Revision, HostError> {
    server.restore_in_place(&app(), Some(to.generation), Target::Txid(to.txid)).await
}

/// It has all rows, and takes more.
async fn goes_on(server: &Hosts, generation_of: Revision) {
    let hosted = server.open(&app()).await.unwrap();
    assert_eq!(rows(&hosted), [1, 2, 3].into());
    execute(&hosted, "INSERT INTO t VALUES(4)");
    assert_eq!(hosted.durable().await.unwrap().unwrap().generation, generation_of.generation);
}

#[tokio::test]
async fn a_database_is_not_set_back_to_what_waits_for_deletion_and_goes_on() {
    let world = Stage::new();
    let (server, link, early) = stage(&world).await;
    retain_after(&server.log(&app()), 0).await;
    link.take_log();
    let refused = set_back(&server, early).await;
    assert!(
        matches!(&refused, Err(HostError::Fork(error)) if matches!(**error, ForkError::NotKept { .. })),
        "{refused:?}"
    );
    let written: Vec<_> = link.take_log().into_iter().filter(|r| r.op == Op::Create).collect();
    assert_eq!(written, [], "nothing was sealed, and no generation begun");
    goes_on(&server, early).await;
}

#[tokio::test]
async fn a_database_goes_on_where_the_moment_is_given_up_while_it_is_set_back() {
    let world = Stage::new();
    let (server, link, early) = stage(&world).await;
    let gate = Gate::new();
    link.inject(Rule::on(Op::Put, "control.json", Fault::Hold(gate.clone())).times(1));
    let setting = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { set_back(&server, early).await })
    };
    gate.arrived(1).await;
    let log = world.server("admin").log(&app());
    retain_after(&log, 0).await;
    retain_after(&log, 2).await;
    gate.open();
    let refused = setting.await.unwrap();
    assert!(
        matches!(&refused, Err(HostError::Plan(error)) if matches!(**error, PlanError::NotKept { .. })),
        "{refused:?}"
    );
    goes_on(&server, early).await;
}

#[tokio::test]
async fn a_database_that_was_set_back_keeps_what_it_goes_on_from_whatever_retention_does() {
    let world = Stage::new();
    let (server, _, early) = stage(&world).await;
    assert_eq!(set_back(&server, early).await.unwrap(), early);
    let log = server.log(&app());
    retain_after(&log, 0).await;
    retain_after(&log, 2).await;
    // On an empty disk.
    server.shutdown().await.unwrap();
    let hosted = world.server("b").open(&app()).await.unwrap();
    assert_eq!(rows(&hosted), [1].into());
    assert_eq!(hosted.in_store().map(|revision| revision.txid), Some(Txid::FIRST));
}
