//! A page that is an object.

use std::io::Read;

use aquifer_format::PageSize;
use crc_fast::{CrcAlgorithm, Digest};

use crate::image::{Sink, SinkError};
use crate::plan::PageObject;

/// Proves the page, and hands it on. It is committed: the plan says so.
pub(super) fn replay(
    sink: &mut impl Sink,
    content: &mut impl Read,
    object: PageObject,
) -> Result<(), SinkError> {
    let most = sink.page_size().unwrap_or(PageSize::MAX).bytes();
    let mut page = Vec::with_capacity(most);
    content.take(most as u64 + 1).read_to_end(&mut page).map_err(SinkError::Read)?;
    let size = PageSize::new(page.len() as u32).ok().filter(|size| sink.set_page_size(*size));
    if size.is_none() {
        return Err(SinkError::Content(format!(
            "it holds {} bytes, which are no page of this database",
            page.len()
        )));
    }
    let crc = |seed| {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc64Ecma182, seed);
        digest.update(&page);
        digest.finalize()
    };
    // A process that goes on in a generation begins at 0 again. Of a generation's first frame nothing says what it
    // continues; gzip's own checksum covers it.
    let found = crc(object.seed.unwrap_or(0));
    if object.seed.is_some() && found != object.crc && crc(0) != object.crc {
        return Err(SinkError::Content(format!(
            "its page has the checksum {found:016x}, its name says {:016x}",
            object.crc
        )));
    }
    sink.settled(object.pgno, &page)
}
