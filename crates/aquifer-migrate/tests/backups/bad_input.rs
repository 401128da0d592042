//! Every kind of harm, to every object of every format, under every command: an error that says where, or a state that the
//! database once had; nothing beside the target, no database in the store that was imported to.
//!
//! What no format proves is left out where it is said.

use std::fs;
use std::path::{Path, PathBuf};

use aquifer_log::{DatabaseStore, Store};
use aquifer_migrate::{Importer, MigrateError, Origin, Survey, find};

use crate::bucket::Bucket;
use crate::generator::{Generation, Kind, Ltx, put_03};
use crate::live::{FRAME_HEADER, Live, WAL_HEADER, image};

const PAGE: usize = 512;

/// A database that lived through a few transactions, and a checkpoint between them.
struct Life {
    /// The file before each WAL, and the WAL, as its transactions have made it one after the other.
    wals: Vec<(Vec<u8>, crate::live::Wal)>,
    /// After each transaction, and what it began with.
    states: Vec<Vec<u8>>,
}

impl Life {
    /// Of two of these, with other numbers of rows, all rows differ, and so do the salts of their WALs. What they are is the same
    /// in each run.
    fn new(rows: usize) -> Life {
        let live = Live::new(PAGE);
        // Rows that are not in the index, or twice, show that pages are not of one database.
        live.sql("CREATE INDEX i ON t(v)");
        let mut noise = rows as u64;
        let mut value = || {
            let bytes = std::iter::repeat_with(|| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                format!("{:02x}", noise >> 56)
            });
            bytes.take(60).collect::<String>()
        };
        let mut insert =
            |count: usize| (0..count).map(|_| format!("(x'{}')", value())).collect::<Vec<_>>().join(",");
        live.sql(&format!("INSERT INTO t(v) VALUES {}", insert(rows)));
        live.checkpoint();
        let (mut wals, mut states) = (Vec::new(), vec![live.image()]);
        for round in 1..3 {
            let file = live.file();
            // Of some of the pages only: who has all of them anew has another database, whole.
            live.sql(&format!("INSERT INTO t(v) VALUES {}", insert(2)));
            states.push(live.image());
            live.sql(&format!("UPDATE t SET v = {} WHERE k = {round}", insert(1)));
            states.push(live.image());
            wals.push((file, live.wal()));
            live.checkpoint();
        }
        Life { wals, states }
    }
}

/// A format, and how a database is kept in it.
type Format = (&'static str, fn(&Life) -> Bucket);

const FORMATS: [Format; 8] = [
    ("batches, raw", |life| batches(life, Kind::Raw)),
    ("batches, gzip", |life| batches(life, Kind::Gz)),
    ("batches, zstd", |life| batches(life, Kind::Zstd)),
    ("pages", pages),
    ("LTX with checksums", |life| ltx(life, 0)),
    ("LTX", |life| ltx(life, 2)),
    ("Litestream 0.3", litestream_03),
    ("zlayer-storage", zlayer),
];

/// The second generation goes on from the first.
fn batches(life: &Life, kind: Kind) -> Bucket {
    let bucket = Bucket::empty();
    let (first, second) = (Generation::begun(0), Generation::begun(100));
    first.snapshot(&bucket, kind, &life.wals[0].0);
    first.batches(&bucket, &life.wals[0].1, kind);
    second.parent(&bucket, &first);
    second.batches(&bucket, &life.wals[1].1, kind);
    bucket
}

fn pages(life: &Life) -> Bucket {
    let (bucket, generation) = (Bucket::empty(), Generation::begun(0));
    let (file, wal) = &life.wals[1];
    generation.snapshot(&bucket, Kind::Gz, file);
    generation.pages(&bucket, wal, &[]);
    bucket
}

fn ltx(life: &Life, flags: u32) -> Bucket {
    let bucket = Bucket::empty();
    let mut before: &[u8] = &[];
    for (at, state) in life.states.iter().enumerate() {
        let mut file = Ltx::between(before, state, PAGE, at as u64 + 1);
        if flags != 0 {
            (file.flags, file.before, file.after) = (flags, 0, 0);
        }
        file.put(&bucket, if at == 0 { 9 } else { 0 });
        before = state;
    }
    bucket
}

fn litestream_03(life: &Life) -> Bucket {
    let bucket = Bucket::empty();
    put_03(&bucket, "snapshots/00000000.snapshot", &life.wals[0].0);
    for (index, (_, wal)) in life.wals.iter().enumerate() {
        let cut = WAL_HEADER + wal.commits()[0] * (FRAME_HEADER + PAGE);
        put_03(&bucket, &format!("wal/{index:08x}_00000000.wal"), &wal.bytes[..cut]);
        put_03(&bucket, &format!("wal/{index:08x}_{cut:08x}.wal"), &wal.bytes[cut..]);
    }
    bucket
}

fn zlayer(life: &Life) -> Bucket {
    let bucket = Bucket::empty();
    let (file, wal) = &life.wals[1];
    bucket.put("app/snapshots/20261120_100000.sqlite.zst", &Kind::Zstd.pack(file));
    let segment = format!("app/wal/{:020}.wal.zst", wal.frames().len());
    bucket.put(&segment, &Kind::Zstd.pack(&wal.bytes));
    bucket
}

/// A way to look at a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Restore,
    /// A restore into a directory of its own, checked by SQLite.
    Verify,
    Import,
    Ls,
}

