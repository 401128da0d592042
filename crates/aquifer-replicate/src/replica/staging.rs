//! Segments that wait on this disk for the store.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aquifer_format::Txid;
use aquifer_format::segment::{Group, GroupScratch, HEADER_LEN, OpenError, SegmentInfo, SegmentTally};

use crate::capture::Body;

/// The file of a staged segment.
pub(super) fn file(directory: &Path, txid: Txid) -> PathBuf {
    directory.join(format!("{}.seg", txid.to_hex()))
}

/// Writes a segment, flushed; from then on it survives a crash of the machine.
pub(super) fn write(directory: &Path, txid: Txid, body: &Body) -> io::Result<PathBuf> {
    let path = file(directory, txid);
    match body {
        Body::Memory(bytes) => {
            let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
            temporary.write_all(bytes)?;
            temporary.as_file().sync_all()?;
            temporary.persist(&path)?;
        }
        Body::Staged(file) => return Ok(file.clone()),
        Body::File(spilled) => {
            // An earlier attempt may have left it, and copying a file onto a link to itself would empty it.
            remove(&path)?;
            std::fs::hard_link(spilled, &path).or_else(|_| std::fs::copy(spilled, &path).map(|_| ()))?;
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()?;
    Ok(path)
}

/// The staged segments from `first` on, without a gap, up to and including `last`; removes all others.
pub(super) fn load(directory: &Path, last: Txid) -> io::Result<Vec<(Txid, PathBuf, SegmentInfo)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let txid = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".seg"))
            .and_then(Txid::from_hex);
        match txid {
            Some(txid) if txid <= last => found.push((txid, path)),
            // What a crash left of a file in the making, or a segment that was not recorded and so will be
            // captured again.
            _ => std::fs::remove_file(path)?,
        }
    }
    found.sort();
    let mut staged = Vec::new();
    let mut expected = last;
    for (txid, path) in found.into_iter().rev() {
        let Some(info) = verified(&path)?.filter(|info| txid == expected && info.meta().range.last == txid)
        else {
            // Whoever puts what is left finds the gap.
            tracing::warn!(file = %path.display(), "a staged segment is damaged, or the one after it is missing");
            break;
        };
        staged.push((txid, path, info));
        expected = expected.previous();
    }
    staged.reverse();
    Ok(staged)
}

/// A segment's end, if every byte of the file is what was written. Reads it group by group.
fn verified(path: &Path) -> io::Result<Option<SegmentInfo>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let read = |range: Range<u64>| {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).map(|()| bytes)
    };
    let mut suffix_len = len.min(SegmentInfo::SUFFIX_LEN);
    let info = loop {
        match SegmentInfo::open(&read(len - suffix_len..len)?, len) {
            Ok(info) => break info,
            Err(OpenError::NeedMore { suffix_len: more }) if more > suffix_len && more <= len => {
                suffix_len = more;
            }
            Err(_) => return Ok(None),
        }
    };
    let mut tally = SegmentTally::new();
    let mut scratch = GroupScratch::new();
    // What stands before the index is a companion object, to the byte.
    let groups_end = info.trailer().groups_end;
    if groups_end > len || info.check_companion(&read(0..len.min(HEADER_LEN as u64))?, groups_end).is_err() {
        return Ok(None);
    }
    for (number, expected) in info.groups().iter().enumerate() {
        let frame = read(expected.offset..expected.end())?;
        let Ok(group) = Group::decode(&frame, info.meta().page_size, number, expected, &mut scratch) else {
            return Ok(None);
        };
        tally.add(&group, &info);
        scratch.recycle(group);
    }
    Ok(tally.check(&info).is_ok().then_some(info))
}

/// Removes a segment that is durable in the store.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use aquifer_format::segment::{CompressionLevel, SegmentEncoder, SegmentMeta};
    use aquifer_format::{DbChecksum, PageHash, PageSize, Pgno, Timestamp, TxidRange, WriterNonce};

    use super::*;

    fn segment(txid: u64) -> Vec<u8> {
        let mut encoder = SegmentEncoder::new(PageSize::MIN, CompressionLevel::SHIP);
        let mut checksum = DbChecksum::EMPTY;
        for pgno in Pgno::up_to(300) {
            let page: Vec<u8> = (0..512u32).map(|i| ((i * pgno.get() * 7919) >> 3) as u8).collect();
            let hash = PageHash::of(pgno, &page);
            checksum.toggle(hash);
            encoder.push_image(pgno, &page, hash);
        }
        let mut object = std::mem::take(encoder.output());
        let meta = SegmentMeta {
            page_size: PageSize::MIN,
            range: TxidRange::one(Txid::new(txid)),
            size_before: 0,
            size_after: 300,
            checksum_before: DbChecksum::EMPTY,
            checksum_after: checksum,
            commits: 1,
            frames: 0,
            first_commit: Timestamp::default(),
            last_commit: Timestamp::default(),
            writer: WriterNonce::from_bytes([1; 16]),
        };
        object.extend_from_slice(&encoder.finish(&meta).unwrap().tail);
        object
    }

    #[test]
    fn a_staged_segment_of_which_any_byte_is_damaged_or_missing_is_not_put() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, path) = (segment(7), file(dir.path(), Txid::new(7)));
        assert!(whole.len() > 100_000, "several groups");
        let is_good = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            verified(&path).unwrap().is_some()
        };
        assert!(is_good(&whole));
        // Every byte of header, ends of groups, index and trailer, and some of the rest.
        let places = (0..whole.len()).filter(|at| *at < 64 || at % 997 == 0 || at + 400 > whole.len());
        for at in places {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            assert!(!is_good(&damaged), "byte {at}");
            assert!(!is_good(&whole[..at]), "{at} bytes");
        }
        assert!(!is_good(&[&whole[..], &[0]].concat()));
    }

    #[test]
    fn only_the_unbroken_end_of_what_was_recorded_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        for txid in [3, 5, 6, 7, 8] {
            std::fs::write(file(dir.path(), Txid::new(txid)), segment(txid)).unwrap();
        }
        std::fs::write(dir.path().join("in the making"), b"x").unwrap();
        let loaded = load(dir.path(), Txid::new(7)).unwrap();
        let txids: Vec<u64> = loaded.iter().map(|(txid, ..)| txid.get()).collect();
        assert_eq!(txids, [5, 6, 7]);
        assert!(!file(dir.path(), Txid::new(8)).exists(), "it was not recorded, and is captured again");
        // Another batch under a name that is not its own.
        std::fs::write(file(dir.path(), Txid::new(6)), segment(5)).unwrap();
        assert_eq!(load(dir.path(), Txid::new(7)).unwrap().len(), 1);
    }
}
