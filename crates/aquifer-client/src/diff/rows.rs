//! The rows of one table that differ: two streams in the order of the keys, merged.

use std::cmp::Ordering;
use std::sync::Arc;

use aquifer_format::Pgno;
use aquifer_sqlite::btree::{self, BTreeError, Encoding, Field, Header, Payload, Record, Value};
use roaring::RoaringBitmap;

use super::image::Image;
use super::key::{Collation, compare};
use super::{Error, Key, Result, RowChange};

/// Where a value of a row is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// It is the rowid.
    Rowid,
    /// The value of a record at this position; in a column of reals or not; what is there in records that are too short.
    Stored { at: usize, is_real: bool, default: Value },
    /// Nowhere: a column that all rows of that image lack.
    Missing(Value),
}

/// How rows of a table are told apart.
#[derive(Debug, Clone)]
pub(super) enum Order {
    Rowid,
    /// By the first values of each record; true: descending.
    Primary(Vec<(Collation, bool)>),
    /// By so many of the first values of each record, in an order that only the application knows.
    Unknown(usize),
}

/// The rows that are not in shared subtrees, of one image.
pub(super) struct Stream {
    image: Image,
    header: Header,
    root: Pgno,
    rows: btree::Rows,
    shared: Arc<RoaringBitmap>,
    places: Vec<Place>,
    order: Order,
    next: Option<Entry>,
}

#[derive(Debug)]
struct Entry {
    rowid: i64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Not all of it is needed to know the key.
    Payload(Payload),
    Whole(Vec<u8>),
}

impl Stream {
    /// `None`: there are no such rows.
    pub(super) fn new(
        mut image: Image,
        root: Pgno,
        shared: Arc<RoaringBitmap>,
        places: Vec<Place>,
        order: Order,
    ) -> Result<Option<Stream>> {
        let Some(header) = image.header.filter(|_| !shared.contains(root.get())) else { return Ok(None) };
        let rows = image.with(|pages| btree::Rows::new(pages, header, root))?;
        let mut stream = Stream { image, header, root, rows, shared, places, order, next: None };
        stream.advance()?;
        Ok(Some(stream))
    }

    /// Goes on to the next row; gives the one that was there.
    fn advance(&mut self) -> Result<Option<Entry>> {
        let (header, shared, rows) = (self.header, &self.shared, &mut self.rows);
        let has_rowids = matches!(self.order, Order::Rowid);
        let next = self.image.with(|pages| {
            let Some(cell) = rows.next(pages, |pgno| shared.contains(pgno.get()))? else { return Ok(None) };
            let content = if has_rowids {
                Content::Payload(cell.payload)
            } else {
                Content::Whole(cell.payload.read(pages, &header)?)
            };
            Ok(Some(Entry { rowid: cell.rowid, content }))
        })?;
        let before = std::mem::replace(&mut self.next, next);
        // A merge of rows that are out of order would invent differences.
        if let (Some(before), Some(next)) = (&before, &self.next)
            && !matches!(self.order, Order::Unknown(_))
            && self.compare(before, next, self.header.encoding)? != Ordering::Less
        {
            return Err(self.damaged("its rows are not in the order of their keys"));
        }
        Ok(before)
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Pages { side: self.image.side, source: BTreeError::Damaged { pgno: self.root, reason } }
    }

    /// The order of two rows' keys.
    fn compare(&self, a: &Entry, b: &Entry, encoding: Encoding) -> Result<Ordering> {
        let (Order::Primary(parts), Content::Whole(a), Content::Whole(b)) =
            (&self.order, &a.content, &b.content)
        else {
            return Ok(a.rowid.cmp(&b.rowid));
        };
        let bad = || self.damaged("a row lacks a part of its primary key");
        let mut a = Record::new(a).ok_or_else(bad)?;
        let mut b = Record::new(b).ok_or_else(bad)?;
        for &(collation, is_descending) in parts {
            let a = a.next_field().flatten().ok_or_else(bad)?;
            let b = b.next_field().flatten().ok_or_else(bad)?;
            let order = compare(collation, encoding, a, b);
            if order != Ordering::Equal {
                return Ok(if is_descending { order.reverse() } else { order });
            }
        }
        Ok(Ordering::Equal)
    }

