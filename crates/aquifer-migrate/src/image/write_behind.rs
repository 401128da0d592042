//! Writing a file behind the back of who makes its content.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use aquifer_replicate::restore::EarlyFlush;

/// Bytes that are handed over at a time: the kernel takes what stands side by side as few large folios.
const BATCH: usize = 1 << 20;
/// Batches that are handed over and not written yet.
const AHEAD: usize = 4;

/// Collects what is to be written, and has a thread write it in that order. Until [`WriteBehind::settle`] nothing of it need
/// be in the file.
#[derive(Debug)]
pub(super) struct WriteBehind {
    file: Arc<File>,
    /// Where it is to be on the disk at the end.
    flush: Option<Arc<EarlyFlush>>,
    batch: Batch,
    /// Only where there is more than one batch.
    thread: Option<Thread>,
}

/// Pieces of a file, one behind the other.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each piece goes, in bytes, and how long it is.
    pieces: Vec<(u64, usize)>,
}

#[derive(Debug)]
struct Thread {
    batches: SyncSender<Batch>,
    /// Emptied, to be filled again.
    written: Receiver<io::Result<Batch>>,
    /// Batches that did not come back yet.
    pending: usize,
    /// After the channels: they close first.
    _running: Running,
}

/// Ends when the channels to it are closed. A file that is given up is closed before it is deleted.
#[derive(Debug)]
struct Running(Option<JoinHandle<()>>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            let _ = running.join();
        }
    }
}

impl WriteBehind {
    pub(super) fn new(file: Arc<File>) -> WriteBehind {
        WriteBehind { file, flush: None, batch: Batch::default(), thread: None }
    }

    /// Of a file that is to be on the disk at the end.
    pub(super) fn durable(file: Arc<File>) -> WriteBehind {
        let flush = Some(Arc::new(EarlyFlush::new(Arc::clone(&file))));
        WriteBehind { flush, ..WriteBehind::new(file) }
    }

    /// Writes `bytes` at `at`, sooner or later. An error may be that of an earlier piece.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if self.batch.bytes.len() + bytes.len() > BATCH {
            self.hand_over()?;
        }
        self.batch.push(at, bytes);
        Ok(())
    }

    /// Waits until all is in the file.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if let Some(thread) = &mut self.thread {
            while thread.pending > 0 {
                thread.take_back()?;
            }
        }
        self.batch.write(&self.file, self.flush.as_deref())
    }

    /// Waits until all is in the file, and on the disk if it is to be. No thread has it open then.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.settle()?;
        self.thread = None;
        match &self.flush {
            Some(flush) => flush.sync(),
            None => Ok(()),
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(Thread::spawn(&self.file, self.flush.as_ref())?),
        };
        let next = if thread.pending < AHEAD { Batch::default() } else { thread.take_back()? };
        thread.hand_over(std::mem::replace(&mut self.batch, next))
    }
}

impl Batch {
    fn push(&mut self, at: u64, bytes: &[u8]) {
        match self.pieces.last_mut() {
            Some((start, len)) if *start + *len as u64 == at => *len += bytes.len(),
            _ => self.pieces.push((at, bytes.len())),
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Empties it into the file.
    fn write(&mut self, file: &File, flush: Option<&EarlyFlush>) -> io::Result<()> {
        let mut rest = &self.bytes[..];
        for (at, len) in self.pieces.drain(..) {
            let (piece, more) = rest.split_at(len);
            file.write_all_at(piece, at)?;
            rest = more;
        }
        if let Some(flush) = flush {
            flush.wrote(self.bytes.len() as u64);
        }
        self.bytes.clear();
        Ok(())
    }
}

impl Thread {
    fn spawn(file: &Arc<File>, flush: Option<&Arc<EarlyFlush>>) -> io::Result<Thread> {
        let (batches, to_write) = sync_channel::<Batch>(AHEAD);
        let (done, written) = sync_channel(AHEAD);
        let (file, flush) = (Arc::clone(file), flush.cloned());
        let running = std::thread::Builder::new().name("restore-write".to_owned()).spawn(move || {
            for mut batch in to_write {
                let result = batch.write(&file, flush.as_deref());
                if done.send(result.map(|()| batch)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Thread { batches, written, pending: 0, _running: Running(Some(running)) })
    }

    fn hand_over(&mut self, batch: Batch) -> io::Result<()> {
        self.batches.send(batch).map_err(|_| gone())?;
        self.pending += 1;
        Ok(())
    }

    /// Waits for the oldest batch.
    fn take_back(&mut self) -> io::Result<Batch> {
        let written = self.written.recv().map_err(|_| gone())?;
        self.pending -= 1;
        written
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that writes is gone")
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use proptest::prelude::*;

    use super::*;

    /// Where, of what, how much; 0 bytes settle what was written before.
    fn writes() -> impl Strategy<Value = Vec<(u64, u8, usize)>> {
        // As much as the thread gets ahead, and more; one on top of the other.
        let len = prop_oneof![Just(0), 1..5000usize, Just(BATCH), Just(BATCH / 2 + 1), Just(3 * BATCH)];
        proptest::collection::vec((0..4 * BATCH as u64, any::<u8>(), len), 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_file_is_what_was_written_last_and_nobody_has_it_open_at_the_end(
            writes in writes(),
            durable in any::<bool>(),
        ) {
            let file = Arc::new(tempfile::tempfile().unwrap());
            let begin = if durable { WriteBehind::durable } else { WriteBehind::new };
            let mut writer = begin(Arc::clone(&file));
            let content = |len| {
                let mut content = vec![0; len];
                file.read_exact_at(&mut content, 0).unwrap();
                assert_eq!(file.metadata().unwrap().len(), len as u64);
                content
            };
            let mut expected = Vec::new();
            for (at, byte, len) in writes {
                if len == 0 {
                    writer.settle().unwrap();
                    prop_assert!(content(expected.len()) == expected);
                    continue;
                }
                writer.write(at, &vec![byte; len]).unwrap();
                let at = at as usize;
                expected.resize(expected.len().max(at + len), 0);
                expected[at..at + len].fill(byte);
            }
            writer.finish().unwrap();
            prop_assert!(content(expected.len()) == expected);
            prop_assert_eq!(Arc::strong_count(&file), 1);
        }
    }

    #[test]
    fn what_cannot_be_written_is_an_error_at_the_end_at_the_latest() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        for batches in [0, 1, 2 * AHEAD] {
            let file = Arc::new(OpenOptions::new().read(true).open(&path).unwrap());
            let mut writer = WriteBehind::durable(Arc::clone(&file));
            let chunk = vec![1; BATCH / 2];
            let failed = (0..2 * batches).find_map(|n| writer.write(n as u64 * 4096, &chunk).err());
            let failed = failed.or_else(|| {
                writer.write(0, b"the last").unwrap();
                writer.settle().err()
            });
            assert_eq!(failed.unwrap().raw_os_error(), Some(9), "EBADF");
            drop(writer);
            assert_eq!(Arc::strong_count(&file), 1);
        }
    }
}
