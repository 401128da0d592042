//! Buckets as other programs write them, from the facts of their formats: nothing here is of the readers' code. They stand in
//! for what the originals (tests/fixtures) cannot be made to write at will.

use std::collections::BTreeMap;
use std::io::Write as _;

use crate::bucket::Bucket;
use crate::live::{FRAME_HEADER, Wal, word};

/// When the first of these backups began, in seconds since 1970.
pub(crate) const BEGUN: i64 = 1_795_000_000;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Raw,
    Gz,
    Zstd,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Raw, Kind::Gz, Kind::Zstd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::Gz => "gz",
            Kind::Zstd => "zstd",
        }
    }

    pub(crate) fn pack(self, content: &[u8]) -> Vec<u8> {
        match self {
            Kind::Raw => content.to_vec(),
            Kind::Gz => gzip(content),
            Kind::Zstd => zstd::encode_all(content, 3).unwrap(),
        }
    }
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A generation of bottomless.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    pub(crate) id: uuid::Uuid,
    directory: String,
}

impl Generation {
    /// Of the database `app`, begun so many seconds after [`BEGUN`].
    pub(crate) fn begun(after: i64) -> Generation {
        Generation::begun_at((BEGUN + after) * 1000, 0)
    }

    /// Begun then, in milliseconds since 1970, the `n`th at this moment.
    pub(crate) fn begun_at(begun: i64, n: usize) -> Generation {
        // A UUIDv7 of the time that is left.
        let (seconds, millis) = (begun.div_euclid(1000), begun.rem_euclid(1000));
        let left = ((253_370_761_200 - seconds) * 1000 + 999 - millis) as u64;
        let mut random = [0xff; 10];
        random[9] -= n as u8;
        let id = uuid::Builder::from_unix_timestamp_millis(left, &random).into_uuid();
        Generation { id, directory: format!("app-{id}") }
    }

    pub(crate) fn put(&self, bucket: &Bucket, name: &str, content: &[u8]) {
        bucket.put(&format!("{}/{name}", self.directory), content);
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    pub(crate) fn snapshot(&self, bucket: &Bucket, kind: Kind, database: &[u8]) {
        self.put(bucket, &format!("db.{}", kind.name()), &kind.pack(database));
    }

    pub(crate) fn parent(&self, bucket: &Bucket, parent: &Generation) {
        self.put(bucket, ".dep", parent.id.as_bytes());
    }

    /// Frames `first` to `last`, both inclusive, written so many seconds after [`BEGUN`]. The object's name.
    pub(crate) fn batch(
        &self,
        bucket: &Bucket,
        wal: &Wal,
        (first, last): (usize, usize),
        after: i64,
        kind: Kind,
    ) -> String {
        self.put(bucket, ".meta", &wal.meta());
        let name = format!("{first:012}-{last:012}-{}.{}", BEGUN + after, kind.name());
        self.put(bucket, &name, &kind.pack(&wal.run(first, last)));
        name
    }

    /// A batch for each transaction, a second apart.
    pub(crate) fn batches(&self, bucket: &Bucket, wal: &Wal, kind: Kind) -> Vec<String> {
        let mut first = 1;
        let batches = wal.commits().into_iter().enumerate().map(|(n, last)| {
            let run = (std::mem::replace(&mut first, last + 1), last);
            self.batch(bucket, wal, run, n as i64 + 1, kind)
        });
        batches.collect()
    }

    /// An object for each frame; the checksums begin at 0 with each of these frames. The objects' names.
    pub(crate) fn pages(&self, bucket: &Bucket, wal: &Wal, begin: &[usize]) -> Vec<String> {
        let mut crc = 0;
        let mut names = Vec::new();
        for (at, frame) in wal.frames().into_iter().enumerate() {
            if begin.contains(&(at + 1)) {
                crc = 0;
            }
            let page = &frame[FRAME_HEADER..];
            crc = crc64_ecma(crc, page);
            let name = format!("{:012}-{:012}-{crc:016x}", at + 1, word(frame, 0));
            self.put(bucket, &name, &gzip(page));
            names.push(name);
        }
        let last = *wal.commits().last().unwrap();
        self.consistent(bucket, wal, last);
        names
    }

    pub(crate) fn consistent(&self, bucket: &Bucket, wal: &Wal, frame: usize) {
        let sums = &wal.frames()[frame - 1][16..24];
        self.put(bucket, ".consistent", &[&(frame as u32).to_be_bytes(), sums].concat());
    }
}

/// CRC-64/ECMA-182: the highest bit first, nothing at its beginning and end.
pub(crate) fn crc64_ecma(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte) << 56, |crc, _| {
            if crc >> 63 == 1 { crc << 1 ^ 0x42f0_e1eb_a9ea_3693 } else { crc << 1 }
        })
    })
}

