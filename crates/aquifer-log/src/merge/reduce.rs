//! Many small segments become few, so that they can be merged at once.

use aquifer_format::{GenerationId, Timestamp};

use super::{MAX_INPUTS, Merge, joined};
use crate::database::DatabaseStore;
use crate::error::LogError;
use crate::layout::{Level, SegmentKey};
use crate::segment_io::SegmentHandle;
use crate::segment_write::write_merged;
use crate::store::{Store, StoreUrl};

/// What may be put together in memory.
const IN_MEMORY: u64 = 64 << 20;

/// At most as many segments as can be merged at once, and the scratch directory that those made here live in, if
/// there is one: keep it as long as them.
#[derive(Debug)]
pub(crate) struct Reduced {
    pub(crate) segments: Vec<SegmentHandle>,
    _scratch: Option<tempfile::TempDir>,
}

/// Merges adjacent segments, oldest first, until few are left. The first one, usually large, is left as it is.
pub(crate) async fn reduce(mut segments: Vec<SegmentHandle>) -> Result<Reduced, LogError> {
    if segments.len() <= MAX_INPUTS {
        return Ok(Reduced { segments, _scratch: None });
    }
    let bytes: u64 = segments[1..].iter().map(|s| s.info().stored_len()).sum();
    let (scratch, url) = if bytes <= IN_MEMORY {
        (None, "memory://".parse().map_err(crate::StoreError::from)?)
    } else {
        let dir = tempfile::Builder::new().prefix("aquifer-merge-").tempdir().map_err(LogError::Scratch)?;
        let url = StoreUrl::directory(dir.path().join("segments"));
        (Some(dir), url)
    };
    let name = "scratch".parse().unwrap_or_else(|_| unreachable!("a valid name"));
    let scratch_db = DatabaseStore::new(Store::open(&url)?, name);
    // Each round's segments need names of their own: those of two forks' txids may be alike.
    let mut round = 0;
    while segments.len() > MAX_INPUTS {
        let mut fewer = vec![segments[0].clone()];
        for batch in segments[1..].chunks(MAX_INPUTS) {
            let range = joined(batch)?.range;
            let generation = GenerationId::new(Timestamp::from_millis(round));
            round += 1;
            let segment = SegmentKey { level: Level::number(1), range };
            let bytes = batch.iter().map(|s| s.info().stored_len()).sum();
            write_merged(&scratch_db, generation, segment, Merge::new(batch)?, bytes).await?;
            fewer.push(scratch_db.open_segment(generation, segment).await?);
        }
        segments = fewer;
    }
    Ok(Reduced { segments, _scratch: scratch })
}
