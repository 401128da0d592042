//! bottomless-cli's commands: what the original printed on a bucket (recorded in aquifer-migrate's fixtures) is what this
//! program prints, and what it restores, keeps and removes.

mod restore;
mod s3;

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::Connection;

use crate::world::{Ran, World, files};

const NEWEST: &str = "e4ce79bf-20eb-7bc7-bea5-ebd0a505722d";
const SECOND: &str = "e4ce79bf-25f6-77e9-8109-b0fd2847c9b4";
const THIRD: &str = "e4ce79bf-2b0b-7d7f-b3d2-1104ad88315e";
const OLDEST: &str = "e4ce79bf-2bcb-79a1-894e-c55e2b864677";
/// 2026-11-21T23:37:00Z, in seconds.
const RECORDED: u64 = 1_795_304_220;
const UNKNOWN: &str = "e4ce79c3-0000-7000-8000-000000000000";

/// Where the original's output is.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../aquifer-migrate/tests/fixtures")
}

/// The objects of the bucket that the original's output is of, as far as that tells: names, sizes, what is listed.
fn recorded_bucket() -> Vec<(String, Vec<u8>)> {
    let mut objects = Vec::new();
    for (id, counter, frame, checksum, snapshot) in [
        (NEWEST, 2_u32, 4_u32, 0x5d67_e1ed_abf2_2199_u64, 833),
        (SECOND, 2, 1, 0x2e6e_469e_b8b9_6e72, 655),
        (THIRD, 2, 1, 0x98de_1449_320e_b8ee, 453),
        (OLDEST, 1, 3, 0xd90d_65b5_5066_bef5, 96),
    ] {
        let mut put = |name: &str, content: Vec<u8>| objects.push((format!("app.db-{id}/{name}"), content));
        put(".changecounter", counter.to_be_bytes().to_vec());
        put(".consistent", [&frame.to_be_bytes()[..], &checksum.to_be_bytes()].concat());
        put("db.gz", vec![0; snapshot]);
    }
    // What the recorded removals name.
    for recorded in ["rm-v-g", "rm-v-older-than-tomorrow"] {
        for line in record(recorded).stdout.lines() {
            if let Some(key) = line.strip_prefix("Removing ").filter(|key| key.contains("/0000")) {
                objects.push((key.to_owned(), b"a page".to_vec()));
            }
        }
    }
    objects
}

struct Record {
    args: Vec<String>,
    stdout: String,
}

fn record(name: &str) -> Record {
    let path = fixtures().join(format!("made-by/bottomless-cli/output/{name}.txt"));
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let command = lines.next().unwrap().strip_prefix("$ bottomless-cli ").unwrap();
    let is_stdout = |line: &&str| !["[stderr]", "[exit", "[files]"].iter().any(|mark| line.starts_with(mark));
    let stdout = lines.filter(is_stdout).flat_map(|line| [line, "\n"]).collect();
    Record { args: command.split_whitespace().map(str::to_owned).collect(), stdout }
}

/// Writes the recorded bucket as a directory, each snapshot as old as it was.
fn write_bucket(world: &World) {
    let written = [(NEWEST, 16), (SECOND, 14), (THIRD, 13), (OLDEST, 13)];
    for (key, content) in recorded_bucket() {
        let path = world.path("bucket").join(&key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let (_, seconds) = written.iter().find(|(id, _)| key.contains(id)).unwrap();
        let modified = UNIX_EPOCH + Duration::from_secs(RECORDED + seconds);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_times(FileTimes::new().set_modified(modified))
            .unwrap();
    }
}

/// Runs a command of bottomless-cli.
fn run(world: &World, args: &[&str]) -> Ran {
    world.run(&[&["bottomless", "-b", "./bucket"], args].concat())
}

pub(crate) fn with_fixture(name: &str) -> World {
    let world = World::new();
    let from = fixtures().join(name).join("bucket");
    for (path, content) in files(&from) {
        let to = world.path("bucket").join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, content).unwrap();
    }
    world
}

