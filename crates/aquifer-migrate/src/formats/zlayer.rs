//! zlayer-storage: `snapshots/<YYYYMMDD_HHMMSS>.sqlite.zst` and `wal/<frames:020>.wal.zst`.
//!
//! A snapshot is the database file without its WAL. A segment is the whole WAL file as it was, called by how many frames it
//! had: after a checkpoint these numbers begin again, and segments of a WAL before are overwritten. So which segments
//! follow a snapshot is read from the WALs' headers (SQLite counts how often it has begun a WAL anew) and from when they
//! were written. zlayer's own restore takes that with the largest number, and loses rows by it (tests/fixtures).
//!
//! Source: zlayer-storage's `replicator/`, and buckets that it wrote.

use std::cmp::Reverse;
use std::io::Read;

use aquifer_format::Timestamp;
use aquifer_log::store::{ObjectInfo, Store};
use aquifer_sqlite::wal::{HEADER_LEN, WalHeader};
use futures::{StreamExt, TryStreamExt, stream};

use super::tree::Directory;
use super::{damaged, has_any};
use crate::backup::{Backup, Format, Snapshot, Survey};
use crate::codec::Codec;
use crate::error::{MigrateError, Result};
use crate::plan::{Content, Piece, Plan, Target, WalPiece};

/// Headers read at a time.
const AT_ONCE: usize = 16;
/// Bytes of an object that surely hold the first block of what was compressed.
const FIRST_BLOCK: u64 = 256 << 10;

pub(super) async fn find(store: &Store, directory: &Directory) -> Result<Vec<Backup>> {
    if !directory.has("snapshots") && !directory.has("wal") {
        return Ok(Vec::new());
    }
    let backup = Backup::new(store, Format::Zlayer, &directory.path, directory.prefix.clone());
    // Anybody may have directories with such names.
    let is_there = has_any(&backup, &backup.prefix.dir("snapshots"), |name, _| is_snapshot(name)).await?
        || has_any(&backup, &backup.prefix.dir("wal"), |name, _| segment(name).is_some()).await?;
    Ok(if is_there { vec![backup] } else { Vec::new() })
}

#[derive(Debug, Default)]
struct Files {
    /// Oldest first.
    snapshots: Vec<ObjectInfo>,
    /// By how many frames they had.
    segments: Vec<(u64, ObjectInfo)>,
}

impl Files {
    async fn list(backup: &Backup) -> Result<Files> {
        let mut files = Files::default();
        for directory in ["snapshots", "wal"] {
            let mut listing = backup.store.list(&backup.prefix.dir(directory), None);
            while let Some(object) = listing.try_next().await? {
                let Some(name) = backup.prefix.strip(&object.key).map(str::to_owned) else { continue };
                if is_snapshot(&name) {
                    files.snapshots.push(object);
                } else if let Some(frames) = segment(&name) {
                    files.segments.push((frames, object));
                } else {
                    tracing::warn!(object = %object.key, "is no object of zlayer-storage, and not used");
                }
            }
        }
        Ok(files)
    }

    fn objects(&self) -> impl Iterator<Item = &ObjectInfo> {
        self.snapshots.iter().chain(self.segments.iter().map(|(_, object)| object))
    }
}

fn is_snapshot(name: &str) -> bool {
    let name = name.strip_prefix("snapshots/").and_then(|name| name.strip_suffix(".sqlite.zst"));
    name.is_some_and(|name| name.len() == 15 && name.bytes().all(|b| b.is_ascii_digit() || b == b'_'))
}

fn segment(name: &str) -> Option<u64> {
    name.strip_prefix("wal/")?.strip_suffix(".wal.zst")?.parse().ok()
}

pub(crate) async fn survey(backup: &Backup) -> Result<Survey> {
    let files = Files::list(backup).await?;
    Ok(Survey {
        objects: files.objects().count() as u64,
        bytes: files.objects().map(|object| object.len).sum(),
        snapshot: files.snapshots.last().map(Snapshot::of),
        last_write: files.objects().map(|object| object.last_modified).max(),
        ..Survey::default()
    })
}

/// A WAL, as the segment has it that was written of it last.
#[derive(Debug)]
struct Wal {
    /// How often SQLite had begun a WAL anew before.
    resets: u32,
    frames: u64,
    object: ObjectInfo,
}

