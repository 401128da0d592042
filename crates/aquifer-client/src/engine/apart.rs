//! Local work that is apart from what the server has changed.
//!
//! A pull does the local changes once more on what the server has, row by row. Where many rows were changed all over
//! a database, most of them are on pages that the server has not touched. Where it is certain what the replay would
//! come to for a page, namely the page as it is, the page stays, and neither it nor what it was before is read.
//!
//! # When it is certain
//! Neither side has changed page 1 (so not the number of pages, the freelist or the root of the schema), another page of
//! the schema, or a page that belongs to no tree (so no overflow page that is there in all three images, and no page
//! was taken or given back). Then look at a table whose interior pages, and those of its indexes, are what they were on both sides: each leaf
//! has the same keys to hold in all three images, so whatever happened to a row happened on the same leaf.
//! - Without indexes, what is on a leaf that only we have changed is nobody else's business.
//! - With indexes, entries must go where their rows go: all leaves of table and indexes that we have changed stay, or
//!   none. They stay if the server has changed none of them. A unique value that both sides have given away would be on
//!   one leaf of the index.
//!
//! Left to the replay are tables whose rows have to do with rows of others: by foreign keys, by counting
//! (AUTOINCREMENT), and all tables where some are virtual.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_format::Pgno;
use aquifer_sqlite::btree::{BTreeError, Header, Node, height};
use aquifer_sqlite::{ReadPages, open_pages};
use roaring::RoaringBitmap;
use rusqlite::Connection;

use super::{Engine, Since, is_bookkeeping};
use crate::Result;
use crate::diff::one_less;
use crate::diff::schema::Schema;
use crate::image::Current;
use crate::pull::Incoming;
use crate::sidecar::PageMap;

/// What both sides have changed of a tree.
#[derive(Default)]
struct Tree {
    leaves: RoaringBitmap,
    interior: RoaringBitmap,
}

impl Engine {
    /// Pages that local work has changed since the base and that stay as they are, whatever becomes of the others.
    pub(super) fn apart(
        &self,
        current: &Current,
        since: &Since,
        incoming: &Incoming,
    ) -> Result<RoaringBitmap> {
        let none = RoaringBitmap::new();
        #[cfg(test)]
        if self.is_replaying_all {
            return Ok(none);
        }
        let pages = self.state().base.pages;
        let is_resized = incoming.pages() != pages || current.pages() != pages;
        if *since != Since::Base || incoming.replaces || is_resized || self.changed.is_empty() {
            return Ok(none);
        }
        let mut theirs: RoaringBitmap = incoming.pgnos().map(Pgno::get).collect();
        // SQLite counts on it, which changes nothing.
        let first = PageMap::new(self.sidecar.db()).get(Pgno::ONE).map_err(|e| self.sidecar.error(e))?;
        if first == incoming.hash(Pgno::ONE) {
            theirs.remove(1);
        }
        let touched = &self.changed | &theirs;
        if touched.contains(1) {
            return Ok(none);
        }
        let (db, _) = open_pages(Box::new(self.base_image(current)?)).map_err(|e| self.sqlite(e))?;
        let tables = unrelated(&db).map_err(|e| self.sqlite(e))?;
        let roots = roots(&db).map_err(|e| self.sqlite(e))?;
        drop(db);
        if tables.is_empty() {
            return Ok(none);
        }
        let mut base = self.base_image(current)?;
        Ok(among(&mut base, &roots, &tables, &self.changed, &theirs).unwrap_or_else(|error| {
            // Who reads the rows says it better, if he comes to the same page.
            tracing::debug!(path = %self.path.display(), %error, "all local changes are replayed");
            none
        }))
    }
}

