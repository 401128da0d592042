//! How objects are compressed.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;

/// How an object is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw,
    Gzip,
    Zstd,
    /// LZ4 frames.
    Lz4,
}

/// Window of zstd that is accepted, as a power of two in bytes: what `zstd --long` makes at most by default.
const ZSTD_WINDOW_LOG: u32 = 27;

impl Codec {
    /// What was compressed, in memory that does not depend on what `object` says. How much comes out is for the caller
    /// to bound.
    pub(crate) fn reader<'a>(self, object: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Codec::Raw => Box::new(object),
            Codec::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, object))),
            Codec::Lz4 => Box::new(Lz4 {
                frame: FrameDecoder::new(Source { object, is_at_end: false }),
                is_done: false,
            }),
            Codec::Zstd => {
                let mut decoder = zstd::Decoder::new(object)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// An LZ4 frame. The library takes an object that is cut off between two blocks for one that ends there.
struct Lz4<R: Read> {
    frame: FrameDecoder<Source<R>>,
    is_done: bool,
}

impl<R: Read> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_done || buffer.is_empty() {
            return Ok(0);
        }
        let n = self.frame.read(buffer)?;
        if n == 0 {
            // The frame's own end is read without looking behind it.
            if self.frame.get_ref().is_at_end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.is_done = true;
        }
        Ok(n)
    }
}

/// An object, and whether its end was seen.
struct Source<R> {
    object: R,
    is_at_end: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.object.read(buffer)?;
        self.is_at_end |= n == 0 && !buffer.is_empty();
        Ok(n)
    }
}
