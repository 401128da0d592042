//! A thousand databases on one server, each written to once a minute.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use super::super::Result;
use super::super::process::aquifer;
use super::super::table::{Limit, Table};
use super::client::Client;
use super::server::Server;
use super::sql;

const BENCH: &str = "serve-fleet";
const DATABASES: usize = 1000;
/// An hour's worth, one minute after the other.
const ROUNDS: usize = 60;
/// Rounds after which caches are taken for warm.
const WARM: usize = 20;
const WRITERS: usize = 8;

pub(in super::super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let server = Server::start(&aquifer()?, &dir.join("data"), dir.join("store").as_os_str(), &[])?;
    write(server.address, "CREATE TABLE t(k INTEGER PRIMARY KEY, v)")?;
    let mebibytes = || Ok::<_, Box<dyn std::error::Error>>(server.resident()? as f64 / f64::from(1 << 20));
    let requests = || server.metric("aquifer_store_requests_total");
    table.plain(BENCH, &format!("{DATABASES} databases created: memory"), mebibytes()?, " MiB");
    let started = Instant::now();
    let (mut memory, mut asked) = (Vec::new(), vec![requests()?]);
    for _ in 0..ROUNDS {
        write(server.address, "INSERT INTO t(v) VALUES(randomblob(100))")?;
        memory.push(mebibytes()?);
        asked.push(requests()?);
    }
    let took = started.elapsed().as_secs_f64();
    table.plain(BENCH, "writes, as fast as it goes", (DATABASES * ROUNDS) as f64 / took, "/s");
    let of_round = |round: usize| (asked[round] - asked[round - 1]) / DATABASES as f64;
    let what = |round| format!("round {round} of {ROUNDS}");
    for round in [1, WARM, ROUNDS] {
        table.plain(BENCH, &format!("{}: memory", what(round)), memory[round - 1], " MiB");
        table.plain(BENCH, &format!("{}: requests to the store a write", what(round)), of_round(round), "");
    }
    let growth = |last: f64, first: f64| last / first;
    let rounds = format!("round {ROUNDS}, of round {WARM}");
    let memory_growth = growth(memory[ROUNDS - 1], memory[WARM - 1]);
    table.limited(BENCH, &format!("memory in {rounds}"), memory_growth, "x", Limit::AtMost(1.05));
    // A round may have compactions in it that the one before has not.
    let average = |to: usize| (asked[to] - asked[to - WARM]) / (WARM * DATABASES) as f64;
    let request_growth = growth(average(ROUNDS), average(WARM));
    let what = format!("requests to the store, last {WARM} rounds of the first {WARM}");
    table.limited(BENCH, &what, request_growth, "x", Limit::AtMost(1.1));
    server.stop()
}

/// Runs a statement on each database.
fn write(address: SocketAddr, statement: &'static str) -> Result<()> {
    let writers = (0..WRITERS).map(|writer| {
        std::thread::spawn(move || {
            let mut client = Client::new(address);
            (writer..DATABASES)
                .step_by(WRITERS)
                .try_for_each(|n| sql::execute(&mut client, &sql::path(&format!("app-{n}")), statement))
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.join().map_err(|_| "a writer panicked")??;
    }
    Ok(())
}
