//! Requests that real clients sent, byte for byte.
use serde_json::{Value, json};

use super::world::world;
use aquifer_server::hrana::Settings;

const READ_CHANGE_ID: &str = include_str!("traces/turso-read-change-id.request.json");
const READ_CHANGE_ID_ANSWER: &str = include_str!("traces/turso-read-change-id.response.json");
const PUSH: &str = include_str!("traces/turso-push.request.json");
const PUSH_ANSWER: &str = include_str!("traces/turso-push.response.json");
const CURSOR: &str = include_str!("traces/turso-cursor.request.json");

/// The names of all fields, in order, with `null` where the value is null.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), shape(v))).collect()),
        Value::Array(items) => Value::Array(items.iter().map(shape).collect()),
        Value::Null => Value::Null,
        other => json!(match other {
            Value::String(_) => "string",
            Value::Number(_) => "number",
            _ => "bool",
        }),
    }
}

#[test]
fn a_turso_client_that_never_pushed_reads_no_such_table_as_a_step_error() {
    let world = world(Settings::default());
    let answer = world.post("/v2/pipeline", READ_CHANGE_ID);
    assert_eq!(answer.status, 200);
    assert_eq!(shape(&answer.json()), shape(&serde_json::from_str(READ_CHANGE_ID_ANSWER).unwrap()));
    let error = &answer.json()["results"][0]["response"]["result"]["step_errors"][0];
    assert_eq!(error["message"], "no such table: turso_sync_last_change_id");
}

#[test]
fn a_turso_push_is_applied_with_its_change_id_and_read_back() {
    let world = world(Settings::default());
    world.execute("DROP TABLE t");
    let answer = world.post("/v2/pipeline", PUSH);
    assert_eq!(answer.status, 200);
    let mut answer = answer.json();
    // Ours tells rowids of inserts; the recorded server never did. Clients take both.
    for result in answer["results"][0]["response"]["result"]["step_results"].as_array_mut().unwrap() {
        result["last_insert_rowid"] = Value::Null;
    }
    assert_eq!(shape(&answer), shape(&serde_json::from_str(PUSH_ANSWER).unwrap()));

    assert_eq!(
        world.execute("SELECT * FROM t ORDER BY id")["rows"],
        json!([
            [
                {"type":"integer","value":"1"},
                {"type":"text","value":"one"},
                {"type":"float","value":1.5},
                {"type":"blob","base64":"AP8Q"}
            ],
            [{"type":"integer","value":"2"}, {"type":"null"}, {"type":"float","value":-2.0}, {"type":"null"}],
            [
                {"type":"integer","value":"9007199254740993"},
                {"type":"text","value":"big"},
                {"type":"float","value":1e308},
                {"type":"blob","base64":""}
            ]
        ])
    );
    let read = world.post("/v2/pipeline", READ_CHANGE_ID).json();
    let result = &read["results"][0]["response"]["result"]["step_results"][0];
    assert_eq!(
        result["cols"],
        json!([{"name":"pull_gen","decltype":"INTEGER"},{"name":"change_id","decltype":"INTEGER"}])
    );
    assert_eq!(result["rows"], json!([[{"type":"integer","value":"0"},{"type":"integer","value":"5"}]]));
    assert_eq!(read["baton"], Value::Null);
}

#[test]
fn libsql_over_http_executes_and_closes() {
    let world = world(Settings::default());
    let body = r#"{"requests":[{"type":"execute","stmt":{"sql":"select 1","args":[],"named_args":[],"want_rows":true}},{"type":"close"}]}"#;
    for path in ["/v2/pipeline", "/v3/pipeline"] {
        let answer = world.post(path, body).json();
        assert_eq!(answer["baton"], Value::Null);
        assert_eq!(
            answer["results"][0]["response"]["result"]["rows"],
            json!([[{"type":"integer","value":"1"}]])
        );
        assert_eq!(answer["results"][1], json!({"type":"ok","response":{"type":"close"}}));
    }
}

#[test]
fn libsql_batches_with_stored_sql_run_in_one_transaction() {
    let world = world(Settings::default());
    let body = r#"{"requests":[{"type":"store_sql","sql_id":0,"sql":"select 1"},{"type":"store_sql","sql_id":1,"sql":"select 2"},{"type":"batch","batch":{"steps":[{"stmt":{"sql":"BEGIN DEFERRED","args":[],"named_args":[],"want_rows":false}},{"condition":{"type":"ok","step":0},"stmt":{"sql_id":0,"args":[],"named_args":[],"want_rows":true}},{"condition":{"type":"ok","step":1},"stmt":{"sql_id":1,"args":[],"named_args":[],"want_rows":true}},{"condition":{"type":"ok","step":2},"stmt":{"sql":"COMMIT","args":[],"named_args":[],"want_rows":false}},{"condition":{"type":"not","cond":{"type":"ok","step":3}},"stmt":{"sql":"ROLLBACK","args":[],"named_args":[],"want_rows":false}}]}},{"type":"close_sql","sql_id":0},{"type":"close"}]}"#;
    let answer = world.post("/v2/pipeline", body).json();
    let result = &answer["results"][2]["response"]["result"];
    assert_eq!(result["step_results"][2]["rows"], json!([[{"type":"integer","value":"2"}]]));
    assert_eq!(result["step_errors"], json!([null, null, null, null, null]));
    assert_eq!(result["step_results"][4], Value::Null, "the rollback is skipped");
}

#[test]
fn an_embedded_replica_writes_asks_for_autocommit_and_describes() {
    let world = world(Settings::default());
    let write = r#"{"baton":null,"requests":[{"type":"batch","batch":{"steps":[{"condition":null,"stmt":{"sql":"INSERT INTO t (v) VALUES ('z');","sql_id":null,"args":[],"named_args":[],"want_rows":false,"replication_index":null}}],"replication_index":null}},{"type":"get_autocommit"},{"type":"close"}]}"#;
    let answer = world.post("/v3/pipeline", write).json();
    let result = &answer["results"][0]["response"]["result"]["step_results"][0];
    assert_eq!((&result["affected_row_count"], &result["last_insert_rowid"]), (&json!(1), &json!("1")));
    assert_eq!(answer["results"][1]["response"], json!({"type":"get_autocommit","is_autocommit":true}));

    let describe = r#"{"baton":null,"requests":[{"type":"describe","sql":"insert into t(v) values(?)","sql_id":null,"replication_index":null}]}"#;
    assert_eq!(
        world.post("/v3/pipeline", describe).json()["results"][0]["response"]["result"],
        json!({"params":[{"name":null}],"cols":[],"is_explain":false,"is_readonly":false})
    );
}

#[test]
fn remote_writes_of_the_javascript_client_go_through_a_cursor() {
    let world = world(Settings::default());
    world.execute("CREATE TABLE js (id INTEGER PRIMARY KEY, v TEXT)");
    let answer = world.post("/v3/cursor", CURSOR);
    assert_eq!(answer.status, 200);
    let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{}", answer.body);
    assert!(lines[0]["baton"].is_string());
    assert_eq!(lines[1], json!({"type":"step_begin","step":0,"cols":[]}));
    assert_eq!(lines[2]["type"], "step_end");
    assert_eq!((&lines[2]["affected_row_count"], &lines[2]["last_insert_rowid"]), (&json!(1), &json!("21")));
    assert_eq!(world.value("SELECT v FROM js WHERE id = 21"), "r21");
}
