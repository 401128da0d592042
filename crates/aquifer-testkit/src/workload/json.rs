//! A document store: users, events, orders and sensor readings as JSON under random UUIDs.

use rusqlite::{Connection, Result, Transaction, params};

use super::build::{Size, grow};
use super::orders::STATUS;
use super::text::{EPOCH, Source, date};

const SCHEMA: &str = "
CREATE TABLE docs(id TEXT PRIMARY KEY, coll TEXT NOT NULL, body TEXT NOT NULL, version INTEGER, updated INTEGER);
CREATE INDEX docs_coll ON docs(coll,updated);";

const INSERT: &str = "INSERT INTO docs VALUES(?,?,?,1,?)";
/// Documents are chosen as the next one from a random UUID on.
const DELETE: &str = "DELETE FROM docs WHERE id=(SELECT id FROM docs WHERE id>=? LIMIT 1)";

pub(super) fn build(db: &mut Connection, source: &mut Source, size: Size, age: bool) -> Result<()> {
    db.execute_batch(SCHEMA)?;
    let mut documents = 0;
    grow(db, size, |tx| {
        for _ in 0..500 {
            insert(tx, source, EPOCH + documents * 3)?;
            documents += 1;
        }
        Ok(())
    })?;
    if age {
        let tx = db.transaction()?;
        self::age(&tx, source, documents)?;
        tx.commit()?;
    }
    Ok(())
}

/// Edits one document in fifty, and deletes a third as many.
fn age(tx: &Transaction<'_>, source: &mut Source, documents: u64) -> Result<()> {
    for _ in 0..documents / 50 {
        let from = source.rng.uuid();
        tx.prepare_cached(
            "UPDATE docs SET body=json_set(body,'$.rev',?,'$.note',?), version=version+1
             WHERE id=(SELECT id FROM docs WHERE id>=? LIMIT 1)",
        )?
        .execute(params![source.rng.below(99) as i64, source.text(10, 120), from])?;
        if source.rng.one_in(3) {
            tx.prepare_cached(DELETE)?.execute([source.rng.uuid()])?;
        }
    }
    Ok(())
}

/// Half inserts, four tenths edits of one field, one tenth deletes.
pub(super) fn operate(db: &Connection, source: &mut Source) -> Result<()> {
    match source.rng.below(10) {
        0..=4 => insert(db, source, EPOCH)?,
        5..=8 => {
            db.prepare_cached(
                "UPDATE docs SET body=json_set(body,'$.rev',?), version=version+1, updated=updated+1
                 WHERE id=(SELECT id FROM docs WHERE id>=? LIMIT 1)",
            )?
            .execute(params![source.rng.below(100) as i64, source.rng.uuid()])?;
        }
        _ => {
            db.prepare_cached(DELETE)?.execute([source.rng.uuid()])?;
        }
    }
    Ok(())
}

fn insert(db: &Connection, source: &mut Source, updated: u64) -> Result<()> {
    let (collection, body) = document(source);
    db.prepare_cached(INSERT)?.execute(params![source.rng.uuid(), collection, body, updated as i64])?;
    Ok(())
}

/// A collection's name and a document for it.
fn document(source: &mut Source) -> (&'static str, String) {
    match source.rng.below(10) {
        0..=2 => ("users", user(source)),
        3..=6 => ("events", event(source)),
        7..=8 => ("orders", order(source)),
        _ => ("sensors", readings(source)),
    }
}

fn moment(source: &mut Source) -> String {
    date(EPOCH + source.rng.below(30_000_000))
}

