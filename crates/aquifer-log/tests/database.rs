//! How a writer extends a database's log, and what a reader sees of it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod stores;

use aquifer_format::segment::{CompressionLevel, GroupScratch, SegmentEncoder, SegmentInfo, SegmentMeta};
use aquifer_format::{
    DbChecksum, GenerationId, PageHash, PageSize, Pgno, Timestamp, Txid, TxidRange, WriterNonce,
};
use aquifer_log::layout::ObjectKind;
use aquifer_log::{
    DatabaseName, DatabaseStore, Generation, GenerationRecord, Level, LogError, OwnerRecord, Scope,
    SegmentKey, Shipped, Store, Target, discard_unpublished, verify, verify_unpublished,
};
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
        frames: 0,
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
        // Claims beside them are no generations.
        assert!(db.claim(1, &claim(1)).await.unwrap());

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

#[tokio::test]
async fn a_large_segment_is_committed_with_a_companion_and_reads_the_same() {
    each_store(async |store| {
        let db = database(&store, "app.db");
        let writer = WriterNonce::random();
        let generation = begin(&db, writer).await;
        // Its groups need more than one part of an upload.
        let (info, object) = segment(1, 2_500, writer);
        let shipped = db.put_level0_large(generation, &info, &object[..]).await.unwrap();
        assert_eq!(shipped, Shipped::Committed);
        // An answer was lost: again, in either form.
        assert!(db.put_level0_large(generation, &info, &object[..]).await.unwrap().is_committed());
        assert!(db.put_level0(generation, &info, object.clone()).await.unwrap().is_committed());

        let handle = db.open_segment(generation, SegmentKey::shipped(Txid::FIRST)).await.unwrap();
        assert_ne!(handle.key(), handle.groups_key());
        assert_eq!(handle.info().meta(), info.meta());
        handle.check_ends().await.unwrap();
        let groups = 0..info.groups().len();
        let mut scratch = GroupScratch::new();
        for piece in handle.pieces(groups, 1 << 20) {
            let fetched = handle.fetch(piece).await.unwrap();
            for number in fetched.numbers() {
                let group = fetched.decode(number, &mut scratch).unwrap();
                scratch.recycle(group);
            }
        }
        let objects: Vec<_> = db.objects(generation, Level::Shipped, Txid::ZERO).try_collect().await.unwrap();
        let kinds: Vec<_> = objects.iter().map(|(kind, _)| *kind).collect();
        let segment_key = SegmentKey::shipped(Txid::FIRST);
        let companion = ObjectKind::Companion { segment: segment_key, writer };
        assert_eq!(kinds, [companion, ObjectKind::Segment(segment_key)]);

        // Too late for another writer, whatever it uploaded.
        let (other, object) = segment(1, 1, WriterNonce::random());
        let shipped = db.put_level0_large(generation, &other, &object[..]).await.unwrap();
        assert!(matches!(shipped, Shipped::Fenced(meta) if meta.writer == writer));

        // A staging file that lost its end is not shipped.
        let (next, object) = segment(2, 3, writer);
        let error = db.put_level0_large(generation, &next, &object[..object.len() / 2]).await.unwrap_err();
        assert!(matches!(error, LogError::Staged { .. }), "{error}");
        assert!(
            db.open_segment(generation, SegmentKey::shipped(Txid::new(2))).await.unwrap_err().is_not_found()
        );
    })
    .await;
}