pub(crate) async fn plan(backup: &Backup, target: Target) -> Result<Option<Plan>> {
    let mut files = Files::list(backup).await?;
    match target {
        Target::Latest => {}
        Target::Timestamp(moment) => {
            files.snapshots.retain(|object| object.last_modified <= moment);
            files.segments.retain(|(_, object)| object.last_modified <= moment);
        }
        Target::Position(_) => {
            return Err(MigrateError::Unsupported {
                format: "zlayer-storage",
                what: "transactions or positions",
                instead: "say --timestamp, or leave out --txid",
            });
        }
    }
    if files.objects().next().is_none() {
        return Err(MigrateError::NoGeneration {
            url: backup.store.url().to_owned(),
            database: backup.database().to_owned(),
            what: "that was written before then".to_owned(),
        });
    }
    let snapshot = files.snapshots.pop();
    let wals =
        since(snapshot.as_ref().map(|object| object.last_modified), wals(backup, files.segments).await?);
    refuse_gaps(backup, snapshot.as_ref(), &wals)?;
    let database = snapshot.map(|object| {
        let time = Some(object.last_modified);
        Piece { object, content: Content::Database(Codec::Zstd), time, position: 0 }
    });
    let segments = wals.into_iter().map(|wal| Piece {
        time: Some(wal.object.last_modified),
        object: wal.object,
        content: Content::Wal(WalPiece { codec: Codec::Zstd, offset: 0, all: false }),
        position: wal.frames,
    });
    // Nothing in these objects proves that they belong together.
    Ok(Some(Plan { page_size: None, check: true, pieces: database.into_iter().chain(segments).collect() }))
}

/// Of each WAL the longest segment, in the order of the WALs. Those from before the WAL was emptied are in the database.
async fn wals(backup: &Backup, segments: Vec<(u64, ObjectInfo)>) -> Result<Vec<Wal>> {
    let emptied =
        segments.iter().filter(|(frames, _)| *frames == 0).map(|(_, object)| object.last_modified).max();
    let segments = segments.into_iter().filter(|(frames, _)| *frames > 0);
    let wals = stream::iter(segments).map(|(frames, object)| async move {
        let header = header(backup, &object).await?;
        Ok::<_, MigrateError>(Wal { resets: header.resets, frames, object })
    });
    let mut wals: Vec<Wal> = wals.buffered(AT_ONCE).try_collect().await?;
    wals.retain(|wal| emptied.is_none_or(|emptied| wal.object.last_modified >= emptied));
    wals.sort_by_key(|wal| (wal.resets, Reverse(wal.frames)));
    wals.dedup_by_key(|wal| wal.resets);
    Ok(wals)
}

async fn header(backup: &Backup, object: &ObjectInfo) -> Result<WalHeader> {
    let bytes = backup.store.get_range(&object.key, 0..object.len.min(FIRST_BLOCK)).await?;
    let mut header = [0; HEADER_LEN];
    let read = Codec::Zstd.reader(&bytes[..]).and_then(|mut content| content.read_exact(&mut header));
    read.map_err(|e| damaged(backup, &object.key, format!("it cannot be decompressed: {e}")))?;
    WalHeader::parse(&header).map_err(|damage| damaged(backup, &object.key, format!("as a WAL it {damage}")))
}

/// The WALs that a snapshot of this moment lacks something of: that which was in use, and those after it.
fn since(snapshot: Option<Timestamp>, mut wals: Vec<Wal>) -> Vec<Wal> {
    if let Some(moment) = snapshot {
        let before = wals.iter().take_while(|wal| wal.object.last_modified <= moment).count();
        wals.drain(..before.saturating_sub(1));
    }
    wals
}

fn refuse_gaps(backup: &Backup, snapshot: Option<&ObjectInfo>, wals: &[Wal]) -> Result<()> {
    let missing = |missing: &str, after: &str| MigrateError::Missing {
        url: backup.store.url().to_owned(),
        missing: missing.to_owned(),
        after: after.to_owned(),
        last: None,
    };
    if snapshot.is_none()
        && let Some(first) = wals.first()
        && first.resets > 0
    {
        return Err(missing("a snapshot, and what the database was before, is", backup.prefix()));
    }
    for pair in wals.windows(2) {
        if pair[0].resets.wrapping_add(1) != pair[1].resets {
            return Err(missing("a whole WAL is", pair[0].object.key.as_str()));
        }
    }
    Ok(())
}
