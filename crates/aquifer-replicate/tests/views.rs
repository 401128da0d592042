//! Pages of a revision, read while the database goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use aquifer_format::Pgno;
use aquifer_log::{DatabaseName, DatabaseStore, Store, Target};
use aquifer_replicate::capture::WalLimits;
use aquifer_replicate::restore::Restorer;
use aquifer_replicate::{ReplicaOptions, Replicator, RevisionView, Tracker};
use aquifer_testkit::fault_store::{Fault, FaultStore, Gate, Op, Rule};
use support::Application;

fn content(view: &RevisionView) -> Vec<u8> {
    let size = view.page_size().bytes();
    let mut content = vec![0; view.pages() as usize * size];
    for (pgno, page) in Pgno::up_to(view.pages()).zip(content.chunks_exact_mut(size)) {
        assert!(view.read(pgno, page).unwrap(), "given up");
    }
    content
}

/// The same revision as everybody else would get it.
async fn restored(database: &DatabaseStore, view: &RevisionView) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.db");
    Restorer::new(database.store().clone(), database.name().clone(), &path)
        .generation(view.revision().generation)
        .target(Target::Txid(view.revision().txid))
        .restore()
        .await
        .unwrap();
    std::fs::read(path).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_its_revision_while_others_write() {
    let app = Application::new();
    let store = Store::open(&"memory://".parse().unwrap()).unwrap();
    let name: DatabaseName = "app".parse().unwrap();
    let replicator = Replicator::builder(store.clone()).start();
    let tracker = Tracker::new();
    replicator.add_tracked(&app.path, &name, Arc::clone(&tracker)).unwrap();
    let database = DatabaseStore::new(store, name.clone());
    let first = replicator.sync_database(&name).await.unwrap().unwrap();

    // Views hold the WAL: the writer is told when to write, and does it while the next view is taken and read.
    let (write, writes) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn({
        let path = app.path.clone();
        move || {
            let connection = support::connect(&path);
            for round in 1.. {
                if writes.recv().is_err() {
                    return;
                }
                for k in 0..40 {
                    let sql = "INSERT OR REPLACE INTO t VALUES(?, randomblob(9000))";
                    connection.execute(sql, [k + round % 9]).unwrap();
                }
                if round % 7 == 0 {
                    // Readers keep it from being done, now and then.
                    let _ = connection.execute_batch("DELETE FROM t WHERE k > 10; VACUUM");
                }
            }
        }
    });
    let mut views: Vec<(Arc<RevisionView>, Vec<u8>)> = Vec::new();
    for _ in 0..30 {
        write.send(()).unwrap();
        let view = replicator.view(&name).await.unwrap();
        assert!(tracker.durable().borrow().is_some_and(|durable| durable.txid >= view.revision().txid));
        assert_eq!(tracker.pages_at(view.revision()), Some(view.pages()));
        let now = content(&view);
        assert!(now == restored(&database, &view).await, "{}", view.revision());
        // What changed between an older view and this one is told, page by page.
        for (older, before) in &views {
            assert!(content(older) == *before, "{} changed", older.revision());
            let since = older.revision().txid;
            let generation = view.revision().generation;
            let told = tracker.changed_since(generation, since, Pgno::ONE, usize::MAX).unwrap();
            let size = view.page_size().bytes();
            for (pgno, page) in Pgno::up_to(view.pages()).zip(now.chunks_exact(size)) {
                let same = before.chunks_exact(size).nth(pgno.index()).is_some_and(|old| old == page);
                assert!(same || told.binary_search(&pgno).is_ok(), "{pgno} since {since}");
                assert!(same || tracker.may_have_changed(generation, since, pgno));
            }
        }
        if views.len() > 2 {
            views.remove(0);
        }
        views.push((view, now));
    }
    drop(write);
    writer.join().unwrap();
    let last = replicator.sync_database(&name).await.unwrap().unwrap();
    assert!(last.txid.get() > first.txid.get() + 20, "{last}");
    // Nothing is written: the revision that is durable, again and again.
    for _ in 0..3 {
        assert_eq!(replicator.view(&name).await.unwrap().revision(), last);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    replicator.shutdown().await.unwrap();
}

#[tokio::test]
async fn nobody_sees_a_revision_before_it_is_durable() {
    let app = Application::new();
    let faults = FaultStore::in_memory();
    let store = Store::from_object_store(Arc::new(faults.clone()), "test");
    let name: DatabaseName = "app".parse().unwrap();
    let replicator = Replicator::builder(store).start();
    replicator.add_tracked(&app.path, &name, Tracker::new()).unwrap();
    let before = replicator.sync_database(&name).await.unwrap().unwrap();
    let gate = Gate::new();
    faults.inject(Rule::on(Op::Create, "/0/", Fault::Hold(gate.clone())));
    app.put(1, 5000);
    gate.arrived(1).await;
    let mut view = Box::pin(replicator.view(&name));
    let mut later = Box::pin(replicator.view(&name));
    let early =
        tokio::time::timeout(Duration::from_millis(200), futures::future::select(&mut view, &mut later));
    assert!(early.await.is_err(), "a view of what may still be fenced");
    gate.open();
    let (view, later) = (view.await.unwrap(), later.await.unwrap());
    assert!(view.revision().txid > before.txid);
    assert_eq!(view.revision(), later.revision());
}

#[tokio::test]
async fn a_view_under_which_the_wal_grows_too_large_is_given_up() {
    let app = Application::new();
    let store = Store::open(&"memory://".parse().unwrap()).unwrap();
    let name: DatabaseName = "app".parse().unwrap();
    let wal = WalLimits { soft: 50_000, hard: 100_000, viewed: 400_000, ..WalLimits::default() };
    let options = ReplicaOptions { wal, ..ReplicaOptions::default() };
    let replicator = Replicator::builder(store).options(options).start();
    replicator.add_tracked(&app.path, &name, Tracker::new()).unwrap();
    replicator.sync_database(&name).await.unwrap();
    let view = replicator.view(&name).await.unwrap();
    let mut page = vec![0; view.page_size().bytes()];
    assert!(view.read(Pgno::ONE, &mut page).unwrap());
    let write = async || {
        app.put(1, 20_000);
        replicator.sync_database(&name).await.unwrap();
    };
    while view.read(Pgno::ONE, &mut page).unwrap() {
        write().await;
        assert!(app.wal_len() < 2_000_000, "it holds the WAL for ever");
    }
    for _ in 0..200 {
        write().await;
    }
    assert!(app.wal_len() < 2_000_000, "{} bytes", app.wal_len());
    assert!(replicator.view(&name).await.unwrap().read(Pgno::ONE, &mut page).unwrap());
}
