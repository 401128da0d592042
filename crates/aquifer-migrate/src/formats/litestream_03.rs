//! Litestream 0.3: `generations/<id>/snapshots/<index>.snapshot.lz4` and `generations/<id>/wal/<index>_<offset>.wal.lz4`.
//!
//! A snapshot is the database file before the WAL of the same index, and each WAL file is cut into pieces. Numbers are
//! hexadecimal. Source: litestream 0.3's `litestream.go` and `replica.go`, and replicas that it wrote (tests/fixtures).

use std::sync::Arc;

use aquifer_format::Timestamp;
use aquifer_log::store::{ObjectInfo, Prefix, Store};
use futures::{StreamExt, TryStreamExt, stream};

use crate::backup::{Backup, Format, History, Snapshot, Survey};
use crate::codec::Codec;
use crate::error::{MigrateError, Result};
use crate::formats::directories;
use crate::plan::{Content, Piece, Plan, Target, WalPiece};

/// Generations listed at a time.
const AT_ONCE: usize = 16;
/// Objects of which is kept that they were listed, so that who reads a generation need not list it again.
const MOST_KEPT: usize = 20_000;

/// The generations, that which was written to last first.
pub(crate) async fn find(store: &Store, database: &str, generations: &Prefix) -> Result<Vec<Backup>> {
    let ids = directories(store, generations).await?;
    let mut listed = stream::iter(ids)
        .map(|id| async move {
            let backup = Backup::new(store, Format::Litestream03, database, generations.dir(&id));
            let files = Files::list(&backup).await?;
            let begun = files.snapshots.iter().map(|(_, object)| object.last_modified).min();
            let backup = begun.map(|begun| backup.of_generation(id, begun));
            Ok::<_, MigrateError>(backup.map(|backup| (files, backup)))
        })
        .buffered(AT_ONCE);
    let (mut found, mut kept) = (Vec::new(), 0);
    while let Some(listed) = listed.try_next().await? {
        let Some((files, mut backup)) = listed else { continue };
        let last_write = files.last_write();
        kept += files.objects().count();
        backup.listed = (kept <= MOST_KEPT).then(|| Arc::new(files));
        found.push((last_write, backup));
    }
    found.sort_by_key(|(last_write, _)| std::cmp::Reverse(*last_write));
    Ok(found.into_iter().map(|(_, backup)| backup).collect())
}

/// The objects of a generation, ascending.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// By index.
    snapshots: Vec<(u32, ObjectInfo)>,
    /// By index and offset in bytes.
    pieces: Vec<((u32, u64), ObjectInfo)>,
}

impl Files {
    async fn of(backup: &Backup) -> Result<Arc<Files>> {
        match &backup.listed {
            Some(files) => Ok(files.clone()),
            None => Ok(Arc::new(Files::list(backup).await?)),
        }
    }

    async fn list(backup: &Backup) -> Result<Files> {
        let mut listing = backup.store.list(&backup.prefix, None);
        let mut files = Files::default();
        while let Some(object) = listing.try_next().await? {
            let Some(name) = backup.prefix.strip(&object.key).map(str::to_owned) else { continue };
            if let Some(index) = snapshot_index(&name) {
                files.snapshots.push((index, object));
            } else if let Some(place) = piece_place(&name) {
                files.pieces.push((place, object));
            } else {
                tracing::warn!(object = %object.key, "is no object of Litestream, and not used");
            }
        }
        files.snapshots.sort_by_key(|(index, _)| *index);
        files.pieces.sort_by_key(|(place, _)| *place);
        Ok(files)
    }

    fn objects(&self) -> impl Iterator<Item = &ObjectInfo> {
        self.snapshots.iter().map(|(_, object)| object).chain(self.pieces.iter().map(|(_, object)| object))
    }

    fn last_write(&self) -> Option<Timestamp> {
        self.objects().map(|object| object.last_modified).max()
    }
}

