"""The application of Aquifer's tests on Python's own SQLite.

Protocol, tables and sums are those of crates/aquifer-testkit/src/app (see its mod.rs); `hostile` is as `mixed`.
"""

import json
import os
import queue
import random
import sqlite3
import struct
import sys
import threading
import zlib

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS log(n INTEGER PRIMARY KEY, sum INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS state(one INTEGER PRIMARY KEY CHECK(one=1), last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS account_balance ON account(balance);
CREATE TABLE IF NOT EXISTS scratch(id INTEGER PRIMARY KEY, sum INTEGER NOT NULL, data BLOB NOT NULL);
WITH RECURSIVE i(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM i WHERE i<1000)
  INSERT OR IGNORE INTO account SELECT i, 0, 'account number ' || i FROM i;
INSERT OR IGNORE INTO state VALUES(1, 0);
COMMIT;
"""


def say(line):
    print(line, flush=True)


def connect(path, options):
    # isolation_level=None: transactions begin and end where this program says so.
    db = sqlite3.connect(path, timeout=options["busy_timeout_ms"] / 1000, isolation_level=None)
    for pragma in ("page_size", "auto_vacuum", "journal_mode", "synchronous"):
        db.execute(f"PRAGMA {pragma}={options[pragma]}")
    db.execute(f"PRAGMA wal_autocheckpoint={options['autocheckpoint']}")
    db.execute("PRAGMA cache_size=-256")
    if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name='state'").fetchone()[0]:
        db.executescript(SCHEMA)
    return db


def transfer(db, rng):
    amount = rng.randint(1, 1000)
    for change in (-amount, amount):
        db.execute("UPDATE account SET balance=balance+? WHERE id=?", (change, rng.randint(1, 1000)))


def add_scratch(db, rng, most):
    data = rng.randbytes(rng.randint(1, most))
    db.execute("INSERT INTO scratch(sum,data) VALUES(?,?)", (zlib.crc32(data), data))


def transaction(db, rng, mix):
    (last,) = db.execute("SELECT last FROM state").fetchone()
    previous = db.execute("SELECT sum FROM log WHERE n=?", (last,)).fetchone()[0] if last else 0
    n, payload = last + 1, rng.randbytes(rng.randint(20, 400))
    total = zlib.crc32(struct.pack("<QI", n, previous) + payload)
    db.execute("INSERT INTO log VALUES(?,?,?)", (n, total, payload))
    db.execute("UPDATE state SET last=?", (n,))
    transfer(db, rng)
    choice = rng.randrange(100) if mix != "small" else 0
    if 60 <= choice < 80:
        for _ in range(rng.randint(10, 50)):
            transfer(db, rng)
            add_scratch(db, rng, 20_000)
    elif choice >= 80:
        db.execute("DELETE FROM scratch WHERE id%3=?", (rng.randrange(3),))
    return n


def acknowledge(db, rng, mix):
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
            n = transaction(db, rng, mix)
            db.execute("COMMIT")
            return say(f"committed {n}")
        except sqlite3.OperationalError as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            # By its message: sqlite_errorcode is there from Python 3.11 on only.
            if str(error) != "database is locked":
                raise
            say("busy")


def commands():
    lines = queue.Queue()

    def read():
        for line in sys.stdin:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def main(path, options):
    lines, rng = commands(), random.Random(options["seed"])
    db = connect(path, options)
    say(f"ready {db.execute('SELECT last FROM state').fetchone()[0]}")
    while (line := lines.get()) is not None:
        word, _, rest = line.partition(" ")
        answer = "ok"
        if word == "commit":
            for _ in range(int(rest)):
                acknowledge(db, rng, options["mix"])
        elif word == "run":
            while lines.empty():
                acknowledge(db, rng, options["mix"])
        elif word == "sql":
            try:
                rows = db.execute(rest).fetchall()
                answer = " ".join(["ok"] + ["\t".join(str(value) for value in row) for row in rows[:1]])
            except sqlite3.Error as error:
                answer = f"error {error}"
        elif word in ("close", "quit"):
            db.close()
        elif word == "open":
            db = connect(path, options)
        else:
            answer = f"error no such command: {line}"
        say(answer)
        if word == "quit":
            return
    # As when a process is killed: the operating system closes the files, SQLite does nothing.
    os._exit(0)


try:
    main(sys.argv[1], json.loads(sys.argv[2]))
except Exception as error:
    say(f"error {error}")
    sys.exit(1)
