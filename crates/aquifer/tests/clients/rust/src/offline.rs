//! `libsql` with the database in a file of its own: offline, or as a replica whose writes go to the server.

use crate::copy::Copy;
use crate::rows::{MANY, Row, are_many, query, row};
use crate::stage::{Done, WRONG_TOKEN, fails, restart, token};

pub(crate) async fn run(name: &str) -> Done {
    crate::scenario!(name,
        what_one_pushes_the_other_pulls
        what_conflicts_is_refused_and_nothing_of_it_is_written
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_bootstrapped
        a_wrong_token_is_refused
        a_replica_reads_its_own_writes
    )
}

async fn open_as(name: &str) -> libsql::Result<Copy> {
    Copy::offline(name, token()).await
}

/// One that has made a table and pushed it, and another one that has it too.
async fn pair() -> libsql::Result<(Copy, Copy)> {
    let a = open_as("a").await?;
    a.sync().await?;
    a.connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", ()).await?;
    a.sync().await?;
    let b = open_as("b").await?;
    b.sync().await?;
    Ok((a, b))
}

async fn rows(copy: &Copy) -> libsql::Result<Vec<Row>> {
    query(&copy.connection, "SELECT id, v FROM t ORDER BY id", ()).await
}

async fn write(copy: &Copy, row: Row) -> libsql::Result<u64> {
    copy.connection.execute("INSERT INTO t VALUES (?, ?)", row).await
}

/// What one has that begins now.
async fn fresh() -> libsql::Result<Vec<Row>> {
    let fresh = open_as("fresh").await?;
    fresh.sync().await?;
    rows(&fresh).await
}

async fn what_one_pushes_the_other_pulls() -> Done {
    let (a, b) = pair().await?;
    write(&a, row![1, "ž🐎"]).await?;
    write(&a, row![2, vec![0, 255]]).await?;
    a.sync().await?;
    b.sync().await?;
    assert_eq!(rows(&b).await?, [row![1, "ž🐎"], row![2, vec![0, 255]]]);
    b.connection.execute("DELETE FROM t WHERE id = 2", ()).await?;
    write(&b, row![3, -2.5e-300]).await?;
    b.sync().await?;
    a.sync().await?;
    assert_eq!(rows(&a).await?, [row![1, "ž🐎"], row![3, -2.5e-300]]);
    Ok(())
}

async fn what_conflicts_is_refused_and_nothing_of_it_is_written() -> Done {
    let (a, b) = pair().await?;
    write(&a, row![1, "A"]).await?;
    write(&b, row![1, "B"]).await?;
    a.sync().await?;
    fails(b.sync().await, &["conflict", "Conflict"]);
    assert_eq!(fresh().await?, [row![1, "A"]]);
    assert_eq!(rows(&b).await?, [row![1, "B"]]);
    Ok(())
}

async fn a_restarted_server_is_found_again() -> Done {
    let (a, b) = pair().await?;
    write(&a, row![1, 1]).await?;
    a.sync().await?;
    write(&a, row![2, 2]).await?;
    restart()?;
    a.sync().await?;
    b.sync().await?;
    assert_eq!(rows(&b).await?, [row![1, 1], row![2, 2]]);
    Ok(())
}

async fn a_hundred_thousand_rows_are_bootstrapped() -> Done {
    let (a, _) = pair().await?;
    let many = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                SELECT i, printf('row %d', i) FROM n";
    a.connection.execute(many, [MANY]).await?;
    a.sync().await?;
    let other = open_as("c").await?;
    other.sync().await?;
    are_many(&rows(&other).await?);
    assert_eq!(query(&other.connection, "PRAGMA integrity_check", ()).await?, [row!["ok"]]);
    Ok(())
}

async fn a_wrong_token_is_refused() -> Done {
    let refused = async {
        let client = Copy::offline("c", WRONG_TOKEN.to_owned()).await?;
        client.sync().await
    };
    fails(refused.await, &["401", "nauthorized"]);
    Ok(())
}

async fn a_replica_reads_its_own_writes() -> Done {
    pair().await?;
    let replica = Copy::replica("r").await?;
    replica.sync().await?;
    write(&replica, row![1, "through the server"]).await?;
    assert_eq!(rows(&replica).await?, [row![1, "through the server"]]);
    assert_eq!(fresh().await?, [row![1, "through the server"]]);
    let transaction = replica.connection.transaction().await?;
    transaction.execute("INSERT INTO t VALUES (2, ?)", ["in a transaction"]).await?;
    transaction.commit().await?;
    assert_eq!(rows(&replica).await?, [row![1, "through the server"], row![2, "in a transaction"]]);
    Ok(())
}
