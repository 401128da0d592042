//! A thousand databases on one server, each written to once a minute.
//!
//! An hour passes as fast as it goes: a round is a minute, in which each database is written to once. A round ends when all
//! databases have come to rest and nothing is compacted any more, as it would be after a minute.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

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
/// Rounds after which memory is printed. Until the last but one, everything that a database needs was needed once: the
/// first compaction is due after 32 transactions.
const SHOWN: [usize; 4] = [10, 30, 40, ROUNDS];
/// As many rounds at the beginning and at the end have no compaction in them: one is due after every 32 transactions.
const WITHOUT_COMPACTION: usize = 25;
const WRITERS: usize = 8;
/// A database that is not written to for a second comes to rest: it is checkpointed, and its files are closed.
const REST: Duration = Duration::from_millis(2500);

pub(in super::super) fn run(dir: &Path, table: &mut Table) -> Result<()> {
    let server = Server::start(&aquifer()?, &dir.join("data"), dir.join("store").as_os_str(), &[])?;
    let mebibytes = || Ok::<_, Box<dyn std::error::Error>>(server.resident()? as f64 / f64::from(1 << 20));
    table.plain(BENCH, "memory of the server without databases", mebibytes()?, " MiB");
    let started = Instant::now();
    write(
        server.address,
        "CREATE TABLE t AS SELECT 1 AS k, randomblob(100) AS v UNION ALL SELECT 2, randomblob(100)",
    )?;
    table.plain(BENCH, &format!("{DATABASES} databases created"), started.elapsed().as_secs_f64(), " s");
    let (mut memory, mut asked) = (vec![mebibytes()?], vec![requests(&server)?]);
    let mut busy = Duration::ZERO;
    for round in 1..=ROUNDS {
        let started = Instant::now();
        // A database that grew would take more memory by itself.
        write(server.address, "UPDATE t SET v = randomblob(100) WHERE k = 2")?;
        busy += started.elapsed();
        rest(&server)?;
        memory.push(mebibytes()?);
        asked.push(requests(&server)?);
        if round % 5 == 0 {
            let took = busy.as_secs_f64() / round as f64;
            eprintln!("    minute {round} of {ROUNDS}: {took:.1} s each, {:.0} MiB", memory[round]);
        }
    }
    let written = (DATABASES * ROUNDS) as f64;
    table.plain(BENCH, "writes, by 8 writers", written / busy.as_secs_f64(), "/s");
    for round in SHOWN {
        table.plain(BENCH, &format!("minute {round}: memory"), memory[round], " MiB");
    }
    let [.., middle, last] = SHOWN;
    let growth = memory[last] / memory[middle];
    let what = format!("memory, minute {last} of minute {middle}");
    table.limited(BENCH, &what, growth, "x", Limit::AtMost(1.05));
    let between = |from: usize, to: usize| per_write(&asked[from], &asked[to], to - from);
    for (kind, count) in between(0, last).iter().filter(|(_, count)| **count >= 0.005) {
        table.plain(BENCH, &format!("requests to the store per database and minute: {kind}"), *count, "");
    }
    let all = |counts: BTreeMap<String, f64>| counts.values().sum::<f64>();
    let (begins, ends) = (between(0, WITHOUT_COMPACTION), between(last - WITHOUT_COMPACTION, last));
    let what = format!("requests, the last {WITHOUT_COMPACTION} minutes of the first");
    table.limited(BENCH, &what, all(ends) / all(begins), "x", Limit::AtMost(1.05));
    let stopping = Instant::now();
    server.stop()?;
    table.plain(
        BENCH,
        "the server stops, and gives all databases back",
        stopping.elapsed().as_secs_f64(),
        " s",
    );
    eprintln!("    removing the files …");
    Ok(())
}

/// Waits until all databases are at rest, and the server asks its store for nothing but that it lives itself.
fn rest(server: &Server) -> Result<()> {
    loop {
        let asked = |mut requests: BTreeMap<String, f64>| {
            requests.remove("put");
            requests
        };
        let before = asked(requests(server)?);
        std::thread::sleep(REST);
        if before == asked(requests(server)?) {
            return Ok(());
        }
    }
}

/// Requests that the server has sent to its store, by kind.
fn requests(server: &Server) -> Result<BTreeMap<String, f64>> {
    Ok(server.samples("aquifer_store_requests_total")?.into_iter().collect())
}

/// What was sent meanwhile, for each database and round.
fn per_write(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
    rounds: usize,
) -> BTreeMap<String, f64> {
    let sent = |kind: &String, count: &f64| count - before.get(kind).unwrap_or(&0.0);
    let writes = (rounds * DATABASES) as f64;
    after.iter().map(|(kind, count)| (kind.clone(), sent(kind, count) / writes)).collect()
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
