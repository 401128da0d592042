//! Content whose checksums are right, and that is wrong all the same, or is more than a transaction.

use aquifer_migrate::Target;

use crate::bucket::Bucket;
use crate::generated::{assert_same, restored};
use crate::generator::{Generation, Kind, Ltx, put_03};
use crate::hostile::{assert_names, every_format, refused, small};
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
    // What there may be one day; pages beyond the end, in another order, or twice; and what follows the end.
    let mut wrong = vec![
        Ltx { magic: *b"LTX2", ..whole.clone() }.encode(),
        Ltx { page_flags: 3, ..whole.clone() }.encode(),
        Ltx { commit: whole.commit - 1, flags: 2, ..whole.clone() }.encode(),
    ];
    wrong.extend([1, 4, 1 << 31].map(|flags| Ltx { flags, ..whole.clone() }.encode()));
    let ascending: Vec<u32> = whole.pages.keys().copied().collect();
    let descending = ascending.iter().rev().copied().collect();
    for order in [descending, [&ascending[..], &ascending[..1]].concat(), ascending.repeat(2)] {
        wrong.push(whole.encode_in_order(&order));
    }
    wrong.push([whole.encode(), vec![0]].concat());
    let bucket = Bucket::empty();
    let key = whole.put(&bucket, 0);
    for (n, file) in wrong.iter().enumerate() {
        bucket.put(&key, file);
        let found = bucket.restore(bucket.restorer().integrity_check(false)).await;
        assert_names(&found.err().unwrap_or_else(|| panic!("{n}")), &key);
    }
    bucket.put(&key, &whole.encode());
    assert_same(&restored(&bucket, Target::Latest).await, &live.image(), "as it should be");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_first_page_that_counts_pages_that_are_not_there_is_refused() {
    let (bucket, live, generation) = (Bucket::empty(), small(4096), Generation::begun(0));
    let mut wal = live.wal();
    let pages = live.image().len() / 4096;
    let first = wal.frames().iter().rposition(|frame| frame[..4] == [0, 0, 0, 1]).unwrap();
    let counts = WAL_HEADER + first * (FRAME_HEADER + 4096) + FRAME_HEADER + 28;
    wal.bytes[counts..counts + 4].copy_from_slice(&(pages as u32 + 2).to_be_bytes());
    generation.snapshot(&bucket, Kind::Gz, &live.file());
    generation.pages(&bucket, &wal, &[]);
    let error = refused(&bucket).await;
    assert!(error.to_string().contains(&format!("counts {} pages", pages + 2)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_what_an_object_holds() {
    let (formats, whole) = every_format();
    for (name, bucket) in formats {
        let mut found = Vec::new();
        crate::damage::objects(&bucket.path(), &mut found);
        // Of the frames of one page only the newest is read.
        let pgno = |object: &std::path::PathBuf| {
            let object = object.file_name().unwrap().to_str().unwrap().to_owned();
            object.split('-').nth(1).filter(|_| name == "pages").map(str::to_owned)
        };
        let is_read = |at: usize| {
            let of = pgno(&found[at]);
            of.is_none() || !found[at + 1..].iter().any(|newer| pgno(newer) == of)
        };
        for (_, object) in found.iter().enumerate().filter(|(at, _)| is_read(*at)) {
            let key = object.strip_prefix(bucket.path()).unwrap().to_str().unwrap();
            let content = std::fs::read(object).unwrap();
            for more in [b"more than there is".to_vec(), vec![b'x'; 300 << 10]] {
                std::fs::write(object, [&content[..], &more].concat()).unwrap();
                match bucket.restore(bucket.restorer().integrity_check(false)).await {
                    Ok(_) => panic!("{name}: {} more bytes of {key}", more.len()),
                    Err(error) => assert_names(&error, key),
                }
            }
            std::fs::write(object, &content).unwrap();
        }
        assert_same(&restored(&bucket, Target::Latest).await, &whole, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_without_a_header_is_refused() {
    let live = small(4096);
    let key = "generations/0123456789abcdef/wal/00000000_00000000.wal.lz4";
    for len in [0, 10, WAL_HEADER - 1] {
        let bucket = Bucket::empty();
        put_03(&bucket, "snapshots/00000000.snapshot", &live.file());
        put_03(&bucket, "wal/00000000_00000000.wal", &live.wal().bytes[..len]);
        assert_names(&refused(&bucket).await, key);
    }
}
