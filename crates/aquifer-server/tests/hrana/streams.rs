//! Transactions over several requests, and what ends them.
use std::time::Duration;

use aquifer_server::hrana::Settings;
use serde_json::{Value, json};

use super::world::{World, execute, until, world};

fn baton(answer: &Value) -> String {
    answer["baton"].as_str().unwrap_or_else(|| panic!("no baton: {answer}")).to_owned()
}

/// Opens a transaction that holds the write lock and has one row.
fn begin(world: &World) -> String {
    baton(
        &world.pipeline(
            None,
            &json!([execute("BEGIN IMMEDIATE"), execute("INSERT INTO t VALUES (1, 'held')")]),
        ),
    )
}

fn count(world: &World) -> String {
    world.value("SELECT count(*) FROM t")
}

#[test]
fn a_transaction_lives_under_batons_that_change_and_serve_once() {
    let world = world(Settings::default());
    let first = begin(&world);
    let second = baton(&world.pipeline(Some(&first), &json!([execute("INSERT INTO t VALUES (2, 'more')")])));
    assert_ne!(first, second);
    assert_eq!(count(&world), "0", "others do not see it before it commits");

    let stale = world.post("/v3/pipeline", &json!({"baton": first, "requests": []}).to_string());
    assert_eq!(stale.status, 400);
    assert_eq!(stale.json()["code"], "STREAM_EXPIRED");

    let last = world.pipeline(Some(&second), &json!([execute("COMMIT"), {"type":"close"}]));
    assert_eq!(last["baton"], Value::Null);
    assert_eq!(count(&world), "2");
}

#[test]
fn a_guessed_baton_neither_opens_nor_ends_a_stream() {
    let world = world(Settings::default());
    let real = begin(&world);
    let (id, secret) = real.split_once('.').unwrap();
    let flipped = if secret.starts_with('0') { "1" } else { "0" };
    for guess in
        [format!("{id}.{flipped}{}", &secret[1..]), format!("{id}."), id.into(), "é.é".into(), String::new()]
    {
        let answer = world.post("/v3/pipeline", &json!({"baton": guess, "requests": []}).to_string());
        assert_eq!(answer.status, 400, "{guess}");
    }
    world.pipeline(Some(&real), &json!([execute("COMMIT"), {"type":"close"}]));
    assert_eq!(count(&world), "1");
}

#[test]
fn an_idle_stream_expires_and_its_transaction_is_rolled_back() {
    let world = world(Settings { stream_idle: Duration::from_millis(50), ..Settings::default() });
    let held = begin(&world);
    // The write lock is free again only when the transaction has ended.
    world.execute("INSERT INTO t VALUES (7, 'after')");
    assert_eq!(count(&world), "1");
    let late =
        world.post("/v3/pipeline", &json!({"baton": held, "requests": [execute("COMMIT")]}).to_string());
    assert_eq!(late.status, 400);
}

#[test]
fn a_closed_stream_rolls_back_at_once() {
    let world = world(Settings::default());
    let answer = world.pipeline(None, &json!([execute("BEGIN IMMEDIATE"), execute("INSERT INTO t VALUES (1, 1)"), {"type":"close"}, {"type":"get_autocommit"}]));
    assert_eq!(answer["baton"], Value::Null);
    assert_eq!(answer["results"][3]["error"]["code"], "STREAM_CLOSED");
    until("the rollback", || {
        world.pipeline(None, &json!([execute("INSERT INTO t VALUES (2, 2)"), {"type":"close"}]))["results"][0]
            ["type"]
            == "ok"
    });
    assert_eq!(count(&world), "1");
}

#[test]
fn the_host_ends_the_streams_that_wait() {
    let world = world(Settings::default());
    begin(&world);
    world.hrana.close_idle_streams();
    world.execute("INSERT INTO t VALUES (2, 2)");
    assert_eq!(count(&world), "1");
}

#[test]
fn streams_are_bounded_and_idle_ones_without_a_transaction_make_room() {
    let settings = Settings { streams: 2, stream_wait: Duration::from_millis(50), ..Settings::default() };
    let world = world(settings);
    let transaction = begin(&world);
    let idle = baton(&world.pipeline(None, &json!([execute("SELECT 1")])));
    // The idle one gives up its place, the transaction does not.
    let reading = baton(&world.pipeline(None, &json!([execute("BEGIN"), execute("SELECT * FROM t")])));
    assert_eq!(world.post("/v3/pipeline", &json!({"baton": idle, "requests": []}).to_string()).status, 400);
    let full = world.post("/v3/pipeline", &json!({"requests": []}).to_string());
    assert_eq!((full.status, full.json()["code"].as_str()), (503, Some("TOO_MANY_STREAMS")));
    world.pipeline(Some(&reading), &json!([{"type":"close"}]));
    world.pipeline(Some(&transaction), &json!([execute("COMMIT"), {"type":"close"}]));
    assert_eq!(count(&world), "1");
}

#[test]
fn a_transaction_that_its_client_keeps_busy_ends_after_its_time() {
    let world = world(Settings { transaction: Duration::from_millis(100), ..Settings::default() });
    let (mut held, mut ended) = (begin(&world), None);
    until("the end of the transaction", || {
        let body = json!({"baton": held, "requests": [execute("SELECT count(*) FROM t")]});
        let answer = world.post("/v3/pipeline", &body.to_string());
        match answer.status {
            200 => held = baton(&answer.json()),
            _ => ended = Some(answer),
        }
        ended.is_some()
    });
    let ended = ended.unwrap();
    assert_eq!((ended.status, ended.json()["code"].as_str()), (400, Some("TRANSACTION_TIMEOUT")));
    world.execute("INSERT INTO t VALUES (7, 'after')");
    assert_eq!(count(&world), "1");
}
