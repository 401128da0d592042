//! Every step of a sync is once the last one: the process is killed before it, or the disk is full from there on.
//!
//! A step is a system call that changes a file, makes it durable, or says something to the server or hears it; a library
//! that is preloaded counts them (`shim.c`). After each blow the database is whole and has all that was committed; then
//! the same command goes on, and everybody has everything, once.
//!
//! `AQUIFER_TORTURE=1` takes all steps, one by one; otherwise it is a selection, another one each time.
#![allow(clippy::unwrap_used, reason = "a test that cannot set the stage should fail")]

mod blows;
mod stage;

use blows::{Blow, begin, go_on, seed};

/// A sync by SQL that pushes and pulls.
const SQL: &[&str] = &[];
const BATCHES: &[&str] = &["--push-batch-rows", "4"];
const FRAMES: &[&str] = &["--protocol", "libsql"];

#[test]
fn a_sync_that_is_killed_before_any_step_of_it_loses_nothing_and_pushes_nothing_twice() {
    go_on(Blow::Kill, SQL);
}

#[test]
fn a_sync_in_several_pushes_that_is_killed_before_any_step_loses_nothing_and_pushes_nothing_twice() {
    go_on(Blow::Kill, BATCHES);
}

#[test]
fn a_sync_of_pages_that_is_killed_before_any_step_loses_nothing_and_pushes_nothing_twice() {
    go_on(Blow::Kill, FRAMES);
}

#[test]
fn a_sync_whose_disk_is_full_at_any_step_says_so_and_loses_nothing_and_pushes_nothing_twice() {
    go_on(Blow::FullDisk, SQL);
}

#[test]
fn a_sync_in_several_pushes_whose_disk_is_full_at_any_step_loses_nothing_and_pushes_nothing_twice() {
    go_on(Blow::FullDisk, BATCHES);
}

#[test]
fn a_sync_of_pages_whose_disk_is_full_at_any_step_says_so_and_loses_nothing_and_pushes_nothing_twice() {
    go_on(Blow::FullDisk, FRAMES);
}

#[test]
fn a_first_fetch_that_ends_at_any_step_goes_on_and_is_whole() {
    for blow in [Blow::Kill, Blow::FullDisk] {
        for protocol in [SQL, FRAMES] {
            begin(blow, protocol);
        }
    }
}

#[test]
fn a_first_push_of_a_whole_database_that_ends_at_any_step_goes_on_and_happens_once() {
    for blow in [Blow::Kill, Blow::FullDisk] {
        seed(blow);
    }
}