fn names(world: &World) -> Vec<String> {
    let entries = fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name != "bucket");
    names.sort();
    names
}

pub(crate) fn rows(file: &Path) -> i64 {
    Connection::open(file).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn lists_are_those_of_bottomless_cli_to_the_letter() {
    let world = World::new();
    write_bucket(&world);
    let cli = world.path("bottomless-cli");
    symlink(env!("CARGO_BIN_EXE_aquifer"), &cli).unwrap();
    for name in [
        "ls",
        "ls-d",
        "ls-d-unknown",
        "ls-g",
        "ls-l1",
        "ls-newer-than-today",
        "ls-newer-than-tomorrow",
        "ls-older-than-today",
        "ls-older-than-tomorrow",
        "ls-older-than-yesterday",
        "ls-v",
        "ls-v-l3",
        "ls-v-newer-than-tomorrow",
    ] {
        let Record { args, stdout } = record(name);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(run(&world, &args).ok().stdout, stdout, "{name}");
        // Under the original's own name.
        let mut command = Command::new(&cli);
        command.args(&args).current_dir(world.path("")).env("LIBSQL_BOTTOMLESS_BUCKET", "./bucket");
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{name}: {output:?}");
    }
    // Options before the command, as there, and after it.
    assert_eq!(run(&world, &["ls", "-d", "app.db", "-l", "1"]).ok().stdout, record("ls-l1").stdout);
    let json = run(&world, &["ls", "-v", "--json"]).ok().json();
    let details = &json["generations"][0]["details"];
    assert_eq!(
        (details["position"].as_u64(), details["change_counter"].as_u64()),
        (Some(4), Some(2)),
        "{json}"
    );
}

#[test]
fn removals_are_those_of_bottomless_cli_but_for_what_the_newest_needs() {
    let world = World::new();
    write_bucket(&world);
    let stays = || files(&world.path("bucket"));
    let all = stays();
    assert_eq!(
        run(&world, &["rm", "-v", "--older-than", "2026-11-21"]).ok().stdout,
        "Removed 0 generations\n"
    );
    assert_eq!(stays(), all);
    assert_eq!(run(&world, &["rm", "-v", "-g", OLDEST]).ok().stdout, record("rm-v-g").stdout);
    assert!(stays().keys().all(|path| !path.to_str().unwrap().contains(OLDEST)));
    assert_eq!(run(&world, &["rm", "-g", THIRD]).ok().stdout, "");
    // The original removes all that there is.
    let recorded = record("rm-v-older-than-tomorrow").stdout;
    let second = &recorded[recorded.find(&format!("Removing {SECOND}")).unwrap()..];
    let ran = run(&world, &["rm", "-v", "--older-than", "2026-11-22"]).ok();
    assert_eq!(ran.stdout, second.replace("Removed 2 generations", "Removed 1 generations"));
    assert!(ran.stderr.contains(&format!("kept {NEWEST}")), "{ran:?}");
    let newest: std::collections::BTreeMap<_, _> =
        all.into_iter().filter(|(path, _)| path.to_str().unwrap().contains(NEWEST)).collect();
    assert_eq!(stays(), newest);
    // By its name it goes.
    run(&world, &["rm", "-g", NEWEST]).ok();
    assert!(stays().is_empty());
    let ran = run(&world, &["-d", "app.db", "rm", "-v", "--older-than", "2026-11-22"]).ok();
    assert_eq!(ran.stdout, record("rm-v-d-older-than-empty").stdout);
    assert_eq!(run(&world, &["-d", "app.db", "ls", "-v"]).ok().stdout, record("ls-v-d-empty").stdout);
}

#[test]
fn what_bottomless_cli_passes_over_in_silence_fails_with_a_code() {
    let world = World::new();
    write_bucket(&world);
    let before = files(&world.path("bucket"));
    for (args, code, said) in [
        (&["restore", "-g", UNKNOWN][..], 3, "not found for app.db"),
        (&["rm", "-g", UNKNOWN], 3, "not found for app.db"),
        (&["ls", "-g", UNKNOWN], 3, "not found for app.db"),
        (&["rm"], 2, "rm needs --generation or --older-than"),
        (&["rm", "-g", OLDEST, "--older-than", "2026-11-21"], 2, "cannot be used with"),
        (&["ls", "-g", OLDEST, "-l", "1"], 2, "cannot be used with"),
        (&["ls", "-g", "newest"], 2, "invalid value 'newest' for '--generation"),
        (&["ls", "--older-than", "2023"], 2, "invalid value '2023' for '--older-than"),
        (&["restore", "-u", "2020-01-01T00:00:00"], 3, "is that old"),
    ] {
        let ran = run(&world, args);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{ran:?}");
        assert!(ran.stderr.contains(said), "{args:?}: {ran:?}");
    }
    assert_eq!(files(&world.path("bucket")), before);
    fs::create_dir(world.path("empty")).unwrap();
    let ran = world.run(&["bottomless", "-b", "./empty", "ls"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("Please pass it explicitly with -d option"), "{ran:?}");
    // The original takes the first of several.
    let several = with_fixture("bottomless-frames-two-databases");
    let ran = run(&several, &["restore"]);
    assert_eq!((ran.code, names(&several)), (2, Vec::new()));
    assert!(ran.stderr.contains("which of app, app-2, tenant7-other"), "{ran:?}");
    // And reads 'app-2' for a generation of 'app'.
    run(&several, &["-d", "app", "ls"]).ok();
    let environment = [("LIBSQL_BOTTOMLESS_DATABASE_ID", "tenant7-")];
    several.run_with(&["bottomless", "-b", "./bucket", "restore"], &environment).ok();
    assert_eq!((names(&several), rows(&several.path("other"))), (vec!["other".to_owned()], 30));
}

#[test]
fn same_commands_work_on_an_aquifer_store() {
    let world = World::new();
    world.database("app.db", 5);
    let store = ["--store", "./bucket"];
    world.run(&[&["replicate", "--once", "app.db"][..], &store].concat()).ok();
    world.run(&[&["snapshot", "app.db"][..], &store].concat()).ok();
    let first = run(&world, &["ls"]).ok().stdout;
    world.run(&[&["replicate", "--once", "--new-generation", "app.db"][..], &store].concat()).ok();
    let listed = run(&world, &["ls"]).ok().stdout;
    assert!(listed.ends_with(&first) && listed.lines().count() == 2, "{listed}");
    let verbose = run(&world, &["ls", "-v"]).ok().stdout;
    let line = |start: &str| verbose.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        (line("Database app.db:"), line("\tcreated at (UTC):     20"), line("\tWAL frame checksum:   ")),
        (1, 2, 2)
    );
    assert_eq!(
        (line("\tmain database snapshot:"), line("\tno main database snapshot file found")),
        (1, 1),
        "{verbose}"
    );
    let (first, newest) = (first.trim(), listed.lines().next().unwrap());
    run(&world, &["-d", "copies/app.db", "restore"]).ok();
    assert_eq!(fs::read(world.path("copies/app.db")).unwrap(), fs::read(world.path("app.db")).unwrap());
    run(&world, &["-d", "copies/app.db", "restore", "-g", first]).ok();
    let ran = run(&world, &["rm", "-v", "--older-than", "2999-01-01"]).ok();
    assert!(ran.stdout.starts_with(&format!("Removing {first}\nRemoving app.db/{first}/")), "{ran:?}");
    assert!(ran.stdout.ends_with("Removed 1 generations\n"), "{ran:?}");
    assert_eq!(run(&world, &["ls"]).ok().stdout.trim(), newest);
    world.run(&[&["verify", "app.db"][..], &store].concat()).ok();
}