const COMMANDS: [Command; 4] = [Command::Restore, Command::Verify, Command::Import, Command::Ls];

impl Command {
    /// The database that it comes to; `None` where none is asked for.
    async fn run(self, bucket: &Bucket) -> Result<Option<Vec<u8>>, MigrateError> {
        match self {
            // That nothing is left beside the target is looked at there.
            Command::Restore | Command::Verify => {
                let restorer = bucket.restorer().integrity_check(self == Command::Verify);
                bucket.restore(restorer).await.map(|(_, file)| Some(file))
            }
            Command::Import => imported(bucket).await.map(Some),
            Command::Ls => {
                for backup in find(&bucket.store(), Origin::Auto).await? {
                    let Survey { .. } = backup.survey().await?;
                }
                Ok(None)
            }
        }
    }
}

/// The newest revision of what was imported.
pub(crate) async fn imported(bucket: &Bucket) -> Result<Vec<u8>, MigrateError> {
    Ok(import(bucket, false).await?.remove(0))
}

/// All revisions of it, oldest first.
pub(crate) async fn revisions(bucket: &Bucket) -> Result<Vec<Vec<u8>>, MigrateError> {
    import(bucket, true).await
}

async fn import(bucket: &Bucket, is_history: bool) -> Result<Vec<Vec<u8>>, MigrateError> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store").to_str().unwrap().parse().unwrap()).unwrap();
    let to = DatabaseStore::new(store, "app.db".parse().unwrap());
    let temp_dir = dir.path().join("temporary");
    fs::create_dir(&temp_dir).unwrap();
    // The newest one is what all commands speak of.
    let newest = find(&bucket.store(), Origin::Auto).await?;
    let mut importer = Importer::new(bucket.store(), Origin::Auto, to.clone()).temp_dir(&temp_dir);
    if let Some(generation) = newest.first().and_then(aquifer_migrate::Backup::generation) {
        importer = importer.generation(generation);
    }
    let done = importer.import().await;
    assert_eq!(fs::read_dir(&temp_dir).unwrap().count(), 0, "left behind: {done:?}");
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            let left = to.latest_generation().await;
            assert!(!matches!(left, Ok(Some(_))), "a database after {error}");
            return Err(error);
        }
    };
    let first = if is_history { 1 } else { done.newest.batches };
    let mut found = Vec::new();
    for txid in first..=done.newest.batches {
        let output = dir.path().join("restored.db");
        let restorer =
            aquifer_replicate::restore::Restorer::new(to.store().clone(), to.name().clone(), &output);
        let target = aquifer_log::Target::Txid(aquifer_format::Txid::new(txid));
        // Only the newest is what SQLite must find whole: a backup may have been made between others.
        restorer.target(target).integrity_check(txid == done.newest.batches).restore().await.unwrap();
        found.push(fs::read(&output).unwrap());
        fs::remove_file(output).unwrap();
    }
    Ok(found)
}