/// Tables whose rows have nothing to do with rows of others, in lower case.
fn unrelated(db: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let schema = Schema::of(db)?;
    if !schema.virtual_tables.is_empty() {
        return Ok(BTreeSet::new());
    }
    let sql =
        "SELECT lower(s.name), lower(f.\"table\") FROM sqlite_schema s, pragma_foreign_key_list(s.name) f
               WHERE s.type = 'table'";
    let mut related = BTreeSet::new();
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        related.extend([row.get::<_, String>(0)?, row.get(1)?]);
    }
    let is_counted = |sql: &str| sql.to_ascii_uppercase().contains("AUTOINCREMENT");
    let tables = schema.tables.into_iter().filter(|(name, layout)| {
        !related.contains(name) && !is_bookkeeping(name) && !is_counted(&layout.sql)
    });
    Ok(tables.map(|(name, _)| name).collect())
}

/// All trees: of which table, in lower case, and their roots.
fn roots(db: &Connection) -> rusqlite::Result<Vec<(String, Pgno)>> {
    let mut statement =
        db.prepare("SELECT lower(tbl_name), rootpage FROM sqlite_schema WHERE rootpage > 0")?;
    let mut roots = vec![("sqlite_schema".to_owned(), Pgno::ONE)];
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(root) = Pgno::new(row.get(1)?) {
            roots.push((row.get(0)?, root));
        }
    }
    Ok(roots)
}

/// Which pages of `ours` stay; none where a page was changed that is of no tree.
fn among(
    base: &mut dyn ReadPages,
    roots: &[(String, Pgno)],
    tables: &BTreeSet<String>,
    ours: &RoaringBitmap,
    theirs: &RoaringBitmap,
) -> Result<RoaringBitmap, BTreeError> {
    let Some(header) = Header::read(base)? else { return Ok(RoaringBitmap::new()) };
    let touched = ours | theirs;
    let mut unknown = touched.clone();
    let mut trees: BTreeMap<&str, Vec<Tree>> = BTreeMap::new();
    for (table, root) in roots {
        let mut tree = Tree::default();
        let levels = height(base, &header, *root)?;
        let mut left = base.pages();
        tree.visit(base, &header, &touched, (Pgno::ONE, *root, levels), &mut left)?;
        unknown -= &tree.leaves;
        unknown -= &tree.interior;
        trees.entry(table).or_default().push(tree);
    }
    let mut apart = RoaringBitmap::new();
    let is_schema_touched =
        trees.get("sqlite_schema").is_none_or(|trees| trees.iter().any(|tree| !tree.is_quiet()));
    if !unknown.is_empty() || is_schema_touched {
        return Ok(apart);
    }
    for (table, trees) in &trees {
        if !tables.contains(*table) || trees.iter().any(|tree| !tree.interior.is_empty()) {
            continue;
        }
        let leaves = trees.iter().fold(RoaringBitmap::new(), |leaves, tree| leaves | &tree.leaves);
        let stay = &leaves & ours;
        if trees.len() == 1 || stay.is_disjoint(theirs) {
            apart |= stay - theirs;
        }
    }
    Ok(apart)
}

impl Tree {
    fn is_quiet(&self) -> bool {
        self.leaves.is_empty() && self.interior.is_empty()
    }

    /// Notes the touched pages of a subtree: the page that points to it, its top, and how many levels are above its
    /// leaves, which are not read. `left`: interior pages that may still be read before the tree is known to go in circles.
    fn visit(
        &mut self,
        pages: &mut dyn ReadPages,
        header: &Header,
        touched: &RoaringBitmap,
        (from, pgno, levels): (Pgno, Pgno, usize),
        left: &mut u32,
    ) -> Result<(), BTreeError> {
        let is_touched = touched.contains(pgno.get());
        if levels == 0 {
            if is_touched {
                self.leaves.insert(pgno.get());
            }
            return Ok(());
        }
        if is_touched {
            self.interior.insert(pgno.get());
        }
        *left = one_less(*left, pgno)?;
        let node = Node::read(pages, header, from, pgno)?;
        for i in 0..=node.cells() {
            self.visit(pages, header, touched, (pgno, node.child(i)?, levels - 1), left)?;
        }
        Ok(())
    }
}
