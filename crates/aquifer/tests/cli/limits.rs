//! What bounds `replicate`: retention, interval, requests, disk, and patience.

use aquifer_testkit::app::{AppOptions, AppProcess, Language, check_log};
use aquifer_testkit::s3_server::{Conditions, HttpFault, S3Server};

use crate::daemon::{Daemon, eventually, metric};
use crate::world::World;

/// A store that a test can cut off, and the environment that leads to it.
struct Bucket {
    runtime: tokio::runtime::Runtime,
    server: S3Server,
    environment: Vec<(String, String)>,
}

impl Bucket {
    fn new() -> Bucket {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(S3Server::start(Conditions::Honoured));
        let mut environment = server.environment();
        environment.push(("AQUIFER_STORE".into(), server.url("fleet")));
        Bucket { runtime, server, environment }
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }

    /// From now on nothing can be shipped.
    fn refuse_segments(&self) {
        self.server.set_faults(|request| {
            (request.method == "PUT" && request.target.contains("/0/"))
                .then_some(HttpFault::Answer(503, "SlowDown"))
        });
    }
}

fn application(world: &World) -> AppProcess {
    AppProcess::start(Language::Rust, &world.path("app.db"), &AppOptions::default()).unwrap()
}

#[test]
fn history_outside_of_the_window_is_deleted_and_the_rest_restores() {
    let world = World::new();
    let mut app = application(&world);
    let mut ship = |more: &[&str]| {
        app.commit(3).unwrap();
        world.run(&[&["replicate", "--once", "app.db", "--fanout", "2"], more].concat()).ok();
    };
    for _ in 0..3 {
        ship(&[]);
    }
    world.run(&["snapshot", "app.db"]).ok();
    ship(&[]);
    world.run(&["restore", "app.db", "-o", "first.db", "--txid", "1"]).ok();
    // An hour of grace, if nothing is said: what is outside of the window stays as long.
    ship(&["--retain", "1ms"]);
    world.run(&["restore", "app.db", "-o", "again.db", "--txid", "1"]).ok();
    ship(&["--retain", "1ms", "--retain-grace", "0s"]);
    let ran = world.run(&["restore", "app.db", "-o", "gone.db", "--txid", "1"]);
    assert!(ran.code == 3 && ran.stderr.contains("aquifer info"), "{ran:?}");
    let info = world.run(&["info", "app.db", "--json"]).ok().json();
    assert!(info["survey"]["oldest"].as_u64() > Some(1), "{info}");
    world.run(&["restore", "app.db", "-o", "copy.db"]).ok();
    assert_eq!(check_log(&world.path("copy.db")).unwrap(), 18);
}

/// Commits, one after the other, each seen by the daemon before the next; returns the txid that is durable then.
fn commit_one_by_one(app: &mut AppProcess, address: &str, what_shows_it: &str) -> f64 {
    for _ in 0..3 {
        let before = metric(address, "aquifer_durable_txid", "app.db");
        app.commit(1).unwrap();
        eventually("the commit is seen", || {
            metric(address, what_shows_it, "app.db") > 0.0
                || metric(address, "aquifer_durable_txid", "app.db") > before
        });
    }
    metric(address, "aquifer_durable_txid", "app.db")
}

fn daemon_with(world: &World, limit: &[&str]) -> (Daemon, String) {
    let args = ["replicate", "app.db", "--json", "--metrics", "127.0.0.1:0", "--log-format", "json"];
    let mut daemon = Daemon::start(world, &[&args, limit].concat());
    daemon.wait_for("app.db", "idle");
    let address = daemon.address();
    (daemon, address)
}

#[test]
fn commits_within_the_interval_become_one_batch() {
    let world = World::new();
    let mut app = application(&world);
    app.commit(1).unwrap();
    let (daemon, address) = daemon_with(&world, &["--interval", "1h"]);
    assert_eq!(commit_one_by_one(&mut app, &address, "aquifer_lag_seconds") as u64, 1);
    // The end does not wait for it.
    daemon.end().ok();
    let info = world.run(&["info", "app.db", "--json"]).ok().json();
    assert_eq!(info["head"]["revision"]["txid"], 2);
    world.run(&["restore", "app.db", "-o", "copy.db"]).ok();
    assert_eq!(check_log(&world.path("copy.db")).unwrap(), 4);
}

#[test]
fn batches_grow_where_the_budget_of_requests_is_spent() {
    let world = World::new();
    let mut app = application(&world);
    app.commit(1).unwrap();
    // The first batch takes the only request of this hour.
    let (daemon, address) = daemon_with(&world, &["--max-requests-per-hour", "1"]);
    assert_eq!(commit_one_by_one(&mut app, &address, "aquifer_lag_txids") as u64, 1);
    daemon.end().ok();
    world.run(&["restore", "app.db", "-o", "copy.db"]).ok();
    assert_eq!(check_log(&world.path("copy.db")).unwrap(), 4);
}

#[test]
fn full_staging_holds_neither_the_application_nor_loses_what_it_commits() {
    let (world, bucket) = (World::new(), Bucket::new());
    let environment = bucket.environment();
    let mut app = application(&world);
    app.commit(3).unwrap();
    let mut daemon =
        Daemon::start_with(&world, &["replicate", "app.db", "--json", "--max-staging", "1"], &environment);
    daemon.wait_for("app.db", "idle");
    bucket.refuse_segments();
    app.commit(5).unwrap();
    daemon.wait_for_log("the staging is full");
    app.commit(20).unwrap();
    bucket.server.clear_faults();
    daemon.end().ok();
    world.run_with(&["restore", "app.db", "-o", "copy.db"], &environment).ok();
    assert_eq!(check_log(&world.path("copy.db")).unwrap(), 28);
    drop(bucket.runtime);
}

#[test]
fn once_gives_up_on_a_store_that_stays_away_and_the_next_run_ships_it() {
    let (world, bucket) = (World::new(), Bucket::new());
    let environment = bucket.environment();
    application(&world).commit(3).unwrap();
    bucket.refuse_segments();
    let args = ["replicate", "--once", "app.db", "--give-up-after", "10ms"];
    let ran = world.run_with(&args, &environment);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.stderr.contains("'app.db' could not be shipped"), "{ran:?}");
    bucket.server.clear_faults();
    world.run_with(&["replicate", "--once", "app.db"], &environment).ok();
    world.run_with(&["restore", "app.db", "-o", "copy.db"], &environment).ok();
    assert_eq!(check_log(&world.path("copy.db")).unwrap(), 3);
}

#[test]
fn interrupted_restore_leaves_nothing_behind() {
    let (world, bucket) = (World::new(), Bucket::new());
    let environment = bucket.environment();
    world.database("app.db", 100);
    world.run_with(&["replicate", "--once", "app.db"], &environment).ok();
    std::fs::create_dir(world.path("to")).unwrap();
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        // Its plan is answered, its pages are not.
        let mut reads = 0;
        bucket.server.set_faults(move |request| {
            let is_read = request.method == "GET" && request.target.contains(".seg");
            reads += usize::from(is_read);
            (is_read && reads > 1).then_some(HttpFault::Hang)
        });
        let restore = Daemon::start_with(&world, &["restore", "app.db", "-o", "to/copy.db"], &environment);
        eventually("the restore has begun to write", || {
            std::fs::read_dir(world.path("to")).unwrap().count() > 0
        });
        let ran = restore.end_by(signal);
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(std::fs::read_dir(world.path("to")).unwrap().count(), 0, "after {signal:?}");
    }
}
