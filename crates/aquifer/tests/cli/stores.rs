//! The whole way over S3's protocol, on a store that keeps its promises and on one that does not.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use aquifer_testkit::app::{AppOptions, AppProcess, Language, check_log};
use aquifer_testkit::s3_server::{Conditions, HttpFault, S3Server};

use crate::world::World;

#[test]
fn databases_go_to_s3_and_come_back() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for (conditions, warned) in [(Conditions::Honoured, false), (Conditions::Ignored, true)] {
        let world = World::new();
        world.database("app.db", 12);
        let server = runtime.block_on(S3Server::start(conditions));
        let mut environment = server.environment();
        environment.push(("AQUIFER_STORE".into(), server.url("fleet")));
        let environment: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let run = |args: &[&str]| world.run_with(args, &environment).ok();
        let ran = run(&["replicate", "--once", "app.db"]);
        assert_eq!(ran.stderr.contains("does not keep two writers"), warned, "{ran:?}");
        let info = run(&["info", "app.db", "--json"]).json();
        assert_eq!(info["fencing"]["fenced"], !warned);
        assert_eq!(run(&["info", "app.db"]).stdout.contains("NONE: the store does not keep"), warned);
        run(&["verify", "app.db", "--deep"]);
        run(&["snapshot", "app.db"]);
        run(&["restore", "app.db", "-o", "copy.db"]);
        assert_eq!(check_log(&world.path("copy.db")).unwrap(), 12);
        run(&["copy", "app.db", "a directory"]);
        run(&["rm", "app.db", "--yes"]);
        assert_eq!(server.keys(), ["fleet/.aquifer/fencing.json"]);
        world.run(&["copy", "app.db", "--store", "a directory", "back"]).ok();
        world.run(&["restore", "app.db", "--store", "back", "-o", "again.db"]).ok();
        assert_eq!(check_log(&world.path("again.db")).unwrap(), 12);
    }
}

#[test]
fn second_signal_leaves_the_rest_to_the_next_run_while_the_store_is_away() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = World::new();
    let mut app = AppProcess::start(Language::Rust, &world.path("app.db"), &AppOptions::default()).unwrap();
    app.commit(3).unwrap();
    let server = runtime.block_on(S3Server::start(Conditions::Honoured));
    let mut environment = server.environment();
    environment.push(("AQUIFER_STORE".into(), server.url("fleet")));
    let environment: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut command = world.command(&["replicate", "app.db", "--json"]);
    let command = command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut daemon = command.spawn().unwrap();
    let mut events = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let mut wait_for = |state: &str| {
        while !events.next().unwrap().unwrap().contains(&format!("\"state\":\"{state}\"")) {}
    };
    wait_for("idle");
    server.set_faults(|_| Some(HttpFault::Answer(503, "SlowDown")));
    app.commit(4).unwrap();
    wait_for("outage");
    let pid = rustix::process::Pid::from_raw(daemon.id().cast_signed()).unwrap();
    let signal = || {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    };
    signal();
    let mut said = BufReader::new(daemon.stderr.take().unwrap()).lines();
    while !said.next().unwrap().unwrap().contains("interrupt once more") {}
    signal();
    while !said.next().unwrap().unwrap().contains("the next run will do so") {}
    assert_eq!(daemon.wait().unwrap().code(), Some(0));

    server.clear_faults();
    world.run_with(&["replicate", "--once", "app.db"], &environment).ok();
    world.run_with(&["restore", "app.db", "-o", "copy.db"], &environment).ok();
    assert_eq!(check_log(&world.path("copy.db")).unwrap(), 7);
}
