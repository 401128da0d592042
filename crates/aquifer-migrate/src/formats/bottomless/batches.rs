//! bottomless of the libSQL server: an object for a run of frames, `<first>-<last>-<seconds>.<compression>`.
//!
//! A generation may have no snapshot, and then goes on from its parent's last frame. The frames' own checksums continue
//! from what `.meta` says, so that a whole generation is proven.

use std::cmp::Reverse;

use aquifer_format::Timestamp;
use aquifer_log::store::ObjectInfo;
use rustc_hash::FxHashMap;

use super::{Member, meta, snapshot_piece};
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
        let seconds = seconds.parse().ok()?;
        let is_run = first > 0 && first <= last && last < u32::MAX && parts.next().is_none();
        is_run.then(|| Batch { first, last, seconds, codec, object: object.clone() })
    }

    /// By first frame. Of several that begin there the newest first, and of those the longest.
    pub(super) fn order(&self) -> (u32, Reverse<i64>, Reverse<u32>) {
        (self.first, Reverse(self.seconds), Reverse(self.last))
    }

    fn time(&self) -> Timestamp {
        timestamp(self.seconds)
    }

    /// When it was written, since 1970.
    pub(super) fn seconds(&self) -> i64 {
        self.seconds
    }
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

/// Of a generation and those before it that it needs, newest first. The first `own` of them have moments of their own; what the
/// others have is there when these begin.
pub(super) async fn plan(mut line: Vec<Member>, target: Target, own: usize) -> Result<Plan> {
    let newest = line[0].backup.clone();
    let (mut pieces, mut page_size) = (Vec::new(), None);
    // Nothing says how far a parent went: its last batches may be lost, or others be written after the child began. Nor whether
    // a database began empty, where there is neither a snapshot nor a parent: both may be lost.
    let check = line.len() > 1 || line.iter().all(|member| member.generation.snapshot.is_none());
    while let Some(mut member) = line.pop() {
        let times = Times::of(&member, &line, own);
        if let Some(child) = line.last()
            && member.went_on_after(child)
        {
            tracing::warn!(
                generation = member.backup.generation(),
                child = child.backup.generation(),
                "has frames from after the generation began that goes on from it: what that began with cannot be told"
            );
        }
        let snapshot = snapshot_piece(&mut member);
        pieces.extend(snapshot.map(|piece| Piece { time: piece.time.map(|time| times.at(time)), ..piece }));
        let Member { backup, mut generation } = member;
        let batches = std::mem::take(&mut generation.batches);
        let there = first_there(&batches);
        let batches = in_a_row(&backup, batches, line.is_empty().then_some(target))?;
        if batches.is_empty() {
            continue;
        }
        let Some(key) = &generation.meta else {
            return Err(backup.broken("its '.meta' is missing, which frames cannot be read without"));
        };
        let (size, checksum) = meta(&backup, key).await?;
        page_size.get_or_insert(size);
        let until = match target {
            Target::Position(position) if line.is_empty() => u32::try_from(position).unwrap_or(u32::MAX),
            _ => u32::MAX,
        };
        for (at, batch) in batches.into_iter().enumerate() {
            let start = (at == 0).then_some((size, checksum));
            let time = there.get(&batch.last).map_or(batch.time(), |seconds| timestamp(*seconds));
            let Batch { first, last, codec, .. } = batch;
            pieces.push(Piece {
                time: Some(times.at(time)),
                position: u64::from(last),
                content: Content::Frames(FrameRun { codec, first, last, until, start }),
                object: batch.object,
            });
        }
    }
    if let Target::Timestamp(moment) = target
        && pieces.is_empty()
    {
        return Err(newest.nothing_before(moment));
    }
    Ok(Plan { page_size, check, pieces })
}

/// Between which moments the moments of a generation are. A restore to a moment takes the newest generation that had begun
/// then, and what that goes on from as a whole, whatever the times of its objects are.
struct Times {
    first: Timestamp,
    last: Timestamp,
}

impl Times {
    /// `newer` go on from it, newest first.
    fn of(member: &Member, newer: &[Member], own: usize) -> Times {
        let began = |members: &[Member]| members.iter().map(Member::begun).min();
        let end = Timestamp::from_millis(i64::MAX);
        if newer.len() < own {
            return Times { first: member.begun(), last: began(newer).unwrap_or(end) };
        }
        let last = began(&newer[..own]).unwrap_or(end);
        Times { first: last, last }
    }

    fn at(&self, time: Timestamp) -> Timestamp {
        time.max(self.first).min(self.last)
    }
}

/// When frames up to a batch's last were there first, in seconds, by that last one: some are uploaded again.
fn first_there(batches: &[Batch]) -> FxHashMap<u32, i64> {
    let mut there: FxHashMap<u32, i64> = FxHashMap::default();
    for batch in batches {
        let before = match batch.first {
            1 => Some(i64::MIN),
            first => there.get(&(first - 1)).copied(),
        };
        if let Some(before) = before {
            let now = before.max(batch.seconds);
            there.entry(batch.last).and_modify(|known| *known = now.min(*known)).or_insert(now);
        }
    }
    there
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
