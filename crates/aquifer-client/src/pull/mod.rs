//! What the server sends.

mod incoming;

use std::path::Path;

use aquifer_format::PageSize;
use tokio::task::spawn_blocking;

pub(crate) use incoming::Incoming;

use crate::remote::{PullQuery, Remote};
use crate::{Error, Result};

/// Pages handed to the thread that writes them at once: some hundred KiB.
const PIECE: usize = 64;

/// Asks the server for pages, and keeps them beside the database. `page_size` is that of the database here: of an
/// answer without pages it is not known.
///
/// Cancel-safe: nothing but a temporary file comes of it.
pub(crate) async fn fetch(
    remote: &Remote,
    query: PullQuery,
    directory: &Path,
    page_size: PageSize,
) -> Result<Incoming> {
    let mut pull = remote.pull(&query).await?;
    let since = query.client_revision;
    let mut piece = Vec::with_capacity(PIECE);
    let mut first = pull.next_page().await?;
    let size = match &first {
        Some((_, page)) => PageSize::new(page.len() as u32).unwrap_or(page_size),
        None => page_size,
    };
    let failed = || Error::file("write a temporary file in", directory);
    let (revision, pages) = (pull.revision.clone(), pull.pages);
    let incoming = Incoming::new(directory, size, pages, revision, since, pull.replace_base);
    let mut incoming = incoming.map_err(failed())?;
    loop {
        let page = match first.take() {
            Some(page) => Some(page),
            None => pull.next_page().await?,
        };
        let is_last = page.is_none();
        piece.extend(page);
        if piece.len() < PIECE && !is_last {
            continue;
        }
        let pages = std::mem::take(&mut piece);
        let written = spawn_blocking(move || {
            for (pgno, page) in &pages {
                incoming.put(*pgno, page)?;
            }
            if is_last {
                incoming.finish()?;
            }
            Ok(incoming)
        });
        incoming = crate::joined(written.await).map_err(failed())?;
        if is_last {
            return Ok(incoming);
        }
    }
}
