//! Daemon, application, restore, standby and the commands of upkeep are killed at random moments, and the machine is
//! lost now and then: no acknowledged commit is lost that was durable, and nothing that is restored is ever torn.
//!
//! Rounds come in lives: each has a store and a database of its own. `AQUIFER_TORTURE_ROUNDS` says how many rounds there
//! are in all, `AQUIFER_TORTURE_SEED` what happens in the first life; the next ones count on from it. What is killed
//! follows from the seed, when it is hit does not: it depends on the machine.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod life;
mod stage;
mod sync;
mod synced;

use stage::StoreKind;

/// Rounds of one life: enough for levels to be compacted, few enough to look at when something is found.
const ROUNDS_OF_A_LIFE: u64 = 25;

fn torture(what: &str, short: u64, live: impl Fn(u64, u64)) {
    let number = |name: &str, default| std::env::var(name).ok().map_or(default, |n| n.parse().unwrap());
    let rounds = number("AQUIFER_TORTURE_ROUNDS", short);
    let first_seed = number("AQUIFER_TORTURE_SEED", 1);
    let mut done = 0;
    for seed in first_seed.. {
        let of_this = ROUNDS_OF_A_LIFE.min(rounds - done);
        live(seed, of_this);
        done += of_this;
        let kills = stage::kills();
        eprintln!("{what}: {done} of {rounds} rounds done, {kills} processes killed until now (seed {seed})");
        if done == rounds {
            return;
        }
    }
}

#[test]
fn kill_9_of_anything_at_any_time_loses_nothing_and_tears_nothing_in_a_directory() {
    torture("directory", 12, |seed, rounds| life::live(StoreKind::Directory, seed, rounds));
}

#[test]
fn kill_9_of_anything_at_any_time_loses_nothing_and_tears_nothing_over_a_faulty_s3() {
    torture("S3", 12, |seed, rounds| life::live(StoreKind::S3, seed, rounds));
}

#[test]
fn kill_9_of_anything_at_any_time_keeps_every_commit_of_synced_databases_exactly_once() {
    torture("sync", 20, sync::live);
}
