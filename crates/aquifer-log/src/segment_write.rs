//! Merged segments become one in the store.

use std::sync::Arc;

use aquifer_format::segment::{CompressionLevel, Form, SegmentEncoder, SegmentInfo, SegmentMeta};
use aquifer_format::{GenerationId, Pgno, WriterNonce};
use bytes::Bytes;
use object_store::PutPayload;

use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::layout::{Level, SegmentKey};
use crate::merge::{Merge, MergedPage, PageSink};
use crate::store::Upload;
use crate::whole::WholeCheck;

/// Encoded bytes that are collected before they are sent on.
const CHUNK: usize = 1 << 20;
/// A segment up to this size is one object, put with one request.
const ONE_OBJECT: u64 = 32 << 20;

/// A segment that is in the store now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its name.
    pub segment: SegmentKey,
    /// Its trailer and index; `None` if somebody else had written it already. That one says the same, maybe in
    /// other bytes.
    pub info: Option<Arc<SegmentInfo>>,
}

/// Writes what a merge yields under a name, unless there is such a segment: then that stays.
///
/// `bytes` is about how large it will be. After an error, and when the future was dropped, a companion may be
/// left that nothing refers to; retention sweeps it.
pub(crate) async fn write_merged(
    db: &DatabaseStore,
    generation: GenerationId,
    segment: SegmentKey,
    merge: Merge,
    bytes: u64,
) -> Result<Written, LogError> {
    write_merged_in_pieces(db, generation, segment, merge, bytes, ONE_OBJECT).await
}

/// As [`write_merged`], with another limit on the size of one object.
pub(crate) async fn write_merged_in_pieces(
    db: &DatabaseStore,
    generation: GenerationId,
    segment: SegmentKey,
    mut merge: Merge,
    bytes: u64,
    one_object: u64,
) -> Result<Written, LogError> {
    // A nonce of its own for each attempt: whatever another left behind or is just writing, is not touched.
    let meta = SegmentMeta { range: segment.range, writer: WriterNonce::random(), ..merge.meta().clone() };
    let mut sink = Some(SegmentSink::new(segment.level, &meta));
    let companion = db.layout().companion(generation, segment, meta.writer);
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut upload: Option<Upload> = None;
    loop {
        let done = merge.run(&mut sink).await?;
        let Some(encoding) = &mut sink else { unreachable!("given back") };
        let chunk = encoding.drain();
        if let Some(upload) = &mut upload {
            upload.write(chunk).await?;
        } else {
            chunks.push(chunk);
            if encoding.encoder.len() > one_object {
                let mut begun = db.store().upload(&companion, bytes);
                for chunk in std::mem::take(&mut chunks) {
                    begun.write(chunk).await?;
                }
                upload = Some(begun);
            }
        }
        if done {
            break;
        }
    }
    let Some(encoded) = sink else { unreachable!("given back") };
    let encoder = encoded.finish(&meta)?;
    let failed = |source| LogError::Encode { range: meta.range, source };
    let key = db.layout().segment(generation, segment);
    let (created, info) = if let Some(mut upload) = upload {
        let finished = encoder.finish_external(&meta).map_err(failed)?;
        upload.write(finished.companion_tail.into()).await?;
        upload.complete().await?;
        (db.store().create(&key, finished.segment).await?, finished.info)
    } else {
        let finished = encoder.finish(&meta).map_err(failed)?;
        chunks.push(finished.tail.into());
        (db.store().create(&key, chunks.into_iter().collect::<PutPayload>()).await?, finished.info)
    };
    if created.is_ours() {
        return Ok(Written { segment, info: Some(Arc::new(info)) });
    }
    if info.trailer().form == Form::External {
        // Nothing refers to it. Retention would find it too.
        db.store().delete(&companion).await?;
    }
    Ok(Written { segment, info: None })
}

