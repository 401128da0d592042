//! Damaged buckets: an error that names the object, or the very database; never another one, and no file that is half made.

use std::fs;
use std::path::{Path, PathBuf};

use aquifer_migrate::MigrateError;

use crate::bucket::Bucket;

/// Places in each object where a bit is flipped.
const FLIPS: usize = 8;

pub(crate) fn objects(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { objects(&path, found) } else { found.push(path) }
    }
    found.sort();
}

/// Restores after each of the changes to each object, which is put back again.
async fn damage(name: &str, changes: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
    let bucket = Bucket::new(name);
    let (_, whole) = bucket.restore(bucket.restorer()).await.unwrap();
    let mut found = Vec::new();
    objects(&bucket.path(), &mut found);
    let mut errors = 0;
    for object in found {
        let key = object.strip_prefix(bucket.path()).unwrap().to_str().unwrap();
        // The position of the last commit is all that it says, and nothing proves that.
        if key.ends_with(".consistent") {
            continue;
        }
        let content = fs::read(&object).unwrap();
        let modified = fs::metadata(&object).unwrap().modified().unwrap();
        let write = |content: &[u8]| {
            fs::write(&object, content).unwrap();
            fs::File::options().write(true).open(&object).unwrap().set_modified(modified).unwrap();
        };
        for (n, damaged) in changes(&content).into_iter().enumerate() {
            write(&damaged);
            match bucket.restore(bucket.restorer().integrity_check(false)).await {
                Ok((_, restored)) => {
                    assert!(restored == whole, "{name}: {key}, change {n}: another database");
                }
                Err(MigrateError::Damaged { key: named, reason, .. }) => {
                    // The seed of the checksums, and the salts, show to be wrong where they do not fit something else.
                    let shows_later = reason.contains(".meta") || reason.contains("of another WAL");
                    let is_named = named.as_str() == key || shows_later;
                    assert!(is_named, "{name}: {key}, change {n}: {named}: {reason}");
                    errors += 1;
                }
                Err(error) => panic!("{name}: {key}, change {n}: {error}"),
            }
        }
        write(&content);
    }
    assert!(errors > 10, "{name}: {errors}");
}

/// Those whose bytes have checksums. zlayer's snapshots have none.
const PROVEN: [&str; 6] = [
    "bottomless-frames",
    "bottomless-frames-reopened",
    "bottomless-server-zstd",
    "litestream-0.3",
    "litestream-0.5",
    "litestream-0.5.5",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_and_its_object_named() {
    for name in PROVEN {
        let flips = |content: &[u8]| {
            let step = content.len().div_ceil(FLIPS).max(1);
            let at = (0..content.len()).step_by(step);
            at.map(|at| {
                let mut damaged = content.to_vec();
                damaged[at] ^= 1 << (at % 8);
                damaged
            })
            .collect()
        };
        damage(name, flips).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_cut_off_or_goes_on_is_found_and_named() {
    for name in PROVEN {
        let cuts = |content: &[u8]| {
            let len = content.len();
            let mut changed: Vec<Vec<u8>> = [0, 1, len / 3, len.saturating_sub(5), len - 1]
                .iter()
                .map(|n| content[..(*n).min(len)].to_vec())
                .collect();
            changed.push([content, b"more"].concat());
            changed.push([content, content].concat());
            changed
        };
        damage(name, cuts).await;
    }
}
