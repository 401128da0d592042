//! The formats: names of objects, and what is in them.

pub(crate) mod bottomless;
pub(crate) mod litestream;
pub(crate) mod litestream_03;
pub(crate) mod tree;
pub(crate) mod zlayer;

use aquifer_log::store::{Key, ObjectInfo, Prefix, Store};
use futures::TryStreamExt;

use crate::backup::Backup;
use crate::error::{MigrateError, Result};

/// An object of a known length.
pub(crate) async fn small<const N: usize>(backup: &Backup, key: &Key) -> Result<[u8; N]> {
    // One byte more, to see that there is none.
    let bytes = backup.store.get_range(key, 0..N as u64 + 1).await?;
    fixed(backup, key, &bytes)
}

/// The directories directly below a prefix whose names can be part of a key. Others are nobody's backup.
pub(crate) async fn directories(store: &Store, prefix: &Prefix) -> Result<Vec<String>> {
    let names: Vec<String> = store.list_dirs(prefix).try_collect().await?;
    Ok(names.into_iter().filter(|name| Key::parse(name).is_ok()).collect())
}

pub(crate) fn fixed<const N: usize>(backup: &Backup, key: &Key, bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| damaged(backup, key, format!("it has other than {N} bytes")))
}

pub(crate) fn damaged(backup: &Backup, key: &Key, reason: String) -> MigrateError {
    MigrateError::Damaged { url: backup.store.url().to_owned(), key: key.clone(), reason }
}

/// Whether there is an object under `prefix` that is one of the backup's, by its name in it. Stops at the first.
pub(crate) async fn has_any(
    backup: &Backup,
    prefix: &Prefix,
    is_one: impl Fn(&str, &ObjectInfo) -> bool,
) -> Result<bool> {
    let mut listing = backup.store.list(prefix, None);
    while let Some(object) = listing.try_next().await? {
        if backup.prefix.strip(&object.key).is_some_and(|name| is_one(name, &object)) {
            return Ok(true);
        }
    }
    Ok(false)
}
