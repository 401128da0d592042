//! Pushes of sync clients that the database refuses in part.
use aquifer_server::hrana::Settings;
use aquifer_server::sql::{Limits, OnPushConflict};
use serde_json::{Value, json};

use super::world::{World, world};

/// A push as the traces have it: these statements between the bookkeeping, each while the transaction is open.
fn push(world: &World, statements: &[Value]) -> Value {
    let mut stmts = vec![
        json!({"sql":"CREATE TABLE IF NOT EXISTS turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)"}),
    ];
    stmts.extend_from_slice(statements);
    stmts.push(json!({
        "sql":"INSERT INTO turso_sync_last_change_id(client_id, pull_gen, change_id) VALUES (?, ?, ?) ON CONFLICT(client_id) DO UPDATE SET pull_gen=excluded.pull_gen, change_id=excluded.change_id",
        "args":[{"type":"text","value":"cliB-1"},{"type":"integer","value":"7"},{"type":"integer","value":"3"}],
    }));
    stmts.push(json!({"sql":"COMMIT"}));
    let open = json!({"type":"not","cond":{"type":"is_autocommit"}});
    let mut steps = vec![json!({"condition":null,"stmt":{"sql":"BEGIN IMMEDIATE"}})];
    steps.extend(stmts.into_iter().map(|stmt| json!({"condition":open,"stmt":stmt})));
    let body = json!({"baton":null,"requests":[{"type":"batch","batch":{"steps":steps}}]});
    let answer = world.post("/v2/pipeline", &body.to_string()).json();
    assert_eq!(answer["baton"], Value::Null, "nobody comes back to the stream of a push");
    answer["results"][0]["response"]["result"].clone()
}

fn insert(id: u32, key: &str) -> Value {
    json!({
        "sql": "INSERT INTO \"u\"(\"id\", \"k\") VALUES (?,?) ON CONFLICT(\"id\") DO UPDATE SET \"id\" = excluded.\"id\",\"k\" = excluded.\"k\"",
        "args": [{"type":"integer","value":id.to_string()},{"type":"text","value":key}],
    })
}

fn with_unique_keys(on_push_conflict: OnPushConflict, limits: Limits) -> World {
    let world = world(Settings { on_push_conflict, limits, ..Settings::default() });
    world.execute("CREATE TABLE u (id INTEGER PRIMARY KEY, k TEXT UNIQUE)");
    world.execute("INSERT INTO u VALUES (1, 'taken')");
    world
}

fn count(world: &World, table: &str) -> String {
    world.value(&format!("SELECT count(*) FROM {table}"))
}

#[test]
fn what_a_push_is_refused_is_kept_with_the_rest_in_one_transaction() {
    let world = with_unique_keys(OnPushConflict::Keep, Limits::default());
    let result = push(&world, &[insert(5, "before"), insert(2, "taken"), insert(6, "after")]);
    assert_eq!(
        result["step_errors"][3],
        json!({"message":"UNIQUE constraint failed: u.k","code":"SQLITE_CONSTRAINT_UNIQUE"})
    );
    assert_eq!(world.value("SELECT group_concat(id || k) FROM u ORDER BY id"), "1taken,5before,6after");
    assert_eq!(world.value("SELECT change_id FROM turso_sync_last_change_id"), "3");
    let kept = world.execute(
        "SELECT client_id, pull_gen, change_id, step, sql, args, code, error, rejected_at FROM aquifer_rejected",
    );
    let text = |value: &str| json!({"type":"text","value":value});
    let integer = |value: u32| json!({"type":"integer","value":value.to_string()});
    let row = &kept["rows"][0];
    assert_eq!(kept["rows"].as_array().unwrap().len(), 1);
    assert_eq!(&row.as_array().unwrap()[..4], [text("cliB-1"), integer(7), integer(3), integer(3)]);
    assert_eq!(row[4]["value"], insert(2, "taken")["sql"]);
    let args: Value = serde_json::from_str(row[5]["value"].as_str().unwrap()).unwrap();
    assert_eq!(args, insert(2, "taken")["args"]);
    assert_eq!(row[6], text("SQLITE_CONSTRAINT_UNIQUE"));
    assert_eq!(row[7], text("UNIQUE constraint failed: u.k"));
    assert!(row[8]["value"].as_str().unwrap().ends_with('Z'));
    assert_eq!(world.hrana.rejected_statements(), 1);
}

