//! `turso`, which has the database in a file of its own and pushes and pulls.

use libsql::Value;
use turso::Connection;
use turso::sync::{Builder, Database};

use crate::rows::{MANY, Row, are_many, ids, query_turso as query, row};
use crate::stage::{Done, WRONG_TOKEN, ask, database, fails, restart, token};

pub(crate) async fn run(name: &str) -> Done {
    crate::scenario!(name,
        what_one_pushes_the_other_pulls
        what_the_server_refuses_is_kept_for_all_to_see
        a_restarted_server_is_found_again
        a_hundred_thousand_rows_are_bootstrapped
        a_wrong_token_is_refused
        faults_lose_nothing_and_repeat_nothing
    )
}

/// A copy of the database, and a connection to it.
pub(crate) struct Client {
    database: Database,
    pub(crate) connection: Connection,
}

impl Client {
    pub(crate) async fn open(name: &str) -> turso::Result<Client> {
        Client::open_with(name, token()).await
    }

    async fn open_with(name: &str, token: String) -> turso::Result<Client> {
        let builder = Builder::new_remote(&format!("{name}.db")).with_remote_url(database());
        let database = builder.with_auth_token(token).with_client_name(name).build().await?;
        let connection = database.connect().await?;
        Ok(Client { database, connection })
    }

    pub(crate) async fn push(&self) -> turso::Result<()> {
        self.database.push().await
    }

    pub(crate) async fn pull(&self) -> turso::Result<bool> {
        self.database.pull().await
    }

    async fn execute(&self, sql: &str, row: impl turso::params::IntoParams) -> turso::Result<u64> {
        self.connection.execute(sql, row).await
    }

    async fn write(&self, row: impl turso::params::IntoParams) -> turso::Result<u64> {
        self.execute("INSERT INTO t VALUES (?, ?, ?)", row).await
    }

    async fn query(&self, sql: &str) -> turso::Result<Vec<Row>> {
        query(&self.connection, sql).await
    }

    async fn all(&self) -> turso::Result<Vec<Row>> {
        self.query("SELECT id, k, v FROM t ORDER BY id").await
    }

    async fn ids(&self) -> turso::Result<Vec<Value>> {
        Ok(ids(self.all().await?))
    }
}

/// Two clients of one database with a table that both have.
async fn pair() -> turso::Result<(Client, Client)> {
    let a = Client::open("a").await?;
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, k UNIQUE, v)", ()).await?;
    a.push().await?;
    Ok((a, Client::open("b").await?))
}

async fn what_one_pushes_the_other_pulls() -> Done {
    let (a, b) = pair().await?;
    a.write((1, "ž🐎", -2.5e-300)).await?;
    a.write((2, turso::Value::Null, vec![0, 255])).await?;
    a.push().await?;
    b.write((3, i64::MAX, "b's")).await?;
    b.push().await?;
    assert!(b.pull().await?);
    assert!(a.pull().await?);
    let first = row![1, "ž🐎", -2.5e-300];
    let expected = [first, row![2, Value::Null, vec![0, 255]], row![3, i64::MAX, "b's"]];
    assert_eq!(a.all().await?, expected);
    assert_eq!(b.all().await?, expected);
    a.execute("UPDATE t SET v = 'new' WHERE id = 1", ()).await?;
    a.execute("DELETE FROM t WHERE id = 2", ()).await?;
    a.push().await?;
    b.pull().await?;
    assert_eq!(b.all().await?, [row![1, "ž🐎", "new"], row![3, i64::MAX, "b's"]]);
    a.pull().await?;
    assert!(!a.pull().await?, "nothing is new");
    Ok(())
}

async fn what_the_server_refuses_is_kept_for_all_to_see() -> Done {
    let (a, b) = pair().await?;
    a.write((1, "k", "A")).await?;
    a.push().await?;
    b.write((5, "other", "before")).await?;
    b.write((2, "k", "B")).await?;
    b.write((6, "more", "after")).await?;
    fails(b.push().await, &["UNIQUE constraint failed: t.k"]);
    // It goes on: nothing of it is stuck.
    b.push().await?;
    b.pull().await?;
    a.pull().await?;
    for client in [a, b] {
        let expected = [row![1, "k", "A"], row![5, "other", "before"], row![6, "more", "after"]];
        assert_eq!(client.all().await?, expected);
        let kept = client.query("SELECT client_id, args, error FROM aquifer_rejected").await?;
        let [Value::Text(client_id), Value::Text(args), Value::Text(error)] = &kept[0][..] else {
            return Err(format!("{kept:?}").into());
        };
        assert_eq!(kept.len(), 1);
        assert!(client_id.starts_with("b-") && args.contains("\"B\"") && error.contains("t.k"), "{kept:?}");
    }
    Ok(())
}

