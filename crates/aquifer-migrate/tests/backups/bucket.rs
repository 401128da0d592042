//! Buckets that original programs wrote.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use aquifer_log::Store;
use aquifer_migrate::{MigrateError, Origin, Restored, Restorer};
use aquifer_testkit::fault_store::FaultStore;
use object_store::ObjectStoreExt as _;
use serde_json::Value;

/// A copy of a bucket that an original wrote, its objects as old as they were there.
pub(crate) struct Bucket {
    dir: tempfile::TempDir,
    /// What the original says is in it.
    pub(crate) expected: Value,
}

impl Bucket {
    pub(crate) fn new(name: &str) -> Bucket {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let dir = tempfile::tempdir().unwrap();
        let bucket = dir.path().join("bucket");
        if let Ok(objects) = fs::read_to_string(from.join("bucket.tsv")) {
            for line in objects.lines() {
                let (key, base64) = line.split_once('\t').unwrap();
                let path = bucket.join(key);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, decode(base64)).unwrap();
            }
        } else {
            copy(&from.join("bucket"), &bucket);
        }
        for line in fs::read_to_string(from.join("mtimes.tsv")).unwrap_or_default().lines() {
            let mut fields = line.split('\t');
            let (key, nanos) = (fields.next().unwrap(), fields.next().unwrap());
            let modified = UNIX_EPOCH + Duration::from_nanos(nanos.parse().unwrap());
            let file = File::options().write(true).open(bucket.join(key)).unwrap();
            file.set_times(FileTimes::new().set_modified(modified)).unwrap();
        }
        let expected = serde_json::from_slice(&fs::read(from.join("expected.json")).unwrap()).unwrap();
        Bucket { dir, expected }
    }

    /// One without objects.
    pub(crate) fn empty() -> Bucket {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bucket")).unwrap();
        Bucket { dir, expected: Value::Null }
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        let path = self.path().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Makes an object as old as this, in seconds since 1970.
    pub(crate) fn written_at(&self, key: &str, seconds: i64) {
        self.written_at_millis(key, seconds * 1000);
    }

    /// The same in milliseconds.
    pub(crate) fn written_at_millis(&self, key: &str, millis: i64) {
        let modified = UNIX_EPOCH + Duration::from_millis(millis as u64);
        let file = File::options().write(true).open(self.path().join(key)).unwrap();
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
    }

    pub(crate) fn remove(&self, key: &str) {
        fs::remove_file(self.path().join(key)).unwrap();
    }

    /// Where its objects are.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.path().to_str().unwrap().parse().unwrap()).unwrap()
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("restored.db")
    }

    pub(crate) fn restorer(&self) -> Restorer {
        self.restorer_of(self.store())
    }

    /// From another store that has its objects.
    pub(crate) fn restorer_of(&self, store: Store) -> Restorer {
        Restorer::new(store, Origin::Auto, self.output()).integrity_check(true)
    }

    /// A copy in memory, before which faults can be put.
    pub(crate) async fn in_memory(&self) -> FaultStore {
        let (faults, mut found) = (FaultStore::in_memory(), Vec::new());
        crate::damage::objects(&self.path(), &mut found);
        for object in found {
            let key = object.strip_prefix(self.path()).unwrap().to_str().unwrap();
            faults.inner().put(&key.into(), fs::read(&object).unwrap().into()).await.unwrap();
        }
        faults
    }

    /// Restores, and takes the file away.
    pub(crate) async fn restore(&self, restorer: Restorer) -> Result<(Restored, Vec<u8>), MigrateError> {
        let restored = restorer.restore().await;
        let left: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        match restored {
            Ok(restored) => {
                assert_eq!(left.len(), 2, "{left:?}");
                let file = fs::read(self.output()).unwrap();
                fs::remove_file(self.output()).unwrap();
                Ok((restored.unwrap(), file))
            }
            Err(error) => {
                assert_eq!(left, ["bucket"], "after {error}");
                Err(error)
            }
        }
    }

    /// Restores, and compares with what the original restored.
    pub(crate) async fn compare(&self, restorer: Restorer, expected: &Value, what: &str) {
        let (restored, file) = self.restore(restorer).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(file.len() as u64, expected["bytes"].as_u64().unwrap(), "{what}: {restored:?}");
        assert_eq!(sha256(&file), expected["file_sha256"].as_str().unwrap(), "{what}: {restored:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn decode(base64: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}
