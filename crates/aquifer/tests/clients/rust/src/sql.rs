//! `libsql` as a remote client, which keeps nothing.

use hyper::client::HttpConnector;
use libsql::{Builder, Connection, TransactionBehavior, Value};

use crate::rows::{MANY, are_many, ids, query, row};
use crate::stage::{Done, WRONG_TOKEN, database, fails, restart, token};

pub(crate) async fn run(name: &str) -> Done {
    crate::scenario!(name,
        values_come_back_as_they_were_written
        a_batch_is_all_or_nothing
        a_transaction_is_seen_by_others_when_it_commits
        a_writer_who_waits_in_vain_is_told_that_it_is_busy
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_read
        a_wrong_token_is_refused
    )
}

pub(crate) async fn connect_as(token: String) -> libsql::Result<Connection> {
    Builder::new_remote(database(), token).connector(HttpConnector::new()).build().await?.connect()
}

async fn connect() -> libsql::Result<Connection> {
    connect_as(token()).await
}

async fn with_table() -> libsql::Result<Connection> {
    let client = connect().await?;
    client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)", ()).await?;
    Ok(client)
}

async fn all_ids(client: &Connection) -> libsql::Result<Vec<Value>> {
    Ok(ids(query(client, "SELECT id FROM t ORDER BY id", ()).await?))
}

async fn values_come_back_as_they_were_written() -> Done {
    let client = connect().await?;
    client.execute("CREATE TABLE v (i INTEGER, f REAL, t TEXT, b BLOB, n)", ()).await?;
    let written = row![i64::MAX, -2.5e-300, "žluťoučký \"kůň\"\0🐎", vec![0, 255, 16], Value::Null];
    client.execute("INSERT INTO v VALUES (?, ?, ?, ?, ?)", written.clone()).await?;
    assert_eq!(query(&client, "SELECT i, f, t, b, n FROM v WHERE f = ?", [-2.5e-300]).await?, [written]);
    let types =
        query(&client, "SELECT typeof(i), typeof(f), typeof(t), typeof(b), typeof(n) FROM v", ()).await?;
    assert_eq!(types, [row!["integer", "real", "text", "blob", "null"]]);
    Ok(())
}

async fn a_batch_is_all_or_nothing() -> Done {
    let client = with_table().await?;
    let batch = "INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, 'two')";
    client.execute_transactional_batch(batch).await?;
    let batch = "INSERT INTO t VALUES (3, 'three'); INSERT INTO t VALUES (4, 'one')";
    fails(client.execute_transactional_batch(batch).await, &["UNIQUE constraint failed: t.v"]);
    assert_eq!(all_ids(&client).await?, row![1, 2]);
    client.execute_batch("DELETE FROM t; INSERT INTO t VALUES (9, NULL)").await?;
    assert_eq!(all_ids(&client).await?, row![9]);
    Ok(())
}

async fn a_transaction_is_seen_by_others_when_it_commits() -> Done {
    let (client, other) = (with_table().await?, connect().await?);
    let transaction = client.transaction_with_behavior(TransactionBehavior::Immediate).await?;
    transaction.execute("INSERT INTO t VALUES (1, ?)", ["one"]).await?;
    transaction.execute("INSERT INTO t VALUES (2, (SELECT v || ? FROM t WHERE id = 1))", ["!"]).await?;
    assert_eq!(all_ids(&other).await?, row![]);
    transaction.commit().await?;
    assert_eq!(all_ids(&other).await?, row![1, 2]);
    let transaction = client.transaction().await?;
    transaction.execute("INSERT INTO t VALUES (3, 3)", ()).await?;
    transaction.rollback().await?;
    assert_eq!(all_ids(&other).await?, row![1, 2]);
    Ok(())
}

async fn a_writer_who_waits_in_vain_is_told_that_it_is_busy() -> Done {
    let (client, other) = (with_table().await?, connect().await?);
    let transaction = client.transaction_with_behavior(TransactionBehavior::Immediate).await?;
    transaction.execute("INSERT INTO t VALUES (1, 1)", ()).await?;
    fails(other.execute("INSERT INTO t VALUES (2, 2)", ()).await, &["SQLITE_BUSY", "locked"]);
    transaction.commit().await?;
    other.execute("INSERT INTO t VALUES (2, 2)", ()).await?;
    assert_eq!(all_ids(&client).await?, row![1, 2]);
    Ok(())
}

async fn a_restarted_server_is_found_again() -> Done {
    let client = with_table().await?;
    client.execute("INSERT INTO t VALUES (1, 1)", ()).await?;
    let transaction = client.transaction_with_behavior(TransactionBehavior::Immediate).await?;
    transaction.execute("INSERT INTO t VALUES (2, 2)", ()).await?;
    restart()?;
    fails(transaction.execute("INSERT INTO t VALUES (3, 3)", ()).await, &["stream", "baton"]);
    client.execute("INSERT INTO t VALUES (4, 4)", ()).await?;
    assert_eq!(all_ids(&client).await?, row![1, 4]);
    Ok(())
}

async fn a_hundred_thousand_rows_are_read() -> Done {
    let client = connect().await?;
    client.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, v TEXT)", ()).await?;
    let rows = "INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                SELECT i, printf('row %d', i) FROM n";
    client.execute(rows, [MANY]).await?;
    are_many(&query(&client, "SELECT id, v FROM big ORDER BY id", ()).await?);
    Ok(())
}

async fn a_wrong_token_is_refused() -> Done {
    for wrong in [WRONG_TOKEN, ""] {
        let client = connect_as(wrong.to_owned()).await?;
        fails(query(&client, "SELECT 1", ()).await, &["401"]);
        fails(client.execute("CREATE TABLE t (id)", ()).await, &["401"]);
    }
    Ok(())
}
