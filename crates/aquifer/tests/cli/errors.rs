//! What goes wrong is told with a code, where, and what to do.

use std::io::Read;
use std::process::Stdio;

use crate::world::World;

#[test]
fn missing_database_is_told_with_the_nearest_names() {
    let world = World::new();
    let file = world.database("app.db", 1);
    world.ship("aquifer-data", "orders.db", &file, 1);
    let ran = world.run(&["info", "oders.db"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.contains("has no database 'oders.db'"), "{ran:?}");
    assert!(ran.stderr.contains("did you mean 'orders.db'?"), "{ran:?}");
    let ran = world.run(&["info", "unlike", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((&told["error"]["kind"], &told["error"]["exit_code"]), (&"not-found".into(), &3.into()));
    assert!(told["error"]["hint"].as_str().unwrap().contains("aquifer ls"), "{told}");
}

#[test]
fn missing_store_and_missing_generation_have_the_code_of_what_is_not_there() {
    let world = World::new();
    let ran = world.run(&["ls"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("no store at") && ran.stderr.contains("--store"), "{ran:?}");
    let file = world.database("app.db", 1);
    world.ship("aquifer-data", "app.db", &file, 1);
    let ran = world.run(&["info", "app.db", "-g", "fe6f9e6b-1c2f-7a3b-9d0e-5b1f2a3c4d5e"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("`aquifer ls app.db`"), "{ran:?}");
}

#[test]
fn nonsense_on_the_command_line_is_a_usage_error() {
    let world = World::new();
    for args in [
        &["frobnicate"][..],
        &["ls", "--store", "ftp://x"],
        &["ls", "--older-than", "1h"],
        &["ls", "app.db", "--older-than", "soon"],
        &["info", "app.db", "-g", "latest"],
        &[],
    ] {
        let ran = world.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "{args:?}");
    }
    assert!(world.run(&["ls", "a", "--older-than", "soon"]).stderr.contains("10 minutes ago"));
}

#[test]
fn store_that_does_not_answer_has_its_own_code() {
    let world = World::new();
    // A port that was just free: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("s3://bucket?endpoint=http://127.0.0.1:{port}");
    let environment = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key")];
    let ran = world.run_with(&["ls", "--store", &url], &environment);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.stderr.contains(&format!("127.0.0.1:{port}")), "{ran:?}");
    world.database("app.db", 1);
    let ran = world.run_with(&["replicate", "--once", "app.db", "--store", &url], &environment);
    assert_eq!(ran.code, 6, "{ran:?}");
}

#[test]
fn help_lists_the_exit_codes_and_every_command_explains_itself() {
    let world = World::new();
    let help = world.run(&["--help"]).ok().stdout;
    assert!(help.contains("Exit codes:") && help.contains("AQUIFER_STORE"), "{help}");
    for command in [
        "replicate",
        "restore",
        "ls",
        "info",
        "snapshot",
        "compact",
        "copy",
        "rm",
        "verify",
        "doctor",
        "config",
        "completions",
    ] {
        assert!(help.contains(&format!("  {command} ")), "{command}: {help}");
        assert!(world.run(&[command, "--help"]).ok().stdout.contains("Usage: aquifer"));
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(world.run(&["completions", shell]).ok().stdout.contains("aquifer"), "{shell}");
    }
}

#[test]
fn reader_who_leaves_early_is_no_error() {
    let world = World::new();
    let mut child = world
        .command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}
