//! The page map on disk: a base, and a journal of the batches since.
//!
//! Both are a cache: whatever is damaged or missing here costs reading (the database, or segments of the store), never
//! data. So the journal is not flushed at each batch. What a crash of the machine cuts off its end is caught up from
//! the store, since every record says which txid it belongs to and proves itself by a checksum.
//!
//! - `pages`: magic, head, page count, hashes, XXH3-64 of everything before it. Replaced by rename.
//! - `pages.journal`: records of `length u32, XXH3-64 u64, payload`; payload = head, pages after u32, and for each
//!   changed page its number u32 and hash u64. All little-endian.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use aquifer_format::{PageHash, Pgno, Txid};
use xxhash_rust::xxh3::xxh3_64;

use super::head::{Head, LEN as HEAD_LEN};
use super::page_map::PageMap;

const MAGIC: &[u8; 8] = b"AQPAGES2";
/// A journal larger than the base and this is folded into a new base.
const SLACK: u64 = 256 << 10;

/// The page map's files, open for appending.
#[derive(Debug)]
pub struct MapFile {
    directory: PathBuf,
    journal: Option<File>,
    journal_len: u64,
    base_len: u64,
    /// A record could not be written: those after it would be taken for changes of the image before it.
    stale: bool,
}

impl MapFile {
    /// Reads what is there; `None` where there is nothing, or nothing whole.
    pub fn load(directory: &Path) -> io::Result<(MapFile, Option<(Head, PageMap)>)> {
        Self::load_up_to(directory, Txid::new(u64::MAX))
    }

    /// As [`load`](MapFile::load), but batches after `last` are left out, and forgotten with the next
    /// [`append`](MapFile::append).
    pub fn load_up_to(directory: &Path, last: Txid) -> io::Result<(MapFile, Option<(Head, PageMap)>)> {
        let mut file = MapFile {
            directory: directory.to_owned(),
            journal: None,
            journal_len: 0,
            base_len: 0,
            stale: false,
        };
        let Some(base) = read_if_there(&file.base_path())? else { return Ok((file, None)) };
        let Some((mut head, mut map)) = decode_base(&base) else { return Ok((file, None)) };
        if head.txid > last {
            return Ok((file, None));
        }
        file.base_len = base.len() as u64;
        let journal = read_if_there(&file.journal_path())?.unwrap_or_default();
        let mut rest = &journal[..];
        while let Some((record, tail)) = split_record(rest) {
            // A journal that a crash left beside a newer base holds older batches too.
            if let Some((next, pages, changes)) = decode_record(record)
                && next.generation == head.generation
                && next.txid >= head.txid
                && is_whole(&map, pages, &changes)
            {
                if next.txid > last {
                    break;
                }
                map.apply(pages, changes);
                head = next;
            }
            rest = tail;
        }
        file.journal_len = (journal.len() - rest.len()) as u64;
        Ok((file, Some((head, map))))
    }

