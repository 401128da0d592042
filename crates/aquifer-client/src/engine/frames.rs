//! Pushing pages: an image that differs from the base becomes frames, and then the base.
//!
//! As with SQL the image is kept in the sidecar before it is sent ([`Engine::outgoing_frames`]); the same frames can be
//! made of it for as long as it is not known what became of them ([`Engine::frames`]). When the server has taken them its
//! image is that one, byte by byte, and nothing has to come back ([`Engine::advance`]).

use std::path::Path;

use aquifer_format::{PageSize, Pgno};
use aquifer_sqlite::{ReadPages, open_pages};
use bytes::Bytes;
use roaring::RoaringBitmap;
use rusqlite::Connection;

use super::pulling::{SCHEMA_VERSION, schema_of, schema_version_of};
use super::{Engine, Settings, Since};
use crate::frames::{Frames, Place, Protocol};
use crate::image::{Current, PushedImage, SharedPages};
use crate::remote::{FRAMES, Frame};
use crate::sidecar::{Base, PageMap, PreImages, Push, PushedPages, Sidecar, hash_of};
use crate::{Error, Result, now};

/// Bytes of page 1 that SQLite rewrites whenever it commits, but for its own version: two counters.
const COUNTERS: [std::ops::Range<usize>; 2] = [24..28, 92..96];
/// The version of SQLite that wrote page 1.
const WRITTEN_BY: std::ops::Range<usize> = 96..100;

/// Frames as they travel.
pub(crate) struct Part {
    pub(crate) frames: Bytes,
    pub(crate) count: u32,
    /// Whether the last one is among them.
    pub(crate) is_last: bool,
}

