//! The pages of a transaction that may still be taken back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aquifer_format::Pgno;
use rustc_hash::FxHashMap;

/// Bytes of pages kept in memory; more go into a file.
const MEMORY: usize = 32 << 20;

/// Pages by number, the newest content of each.
#[derive(Debug)]
pub(crate) struct PageSet {
    /// Where the file goes, if one is needed. It has no name.
    directory: PathBuf,
    slots: FxHashMap<Pgno, u32>,
    /// Slots that were given out.
    used: u32,
    memory: Vec<u8>,
    spilled: Option<File>,
}

impl PageSet {
    pub(crate) fn new(directory: &Path) -> PageSet {
        PageSet {
            directory: directory.to_owned(),
            slots: FxHashMap::default(),
            used: 0,
            memory: Vec::new(),
            spilled: None,
        }
    }

    pub(crate) fn insert(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        let slot = *self.slots.entry(pgno).or_insert_with(|| {
            self.used += 1;
            self.used - 1
        }) as usize;
        let in_memory = MEMORY / page.len();
        if slot >= in_memory {
            let file = match &mut self.spilled {
                Some(file) => file,
                none => none.insert(tempfile::tempfile_in(&self.directory)?),
            };
            return file.write_all_at(page, ((slot - in_memory) * page.len()) as u64);
        }
        let at = slot * page.len();
        if at == self.memory.len() {
            self.memory.extend_from_slice(page);
        } else {
            self.memory[at..at + page.len()].copy_from_slice(page);
        }
        Ok(())
    }

    /// The pages that there are, ascending.
    pub(crate) fn numbers(&self) -> Vec<Pgno> {
        let mut numbers: Vec<Pgno> = self.slots.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Reads a page, whose size `page` has; false if it is not there.
    pub(crate) fn read(&self, pgno: Pgno, page: &mut [u8]) -> io::Result<bool> {
        let Some(slot) = self.slots.get(&pgno).map(|slot| *slot as usize) else { return Ok(false) };
        let (size, in_memory) = (page.len(), MEMORY / page.len());
        match &self.spilled {
            Some(file) if slot >= in_memory => {
                file.read_exact_at(page, ((slot - in_memory) * size) as u64)?;
            }
            _ => page.copy_from_slice(&self.memory[slot * size..(slot + 1) * size]),
        }
        Ok(true)
    }

    /// Forgets the pages after this number.
    pub(crate) fn truncate(&mut self, pages: u32) {
        self.slots.retain(|pgno, _| pgno.get() <= pages);
    }

    /// Hands all pages on, ascending, and is empty then.
    pub(crate) fn drain(
        &mut self,
        page_size: usize,
        mut hand_on: impl FnMut(Pgno, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut page = vec![0; page_size];
        for pgno in self.numbers() {
            self.read(pgno, &mut page)?;
            hand_on(pgno, &page)?;
        }
        self.clear();
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.used = 0;
        self.memory.clear();
        // A file that was once needed may be needed again; its old content is never read.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_content_of_each_page_comes_out_in_order_also_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut set = PageSet::new(dir.path());
        let size = 65536;
        let count = (MEMORY / size) as u32 + 40;
        for round in 0..2u8 {
            for n in (0..count).rev() {
                set.insert(Pgno::from_index(n), &vec![n as u8 ^ round; size]).unwrap();
            }
            for n in (0..count).step_by(3) {
                set.insert(Pgno::from_index(n), &vec![n as u8 ^ round ^ 0x80; size]).unwrap();
            }
            let mut expected = 0;
            set.drain(size, |pgno, page| {
                assert_eq!(pgno.get(), expected + 1);
                let newer = if expected.is_multiple_of(3) { 0x80 } else { 0 };
                assert!(page.iter().all(|b| *b == expected as u8 ^ round ^ newer), "{pgno}");
                expected += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(expected, count);
        }
    }
}
