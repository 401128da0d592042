//! Litestream 0.5: `<level>/<first txid>-<last txid>.ltx`, in a directory `ltx/` where the replica is a directory.
//!
//! Level 0 is what was shipped, 1 and above are compactions of the level below, and snapshots are a level like the others:
//! files that begin with transaction 1. Source: litestream's `replica_client.go` and `replica.go`.

mod chain;

use std::cmp::Reverse;

use aquifer_format::Timestamp;
use aquifer_log::store::{ObjectInfo, Store};
use futures::{StreamExt, TryStreamExt, stream};

use super::tree::Directory;
use super::{damaged, fixed, has_any, litestream_03};
use crate::backup::{Backup, Format, History, Snapshot, Survey};
use crate::error::{MigrateError, Result};
use crate::plan::{Content, LtxRange, Piece, Plan, Target};
use crate::replay::{LTX_HEADER_LEN, LtxHeader};

/// Headers read at a time.
const AT_ONCE: usize = 16;

/// The replicas of both versions that are in this directory.
pub(super) async fn find(store: &Store, directory: &Directory) -> Result<Vec<Backup>> {
    let Directory { path, prefix, dirs } = directory;
    let mut found = Vec::new();
    if directory.has("ltx") {
        found.push(Backup::new(store, Format::Litestream, path, prefix.dir("ltx")));
    } else if dirs.iter().any(|dir| level(dir).is_some()) {
        let backup = Backup::new(store, Format::Litestream, path, prefix.clone());
        // Anybody may have directories with such names.
        let is_file = |name: &str, object: &ObjectInfo| File::parse(name, object.clone()).is_some();
        if has_any(&backup, prefix, is_file).await? {
            found.push(backup);
        }
    }
    if directory.has("generations") {
        found.extend(litestream_03::find(store, path, &prefix.dir("generations")).await?);
    }
    Ok(found)
}

/// Four digits in buckets, one in directories.
fn level(directory: &str) -> Option<u8> {
    matches!(directory.len(), 1 | 4).then(|| directory.parse().ok()).flatten()
}

/// A file of one level.
#[derive(Debug, Clone)]
struct File {
    range: LtxRange,
    object: ObjectInfo,
}

impl File {
    /// `<level>/<first:016x>-<last:016x>.ltx`
    fn parse(name: &str, object: ObjectInfo) -> Option<File> {
        let (directory, name) = name.split_once('/')?;
        level(directory)?;
        let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
        if min.len() != 16 || max.len() != 16 {
            return None;
        }
        let (min, max) = (u64::from_str_radix(min, 16).ok()?, u64::from_str_radix(max, 16).ok()?);
        (min > 0 && min <= max).then_some(File { range: LtxRange { min, max }, object })
    }
}

async fn list(backup: &Backup) -> Result<Vec<File>> {
    let mut listing = backup.store.list(&backup.prefix, None);
    let mut files = Vec::new();
    while let Some(object) = listing.try_next().await? {
        let Some(name) = backup.prefix.strip(&object.key).map(str::to_owned) else { continue };
        let key = object.key.clone();
        if let Some(file) = File::parse(&name, object) {
            files.push(file);
        } else {
            tracing::warn!(object = %key, "is no object of Litestream, and not used");
        }
    }
    Ok(files)
}

pub(crate) async fn survey(backup: &Backup) -> Result<Survey> {
    let files = list(backup).await?;
    let snapshot = files.iter().filter(|file| file.range.min == 1).max_by_key(|file| file.range.max);
    Ok(Survey {
        objects: files.len() as u64,
        bytes: files.iter().map(|file| file.object.len).sum(),
        snapshot: snapshot.map(|file| Snapshot::of(&file.object)),
        positions: files
            .iter()
            .map(|file| file.range.max)
            .max()
            .map(|last| (files.iter().map(|file| file.range.min).min().unwrap_or(last), last)),
        last_write: files.iter().map(|file| file.object.last_modified).max(),
        ..Survey::default()
    })
}

