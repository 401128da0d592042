//! Whether there is room for what is about to be written: better told before a disk is full, which others need too.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::error::RestoreError;

/// Bytes of a block as `stat` counts them.
const BLOCK: u64 = 512;
/// What a filesystem that compresses may hold of a database, in times what is free: more than any does in practice.
const COMPRESSED: u64 = 32;

/// Fails with [`RestoreError::NoRoom`] unless `file`, whose place is `path`, can become `bytes` long: its filesystem has so
/// much free, beyond what the file has already, and the process may write such files. A filesystem that does not tell is
/// believed to have room, and one that may compress to have room for many times what is free. Nothing is reserved.
pub fn require_room(file: &File, path: &Path, bytes: u64) -> Result<(), RestoreError> {
    let there = file.metadata().map_or(0, |metadata| metadata.blocks().saturating_mul(BLOCK));
    // Beyond its limit the kernel ends the process, by default.
    let most = most(free(file), there, getrlimit(Resource::Fsize).current);
    if bytes <= most {
        return Ok(());
    }
    let path = path.parent().unwrap_or(path).to_owned();
    Err(RestoreError::NoRoom { path, needed: bytes, most })
}

/// What a file may become that has so many bytes already.
fn most(free: Option<u64>, there: u64, limit: Option<u64>) -> u64 {
    let on_disk = free.map_or(u64::MAX, |free| free.saturating_add(there));
    limit.map_or(on_disk, |limit| limit.min(on_disk))
}

/// Bytes that are free for this user.
fn free(file: &File) -> Option<u64> {
    let filesystem = rustix::fs::fstatvfs(file).ok()?;
    // Some that live in a network or in a process say nothing of their size.
    let free = filesystem.f_bavail.saturating_mul(filesystem.f_frsize);
    let times = if compresses(file) { COMPRESSED } else { 1 };
    (filesystem.f_blocks > 0).then(|| free.saturating_mul(times))
}

/// Whether a file may take less than its length. Sources: `linux/magic.h`; `sys/fs/zfs.h`; `bcachefs_format.h`.
#[cfg(target_os = "linux")]
fn compresses(file: &File) -> bool {
    const BTRFS: u32 = 0x9123_683e;
    const ZFS: u32 = 0x2fc1_2fc1;
    const F2FS: u32 = 0xf2f5_2010;
    const BCACHEFS: u32 = 0xca45_1a4e;
    // The type's width and sign are the architecture's; the numbers have 32 bits.
    rustix::fs::fstatfs(file).is_ok_and(|fs| [BTRFS, ZFS, F2FS, BCACHEFS].contains(&(fs.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn compresses(_file: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_become_what_is_free_and_what_it_has_within_its_limit() {
        assert_eq!(most(Some(100), 20, None), 120);
        assert_eq!(most(Some(100), 20, Some(110)), 110);
        assert_eq!(most(None, 20, Some(110)), 110);
        assert_eq!(most(None, 20, None), u64::MAX);
    }

    #[test]
    fn what_no_disk_holds_is_refused_and_named_by_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = File::create(&path).unwrap();
        require_room(&file, &path, 1 << 20).unwrap();
        let error = require_room(&file, &path, 1 << 60).unwrap_err();
        assert!(matches!(&error, RestoreError::NoRoom { path, .. } if path == dir.path()), "{error}");
        assert!(error.to_string().contains("takes 1099511627776 MiB"), "{error}");
    }
}