    /// Writes a new base, flushed, and empties the journal.
    pub fn rewrite(&mut self, head: &Head, map: &PageMap) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(MAGIC.len() + HEAD_LEN + 12 + map.hashes().len() * 8);
        bytes.extend_from_slice(MAGIC);
        head.encode(&mut bytes);
        bytes.extend_from_slice(&map.pages().to_le_bytes());
        for hash in map.hashes() {
            bytes.extend_from_slice(&hash.to_le_bytes());
        }
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        let mut temporary = tempfile::NamedTempFile::new_in(&self.directory)?;
        temporary.write_all(&bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(self.base_path())?;
        File::open(&self.directory)?.sync_all()?;
        self.base_len = bytes.len() as u64;
        self.journal = None;
        self.journal_len = 0;
        self.stale = false;
        match std::fs::remove_file(self.journal_path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Records a batch: the image at `head` has `pages` pages, and differs from the one recorded before by `changes`. Not
    /// flushed to disk. True: the journal has grown long, and a [`rewrite`](MapFile::rewrite) is due.
    ///
    /// # Errors
    /// Nothing is recorded then, and nothing may be before a [`rewrite`](MapFile::rewrite): see
    /// [`is_stale`](MapFile::is_stale).
    pub fn append(&mut self, head: &Head, pages: u32, changes: &[(Pgno, PageHash)]) -> io::Result<bool> {
        let mut payload = Vec::with_capacity(HEAD_LEN + 4 + changes.len() * 12);
        head.encode(&mut payload);
        payload.extend_from_slice(&pages.to_le_bytes());
        for (pgno, hash) in changes {
            payload.extend_from_slice(&pgno.get().to_le_bytes());
            payload.extend_from_slice(&hash.get().to_le_bytes());
        }
        let mut record = Vec::with_capacity(12 + payload.len());
        record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        record.extend_from_slice(&xxh3_64(&payload).to_le_bytes());
        record.extend_from_slice(&payload);
        debug_assert!(!self.stale, "a record is missing in between");
        if let Err(e) = self.write_record(&record) {
            self.journal = None;
            self.stale = true;
            return Err(e);
        }
        self.journal_len += record.len() as u64;
        Ok(self.journal_len > self.base_len + SLACK)
    }

    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        if self.journal.is_none() {
            let file = File::options().create(true).append(true).open(self.journal_path())?;
            // A torn record at the end would hide those appended after it.
            file.set_len(self.journal_len)?;
            self.journal = Some(file);
        }
        self.journal.as_mut().map_or(Ok(()), |journal| journal.write_all(record))
    }

    /// Whether a batch could not be recorded: only a [`rewrite`](MapFile::rewrite) brings the files up to date. Until
    /// then they describe an earlier image, as if the run had ended there.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Flushes what was appended.
    pub fn sync(&mut self) -> io::Result<()> {
        self.journal.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Closes the journal until the next [`append`](MapFile::append).
    pub fn close(&mut self) {
        self.journal = None;
    }

    fn base_path(&self) -> PathBuf {
        self.directory.join("pages")
    }

    fn journal_path(&self) -> PathBuf {
        self.directory.join("pages.journal")
    }
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match File::open(path) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn decode_base(bytes: &[u8]) -> Option<(Head, PageMap)> {
    let (body, sum) = bytes.split_last_chunk::<8>()?;
    if xxh3_64(body) != u64::from_le_bytes(*sum) {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let head = Head::decode(rest)?;
    let (pages, hashes) = rest.get(HEAD_LEN..)?.split_first_chunk::<4>()?;
    let (hashes, tail) = hashes.as_chunks::<8>();
    if hashes.len() != u32::from_le_bytes(*pages) as usize || !tail.is_empty() {
        return None;
    }
    let hashes = hashes.iter().map(|h| u64::from_le_bytes(*h)).collect();
    Some((head, PageMap::from_hashes(head.page_size, hashes)))
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (payload, tail) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    (xxh3_64(payload) == u64::from_le_bytes(*sum)).then_some((payload, tail))
}

type Changes = Vec<(Pgno, PageHash)>;

fn decode_record(payload: &[u8]) -> Option<(Head, u32, Changes)> {
    let head = Head::decode(payload)?;
    let (pages, rest) = payload.get(HEAD_LEN..)?.split_first_chunk::<4>()?;
    let (changes, tail) = rest.as_chunks::<12>();
    if !tail.is_empty() {
        return None;
    }
    let changes = changes
        .iter()
        .map(|change| {
            let pgno = u32::from_le_bytes(change[..4].try_into().ok()?);
            let hash = u64::from_le_bytes(change[4..].try_into().ok()?);
            Some((Pgno::new(pgno)?, PageHash::from_u64(hash)))
        })
        .collect::<Option<Changes>>()?;
    Some((head, u32::from_le_bytes(*pages), changes))
}

/// Whether all pages that an image gains are among the changes, the lock-byte page excepted: so a record cannot claim
/// more pages than it pays for.
fn is_whole(map: &PageMap, pages: u32, changes: &Changes) -> bool {
    pages.saturating_sub(map.pages()) as usize <= changes.len() + 1
}

#[cfg(test)]
mod tests {
    use aquifer_format::{GenerationId, PageSize, Timestamp, WriterNonce};
    use aquifer_sqlite::WalPosition;
    use tempfile::TempDir;

    use super::*;

    fn head(txid: u64, generation: GenerationId) -> Head {
        Head {
            generation,
            txid: Txid::new(txid),
            writer: WriterNonce::from_bytes([3; 16]),
            previous: txid.is_multiple_of(2).then_some(WriterNonce::from_bytes([4; 16])),
            page_size: PageSize::DEFAULT,
            last_commit: Timestamp::from_millis(txid as i64),
            wal: WalPosition { frame: txid as u32 * 3, ..WalPosition::NO_WAL },
        }
    }

    fn change(pgno: u32, hash: u64) -> (Pgno, PageHash) {
        (Pgno::new(pgno).unwrap(), PageHash::from_u64(hash))
    }

    /// Appends `n` batches, returning the state after each.
    fn fill(directory: &Path, n: u64) -> Vec<(Head, PageMap)> {
        let generation = GenerationId::new(Timestamp::from_millis(1));
        let (mut file, _) = MapFile::load(directory).unwrap();
        let mut map = PageMap::empty(PageSize::DEFAULT);
        let mut states = Vec::new();
        for txid in 1..=n {
            let pages = 3 + txid as u32;
            let changes: Vec<_> = (1..=pages).map(|p| change(p, txid * 100 + u64::from(p))).collect();
            map.apply(pages, changes.iter().copied());
            let head = head(txid, generation);
            if txid == 1 || file.append(&head, pages, &changes).unwrap() {
                file.rewrite(&head, &map).unwrap();
            }
            states.push((head, map.clone()));
        }
        states
    }

    #[test]
    fn what_was_recorded_is_read_back() {
        let dir = TempDir::new().unwrap();
        let states = fill(dir.path(), 5);
        let (_, loaded) = MapFile::load(dir.path()).unwrap();
        assert_eq!(loaded.as_ref(), states.last());
    }

    #[test]
    fn a_journal_cut_anywhere_is_an_earlier_state_and_can_be_continued() {
        let dir = TempDir::new().unwrap();
        let states = fill(dir.path(), 4);
        let journal = dir.path().join("pages.journal");
        let whole = std::fs::read(&journal).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&journal, &whole[..len]).unwrap();
            let (mut file, loaded) = MapFile::load(dir.path()).unwrap();
            let (head, mut map) = loaded.unwrap();
            assert_eq!((head, map.clone()), states[head.txid.get() as usize - 1]);
            let next = super::tests::head(9, head.generation);
            map.apply(map.pages(), [change(1, 42)]);
            file.append(&next, map.pages(), &[change(1, 42)]).unwrap();
            assert_eq!(MapFile::load(dir.path()).unwrap().1, Some((next, map)));
        }
    }

    #[test]
    fn a_damaged_byte_is_never_believed() {
        let dir = TempDir::new().unwrap();
        let states = fill(dir.path(), 3);
        for name in ["pages", "pages.journal"] {
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x10;
                std::fs::write(&path, damaged).unwrap();
                if let (_, Some(state)) = MapFile::load(dir.path()).unwrap() {
                    assert!(states.contains(&state), "byte {at} of {name}");
                }
            }
            std::fs::write(&path, whole).unwrap();
        }
    }

    #[test]
    fn a_long_journal_is_folded_into_the_base() {
        let dir = TempDir::new().unwrap();
        let states = fill(dir.path(), 400);
        assert!(std::fs::metadata(dir.path().join("pages.journal")).map_or(0, |m| m.len()) <= 2 * SLACK);
        assert_eq!(MapFile::load(dir.path()).unwrap().1.as_ref(), states.last());
    }

    /// A record, or a base, that proves itself whatever is in it.
    fn sealed(payload: &[u8], is_record: bool) -> Vec<u8> {
        let sum = xxh3_64(payload).to_le_bytes();
        if is_record {
            [&(payload.len() as u32).to_le_bytes()[..], &sum, payload].concat()
        } else {
            [payload, &sum[..]].concat()
        }
    }

    proptest::proptest! {
        /// Nothing in the files makes loading them panic, or take memory that they do not account for.
        #[test]
        fn any_bytes_are_a_state_or_none(
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            changes in proptest::collection::vec(
                (proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 1..5),
            of_base: bool,
        ) {
            let dir = TempDir::new().unwrap();
            fill(dir.path(), 3);
            let name = if of_base { "pages" } else { "pages.journal" };
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            // With checksums that fit.
            let mut payload = if of_base {
                whole[..whole.len() - 8].to_vec()
            } else {
                split_record(&whole).unwrap().0.to_vec()
            };
            for (at, byte) in changes {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            for bytes in [noise, sealed(&payload, !of_base)] {
                std::fs::write(&path, bytes).unwrap();
                if let (_, Some((_, map))) = MapFile::load(dir.path()).unwrap() {
                    proptest::prop_assert!(map.pages() < 100, "{}", map.pages());
                }
            }
        }
    }
}
