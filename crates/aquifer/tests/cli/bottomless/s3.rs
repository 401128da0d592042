//! The same over HTTP, from buckets of an S3 server, which the variables of bottomless or its options name.

use std::fs;

use aquifer_testkit::s3_server::{Conditions, S3Server};
use rusqlite::Connection;
use tokio::runtime::{Builder, Runtime};

use super::{OLDEST, fixtures, names, record, recorded_bucket, rows};
use crate::world::{Ran, World, files};

/// A bucket on a server, and a directory in which the program is run.
struct Stage {
    world: World,
    server: S3Server,
    _runtime: Runtime,
}

impl Stage {
    fn new(objects: impl IntoIterator<Item = (String, Vec<u8>)>) -> Stage {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(S3Server::start(Conditions::Honoured));
        for (key, content) in objects {
            server.put_object(&key, content);
        }
        Stage { world: World::new(), server, _runtime: runtime }
    }

    fn with_fixture(name: &str) -> Stage {
        let objects = files(&fixtures().join(name).join("bucket"));
        Stage::new(objects.into_iter().map(|(path, content)| (path.to_str().unwrap().to_owned(), content)))
    }

    /// Runs a command of bottomless-cli, which knows from variables alone where the bucket is.
    fn run(&self, args: &[&str]) -> Ran {
        let mut environment = vec![
            ("LIBSQL_BOTTOMLESS_ENDPOINT".to_owned(), self.server.endpoint()),
            ("LIBSQL_BOTTOMLESS_BUCKET".to_owned(), S3Server::BUCKET.to_owned()),
            ("LIBSQL_BOTTOMLESS_AWS_DEFAULT_REGION".to_owned(), "us-east-1".to_owned()),
        ];
        for (name, value) in self.server.environment() {
            environment.push((format!("LIBSQL_BOTTOMLESS_{name}"), value));
        }
        self.with(&[&["bottomless"], args].concat(), &environment)
    }

    /// Runs the program with nothing but credentials from outside.
    fn with_credentials(&self, args: &[&str]) -> Ran {
        self.with(args, &self.server.environment())
    }

    fn with(&self, args: &[&str], environment: &[(String, String)]) -> Ran {
        let environment: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        self.world.run_with(args, &environment)
    }

    fn rows(&self, file: &str) -> i64 {
        rows(&self.world.path(file))
    }

    /// Commits to the database here, often enough that its change counter is larger than any in a bucket.
    fn go_on_here(&self) {
        let here = Connection::open(self.world.path("app.db")).unwrap();
        for x in 0..9 {
            let sql = format!("CREATE TABLE here_{x}(x); PRAGMA wal_checkpoint(TRUNCATE)");
            here.execute_batch(&sql).unwrap();
        }
    }
}

#[test]
fn bucket_on_s3_is_found_by_the_variables_of_bottomless() {
    let stage = Stage::new(recorded_bucket());
    assert_eq!(stage.run(&["ls"]).ok().stdout, record("ls").stdout);
    assert_eq!(stage.run(&["rm", "-v", "-g", OLDEST]).ok().stdout, record("rm-v-g").stdout);
    let keys = stage.server.keys();
    assert!(keys.iter().all(|key| !key.contains(OLDEST)) && !keys.is_empty());
    // The command line wins.
    let ran = stage.run(&["-b", "nowhere", "ls"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, ""), "{ran:?}");
    let endpoint = stage.server.endpoint();
    let args = ["bottomless", "-e", &endpoint, "-b", S3Server::BUCKET, "ls", "-l1"];
    assert_eq!(stage.with_credentials(&args).ok().stdout, record("ls-l1").stdout);
}

