//! Batches without pages: they fence, and they begin what continues something else.

use std::time::Duration;

use aquifer_format::{Revision, Timestamp, Txid};
use aquifer_log::{
    DatabaseStore, Plan, Retention, Scope, Store, Target, branch, retain, seal, snapshot, verify,
};

use crate::history::{History, restore};
use crate::stores::each_store;

fn memory() -> Store {
    Store::open(&"memory://".parse().unwrap()).unwrap()
}

async fn newest(db: &DatabaseStore) -> Plan {
    Plan::make(db, None, Target::Latest).await.unwrap()
}

#[tokio::test]
async fn whoever_would_have_extended_a_sealed_generation_is_fenced_and_nothing_has_changed() {
    each_store(async |store| {
        let mut history = History::of(&store, 71, 5).await;
        let sealed = seal(&history.db, history.generation).await.unwrap();
        assert_eq!(sealed, Revision { generation: history.generation, txid: Txid::new(6) });
        assert!(!history.extend().await.is_committed());
        assert!(restore(&newest(&history.db).await).await == *history.image(5));
        assert_eq!(seal(&history.db, history.generation).await.unwrap().txid, Txid::new(7));
    })
    .await;
}

#[tokio::test]
async fn what_a_busy_writer_was_told_is_durable_is_so_when_it_is_sealed() {
    let store = memory();
    for seed in 0..20 {
        let mut history = History::of(&store, seed, 1).await;
        let (db, generation) = (history.db.clone(), history.generation);
        let writing = async {
            // It is told at its next commit.
            while history.extend().await.is_committed() {
                tokio::task::yield_now().await;
            }
            history
        };
        let (history, sealed) = tokio::join!(writing, seal(&db, generation));
        assert_eq!(sealed.unwrap().txid.get(), history.head() + 1);
        assert!(restore(&newest(&db).await).await == *history.image(history.head()));
    }
}

#[tokio::test]
async fn a_branch_goes_on_from_a_revision_and_needs_no_copy_of_it() {
    let store = memory();
    let history = History::of(&store, 72, 9).await;
    let plan = history.plan_txid(6).await.unwrap();
    let before = store.counts();
    let begun = branch(&history.db, &plan, "host").await.unwrap();
    assert!((store.counts() - before).bytes_up < 2_000, "records only");
    let newest_plan = newest(&history.db).await;
    assert_eq!(newest_plan.revision, Revision { generation: begun.id, txid: Txid::FIRST });
    assert!(restore(&newest_plan).await == *history.image(6));
    verify(&history.db, None, Target::Latest, Scope::Plan, |_| ()).await.unwrap();
    // What it continues stays, whatever else of its generation goes.
    let later = Timestamp::now().after(Duration::from_hours(1));
    let everything = Retention { window: Duration::ZERO, grace: Duration::ZERO };
    let retained = retain(&history.db, &everything, later, later).await.unwrap();
    assert!(retained.deleted > 0, "txids 7 to 9");
    assert!(restore(&newest(&history.db).await).await == *history.image(6));
    // Until it has an image of its own.
    snapshot(&history.db, None, Target::Latest).await.unwrap();
    let retained = retain(&history.db, &everything, later, later).await.unwrap();
    assert_eq!(retained.removed, [history.generation]);
    assert!(restore(&newest(&history.db).await).await == *history.image(6));
}
