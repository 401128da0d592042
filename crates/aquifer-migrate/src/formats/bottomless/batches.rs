//! bottomless of the libSQL server: an object for a run of frames, `<first>-<last>-<seconds>.<compression>`.
//!
//! A generation may have no snapshot, and then goes on from its parent's last frame. The frames' own checksums continue
//! from what `.meta` says, so that a whole generation is proven.

use std::cmp::Reverse;

use aquifer_format::Timestamp;
use aquifer_log::store::ObjectInfo;

use super::{Generation, meta, snapshot_piece};
use crate::backup::Backup;
use crate::codec::Codec;
use crate::error::{MigrateError, Result};
use crate::plan::{Content, FrameRun, Piece, Plan, Target};

/// A run of frames.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// 1-based, both inclusive.
    pub(super) first: u32,
    pub(super) last: u32,
    /// When it was written: whole seconds.
    seconds: i64,
    codec: Codec,
    object: ObjectInfo,
}

impl Batch {
    /// `<first:012>-<last:012>-<unix seconds>.<raw|gz|zstd>`
    pub(super) fn parse(name: &str, object: &ObjectInfo) -> Option<Batch> {
        let (numbers, compression) = name.rsplit_once('.')?;
        let codec = match compression {
            "raw" | "db" => Codec::Raw,
            "gz" => Codec::Gzip,
            "zstd" => Codec::Zstd,
            _ => return None,
        };
        let mut parts = numbers.split('-');
        let (first, last, seconds) = (parts.next()?, parts.next()?, parts.next()?);
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        let seconds = seconds.parse().ok().filter(|seconds| *seconds >= 0)?;
        let is_run = first > 0 && first <= last && last < u32::MAX && parts.next().is_none();
        is_run.then(|| Batch { first, last, seconds, codec, object: object.clone() })
    }

    /// By first frame. Of several that begin there the newest first, and of those the longest.
    pub(super) fn order(&self) -> (u32, Reverse<i64>, Reverse<u32>) {
        (self.first, Reverse(self.seconds), Reverse(self.last))
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.seconds.saturating_mul(1000))
    }
}

/// Of a generation and those before it that it needs, newest first.
pub(super) async fn plan(mut line: Vec<(Backup, Generation)>, target: Target) -> Result<Plan> {
    let (mut pieces, mut page_size) = (Vec::new(), None);
    // Nothing says how far a parent went: its last batches may be lost. Nor whether a database began empty, where there is
    // neither a snapshot nor a parent: both may be lost.
    let check = line.len() > 1 || line.iter().all(|(_, generation)| generation.snapshot.is_none());
    while let Some((backup, mut generation)) = line.pop() {
        let is_last = line.is_empty();
        pieces.extend(snapshot_piece(&mut generation));
        let batches = in_a_row(&backup, std::mem::take(&mut generation.batches), is_last.then_some(target))?;
        if batches.is_empty() {
            continue;
        }
        let Some(key) = &generation.meta else {
            return Err(backup.broken("its '.meta' is missing, which frames cannot be read without"));
        };
        let (size, checksum) = meta(&backup, key).await?;
        page_size.get_or_insert(size);
        let until = match target {
            Target::Position(position) if is_last => u32::try_from(position).unwrap_or(u32::MAX),
            _ => u32::MAX,
        };
        for (at, batch) in batches.into_iter().enumerate() {
            let start = (at == 0).then_some((size, checksum));
            let Batch { first, last, codec, .. } = batch;
            pieces.push(Piece {
                time: Some(batch.time()),
                position: u64::from(last),
                content: Content::Frames(FrameRun { codec, first, last, until, start }),
                object: batch.object,
            });
        }
    }
    Ok(Plan { page_size, check, pieces })
}

/// The batches up to the target, proven to be without a gap.
fn in_a_row(backup: &Backup, batches: Vec<Batch>, target: Option<Target>) -> Result<Vec<Batch>> {
    let mut row: Vec<Batch> = Vec::new();
    // Frames up to this one are there, and were uploaded after the target.
    let mut later = 0;
    for batch in batches {
        let expected = row.last().map_or(1, |batch| batch.last + 1);
        let is_wanted = match target {
            Some(Target::Timestamp(moment)) => batch.time() <= moment,
            Some(Target::Position(position)) => u64::from(batch.first) <= position,
            Some(Target::Latest) | None => true,
        };
        if batch.last < expected {
            // Another upload of the same frames.
            continue;
        }
        if !is_wanted {
            // An earlier upload of the same frames may be.
            later = later.max(batch.last);
            continue;
        }
        if batch.first < expected {
            return Err(backup
                .broken(format!("'{}' begins within the frames of the batch before it", batch.object.key)));
        }
        if batch.first > expected {
            if later >= expected {
                break;
            }
            return Err(MigrateError::Missing {
                url: backup.store.url().to_owned(),
                missing: format!("frames {expected} to {} are", batch.first - 1),
                after: row.last().map_or(backup.prefix(), |batch| batch.object.key.as_str()).to_owned(),
                last: target.and_then(|_| row.last()).map(|batch| u64::from(batch.last)),
            });
        }
        row.push(batch);
    }
    Ok(row)
}