impl Engine {
    /// How the server is spoken to; `None`: it is to be asked.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        let state = self.state();
        let known = state.protocol.or(state.base.revision.is_some().then_some(Protocol::Turso));
        known.or((self.settings.protocol != Protocol::Auto).then_some(self.settings.protocol))
    }

    /// Records how the server is spoken to.
    ///
    /// # Errors
    /// The base is of another protocol; what is wanted of a sync cannot be had with this one.
    pub(crate) fn speak(&mut self, protocol: Protocol) -> Result<()> {
        let state = self.state();
        let known = self.protocol().filter(|_| state.base.revision.is_some() || state.attempt.is_some());
        if known.is_some_and(|known| known != protocol) {
            return Err(Error::OtherProtocol { path: self.path.clone() });
        }
        if protocol == Protocol::Libsql {
            let Settings { ignored, transform, push_batch_rows, .. } = &self.settings;
            if !ignored.is_empty() || transform.is_some() || push_batch_rows.is_some() {
                return Err(Error::WholeDatabase { path: self.path.clone() });
            }
            let local = self.page_size();
            if local != PageSize::DEFAULT {
                let (path, remote) = (self.path.clone(), PageSize::DEFAULT.get());
                return Err(Error::PageSize { path, local: local.get(), remote });
            }
        }
        if self.state().protocol != Some(protocol) {
            self.sidecar.update(|_, state| {
                state.protocol = Some(protocol);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Whether the base is what a generation began with: its frames are still to come.
    pub(crate) fn is_beginning(&self) -> bool {
        let place = self.state().base.revision.as_deref().and_then(Place::of);
        place.is_some_and(|place| place.frame == 0)
    }

    /// Frames of which is not known whether the server has taken them.
    pub(crate) fn sent_frames(&self) -> Option<Frames> {
        self.state().attempt.as_ref()?.frames.clone()
    }

    /// Makes ready what is to be sent on top of the base, and records that it will be; `None`: there is nothing.
    ///
    /// As with [`outgoing`](Engine::outgoing), no page may be missing and no attempt be open.
    pub(crate) fn outgoing_frames(&mut self) -> Result<Option<Frames>> {
        let current = self.current()?;
        self.offered = self.commits;
        let Some(place) = self.state().base.revision.as_deref().and_then(Place::of) else { return Ok(None) };
        let Some(differing) = self.differing(&current, &Since::Base)? else {
            return Ok(None);
        };
        let mut page = vec![0; self.page_size().bytes()];
        self.read(&mut current.clone(), Pgno::ONE, &mut page)?;
        let (server, local) = (self.state().schema_version, schema_version_of(&page));
        let is_same = self.has_schema_of_base(&current)?;
        // A connection that meets a version that it knows believes its own schema: it must be one that nobody has seen.
        let schema_version = if is_same { server } else { server.max(local).wrapping_add(1) };
        let (generation, first) = (place.generation, place.frame + 1);
        let has_first_page = !is_same || differing.is_empty();
        let sent = Frames { generation, first, schema_version, has_first_page };
        let push = Push { frames: Some(sent.clone()), ..self.next_push(current.pages()) };
        let image = SharedPages::new(Box::new(current.clone()));
        self.record_attempt(&current, image, self.changed.clone(), push)?;
        Ok(Some(sent))
    }

    fn has_schema_of_base(&self, current: &Current) -> Result<bool> {
        let base = self.base_image(current)?;
        if base.pages() == 0 {
            return Ok(false);
        }
        let schema = |pages: Box<dyn ReadPages>| open_pages(pages).and_then(|(db, _)| schema_of(&db));
        let same = schema(Box::new(base)).and_then(|base| Ok(base == schema(Box::new(current.clone()))?));
        same.map_err(|e| self.sqlite(e))
    }

    /// The frames of the open attempt after the first `skip`, some at a time; always the same.
    pub(crate) fn frames(&mut self, skip: u32) -> Result<Part> {
        let Some((push, sent)) = self.open_frames() else {
            return Ok(Part { frames: Bytes::new(), count: 0, is_last: true });
        };
        let current = self.current()?;
        let mut image = self.pushed_image(&current, &push)?;
        let pages = pages_of(&image, &sent);
        let last = pages.max();
        let counter = (push.change_id as u32).to_be_bytes();
        let mut page = vec![0; self.page_size().bytes()];
        let (mut frames, mut count, mut is_last) = (Vec::new(), 0, false);
        for pgno in pages.iter().skip(skip as usize).take(FRAMES as usize).filter_map(Pgno::new) {
            self.read(&mut image, pgno, &mut page)?;
            if pgno == Pgno::ONE {
                // What is not kept of it in the sidecar.
                page[18..20].fill(2);
                page[SCHEMA_VERSION].copy_from_slice(&sent.schema_version.to_be_bytes());
                for counted in COUNTERS {
                    page[counted].copy_from_slice(&counter);
                }
                page[WRITTEN_BY].copy_from_slice(&rusqlite::version_number().to_be_bytes());
            }
            count += 1;
            is_last = Some(pgno.get()) == last;
            Frame::put(&mut frames, pgno, if is_last { push.pages } else { 0 }, &page);
        }
        Ok(Part { frames: frames.into(), count, is_last })
    }

    fn open_frames(&self) -> Option<(Push, Frames)> {
        let push = self.state().attempt.clone()?;
        let sent = push.frames.clone()?;
        Some((push, sent))
    }

    /// The server has taken the frames of the open attempt: what was pushed is the base. How many frames they were.
    pub(crate) fn advance(&mut self) -> Result<u32> {
        let Some((push, sent)) = self.open_frames() else { return Ok(0) };
        let mut current = self.current()?;
        let mut image = self.pushed_image(&current, &push)?;
        let missing = self.missing()?;
        let before = self.state().base.clone();
        let count = pages_of(&image, &sent).len() as u32;
        let place = Place { generation: sent.generation, frame: sent.first + count - 1 };
        let base = Base { revision: Some(place.to_string()), pages: push.pages, number: before.number + 1 };
        let (pushed, pre_images) = (PushedPages::of(push.change_id), PreImages::of(base.number));
        let mut candidates = &self.changed | &image.differing;
        candidates.remove_range(push.pages.saturating_add(1)..);
        let size = self.page_size();
        let (mut page, mut found) = (vec![0; size.bytes()], vec![0; size.bytes()]);
        let mut unreadable = None;
        let done = self.sidecar.update(|db, state| {
            let mut changed = RoaringBitmap::new();
            let mut map = PageMap::new(db);
            map.resize(push.pages, before.pages, |pgno| hash_of(pgno, size.zero_page()))?;
            pre_images.forget(db)?;
            for pgno in candidates.iter().filter_map(Pgno::new) {
                let sent = pushed.hash(db, pgno)?;
                if let Some(hash) = sent {
                    map.set(pgno, hash)?;
                }
                let is_there = pgno.get() <= current.pages() && current.read(pgno, &mut found);
                if is_there && map.get(pgno)? == Some(hash_of(pgno, &found)) {
                    continue;
                }
                changed.insert(pgno.get());
                if sent.is_none() && missing.contains(pgno.get()) {
                    continue;
                }
                if !image.read(pgno, &mut page) {
                    unreadable = Some(pgno);
                    return Err(rusqlite::Error::QueryReturnedNoRows);
                }
                pre_images.put(db, pgno, &page)?;
            }
            map.flush()?;
            Sidecar::put_changed(db, &changed)?;
            pre_images.keep_only(db, &RoaringBitmap::new())?;
            PushedPages::forget_all(db)?;
            state.base = base;
            state.schema_version = sent.schema_version;
            (state.attempt, state.pushed) = (None, None);
            state.last_push = Some(now());
            Ok(changed)
        });
        match (done, unreadable) {
            (Err(_), Some(pgno)) => Err(self.unreadable(pgno)),
            (done, _) => {
                self.changed = done?;
                Ok(count)
            }
        }
    }
}

/// The pages that are sent of an image.
fn pages_of(image: &PushedImage, sent: &Frames) -> RoaringBitmap {
    let mut pages = image.differing.clone();
    if sent.has_first_page {
        pages.insert(1);
    }
    pages
}

/// The version of the schema that a database file says.
pub(super) fn schema_version_in(path: &Path) -> Result<u32> {
    // Through SQLite: closing a descriptor of our own would drop the locks of other connections of this process.
    let version = Connection::open(path)
        .and_then(|db| db.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0)));
    let version =
        version.map_err(|source| aquifer_sqlite::Error::Sqlite { path: path.to_owned(), source })?;
    Ok(version as u32)
}
