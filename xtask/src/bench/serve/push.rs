//! Rows pushed as Turso's sync clients push them, to this server and to Turso's own.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::super::Result;
use super::super::process::{Running, aquifer};
use super::super::table::{Limit, Table};
use super::client::Client;
use super::server::{Server, free_address, wait};

const BENCH: &str = "serve-push";
const ROWS: usize = 100_000;
const PATH: &str = "/v2/pipeline";
/// The package that Turso's server comes in.
const TURSO: &str = "turso@0.6.0";

/// Who pushes, and how much at a time.
struct Load {
    clients: usize,
    /// Rows of one push, which is one transaction.
    rows: usize,
    at_least: f64,
}

const LOADS: [Load; 2] =
    [Load { clients: 1, rows: 1000, at_least: 3.0 }, Load { clients: 32, rows: 25, at_least: 20.0 }];

pub(in super::super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let (aquifer, turso) = (aquifer()?, turso(dir)?);
    if turso.is_none() {
        eprintln!("  no npm, or it cannot install {TURSO}: the ratios to Turso's server are left out");
    }
    for load in LOADS {
        let Load { clients, rows, at_least } = load;
        let dir = dir.join(clients.to_string());
        std::fs::create_dir(&dir)?;
        let server = Server::start(&aquifer, &dir.join("data"), dir.join("store").as_os_str(), &[])?;
        let ours = push(server.address, &load)?;
        server.stop()?;
        let who = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
        let what = format!("{who}, {rows} rows a push");
        if let Some(turso) = &turso {
            let address = free_address()?;
            let (database, listen) = (dir.join("turso.db"), address.to_string());
            let arguments = [database.as_os_str(), OsStr::new("--sync-server"), OsStr::new(&listen)];
            let running = Running::start(turso, &arguments)?;
            wait(|| Client::new(address).post(PATH, select("nobody").as_bytes()).ok())
                .ok_or("Turso's server does not answer")?;
            let theirs = push(address, &load)?;
            drop(running);
            table.limited(
                BENCH,
                &format!("{what}: of Turso's sync server"),
                ours / theirs,
                "x",
                Limit::AtLeast(at_least),
            );
            table.plain(BENCH, &format!("{what}: Turso's sync server"), theirs, " rows/s");
        }
        table.plain(BENCH, &format!("{what}: aquifer serve"), ours, " rows/s");
    }
    Ok(())
}

/// Installs Turso's server. `None` where that cannot be done.
fn turso(dir: &Path) -> Result<Option<PathBuf>> {
    let home = dir.join("npm");
    std::fs::create_dir(&home)?;
    let installed = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--prefix"])
        .arg(&home)
        .arg(TURSO)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !installed.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    // The program is in a package for this machine's system, beside the one that was asked for.
    let packages = std::fs::read_dir(home.join("node_modules/@tursodatabase"))?.flatten();
    Ok(packages.map(|package| package.path().join("tursodb")).find(|program| program.exists()))
}

