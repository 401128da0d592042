//! What is done to a sync, step by step, and what must hold afterwards.

use aquifer_client::{Builder, Database};
use aquifer_testkit::workload::Rng;
use tokio::runtime::Runtime;

use crate::SQL;
use crate::stage::{Ended, Stage, rows, run};

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    Kill,
    FullDisk,
}

impl Blow {
    pub(crate) fn mode(self) -> &'static str {
        match self {
            Blow::Kill => "kill",
            Blow::FullDisk => "full",
        }
    }

    /// It ended as it should.
    fn check(self, ended: &Ended, step: u64) {
        if self == Blow::Kill {
            assert_eq!(ended.is_killed, ended.was_hit, "step {step}: {ended:?}");
            return;
        }
        if ended.code == Some(0) {
            return;
        }
        let words = ended.stderr.to_lowercase();
        assert!(ended.was_hit, "step {step}: {ended:?}");
        assert!(words.contains("full") || words.contains("no space"), "step {step} says: {ended:?}");
    }
}

/// Rows without a key, of which one that is pushed twice is there twice; rows with one, in two columns of which both
/// sides write; rows that fill pages.
const SCHEMA: &str = "
    CREATE TABLE log(line);
    CREATE TABLE t(k INTEGER PRIMARY KEY, mine, theirs);
    CREATE TABLE large(k INTEGER PRIMARY KEY, content);
    INSERT INTO t VALUES (1, '', ''), (2, '', '');";
const LINES: &str = "SELECT line FROM log ORDER BY 1";
const ALL: [&str; 3] = [LINES, "SELECT * FROM t", "SELECT k, content FROM large ORDER BY k"];

const CONTENT: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
    SELECT i || hex(zeroblob(400)) FROM n";

/// Steps of which each is once the last one; which ones, from the length of the one before.
struct Steps {
    rng: Rng,
    stride: u64,
    next: u64,
}

impl Steps {
    /// One of about so many.
    fn one_of(stride: u64) -> Steps {
        let all = std::env::var_os("AQUIFER_TORTURE").is_some();
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        Steps { rng: Rng::new(seed.into()), stride: if all { 1 } else { stride }, next: 1 }
    }

    fn next(&mut self) -> u64 {
        let step = self.next;
        self.next += self.rng.range(1, 2 * self.stride - 1);
        step
    }
}

/// What has been written by whom.
#[derive(Default)]
struct Written(Vec<String>);

impl Written {
    /// Who writes a transaction, in the step of this number.
    fn write(&mut self, stage: &Stage, who: char, step: u64) {
        let line = format!("{who} {}", self.0.len());
        let (file, column) = if who == 'b' { ("b.db", "theirs") } else { ("a.db", "mine") };
        let bytes = step * 997 % 9000;
        let sql = format!(
            "BEGIN; INSERT INTO log VALUES ('{line}'); UPDATE t SET {column} = '{line}' WHERE k = 1;
             INSERT INTO large(content) VALUES (hex(zeroblob({bytes}))), ('{line}'); COMMIT"
        );
        run(&stage.path(file), &sql);
        self.0.push(format!("[Text(\"{line}\")]"));
        self.0.sort();
    }

    fn by(&self, who: char) -> Vec<String> {
        self.0.iter().filter(|line| line.starts_with(&format!("[Text(\"{who}"))).cloned().collect()
    }
}

/// Syncs go on that push and pull, and end at step after step.
pub(crate) fn go_on(blow: Blow, options: &[&str]) {
    let stage = Stage::new();
    let runtime = Runtime::new().unwrap();
    run(&stage.path("a.db"), SCHEMA);
    stage.sync("a.db", "app", options);
    let other = runtime.block_on(open(&stage, "b.db"));
    let sync_other = || runtime.block_on(other.sync()).unwrap().online().unwrap();
    let mut written = Written::default();
    let mut steps = Steps::one_of(9);
    loop {
        let step = steps.next();
        written.write(&stage, 'a', step);
        written.write(&stage, 'b', step);
        sync_other();
        let ended = stage.sync_until(blow, step, "a.db", "app", options);
        blow.check(&ended, step);
        if step.is_multiple_of(2) {
            // Who looks closes the last connection, and so moves the WAL into the file.
            let mine = "SELECT line FROM log WHERE line LIKE 'a%' ORDER BY 1";
            assert_eq!(rows(&stage.path("a.db"), mine), written.by('a'), "after step {step}");
        }
        if step.is_multiple_of(3) {
            written.write(&stage, 'a', step);
        }
        if step.is_multiple_of(5) {
            // While what became of the one before is found out.
            blow.check(&stage.sync_until(blow, step / 3 + 1, "a.db", "app", options), step);
        }
        stage.sync("a.db", "app", options);
        sync_other();
        for file in ["a.db", "b.db"] {
            assert_eq!(rows(&stage.path(file), LINES), written.0, "step {step}, {file}");
        }
        for sql in ALL {
            assert_eq!(rows(&stage.path("a.db"), sql), rows(&stage.path("b.db"), sql), "step {step}: {sql}");
        }
        if !ended.was_hit {
            eprintln!("{blow:?} {options:?}: there are fewer than {step} steps");
            return;
        }
    }
}

async fn open(stage: &Stage, file: &str) -> Database {
    Builder::new(stage.path(file)).remote(stage.url("app")).open().await.unwrap()
}

/// First fetches end at step after step, each one another file's.
pub(crate) fn begin(blow: Blow, options: &[&str]) {
    let stage = Stage::new();
    run(&stage.path("a.db"), &format!("{SCHEMA} INSERT INTO large(content) {CONTENT}"));
    stage.sync("a.db", "app", SQL);
    let mut steps = Steps::one_of(14);
    loop {
        let step = steps.next();
        let name = format!("{step}.db");
        let ended = stage.sync_until(blow, step, &name, "app", options);
        blow.check(&ended, step);
        // It is a database, or it is not there.
        if step.is_multiple_of(2) && stage.path(&name).metadata().is_ok_and(|file| file.len() > 0) {
            rows(&stage.path(&name), "SELECT 1");
        }
        stage.sync(&name, "app", options);
        for sql in ALL {
            assert_eq!(rows(&stage.path(&name), sql), rows(&stage.path("a.db"), sql), "step {step}: {sql}");
        }
        assert!(!stage.path(&format!("{name}-aquifer-bootstrap")).exists(), "step {step}");
        if !ended.was_hit {
            eprintln!("{blow:?} of a first fetch {options:?}: there are fewer than {step} steps");
            return;
        }
    }
}

/// First pushes of a database end at step after step, each one to an empty one.
pub(crate) fn seed(blow: Blow) {
    let stage = Stage::new();
    let mut steps = Steps::one_of(14);
    loop {
        let step = steps.next();
        let (name, database) = (format!("{step}.db"), format!("app{step}"));
        run(&stage.path(&name), &format!("{SCHEMA} INSERT INTO log {CONTENT}"));
        let before = rows(&stage.path(&name), LINES);
        let ended = stage.sync_until(blow, step, &name, &database, SQL);
        blow.check(&ended, step);
        stage.sync(&name, &database, SQL);
        stage.sync("copy.db", &database, SQL);
        for file in [&name, "copy.db"] {
            assert_eq!(rows(&stage.path(file), LINES), before, "step {step}, {file}");
        }
        stage.remove("copy.db");
        if !ended.was_hit {
            eprintln!("{blow:?} of a first push: there are fewer than {step} steps");
            return;
        }
    }
}