/// Encodes pages. Those of a whole database are proven on the way: each against its hash, all against the checksum.
struct SegmentSink {
    encoder: SegmentEncoder,
    /// Bytes taken out of the encoder.
    drained: u64,
    whole: Option<WholeCheck>,
}

impl SegmentSink {
    fn new(level: Level, meta: &SegmentMeta) -> SegmentSink {
        // At level 0 it is the first batch of a copy.
        let is_whole = matches!(level, Level::Snapshot | Level::Shipped);
        let whole = is_whole.then(|| WholeCheck::new(meta));
        SegmentSink {
            encoder: SegmentEncoder::new(meta.page_size, CompressionLevel::KEEP),
            drained: 0,
            whole,
        }
    }

    fn drain(&mut self) -> Bytes {
        let chunk = std::mem::take(self.encoder.output());
        self.drained += chunk.len() as u64;
        chunk.into()
    }

    fn finish(mut self, meta: &SegmentMeta) -> Result<SegmentEncoder, LogError> {
        if let Some(whole) = self.whole.take() {
            whole.finish(meta)?;
        }
        Ok(self.encoder)
    }
}

impl PageSink for SegmentSink {
    fn page(&mut self, pgno: Pgno, page: MergedPage<'_>) -> Result<(), LogError> {
        if let Some(whole) = &mut self.whole {
            whole.add(pgno, &page)?;
        }
        match page {
            MergedPage::Entry(entry) => self.encoder.push_entry(&entry),
            MergedPage::Folded(folded) => self.encoder.push_folded(pgno, &folded),
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.encoder.len() >= self.drained + CHUNK as u64
    }
}

#[cfg(test)]
mod tests {
    use aquifer_format::{DbChecksum, PageHash, PageSize, Timestamp, Txid, TxidRange};

    use super::*;
    use crate::generation::GenerationRecord;
    use crate::layout::ObjectKind;
    use crate::plan::{Plan, Target};
    use crate::snapshot::snapshot_of;
    use crate::store::Store;
    use crate::verify::{Scope, verify};

    const PAGES: u32 = 600;

    /// Page `pgno` after `txid`: nothing that a codec makes smaller.
    fn page(pgno: Pgno, txid: u64) -> Vec<u8> {
        let mut state = u64::from(pgno.get()) << 32 | txid;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..4096).map(|_| next()).collect()
    }

    async fn two_txids(db: &DatabaseStore) -> GenerationId {
        let writer = WriterNonce::random();
        let record = GenerationRecord::new(PageSize::DEFAULT, writer);
        let generation = db.create_generation(record).await.unwrap().id;
        let mut checksum = DbChecksum::EMPTY;
        for txid in 1..=2 {
            let mut encoder = SegmentEncoder::new(PageSize::DEFAULT, CompressionLevel::SHIP);
            let before = checksum;
            for pgno in Pgno::up_to(PAGES).filter(|pgno| txid == 1 || pgno.get() % 2 == 0) {
                let new = page(pgno, txid);
                let hash = PageHash::of(pgno, &new);
                if txid > 1 {
                    checksum.toggle(PageHash::of(pgno, &page(pgno, 1)));
                }
                checksum.toggle(hash);
                encoder.push_image(pgno, &new, hash);
            }
            let meta = SegmentMeta {
                page_size: PageSize::DEFAULT,
                range: TxidRange::one(Txid::new(txid)),
                size_before: if txid == 1 { 0 } else { PAGES },
                size_after: PAGES,
                checksum_before: before,
                checksum_after: checksum,
                commits: 1,
                frames: 0,
                first_commit: Timestamp::from_millis(1),
                last_commit: Timestamp::from_millis(1),
                writer,
            };
            let mut object = std::mem::take(encoder.output());
            let finished = encoder.finish(&meta).unwrap();
            object.extend(finished.tail);
            assert!(db.put_level0(generation, &finished.info, object).await.unwrap().is_committed());
        }
        generation
    }

