//! What a standby knows of itself: a file beside it.
//!
//! `.NAME-aquifer-follow`: magic, stage, generation, txid, page size, identity of the database file, page 1, XXH3-64
//! of everything before it; all numbers little-endian. Replaced by rename. Beside it `.NAME-aquifer-follow.lock`.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use aquifer_format::{GenerationId, PageSize, Revision, Txid};
use aquifer_sqlite::FileLock;
use xxhash_rust::xxh3::xxh3_64;

/// Its last byte is the version.
const MAGIC: &[u8; 8] = b"AQFOLLW1";

/// What was being done to the database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing: it is the image of the revision.
    Steady,
    /// It is that image, or already the one of this txid.
    Applying(Txid),
    /// It may be anything: it must be compared page by page.
    Comparing,
}

/// The database file itself, as opposed to another one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    inode: u64,
    /// Nanoseconds since 1970, where the file system knows; numbers of inodes are used again.
    created: u64,
}

impl FileIdentity {
    pub(super) fn of(metadata: &Metadata) -> FileIdentity {
        let created = metadata.created().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        FileIdentity { inode: metadata.ino(), created: created.map_or(0, |since| since.as_nanos() as u64) }
    }
}

/// Where a standby stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) stage: Stage,
    pub(super) revision: Revision,
    pub(super) page_size: PageSize,
    pub(super) file: FileIdentity,
    /// Page 1 of the revision: in the file, SQLite keeps counters of its own in it.
    pub(super) first_page: Vec<u8>,
}

impl State {
    /// The state of the standby at `database`, if there is one that can be read.
    pub(super) fn load(database: &Path) -> io::Result<Option<State>> {
        match fs::read(path(database)) {
            Ok(bytes) => Ok(State::decode(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes it durable. The lock is held: nobody else writes it.
    pub(super) fn save(&self, database: &Path) -> io::Result<()> {
        let path = path(database);
        // Always of the same name, so that kills leave at most one, and the next save replaces it.
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let mut file = File::create(&new)?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn encode(&self) -> Vec<u8> {
        let (stage, txid) = match self.stage {
            Stage::Steady => (0u8, 0),
            Stage::Applying(txid) => (1, txid.get()),
            Stage::Comparing => (2, 0),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.push(stage);
        bytes.extend(self.revision.generation.to_string().as_bytes());
        for number in [txid, self.revision.txid.get(), self.file.inode, self.file.created] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.push(self.page_size.log2());
        bytes.extend(&self.first_page);
        let sum = xxh3_64(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<State> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        if xxh3_64(body) != u64::from_le_bytes(*sum) {
            return None;
        }
        let (&stage, rest) = body.strip_prefix(MAGIC)?.split_first()?;
        let (generation, rest) = rest.split_first_chunk::<36>()?;
        let (numbers, rest) = rest.split_first_chunk::<32>()?;
        let [target, txid, inode, created] =
            [0, 1, 2, 3].map(|n| u64::from_le_bytes(std::array::from_fn(|i| numbers[8 * n + i])));
        let (&log2, first_page) = rest.split_first()?;
        let page_size = PageSize::from_log2(log2).ok()?;
        let generation: GenerationId = std::str::from_utf8(generation).ok()?.parse().ok()?;
        let stage = match stage {
            0 => Stage::Steady,
            1 => Stage::Applying(Txid::new(target)),
            2 => Stage::Comparing,
            _ => return None,
        };
        (first_page.len() == page_size.bytes()).then(|| State {
            stage,
            revision: Revision { generation, txid: Txid::new(txid) },
            page_size,
            file: FileIdentity { inode, created },
            first_page: first_page.to_vec(),
        })
    }
}

fn path(database: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(database.file_name().unwrap_or(database.as_os_str()));
    name.push("-aquifer-follow");
    database.with_file_name(name)
}

/// The lock on a standby, held while this exists; `None` if another follower has it.
pub(super) fn lock(database: &Path) -> io::Result<Option<FileLock>> {
    let mut path = path(database).into_os_string();
    path.push(".lock");
    FileLock::try_new(Path::new(&path))
}

#[cfg(test)]
mod tests {
    use aquifer_format::Timestamp;

    use super::*;

    fn state(stage: Stage) -> State {
        State {
            stage,
            revision: Revision {
                generation: GenerationId::new(Timestamp::from_millis(4)),
                txid: Txid::new(77),
            },
            page_size: PageSize::MIN,
            file: FileIdentity { inode: 12, created: 34 },
            first_page: (0..512).map(|i| i as u8).collect(),
        }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("a.db");
        assert_eq!(State::load(&database).unwrap(), None);
        for stage in [Stage::Steady, Stage::Applying(Txid::new(80)), Stage::Comparing] {
            let state = state(stage);
            state.save(&database).unwrap();
            assert_eq!(State::load(&database).unwrap(), Some(state));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_byte_is_never_believed() {
        let whole = state(Stage::Steady).encode();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(State::decode(&damaged), None, "byte {at}");
            assert_eq!(State::decode(&whole[..at]), None, "{at} bytes");
        }
    }
}
