//! One page of a revision, without the others.

use aquifer_format::{PageHash, Pgno};
use aquifer_log::store::Store;
use aquifer_log::{Plan, SegmentHandle};

use super::budget::Budget;
use super::error::RestoreError;
use super::fold::{Window, fold};
use super::progress::Meter;

/// Reads a page of the revision that a plan from [`Plan::make`] leads to, verified. Of each segment of the plan at most
/// one group is fetched. `None`: it is beyond the end of the database, or SQLite's lock page.
///
/// # Errors
/// If the segments cannot be read, or do not belong together.
///
/// # Cancel safety
/// Dropping the future changes nothing.
pub async fn read_page(store: &Store, plan: &Plan, pgno: Pgno) -> Result<Option<Vec<u8>>, RestoreError> {
    let Some(base) = plan.steps.first().map(|step| step.handle.key()) else { return Ok(None) };
    if pgno.get() > plan.size_after || pgno == plan.page_size.lock_page() {
        return Ok(None);
    }
    let segments: Vec<SegmentHandle> = plan.steps.iter().map(|step| step.handle.clone()).collect();
    let (budget, meter) = (Budget::new(0, store), Meter::new(None));
    let window = Window { first: pgno, last: pgno };
    let (overlay, _) = fold(&segments, plan.page_size, window, &budget, &meter).await?;
    let pages = overlay.into_pages();
    let Some((_, page)) = pages.from(pgno).first() else {
        return Err(RestoreError::NoImage { pgno, base: base.clone() });
    };
    let mut content = vec![0; plan.page_size.bytes()];
    page.entry.entry(pgno).apply(&mut content);
    let (expected, found) = (page.entry.hash(), PageHash::of(pgno, &content));
    if expected != found {
        let newest = segments[page.newest].key().clone();
        return Err(RestoreError::Page { pgno, base: base.clone(), newest, expected, found });
    }
    Ok(Some(content))
}
