//! What comes next: the commands that are told after a backup of another program was taken are commands that work.

use crate::bottomless::{rows, with_fixture};
use crate::world::World;

/// The commands in backquotes behind `next:`, as arguments.
fn told(stderr: &str) -> Vec<Vec<String>> {
    let next = stderr.lines().find_map(|line| line.strip_prefix("next: ")).unwrap();
    let quoted = next.split('`').skip(1).step_by(2);
    quoted.map(|command| command.replace('\'', "").split(' ').skip(1).map(str::to_owned).collect()).collect()
}

fn follow(world: &World, command: &[String], more: &[&str]) {
    let args: Vec<&str> =
        command.iter().map(String::as_str).map(|arg| if arg == "FILE" { "app.db" } else { arg }).collect();
    world.run(&[&args, more].concat()).ok();
}

#[test]
fn restored_database_is_replicated_into_the_imported_history_as_told() {
    let world = with_fixture("bottomless-frames");
    let from = ["restore", "--from", "bottomless", "./bucket", "-o", "app.db", "--store", "./store"];
    let restored = world.run(&from).ok();
    let [replicate, import] = &told(&restored.stderr)[..] else { panic!("{restored:?}") };
    follow(&world, import, &[]);
    follow(&world, replicate, &["--once"]);
    let listed = world.run(&["ls", "app.db", "--store", "./store", "--json"]).ok().json();
    assert_eq!(listed["generations"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn imported_database_is_restored_and_replicated_as_told() {
    let world = with_fixture("bottomless-frames");
    let imported = world.run(&["import", "--from", "auto", "./bucket", "app.db"]).ok();
    let [replicate, restore] = &told(&imported.stderr)[..] else { panic!("{imported:?}") };
    follow(&world, restore, &[]);
    assert_eq!(rows(&world.path("app.db")), 145);
    follow(&world, replicate, &["--once"]);
    let listed = world.run(&["ls", "app.db", "--json"]).ok().json();
    assert_eq!(listed["generations"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn what_comes_next_is_not_told_to_programs() {
    let world = with_fixture("bottomless-frames");
    for quiet in ["-q", "--json"] {
        let name = format!("quiet{quiet}.db");
        let imported = world.run(&["import", "--from", "auto", "./bucket", &name, quiet]).ok();
        let restored = world.run(&["restore", "--from", "auto", "./bucket", "-o", &name, quiet]).ok();
        for ran in [imported, restored] {
            assert!(!ran.stderr.contains("next:"), "{ran:?}");
        }
    }
}

#[test]
fn url_that_leads_nowhere_is_what_is_to_be_checked() {
    let world = with_fixture("bottomless-frames");
    for command in [
        &["restore", "--from", "litestream", "nowhere", "-o", "app.db"][..],
        &["import", "--from", "auto", "nowhere", "app.db"],
        &["ls", "--from", "zlayer", "nowhere"],
        &["bottomless", "-b", "./nowhere", "ls"],
    ] {
        let ran = world.run(command);
        assert_eq!((ran.code, ran.stdout.as_str()), (3, ""), "{ran:?}");
        assert!(ran.stderr.contains("check the URL") && !ran.stderr.contains("--store"), "{ran:?}");
    }
}