    #[tokio::test]
    async fn a_large_segment_is_a_companion_and_an_object_put_if_absent() {
        let store = Store::open(&"memory://".parse().unwrap()).unwrap();
        let db = DatabaseStore::new(store.clone(), "large.db".parse().unwrap());
        let generation = two_txids(&db).await;
        let plan = Plan::make(&db, None, Target::Latest).await.unwrap();
        let steps: Vec<_> = plan.steps.iter().map(|step| step.handle.clone()).collect();
        let segment = SegmentKey::snapshot(plan.revision.txid).unwrap();
        let write = || async {
            // Group by group, so that the merge has to wait for each.
            let merge = Merge::with_pieces(&steps, 1).unwrap();
            write_merged_in_pieces(&db, generation, segment, merge, plan.stored_bytes(), 100_000)
                .await
                .unwrap()
        };
        let written = write().await;
        let info = written.info.unwrap();
        assert_eq!(info.trailer().form, Form::External);
        assert!(info.is_snapshot() && info.meta().checksum_after == plan.checksum_after);

        let handle = db.open_segment(generation, segment).await.unwrap();
        handle.check_ends().await.unwrap();
        assert_eq!(handle.info(), &*info);
        let mut scratch = aquifer_format::segment::GroupScratch::new();
        for number in 0..info.groups().len() {
            let group = handle.fetch(number..number + 1).await.unwrap().decode(number, &mut scratch).unwrap();
            for entry in group.entries() {
                let txid = if entry.pgno.get() % 2 == 0 { 2 } else { 1 };
                assert_eq!(entry.hash, PageHash::of(entry.pgno, &page(entry.pgno, txid)));
            }
        }

        // Another one comes second: it leaves what is there, and nothing behind.
        assert!(write().await.info.is_none());
        let objects: Vec<_> =
            futures::TryStreamExt::try_collect::<Vec<_>>(db.objects(generation, Level::Snapshot, Txid::ZERO))
                .await
                .unwrap();
        assert_eq!(objects.len(), 2, "{objects:?}");
        let writer = info.meta().writer;
        assert!(objects.iter().any(|(kind, _)| *kind == ObjectKind::Companion { segment, writer }));
        verify(&db, None, Target::Latest, Scope::All, |_| ()).await.unwrap();
        let again = snapshot_of(&db, &Plan::make(&db, None, Target::Latest).await.unwrap()).await.unwrap();
        assert!(again.written.is_none());
    }

    #[tokio::test]
    async fn verification_reads_also_the_bytes_that_a_restore_need_not() {
        let store = Store::open(&"memory://".parse().unwrap()).unwrap();
        let db = DatabaseStore::new(store.clone(), "large.db".parse().unwrap());
        let generation = two_txids(&db).await;
        let plan = Plan::make(&db, None, Target::Latest).await.unwrap();
        let steps: Vec<_> = plan.steps.iter().map(|step| step.handle.clone()).collect();
        let segment = SegmentKey::snapshot(plan.revision.txid).unwrap();
        let merge = Merge::new(&steps).unwrap();
        write_merged_in_pieces(&db, generation, segment, merge, 1, 100_000).await.unwrap();
        let snapshot = db.open_segment(generation, segment).await.unwrap();
        assert_ne!(snapshot.key(), snapshot.groups_key());

        // Headers, which are not covered by what is read of the end, and what follows the last group.
        for handle in [&snapshot, &steps[0]] {
            for key in [handle.key(), handle.groups_key()] {
                let object = store.get(key).await.unwrap();
                let mut header = object.to_vec();
                header[0] ^= 1;
                let mut longer = object.to_vec();
                longer.push(0);
                for damaged in [header, longer] {
                    store.put(key, damaged).await.unwrap();
                    let found = verify(&db, None, Target::Latest, Scope::All, |_| ()).await;
                    assert!(matches!(found, Err(crate::PlanError::Log(_))), "{key}: {found:?}");
                }
                store.put(key, object).await.unwrap();
            }
        }
        verify(&db, None, Target::Latest, Scope::All, |_| ()).await.unwrap();
    }
}
