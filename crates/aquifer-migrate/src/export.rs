//! Export: a revision of an Aquifer database as a replica that Litestream restores. Nobody is locked in.
//!
//! One LTX file with every page, as Litestream's snapshots are. Pages are LZ4 frames, which 0.5.5 and 0.5.17 both read (the
//! later one writes blocks, which the earlier refuses), and there are no database checksums, as in all files that Litestream
//! itself ships.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aquifer_format::{PageSize, Pgno, Revision, Timestamp, Txid};
use aquifer_log::store::{Key, Prefix, Store, Upload};
use aquifer_log::{DatabaseStore, StoreError};
use aquifer_replicate::restore::{Restored, Restorer};
use crc_fast::{CrcAlgorithm, Digest};
use futures::TryStreamExt;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use tokio::runtime::Handle;

use crate::error::{MigrateError, Result};
use crate::replay::{CHECKSUM_FLAG, LTX_HEADER_LEN, NO_CHECKSUM};
use crate::restore::blocking;

/// Bytes encoded before they are sent on.
const CHUNK: usize = 1 << 20;

/// Writes a revision of a database as a replica of Litestream's.
#[derive(Debug, Clone)]
#[must_use = "it exports nothing before `export` is called"]
pub struct Exporter {
    restorer: RestoreFrom,
    to: Store,
    temp_dir: PathBuf,
}

#[derive(Debug, Clone)]
struct RestoreFrom {
    from: DatabaseStore,
    generation: Option<aquifer_format::GenerationId>,
    target: aquifer_log::Target,
}

/// What was exported.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The revision. Litestream's txid of it is its txid.
    pub revision: Revision,
    /// Its pages.
    pub pages: u32,
    /// Their size in bytes.
    pub page_size: u32,
    /// The object that was written.
    pub key: Key,
    /// Its length.
    pub bytes: u64,
}

impl Exporter {
    /// Exports the newest revision of `from` to the replica whose URL `to` was opened with.
    pub fn new(from: DatabaseStore, to: Store) -> Exporter {
        let restorer = RestoreFrom { from, generation: None, target: aquifer_log::Target::Latest };
        Exporter { restorer, to, temp_dir: std::env::temp_dir() }
    }

    /// From this generation instead of the newest.
    pub fn generation(mut self, generation: aquifer_format::GenerationId) -> Exporter {
        self.restorer.generation = Some(generation);
        self
    }

    /// As of this moment or txid.
    pub fn target(mut self, target: aquifer_log::Target) -> Exporter {
        self.restorer.target = target;
        self
    }

    /// Where a file as large as the database is made for as long as it runs, instead of the system's place.
    pub fn temp_dir(mut self, directory: impl AsRef<Path>) -> Exporter {
        directory.as_ref().clone_into(&mut self.temp_dir);
        self
    }

    /// Exports.
    ///
    /// # Errors
    /// [`MigrateError::Occupied`] if there is anything but earlier exports of an older txid: what Litestream ships itself
    /// counts differently, and a mixture restores to neither.
    ///
    /// # Cancel safety
    /// The object appears whole or not at all.
    pub async fn export(self) -> Result<Exported> {
        let (directory, prefix) = if self.to.is_local() {
            (Prefix::ROOT.dir("ltx"), Prefix::ROOT.dir("ltx").dir("9"))
        } else {
            (Prefix::ROOT, Prefix::ROOT.dir("0009"))
        };
        let failed = |source| MigrateError::io("write in", &self.temp_dir, source);
        let scratch =
            tempfile::Builder::new().prefix("aquifer-export-").tempdir_in(&self.temp_dir).map_err(failed)?;
        let path = scratch.path().join("restored.db");
        let RestoreFrom { from, generation, target } = self.restorer;
        let mut restorer = Restorer::new(from.store().clone(), from.name().clone(), &path).target(target);
        if let Some(generation) = generation {
            restorer = restorer.generation(generation);
        }
        let Some(restored) = restorer.restore().await?.restored() else {
            unreachable!("nothing is in a new directory")
        };
        let txid = restored.revision.txid;
        refuse_others(&self.to, &directory, &prefix, txid).await?;
        let key = prefix.key(&format!("{:016x}-{:016x}.ltx", 1, txid.get()));
        let image = restored.clone();
        let (to, runtime, name) = (self.to.clone(), Handle::current(), key.clone());
        let bytes = blocking(move || {
            let file = std::fs::File::open(&path).map_err(|e| MigrateError::io("read", &path, e))?;
            let upload = to.upload(&name, u64::from(image.pages) * image.page_size.bytes() as u64 / 2);
            encode(&file, &path, &image, upload, &runtime)
        })
        .await?;
        let (revision, pages, page_size) = (restored.revision, restored.pages, restored.page_size.get());
        Ok(Exported { revision, pages, page_size, key, bytes })
    }
}