/// Rows a second, all clients together.
fn push(address: SocketAddr, load: &Load) -> Result<f64> {
    let create = batch(
        "nobody",
        0,
        std::iter::once(statement("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v TEXT);", "")),
    );
    send(&mut Client::new(address), &create)?;
    let each = ROWS / load.clients;
    let mut bodies = (0..load.clients)
        .map(|client| {
            let starts = (client * each..(client + 1) * each).step_by(load.rows);
            starts
                .map(|first| batch(&name(client), first, (first..first + load.rows).map(row)))
                .collect::<Vec<_>>()
        })
        .collect::<Vec<_>>();
    let started = Instant::now();
    let threads = bodies
        .drain(..)
        .enumerate()
        .map(|(client, bodies)| {
            std::thread::spawn(move || {
                let (mut connection, select) = (Client::new(address), select(&name(client)));
                for body in bodies {
                    connection.post(PATH, select.as_bytes())?;
                    send(&mut connection, &body)?;
                }
                Ok::<_, std::io::Error>(())
            })
        })
        .collect::<Vec<_>>();
    for thread in threads {
        thread.join().map_err(|_| "a client panicked")??;
    }
    let took = started.elapsed();
    let counted = Client::new(address).post(PATH, one("SELECT count(*) FROM t", "", true).as_bytes())?;
    let expected = format!(r#""value":"{ROWS}""#);
    if !String::from_utf8_lossy(&counted).contains(&expected) {
        return Err(format!("not all rows arrived: {}", String::from_utf8_lossy(&counted)).into());
    }
    Ok(ROWS as f64 / took.as_secs_f64())
}

fn name(client: usize) -> String {
    format!("bench-{client}")
}

/// Sends a push and makes sure that no step of it failed.
fn send(client: &mut Client, body: &str) -> std::io::Result<()> {
    let answer = client.post(PATH, body.as_bytes())?;
    let answer = String::from_utf8_lossy(&answer);
    if answer.contains(r#""message""#) { Err(std::io::Error::other(answer.into_owned())) } else { Ok(()) }
}

/// What a client asks before it pushes.
fn select(client: &str) -> String {
    let sql = "SELECT pull_gen, change_id FROM turso_sync_last_change_id WHERE client_id = ?";
    one(sql, &text(client), true)
}

fn one(sql: &str, args: &str, want_rows: bool) -> String {
    let step = format!(r#"{{"condition":null,"stmt":{}}}"#, stmt(sql, args, want_rows));
    format!(r#"{{"baton":null,"requests":[{{"type":"batch","batch":{{"steps":[{step}]}}}}]}}"#)
}

/// A push of a client that made so many changes before, and these.
fn batch(client: &str, before: usize, statements: impl Iterator<Item = String>) -> String {
    let bookkeeping = "CREATE TABLE IF NOT EXISTS turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)";
    let upsert = "INSERT INTO turso_sync_last_change_id(client_id, pull_gen, change_id) VALUES (?, ?, ?) ON CONFLICT(client_id) DO UPDATE SET pull_gen=excluded.pull_gen, change_id=excluded.change_id";
    let mut steps = format!(r#"{{"condition":null,"stmt":{}}}"#, stmt("BEGIN IMMEDIATE", "", false));
    let mut changes = before;
    let mut add = |stmt: &str| {
        let open = r#"{"type":"not","cond":{"type":"is_autocommit"}}"#;
        let _ = write!(steps, r#",{{"condition":{open},"stmt":{stmt}}}"#);
    };
    add(&statement(bookkeeping, ""));
    for statement in statements {
        add(&statement);
        changes += 1;
    }
    add(&statement(upsert, &format!("{},{},{}", text(client), integer(0), integer(changes))));
    add(&statement("COMMIT", ""));
    format!(r#"{{"baton":null,"requests":[{{"type":"batch","batch":{{"steps":[{steps}]}}}}]}}"#)
}

/// The change of one row.
fn row(id: usize) -> String {
    let sql = r#"INSERT INTO \"t\"(\"id\", \"v\") VALUES (?,?) ON CONFLICT(\"id\") DO UPDATE SET \"id\" = excluded.\"id\",\"v\" = excluded.\"v\""#;
    let value = format!("the value of row {id} {}", "as long as values are ".repeat(3));
    statement(sql, &format!("{},{}", integer(id), text(&value)))
}

fn statement(sql: &str, args: &str) -> String {
    stmt(sql, args, false)
}

fn stmt(sql: &str, args: &str, want_rows: bool) -> String {
    format!(
        r#"{{"sql":"{sql}","sql_id":null,"args":[{args}],"named_args":[],"want_rows":{want_rows},"replication_index":null}}"#
    )
}

fn text(value: &str) -> String {
    format!(r#"{{"type":"text","value":"{value}"}}"#)
}

fn integer(value: usize) -> String {
    format!(r#"{{"type":"integer","value":"{value}"}}"#)
}
