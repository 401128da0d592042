"""An application of a synced database: writer.py DATABASE WHO SEED.

It commits numbered transactions until it is killed. What transaction n leaves behind follows from who and n alone, so
that whoever knows the last n knows every row that must be there, and how often. It prints `ready N`, the last one that
the database has, and `committed N` after each.
"""

import random
import sqlite3
import sys
import time

path, who, seed = sys.argv[1:]
rng = random.Random(seed)
db = sqlite3.connect(path, timeout=60, isolation_level=None)
db.execute("PRAGMA synchronous=NORMAL")
db.execute(f"PRAGMA wal_autocheckpoint={rng.choice([0, 20, 1000])}")


def lines(n):
    """Rows without a key: what is done twice is there twice."""
    for part in range(n % 3 + 1):
        size = rng.choice([0, 10, 10, 300, 9000])
        yield who, n, part, rng.randbytes(size)


def transaction(n):
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO line(who, n, part, data) VALUES (?, ?, ?, ?)", lines(n))
    db.execute("INSERT INTO latest VALUES (?, ?) ON CONFLICT(who) DO UPDATE SET n = excluded.n", (who, n))
    db.execute("INSERT INTO recent VALUES (?, ?)", (who, n))
    db.execute("DELETE FROM recent WHERE who = ? AND n = ?", (who, n - 5))
    # What all of them change: somebody wins, and all agree on who.
    key, mark = rng.randrange(20), f"{who}.{n}"
    match rng.randrange(6):
        case 0:
            db.execute("DELETE FROM shared WHERE k = ?", (key,))
        case 1 | 2:
            db.execute("INSERT OR REPLACE INTO shared VALUES (?, ?, ?)", (key, mark, mark))
        case 3:
            db.execute("UPDATE shared SET v = ? WHERE k = ?", (mark, key))
        case _:
            db.execute("UPDATE shared SET w = ? WHERE k >= ?", (mark, key))
    db.execute("COMMIT")


n, = db.execute("SELECT coalesce(max(n), 0) FROM latest WHERE who = ?", (who,)).fetchone()
print("ready", n, flush=True)
while True:
    n += 1
    transaction(n)
    print("committed", n, flush=True)
    match rng.randrange(40):
        case 0:
            db.execute("VACUUM")
        case 1 | 2:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        case 3 | 4:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        case 5:
            # The last connection that closes moves the WAL into the database and removes it.
            db.close()
            db = sqlite3.connect(path, timeout=60, isolation_level=None)
            db.execute("PRAGMA synchronous=NORMAL")
        case _:
            # As an application that waits for its user.
            time.sleep(rng.choice([0, 0.001, 0.01, 0.05]))