#[tokio::test]
async fn damage_and_misplacement_are_said_with_the_objects_name() {
    each_store(async |store| {
        let db = database(&store, "app.db");
        let writer = WriterNonce::random();
        let generation = begin(&db, writer).await;
        let (info, object) = segment(1, 40, writer);
        let at = |txid| SegmentKey::shipped(Txid::new(txid));
        let place = async |txid, bytes: Bytes| {
            store.put(&db.layout().segment(generation, at(txid)), bytes).await.unwrap();
            db.open_segment(generation, at(txid)).await
        };
        // Renamed.
        let error = place(2, object.clone()).await.unwrap_err();
        assert!(matches!(error, LogError::Misplaced { found, .. } if found == info.meta().range), "{error}");
        // The end, the start, nothing, and something else.
        let mut damaged = object.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        for bytes in
            [damaged.into(), object.slice(..1000), Bytes::new(), Bytes::from_static(b"not a segment")]
        {
            let error = place(3, bytes).await.unwrap_err();
            assert!(matches!(error, LogError::Segment { .. }), "{error}");
            assert!(error.to_string().contains("0/0000000000000003.seg"), "{error}");
        }
        // A group: it opens, and the group says so when it is decoded.
        let group = info.groups()[1];
        let mut damaged = object.to_vec();
        damaged[group.offset as usize + 100] ^= 1;
        let handle = place(1, damaged.into()).await.unwrap();
        let fetched = handle.fetch(0..2).await.unwrap();
        let mut scratch = GroupScratch::new();
        fetched.decode(0, &mut scratch).unwrap();
        let error = fetched.decode(1, &mut scratch).unwrap_err();
        assert!(error.to_string().contains("group 1"), "{error}");
        // The object got shorter since it was opened.
        let handle = place(1, object.clone()).await.unwrap();
        store.put(handle.key(), object.slice(..2000)).await.unwrap();
        let error = handle.fetch(0..info.groups().len()).await.unwrap_err();
        assert!(matches!(error, LogError::Segment { .. }), "{error}");
    })
    .await;
}

fn claim(server: u128) -> OwnerRecord {
    OwnerRecord {
        server: uuid::Uuid::from_u128(server),
        host: "h".to_owned(),
        since: Timestamp::from_millis(0),
        released: false,
    }
}

#[tokio::test]
async fn of_servers_that_claim_a_database_at_once_one_gets_it() {
    each_store(async |store| {
        let db = database(&store, "app.db");
        assert_eq!(db.owner().await.unwrap(), None);
        for epoch in 1..4 {
            let claims = (0..5).map(|server| {
                let db = db.clone();
                async move { db.claim(epoch, &claim(server)).await.unwrap().then_some(server) }
            });
            let won: Vec<_> = futures::future::join_all(claims).await.into_iter().flatten().collect();
            assert_eq!(won.len(), 1, "{won:?}");
            let owner = db.owner().await.unwrap().unwrap();
            assert_eq!((owner.epoch, owner.record.clone()), (epoch, claim(won[0])));
            // The same claim again: an answer was lost.
            assert!(db.claim(epoch, &claim(won[0])).await.unwrap());
            db.release(&owner).await.unwrap();
            assert!(db.owner().await.unwrap().unwrap().record.released);
        }
        let claims: Vec<_> = store.list(&db.layout().owners(), None).try_collect().await.unwrap();
        assert_eq!(claims.len(), 1, "{claims:?}");
    })
    .await;
}

#[tokio::test]
async fn an_epoch_that_was_long_ago_is_nobodys_again() {
    each_store(async |store| {
        let db = database(&store, "app.db");
        for epoch in 1..4 {
            assert!(db.claim(epoch, &claim(1)).await.unwrap());
        }
        // It looked when there was no claim, and stood still since: the name is free.
        assert!(!db.claim(1, &claim(2)).await.unwrap());
        assert_eq!(db.owner().await.unwrap().unwrap().epoch, 3);
    })
    .await;
}

#[tokio::test]
async fn what_was_never_published_can_be_proven_and_discarded_and_a_generation_cannot() {
    each_store(async |store| {
        let (db, writer) = (database(&store, "x"), WriterNonce::random());
        let record = GenerationRecord::new(PageSize::DEFAULT, writer);
        let id = GenerationId::new(record.created_at);
        for (txid, is_whole) in [(1, true), (2, false)] {
            let (info, object) = segment(txid, 3, writer);
            db.put_level0(id, &info, object).await.unwrap();
            let generation = Generation { id, record: record.clone() };
            // The second does not continue the first.
            assert_eq!(verify_unpublished(&db, &generation).await.is_ok(), is_whole);
            assert!(verify(&db, Some(id), Target::Latest, Scope::All, |_| {}).await.is_err());
        }
        assert_eq!(discard_unpublished(&db, id).await.unwrap(), 2);
        assert_eq!(db.generation_ids().try_collect::<Vec<_>>().await.unwrap(), []);

        let published = begin(&db, writer).await;
        let (info, object) = segment(1, 3, writer);
        db.put_level0(published, &info, object).await.unwrap();
        assert_eq!(discard_unpublished(&db, published).await.unwrap(), 0);
        verify(&db, Some(published), Target::Latest, Scope::All, |_| {}).await.unwrap();
    })
    .await;
}
