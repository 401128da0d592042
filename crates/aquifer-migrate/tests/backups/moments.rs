//! All generations imported: at every moment what is restored from the store is what is restored from the origin.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use aquifer_format::Timestamp;
use aquifer_migrate::{MigrateError, Origin, Target, find};
use proptest::prelude::*;

use crate::bucket::Bucket;
use crate::generator::{BEGUN, Generation, Kind, put_03_of};
use crate::histories::{Change, changes};
use crate::import::Import;
use crate::live::{FRAME_HEADER, Live, WAL_HEADER};

/// The moments around all that a bucket tells a time of, in milliseconds.
async fn moments(bucket: &Bucket) -> BTreeSet<i64> {
    let mut told = BTreeSet::new();
    let mut objects = Vec::new();
    crate::damage::objects(&bucket.path(), &mut objects);
    for object in objects {
        let modified = std::fs::metadata(&object).unwrap().modified().unwrap();
        told.insert(modified.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64);
        let name = object.file_name().unwrap().to_str().unwrap();
        let run = name.split_once('.').map(|(run, _)| run);
        if let Some(seconds) = run.and_then(|run| run.splitn(3, '-').nth(2)) {
            told.extend(seconds.parse::<i64>().ok().map(|seconds| seconds * 1000));
        }
    }
    for backup in find(&bucket.store(), Origin::Auto).await.unwrap() {
        told.extend(backup.created().map(Timestamp::as_millis));
    }
    told.iter().flat_map(|told| [told - 1, *told, told + 1]).collect()
}

/// What the origin has at a moment, if anything.
async fn of_origin(bucket: &Bucket, at: Timestamp) -> Option<Vec<u8>> {
    match bucket.restore(bucket.restorer().target(Target::Timestamp(at))).await {
        Ok((_, file)) => Some(file),
        Err(MigrateError::NoGeneration { .. }) => None,
        Err(error) => panic!("at {at}: {error}"),
    }
}