fn user(source: &mut Source) -> String {
    format!(
        concat!(
            r#"{{"type":"user","name":{{"first":"{}","last":"{}"}},"email":"{}{}@example.com","active":{},"#,
            r#""roles":["{}"],"address":{{"street":"{} {} St","city":"{}","zip":"{}"}},"created_at":"{}","#,
            r#""prefs":{{"theme":"{}","locale":"en-US","notifications":{{"email":{},"push":{}}}}},"bio":"{}"}}"#,
        ),
        source.name(),
        source.name(),
        source.word(),
        source.rng.below(9999),
        source.rng.below(5) > 0,
        source.rng.pick_skewed(&["reader", "editor", "admin"]),
        source.rng.below(999),
        source.name(),
        source.name(),
        source.rng.digits(5),
        moment(source),
        source.rng.pick(&["dark", "light"]),
        source.rng.one_in(2),
        source.rng.one_in(2),
        source.text(40, 400)
    )
}

fn event(source: &mut Source) -> String {
    const NAMES: &[&str] = &["page_view", "click", "scroll", "purchase", "login", "search"];
    const SYSTEMS: &[&str] =
        &["Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7", "X11; Linux x86_64"];
    format!(
        concat!(
            r#"{{"type":"event","name":"{}","ts":"{}","session":"{}","user_id":"{}","ip":"{}.{}.{}.{}","#,
            r#""ua":"Mozilla/5.0 ({}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36","#,
            r#""props":{{"path":"/{}/{}","referrer":"https://www.{}.com/","duration_ms":{},"#,
            r#""viewport":[{},{}],"experiment":"{}"}}}}"#,
        ),
        source.rng.pick_skewed(NAMES),
        moment(source),
        source.rng.hex(16),
        source.rng.uuid(),
        source.rng.below(256),
        source.rng.below(256),
        source.rng.below(256),
        source.rng.below(256),
        source.rng.pick_skewed(SYSTEMS),
        source.rng.range(110, 131),
        source.word(),
        source.word(),
        source.rng.pick_skewed(&["google", "bing", "duckduckgo", "reddit"]),
        source.rng.below(60_000),
        source.rng.pick(&[1920, 1440, 1366, 390]),
        source.rng.pick(&[1080, 900, 768, 844]),
        source.word()
    )
}

fn order(source: &mut Source) -> String {
    let lines = source.rng.range(1, 12);
    let head = format!(
        r#"{{"type":"order","customer":"{}","placed":"{}","status":"{}","lines":["#,
        source.rng.uuid(),
        moment(source),
        source.rng.pick_skewed(&STATUS)
    );
    let lines: Vec<String> = (0..lines)
        .map(|_| {
            format!(
                r#"{{"sku":"SKU-{:06}","title":"{} {}","qty":{},"unit_price":{}.{:02},"tags":["{}","{}"]}}"#,
                source.rng.zipf(50_000),
                source.name(),
                source.word(),
                source.rng.range(1, 9),
                source.rng.below(500),
                source.rng.below(100),
                source.word(),
                source.word()
            )
        })
        .collect();
    let (units, cents) = (source.rng.below(5000), source.rng.below(100));
    format!(r#"{head}{}],"total":{units}.{cents:02},"currency":"USD"}}"#, lines.join(","))
}

fn readings(source: &mut Source) -> String {
    let count = source.rng.range(20, 120);
    let mut celsius = 20.0 + source.rng.unit() * 5.0;
    let head = format!(
        r#"{{"type":"sensor","device":"dev-{:04}","start":"{}","interval_s":10,"unit":"C","values":["#,
        source.rng.below(500),
        moment(source)
    );
    let values: Vec<String> = (0..count)
        .map(|_| {
            celsius += source.rng.unit() - 0.5;
            format!("{celsius:.2}")
        })
        .collect();
    format!("{head}{}]}}", values.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_json_to_sqlite() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(SCHEMA).unwrap();
        let mut source = Source::new(9);
        for _ in 0..1000 {
            insert(&db, &mut source, EPOCH).unwrap();
        }
        let bad: i64 = db
            .query_row("SELECT count(*) FROM docs WHERE NOT json_valid(body)", [], |row| row.get(0))
            .unwrap();
        let collections: i64 =
            db.query_row("SELECT count(DISTINCT coll) FROM docs", [], |row| row.get(0)).unwrap();
        assert_eq!((bad, collections), (0, 4));
    }
}
