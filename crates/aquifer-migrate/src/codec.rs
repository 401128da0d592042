//! How objects are compressed.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

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
            Codec::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(object)),
            Codec::Zstd => {
                let mut decoder = zstd::Decoder::new(object)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}
