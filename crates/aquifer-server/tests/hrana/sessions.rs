//! One session serves one stream after the other, and no stream can tell.
use std::time::Duration;

use aquifer_server::hrana::Settings;
use aquifer_server::sql::Limits;
use serde_json::{Value, json};

use super::world::{World, until, world};

fn execute(sql: &str) -> Value {
    json!({"type":"execute","stmt":{"sql":sql}})
}

/// Runs all of it in a stream that ends with it.
fn stream(world: &World, requests: &[Value]) -> Vec<Value> {
    let mut requests = requests.to_vec();
    requests.push(json!({"type": "close"}));
    let answer = world.pipeline(None, &Value::Array(requests));
    answer["results"].as_array().unwrap().clone()
}

/// The one value that a stream of its own selects.
fn select(world: &World, sql: &str) -> String {
    let results = stream(world, &[execute(sql)]);
    let value = &results[0]["response"]["result"]["rows"][0][0]["value"];
    value.as_str().unwrap_or_else(|| panic!("{}", results[0])).to_owned()
}

#[test]
fn what_ran_before_in_a_session_is_not_seen() {
    let world = world(Settings::default());
    let results = stream(
        &world,
        &[
            json!({"type":"store_sql","sql_id":1,"sql":"SELECT 7"}),
            execute("INSERT INTO t VALUES (41, 'first')"),
            execute("INSERT INTO t VALUES (42, 'second')"),
        ],
    );
    assert!(results.iter().all(|result| result["type"] == "ok"), "{results:?}");
    assert_eq!(
        select(&world, "SELECT total_changes()"),
        "2",
        "it is the same session, or this test tests nothing"
    );
    assert_eq!(select(&world, "SELECT last_insert_rowid()"), "0");
    let stored = stream(&world, &[json!({"type":"execute","stmt":{"sql_id":1}})]);
    assert_eq!(stored[0]["error"]["code"], "SQL_NOT_FOUND", "{}", stored[0]);
    // Run again from the statements that stay prepared.
    for text in ["first", "second"] {
        let sql = "SELECT id FROM t WHERE v = ?";
        let stmt = json!({"sql": sql, "args": [{"type":"text","value":text}]});
        let rows = &stream(&world, &[json!({"type":"execute","stmt":stmt})])[0]["response"]["result"];
        assert_eq!(rows["rows"][0][0]["value"], if text == "first" { "41" } else { "42" }, "{rows}");
        assert_eq!(rows["rows_read"], 1, "what one run read is not the next one's: {rows}");
    }
}

#[test]
fn a_session_that_was_set_up_otherwise_is_used_by_nobody_else() {
    for (set, shows, fresh) in [
        ("PRAGMA foreign_keys = ON", "PRAGMA foreign_keys", "0"),
        ("PRAGMA recursive_triggers(1)", "PRAGMA recursive_triggers", "0"),
        ("PRAGMA case_sensitive_like = 1", "SELECT 'a' LIKE 'A'", "1"),
        ("CREATE TEMP TABLE own (a)", "SELECT count(*) FROM temp.sqlite_schema", "0"),
        ("CREATE TEMP VIEW own AS SELECT 1", "SELECT count(*) FROM temp.sqlite_schema", "0"),
        (
            "CREATE TEMP TRIGGER own AFTER INSERT ON t BEGIN SELECT 1; END",
            "SELECT count(*) FROM temp.sqlite_schema",
            "0",
        ),
        ("CREATE VIRTUAL TABLE temp.own USING fts5(a)", "SELECT count(*) FROM temp.sqlite_schema", "0"),
    ] {
        let world = world(Settings::default());
        let mine = stream(&world, &[execute(set), execute(shows)]);
        assert_eq!(mine[0]["type"], "ok", "{}", mine[0]);
        let own = &mine[1]["response"]["result"]["rows"][0][0]["value"];
        assert_ne!(own, fresh, "{set} does nothing, or this test tests nothing");
        assert_eq!(select(&world, shows), fresh, "{set}");
    }
}

#[test]
fn a_transaction_that_is_left_open_is_not_continued_by_the_next_stream() {
    let world = world(Settings::default());
    stream(&world, &[execute("BEGIN IMMEDIATE"), execute("INSERT INTO t VALUES (1, 'lost')")]);
    let results = stream(&world, &[json!({"type":"get_autocommit"}), execute("SELECT count(*) FROM t")]);
    assert_eq!(results[0]["response"]["is_autocommit"], true);
    assert_eq!(results[1]["response"]["result"]["rows"][0][0]["value"], "0");
}

#[test]
fn writers_wait_for_a_transaction_and_readers_do_not() {
    let limits = Limits { busy_timeout: Duration::from_mins(5), ..Limits::default() };
    let world = world(Settings { limits, ..Settings::default() });
    let held =
        world.pipeline(None, &json!([execute("BEGIN IMMEDIATE"), execute("INSERT INTO t VALUES (0, 'x')")]));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=8)
            .map(|id| {
                let world = &world;
                // Some begin with what looks like reading, and ask SQLite itself for the lock.
                let sql = match id % 2 {
                    0 => format!("INSERT INTO t VALUES ({id}, 'waited')"),
                    _ => format!("WITH x(a) AS (SELECT {id}) INSERT INTO t SELECT a, 'waited' FROM x"),
                };
                scope.spawn(move || stream(world, &[execute(&sql)])[0]["type"].clone())
            })
            .collect();
        until("all writers to be under way", || world.hrana.running_requests() == 8);
        for sql in ["SELECT count(*) FROM t", "WITH x AS (SELECT * FROM t) SELECT count(*) FROM x"] {
            assert_eq!(select(&world, sql), "0");
        }
        let baton = held["baton"].as_str().unwrap();
        world.pipeline(Some(baton), &json!([execute("COMMIT"), {"type":"close"}]));
        for writer in writers {
            assert_eq!(writer.join().unwrap(), "ok");
        }
    });
    assert_eq!(select(&world, "SELECT count(*) FROM t"), "9");
}
