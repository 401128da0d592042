//! What a server keeps of the history of its databases.

use std::time::Duration;

use aquifer_format::{Pgno, Revision};
use aquifer_log::{DatabaseName, DatabaseStore, Plan, PlanError, Retention, Target};
use aquifer_replicate::UpkeepOptions;
use aquifer_server::hosted::{HostOptions, Hosts};
use aquifer_server::turso::source::{PageHost, PageSource};

use crate::{Stage, TABLE, app, closing, execute, rows};

/// Snapshots every few txids.
fn keeping(window: Option<Duration>) -> HostOptions {
    let retention = window.map(|window| Retention { window, grace: Duration::ZERO });
    let defaults = UpkeepOptions::default();
    let mut upkeep = UpkeepOptions { snapshot_share: 1, snapshot_min_txids: 4, retention, ..defaults };
    upkeep.levels.fanout = 4;
    HostOptions { upkeep, ..closing() }
}

/// Commits rows, each in a life of the database of its own: retention is due once in a life, and is over with it.
async fn commit(server: &Hosts, name: &DatabaseName, keys: std::ops::Range<i64>) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for k in keys {
        let hosted = server.open(name).await.unwrap();
        execute(&hosted, TABLE);
        execute(&hosted, &format!("INSERT INTO t VALUES({k})"));
        revisions.push(hosted.durable().await.unwrap().unwrap());
        drop(hosted);
        server.close(name).await;
    }
    revisions
}

async fn is_kept(log: &DatabaseStore, at: Revision) -> bool {
    match Plan::make(log, Some(at.generation), Target::Txid(at.txid)).await {
        Ok(_) => true,
        Err(PlanError::NotKept { .. }) => false,
        Err(e) => panic!("{e}"),
    }
}

/// What one that starts on an empty disk has.
async fn rows_elsewhere(stage: &Stage, name: &DatabaseName) -> usize {
    let server = stage.server(&format!("elsewhere-{name}"));
    let count = rows(&server.open(name).await.unwrap()).len();
    server.shutdown().await.unwrap();
    count
}

#[tokio::test]
async fn a_server_keeps_every_moment_of_its_window_and_forgets_those_before() {
    for (window, forgets) in
        [(None, false), (Some(Duration::from_hours(1)), false), (Some(Duration::ZERO), true)]
    {
        let stage = Stage::new();
        let (server, _) = stage.server_with("a", keeping(window));
        let revisions = commit(&server, &app(), 0..24).await;
        let log = server.log(&app());
        let mut kept = 0;
        for revision in &revisions {
            kept += usize::from(is_kept(&log, *revision).await);
        }
        if forgets {
            assert!((1..12).contains(&kept), "{kept}");
            assert!(!is_kept(&log, revisions[0]).await);
        } else {
            assert_eq!(kept, revisions.len(), "{window:?}");
        }
        assert!(is_kept(&log, revisions[23]).await);
        assert_eq!(rows_elsewhere(&stage, &app()).await, 24);
    }
}

#[tokio::test]
async fn what_a_fork_began_with_goes_when_its_window_is_restored_from_a_snapshot_of_its_own() {
    let stage = Stage::new();
    let (server, _) = stage.server_with("a", keeping(Some(Duration::ZERO)));
    let early = commit(&server, &app(), 0..3).await[2];
    let copy: DatabaseName = "copy".parse().unwrap();
    server.fork(&app(), Some(early.generation), Target::Txid(early.txid), &copy).await.unwrap();
    commit(&server, &app(), 3..24).await;
    let log = server.log(&app());
    assert!(is_kept(&log, early).await, "the fork needs it");
    assert_eq!(rows_elsewhere(&stage, &copy).await, 3);
    commit(&server, &copy, 100..124).await;
    assert_eq!(log.forks().await.unwrap(), []);
    assert!(is_kept(&log, early).await, "nobody has looked since");
    commit(&server, &app(), 24..25).await;
    assert!(!is_kept(&log, early).await);
    assert_eq!(rows_elsewhere(&stage, &copy).await, 27);
    assert_eq!(rows_elsewhere(&stage, &app()).await, 25);
}

#[tokio::test]
async fn a_client_that_was_away_for_longer_than_the_window_gets_all_pages() {
    let stage = Stage::new();
    let (server, _) = stage.server_with("a", keeping(Some(Duration::ZERO)));
    let hosted = server.open(&app()).await.unwrap();
    // Pages that nothing changes afterwards.
    execute(&hosted, "CREATE TABLE still AS SELECT zeroblob(3000) FROM (VALUES(1), (2), (3), (4))");
    drop(hosted);
    let revisions = commit(&server, &app(), 0..24).await;
    let (long_ago, lately) = (revisions[0], revisions[23]);
    commit(&server, &app(), 24..25).await;
    let hosted = server.open(&app()).await.unwrap();
    let lacks = async |client: Revision| {
        let pinned = hosted.pages().pin(None, Some(client)).await.unwrap().unwrap();
        let since = pinned.base(client).unwrap();
        (pinned.changed_since(since, Pgno::ONE).count(), pinned.pages() as usize)
    };
    let (changed, all) = lacks(long_ago).await;
    assert_eq!(changed, all);
    let (changed, all) = lacks(lately).await;
    assert!(changed < all, "{changed} of {all}");
    assert!(hosted.pages().pin(Some(long_ago), None).await.unwrap().is_none(), "it is not there any more");
}
