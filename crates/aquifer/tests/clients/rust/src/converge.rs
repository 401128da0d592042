//! Random transactions from clients of different kinds.

use libsql::Connection;

use crate::copy::Copy;
use crate::rows::{Row, query, query_turso};
use crate::sql::connect_as;
use crate::stage::{Done, restart, token};
use crate::sync;

pub(crate) async fn run(seed: u64, name: &str) -> Done {
    match name {
        "all_have_the_same_in_the_end" => converge(seed, 60, false).await,
        "all_have_the_same_after_a_restart" => converge(seed, 40, true).await,
        other => Err(format!("there is no scenario {other}").into()),
    }
}

const ROWS: &str = "SELECT k, v, hex(b) FROM t ORDER BY k";
const TABLE: &str = "CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v TEXT, b BLOB)";

enum Client {
    /// SQL is sent, nothing is kept.
    Remote(Connection),
    Turso(sync::Client),
    /// It never gets out of a conflict, so it writes on top of the newest, and pushes before others write.
    Offline(Copy),
    /// A copy whose writes are sent as SQL.
    Replica(Copy),
}

impl Client {
    async fn write(&self, statements: &[String]) -> Done {
        let script = statements.join(";");
        match self {
            Client::Remote(connection) => drop(connection.execute_transactional_batch(&script).await?),
            Client::Turso(client) => {
                client.connection.execute_batch(&format!("BEGIN;{script};COMMIT")).await?
            }
            Client::Offline(copy) => {
                copy.sync().await?;
                copy.connection.execute_transactional_batch(&script).await?;
                copy.sync().await?;
            }
            Client::Replica(copy) => drop(copy.connection.execute_transactional_batch(&script).await?),
        }
        Ok(())
    }

    async fn push(&self) -> Done {
        if let Client::Turso(client) = self {
            client.push().await?;
        }
        Ok(())
    }

    async fn pull(&self) -> Done {
        match self {
            Client::Remote(_) => {}
            Client::Turso(client) => drop(client.pull().await?),
            Client::Offline(copy) | Client::Replica(copy) => copy.sync().await?,
        }
        Ok(())
    }

    async fn rows(&self) -> Done<Vec<Row>> {
        Ok(match self {
            Client::Remote(connection) => query(connection, ROWS, ()).await?,
            Client::Turso(client) => query_turso(&client.connection, ROWS).await?,
            Client::Offline(copy) | Client::Replica(copy) => query(&copy.connection, ROWS, ()).await?,
        })
    }
}

async fn converge(seed: u64, rounds: usize, restarts: bool) -> Done {
    let mut dice = Dice(seed);
    let server = Client::Remote(connect_as(token()).await?);
    server.write(&[TABLE.to_owned()]).await?;
    let clients = [
        ("server", server),
        ("turso_a", Client::Turso(sync::Client::open("turso_a").await?)),
        ("turso_b", Client::Turso(sync::Client::open("turso_b").await?)),
        ("offline", Client::Offline(Copy::offline("offline", token()).await?)),
        ("replica", Client::Replica(Copy::replica("replica").await?)),
    ];
    for round in 0..rounds {
        let (_, client) = &clients[dice.below(clients.len())];
        client.write(&transaction(&mut dice)).await?;
        if dice.below(3) == 0 {
            client.push().await?;
        }
        if dice.below(3) == 0 {
            clients[dice.below(clients.len())].1.pull().await?;
        }
        if restarts && round == rounds / 2 {
            restart()?;
        }
    }
    for (_, client) in &clients {
        client.push().await?;
    }
    let expected = clients[0].1.rows().await?;
    assert!(!expected.is_empty());
    for (name, client) in &clients {
        client.pull().await?;
        assert_eq!(client.rows().await?, expected, "seed {seed}: {name}");
    }
    Ok(())
}

fn transaction(dice: &mut Dice) -> Vec<String> {
    let statement = |dice: &mut Dice| {
        let k = dice.below(60);
        match dice.below(10) {
            0..5 => {
                let bytes = if dice.below(12) == 0 { 20_000 } else { dice.below(300) };
                let v = dice.below(1_000_000);
                // Not `ON CONFLICT DO UPDATE`, on which `turso` 0.8.3 fails: github.com/tursodatabase/turso/issues/9069
                format!("INSERT OR REPLACE INTO t(k, v, b) VALUES({k}, 'v{v}', zeroblob({bytes}))")
            }
            5..8 => {
                let (v, end) = (dice.below(1_000_000), k + 1 + dice.below(9));
                format!("UPDATE t SET v = 'u{v}' WHERE k >= {k} AND k < {end}")
            }
            _ => format!("DELETE FROM t WHERE k = {k}"),
        }
    };
    (0..=dice.below(4)).map(|_| statement(dice)).collect()
}

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}