    /// The record of the next row.
    pub(super) fn next_record(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(entry) = self.advance()? else { return Ok(None) };
        self.whole(entry).map(|(_, record)| Some(record))
    }

    /// All of a row.
    fn whole(&mut self, entry: Entry) -> Result<(i64, Vec<u8>)> {
        let header = self.header;
        let record = match entry.content {
            Content::Whole(record) => record,
            Content::Payload(payload) => self.image.with(|pages| payload.read(pages, &header))?,
        };
        Ok((entry.rowid, record))
    }

    /// What a row is found by, and its values.
    pub(super) fn values(&self, rowid: i64, record: &[u8]) -> Result<(Key, Vec<Value>)> {
        let bad = || self.damaged("it has a row that is no record");
        let mut fields = Vec::new();
        let mut rest = Record::new(record).ok_or_else(bad)?;
        while let Some(field) = rest.next_field().ok_or_else(bad)? {
            fields.push(field);
        }
        let encoding = self.header.encoding;
        let value = |place: &Place| match place {
            Place::Rowid => Value::Integer(rowid),
            Place::Missing(value) => value.clone(),
            Place::Stored { at, is_real, default } => match fields.get(*at) {
                None => default.clone(),
                Some(Field::Integer(n)) if *is_real => Value::Real(*n as f64),
                Some(field) => field.to_value(encoding),
            },
        };
        let values = self.places.iter().map(value).collect();
        let parts = match &self.order {
            Order::Rowid => None,
            Order::Primary(parts) => Some(parts.len()),
            Order::Unknown(parts) => Some(*parts),
        };
        let key = match parts {
            None => Key::Rowid(rowid),
            Some(parts) => {
                let part = |at: usize| {
                    let place = self
                        .places
                        .iter()
                        .find(|place| matches!(place, Place::Stored { at: a, .. } if *a == at));
                    place.map_or(Value::Null, value)
                };
                Key::Primary((0..parts).map(part).collect())
            }
        };
        Ok((key, values))
    }

    fn values_of(&mut self, entry: Entry) -> Result<(Key, Vec<Value>)> {
        let (rowid, record) = self.whole(entry)?;
        self.values(rowid, &record)
    }
}

/// The rows of one tree that differ.
pub(super) struct Merge {
    pub(super) base: Option<Stream>,
    pub(super) current: Option<Stream>,
    /// Records of equal bytes are equal rows.
    pub(super) is_alike: bool,
}

impl Merge {
    pub(super) fn step(&mut self) -> Result<Option<RowChange>> {
        loop {
            let before = self.base.as_ref().and_then(|stream| stream.next.as_ref());
            let now = self.current.as_ref().and_then(|stream| stream.next.as_ref());
            let order = match (before, now) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(now)) => match &self.current {
                    Some(stream) => stream.compare(before, now, stream.header.encoding)?,
                    None => Ordering::Less,
                },
            };
            let mut taken = (None, None);
            if let Some(stream) = self.base.as_mut().filter(|_| order != Ordering::Greater) {
                taken.0 = stream.advance()?.map(|entry| (entry, stream));
            }
            if let Some(stream) = self.current.as_mut().filter(|_| order != Ordering::Less) {
                taken.1 = stream.advance()?.map(|entry| (entry, stream));
            }
            match taken {
                (None, None) => return Ok(None),
                (Some((entry, stream)), None) => {
                    let (key, old) = stream.values_of(entry)?;
                    return Ok(Some(RowChange::Delete { key, old }));
                }
                (None, Some((entry, stream))) => {
                    let (key, new) = stream.values_of(entry)?;
                    return Ok(Some(RowChange::Insert { key, new }));
                }
                (Some((before, base)), Some((now, current))) => {
                    if self.is_alike
                        && let (Content::Payload(a), Content::Payload(b)) = (&before.content, &now.content)
                        // What is the same and complete in one is so in the other.
                        && b.overflow.is_none()
                        && a.local == b.local
                    {
                        continue;
                    }
                    let (before, now) = (base.whole(before)?, current.whole(now)?);
                    if self.is_alike && before.1 == now.1 {
                        continue;
                    }
                    let (key, old) = base.values(before.0, &before.1)?;
                    let (_, new) = current.values(now.0, &now.1)?;
                    if old != new {
                        return Ok(Some(RowChange::Update { key, old, new }));
                    }
                }
            }
        }
    }
}