pub(crate) async fn plan(backup: &Backup, target: Target) -> Result<Option<Plan>> {
    let mut files = list(backup).await?;
    if files.is_empty() {
        return Ok(None);
    }
    let (mut most, mut is_exact) = (u64::MAX, false);
    match target {
        Target::Latest => {}
        Target::Position(txid) => (most, is_exact) = (txid, true),
        Target::Timestamp(moment) => files = written_by(backup, files, moment).await?,
    }
    let last = files.iter().map(|file| file.range.max).filter(|max| *max <= most).max().unwrap_or(0);
    // Of those that continue: the one that leads furthest, and of these the smallest.
    let pieces = chain(backup, &files, last, |at| (files[at].range.max, Reverse(files[at].object.len)))?;
    if pieces.is_empty() {
        let what = match target {
            Target::Timestamp(moment) => return Err(backup.nothing_before(moment)),
            Target::Position(txid) => format!("with transactions up to {txid}"),
            Target::Latest => "with a beginning".to_owned(),
        };
        return Err(MigrateError::NoGeneration {
            url: backup.store.url().to_owned(),
            database: backup.database().to_owned(),
            what,
        });
    }
    if is_exact && last < most {
        tracing::warn!(last, "is the last transaction before the one that was asked for, where a file ends");
    }
    Ok(Some(Plan { page_size: None, check: false, pieces }))
}

/// From the oldest beginning there is, each transaction by itself where files still have it so.
pub(crate) async fn history(backup: &Backup) -> Result<Option<History>> {
    let files = list(backup).await?;
    let Some(last) = files.iter().map(|file| file.range.max).max() else { return Ok(None) };
    // A snapshot has the time at which it was made, others that of their last transaction: so that is taken last. Of equals it
    // is the lowest level, which is listed first.
    let mut pieces = chain(backup, &files, last, |at| {
        let File { range, object } = &files[at];
        (Reverse(range.max), range.min > 1, Reverse(object.len), Reverse(at))
    })?;
    if let Some(first) = pieces.first_mut() {
        // When the history begins is wanted before it is read.
        let header = header(backup, &first.object).await?;
        first.time = Some(Timestamp::from_millis(header.timestamp));
    }
    Ok(Some(History::of(Plan { page_size: None, check: false, pieces })))
}

/// Files that lead from nothing to the transaction `last`: at each step the best of those that go on from the one before.
fn chain<K: Ord>(
    backup: &Backup,
    files: &[File],
    last: u64,
    best: impl Fn(usize) -> K,
) -> Result<Vec<Piece>> {
    let ranges: Vec<LtxRange> = files.iter().map(|file| file.range).collect();
    let way = chain::chain(&ranges, last, best).map_err(|hole| {
        let missing = match hole.next {
            Some(next) if hole.after == 0 => format!("a snapshot, and transactions before {next}, are"),
            Some(next) => format!("transactions {} to {} are", hole.after + 1, next - 1),
            None => format!("transactions after {} are", hole.after),
        };
        let after = hole.way.last().map_or(backup.prefix(), |at| files[*at].object.key.as_str());
        MigrateError::Missing {
            url: backup.store.url().to_owned(),
            missing,
            after: after.to_owned(),
            last: (hole.after > 0).then_some(hole.after),
        }
    })?;
    let pieces = way.into_iter().map(|at| {
        let File { range, object } = files[at].clone();
        Piece { object, content: Content::Ltx(range), time: None, position: range.max }
    });
    Ok(pieces.collect())
}

async fn header(backup: &Backup, object: &ObjectInfo) -> Result<LtxHeader> {
    let header = backup.store.get_range(&object.key, 0..LTX_HEADER_LEN as u64).await?;
    let header = LtxHeader::parse(&fixed(backup, &object.key, &header)?);
    header.map_err(|reason| damaged(backup, &object.key, reason))
}

/// The files whose last transaction was made by then, as their headers say.
async fn written_by(backup: &Backup, files: Vec<File>, moment: Timestamp) -> Result<Vec<File>> {
    let files = stream::iter(files).map(|file| async move {
        let header = header(backup, &file.object).await?;
        Ok::<_, MigrateError>((header.timestamp <= moment.as_millis()).then_some(file))
    });
    let files: Vec<Option<File>> = files.buffered(AT_ONCE).try_collect().await?;
    Ok(files.into_iter().flatten().collect())
}
