//! What bounds and stops a statement.
use std::time::Duration;

use aquifer_server::hrana::Settings;
use aquifer_server::sql::Limits;
use serde_json::json;

use super::world::{until, world};

/// A query that would run for hours.
const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

#[test]
fn a_statement_stops_when_its_client_goes_away_and_its_transaction_ends() {
    let world = world(Settings::default());
    let body = json!({"requests":[
        {"type":"execute","stmt":{"sql":"BEGIN IMMEDIATE"}},
        {"type":"execute","stmt":{"sql":"INSERT INTO t VALUES (1, 1)"}},
        {"type":"execute","stmt":{"sql": ENDLESS}},
        {"type":"execute","stmt":{"sql":"COMMIT"}},
    ]});
    let socket = world.send("POST", "/v3/pipeline", &body.to_string());
    until("the statement", || world.hrana.running_requests() == 1);
    drop(socket);
    until("its end", || world.hrana.running_requests() == 0);
    world.execute("INSERT INTO t VALUES (2, 2)");
    assert_eq!(world.value("SELECT count(*) FROM t"), "1", "nothing after the interrupted statement ran");
}

#[test]
fn a_statement_that_waits_for_a_lock_stops_when_its_client_goes_away() {
    let limits = Limits { busy_timeout: Duration::from_hours(1), ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    let held = world.pipeline(None, &json!([{"type":"execute","stmt":{"sql":"BEGIN IMMEDIATE"}}]));
    let body = json!({"requests":[{"type":"execute","stmt":{"sql":"INSERT INTO t VALUES (1, 1)"}}]});
    let socket = world.send("POST", "/v3/pipeline", &body.to_string());
    until("the statement", || world.hrana.running_requests() == 1);
    drop(socket);
    until("its end", || world.hrana.running_requests() == 0);
    world.pipeline(held["baton"].as_str(), &json!([{"type":"close"}]));
    assert_eq!(world.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_second_writer_gets_busy_after_the_timeout() {
    let limits = Limits { busy_timeout: Duration::from_millis(20), ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    world.pipeline(None, &json!([{"type":"execute","stmt":{"sql":"BEGIN IMMEDIATE"}}]));
    assert_eq!(world.refused("INSERT INTO t VALUES (1, 1)").0, "SQLITE_BUSY");
}

#[test]
fn a_statement_has_only_so_much_time() {
    let limits = Limits { statement_time: Duration::from_millis(50), ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    let (code, message) = world.refused(ENDLESS);
    assert_eq!(code, "SQLITE_INTERRUPT");
    assert!(message.contains("50ms"), "{message}");
    assert_eq!(world.value("SELECT 7"), "7");
}

#[test]
fn results_are_bounded_in_rows_and_bytes_over_a_whole_request() {
    let limits = Limits { rows: 3, result_bytes: 1000, ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    assert_eq!(world.refused("VALUES (1), (2), (3), (4)").0, "RESULT_TOO_MANY_ROWS");
    world.execute("VALUES (1), (2), (3)");
    let half = json!({"type":"execute","stmt":{"sql":"SELECT hex(zeroblob(300))"}});
    let answer = world.pipeline(None, &json!([half, half, {"type":"close"}]));
    assert_eq!(answer["results"][0]["type"], "ok");
    assert_eq!(answer["results"][1]["error"]["code"], "RESPONSE_TOO_LARGE");
}

#[test]
fn a_write_whose_result_is_too_large_changes_nothing() {
    let limits = Limits { rows: 3, ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    let insert = "INSERT INTO t (v) VALUES (1), (2), (3), (4) RETURNING id";
    assert_eq!(world.refused(insert).0, "RESULT_TOO_MANY_ROWS");
    assert_eq!(world.value("SELECT count(*) FROM t"), "0");
    // Without the rows there is nothing to bound.
    let answer = world.pipeline(
        None,
        &json!([{"type":"execute","stmt":{"sql":insert,"want_rows":false}},{"type":"close"}]),
    );
    assert_eq!(answer["results"][0]["response"]["result"]["affected_row_count"], 4);
}

#[test]
fn texts_and_values_have_a_largest_size() {
    let limits = Limits { sql_bytes: 100, value_bytes: 1000, ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    assert_eq!(world.refused(&format!("SELECT {}", "1 +".repeat(50))).0, "SQLITE_TOOBIG");
    assert_eq!(world.refused("SELECT zeroblob(1001)").0, "SQLITE_TOOBIG");
    world.execute("SELECT zeroblob(500)");
}

#[test]
fn stored_sql_is_bounded() {
    let limits = Limits { stored_texts: 2, stored_bytes: 20, ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    let store = |id: i32, sql: &str| json!({"type":"store_sql","sql_id":id,"sql":sql});
    let answer = world.pipeline(
        None,
        &json!([
            store(1, "SELECT 1"),
            store(1, "SELECT 2"),
            store(2, "SELECT 2, 'too long for it'"),
            store(2, "SELECT 2"),
            store(3, "S"),
            {"type":"close_sql","sql_id":1},
            {"type":"close_sql","sql_id":1},
            store(3, "SELECT 3"),
            {"type":"execute","stmt":{"sql_id":1}},
            {"type":"execute","stmt":{"sql_id":3}},
            {"type":"execute","stmt":{"sql_id":3,"sql":"SELECT 1"}},
            {"type":"close"},
        ]),
    );
    let codes: Vec<_> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["error"]["code"].as_str().unwrap_or("ok"))
        .collect();
    assert_eq!(
        codes,
        [
            "ok",
            "SQL_ID_IN_USE",
            "SQL_STORE_FULL",
            "ok",
            "SQL_STORE_FULL",
            "ok",
            "ok",
            "ok",
            "SQL_NOT_FOUND",
            "ok",
            "HRANA_PROTO_ERROR",
            "ok"
        ]
    );
}

#[test]
fn malformed_requests_are_refused_with_what_is_wrong() {
    let world = world(Settings::default());
    for body in ["", "{", "7", r#"{"requests":[{"type":"fly"}]}"#, r#"{"requests":[{"type":"execute"}]}"#] {
        let answer = world.post("/v3/pipeline", body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["code"], "HRANA_PROTO_ERROR");
        assert_eq!(world.post("/v3/cursor", body).status, 400, "{body}");
    }
}

#[test]
fn conditions_nested_beyond_measure_are_refused() {
    let world = world(Settings::default());
    let condition =
        r#"{"type":"not","cond":"#.repeat(20_000) + r#"{"type":"is_autocommit"}"# + &"}".repeat(20_000);
    let body = format!(
        r#"{{"requests":[{{"type":"batch","batch":{{"steps":[{{"condition":{condition},"stmt":{{"sql":"SELECT 1"}}}}]}}}}]}}"#
    );
    assert_eq!(world.post("/v3/pipeline", &body).status, 400);
}
