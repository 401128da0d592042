//! Cursors: big results in bounded memory, and their streams.
use std::io::{BufReader, Read};
use std::time::Duration;

use aquifer_server::hrana::{self, Settings};
use aquifer_server::sql::{Access, Limits};
use futures::StreamExt;
use serde_json::{Value, json};

use super::world::{until, world};

fn batch(baton: Option<&str>, steps: &Value) -> String {
    json!({"baton": baton, "batch": {"steps": steps}}).to_string()
}

/// A query of that many rows of a kilobyte.
fn rows(count: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         SELECT i, hex(zeroblob(512)) FROM n"
    )
}

fn lines(body: &str) -> Vec<Value> {
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn steps_that_fail_or_are_skipped_show_in_the_stream() {
    let world = world(Settings::default());
    let answer = world.post(
        "/v3/cursor",
        &batch(
            None,
            &json!([
                {"stmt":{"sql":"SELECT 1 AS one"}},
                {"stmt":{"sql":"INSERT INTO t VALUES (1, 1), (1, 2)"}},
                {"condition":{"type":"ok","step":1},"stmt":{"sql":"SELECT 2"}},
                {"condition":{"type":"error","step":1},"stmt":{"sql":"SELECT 3"}},
            ]),
        ),
    );
    let lines = lines(&answer.body);
    let types: Vec<&str> = lines[1..].iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        ["step_begin", "row", "step_end", "step_begin", "step_error", "step_begin", "row", "step_end"]
    );
    assert_eq!(lines[1]["cols"], json!([{"name":"one","decltype":null}]));
    assert_eq!(lines[5]["step"], 1);
    assert_eq!(lines[5]["error"]["code"], "SQLITE_CONSTRAINT_PRIMARYKEY");
    assert_eq!(lines[7]["row"], json!([{"type":"integer","value":"3"}]));
}

#[test]
fn a_batch_that_means_nothing_ends_with_an_error() {
    let world = world(Settings::default());
    let answer = world.post(
        "/v3/cursor",
        &batch(
            None,
            &json!([
                {"stmt":{"sql":"INSERT INTO t VALUES (1, 1)"}},
                {"condition":{"type":"ok","step":7},"stmt":{"sql":"SELECT 2"}},
            ]),
        ),
    );
    let lines = lines(&answer.body);
    assert_eq!(lines[1]["type"], "error");
    assert_eq!(lines[1]["error"]["code"], "BATCH_COND_BAD_STEP");
    assert_eq!(world.value("SELECT count(*) FROM t"), "0", "nothing of it ran");
}

#[test]
fn the_stream_of_a_cursor_goes_on_under_its_baton() {
    let world = world(Settings::default());
    let first = world.post(
        "/v3/cursor",
        &batch(None, &json!([{"stmt":{"sql":"BEGIN"}},{"stmt":{"sql":"INSERT INTO t VALUES (1, 1)"}}])),
    );
    let baton = lines(&first.body)[0]["baton"].as_str().unwrap().to_owned();
    let second = world.post("/v3/cursor", &batch(Some(&baton), &json!([{"stmt":{"sql":"COMMIT"}}])));
    let baton = lines(&second.body)[0]["baton"].as_str().unwrap().to_owned();
    let closed = world.pipeline(Some(&baton), &json!([{"type":"close"}]));
    assert_eq!(closed["baton"], Value::Null);
    assert_eq!(world.value("SELECT count(*) FROM t"), "1");
}

/// The crate `libsql` reads no further than the end of its statement, and closes the connection.
#[test]
fn a_baton_is_valid_when_the_last_line_has_arrived() {
    let world = world(Settings::default());
    // Results that fill a part of the answer to the brim are among them.
    for count in [0, 1, 29, 30, 31, 32, 33, 100] {
        let baton = world.runtime.block_on(async {
            let body = batch(None, &json!([{"stmt":{"sql": rows(count)}}]));
            let answer = hrana::cursor(&world.hrana, Access::ReadWrite, body.as_bytes()).await;
            let mut parts = answer.into_body().into_data_stream();
            let mut text = String::new();
            while !text.contains("step_end") {
                text.push_str(std::str::from_utf8(&parts.next().await.unwrap().unwrap()).unwrap());
            }
            lines(&text)[0]["baton"].as_str().unwrap().to_owned()
        });
        let closed = world.pipeline(Some(&baton), &json!([{"type":"close"}]));
        assert_eq!(closed["results"][0]["type"], "ok", "after {count} rows: {closed}");
    }
}

#[test]
fn a_result_larger_than_any_limit_streams_through() {
    let limits = Limits { rows: 10, result_bytes: 1000, ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    let answer = world.post("/v3/cursor", &batch(None, &json!([{"stmt":{"sql": rows(20_000)}}])));
    let lines = lines(&answer.body);
    assert_eq!(lines.len(), 20_000 + 3);
    assert_eq!(lines[20_001]["row"][0]["value"], "20000");
    assert_eq!(lines[20_002]["rows_read"], 20_000);
}

#[test]
fn a_statement_waits_for_its_reader() {
    let world = world(Settings::default());
    // More than socket buffers can take: 64 MB.
    let socket = world.send("POST", "/v3/cursor", &batch(None, &json!([{"stmt":{"sql": rows(64_000)}}])));
    let mut reader = BufReader::new(socket);
    let mut taken = vec![0; 1 << 20];
    reader.read_exact(&mut taken).unwrap();
    // As long as nobody reads on, the statement holds its snapshot; it cannot have gone on to its end.
    assert_eq!(world.hrana.running_requests(), 1);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("step_end") && !rest.contains("error"), "…{}", &rest[rest.len() - 200..]);
}

#[test]
fn a_reader_that_takes_nothing_is_given_up() {
    let world = world(Settings { slow_reader: Duration::from_millis(50), ..Settings::default() });
    let steps = json!([
        {"stmt":{"sql":"BEGIN IMMEDIATE"}},
        {"stmt":{"sql":"INSERT INTO t VALUES (1, 1)"}},
        {"stmt":{"sql": rows(64_000)}},
    ]);
    let socket = world.send("POST", "/v3/cursor", &batch(None, &steps));
    let mut reader = BufReader::new(socket);
    reader.read_exact(&mut vec![0; 100_000]).unwrap();
    // Its transaction holds the write lock; it is free when the cursor has been given up.
    world.execute("INSERT INTO t VALUES (2, 2)");
    assert_eq!(world.value("SELECT count(*) FROM t"), "1");
    let mut late = String::new();
    reader.read_to_string(&mut late).unwrap();
    assert!(late.contains("SLOW_READER"), "…{}", &late[late.len() - 200..]);
}

#[test]
fn a_reader_that_goes_away_ends_the_cursor_and_its_transaction() {
    let world = world(Settings::default());
    let steps = json!([
        {"stmt":{"sql":"BEGIN IMMEDIATE"}},
        {"stmt":{"sql":"INSERT INTO t VALUES (1, 1)"}},
        {"stmt":{"sql": rows(64_000)}},
    ]);
    let socket = world.send("POST", "/v3/cursor", &batch(None, &steps));
    let mut reader = BufReader::new(socket);
    reader.read_exact(&mut vec![0; 100_000]).unwrap();
    drop(reader);
    until("the write lock", || {
        world.pipeline(
            None,
            &json!([{"type":"execute","stmt":{"sql":"INSERT INTO t VALUES (2, 2)"}},{"type":"close"}]),
        )["results"][0]["type"]
            == "ok"
    });
    assert_eq!(world.value("SELECT count(*) FROM t"), "1");
}
