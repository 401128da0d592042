//! What a store promises while requests fail, answers are lost and others write.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use aquifer_log::Store;
use aquifer_log::store::{Created, Key, Patience, Prefix, StoreError};
use aquifer_testkit::fault_store::{Fault, FaultStore, Gate, Op, Request, Rule};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

fn stores() -> (FaultStore, Store) {
    let faults = FaultStore::in_memory();
    let store = Store::from_object_store(std::sync::Arc::new(faults.clone()), "faulty");
    (faults, store.with_patience(Patience::COMMIT))
}

fn ops(log: &[Request]) -> Vec<Op> {
    log.iter().map(|request| request.op).collect()
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_is_ours_and_is_not_sent_twice() {
    let (faults, store) = stores();
    faults.inject(Rule::on(Op::Create, "", Fault::LoseAnswer).times(1));
    assert_eq!(store.create(&key("1"), "mine").await.unwrap(), Created::AlreadyOurs);
    assert_eq!(ops(&faults.take_log()), [Op::Create, Op::Get]);
    assert_eq!(store.counts().retries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_never_arrived_is_sent_again() {
    for (fault, expected) in [
        (Fault::Timeout, vec![Op::Create, Op::Get, Op::Create]),
        (Fault::Throttle, vec![Op::Create, Op::Get, Op::Create]),
        // Known not to have been sent: no need to look.
        (Fault::Unreachable, vec![Op::Create, Op::Create]),
    ] {
        let (faults, store) = stores();
        faults.inject(Rule::on(Op::Create, "", fault.clone()).times(1));
        assert_eq!(store.create(&key("1"), "mine").await.unwrap(), Created::New, "{fault:?}");
        assert_eq!(ops(&faults.take_log()), expected, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_writer_who_came_between_is_not_overwritten() {
    let (faults, store) = stores();
    let others = faults.inner().clone();
    faults.set_schedule(move |request| {
        if request.op != Op::Create {
            return None;
        }
        let path = Path::from("1");
        futures::executor::block_on(others.put(&path, "theirs".into())).unwrap();
        Some(Fault::Timeout)
    });
    let created = store.create(&key("1"), "mine").await.unwrap();
    assert_eq!(created, Created::Taken(Bytes::from_static(b"theirs")));
    // A store that ignores conditions would have lost theirs to a second create.
    assert_eq!(ops(&faults.take_log()), [Op::Create, Op::Get]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_a_create_that_failed_is_tried_again() {
    let (faults, store) = stores();
    faults.inject(Rule::on(Op::Create, "", Fault::Conflict).times(2));
    assert_eq!(store.create(&key("1"), "mine").await.unwrap(), Created::New);
    assert_eq!(ops(&faults.take_log()), [Op::Create, Op::Get, Op::Create, Op::Get, Op::Create]);
}

#[tokio::test(start_paused = true)]
async fn giving_up_tells_whether_the_outcome_is_known() {
    for (op, fault, unknown) in [
        (Op::Create, Fault::Unreachable, false),
        (Op::Create, Fault::Timeout, true),
        (Op::Create, Fault::Throttle, true),
        (Op::Put, Fault::Unreachable, false),
        (Op::Put, Fault::Timeout, true),
        (Op::Delete, Fault::Timeout, true),
        // Reading changes nothing, whatever happened to the answer.
        (Op::Get, Fault::Timeout, false),
        (Op::List, Fault::Timeout, false),
    ] {
        let (faults, store) = stores();
        faults.inject(Rule::on_any("", fault.clone()));
        let result = match op {
            Op::Create => store.create(&key("db/1"), "mine").await.map(drop),
            Op::Put => store.put(&key("db/1"), "mine").await,
            Op::Delete => store.delete(&key("db/1")).await,
            Op::Get => store.get(&key("db/1")).await.map(drop),
            _ => store.list(&Prefix::ROOT, None).try_next().await.map(drop),
        };
        let error = result.unwrap_err();
        assert_eq!(error.outcome_unknown(), unknown, "{op:?} {fault:?}: {error}");
        assert!(error.is_transient(), "{error}");
        assert!(matches!(&error, StoreError::Unavailable { tries: 3, .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("faulty") && message.contains("3 tries"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_back_leaves_the_outcome_unknown() {
    let (faults, store) = stores();
    faults.inject(Rule::on(Op::Create, "", Fault::LoseAnswer).times(1));
    faults.inject(Rule::on(Op::Get, "", Fault::Unreachable));
    let error = store.create(&key("1"), "mine").await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");

    let (faults, store) = stores();
    store.put(&key("1"), "mine").await.unwrap();
    faults.inject(Rule::on(Op::Get, "", Fault::Unreachable));
    let error = store.create(&key("1"), "mine").await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");

    // The same payload again finds out.
    faults.clear();
    assert_eq!(store.create(&key("1"), "mine").await.unwrap(), Created::AlreadyOurs);
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_is_said_at_once() {
    let (faults, store) = stores();
    faults.inject(Rule::on_any("", Fault::Deny));
    for error in [
        store.create(&key("1"), "x").await.unwrap_err(),
        store.put(&key("1"), "x").await.unwrap_err(),
        store.get(&key("1")).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        assert!(!error.is_transient());
    }
    assert_eq!(faults.take_log().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_not_waited_for_for_ever() {
    let (faults, store) = stores();
    faults.inject(Rule::on_any("", Fault::Hold(Gate::new())));
    let started = tokio::time::Instant::now();
    let error = store.create(&key("1"), "mine").await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());

    // A large payload may take its time.
    let (faults, store) = stores();
    let gate = Gate::new();
    faults.inject(Rule::on_any("", Fault::Hold(gate.clone())));
    let (name, payload) = (key("1"), vec![7; 10 << 20]);
    let slow = async {
        gate.arrived(1).await;
        tokio::time::sleep(Duration::from_secs(150)).await;
        gate.open();
    };
    let (created, ()) = tokio::join!(store.create(&name, payload), slow);
    assert_eq!(created.unwrap(), Created::New);
    assert_eq!(store.counts().retries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_create_can_be_repeated() {
    let (faults, store) = stores();
    let gate = Gate::new();
    faults.inject(Rule::on(Op::Get, "", Fault::Hold(gate.clone())).times(1));
    faults.inject(Rule::on(Op::Create, "", Fault::LoseAnswer).times(1));
    let name = key("1");
    let mut create = Box::pin(store.create(&name, "mine"));
    tokio::select! {
        created = &mut create => panic!("{created:?}"),
        () = gate.arrived(1) => {}
    }
    drop(create);
    assert_eq!(store.create(&name, "mine").await.unwrap(), Created::AlreadyOurs);
}

#[tokio::test(start_paused = true)]
async fn reads_that_are_cut_short_are_repeated_and_never_passed_on() {
    let (faults, store) = stores();
    store.put(&key("db/1"), "0123456789").await.unwrap();
    faults.inject(Rule::on(Op::Get, "", Fault::Torn(4)).times(2));
    assert_eq!(store.get_range(&key("db/1"), 2..9).await.unwrap(), "2345678");
    faults.inject(Rule::on(Op::Get, "", Fault::Torn(4)));
    let error = store.get(&key("db/1")).await.unwrap_err();
    assert!(error.to_string().contains("4 bytes of 10"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_breaks_off_is_repeated_whole() {
    let (faults, store) = stores();
    for n in 0..10 {
        store.put(&key(&format!("db/{n}")), "x").await.unwrap();
    }
    faults.inject(Rule::on(Op::List, "", Fault::Torn(4)).times(2));
    let listed: Vec<_> = store.list(&Prefix::ROOT.dir("db"), None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_completion_was_not_answered_is_recognised() {
    let (faults, store) = stores();
    // Initiation and two parts come before.
    faults.inject(Rule::on(Op::Multipart, "", Fault::LoseAnswer).after(3).times(1));
    let mut upload = store.upload(&key("db/big"), 0);
    upload.write(Bytes::from(vec![3; 9 << 20])).await.unwrap();
    assert_eq!(upload.complete().await.unwrap(), 9 << 20);
    assert_eq!(store.get(&key("db/big")).await.unwrap().len(), 9 << 20);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_lost_a_part_is_not_published() {
    let (faults, store) = stores();
    faults.inject(Rule::on(Op::Multipart, "", Fault::Timeout).after(1).times(1));
    let mut upload = store.upload(&key("db/big"), 0);
    upload.write(Bytes::from(vec![3; 9 << 20])).await.unwrap();
    let error = upload.complete().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    faults.clear();
    assert!(store.get(&key("db/big")).await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn background_work_rides_out_an_outage_that_a_commit_does_not() {
    let (faults, store) = stores();
    faults.set_offline(true);
    let back = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        faults.set_offline(false);
    };
    let patient = store.with_patience(Patience::BACKGROUND);
    let (one, two) = (key("1"), key("2"));
    let (committed, compacted, ()) = tokio::join!(store.create(&one, "a"), patient.put(&two, "b"), back);
    assert!(committed.unwrap_err().is_transient());
    compacted.unwrap();
}

/// A generator of repeatable numbers.
fn xorshift(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % below
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_two_writers_never_both_own_a_name() {
    for seed in 0..300 {
        let (faults, store) = stores();
        let mut random = xorshift(seed);
        faults.set_schedule(move |request| match random(10) {
            0 => Some(Fault::Timeout),
            1 => Some(Fault::LoseAnswer),
            2 => Some(Fault::Unreachable),
            3 if request.op == Op::Create => Some(Fault::Conflict),
            4 if request.op == Op::Get => Some(Fault::Torn(3)),
            _ => None,
        });
        let writers = (0..3).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut owned = Vec::new();
                for n in 0..6 {
                    let name = key(&format!("{n}"));
                    let mine = format!("writer {writer}, {n}");
                    // As a shipper does: the same payload until the outcome is known.
                    let created = loop {
                        match store.create(&name, mine.clone()).await {
                            Ok(created) => break created,
                            Err(error) => assert!(error.is_transient(), "{error}"),
                        }
                    };
                    match created {
                        Created::Taken(theirs) => assert_ne!(theirs, mine),
                        _ => owned.push((name, mine)),
                    }
                }
                owned
            })
        });
        let owned: Vec<_> =
            futures::future::try_join_all(writers).await.unwrap().into_iter().flatten().collect();
        faults.clear();
        assert_eq!(owned.len(), 6, "seed {seed}: {owned:?}");
        for (name, mine) in owned {
            assert_eq!(store.get(&name).await.unwrap(), mine, "seed {seed}");
        }
    }
}
