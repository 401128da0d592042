//! A push happens once or not at all, however often and late its request arrives.

use aquifer_client::push::{Bookkeeping, Step};
use aquifer_sqlite::btree::Value;
use rusqlite::Connection;

use crate::files::select;
use crate::server::execute;

fn push(change_id: i64) -> Bookkeeping {
    Bookkeeping { client_id: "a client".to_owned(), change_id }
}

/// A push of one row, as it arrives.
fn arrives(db: &Connection, push: &Bookkeeping) -> Result<(), String> {
    let insert = Step {
        sql: "INSERT INTO t VALUES(?)".into(),
        args: vec![Value::Integer(push.change_id)],
        about: "t".into(),
        is_optional: false,
    };
    for step in push.begin().iter().chain([&insert]) {
        if let Err(message) = execute(db, step) {
            db.execute_batch("ROLLBACK").unwrap();
            return Err(message);
        }
    }
    db.execute_batch("COMMIT").unwrap();
    Ok(())
}

/// Asks whether it was applied, and keeps it from being applied later.
fn fenced(db: &Connection, push: &Bookkeeping) -> bool {
    let steps = push.fence();
    let mut row = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        if i + 2 == steps.len() {
            let args = rusqlite::params_from_iter(&step.args);
            row = vec![db.query_row(&step.sql, args, |row| row.get(0)).unwrap()];
        } else {
            execute(db, step).unwrap();
        }
    }
    push.was_applied(&row).unwrap()
}

fn rows(db: &Connection) -> Vec<Vec<Value>> {
    select(db, "SELECT * FROM t")
}

fn server() -> Connection {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch("CREATE TABLE t(x)").unwrap();
    db
}

#[test]
fn a_push_that_arrives_again_changes_nothing() {
    let db = server();
    arrives(&db, &push(1)).unwrap();
    for _ in 0..2 {
        let late = arrives(&db, &push(1)).unwrap_err();
        assert!(Bookkeeping::is_late(&late), "{late}");
    }
    arrives(&db, &push(2)).unwrap();
    arrives(&db, &push(5)).unwrap();
    assert!(Bookkeeping::is_late(&arrives(&db, &push(3)).unwrap_err()));
    arrives(&db, &Bookkeeping { client_id: "another".to_owned(), change_id: 1 }).unwrap();
    assert_eq!(rows(&db), [[1], [2], [5], [1]].map(|row| row.map(Value::Integer).to_vec()));
    assert!(!Bookkeeping::is_late("NOT NULL constraint failed: t.x"));
}

#[test]
fn a_push_whose_answer_was_lost_was_applied_or_never_will_be() {
    let db = server();
    // Not even the first one has arrived.
    assert!(!fenced(&db, &push(1)));
    assert!(Bookkeeping::is_late(&arrives(&db, &push(1)).unwrap_err()));
    assert!(!fenced(&db, &push(1)));
    arrives(&db, &push(2)).unwrap();
    assert!(fenced(&db, &push(2)));
    assert!(fenced(&db, &push(2)), "as often as it is asked");
    assert!(!fenced(&db, &push(3)));
    assert!(Bookkeeping::is_late(&arrives(&db, &push(3)).unwrap_err()));
    arrives(&db, &push(4)).unwrap();
    assert!(fenced(&db, &push(4)));
    assert_eq!(rows(&db), [[2], [4]].map(|row| row.map(Value::Integer).to_vec()));
    assert_eq!(push(1).was_applied(&[]), None);
}