/// The objects of a bucket that hold something of the database, by key.
fn objects(bucket: &Bucket) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    crate::damage::objects(&bucket.path(), &mut found);
    let key = |path: &Path| path.strip_prefix(bucket.path()).unwrap().to_str().unwrap().to_owned();
    found.into_iter().map(|path| (key(&path), path)).collect()
}

/// What nothing proves, so that any change of it may go unnoticed, or shows elsewhere.
fn is_proven(key: &str) -> bool {
    // A number, and the checksum of frames that are not kept.
    !key.ends_with("/.consistent")
}

/// Whether the content has a checksum: SQLite's files have none, and zstd's is not written by these programs.
fn has_checksum(key: &str) -> bool {
    is_proven(key) && !key.ends_with("/db.raw") && !key.ends_with("/db.zstd") && !key.ends_with(".sqlite.zst")
}

/// The error tells where: the object, or what is missing and after which one.
fn assert_tells_where(error: &MigrateError, key: &str, what: &str) {
    let directory = key.split('/').next().unwrap();
    let tells = match error {
        MigrateError::Damaged { key: named, reason, .. } => {
            // Of two that do not go together it names one.
            let fits =
                ["continue", ".meta", "of another WAL", "page 1 counts", "pages were ever", "before it ends"];
            named.as_str() == key || fits.iter().any(|fits| reason.contains(fits))
        }
        MigrateError::Missing { after, .. } => after.starts_with(directory),
        MigrateError::Broken { prefix, .. } => prefix.split('/').next() == Some(directory),
        MigrateError::Integrity { .. }
        | MigrateError::NoGeneration { .. }
        | MigrateError::NoBackup { .. } => true,
        _ => false,
    };
    assert!(tells, "{what}: {error}");
}

/// Runs every command after each change to each object, which is undone again. `changed` makes the changes: paths are written
/// or, with `None`, removed.
async fn every_command(
    what: &str,
    commands: &[Command],
    mut changes: impl FnMut(&Bucket, &Bucket, &str, &[u8]) -> Vec<(String, Option<Vec<u8>>)>,
    may_be: impl Fn(&Life, &str, &[u8]) -> bool,
) {
    for (format, build) in FORMATS {
        let (ours, theirs) = (Life::new(40), Life::new(61));
        let (bucket, other) = (build(&ours), build(&theirs));
        for command in commands {
            if let Some(file) = command.run(&bucket).await.unwrap_or_else(|e| panic!("{format}: {e}")) {
                assert!(&file == ours.states.last().unwrap(), "{format}, {command:?}: untouched");
            }
        }
        for (key, path) in objects(&bucket) {
            let content = fs::read(&path).unwrap();
            for (n, (changed, bytes)) in changes(&bucket, &other, &key, &content).into_iter().enumerate() {
                let target = bucket.path().join(&changed);
                match &bytes {
                    Some(bytes) => bucket.put(&changed, bytes),
                    None => fs::remove_file(&target).unwrap(),
                }
                for command in commands {
                    let what = format!("{format}, {command:?}: {what} {n} of {key}");
                    match command.run(&bucket).await {
                        Ok(Some(file)) => assert!(may_be(&ours, &key, &file), "{what}: another database"),
                        Ok(None) => {}
                        Err(error) => assert_tells_where(&error, &key, &what),
                    }
                }
                if changed != key {
                    fs::remove_file(&target).unwrap();
                }
                fs::write(&path, &content).unwrap();
            }
        }
    }
}

fn is_whole(life: &Life, key: &str, file: &[u8]) -> bool {
    !has_checksum(key) || life.states.last().unwrap() == file
}

