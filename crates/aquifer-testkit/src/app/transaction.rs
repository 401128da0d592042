//! One numbered transaction of the application, chosen by seed.

use rusqlite::{Connection, Result, params};

use super::options::Mix;
use super::schema::{ACCOUNTS, crc32, log_sum};
use crate::workload::Rng;

/// Commits the transaction after the last one and returns its number.
///
/// After an error nothing of it remains.
pub(super) fn commit_next(db: &Connection, rng: &mut Rng, mix: Mix) -> Result<u64> {
    if mix == Mix::Hostile {
        outside(db, rng)?;
    }
    db.execute_batch("BEGIN IMMEDIATE")?;
    let done = inside(db, rng, mix).and_then(|n| db.execute_batch("COMMIT").map(|()| n));
    if done.is_err() && !db.is_autocommit() {
        // The first error is the one to tell.
        let _ = db.execute_batch("ROLLBACK");
    }
    done
}

fn inside(db: &Connection, rng: &mut Rng, mix: Mix) -> Result<u64> {
    let n = append_log(db, rng)?;
    transfer(db, rng)?;
    if mix != Mix::Small {
        match rng.below(100) {
            0..=59 => {}
            60..=74 => {
                let transfers = rng.range(10, 50);
                (0..transfers).try_for_each(|_| transfer(db, rng))?;
                add_scratch(db, rng, 20_000)?;
            }
            75..=82 => {
                let blobs = rng.range(10, 60);
                (0..blobs).try_for_each(|_| add_scratch(db, rng, 60_000))?;
            }
            83..=92 => {
                let (modulus, rest) = (rng.range(1, 3) as i64, rng.below(3) as i64);
                db.execute("DELETE FROM scratch WHERE id%?=?", [modulus, rest % modulus])?;
            }
            _ => allocate_and_free(db, rng)?,
        }
    }
    Ok(n)
}

/// What an application does between its transactions, each rarely.
fn outside(db: &Connection, rng: &mut Rng) -> Result<()> {
    match rng.below(100) {
        0 => db.execute_batch("VACUUM"),
        1 => db.execute_batch("PRAGMA incremental_vacuum(20)"),
        2 => checkpoint(db, "PASSIVE"),
        3 => checkpoint(db, "RESTART"),
        4 => checkpoint(db, "TRUNCATE"),
        5..=7 => roll_back(db, rng),
        8 => {
            let index = rng.below(4);
            db.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS extra_{index} AS SELECT id, note FROM account WHERE id%4={index}"
            ))
        }
        9 => db.execute_batch(&format!("DROP TABLE IF EXISTS extra_{}", rng.below(4))),
        _ => Ok(()),
    }
}

fn append_log(db: &Connection, rng: &mut Rng) -> Result<u64> {
    let last: i64 = db.prepare_cached("SELECT last FROM state")?.query_row([], |row| row.get(0))?;
    let previous: u32 = if last == 0 {
        0
    } else {
        db.prepare_cached("SELECT sum FROM log WHERE n=?")?.query_row([last], |row| row.get(0))?
    };
    let n = last + 1;
    let mut payload = vec![0; rng.range(20, 400) as usize];
    rng.fill(&mut payload);
    let sum = log_sum(n as u64, previous, &payload);
    db.prepare_cached("INSERT INTO log VALUES(?,?,?)")?.execute(params![n, sum, payload])?;
    db.prepare_cached("UPDATE state SET last=?")?.execute([n])?;
    Ok(n as u64)
}

fn transfer(db: &Connection, rng: &mut Rng) -> Result<()> {
    let amount = rng.range(1, 1000) as i64;
    let mut update = db.prepare_cached("UPDATE account SET balance=balance+? WHERE id=?")?;
    update.execute([-amount, rng.range(1, ACCOUNTS) as i64])?;
    update.execute([amount, rng.range(1, ACCOUNTS) as i64])?;
    Ok(())
}

fn add_scratch(db: &Connection, rng: &mut Rng, max: u64) -> Result<()> {
    let mut data = vec![0; rng.range(1, max) as usize];
    rng.fill(&mut data);
    db.prepare_cached("INSERT INTO scratch(sum,data) VALUES(?,?)")?
        .execute(params![crc32([&data[..]]), data])?;
    Ok(())
}

/// Pages that are allocated and freed in one transaction, by a rollback to a savepoint and by a delete:
/// SQLite may grow the database by pages that it never writes.
fn allocate_and_free(db: &Connection, rng: &mut Rng) -> Result<()> {
    db.execute_batch("SAVEPOINT undone")?;
    (0..rng.range(1, 10)).try_for_each(|_| add_scratch(db, rng, 60_000))?;
    db.execute_batch("ROLLBACK TO undone; RELEASE undone")?;
    let kept: i64 = db.query_row("SELECT coalesce(max(id),0) FROM scratch", [], |row| row.get(0))?;
    (0..rng.range(1, 10)).try_for_each(|_| add_scratch(db, rng, 60_000))?;
    db.execute("DELETE FROM scratch WHERE id>?", [kept])?;
    Ok(())
}

/// Larger than the page cache, so that its frames are in the WAL when it is rolled back.
fn roll_back(db: &Connection, rng: &mut Rng) -> Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let done = (0..rng.range(10, 40))
        .try_for_each(|_| add_scratch(db, rng, 60_000))
        .and_then(|()| transfer(db, rng));
    db.execute_batch("ROLLBACK")?;
    done
}

/// A checkpoint that others keep from finishing is no error to an application.
fn checkpoint(db: &Connection, mode: &str) -> Result<()> {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::super::check::check_log;
    use super::super::options::AppOptions;
    use super::super::schema::open;
    use super::*;

    #[test]
    fn every_mix_keeps_the_log_whole() {
        for mix in [Mix::Small, Mix::Mixed, Mix::Hostile] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app.db");
            let db = open(&path, &AppOptions { mix, ..AppOptions::default() }).unwrap();
            let mut rng = Rng::new(11);
            for n in 1..=150 {
                assert_eq!(commit_next(&db, &mut rng, mix).unwrap(), n);
            }
            assert_eq!(check_log(&path).unwrap(), 150);
        }
    }

    #[test]
    fn rolled_back_transactions_leave_frames_behind_the_last_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = open(&path, &AppOptions { autocheckpoint: 0, ..AppOptions::default() }).unwrap();
        let wal_len = || std::fs::metadata(dir.path().join("app.db-wal")).unwrap().len();
        let before = wal_len();
        roll_back(&db, &mut Rng::new(1)).unwrap();
        assert!(wal_len() > before, "nothing was spilled into the WAL");
    }
}