async fn a_restarted_server_is_found_again() -> Done {
    let (a, b) = pair().await?;
    a.write((1, 1, 1)).await?;
    a.push().await?;
    a.write((2, 2, 2)).await?;
    restart()?;
    a.push().await?;
    b.pull().await?;
    assert_eq!(b.ids().await?, row![1, 2]);
    drop(a);
    let again = Client::open("a").await?;
    again.write((3, 3, 3)).await?;
    again.push().await?;
    b.pull().await?;
    assert_eq!(b.ids().await?, row![1, 2, 3]);
    Ok(())
}

async fn a_hundred_thousand_rows_are_bootstrapped() -> Done {
    let a = Client::open("a").await?;
    a.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, v TEXT)", ()).await?;
    a.execute("BEGIN", ()).await?;
    for first in (1..=MANY).step_by(100) {
        let values: Vec<_> = (first..first + 100).map(|n| format!("({n}, 'row {n}')")).collect();
        a.execute(&format!("INSERT INTO big VALUES {}", values.join(", ")), ()).await?;
    }
    a.execute("COMMIT", ()).await?;
    a.push().await?;
    let b = Client::open("b").await?;
    are_many(&b.query("SELECT id, v FROM big ORDER BY id").await?);
    assert_eq!(b.query("PRAGMA integrity_check").await?, [row!["ok"]]);
    Ok(())
}

async fn a_wrong_token_is_refused() -> Done {
    let wrong_token = || WRONG_TOKEN.to_owned();
    fails(Client::open_with("c", wrong_token()).await, &["401"]);
    let (a, _) = pair().await?;
    drop(a);
    let wrong = Client::open_with("a", wrong_token()).await?;
    wrong.write((1, 1, 1)).await?;
    fails(wrong.push().await, &["401"]);
    fails(wrong.pull().await, &["401"]);
    drop(wrong);
    Client::open("a").await?.push().await?;
    // What was refused for its token is pushed with the right one.
    assert_eq!(Client::open("b2").await?.all().await?, [row![1, 1, 1]]);
    Ok(())
}

async fn faults_lose_nothing_and_repeat_nothing() -> Done {
    let (a, b) = pair().await?;
    let mut n = 0;
    for fault in ["status 401", "status 503", "drop", "cut"] {
        for path in ["/pull-updates 0", "/v2/pipeline 0", "/v2/pipeline 1"] {
            n += 1;
            b.write((n, format!("key {n}"), fault)).await?;
            b.execute("UPDATE t SET v = ? WHERE id = 1", [format!("count {n}")]).await?;
            a.write((1000 + n, format!("a's {n}"), path)).await?;
            a.push().await?;
            ask(&format!("fault {path} {fault}"))?;
            if path == "/pull-updates 0" {
                fails(b.pull().await, &[""]);
                b.pull().await?;
            } else {
                fails(b.push().await, &[""]);
            }
            b.push().await?;
            a.pull().await?;
            b.pull().await?;
            assert_eq!(a.all().await?, b.all().await?, "{fault} {path}");
            let counted = a.query("SELECT count(*), max(id) FROM t WHERE id < 1000").await?;
            assert_eq!(counted, [row![n, n]], "{fault} {path}");
            let updated = a.query("SELECT v FROM t WHERE id = 1").await?;
            assert_eq!(updated, [row![format!("count {n}")]], "{fault} {path}");
        }
    }
    ask("fault /pull-updates 0 delay 2000")?;
    b.write((2000, "late", "late")).await?;
    b.push().await?;
    a.pull().await?;
    assert_eq!(a.query("SELECT k FROM t WHERE id = 2000").await?, [row!["late"]]);
    let fresh = Client::open("c").await?;
    assert_eq!(fresh.all().await?, a.all().await?);
    let rejected = "SELECT name FROM sqlite_schema WHERE name = 'aquifer_rejected'";
    assert!(fresh.query(rejected).await?.is_empty());
    Ok(())
}