/// Imports all, and compares at these moments, or all of which something is told. How many generations it became, and how many
/// different databases there are.
pub(crate) async fn compare(bucket: &Bucket, most: usize) -> (usize, usize) {
    let import = Import::new(bucket, |importer| importer.all_generations(true)).await;
    assert!(import.imported.left_out.is_empty(), "{:?}", import.imported.left_out);
    let moments = moments(bucket).await;
    let step = moments.len().div_ceil(most).max(1);
    let mut found = BTreeSet::new();
    for at in moments.into_iter().rev().step_by(step).map(Timestamp::from_millis) {
        let (origin, ours) =
            (of_origin(bucket, at).await, import.try_at(aquifer_log::Target::Timestamp(at)).await);
        let len = |file: &Option<Vec<u8>>| file.as_ref().map(Vec::len);
        assert!(origin == ours, "at {at}: {:?}, expected {:?}", len(&ours), len(&origin));
        found.extend(ours);
    }
    let latest = bucket.restore(bucket.restorer()).await.unwrap().1;
    assert!(latest == import.at(aquifer_log::Target::Latest).await);
    (1 + import.imported.older.len(), found.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn originals_with_several_generations_are_one_history() {
    for (name, generations, states) in [
        ("bottomless-frames-two-generations", 2, 3),
        ("bottomless-frames-closed", 2, 3),
        ("litestream-0.3", 2, 15),
        ("litestream-0.3-64k", 2, 18),
        ("bottomless-server-zstd", 1, 8),
        ("litestream-0.5", 1, 15),
    ] {
        let bucket = Bucket::new(name);
        assert_eq!(compare(&bucket, usize::MAX).await, (generations, states), "{name}");
    }
}

/// A generation in the making.
#[derive(Debug, Clone)]
struct Made {
    changes: Vec<Change>,
    /// After the one before it, in milliseconds: clocks differ.
    begins: i64,
    /// Between its objects.
    apart: Vec<i64>,
    /// After its beginning.
    first: i64,
    has_snapshot: bool,
    /// How late the snapshot is.
    late: i64,
    says_parent: bool,
}

fn made() -> impl Strategy<Value = Vec<Made>> {
    let apart = prop::collection::vec(0..4_000i64, 4);
    let begins = prop_oneof![6 => 1..20_000i64, 1 => Just(0), 1 => -9_000..0i64];
    let flags = (any::<bool>(), any::<bool>());
    let one = (changes(), begins, apart, -1_500..3_000i64, flags, 0..9_000i64);
    let one = one.prop_map(|(changes, begins, apart, first, (has_snapshot, says_parent), late)| Made {
        changes,
        begins,
        apart,
        first,
        has_snapshot,
        late,
        says_parent,
    });
    prop::collection::vec(one, 2..5)
}

impl Made {
    /// When each of so many objects was written.
    fn times(&self, begun: i64, count: usize) -> Vec<i64> {
        let mut at = begun + self.first;
        let mut times = Vec::new();
        for apart in self.apart.iter().cycle().take(count) {
            times.push(at);
            at += apart;
        }
        times
    }
}

const START: i64 = BEGUN * 1000;

/// Does what each generation says, and hands over what there is of it then.
fn live_through(made: &[Made], mut put: impl FnMut(usize, &Made, i64, &Live)) {
    let live = Live::new(1024);
    let mut begun = START + 100_000;
    for (n, made) in made.iter().enumerate() {
        begun += made.begins;
        for change in &made.changes {
            change.sql(&live);
        }
        // So that there is something in each.
        live.insert(1, 10);
        put(n, made, begun, &live);
        live.checkpoint();
    }
}

/// The server's layout.
fn batches(made: &[Made]) -> Bucket {
    let bucket = Bucket::empty();
    let mut before: Option<Generation> = None;
    live_through(made, |n, made, begun, live| {
        let generation = Generation::begun_at(begun, n);
        // Of the first there is none: the database was empty.
        if n > 0 && (made.has_snapshot || !made.says_parent) {
            generation.snapshot(&bucket, Kind::Zstd, &live.file());
        }
        if let Some(before) = before.replace(generation.clone())
            && (made.says_parent || !made.has_snapshot)
        {
            generation.parent(&bucket, &before);
        }
        let (wal, mut first) = (live.wal(), 1);
        let commits = wal.commits();
        let times = made.times(begun, commits.len());
        for (last, time) in commits.into_iter().zip(times) {
            let seconds = time.div_euclid(1000) - BEGUN;
            generation.batch(&bucket, &wal, (first, last), seconds, Kind::Gz);
            first = last + 1;
        }
    });
    bucket
}

/// That of bottomless 0.1.
fn pages(made: &[Made]) -> Bucket {
    let bucket = Bucket::empty();
    live_through(made, |n, made, begun, live| {
        let generation = Generation::begun_at(begun, n);
        if n > 0 {
            generation.snapshot(&bucket, Kind::Gz, &live.file());
            bucket.written_at_millis(&generation.key("db.gz"), begun + made.late);
        }
        let names = generation.pages(&bucket, &live.wal(), &[]);
        let times = made.times(begun, names.len());
        for (name, time) in names.iter().zip(times) {
            bucket.written_at_millis(&generation.key(name), time);
        }
    });
    bucket
}

/// Litestream's: what was a WAL is cut at each commit.
fn litestream_03(made: &[Made]) -> Bucket {
    let bucket = Bucket::empty();
    let ids = ["b000000000000000", "a000000000000000", "c000000000000000", "0000000000000000"];
    live_through(made, |n, made, begun, live| {
        let written = |name: &str, content: &[u8], time: i64| {
            let key = put_03_of(&bucket, ids[n], name, content);
            bucket.written_at_millis(&key, time);
        };
        written("snapshots/00000003.snapshot", &live.file(), begun);
        let wal = live.wal();
        let commits = wal.commits();
        let times = made.times(begun, commits.len());
        let mut from = 0;
        for (commit, time) in commits.into_iter().zip(times) {
            let to = WAL_HEADER + commit * (FRAME_HEADER + live.page_size);
            written(&format!("wal/00000003_{from:08x}.wal"), &wal.bytes[from..to], time);
            from = to;
        }
        if made.has_snapshot {
            // Of the WAL that would come next.
            let time = made.times(begun, 9)[8].max(begun) + made.late;
            written("snapshots/00000004.snapshot", &live.image(), time);
        }
    });
    bucket
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn any_generations_are_one_history_whatever_their_clocks_say(made in made()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            for bucket in [batches(&made), pages(&made), litestream_03(&made)] {
                compare(&bucket, 24).await;
            }
        });
    }
}