fn hex(digits: &str) -> Option<u32> {
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

fn snapshot_index(name: &str) -> Option<u32> {
    hex(name.strip_prefix("snapshots/")?.strip_suffix(".snapshot.lz4")?)
}

fn piece_place(name: &str) -> Option<(u32, u64)> {
    let (index, offset) = name.strip_prefix("wal/")?.strip_suffix(".wal.lz4")?.split_once('_')?;
    Some((hex(index)?, u64::from(hex(offset)?)))
}

pub(crate) async fn survey(backup: &Backup) -> Result<Survey> {
    let files = Files::of(backup).await?;
    let first = files.pieces.first().map(|((index, _), _)| u64::from(*index));
    Ok(Survey {
        objects: files.objects().count() as u64,
        bytes: files.objects().map(|object| object.len).sum(),
        snapshot: files.snapshots.last().map(|(_, object)| Snapshot::of(object)),
        positions: first.zip(files.pieces.last().map(|((index, _), _)| u64::from(*index))),
        last_write: files.last_write(),
        ..Survey::default()
    })
}

pub(crate) async fn plan(backup: &Backup, target: Target) -> Result<Option<Plan>> {
    let files = Files::of(backup).await?;
    let is_wanted = |index: u32, object: &ObjectInfo| match target {
        Target::Latest => true,
        Target::Timestamp(moment) => object.last_modified <= moment,
        Target::Position(last) => u64::from(index) <= last,
    };
    let snapshot = files.snapshots.iter().rev().find(|(index, object)| is_wanted(*index, object));
    let Some(snapshot) = snapshot else {
        return Err(MigrateError::NoGeneration {
            url: backup.store.url().to_owned(),
            database: backup.database().to_owned(),
            what: "with a snapshot from before then".to_owned(),
        });
    };
    since(backup, snapshot, &files.pieces, is_wanted).map(Some)
}

/// From the oldest snapshot that all is there since.
pub(crate) async fn history(backup: &Backup) -> Result<Option<History>> {
    let files = Files::of(backup).await?;
    let mut left_out = None;
    for snapshot in &files.snapshots {
        match since(backup, snapshot, &files.pieces, |_, _| true) {
            Ok(plan) => return Ok(Some(History { left_out, ..History::of(plan) })),
            Err(gap) => left_out = Some(gap),
        }
    }
    Ok(plan(backup, Target::Latest).await?.map(History::of))
}

/// A snapshot, and all that is wanted after it.
fn since(
    backup: &Backup,
    (first, snapshot): &(u32, ObjectInfo),
    files: &[((u32, u64), ObjectInfo)],
    is_wanted: impl Fn(u32, &ObjectInfo) -> bool,
) -> Result<Plan> {
    let mut pieces = vec![Piece {
        object: snapshot.clone(),
        content: Content::Database(Codec::Lz4),
        time: Some(snapshot.last_modified),
        position: u64::from(*first),
    }];
    let first = u64::from(*first);
    let mut expected = first;
    let of_snapshot = files.iter().filter(|((index, _), _)| u64::from(*index) >= first);
    for ((index, offset), object) in of_snapshot.take_while(|((index, _), object)| is_wanted(*index, object))
    {
        let index = u64::from(*index);
        let is_next = match *offset {
            // The WAL after the one before, or the first.
            0 => index == expected,
            _ => index + 1 == expected,
        };
        if !is_next {
            return Err(MigrateError::Missing {
                url: backup.store.url().to_owned(),
                missing: format!("WAL {expected:08x}, or its beginning, is"),
                after: pieces.last().map_or(backup.prefix(), |piece| piece.object.key.as_str()).to_owned(),
                last: (expected > first).then(|| expected - 1),
            });
        }
        if *offset == 0 {
            expected = index + 1;
        }
        pieces.push(Piece {
            object: object.clone(),
            content: Content::Wal(WalPiece { codec: Codec::Lz4, offset: *offset, all: true }),
            time: Some(object.last_modified),
            position: index,
        });
    }
    // Nothing says how far a WAL went before the next one: its last pieces may be lost.
    let check = expected > first + 1;
    Ok(Plan { page_size: None, check, pieces })
}