/// CRC-64/ISO as Go has it: the lowest bit first, all ones at its beginning and end.
pub(crate) fn crc64_iso(parts: &[&[u8]]) -> u64 {
    !parts.concat().iter().fold(u64::MAX, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xd800_0000_0000_0000 } else { crc >> 1 }
        })
    })
}

const FLAG: u64 = 1 << 63;

/// An LTX file.
#[derive(Debug, Clone)]
pub(crate) struct Ltx {
    pub(crate) magic: [u8; 4],
    /// Of each page: 1 for a block whose length comes before it.
    pub(crate) page_flags: u16,
    pub(crate) flags: u32,
    pub(crate) page_size: u32,
    /// Pages of the database after it.
    pub(crate) commit: u32,
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) millis: i64,
    pub(crate) before: u64,
    pub(crate) after: u64,
    pub(crate) pages: BTreeMap<u32, Vec<u8>>,
}

impl Ltx {
    /// What leads from one image to the next, with the database's checksums.
    pub(crate) fn between(before: &[u8], after: &[u8], page_size: usize, txid: u64) -> Ltx {
        let old: Vec<&[u8]> = before.chunks(page_size).collect();
        let new = after.chunks(page_size).enumerate();
        let changed = new.filter(|(at, page)| old.get(*at) != Some(page));
        let checksum = |image: &[u8]| if image.is_empty() { 0 } else { database_checksum(image, page_size) };
        Ltx {
            magic: *b"LTX1",
            page_flags: 1,
            flags: 0,
            page_size: page_size as u32,
            commit: (after.len() / page_size) as u32,
            min: txid,
            max: txid,
            millis: (BEGUN + txid as i64) * 1000,
            before: checksum(before),
            after: checksum(after),
            pages: changed.map(|(at, page)| (at as u32 + 1, page.to_vec())).collect(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_in_order(&self.pages.keys().copied().collect::<Vec<u32>>())
    }

    /// With these of its pages, in this order.
    pub(crate) fn encode_in_order(&self, order: &[u32]) -> Vec<u8> {
        let mut header = Vec::from(self.magic);
        for value in [self.flags, self.page_size, self.commit] {
            header.extend(value.to_be_bytes());
        }
        for value in [self.min, self.max, self.millis as u64, self.before] {
            header.extend(value.to_be_bytes());
        }
        header.resize(100, 0);
        let (mut file, mut hashed) = (header.clone(), header);
        let mut index = Vec::new();
        for (pgno, page) in order.iter().map(|pgno| (pgno, &self.pages[pgno])) {
            let start = file.len();
            let packed = lz4_flex::block::compress(page);
            let mut head = pgno.to_be_bytes().to_vec();
            head.extend(self.page_flags.to_be_bytes());
            head.extend((packed.len() as u32).to_be_bytes());
            hashed.extend([&head[..], page].concat());
            file.extend([&head[..], &packed].concat());
            for value in [*pgno as usize, start, file.len() - start] {
                varint(&mut index, value);
            }
        }
        index.push(0);
        let mut end = vec![0; 6];
        end.extend(&index);
        end.extend((index.len() as u64).to_be_bytes());
        end.extend(self.after.to_be_bytes());
        let checksum = crc64_iso(&[&hashed, &end]) | FLAG;
        file.extend(end);
        file.extend(checksum.to_be_bytes());
        file
    }

    /// Under its level.
    pub(crate) fn put(&self, bucket: &Bucket, level: u8) -> String {
        let key = format!("ltx/{level}/{:016x}-{:016x}.ltx", self.min, self.max);
        bucket.put(&key, &self.encode());
        key
    }
}

fn varint(to: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// All pages' checksums together, in any order.
fn database_checksum(image: &[u8], page_size: usize) -> u64 {
    let pages = image.chunks(page_size).enumerate();
    let sums = pages.map(|(at, page)| crc64_iso(&[&(at as u32 + 1).to_be_bytes(), page]) | FLAG);
    sums.fold(0, |all, sum| all ^ sum) | FLAG
}

/// With a checksum of the content, as Litestream 0.3 has it.
pub(crate) fn lz4(content: &[u8]) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Litestream 0.3: an object of the generation `0123456789abcdef`.
pub(crate) fn put_03(bucket: &Bucket, name: &str, content: &[u8]) {
    put_03_of(bucket, "0123456789abcdef", name, content);
}

/// The same of any generation. The object's key.
pub(crate) fn put_03_of(bucket: &Bucket, generation: &str, name: &str, content: &[u8]) -> String {
    let key = format!("generations/{generation}/{name}.lz4");
    bucket.put(&key, &lz4(content));
    key
}
