//! Backups that lie under a path of their user's choice: looked for from the store's root down.

use aquifer_log::store::{Prefix, Store};
use futures::{StreamExt, TryStreamExt, stream};

use super::{directories, litestream, zlayer};
use crate::backup::{Backup, Origin};
use crate::error::Result;

/// How deep below the store's root.
const DEEPEST: usize = 4;
/// Directories looked into at a time.
const AT_ONCE: usize = 16;

/// A directory of a store.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    /// As a name: without a slash at its end, empty for the root.
    pub(super) path: String,
    pub(super) prefix: Prefix,
    /// The directories directly in it.
    pub(super) dirs: Vec<String>,
}

impl Directory {
    async fn list(store: &Store, path: String, prefix: Prefix) -> Result<Directory> {
        let dirs = directories(store, &prefix).await?;
        Ok(Directory { path, prefix, dirs })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.dirs.iter().any(|dir| dir == name)
    }

    fn below(&self) -> impl Iterator<Item = (String, Prefix)> {
        self.dirs.iter().filter(|dir| !dir.starts_with('.')).map(|dir| {
            let path = if self.path.is_empty() { dir.clone() } else { format!("{}/{dir}", self.path) };
            (path, self.prefix.dir(dir))
        })
    }
}

/// Of Litestream and zlayer-storage, by path. What lies below a backup is not looked at.
pub(crate) async fn find(store: &Store, origin: Origin) -> Result<Vec<Backup>> {
    let mut found = Vec::new();
    let mut level = vec![(String::new(), Prefix::ROOT)];
    for _ in 0..DEEPEST {
        let looked = stream::iter(std::mem::take(&mut level));
        let looked = looked.map(|(path, prefix)| async move {
            let directory = Directory::list(store, path, prefix).await?;
            let mut here = Vec::new();
            if origin != Origin::Zlayer {
                here.extend(litestream::find(store, &directory).await?);
            }
            if origin != Origin::Litestream {
                here.extend(zlayer::find(store, &directory).await?);
            }
            Ok::<_, crate::MigrateError>((directory, here))
        });
        let looked: Vec<(Directory, Vec<Backup>)> = looked.buffered(AT_ONCE).try_collect().await?;
        for (directory, here) in looked {
            if here.is_empty() {
                level.extend(directory.below());
            }
            found.extend(here);
        }
    }
    found.sort_by(|a, b| a.database().cmp(b.database()));
    Ok(found)
}
