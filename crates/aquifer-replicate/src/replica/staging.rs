//! Segments that wait on this disk for the store.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aquifer_format::Txid;
use aquifer_format::segment::{SegmentBytes, SegmentInfo};

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
            File::open(spilled)?.sync_all()?;
            std::fs::hard_link(spilled, &path).or_else(|_| std::fs::copy(spilled, &path).map(|_| ()))?;
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
        let bytes = std::fs::read(&path)?;
        let whole = SegmentBytes::parse(&bytes).ok().filter(|segment| segment.verify().is_ok());
        let Some(segment) = whole.filter(|_| txid == expected) else { break };
        staged.push((txid, path, segment.info().clone()));
        expected = expected.previous();
    }
    staged.reverse();
    Ok(staged)
}

/// Removes a segment that is durable in the store.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
