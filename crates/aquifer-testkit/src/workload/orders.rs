//! A shop in the manner of TPC-C: customers order items from warehouses, pay, and get deliveries.

use rusqlite::{Connection, Result, params};

use super::build::{Size, grow};
use super::text::{EPOCH, Source, date};

mod catalogue;

const SCHEMA: &str = "
CREATE TABLE meta(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE warehouse(w_id INTEGER PRIMARY KEY, name TEXT, tax INTEGER, ytd INTEGER);
CREATE TABLE district(w_id INTEGER, d_id INTEGER, name TEXT, ytd INTEGER, next_o INTEGER, PRIMARY KEY(w_id,d_id)) WITHOUT ROWID;
CREATE TABLE item(i_id INTEGER PRIMARY KEY, name TEXT, price INTEGER, sku TEXT, descr TEXT);
CREATE TABLE stock(w_id INTEGER, i_id INTEGER, qty INTEGER, ytd INTEGER, cnt INTEGER, dist TEXT, data TEXT, PRIMARY KEY(w_id,i_id)) WITHOUT ROWID;
CREATE TABLE customer(c_id INTEGER PRIMARY KEY, w_id INTEGER, d_id INTEGER, first TEXT, last TEXT, email TEXT, street TEXT, city TEXT, state TEXT, zip TEXT, phone TEXT, since TEXT, credit TEXT, balance INTEGER, data TEXT);
CREATE INDEX customer_name ON customer(w_id,d_id,last,first);
CREATE TABLE orders(o_id INTEGER PRIMARY KEY, c_id INTEGER, w_id INTEGER, d_id INTEGER, status TEXT, entry_d TEXT, carrier TEXT, tracking TEXT, ol_cnt INTEGER, total INTEGER, currency TEXT, note TEXT);
CREATE INDEX orders_customer ON orders(c_id,o_id);
CREATE INDEX orders_entry ON orders(entry_d);
CREATE TABLE order_line(o_id INTEGER, n INTEGER, i_id INTEGER, qty INTEGER, amount INTEGER, delivery_d TEXT, info TEXT, PRIMARY KEY(o_id,n)) WITHOUT ROWID;
CREATE TABLE history(h_id INTEGER PRIMARY KEY, c_id INTEGER, date TEXT, amount INTEGER, data TEXT);";

/// What an order can be in; also of the JSON workload.
pub(super) const STATUS: [&str; 5] = ["delivered", "shipped", "pending", "cancelled", "returned"];
const CARRIERS: [&str; 5] = ["UPS", "FedEx", "DHL", "USPS", "local courier"];

/// How many of everything there are, and the shop's own clock.
#[derive(Debug)]
pub(super) struct Shop {
    warehouses: u64,
    items: u64,
    customers: u64,
    next_order: u64,
    /// Seconds since the Unix epoch.
    now: u64,
}

pub(super) fn build(db: &mut Connection, source: &mut Source, size: Size, age: bool) -> Result<()> {
    db.execute_batch(SCHEMA)?;
    let mut shop = Shop::of_size(size.target);
    let tx = db.transaction()?;
    catalogue::fill(&tx, source, &shop)?;
    tx.commit()?;
    grow(db, size, |tx| (0..500).try_for_each(|_| shop.past_order(tx, source)))?;
    let tx = db.transaction()?;
    if age {
        shop.age(&tx, source)?;
    }
    shop.save(&tx)?;
    tx.commit()
}

impl Shop {
    fn of_size(bytes: u64) -> Shop {
        let megabytes = (bytes >> 20).max(1);
        Shop {
            warehouses: (megabytes / 64).max(1),
            items: (megabytes * 40).clamp(200, 100_000),
            customers: (megabytes * 80).max(200),
            next_order: 1,
            now: EPOCH,
        }
    }

    /// The shop that the database holds, a year and a half after it was built.
    pub(super) fn open(db: &Connection) -> Result<Shop> {
        let saved = |key: &str| {
            db.query_row("SELECT v FROM meta WHERE k=?", [key], |row| row.get::<_, i64>(0)).map(|v| v as u64)
        };
        let next_order: i64 = db.query_row("SELECT max(o_id)+1 FROM orders", [], |row| row.get(0))?;
        Ok(Shop {
            warehouses: saved("wh")?,
            items: saved("items")?,
            customers: saved("cust")?,
            next_order: next_order as u64,
            now: EPOCH + 50_000_000,
        })
    }

    fn save(&self, db: &Connection) -> Result<()> {
        for (key, value) in [
            ("next_o", self.next_order),
            ("wh", self.warehouses),
            ("items", self.items),
            ("cust", self.customers),
        ] {
            db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", params![key, value as i64])?;
        }
        Ok(())
    }

    /// Of 100 operations, 49 are new orders, 47 payments, 4 deliveries.
    pub(super) fn operate(&mut self, db: &Connection, source: &mut Source) -> Result<()> {
        self.now += source.rng.below(10);
        match source.rng.below(100) {
            0..=48 => self.order(db, source),
            49..=95 => self.payment(db, source),
            _ => self.delivery(db, source),
        }
    }

    fn take_order_number(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order - 1
    }

    fn item(&self, source: &mut Source) -> i64 {
        (1 + source.rng.zipf(self.items)) as i64
    }

    fn order(&mut self, db: &Connection, source: &mut Source) -> Result<()> {
        let warehouse = source.rng.range(1, self.warehouses) as i64;
        let district = source.rng.range(1, 10) as i64;
        db.prepare_cached("UPDATE district SET next_o=next_o+1 WHERE w_id=? AND d_id=?")?
            .execute([warehouse, district])?;
        let order = self.take_order_number() as i64;
        let lines = source.rng.range(2, 12) as i64;
        let mut total = 0;
        for line in 1..=lines {
            let item = self.item(source);
            let (quantity, amount) = line_amount(source);
            total += amount;
            db.prepare_cached(
                "UPDATE stock SET qty=CASE WHEN qty>?1 THEN qty-?1 ELSE qty+91-?1 END, ytd=ytd+?1, cnt=cnt+1
                 WHERE w_id=?2 AND i_id=?3",
            )?
            .execute([quantity, warehouse, item])?;
            db.prepare_cached("INSERT INTO order_line VALUES(?,?,?,?,?,NULL,?)")?.execute(params![
                order,
                line,
                item,
                quantity,
                amount,
                source.sparse_text(3, 10, 40)
            ])?;
        }
        db.prepare_cached("INSERT INTO orders VALUES(?,?,?,?,'pending',?,NULL,NULL,?,?,'USD',?)")?.execute(
            params![
                order,
                source.rng.range(1, self.customers) as i64,
                warehouse,
                district,
                date(self.now),
                lines,
                total,
                source.sparse_text(2, 20, 160)
            ],
        )?;
        Ok(())
    }

    fn payment(&self, db: &Connection, source: &mut Source) -> Result<()> {
        let customer = source.rng.range(1, self.customers) as i64;
        let amount = source.rng.range(100, 500_000) as i64;
        let warehouse = source.rng.range(1, self.warehouses) as i64;
        db.prepare_cached("UPDATE warehouse SET ytd=ytd+? WHERE w_id=?")?.execute([amount, warehouse])?;
        db.prepare_cached("UPDATE district SET ytd=ytd+? WHERE w_id=? AND d_id=?")?.execute([
            amount,
            warehouse,
            source.rng.range(1, 10) as i64,
        ])?;
        db.prepare_cached("UPDATE customer SET balance=balance-? WHERE c_id=?")?
            .execute([amount, customer])?;
        self.record(db, source, customer, amount)
    }

    /// Ten of the last three thousand orders leave the house.
    fn delivery(&self, db: &Connection, source: &mut Source) -> Result<()> {
        for _ in 0..10 {
            let recent = self.next_order.min(3000) - 1;
            let order = (self.next_order - 1 - source.rng.below(recent)) as i64;
            db.prepare_cached("UPDATE orders SET status='shipped', carrier=?, tracking=? WHERE o_id=?")?
                .execute(params![source.rng.pick_skewed(&CARRIERS), tracking(source), order])?;
            db.prepare_cached("UPDATE order_line SET delivery_d=? WHERE o_id=?")?
                .execute(params![date(self.now), order])?;
        }
        Ok(())
    }

    fn record(&self, db: &Connection, source: &mut Source, customer: i64, amount: i64) -> Result<()> {
        db.prepare_cached("INSERT INTO history(c_id,date,amount,data) VALUES(?,?,?,?)")?.execute(params![
            customer,
            date(self.now),
            amount,
            source.text(12, 60)
        ])?;
        Ok(())
    }

    /// An order of the time before the workload: whole, with its delivery.
    fn past_order(&mut self, db: &Connection, source: &mut Source) -> Result<()> {
        let order = self.take_order_number() as i64;
        self.now += source.rng.below(40);
        let lines = source.rng.range(2, 12) as i64;
        let mut total = 0;
        for line in 1..=lines {
            let (quantity, amount) = line_amount(source);
            total += amount;
            db.prepare_cached("INSERT INTO order_line VALUES(?,?,?,?,?,?,?)")?.execute(params![
                order,
                line,
                self.item(source),
                quantity,
                amount,
                date(self.now + source.rng.below(800_000)),
                source.sparse_text(3, 10, 40)
            ])?;
        }
        let customer = source.rng.range(1, self.customers);
        db.prepare_cached("INSERT INTO orders VALUES(?,?,?,?,?,?,?,?,?,?,?,?)")?.execute(params![
            order,
            customer as i64,
            (1 + customer % self.warehouses) as i64,
            source.rng.range(1, 10) as i64,
            source.rng.pick_skewed(&STATUS),
            date(self.now),
            source.rng.pick_skewed(&CARRIERS),
            tracking(source),
            lines,
            total,
            if source.rng.one_in(5) { "EUR" } else { "USD" },
            source.sparse_text(2, 20, 160)
        ])?;
        if source.rng.one_in(2) {
            self.record(db, source, customer as i64, total)?;
        }
        Ok(())
    }

    /// One order in sixty is deleted, returned, followed by another, or changes its customer's record.
    fn age(&mut self, db: &Connection, source: &mut Source) -> Result<()> {
        for _ in 0..self.next_order / 60 {
            let order = source.rng.range(1, self.next_order - 1) as i64;
            match source.rng.below(4) {
                0 => {
                    db.prepare_cached("DELETE FROM order_line WHERE o_id=?")?.execute([order])?;
                    db.prepare_cached("DELETE FROM orders WHERE o_id=?")?.execute([order])?;
                }
                1 => {
                    db.prepare_cached("UPDATE orders SET note=?, status='returned' WHERE o_id=?")?
                        .execute(params![source.text(20, 250), order])?;
                }
                2 => {
                    db.prepare_cached("UPDATE customer SET balance=balance-?, data=? WHERE c_id=?")?
                        .execute(params![
                            source.rng.below(9999) as i64,
                            source.text(60, 380),
                            source.rng.range(1, self.customers) as i64
                        ])?;
                }
                _ => self.past_order(db, source)?,
            }
        }
        Ok(())
    }
}

/// Quantity and amount (in cents) of an order's line.
fn line_amount(source: &mut Source) -> (i64, i64) {
    let quantity = source.rng.range(1, 10) as i64;
    (quantity, quantity * source.rng.range(100, 99_999) as i64)
}

fn tracking(source: &mut Source) -> String {
    format!("1Z{}", source.rng.alnum(16).to_uppercase())
}