/// There may be earlier exports: snapshots of transactions before this one.
async fn refuse_others(to: &Store, directory: &Prefix, snapshots: &Prefix, txid: Txid) -> Result<()> {
    let mut listing = to.list(directory, None);
    loop {
        let object = match listing.try_next().await {
            Ok(Some(object)) => object,
            Ok(None) | Err(StoreError::NoStore { .. }) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let last = snapshots.strip(&object.key).and_then(|name| {
            let last = name.strip_prefix("0000000000000001-")?.strip_suffix(".ltx")?;
            u64::from_str_radix(last, 16).ok()
        });
        if last.is_none_or(|last| last >= txid.get()) {
            return Err(MigrateError::Occupied { url: to.url().to_owned(), key: object.key });
        }
    }
}

/// Encodes the file into the upload. The object's length.
fn encode(
    file: &std::fs::File,
    path: &Path,
    restored: &Restored,
    upload: Upload,
    runtime: &Handle,
) -> Result<u64> {
    let size = restored.page_size;
    let mut ltx = Encoder {
        digest: Digest::new(CrcAlgorithm::Crc64GoIso),
        buffer: Vec::new(),
        len: 0,
        upload,
        runtime,
    };
    ltx.put(&header(size, restored.pages, restored.revision.txid, restored.last_commit));
    let mut index = Vec::new();
    let mut page = vec![0; size.bytes()];
    // As the original writes them: 0.5.5 reads no others.
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let info = info.content_checksum(true);
    for pgno in Pgno::up_to(restored.pages).filter(|pgno| *pgno != size.lock_page()) {
        let read = file.read_exact_at(&mut page, size.offset(pgno));
        read.map_err(|e| MigrateError::io("read", path, e))?;
        let start = ltx.len;
        ltx.put(&pgno.get().to_be_bytes());
        // No flags: the page is an LZ4 frame.
        ltx.put(&[0, 0]);
        ltx.digest.update(&page);
        let mut frame = FrameEncoder::with_frame_info(info.clone(), Vec::new());
        let packed = std::io::Write::write_all(&mut frame, &page).map(|()| frame.finish());
        let packed = packed.map_err(|e| MigrateError::io("compress a page of", path, e))?;
        let packed = packed.map_err(|e| MigrateError::io("compress a page of", path, e.into()))?;
        ltx.raw(&packed);
        for value in [u64::from(pgno.get()), start, ltx.len - start] {
            varint(&mut index, value);
        }
        if ltx.buffer.len() >= CHUNK {
            ltx.send()?;
        }
    }
    ltx.put(&[0; 6]);
    index.push(0);
    ltx.put(&index);
    ltx.put(&(index.len() as u64).to_be_bytes());
    // No database checksum.
    ltx.put(&[0; 8]);
    let checksum = ltx.digest.finalize() | CHECKSUM_FLAG;
    ltx.raw(&checksum.to_be_bytes());
    ltx.send()?;
    runtime.block_on(ltx.upload.complete())?;
    Ok(ltx.len)
}

fn header(size: PageSize, pages: u32, txid: Txid, at: Timestamp) -> [u8; LTX_HEADER_LEN] {
    let mut header = [0; LTX_HEADER_LEN];
    header[..4].copy_from_slice(b"LTX1");
    header[4..8].copy_from_slice(&NO_CHECKSUM.to_be_bytes());
    header[8..12].copy_from_slice(&size.get().to_be_bytes());
    header[12..16].copy_from_slice(&pages.to_be_bytes());
    header[16..24].copy_from_slice(&1u64.to_be_bytes());
    header[24..32].copy_from_slice(&txid.get().to_be_bytes());
    header[32..40].copy_from_slice(&at.as_millis().to_be_bytes());
    header
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// An LTX file on its way.
struct Encoder<'a> {
    digest: Digest,
    buffer: Vec<u8>,
    len: u64,
    upload: Upload,
    runtime: &'a Handle,
}

impl Encoder<'_> {
    /// Bytes that are in the checksum as they are.
    fn put(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.raw(bytes);
    }

    /// Bytes that are in the checksum uncompressed, or not at all.
    fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
    }

    fn send(&mut self) -> Result<()> {
        let chunk = std::mem::take(&mut self.buffer);
        Ok(self.runtime.block_on(self.upload.write(chunk.into()))?)
    }
}
