//! What a server has, as pages.

use std::path::Path;

use aquifer_format::{PageSize, Pgno};
use bytes::Bytes;
use roaring::RoaringBitmap;
use tokio::task::spawn_blocking;

use super::Place;
use crate::pull::Incoming;
use crate::remote::{FRAMES, FramesPulled, Remote, RemoteError};
use crate::{Error, Result, joined};

/// Pages handed to the thread that writes them at once.
const PIECE: usize = 64;

/// Pages on their way into a file.
struct Writing<'d> {
    incoming: Incoming,
    directory: &'d Path,
    piece: Vec<(Pgno, Bytes)>,
    /// Which pages are kept; `None`: all.
    wanted: Option<&'d RoaringBitmap>,
}

impl Writing<'_> {
    async fn put(mut self, pgno: Pgno, page: Bytes) -> Result<Self> {
        if self.wanted.is_some_and(|wanted| !wanted.contains(pgno.get())) {
            return Ok(self);
        }
        self.piece.push((pgno, page));
        if self.piece.len() < PIECE { Ok(self) } else { self.write(None).await }
    }

    /// All that came is a whole transaction, after which there are so many pages.
    async fn commit(self, pages: u32) -> Result<Self> {
        self.write(Some(pages)).await
    }

    async fn write(mut self, commit: Option<u32>) -> Result<Self> {
        let (piece, mut incoming) = (std::mem::take(&mut self.piece), self.incoming);
        let written = spawn_blocking(move || {
            for (pgno, page) in &piece {
                incoming.put_uncommitted(*pgno, page)?;
            }
            if let Some(pages) = commit {
                incoming.commit(pages)?;
            }
            Ok(incoming)
        });
        let failed = Error::file("write a temporary file in", self.directory);
        self.incoming = joined(written.await).map_err(failed)?;
        Ok(self)
    }
}

/// Fetches what the server has changed since a place; or all that it has, where the place is none of its history. The
/// base has `base_pages` pages.
///
/// Cancel-safe: nothing but a temporary file comes of it.
pub(crate) async fn fetch(
    remote: &Remote,
    since: Option<String>,
    base_pages: u32,
    directory: &Path,
) -> Result<Incoming> {
    if let Some(place) = since.as_deref().and_then(Place::of) {
        let writing = begin(directory, PageSize::DEFAULT, base_pages, since.clone(), false)?;
        match follow(remote, place, writing).await {
            Ok(Some(incoming)) => return Ok(incoming),
            Ok(None) | Err(Error::Remote(RemoteError::Gone { .. })) => {
                tracing::info!(%place, "the server has another history by now: all of it is fetched");
            }
            Err(error) => return Err(error),
        }
    }
    let generation = remote.frames_generation().await?;
    let mut export = remote.export(generation).await?;
    let replaces = since.is_some();
    let mut writing = begin(directory, export.page_size, export.pages, since, replaces)?;
    while let Some((pgno, page)) = export.next_page().await? {
        writing = writing.put(pgno, page).await?;
    }
    let writing = writing.commit(export.pages).await?;
    if export.page_size != PageSize::DEFAULT {
        // It has no frames, and the page size is an error of its own.
        return Ok(writing.incoming);
    }
    let place = Place { generation, frame: 0 };
    let reason = || RemoteError::Protocol {
        remote: remote.url().to_owned(),
        reason: format!("it is in generation {generation}, and does not know it"),
    };
    follow(remote, place, writing).await?.ok_or_else(|| reason().into())
}

fn begin(
    directory: &Path,
    size: PageSize,
    pages: u32,
    since: Option<String>,
    replaces: bool,
) -> Result<Writing<'_>> {
    let incoming = Incoming::new(directory, size, pages, String::new(), since, replaces);
    let incoming = incoming.map_err(Error::file("write a temporary file in", directory))?;
    Ok(Writing { incoming, directory, piece: Vec::new(), wanted: None })
}

