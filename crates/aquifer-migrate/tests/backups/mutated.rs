//! Bytes of every kind of object, changed at random: an error or a database, no panic, and no file after an error.

use std::collections::BTreeMap;

use aquifer_migrate::{Origin, find};
use proptest::prelude::*;

use crate::bucket::Bucket;
use crate::generator::{Generation, Kind, Ltx, gzip, put_03};
use crate::hostile::{every_format, small};
use crate::live::{FRAME_HEADER, WAL_HEADER};

/// What is done to bytes.
#[derive(Debug, Clone)]
enum Harm {
    Set { at: prop::sample::Index, bytes: Vec<u8> },
    Cut { at: prop::sample::Index },
    Repeat { at: prop::sample::Index },
}

fn harm() -> impl Strategy<Value = Vec<Harm>> {
    let at = any::<prop::sample::Index>;
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..9),
        prop::sample::select(vec![vec![0xff; 4], vec![0; 4], vec![0xff; 8], vec![0x80, 0, 0, 0]]),
    ];
    let harm = prop_oneof![
        6 => (at(), bytes).prop_map(|(at, bytes)| Harm::Set { at, bytes }),
        1 => at().prop_map(|at| Harm::Cut { at }),
        1 => at().prop_map(|at| Harm::Repeat { at }),
    ];
    prop::collection::vec(harm, 1..4)
}

fn harmed(content: &[u8], harm: &[Harm], within: usize) -> Vec<u8> {
    let mut content = content.to_vec();
    for harm in harm {
        let len = content.len().clamp(1, within);
        match harm {
            Harm::Set { at, bytes } => {
                let at = at.index(len);
                let end = content.len().min(at + bytes.len());
                content.splice(at.min(end)..end, bytes.iter().copied());
            }
            Harm::Cut { at } => content.truncate(at.index(len)),
            Harm::Repeat { at } => content.extend_from_within(at.index(len).min(content.len())..),
        }
    }
    content
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// An object of each format as it is stored, so compressed.
    Stored,
    /// WAL frames and their headers, as batches.
    Batch,
    /// The same with checksums that are right.
    SummedBatch,
    /// A WAL file, of Litestream 0.3 and of zlayer-storage.
    Wal,
    SummedWal,
    /// A database file.
    Snapshot,
    /// A page that is an object.
    Page,
    /// An LTX file, its header and first pages above all, with a checksum that is right.
    Ltx,
    /// `.meta`, `.consistent`, `.dep`.
    Small,
}

fn hostile_buckets(what: What, harm: &[Harm]) -> Vec<Bucket> {
    let live = small(512);
    let (file, mut wal) = (live.file(), live.wal());
    let frames = wal.frames().len();
    let generation = Generation::begun(0);
    let one = |key: &str, content: &[u8]| {
        let bucket = Bucket::empty();
        bucket.put(key, content);
        bucket
    };
    match what {
        What::Stored => {
            let (formats, _) = every_format();
            for (_, bucket) in &formats {
                let mut found = Vec::new();
                crate::damage::objects(&bucket.path(), &mut found);
                let (Harm::Set { at, .. } | Harm::Cut { at } | Harm::Repeat { at }) = &harm[0];
                let object = at.get(&found);
                let content = std::fs::read(object).unwrap();
                std::fs::write(object, harmed(&content, harm, 300)).unwrap();
            }
            formats.into_iter().map(|(_, bucket)| bucket).collect()
        }
        What::Batch | What::SummedBatch => {
            let bucket = Bucket::empty();
            let name = generation.batch(&bucket, &wal, (1, frames), 1, Kind::Raw);
            wal.bytes = harmed(&wal.bytes, harm, 2000);
            if what == What::SummedBatch {
                wal.bytes.resize(WAL_HEADER + frames * (512 + FRAME_HEADER), 0);
                wal.sum(false);
                generation.put(&bucket, ".meta", &wal.meta());
            }
            generation.put(&bucket, &name, wal.bytes.get(WAL_HEADER..).unwrap_or_default());
            vec![bucket]
        }
        What::Wal | What::SummedWal => {
            wal.bytes = harmed(&wal.bytes, harm, 2000);
            if what == What::SummedWal {
                wal.bytes.resize(WAL_HEADER + frames * (512 + FRAME_HEADER), 0);
                wal.sum(false);
            }
            let bucket = Bucket::empty();
            put_03(&bucket, "snapshots/00000000.snapshot", &file);
            put_03(&bucket, "wal/00000000_00000000.wal", &wal.bytes);
            vec![bucket, one("app/wal/00000000000000000012.wal.zst", &Kind::Zstd.pack(&wal.bytes))]
        }
        What::Snapshot => {
            let image = harmed(&live.image(), harm, 110);
            Kind::ALL
                .iter()
                .map(|kind| one(&generation.key(&format!("db.{}", kind.name())), &kind.pack(&image)))
                .collect()
        }
        What::Page => {
            let bucket = Bucket::empty();
            generation.snapshot(&bucket, Kind::Gz, &file);
            let names = generation.pages(&bucket, &wal, &[]);
            generation.put(&bucket, &names[0], &gzip(&harmed(&wal.frames()[0][FRAME_HEADER..], harm, 600)));
            vec![bucket]
        }
        What::Ltx => {
            let mut ltx = Ltx::between(&[], &live.image(), 512, 1);
            let fields = [&ltx.page_size.to_be_bytes()[..], &ltx.commit.to_be_bytes()].concat();
            let fields: BTreeMap<usize, u8> = harmed(&fields, harm, 8).into_iter().enumerate().collect();
            let field = |at: usize| {
                u32::from_be_bytes(std::array::from_fn(|i| fields.get(&(at + i)).copied().unwrap_or(0)))
            };
            (ltx.page_size, ltx.commit) = (field(0), field(4));
            ltx.flags = if field(4) % 2 == 0 { 0 } else { 2 };
            let first = ltx.pages.get_mut(&1).unwrap();
            *first = harmed(first, harm, 600);
            ltx.pages.insert(field(4) / 3 + 1, vec![1; 512]);
            let (right, bytes) = (Bucket::empty(), Bucket::empty());
            let key = ltx.put(&right, 0);
            bytes.put(&key, &harmed(&Ltx::between(&[], &live.image(), 512, 1).encode(), harm, 1000));
            vec![right, bytes]
        }
        What::Small => {
            let bytes = |len| harmed(&vec![1; len], harm, len);
            let batches = Bucket::empty();
            generation.batch(&batches, &wal, (1, frames), 1, Kind::Gz);
            generation.put(&batches, ".meta", &bytes(12));
            generation.put(&batches, ".dep", &bytes(16));
            let pages = Bucket::empty();
            generation.snapshot(&pages, Kind::Gz, &file);
            generation.pages(&pages, &wal, &[]);
            generation.put(&pages, ".consistent", &bytes(12));
            pages.put("app.tombstone", &bytes(8));
            vec![batches, pages]
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_panic_or_leave_a_file_behind(
        what in prop::sample::select(vec![
            What::Stored, What::Batch, What::SummedBatch, What::Wal, What::SummedWal, What::Snapshot, What::Page,
            What::Ltx, What::Small,
        ]),
        harm in harm(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            for bucket in hostile_buckets(what, &harm) {
                // That there is none after an error is looked at there.
                let _ = bucket.restore(bucket.restorer().integrity_check(false)).await;
                for backup in find(&bucket.store(), Origin::Auto).await.unwrap() {
                    let _ = backup.survey().await;
                }
            }
        });
    }
}
