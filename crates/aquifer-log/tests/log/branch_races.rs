//! Databases that are set back while others delete: held still at each request in turn.

use std::sync::Arc;

use aquifer_log::{ForkError, Generation, PlanError, RemoveError, branch, remove_generation};
use aquifer_testkit::fault_store::{Fault, Gate, Op, Rule};

use crate::fork::child_of;
use crate::fork_races::{Deleting, between_runs, hold_first_at, stage};
use crate::history::{History, restore};

/// A purge takes what continues a database with it.
const ALL: [Deleting; 3] = [Deleting::LongRetired, Deleting::JustRetired, Deleting::Removal];

async fn branch_at(history: &History, txid: u64) -> Result<Generation, ForkError> {
    branch(&history.db, &history.plan_txid(txid).await?, "host").await
}

/// A branch that was made is whole; one that was refused has left nothing.
async fn check(of: &History, made: Result<Generation, ForkError>, told: &str) -> bool {
    match made {
        Ok(begun) => {
            let history = History::continuing(&of.db, begun.id, 1, of.image(10)).await;
            let plan = history.plan_txid(1).await.unwrap_or_else(|e| panic!("{told}: {e}"));
            assert!(restore(&plan).await == *of.image(10), "{told}");
            true
        }
        Err(error) => {
            let latest = of.db.latest_generation().await.unwrap();
            assert!(latest.is_none_or(|latest| latest.id == of.generation), "{told}: {error}");
            false
        }
    }
}

#[tokio::test]
async fn a_branch_made_while_a_deletion_stands_still_anywhere_is_whole_or_refused() {
    for deleting in ALL {
        let mut made = 0;
        for n in 0.. {
            let (faults, _, history) = stage().await;
            deleting.before(&history).await;
            let run = {
                let history = Arc::clone(&history);
                async move { deleting.run(&history).await }
            };
            let ((), branched, was_held) = hold_first_at(&faults, n, run, branch_at(&history, 10)).await;
            deleting.after(&history).await;
            let told = format!("{deleting:?} held at request {n}");
            made += usize::from(check(&history, branched, &told).await);
            if !was_held {
                assert!(n > 8, "{told}");
                break;
            }
        }
        // Not by refusing everything; but for what was given up before it began.
        assert_eq!(made == 0, deleting == Deleting::LongRetired, "{deleting:?}");
    }
}

#[tokio::test]
async fn a_branch_that_stands_still_anywhere_while_others_delete_is_whole_or_refused() {
    for deleting in ALL {
        let mut made = 0;
        for n in 0.. {
            let (faults, _, history) = stage().await;
            deleting.before(&history).await;
            let branching = {
                let history = Arc::clone(&history);
                async move { branch_at(&history, 10).await }
            };
            let delete = async {
                deleting.run(&history).await;
                deleting.after(&history).await;
            };
            let (branched, (), was_held) = hold_first_at(&faults, n, branching, delete).await;
            deleting.after(&history).await;
            let told = format!("{deleting:?} while held at request {n}");
            made += usize::from(check(&history, branched, &told).await);
            if !was_held {
                assert!(n > 8, "{told}");
                break;
            }
        }
        // What looks for children, and finds one, takes back what it had given up.
        assert!(made > 0, "{deleting:?}");
    }
}

#[tokio::test]
async fn a_branch_made_between_a_slow_run_of_retention_and_the_next_stays_whole() {
    let (faults, _, history) = stage().await;
    let branched = between_runs(&faults, &history, branch_at(&history, 10)).await;
    assert!(check(&history, branched, "made in between").await);
}

#[tokio::test]
async fn a_moment_that_retention_has_given_up_is_not_gone_back_to() {
    let (_, _, history) = stage().await;
    Deleting::LongRetired.before(&history).await;
    let refused = branch_at(&history, 10).await;
    assert!(matches!(refused, Err(ForkError::NotKept { .. })), "{refused:?}");
    check(&history, refused, "waits").await;
    Deleting::LongRetired.run(&history).await;
    let refused = branch_at(&history, 10).await;
    assert!(matches!(refused, Err(ForkError::Plan(PlanError::NotKept { .. }))), "{refused:?}");
    assert!(branch_at(&history, 26).await.is_ok(), "within the window");
}

#[tokio::test]
async fn a_fork_is_set_back_to_what_it_began_with_only_while_its_parent_keeps_that() {
    let (faults, _, parent) = stage().await;
    let child = Arc::new(child_of(&parent, 10, "child").await);
    // It stands still before it is the newest, and the parent deletes what nobody needs.
    let gate = Gate::new();
    faults.inject(Rule::on(Op::Create, "generation.json", Fault::Hold(gate.clone())).times(1));
    let branching = {
        let child = Arc::clone(&child);
        tokio::spawn(async move { branch_at(&child, 1).await })
    };
    gate.arrived(1).await;
    Deleting::JustRetired.run(&parent).await;
    Deleting::JustRetired.after(&parent).await;
    gate.open();
    let begun = branching.await.unwrap().unwrap();
    let history = History::continuing(&child.db, begun.id, 1, child.image(1)).await;
    assert!(restore(&history.plan_txid(1).await.unwrap()).await == *child.image(1));
    let needed = remove_generation(&parent.db, parent.generation).await;
    assert!(matches!(needed, Err(RemoveError::HasFork { .. })), "{needed:?}");
}
