//! Where a synced database stands.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;

use aquifer_sqlite::WalPosition;
use serde::{Deserialize, Serialize};

use crate::frames::{Frames, Protocol};

/// Where a synced database stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// What the server knows this copy by.
    pub(crate) client_id: String,
    /// The sidecar's own file, by device and inode: a copy of it is another client.
    pub(crate) file: Option<(u64, u64)>,
    /// The remote database.
    pub(crate) remote: Option<String>,
    /// How the server is spoken to; `None`: not known yet, or Turso's, where something was pulled.
    #[serde(default)]
    pub(crate) protocol: Option<Protocol>,
    /// The version of the schema on the server, as far as it was told; what is pushed as pages goes on from it.
    #[serde(default)]
    pub(crate) schema_version: u32,
    /// Bytes of a page; 0: not known yet.
    pub(crate) page_size: u32,
    /// What the database is based on.
    pub(crate) base: Base,
    /// Up to where local work has been looked at.
    pub(crate) tracked: Option<Tracked>,
    /// Number of the last push that was begun, 0: none. They ascend by chance: two copies of one sidecar that were not
    /// told apart do not give their pushes the same numbers.
    pub(crate) change_id: i64,
    /// A push of which is not known whether the server has applied it.
    pub(crate) attempt: Option<Push>,
    /// A push that the server has applied, and that is not in the base yet.
    pub(crate) pushed: Option<Push>,
    /// A pull that was about to be applied.
    pub(crate) pull: Option<Pull>,
    /// The first fetch of the database, which is not complete.
    pub(crate) bootstrap: Option<Bootstrap>,
    /// Whether it is not known yet that libSQL's client has let go of the database.
    #[serde(default)]
    pub(crate) is_adopting: bool,
    /// When something was pushed last, in milliseconds since 1970.
    pub(crate) last_push: Option<i64>,
    /// When was pulled last, in milliseconds since 1970; also where nothing was new.
    pub(crate) last_pull: Option<i64>,
    /// Bytes sent to the server.
    pub(crate) sent: u64,
    /// Bytes received from it.
    pub(crate) received: u64,
}

/// The image that a database is based on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// The server's revision; `None`: the empty database, nothing was pulled yet.
    pub(crate) revision: Option<String>,
    /// Its pages.
    pub(crate) pages: u32,
    /// Its number: each pull makes another base.
    pub(crate) number: i64,
}

/// Up to where local work has been looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tracked {
    /// The place in the WAL, in hexadecimal.
    wal: String,
    /// The database file then.
    pub(crate) file: FileStamp,
    /// Whether it held all that was committed.
    is_whole: bool,
    /// Since when this machine is up, by a name that it gave that; `None`: it does not tell.
    #[serde(default)]
    boot: Option<String>,
}

/// A push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Push {
    /// Who made it: perhaps the copy of which this one is a copy.
    pub(crate) client_id: String,
    /// Its number, from 1.
    pub(crate) change_id: i64,
    /// Pages of the image that was pushed.
    pub(crate) pages: u32,
    /// The frames that it was pushed as; `None`: as SQL.
    #[serde(default)]
    pub(crate) frames: Option<Frames>,
}

/// A pull that is being applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pull {
    /// The base that it makes.
    pub(crate) base: Base,
    /// Bytes of a page.
    pub(crate) page_size: u32,
    /// The version of the schema on the server, if it came.
    #[serde(default)]
    pub(crate) schema_version: Option<u32>,
    /// The version of the schema that the database had before; `None`: it stays as it is.
    #[serde(default)]
    pub(crate) version_before: Option<u32>,
}

/// The first fetch of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    /// The server's revision.
    pub(crate) revision: String,
    /// Its pages.
    pub(crate) pages: u32,
    /// Whether all of it is there, and the file is about to be put into place.
    pub(crate) is_complete: bool,
}

/// What a file is known by, and when it was changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    size: u64,
    /// In nanoseconds since 1970.
    modified: i64,
    changed: i64,
}

impl Tracked {
    pub(crate) fn new(wal: &WalPosition, file: FileStamp, is_whole: bool) -> Tracked {
        use std::fmt::Write as _;
        let wal = wal.to_bytes().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Tracked { wal, file, is_whole, boot: boot().map(str::to_owned) }
    }

    /// Whether the file, as it is now, has all that was committed then and nothing else. A machine that has lost its power may
    /// have kept what was written to a file, and not that it was.
    pub(crate) fn has_all_in(&self, now: &FileStamp) -> bool {
        self.is_whole && self.file == *now && self.boot.is_some() && self.boot.as_deref() == boot()
    }

    /// The place in the WAL.
    pub(crate) fn wal(&self) -> Option<WalPosition> {
        let mut bytes = [0; WalPosition::LEN];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(self.wal.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(WalPosition::from_bytes(&bytes))
    }
}

impl FileStamp {
    pub(crate) fn of(path: &Path) -> std::io::Result<FileStamp> {
        let file = std::fs::metadata(path)?;
        Ok(FileStamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: file.mtime().saturating_mul(1_000_000_000).saturating_add(file.mtime_nsec()),
            changed: file.ctime().saturating_mul(1_000_000_000).saturating_add(file.ctime_nsec()),
        })
    }

    pub(crate) fn is_same_file(&self, other: &FileStamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Gives the file a time of modification a moment before the one that it has here.
    pub(crate) fn set_back(&self, path: &Path) -> std::io::Result<()> {
        // Not through a descriptor: to close one of the database would drop SQLite's locks on it.
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
        let modified = self.modified - 1;
        let time = |nanoseconds: i64| Timespec {
            tv_sec: nanoseconds.div_euclid(1_000_000_000),
            tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
        };
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access, last_modification: time(modified) };
        Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
    }

    /// Whether the time of modification is earlier, of the same file with the same size.
    pub(crate) fn is_older_than(&self, other: &FileStamp) -> bool {
        self.is_same_file(other) && self.size == other.size && self.modified < other.modified
    }

    /// Whether a change after `now` (milliseconds since 1970) would show: file systems count time in ticks of some
    /// milliseconds, so that a change right after another one may not.
    pub(crate) fn is_settled(&self, now: i64) -> bool {
        now.saturating_mul(1_000_000) > self.changed.saturating_add(100_000_000)
    }
}

fn boot() -> Option<&'static str> {
    static BOOT: LazyLock<Option<String>> =
        LazyLock::new(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok());
    BOOT.as_deref().map(str::trim)
}

pub(super) fn checksum(json: &str) -> i64 {
    xxhash_rust::xxh3::xxh3_64(json.as_bytes()).cast_signed()
}