fn is_a_state(life: &Life, key: &str, file: &[u8]) -> bool {
    !is_proven(key) || life.states.iter().any(|state| state == file)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_cut_off_is_told_by_every_command() {
    let cut = |_: &Bucket, _: &Bucket, key: &str, content: &[u8]| {
        let ends = [0, content.len() / 2, content.len() - 1];
        ends.iter().map(|end| (key.to_owned(), Some(content[..*end].to_vec()))).collect()
    };
    every_command("end", &COMMANDS, cut, is_whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_told_by_every_command() {
    let flip = |_: &Bucket, _: &Bucket, key: &str, content: &[u8]| {
        let at = [0, content.len() / 3, content.len() - 1];
        let flipped = at.iter().map(|at| {
            let mut content = content.to_vec();
            content[*at] ^= 0x10;
            (key.to_owned(), Some(content))
        });
        flipped.collect()
    };
    every_command("bit", &COMMANDS, flip, is_whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_missing_is_told_by_every_command() {
    let gone = |_: &Bucket, _: &Bucket, key: &str, _: &[u8]| vec![(key.to_owned(), None)];
    // Without the last one it is what it was before that.
    every_command("loss", &COMMANDS, gone, is_a_state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_there_twice_changes_nothing_or_is_told_by_every_command() {
    let twice = |_: &Bucket, _: &Bucket, key: &str, content: &[u8]| {
        let mut copies = vec![(key.to_owned(), Some([content, content].concat()))];
        let (directory, name) = key.rsplit_once('/').unwrap();
        // As another upload of the same, or under the next name that there may be.
        let kind = name.split_once('.').map_or("", |(_, kind)| kind);
        let other = match kind {
            "ltx" => Some(format!("ltx/1/{name}")),
            "wal.lz4" => Some(format!("{directory}/00000007_00000000.wal.lz4")),
            "snapshot.lz4" => Some(format!("{directory}/00000001.snapshot.lz4")),
            "wal.zst" => Some(format!("{directory}/{:020}.wal.zst", 1)),
            // A batch.
            _ => name.rsplit_once('-').map(|(run, _)| format!("{directory}/{run}-1999999999.{kind}")),
        };
        copies.extend(other.map(|other| (other, Some(content.to_vec()))));
        copies
    };
    every_command("copy", &[Command::Verify, Command::Import, Command::Ls], twice, is_whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_database_is_told_by_who_checks() {
    // Restore alone cannot tell: a snapshot, a WAL, or an LTX file as Litestream writes them, prove nothing about others.
    let mixed = |bucket: &Bucket, other: &Bucket, key: &str, content: &[u8]| {
        let at = objects(bucket).iter().position(|(ours, _)| ours == key).unwrap();
        let theirs = objects(other);
        let same =
            theirs.iter().find(|(theirs, _)| theirs == key).or_else(|| theirs.get(at)).or(theirs.last());
        let theirs = fs::read(&same.unwrap().1).unwrap();
        if theirs == content { vec![] } else { vec![(key.to_owned(), Some(theirs))] }
    };
    every_command("place", &[Command::Verify, Command::Import, Command::Ls], mixed, is_a_state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_decompresses_to_far_more_is_told_by_every_command() {
    let zeros = vec![0; 1 << 20];
    let bomb = |_: &Bucket, _: &Bucket, key: &str, content: &[u8]| {
        let packed = match key.rsplit_once('.').map(|(_, kind)| kind) {
            Some("gz") => Kind::Gz.pack(&zeros),
            Some("zstd" | "zst") => Kind::Zstd.pack(&zeros),
            Some("lz4") => crate::generator::lz4(&zeros),
            _ => zeros.clone(),
        };
        // In its place, and behind it.
        vec![(key.to_owned(), Some(packed.clone())), (key.to_owned(), Some([content, &packed].concat()))]
    };
    every_command("bomb", &COMMANDS, bomb, is_whole).await;
}

#[test]
fn the_life_that_is_kept_has_moments_that_differ() {
    let life = Life::new(40);
    assert_eq!(life.states.len(), 5);
    for pair in life.states.windows(2) {
        assert!(pair[0] != pair[1]);
    }
    let (file, wal) = &life.wals[1];
    assert!(image(file, &wal.bytes) == *life.states.last().unwrap());
}
