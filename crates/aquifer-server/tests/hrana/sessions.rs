//! One session serves one stream after the other, and no stream can tell.
use std::time::Duration;

use aquifer_server::hrana::Settings;
use aquifer_server::sql::Limits;
use serde_json::{Value, json};

use super::world::{World, execute, until, world};

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
    let first = [
        json!({"type":"store_sql","sql_id":1,"sql":"SELECT 7"}),
        execute("INSERT OR REPLACE INTO t VALUES (41, 'first')"),
        execute("INSERT OR REPLACE INTO t VALUES (42, 'second')"),
    ];
    let by_text = |text: &str| {
        let sql = "SELECT id FROM t WHERE v = ?";
        json!({"type":"execute","stmt":{"sql": sql, "args": [{"type":"text","value":text}]}})
    };
    let next = [
        execute("SELECT total_changes()"),
        execute("SELECT last_insert_rowid()"),
        json!({"type":"execute","stmt":{"sql_id":1}}),
        by_text("first"),
        by_text("second"),
    ];
    let value = |result: &Value| result["response"]["result"]["rows"][0][0]["value"].clone();
    // Sessions that nobody uses are soon closed, so the next stream may have got another one.
    let mut results = Vec::new();
    until("a session to be used again", || {
        let done = stream(&world, &first);
        assert!(done.iter().all(|result| result["type"] == "ok"), "{done:?}");
        results = stream(&world, &next);
        value(&results[0]) != "0"
    });
    assert_eq!(value(&results[1]), "0", "{results:?}");
    assert_eq!(results[2]["error"]["code"], "SQL_NOT_FOUND", "{results:?}");
    // Run again from a statement that stays prepared.
    for (result, id) in results[3..5].iter().zip(["41", "42"]) {
        assert_eq!(value(result), id, "{result}");
        let read = &result["response"]["result"]["rows_read"];
        assert_eq!(
            results[3]["response"]["result"]["rows_read"], *read,
            "what one run read is not the next one's"
        );
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
