//! Batches.

use std::time::Duration;

use aquifer_client::remote::{Batch, Condition, RemoteError, StepOutcome, sendable};
use aquifer_server::hrana::Settings;
use aquifer_sqlite::btree::Value;
use proptest::prelude::*;

use crate::scripted::{Scripted, answer};
use crate::stage::{Setup, Stage, remote, run};

fn ok(step: usize) -> Condition {
    Condition::Ok { step }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_run_as_their_conditions_say_and_tell_what_became_of_them() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, "CREATE TABLE t(k INTEGER PRIMARY KEY, v)").await;
    let mut batch = Batch::new();
    batch.step(None, "BEGIN IMMEDIATE", [], false).unwrap();
    let insert = "INSERT INTO t VALUES(?, ?), (?, ?)";
    let args = [Value::Integer(1), Value::Text("a".into()), Value::Integer(2), Value::Real(0.5)];
    batch.step(Some(&ok(0)), insert, &args, false).unwrap();
    batch.step(Some(&ok(1)), "INSERT INTO t VALUES(1, 'again')", [], false).unwrap();
    batch.step(Some(&ok(2)), "DELETE FROM t", [], false).unwrap();
    batch.step(Some(&Condition::Error { step: 2 }), "SELECT k, v FROM t", [], true).unwrap();
    batch.step(Some(&ok(1)), "COMMIT", [], false).unwrap();
    let answer = remote.batch(&batch).await.unwrap();
    assert_eq!(answer.steps[1].done().unwrap().affected_row_count, 2);
    let StepOutcome::Failed(failure) = &answer.steps[2] else { panic!("{answer:?}") };
    assert_eq!(failure.code.as_deref(), Some("SQLITE_CONSTRAINT_PRIMARYKEY"));
    assert_eq!(answer.steps[3], StepOutcome::Skipped);
    let rows = answer.steps[4].done().unwrap();
    assert_eq!(rows.columns, ["k", "v"]);
    assert_eq!(
        rows.rows,
        [[Value::Integer(1), Value::Text("a".into())], [Value::Integer(2), Value::Real(0.5)]]
    );
    assert!(answer.revision.is_some());
    assert_eq!(run(&remote, "SELECT count(*) FROM t").await, Some(Value::Integer(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_leaves_open_is_rolled_back_and_locks_nobody_out() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, "CREATE TABLE t(k)").await;
    let mut batch = Batch::new();
    batch.step(None, "BEGIN IMMEDIATE", [], false).unwrap();
    batch.step(None, "INSERT INTO t VALUES(1)", [], false).unwrap();
    remote.batch(&batch).await.unwrap();
    run(&remote, "INSERT INTO t VALUES(2)").await;
    assert_eq!(run(&remote, "SELECT group_concat(k) FROM t").await, Some(Value::Text("2".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_keeps_its_transaction_from_batch_to_batch() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    run(&remote, "CREATE TABLE t(k)").await;
    let one = |sql: &str| {
        let mut batch = Batch::new();
        batch.step(None, sql, [], true).unwrap();
        batch
    };
    let mut stream = remote.sql_stream();
    for sql in ["BEGIN IMMEDIATE", "INSERT INTO t VALUES(1)", "INSERT INTO t VALUES(2)"] {
        stream.batch(&one(sql)).await.unwrap();
        assert_eq!(run(&remote, "SELECT count(*) FROM t").await, Some(Value::Integer(0)));
    }
    stream.batch(&one("COMMIT")).await.unwrap();
    stream.close().await.unwrap();
    assert_eq!(run(&remote, "SELECT count(*) FROM t").await, Some(Value::Integer(2)));

    // Closed in the middle.
    let mut stream = remote.sql_stream();
    stream.batch(&one("BEGIN IMMEDIATE")).await.unwrap();
    stream.batch(&one("DELETE FROM t")).await.unwrap();
    stream.close().await.unwrap();
    run(&remote, "INSERT INTO t VALUES(3)").await;
    assert_eq!(run(&remote, "SELECT count(*) FROM t").await, Some(Value::Integer(3)));
    remote.sql_stream().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_waited_too_long_says_that_it_was_rolled_back() {
    let stage = Stage::new();
    let settings = Settings { stream_idle: Duration::from_millis(20), ..Settings::default() };
    let server = stage.server("a", Setup { settings, ..Setup::default() }).await;
    let remote = remote(server.address);
    run(&remote, "CREATE TABLE t(k)").await;
    let mut begin = Batch::new();
    begin.step(None, "BEGIN IMMEDIATE", [], false).unwrap();
    let mut stream = remote.sql_stream();
    stream.batch(&begin).await.unwrap();
    // Whoever else can write now waited for the stream to end.
    run(&remote, "INSERT INTO t VALUES(1)").await;
    let mut insert = Batch::new();
    insert.step(None, "INSERT INTO t VALUES(2)", [], false).unwrap();
    let error = stream.batch(&insert).await.unwrap_err();
    assert!(matches!(error, RemoteError::StreamLost { .. }), "{error}");
    assert!(!error.may_have_happened());
    let again = stream.batch(&insert).await.unwrap_err();
    assert!(matches!(again, RemoteError::StreamLost { .. }), "{again}");
    assert_eq!(run(&remote, "SELECT count(*) FROM t").await, Some(Value::Integer(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_fails_is_an_error_with_sqlites_words() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let error = remote(server.address).execute("SELECT * FROM missing", &[]).await.unwrap_err();
    assert!(error.to_string().contains("no such table: missing"), "{error}");
}

const NOTHING: &str = r#"{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"batch","result":
    {"step_results":[null],"step_errors":[null]}}}]}"#;

/// As `tursodb --sync-server` 0.6.0 answers.
#[tokio::test]
async fn a_server_that_cannot_read_close_is_asked_without_and_once_only() {
    let script = |_: &str, asked: &[u8]| {
        if !String::from_utf8_lossy(asked).contains("close") {
            return answer("200 OK", &[], NOTHING.as_bytes());
        }
        let refusal = "Internal Server Error: Failed to parse pipeline request: unknown variant `close`, expected \
                       `execute` or `batch` at line 1 column 475";
        answer("500 Internal Server Error", &["content-type: text/plain"], refusal.as_bytes())
    };
    let server = Scripted::start(script).await;
    let remote = remote(server.address);
    let mut batch = Batch::new();
    batch.step(None, "COMMIT", [], false).unwrap();
    for requests in [2, 3] {
        let answer = remote.batch(&batch).await.unwrap();
        assert_eq!(answer.steps, [StepOutcome::Skipped]);
        assert_eq!(server.heads().len(), requests);
    }
    let mut stream = remote.sql_stream();
    stream.batch(&batch).await.unwrap();
    let error = stream.batch(&batch).await.unwrap_err();
    assert!(
        matches!(&error, RemoteError::StreamLost { .. }) && error.to_string().contains("no baton"),
        "{error}"
    );
}

/// What the server has of a value: type, bytes as text, and whether it is the same value.
async fn arrived(remote: &aquifer_client::remote::Remote, values: &[Value]) -> Vec<Vec<Value>> {
    let mut batch = Batch::new();
    for value in values {
        let (sql, argument) = sendable(value);
        let sql =
            format!("SELECT typeof(v), hex(CAST(v AS BLOB)), v = 9e999, v = -9e999 FROM (SELECT {sql} AS v)");
        batch.step(None, &sql, [argument.as_ref()], true).unwrap();
    }
    let answer = remote.batch(&batch).await.unwrap();
    answer.steps.iter().map(|step| step.done().unwrap().rows[0].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_json_cannot_have_arrive_as_they_are() {
    let stage = Stage::new();
    let server = stage.server("a", Setup::default()).await;
    let remote = remote(server.address);
    let text = |text: &str| Value::Text(text.into());
    let values =
        [Value::Text(vec![0x63, 0xff, 0]), Value::Real(f64::INFINITY), Value::Real(f64::NEG_INFINITY)];
    let arrived = arrived(&remote, &values).await;
    assert_eq!(arrived[0][..2], [text("text"), text("63FF00")]);
    assert_eq!((&arrived[1][0], &arrived[1][2]), (&text("real"), &Value::Integer(1)));
    assert_eq!((&arrived[2][0], &arrived[2][3]), (&text("real"), &Value::Integer(1)));
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        prop_oneof![proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO]
            .prop_map(Value::Real),
        any::<String>().prop_map(|text| Value::Text(text.into_bytes())),
        any::<Vec<u8>>().prop_map(Value::Blob),
    ]
}

#[test]
fn every_value_comes_back_as_it_was_sent() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stage = Stage::new();
    let server = runtime.block_on(stage.server("a", Setup::default()));
    let remote = remote(server.address);
    proptest!(ProptestConfig::with_cases(64), |(values in prop::collection::vec(values(), 1..30))| {
        let placeholders = vec!["?"; values.len()].join(",");
        let sql = format!("SELECT {placeholders}");
        let result = runtime.block_on(remote.execute(&sql, &values)).unwrap();
        prop_assert_eq!(&result.rows, &[values]);
    });
    drop(server);
}