#[test]
fn a_change_to_a_table_that_is_gone_is_kept_too() {
    let world = with_unique_keys(OnPushConflict::Keep, Limits::default());
    push(&world, &[json!({"sql":"UPDATE gone SET v = 1"}), insert(9, "nine")]);
    assert_eq!(world.value("SELECT sql FROM aquifer_rejected"), "UPDATE gone SET v = 1");
    assert_eq!(count(&world, "u"), "2");
}

#[test]
fn ddl_that_is_done_already_is_no_conflict() {
    let world = with_unique_keys(OnPushConflict::Keep, Limits::default());
    let result = push(
        &world,
        &[
            json!({"sql":"CREATE TABLE u (id)"}),
            json!({"sql":"ALTER TABLE u ADD COLUMN k"}),
            json!({"sql":"DROP TABLE gone"}),
            insert(2, "two"),
        ],
    );
    assert!((2..5).all(|step| !result["step_errors"][step].is_null()), "{result}");
    assert_eq!(count(&world, "sqlite_schema WHERE name = 'aquifer_rejected'"), "0");
    assert_eq!(count(&world, "u"), "2");
}

#[test]
fn a_push_is_rolled_back_as_a_whole_where_that_is_wanted() {
    let world = with_unique_keys(OnPushConflict::Reject, Limits::default());
    let result = push(&world, &[insert(5, "before"), insert(2, "taken"), insert(6, "after")]);
    assert_eq!(result["step_errors"][3]["code"], "SQLITE_CONSTRAINT_UNIQUE");
    assert!(result["step_results"][4].is_null() && result["step_errors"][4].is_null(), "skipped");
    assert_eq!(count(&world, "u"), "1");
    assert_eq!(count(&world, "sqlite_schema WHERE name = 'turso_sync_last_change_id'"), "0");
}

#[test]
fn a_statement_that_ran_out_of_time_is_not_kept_but_the_whole_push_rolled_back() {
    let limits = Limits { statement_time: std::time::Duration::from_millis(200), ..Limits::default() };
    let world = with_unique_keys(OnPushConflict::Keep, limits);
    let endless = "INSERT INTO u (k) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0";
    let result = push(&world, &[insert(5, "before"), json!({"sql":endless}), insert(6, "after")]);
    assert_eq!(result["step_errors"][3]["code"], "SQLITE_INTERRUPT");
    assert_eq!(count(&world, "u"), "1");
    assert_eq!(count(&world, "sqlite_schema WHERE name LIKE '%aquifer%'"), "0");
}

#[test]
fn what_cannot_be_kept_is_not_lost_the_push_is_rolled_back() {
    let world = with_unique_keys(OnPushConflict::Keep, Limits::default());
    world.execute("CREATE TABLE aquifer_rejected (mine)");
    push(&world, &[insert(5, "before"), insert(2, "taken")]);
    assert_eq!(count(&world, "u"), "1");
    assert_eq!(count(&world, "sqlite_schema WHERE name = 'turso_sync_last_change_id'"), "0");
}

#[test]
fn an_empty_push_writes_nothing() {
    let world = with_unique_keys(OnPushConflict::Keep, Limits::default());
    push(&world, &[]);
    let steps = json!([
        {"stmt":{"sql":"BEGIN IMMEDIATE"}},
        {"condition":{"type":"not","cond":{"type":"is_autocommit"}},"stmt":{"sql":"CREATE TABLE IF NOT EXISTS turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)"}},
        {"condition":{"type":"not","cond":{"type":"is_autocommit"}},"stmt":{"sql":"COMMIT"}},
    ]);
    let before = world.wal();
    let answer = world.pipeline(None, &json!([{"type":"batch","batch":{"steps":steps}}]));
    assert_eq!(answer["baton"], Value::Null);
    assert_eq!(world.wal(), before);
}

#[test]
fn an_ordinary_batch_keeps_hranas_semantics() {
    let world = with_unique_keys(OnPushConflict::Keep, Limits::default());
    let steps = json!([
        {"stmt":{"sql":"BEGIN"}},
        {"stmt":{"sql":"INSERT INTO u VALUES (2, 'taken')"}},
        {"stmt":{"sql":"INSERT INTO u VALUES (3, 'three')"}},
        {"stmt":{"sql":"COMMIT"}},
    ]);
    world.pipeline(None, &json!([{"type":"batch","batch":{"steps":steps}}, {"type":"close"}]));
    assert_eq!(count(&world, "u"), "2");
    assert_eq!(count(&world, "sqlite_schema WHERE name = 'aquifer_rejected'"), "0");
}
