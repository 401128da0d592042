//! The database that is here, as far as its header and its WAL tell.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aquifer_sqlite::Handle;
use aquifer_sqlite::wal::{FrameReader, HEADER_LEN, WalHeader};

use crate::error::{MigrateError, Result};

/// A database file that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Local {
    /// The file's, without what is in the WAL: what bottomless notes when a generation begins.
    pub(crate) change_counter: u32,
    /// Frames of the WAL up to its last commit.
    pub(crate) frames: u32,
}

impl Local {
    /// `None` where there is no file, or nothing in it. Blocks.
    pub(crate) fn look(path: &Path) -> Result<Option<Local>> {
        match std::fs::metadata(path) {
            Ok(file) if file.len() == 0 => return Ok(None),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(MigrateError::io("look up", path, e)),
        }
        let header = Handle::read_header(path)?;
        if !header.starts_with(b"SQLite format 3\0") {
            return Err(aquifer_sqlite::Error::NotADatabase(path.to_owned()).into());
        }
        let wal = wal_of(path);
        let frames = committed_frames(&wal).map_err(|e| MigrateError::io("read", &wal, e))?;
        Ok(Some(Local { change_counter: change_counter(&header), frames }))
    }
}

/// The change counter in a database's header.
pub(crate) fn change_counter(header: &[u8; 100]) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| header[24 + i]))
}

fn wal_of(database: &Path) -> PathBuf {
    let mut name: OsString = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Behind the last frame stands what the WAL was before it began anew: there its checksums end.
fn committed_frames(wal: &Path) -> io::Result<u32> {
    let file = match File::open(wal) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut header = [0; HEADER_LEN];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
        Err(e) => return Err(e),
    }
    let Ok(header) = WalHeader::parse(&header) else { return Ok(0) };
    let Ok(mut frames) = FrameReader::from_start(&file, header.salts)? else { return Ok(0) };
    let mut committed = 0;
    while let Ok(Some(frame)) = frames.next(u32::MAX)? {
        if frame.commit != 0 {
            committed = frame.number;
        }
    }
    Ok(committed)
}
