//! The order of keys, as SQLite has it in its trees.

use std::borrow::Cow;
use std::cmp::Ordering;

use aquifer_sqlite::btree::{Encoding, Field};

/// How SQLite compares the text of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collation {
    Binary,
    NoCase,
    Rtrim,
}

impl Collation {
    /// `None`: an application's own, which nobody else can compare by.
    pub(super) fn named(name: &str) -> Option<Collation> {
        [("BINARY", Collation::Binary), ("NOCASE", Collation::NoCase), ("RTRIM", Collation::Rtrim)]
            .into_iter()
            .find_map(|(known, collation)| known.eq_ignore_ascii_case(name).then_some(collation))
    }

    fn compare(self, encoding: Encoding, a: &[u8], b: &[u8]) -> Ordering {
        // The binary one compares what is stored, the others are defined for UTF-8.
        let utf8 = |text| if self == Collation::Binary { Cow::Borrowed(text) } else { encoding.utf8(text) };
        let (a, b) = (&*utf8(a), &*utf8(b));
        match self {
            Collation::Binary => a.cmp(b),
            Collation::Rtrim => trimmed(a).cmp(trimmed(b)),
            Collation::NoCase => {
                // SQLite stops at a zero in both (sqlite3StrNICmp), and then goes by length.
                let folded = |text: &[u8]| text.to_ascii_lowercase();
                let (folded_a, folded_b) = (folded(a), folded(b));
                let common = a.len().min(b.len());
                let differs = (0..common).find(|&i| folded_a[i] == 0 || folded_a[i] != folded_b[i]);
                let order = differs.map_or(Ordering::Equal, |i| folded_a[i].cmp(&folded_b[i]));
                order.then(a.len().cmp(&b.len()))
            }
        }
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    &text[..end]
}

/// The order of two values in a tree.
pub(super) fn compare(collation: Collation, encoding: Encoding, a: Field<'_>, b: Field<'_>) -> Ordering {
    match (a, b) {
        (Field::Integer(a), Field::Integer(b)) => a.cmp(&b),
        // No NaN is ever stored.
        (Field::Real(a), Field::Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Field::Integer(a), Field::Real(b)) => integer_and_real(a, b),
        (Field::Real(a), Field::Integer(b)) => integer_and_real(b, a).reverse(),
        (Field::Text(a), Field::Text(b)) => collation.compare(encoding, a, b),
        (Field::Blob(a), Field::Blob(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)),
    }
}

/// NULL, numbers, text, blobs.
fn class(field: Field<'_>) -> u8 {
    match field {
        Field::Null => 0,
        Field::Integer(_) | Field::Real(_) => 1,
        Field::Text(_) => 2,
        Field::Blob(_) => 3,
    }
}

/// Exact, also where a float has no room for all of the integer's digits.
fn integer_and_real(a: i64, b: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if b < -LIMIT {
        return Ordering::Greater;
    }
    if b >= LIMIT {
        return Ordering::Less;
    }
    let whole = b.trunc();
    a.cmp(&(whole as i64)).then_with(|| whole.partial_cmp(&b).unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    fn fields() -> Vec<Field<'static>> {
        let text: [&[u8]; 14] = [
            b"",
            b" ",
            b"a",
            b"A",
            b"a ",
            b"a  ",
            b"ab",
            b"AB",
            b"aB ",
            b"a\0x",
            b"A\0y",
            b"a\0",
            "\u{e4}".as_bytes(),
            "\u{1f600}".as_bytes(),
        ];
        let numbers = [0, 1, -1, 2, i64::MAX, i64::MIN, (1 << 53) + 1, 1 << 53];
        let reals =
            [0.5, -0.5, 1.0, 1.5, 9.3e18, -9.3e18, 9_007_199_254_740_992.0, -9_223_372_036_854_775_808.0];
        let mut fields = vec![Field::Null];
        fields.extend(text.map(Field::Text));
        fields.extend(text.map(Field::Blob));
        fields.extend(numbers.map(Field::Integer));
        fields.extend(reals.map(Field::Real));
        fields
    }

    #[test]
    fn values_are_ordered_as_sqlite_orders_them() {
        let db = Connection::open_in_memory().unwrap();
        for name in ["BINARY", "nocase", "RTRIM"] {
            let collation = Collation::named(name).unwrap();
            // Two NULLs are equal here, where SQL says NULL.
            let sql = format!(
                "SELECT CASE WHEN a = b COLLATE {name} THEN 0 WHEN a IS NULL THEN -(b IS NOT NULL)
                   WHEN b IS NULL THEN 1 WHEN a < b COLLATE {name} THEN -1 ELSE 1 END FROM (SELECT ?1 a, ?2 b)"
            );
            let mut statement = db.prepare(&sql).unwrap();
            for a in fields() {
                for b in fields() {
                    let values = [a.to_value(Encoding::Utf8), b.to_value(Encoding::Utf8)];
                    let order: i32 = statement.query_row(values, |row| row.get(0)).unwrap();
                    assert_eq!(compare(collation, Encoding::Utf8, a, b), order.cmp(&0), "{name} {a:?} {b:?}");
                }
            }
        }
        assert_eq!(Collation::named("german"), None);
    }
}
