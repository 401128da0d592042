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
pub(super) struct PageSet {
    /// Where the file goes, if one is needed. It has no name.
    directory: PathBuf,
    slots: FxHashMap<Pgno, u32>,
    memory: Vec<u8>,
    spilled: Option<File>,
}

impl PageSet {
    pub(super) fn new(directory: &Path) -> PageSet {
        PageSet {
            directory: directory.to_owned(),
            slots: FxHashMap::default(),
            memory: Vec::new(),
            spilled: None,
        }
    }

    pub(super) fn insert(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        let next = self.slots.len() as u32;
        let slot = *self.slots.entry(pgno).or_insert(next) as usize;
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

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Hands all pages on, ascending, and is empty then.
    pub(super) fn drain<E: From<io::Error>>(
        &mut self,
        page_size: usize,
        mut page: impl FnMut(Pgno, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut slots: Vec<(Pgno, u32)> = self.slots.drain().collect();
        slots.sort_unstable();
        let in_memory = MEMORY / page_size;
        let mut buffer = vec![0; if self.spilled.is_some() { page_size } else { 0 }];
        for (pgno, slot) in slots {
            let slot = slot as usize;
            match &self.spilled {
                Some(file) if slot >= in_memory => {
                    file.read_exact_at(&mut buffer, ((slot - in_memory) * page_size) as u64)?;
                    page(pgno, &buffer)?;
                }
                _ => page(pgno, &self.memory[slot * page_size..(slot + 1) * page_size])?,
            }
        }
        self.clear();
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
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
            set.drain::<io::Error>(size, |pgno, page| {
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
