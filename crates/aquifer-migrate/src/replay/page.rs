//! A page that is an object.

use std::io::Read;

use aquifer_format::PageSize;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use flate2::bufread::MultiGzDecoder;

use crate::image::{Sink, SinkError};
use crate::plan::PageObject;

/// What most databases have.
const USUAL: usize = 4096;

/// Decompresses a page and proves it. Its size is for the database to judge.
pub(super) fn decode(object: &[u8], of: PageObject) -> Result<Bytes, SinkError> {
    let mut page = Vec::with_capacity(USUAL);
    let most = PageSize::MAX.bytes() as u64 + 1;
    MultiGzDecoder::new(object).take(most).read_to_end(&mut page).map_err(SinkError::Read)?;
    let crc = |seed| {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc64Ecma182, seed);
        digest.update(&page);
        digest.finalize()
    };
    // A process that goes on in a generation begins at 0 again. Of a generation's first frame nothing says what it
    // continues; gzip's own checksum covers it.
    let found = crc(of.seed.unwrap_or(0));
    let is_whole = PageSize::new(page.len() as u32).is_ok();
    if is_whole && of.seed.is_some() && found != of.crc && crc(0) != of.crc {
        return Err(SinkError::Content(format!(
            "its page has the checksum {found:016x}, its name says {:016x}",
            of.crc
        )));
    }
    Ok(page.into())
}

/// Hands the page on. It is committed: the plan says so.
pub(super) fn replay(sink: &mut impl Sink, page: &[u8], object: PageObject) -> Result<(), SinkError> {
    let size = PageSize::new(page.len() as u32).ok().filter(|size| sink.set_page_size(*size));
    if size.is_none() {
        return Err(SinkError::Content(format!(
            "it holds {} bytes, which are no page of this database",
            page.len()
        )));
    }
    sink.settled(object.pgno, page)
}
