//! Content whose checksums are right, and that is wrong all the same, or is more than a transaction.

use aquifer_migrate::Target;

use crate::bucket::Bucket;
use crate::generated::{assert_same, restored};
use crate::generator::{Generation, Kind, Ltx};
use crate::hostile::{assert_names, refused, small};
use crate::live::{FRAME_HEADER, Live, WAL_HEADER, image};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_holds_the_frames_that_its_name_says_and_no_more() {
    let (live, generation) = (small(4096), Generation::begun(0));
    let last = live.wal().frames().len();
    for kind in Kind::ALL {
        let bucket = Bucket::empty();
        let key = generation.key(&generation.batch(&bucket, &live.wal(), (1, last), 1, kind));
        for says in [last - 1, last + 1] {
            let lies = key.replace(&format!("{last:012}"), &format!("{says:012}"));
            std::fs::rename(bucket.path().join(&key), bucket.path().join(&lies)).unwrap();
            assert_names(&refused(&bucket).await, &lies);
            std::fs::rename(bucket.path().join(&lies), bucket.path().join(&key)).unwrap();
        }
        assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "its own name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_within_a_run_is_where_it_ends() {
    let (bucket, live, generation) = (Bucket::empty(), small(4096), Generation::begun(0));
    let wal = live.wal();
    generation.batch(&bucket, &wal, (1, wal.frames().len()), 1, Kind::Zstd);
    for commit in wal.commits() {
        // The frames after a commit are of a transaction that is not done by then.
        for position in [commit, commit + 1] {
            let file = restored(&bucket, Target::Position(position as u64)).await;
            assert_same(&file, &image(&live.file(), &wal.up_to(commit)), &format!("at {position}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_page_0_is_refused() {
    let (bucket, live, generation) = (Bucket::empty(), small(4096), Generation::begun(0));
    let mut wal = live.wal();
    wal.bytes[WAL_HEADER + FRAME_HEADER + 4096..][..4].fill(0);
    wal.sum(false);
    let names = generation.batches(&bucket, &wal, Kind::Raw);
    assert_names(&refused(&bucket).await, &generation.key(&names[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_parent_had_not_committed_is_not_committed_by_its_child() {
    let live = Live::new(512);
    live.insert(20, 200);
    let base = live.wal().up_to(*live.wal().commits().last().unwrap());
    live.sql("UPDATE t SET v = randomblob(200)");
    let wal = live.wal();
    // The process was gone before the transaction's last frame was shipped. Another went on from what was committed.
    let child = Live::after(&image(&live.file(), &base), 512);
    child.insert(1, 10);
    let (bucket, parent, generation) = (Bucket::empty(), Generation::begun(0), Generation::begun(100));
    parent.batch(&bucket, &wal, (1, wal.frames().len() - 1), 1, Kind::Gz);
    generation.batches(&bucket, &child.wal(), Kind::Gz);
    generation.parent(&bucket, &parent);
    assert_same(&restored(&bucket, Target::Latest).await, &child.image(), "the child");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ltx_file_of_a_kind_that_is_not_known_is_refused() {
    let live = small(512);
    let whole = Ltx::between(&[], &live.image(), 512, 1);
    // Flags that there may be one day; pages in another order, twice, or beyond the end.
    let flags = [1, 4, 1 << 31].map(|flags| Ltx { flags, ..whole.clone() });
    let beyond = Ltx { commit: whole.commit - 1, flags: 2, ..whole.clone() };
    for file in flags.iter().chain([&beyond]) {
        let bucket = Bucket::empty();
        let key = file.put(&bucket, 0);
        assert_names(&refused(&bucket).await, &key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ltx_file_under_the_name_of_another_is_refused() {
    let live = small(512);
    let mut states = vec![live.image()];
    for _ in 0..3 {
        live.insert(3, 300);
        states.push(live.image());
    }
    let bucket = Bucket::empty();
    let mut keys = vec![Ltx { flags: 2, ..Ltx::between(&[], &states[0], 512, 1) }.put(&bucket, 0)];
    for n in 1..4 {
        let file = Ltx { flags: 2, ..Ltx::between(&states[n - 1], &states[n], 512, n as u64 + 1) };
        keys.push(file.put(&bucket, 0));
    }
    assert_same(&restored(&bucket, Target::Latest).await, &states[3], "as they were");
    std::fs::copy(bucket.path().join(&keys[1]), bucket.path().join(&keys[2])).unwrap();
    assert_names(&refused(&bucket).await, &keys[2]);
}