#[test]
fn restore_from_a_bucket_on_s3_decides_by_what_is_here_and_only_reads() {
    let stage = Stage::with_fixture("bottomless-frames-two-generations");
    let generations = stage.run(&["ls"]).ok().stdout;
    let (newest, oldest) = generations.trim().split_once('\n').unwrap();
    stage.server.take_log();
    // Missing.
    let ran = stage.run(&["restore"]).ok();
    assert!(ran.stderr.contains(&format!("restored generation {newest} of 'app.db' to app.db")), "{ran:?}");
    assert_eq!(
        (ran.stdout.as_str(), stage.rows("app.db"), names(&stage.world)),
        ("", 80, vec!["app.db".into()])
    );
    // The same.
    let ran = stage.run(&["restore"]).ok();
    assert!(ran.stderr.contains("app.db is what there is of 'app.db' already"), "{ran:?}");
    assert_eq!(names(&stage.world), ["app.db"]);
    // By its name, over a newer one; and then that is older.
    let ran = stage.run(&["-d", "app.db", "restore", "-g", oldest]).ok();
    assert!(ran.stderr.contains("what was there is"), "{ran:?}");
    assert_eq!((stage.rows("app.db"), stage.rows("app.db.bottomless.backup")), (40, 80));
    // The options say it as well as variables do, before the command and after it.
    let endpoint = stage.server.endpoint();
    let args = ["bottomless", "-e", &endpoint, "restore", "-b", S3Server::BUCKET];
    stage.with_credentials(&args).ok();
    assert_eq!((stage.rows("app.db"), stage.rows("app.db.bottomless.backup.2")), (80, 40));
    // Newer here.
    stage.go_on_here();
    let before = fs::read(stage.world.path("app.db")).unwrap();
    let ran = stage.run(&["restore"]).ok();
    assert!(ran.stderr.contains("is not older than what there is"), "{ran:?}");
    assert_eq!(fs::read(stage.world.path("app.db")).unwrap(), before);
    stage.run(&["restore", "-g", newest]).ok();
    assert_eq!(
        (stage.rows("app.db"), fs::read(stage.world.path("app.db.bottomless.backup.3")).unwrap()),
        (80, before)
    );
    let methods: Vec<_> = stage.server.take_log().into_iter().map(|request| request.method).collect();
    assert!(methods.iter().all(|method| method == "GET" || method == "HEAD"), "{methods:?}");
}

#[test]
fn restore_from_an_aquifer_store_on_s3_decides_by_what_is_here() {
    let stage = Stage::new([]);
    let url = stage.server.url("");
    let commit = |sql: &str| {
        let database = Connection::open(stage.world.path("app.db")).unwrap();
        database.execute_batch(&format!("PRAGMA journal_mode=WAL; {sql}")).unwrap();
    };
    let replicate = || stage.with_credentials(&["replicate", "--once", "app.db", "--store", &url]).ok();
    commit("CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    replicate();
    fs::copy(stage.world.path("app.db"), stage.world.path("older.db")).unwrap();
    commit("INSERT INTO t VALUES(2)");
    replicate();
    // The same.
    let ran = stage.run(&["restore"]).ok();
    assert!(ran.stderr.contains("is what there is of 'app.db' already"), "{ran:?}");
    // Newer here.
    commit("INSERT INTO t VALUES(3)");
    let ran = stage.run(&["restore"]).ok();
    assert!(ran.stderr.contains("and stays"), "{ran:?}");
    assert_eq!(stage.rows("app.db"), 3);
    // Older.
    fs::copy(stage.world.path("older.db"), stage.world.path("app.db")).unwrap();
    stage.run(&["restore"]).ok();
    assert_eq!((stage.rows("app.db"), stage.rows("app.db.bottomless.backup")), (2, 1));
    // Missing.
    fs::remove_file(stage.world.path("app.db")).unwrap();
    let ran = stage.run(&["restore"]).ok();
    assert!(ran.stderr.contains("of 'app.db' to app.db"), "{ran:?}");
    assert_eq!(stage.rows("app.db"), 2);
    // A moment before the first commit, and now.
    assert_eq!(stage.run(&["restore", "-u", "2020-01-01T00:00:00"]).code, 3);
    stage.run(&["restore", "-u", "2999-01-01T00:00:00"]).ok();
    assert_eq!(stage.rows("app.db"), 2);
}
