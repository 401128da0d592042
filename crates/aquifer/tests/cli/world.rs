//! A directory with databases and stores, in which the program is run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aquifer_format::segment::{CompressionLevel, SegmentEncoder, SegmentMeta};
use aquifer_format::{
    DbChecksum, GenerationId, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce,
};
use aquifer_log::{DatabaseStore, GenerationRecord, Store, StoreUrl};
use aquifer_testkit::app::{AppOptions, AppProcess, Language};
use bytes::Bytes;
use serde_json::Value;

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Its stdout as JSON, having ended with this code.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks that it did what it should.
    pub(crate) fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        World { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program in this directory, without a terminal and without settings from outside.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[])
    }

    pub(crate) fn run_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Ran {
        let output = self.command(args).envs(environment.iter().copied()).output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        for variable in ["AQUIFER_STORE", "AQUIFER_CONFIG", "RUST_LOG", "AWS_ACCESS_KEY_ID"] {
            command.env_remove(variable);
        }
        command
    }

    /// Makes a database with so many transactions of an application, closed.
    pub(crate) fn database(&self, file: &str, transactions: u64) -> PathBuf {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut app = AppProcess::start(Language::Rust, &path, &AppOptions::default()).unwrap();
        app.commit(transactions).unwrap();
        app.quit().unwrap();
        path
    }

    /// Puts a database file into a store as a generation of `txids` batches: the first with all pages, the others
    /// without any.
    pub(crate) fn ship(&self, store: &str, name: &str, file: &Path, txids: u64) -> GenerationId {
        let store = Store::open(&StoreUrl::directory(self.path(store))).unwrap();
        let database = DatabaseStore::new(store, name.parse().unwrap());
        let content = std::fs::read(file).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let writer = WriterNonce::random();
            let record = GenerationRecord::new(PageSize::DEFAULT, writer);
            let generation = database.create_generation(record).await.unwrap().id;
            let pages = content.chunks_exact(4096);
            let size = pages.len() as u32;
            let mut checksum = DbChecksum::EMPTY;
            for txid in 1..=txids {
                let mut encoder = SegmentEncoder::new(PageSize::DEFAULT, CompressionLevel::SHIP);
                let checksum_before = checksum;
                if txid == 1 {
                    for (pgno, page) in Pgno::up_to(size).zip(pages.clone()) {
                        let hash = PageHash::of(pgno, page);
                        checksum.toggle(hash);
                        encoder.push_image(pgno, page, hash);
                    }
                }
                let meta = SegmentMeta {
                    page_size: PageSize::DEFAULT,
                    range: TxidRange::one(Txid::new(txid)),
                    size_before: if txid == 1 { 0 } else { size },
                    size_after: size,
                    checksum_before,
                    checksum_after: checksum,
                    commits: 1,
                    frames: 0,
                    first_commit: Timestamp::now(),
                    last_commit: Timestamp::now(),
                    writer,
                };
                let mut object = std::mem::take(encoder.output());
                let finished = encoder.finish(&meta).unwrap();
                object.extend_from_slice(&finished.tail);
                let shipped =
                    database.put_level0(generation, &finished.info, Bytes::from(object)).await.unwrap();
                assert!(shipped.is_committed());
            }
            generation
        })
    }
}

/// Every file under a directory with its content, by its path there.
pub(crate) fn files(root: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Flips a bit among the pages of the first segment of a database's newest generation.
pub(crate) fn damage(world: &World, name: &str) {
    let json = world.run(&["ls", name, "--json"]).ok().json();
    let generation = json["generations"][0]["generation"].as_str().unwrap();
    let segment = format!("aquifer-data/{name}/{generation}/0/0000000000000001.seg");
    let mut bytes = std::fs::read(world.path(&segment)).unwrap();
    bytes[200] ^= 1;
    std::fs::write(world.path(&segment), bytes).unwrap();
}
