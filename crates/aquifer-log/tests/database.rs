//! How a writer extends a database's log, and what a reader sees of it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod stores;

use aquifer_format::segment::{CompressionLevel, GroupScratch, SegmentEncoder, SegmentInfo, SegmentMeta};
use aquifer_format::{
    DbChecksum, GenerationId, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce,
};
use aquifer_log::{DatabaseName, DatabaseStore, GenerationRecord, Level, SegmentKey, Shipped, Store};
use bytes::Bytes;
use futures::TryStreamExt;

use stores::each_store;

fn database(store: &Store, name: &str) -> DatabaseStore {
    DatabaseStore::new(store.clone(), name.parse().unwrap())
}

/// A segment of `pages` images that no codec makes smaller.
fn segment(txid: u64, pages: u32, writer: WriterNonce) -> (SegmentInfo, Bytes) {
    let mut encoder = SegmentEncoder::new(PageSize::DEFAULT, CompressionLevel::SHIP);
    let mut checksum_after = DbChecksum::EMPTY;
    let mut state = txid;
    for pgno in Pgno::up_to(pages) {
        let page: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(4096)
        .collect();
        let hash = PageHash::of(pgno, &page);
        checksum_after.toggle(hash);
        encoder.push_image(pgno, &page, hash);
    }
    let meta = SegmentMeta {
        page_size: PageSize::DEFAULT,
        range: TxidRange::one(Txid::new(txid)),
        size_before: 0,
        size_after: pages,
        checksum_before: DbChecksum::EMPTY,
        checksum_after,
        commits: 1,
        first_commit: Timestamp::from_millis(1),
        last_commit: Timestamp::from_millis(2),
        writer,
    };
    let mut object = std::mem::take(encoder.output());
    let finished = encoder.finish(&meta).unwrap();
    object.extend_from_slice(&finished.tail);
    (finished.info, Bytes::from(object))
}

async fn begin(database: &DatabaseStore, writer: WriterNonce) -> GenerationId {
    database.create_generation(GenerationRecord::new(PageSize::DEFAULT, writer)).await.unwrap().id
}

#[tokio::test]
async fn the_newest_generation_is_found_whatever_the_clock_did() {
    each_store(async |store| {
        let db = database(&store, "team/app.db");
        let writer = WriterNonce::random();
        let mut made = Vec::new();
        for millis in [5_000, 9_000, 9_000, 1_000, 20_000] {
            let mut record = GenerationRecord::new(PageSize::DEFAULT, writer);
            record.created_at = Timestamp::from_millis(millis);
            made.push(db.create_generation(record.clone()).await.unwrap());
            let latest = db.latest_generation().await.unwrap().unwrap();
            assert_eq!(Some(&latest), made.last());
            assert_eq!(latest.record, record);
        }
        db.set_owner(&aquifer_log::OwnerRecord {
            host: "h".to_owned(),
            url: None,
            server: None,
            epoch: 3,
            since: Timestamp::from_millis(0),
            writer,
        })
        .await
        .unwrap();
        assert_eq!(db.owner().await.unwrap().unwrap().epoch, 3);

        let ids: Vec<_> = db.generation_ids().try_collect().await.unwrap();
        made.reverse();
        assert_eq!(ids, made.iter().map(|g| g.id).collect::<Vec<_>>());

        // One whose removal was interrupted has no record any more.
        let (info, object) = segment(1, 1, writer);
        assert!(db.put_level0(ids[0], &info, object).await.unwrap().is_committed());
        store.delete(&db.layout().generation_record(ids[0])).await.unwrap();
        assert_eq!(db.latest_generation().await.unwrap().unwrap(), made[1]);

        let names: Vec<DatabaseName> = DatabaseStore::list(&store).try_collect().await.unwrap();
        assert_eq!(names, ["team/app.db".parse().unwrap()]);
    })
    .await;
}

#[tokio::test]
async fn a_txid_has_one_writer_and_the_other_is_told_who() {
    each_store(async |store| {
        let db = database(&store, "app.db");
        let (ours, theirs) = (WriterNonce::random(), WriterNonce::random());
        let generation = begin(&db, ours).await;
        let (info, object) = segment(1, 3, ours);
        assert_eq!(db.put_level0(generation, &info, object.clone()).await.unwrap(), Shipped::Committed);
        // An answer was lost: the same again.
        assert_eq!(db.put_level0(generation, &info, object).await.unwrap(), Shipped::Committed);

        let (other, object) = segment(1, 3, theirs);
        match db.put_level0(generation, &other, object).await.unwrap() {
            Shipped::Fenced(meta) => assert_eq!(*meta, *info.meta()),
            Shipped::Committed => panic!("two writers committed txid 1"),
        }
        let stored = db.open_segment(generation, SegmentKey::shipped(Txid::FIRST)).await.unwrap();
        assert_eq!(stored.info(), &info);
    })
    .await;
}

#[tokio::test]
async fn segments_list_in_order_and_open_with_what_is_wanted() {
    each_store(async |store| {
        let db = database(&store, "app.db");
        let writer = WriterNonce::random();
        let generation = begin(&db, writer).await;
        let mut infos = Vec::new();
        for txid in 1..=20 {
            let pages = if txid == 7 { 200 } else { 1 };
            let (info, object) = segment(txid, pages, writer);
            db.put_level0(generation, &info, object).await.unwrap();
            infos.push(info);
        }
        let stray = db.layout().level(generation, Level::Shipped).key("notes.txt");
        store.put(&stray, "not ours").await.unwrap();
        let listed: Vec<_> =
            db.segments(generation, Level::Shipped, Txid::new(5)).try_collect().await.unwrap();
        let txids: Vec<_> = listed.iter().map(|s| s.segment.range.first.get()).collect();
        assert_eq!(txids, (6..=20).collect::<Vec<_>>());

        let before = store.counts();
        let small = db.open_segment(generation, SegmentKey::shipped(Txid::new(3))).await.unwrap();
        assert_eq!(small.info(), &infos[2]);
        small.fetch(0..1).await.unwrap();
        assert_eq!((store.counts() - before).total(), 1, "a small segment is read with one request");

        let before = store.counts();
        let large = db.open_segment(generation, SegmentKey::shipped(Txid::new(7))).await.unwrap();
        let groups = large.info().groups().len();
        assert!(groups > 10, "{groups}");
        let mut scratch = GroupScratch::new();
        let mut next = 1;
        let pieces = large.pieces(0..groups, 200_000);
        for piece in &pieces {
            let fetched = large.fetch(piece.clone()).await.unwrap();
            assert!(fetched.len() <= 200_000);
            for number in fetched.numbers() {
                let group = fetched.decode(number, &mut scratch).unwrap();
                for entry in group.entries() {
                    assert_eq!(entry.pgno.get(), next);
                    next += 1;
                }
                scratch.recycle(group);
            }
        }
        assert_eq!(next, 201);
        large.check_ends().await.unwrap();
        assert!(pieces.len() < groups, "{pieces:?}");
        assert_eq!((store.counts() - before).get, 1 + pieces.len() as u64 + 1);
    })
    .await;
}
