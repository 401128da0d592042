//! How a group's payload is stored: as it is, or compressed with zstd.
//!
//! zstd's contexts take up to some megabytes, and ten microseconds to make, as long as encoding a small segment. So they
//! are used again: as many are kept as there are processors, whatever the number of segments, databases and threads.

use std::sync::{LazyLock, Mutex, PoisonError};

use zstd::bulk::{Compressor, Decompressor};

use super::CompressionLevel;

pub(super) const RAW: u8 = 0;
pub(super) const ZSTD: u8 = 1;

/// Payloads below this are stored as they are: what changes in a small transaction hardly gets smaller.
const COMPRESS_FROM: usize = 256;

#[derive(Default)]
struct Contexts {
    /// The compressor and the level that it is set to.
    compressor: Option<(CompressionLevel, Compressor<'static>)>,
    decompressor: Option<Decompressor<'static>>,
    payload: Vec<u8>,
    compressed: Vec<u8>,
}

/// What nobody uses at this moment.
static UNUSED: Mutex<Vec<Contexts>> = Mutex::new(Vec::new());
/// More are never of use at the same time.
static KEPT: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));

/// Runs `work` with contexts that nobody else uses meanwhile.
fn with_contexts<T>(work: impl FnOnce(&mut Contexts) -> T) -> T {
    // Whatever panicked elsewhere had contexts of its own.
    let unused = || UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut contexts = unused().pop().unwrap_or_default();
    let done = work(&mut contexts);
    let mut unused = unused();
    if unused.len() < *KEPT {
        unused.push(contexts);
    }
    done
}

/// Appends `table` and `data` in the form that is smaller, and says which.
pub(super) fn append(level: CompressionLevel, table: &[u8], data: &[u8], out: &mut Vec<u8>) -> u8 {
    let smaller = level != CompressionLevel::NONE
        && table.len() + data.len() >= COMPRESS_FROM
        && with_contexts(|contexts| contexts.append_compressed(level, table, data, out));
    if smaller {
        return ZSTD;
    }
    out.extend_from_slice(table);
    out.extend_from_slice(data);
    RAW
}

/// Decompresses `stored` into the empty `payload`, which is not grown beyond `len` bytes.
pub(super) fn decompress(stored: &[u8], len: usize, payload: &mut Vec<u8>) -> std::io::Result<()> {
    with_contexts(|contexts| {
        let decompressor = match &mut contexts.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        payload.reserve_exact(len);
        decompressor.decompress_to_buffer(stored, payload)?;
        Ok(())
    })
}

impl Contexts {
    /// Whether it was appended, because it is smaller. zstd fails only for want of memory: then it is not.
    fn append_compressed(
        &mut self,
        level: CompressionLevel,
        table: &[u8],
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        if self.compressor.is_none() {
            self.compressor = Compressor::new(level.get()).ok().map(|compressor| (level, compressor));
        }
        let Some((set_to, compressor)) = &mut self.compressor else { return false };
        if *set_to != level {
            if compressor.set_compression_level(level.get()).is_err() {
                return false;
            }
            *set_to = level;
        }
        self.payload.clear();
        self.payload.extend_from_slice(table);
        self.payload.extend_from_slice(data);
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(self.payload.len()));
        let smaller = compressor
            .compress_to_buffer(&self.payload, &mut self.compressed)
            .is_ok_and(|len| len < self.payload.len());
        if smaller {
            out.extend_from_slice(&self.compressed);
        }
        smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_threads_compress_at_the_same_time_few_contexts_are_kept() {
        let all = 4 * *KEPT;
        let together = std::sync::Barrier::new(all);
        let data = vec![7; 10_000];
        std::thread::scope(|scope| {
            for _ in 0..all {
                scope.spawn(|| {
                    with_contexts(|contexts| {
                        // All of them are in use now.
                        together.wait();
                        let mut out = Vec::new();
                        assert!(contexts.append_compressed(CompressionLevel::SHIP, &[], &data, &mut out));
                    });
                });
            }
        });
        assert!(UNUSED.lock().unwrap().len() <= *KEPT);
    }
}
