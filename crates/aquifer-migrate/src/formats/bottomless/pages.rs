//! bottomless 0.1: an object for each frame, `<frame>-<page>-<crc>`, and `.consistent`.
//!
//! The CRC of a page continues that of the frame before, and both are in the names. So each page is proven by itself, and
//! only the newest of each is read; bottomless' own restore reads them all.

use std::cmp::Reverse;

use aquifer_format::{Pgno, Timestamp};
use aquifer_log::store::{Key, ObjectInfo};
use rustc_hash::FxHashSet;

use super::{Member, snapshot_piece, words};
use crate::backup::Backup;
use crate::error::{MigrateError, Result};
use crate::formats::small;
use crate::plan::{Content, PageObject, Piece, Plan, Target};

/// A frame.
#[derive(Debug, Clone)]
pub(super) struct PageFrame {
    /// 1-based.
    pub(super) number: u32,
    pgno: Pgno,
    crc: u64,
    object: ObjectInfo,
}

impl PageFrame {
    /// `<frame:012>-<page:012>-<crc:016x>`
    pub(super) fn parse(name: &str, object: &ObjectInfo) -> Option<PageFrame> {
        let mut parts = name.split('-');
        let (number, pgno, crc) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || number.len() < 12 || pgno.len() < 12 || crc.len() != 16 {
            return None;
        }
        let number = number.parse().ok().filter(|number| *number > 0)?;
        let pgno = Pgno::new(pgno.parse().ok()?)?;
        Some(PageFrame { number, pgno, crc: u64::from_str_radix(crc, 16).ok()?, object: object.clone() })
    }

    /// By number. Of several of one number the newest first: the others were of a transaction that was never
    /// committed, and their numbers were used again.
    pub(super) fn order(&self) -> (u32, Reverse<Timestamp>) {
        (self.number, Reverse(self.object.last_modified))
    }
}

/// The last frame that ends a transaction, and the WAL's checksum there.
pub(super) async fn consistent(backup: &Backup, key: &Key) -> Result<(u64, u64)> {
    let [frame, s0, s1] = words(small(backup, key).await?);
    Ok((u64::from(frame), u64::from(s0) << 32 | u64::from(s1)))
}

/// Two moments are known: the database as the generation began with it, and with all frames of whole transactions, when the last
/// of them had been written.
pub(super) async fn plan(mut member: Member, target: Target) -> Result<Plan> {
    let mut frames = std::mem::take(&mut member.generation.pages);
    let (backup, generation) = (&member.backup, &member.generation);
    let consistent = match &generation.consistent {
        Some(key) => consistent(backup, key).await?.0,
        // Nothing was committed in this generation.
        None => 0,
    };
    if let Target::Position(position) = target
        && position < consistent
    {
        return Err(MigrateError::Unsupported {
            format: "bottomless 0.1",
            what: "where transactions end before the last one",
            instead: "leave out --txid, or name another --generation",
        });
    }
    frames.retain(|frame| u64::from(frame.number) <= consistent);
    frames.dedup_by_key(|frame| frame.number);
    refuse_gaps(backup, &frames, consistent)?;
    let written = frames.iter().map(|frame| frame.object.last_modified).max();
    let written = written.map(|written| written.max(member.begun()));
    if let Target::Timestamp(moment) = target
        && written.is_none_or(|written| written > moment)
    {
        frames.clear();
        if generation.snapshot.is_none() {
            return Err(backup.nothing_before(moment));
        }
    }
    let mut seen = FxHashSet::default();
    let mut pages: Vec<Piece> = Vec::new();
    for at in (0..frames.len()).rev() {
        let frame = &frames[at];
        if seen.insert(frame.pgno) {
            let seed = at.checked_sub(1).map(|before| frames[before].crc);
            pages.push(Piece {
                object: frame.object.clone(),
                content: Content::Page(PageObject { pgno: frame.pgno, crc: frame.crc, seed }),
                time: written,
                position: u64::from(frame.number),
            });
        }
    }
    // As they stand in the file.
    pages.sort_by_key(|piece| match &piece.content {
        Content::Page(page) => Some(page.pgno),
        _ => None,
    });
    let snapshot = snapshot_piece(&mut member);
    // Without one the database began empty, or its snapshot is lost: nothing else tells.
    let check = snapshot.is_none();
    Ok(Plan { page_size: None, check, pieces: snapshot.into_iter().chain(pages).collect() })
}

fn refuse_gaps(backup: &Backup, frames: &[PageFrame], consistent: u64) -> Result<()> {
    let mut expected = 1;
    let mut after = backup.prefix().to_owned();
    let missing = |first: u64, last: u64, after: String| MigrateError::Missing {
        url: backup.store.url().to_owned(),
        missing: format!("frames {first} to {last} are"),
        after,
        last: None,
    };
    for frame in frames {
        let number = u64::from(frame.number);
        if number != expected {
            return Err(missing(expected, number - 1, after));
        }
        expected = number + 1;
        frame.object.key.as_str().clone_into(&mut after);
    }
    if expected <= consistent {
        return Err(missing(expected, consistent, after));
    }
    Ok(())
}
