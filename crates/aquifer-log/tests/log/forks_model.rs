//! Any sequence of commits, compactions, retention, forks, deletions: against a model that keeps every image.

use std::collections::BTreeSet;
use std::time::Duration;

use aquifer_format::Txid;
use aquifer_log::{
    Compactor, ForkError, Levels, Retention, Scope, Store, Target, branch, purge_deleted, retain, snapshot,
    verify,
};
use proptest::prelude::*;

use crate::fork::{at, fork_of, keys, memory, named};
use crate::history::{Dice, History};

const LEVELS: Levels = Levels { fanout: 3, highest: 2 };

#[derive(Debug, Clone)]
enum Op {
    Commit(u64),
    Compact,
    Snapshot(u64),
    /// From which txid on, and whether what is unneeded waits.
    Retain(u64, bool),
    Fork(u64),
    Branch(u64),
    Delete,
    Purge,
}

fn op() -> impl Strategy<Value = (usize, Op)> {
    let op = prop_oneof![
        4 => (1u64..8).prop_map(Op::Commit),
        2 => Just(Op::Compact),
        2 => any::<u64>().prop_map(Op::Snapshot),
        4 => (any::<u64>(), any::<bool>()).prop_map(|(from, waits)| Op::Retain(from, waits)),
        4 => any::<u64>().prop_map(Op::Fork),
        1 => any::<u64>().prop_map(Op::Branch),
        1 => Just(Op::Delete),
        1 => Just(Op::Purge),
    ];
    (any::<usize>(), op)
}

/// A database, as it should be.
struct Database {
    history: History,
    /// The first txid of its window.
    kept: u64,
    deleted: bool,
    purged: bool,
}

struct World {
    store: Store,
    databases: Vec<Database>,
    dice: Dice,
}

impl World {
    async fn new() -> World {
        let store = memory();
        let history = History::of(&store, 1, 5).await;
        let first = Database { history, kept: 1, deleted: false, purged: false };
        World { store, databases: vec![first], dice: Dice::new(7) }
    }

    async fn apply(&mut self, of: usize, op: &Op) {
        let (count, store) = (self.databases.len(), self.store.clone());
        let database = &mut self.databases[of % count];
        let history = &mut database.history;
        // Of the window, or a little before it: what was given up may still be there.
        let head = history.head();
        let some = |number: u64| 1 + number % head;
        match *op {
            _ if database.purged => {}
            // Nobody has it open.
            _ if database.deleted && !matches!(op, Op::Delete | Op::Purge) => {}
            Op::Commit(n) => history.grow(n).await,
            Op::Compact => {
                let mut compactor = Compactor::new(history.db.clone(), history.generation, LEVELS);
                while compactor.step(Txid::new(history.head())).await.unwrap().is_some() {}
            }
            Op::Snapshot(number) => {
                let txid = some(number).max(database.kept);
                let target = Target::Txid(Txid::new(txid));
                snapshot(&history.db, Some(history.generation), target).await.unwrap();
            }
            Op::Retain(number, waits) => {
                database.kept = database.kept.max(some(number));
                let grace = if waits { Duration::from_hours(1) } else { Duration::ZERO };
                let now = at(history, database.kept);
                let retention = Retention { window: Duration::ZERO, grace };
                retain(&history.db, &retention, now, now).await.unwrap();
            }
            Op::Fork(number) => {
                let txid = some(number);
                let name = format!("db {count}");
                match fork_of(history, txid, &name).await {
                    Ok(forked) => {
                        let (db, image) = (named(&store, &name), history.image(txid).clone());
                        let seed = count as u64 * 100;
                        let history = History::continuing(&db, forked.generation.id, seed, &image).await;
                        self.databases.push(Database { history, kept: 1, deleted: false, purged: false });
                    }
                    Err(error @ (ForkError::NotKept { .. } | ForkError::Plan(_))) => {
                        assert!(txid < database.kept, "txid {txid}: {error}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Op::Branch(number) => {
                let txid = some(number).max(database.kept);
                let plan = history.plan_txid(txid).await.unwrap();
                let begun = branch(&history.db, &plan, "host").await.unwrap();
                let (db, image) = (history.db.clone(), history.image(txid).clone());
                *history = History::continuing(&db, begun.id, txid, &image).await;
                database.kept = 1;
            }
            Op::Delete => {
                database.deleted = !database.deleted;
                if database.deleted {
                    history.db.mark_deleted(Duration::from_hours(1)).await.unwrap();
                } else {
                    assert!(history.db.unmark_deleted().await.unwrap());
                }
            }
            Op::Purge => {
                history.db.purge().await.unwrap();
                database.purged = true;
            }
        }
    }

    /// The ends of each window, and something in between.
    async fn check(&mut self) {
        for database in self.databases.iter().filter(|database| !database.purged) {
            let (history, kept) = (&database.history, database.kept);
            let between = kept + self.dice.below(history.head() - kept + 1);
            for txid in BTreeSet::from([kept, between, history.head()]) {
                history.assert_restores(txid).await;
            }
        }
    }

    async fn check_all(&self) {
        for database in self.databases.iter().filter(|database| !database.purged) {
            let history = &database.history;
            for txid in database.kept..=history.head() {
                history.assert_restores(txid).await;
            }
            verify(&history.db, None, Target::Latest, Scope::All, |_| ()).await.unwrap();
        }
    }

    /// When all are gone, nothing has stayed for the sake of another.
    async fn end(self) {
        for database in &self.databases {
            database.history.db.purge().await.unwrap();
        }
        for _ in &self.databases {
            purge_deleted(&self.store).await.unwrap();
        }
        assert_eq!(keys(&self.store).await, BTreeSet::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn every_moment_of_every_window_restores_whatever_is_forked_and_deleted(
        ops in prop::collection::vec(op(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for (of, op) in &ops {
                world.apply(*of, op).await;
                world.check().await;
            }
            world.check_all().await;
            world.end().await;
        });
    }
}
