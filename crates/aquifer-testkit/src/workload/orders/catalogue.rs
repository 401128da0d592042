//! What a shop has before its first order: warehouses, items in stock, customers.

use rusqlite::{Result, Transaction, params};

use super::super::text::{EPOCH, Source, date};
use super::Shop;

pub(super) fn fill(tx: &Transaction<'_>, source: &mut Source, shop: &Shop) -> Result<()> {
    warehouses(tx, source, shop)?;
    items(tx, source, shop)?;
    stock(tx, source, shop)?;
    customers(tx, source, shop)
}

fn warehouses(tx: &Transaction<'_>, source: &mut Source, shop: &Shop) -> Result<()> {
    for warehouse in 1..=shop.warehouses as i64 {
        tx.execute(
            "INSERT INTO warehouse VALUES(?,?,?,0)",
            params![warehouse, source.name(), source.rng.below(2000) as i64],
        )?;
        for district in 1..=10 {
            tx.execute(
                "INSERT INTO district VALUES(?,?,?,0,1)",
                params![warehouse, district, source.name()],
            )?;
        }
    }
    Ok(())
}

fn items(tx: &Transaction<'_>, source: &mut Source, shop: &Shop) -> Result<()> {
    let mut insert = tx.prepare("INSERT INTO item VALUES(?,?,?,?,?)")?;
    for item in 1..=shop.items as i64 {
        insert.execute(params![
            item,
            format!("{} {} {}", source.name(), source.word(), source.word()),
            source.rng.range(100, 99_999) as i64,
            format!("SKU-{item:06}-{}", source.rng.alnum(4).to_uppercase()),
            source.text(30, 200)
        ])?;
    }
    Ok(())
}

fn stock(tx: &Transaction<'_>, source: &mut Source, shop: &Shop) -> Result<()> {
    let mut insert = tx.prepare("INSERT INTO stock VALUES(?,?,?,0,0,?,?)")?;
    for warehouse in 1..=shop.warehouses as i64 {
        for item in 1..=shop.items as i64 {
            insert.execute(params![
                warehouse,
                item,
                source.rng.range(10, 100) as i64,
                source.rng.alnum(24),
                source.text(26, 50)
            ])?;
        }
    }
    Ok(())
}

fn customers(tx: &Transaction<'_>, source: &mut Source, shop: &Shop) -> Result<()> {
    const HOSTS: &[&str] = &["gmail", "outlook", "yahoo", "example", "fastmail"];
    const STATES: &[&str] = &["NY", "CA", "TX", "WA", "FL", "IL", "MA", "CO", "OR", "GA"];
    let mut insert = tx.prepare("INSERT INTO customer VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")?;
    for customer in 1..=shop.customers as i64 {
        let (last, first) = (source.name(), source.name());
        let (number, host) = (source.rng.below(1000), source.rng.pick_skewed(HOSTS));
        insert.execute(params![
            customer,
            source.rng.range(1, shop.warehouses) as i64,
            source.rng.range(1, 10) as i64,
            first,
            last,
            format!("{}.{}{number}@{host}.com", first.to_lowercase(), last.to_lowercase()),
            format!("{} {} St", source.rng.range(1, 9999), source.name()),
            source.name(),
            source.rng.pick_skewed(STATES),
            source.rng.digits(5),
            format!("+1{}", source.rng.digits(10)),
            date(EPOCH - source.rng.below(60_000_000)),
            if source.rng.one_in(10) { "BC" } else { "GC" },
            source.rng.range(0, 500_000) as i64 - 10_000,
            source.text(60, 300)
        ])?;
    }
    Ok(())
}