/// Takes the frames after a place, up to the last whole transaction; `None`: the server has no such place.
async fn follow(remote: &Remote, mut place: Place, mut writing: Writing<'_>) -> Result<Option<Incoming>> {
    // The frame that is asked for next: after `place` in the middle of a transaction.
    let mut next = place.frame + 1;
    loop {
        let mut frames = match remote.frames(place.generation, next, next.saturating_add(FRAMES)).await? {
            FramesPulled::Some(frames) => frames,
            FramesPulled::End { generation, last } if generation == place.generation => {
                if last.is_some_and(|last| last < place.frame) {
                    return Ok(None);
                }
                break;
            }
            FramesPulled::End { generation, .. } if generation > place.generation => {
                // It begins with the image that the one before ends with.
                place = Place { generation: place.generation + 1, frame: 0 };
                next = 1;
                continue;
            }
            FramesPulled::End { .. } => return Ok(None),
        };
        let before = next;
        while let Some(frame) = frames.next().await? {
            writing = writing.put(frame.pgno, frame.page).await?;
            if frame.size > 0 {
                writing = writing.commit(frame.size).await?;
                place.frame = next;
            }
            next += 1;
        }
        if next == before {
            return Err(frames.error("there are neither frames nor an end of them".to_owned()).into());
        }
        // What came last is all there was.
        if next - before < FRAMES && place.frame + 1 == next {
            break;
        }
    }
    writing.incoming.revision = place.to_string();
    Ok(Some(writing.incoming))
}

/// Pages of a base, as far as the server has them as they were: those that the generation has changed until then, or all
/// as they were when it began. They need not be what the base has: a server may send later content in frames.
pub(crate) async fn base_pages(
    remote: &Remote,
    place: Place,
    wanted: &RoaringBitmap,
    from_beginning: bool,
    directory: &Path,
) -> Result<Incoming> {
    if from_beginning {
        let mut export = remote.export(place.generation).await?;
        let mut begun = begin(directory, export.page_size, export.pages, None, false)?;
        begun.wanted = Some(wanted);
        while let Some((pgno, page)) = export.next_page().await? {
            begun = begun.put(pgno, page).await?;
        }
        return Ok(begun.commit(export.pages).await?.incoming);
    }
    let mut changed = begin(directory, PageSize::DEFAULT, 0, None, false)?;
    changed.wanted = Some(wanted);
    let mut next = 1;
    while next <= place.frame {
        // A server that has no single frames sends the image as of the last one that is asked for.
        let end = place.frame + 1;
        let FramesPulled::Some(mut frames) = remote.frames(place.generation, next, end).await? else { break };
        let before = next;
        while let Some(frame) = frames.next().await? {
            next += 1;
            changed = changed.put(frame.pgno, frame.page).await?;
        }
        if next == before {
            break;
        }
    }
    Ok(changed.commit(u32::MAX).await?.incoming)
}

/// Whether the server has the frame of a place.
pub(crate) async fn has_frame(remote: &Remote, place: Place) -> Result<bool, RemoteError> {
    if place.frame == 0 {
        return Ok(true);
    }
    match remote.frames(place.generation, place.frame, place.frame + 1).await {
        Ok(pulled) => Ok(matches!(pulled, FramesPulled::Some(_))),
        Err(RemoteError::Gone { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The database as of a place; `None`: the server does not have it.
pub(crate) async fn image_at(remote: &Remote, place: Place, directory: &Path) -> Result<Option<Incoming>> {
    let known = async {
        let mut export = remote.export(place.generation).await?;
        let mut writing = begin(directory, export.page_size, export.pages, None, true)?;
        while let Some((pgno, page)) = export.next_page().await? {
            writing = writing.put(pgno, page).await?;
        }
        writing = writing.commit(export.pages).await?;
        let (mut next, mut whole) = (1, 0);
        while next <= place.frame {
            let pulled = remote.frames(place.generation, next, place.frame + 1).await?;
            let FramesPulled::Some(mut frames) = pulled else { return Ok(None) };
            let before = next;
            while let Some(frame) = frames.next().await? {
                writing = writing.put(frame.pgno, frame.page).await?;
                if frame.size > 0 {
                    writing = writing.commit(frame.size).await?;
                    whole = next;
                }
                next += 1;
            }
            if next == before {
                return Ok(None);
            }
        }
        // A server that has no single frames may answer with all that came later.
        Ok((whole == place.frame).then_some(writing.incoming))
    };
    match known.await {
        Err(Error::Remote(RemoteError::Gone { .. })) => Ok(None),
        known => known,
    }
}
