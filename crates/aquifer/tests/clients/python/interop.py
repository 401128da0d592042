"""One database, used by clients of all kinds at the same time: interop.py SEED SCENARIO.

Each has rows that nobody else touches, which must be there in the end as it left them, once; and all change the same
rows, which must be the same for all in the end, whoever of them won.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import libsql
import turso.sync

from stage import TOKEN, ask, database, run

URL = database().rstrip("/")
SCHEMA = [
    "CREATE TABLE numbers (k INTEGER PRIMARY KEY, a, b)",
    "CREATE TABLE names (name TEXT PRIMARY KEY, a, b)",
    "CREATE TABLE lines (line)",
]
TRIES = 8


class File:
    """A file that applications write with SQLite, and `aquifer sync` syncs."""

    def __init__(self, name, *how):
        self.file = f"{name}.db"
        self.sync("--remote", URL, *how)

    def sync(self, *more):
        command = [os.environ["AQUIFER_PROGRAM"], "sync", self.file, "--json", "--require-online", *more]
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def open(self):
        return sqlite3.connect(self.file, timeout=60, isolation_level=None)

    def write(self, statements):
        db = self.open()
        db.execute("BEGIN IMMEDIATE")
        for sql, args in statements:
            db.execute(sql, args)
        db.execute("COMMIT")
        db.close()

    def query(self, sql):
        db = self.open()
        rows = db.execute(sql).fetchall()
        db.close()
        return rows

    def is_sound(self):
        return self.query("PRAGMA integrity_check") == [("ok",)]


class Watched(File):
    """The same, synced by a process that goes on."""

    process = None

    def __init__(self, name):
        super().__init__(name)
        command = [os.environ["AQUIFER_PROGRAM"], "sync", self.file, "--watch"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def sync(self, *how):
        if self.process is None:
            super().sync(*how)

    def settle(self):
        self.process.terminate()
        assert self.process.wait() == 0
        self.process = None


class Turso:
    """pyturso."""

    def __init__(self, name):
        self.db = turso.sync.connect(f"{name}.db", URL + "/", auth_token=TOKEN, client_name=name)
        self.db.isolation_level = None

    def write(self, statements):
        self.db.execute("BEGIN")
        for sql, args in statements:
            self.db.execute(sql, args)
        self.db.execute("COMMIT")

    def sync(self):
        self.db.push()
        self.db.pull()

    def query(self, sql):
        return self.db.execute(sql).fetchall()


class Node:
    """@tursodatabase/sync."""

    def __init__(self, name):
        script = Path(__file__).parent.parent / "js/driven.mjs"
        self.node = subprocess.Popen(["node", script, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def ask(self, what, **more):
        self.node.stdin.write(json.dumps({"ask": what} | more) + "\n")
        self.node.stdin.flush()
        return self.answer()

    def answer(self):
        answer = json.loads(self.node.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def write(self, statements):
        def bound(value):
            match value:
                case bytes():
                    return {"blob": value.hex()}
                case int():
                    return {"integer": str(value)}
            return value

        self.ask("write", statements=[(sql, [bound(arg) for arg in args]) for sql, args in statements])

    def sync(self):
        self.ask("push")
        self.ask("pull")

    def query(self, sql):
        def plain(value):
            match value:
                case {"blob": digits}:
                    return bytes.fromhex(digits)
                case {"integer": digits}:
                    return int(digits)
            return value

        return [tuple(plain(value) for value in row) for row in self.ask("query", sql=sql)]


class Libsql:
    """libsql, offline. It never gets out of a conflict, so it writes on top of the newest, and pushes at once."""

    def __init__(self, name):
        self.db = libsql.connect(f"{name}.db", sync_url=URL, auth_token=TOKEN, offline=True)
        self.db.sync()

    def write(self, statements):
        self.db.sync()
        for sql, args in statements:
            self.db.execute(sql, tuple(args))
        self.db.commit()
        self.db.sync()

    def sync(self):
        self.db.sync()

    def query(self, sql):
        return self.db.execute(sql).fetchall()


class Rows:
    """What one of them does, and what must be there of it in the end: by table and key, all columns."""

    def __init__(self, dice, number, name, kind):
        self.dice, self.number, self.name = dice, number, name
        # libsql 0.1.11 makes a real of what JavaScript could not hold.
        self.largest = 2**53 - 1 if kind is Libsql else 2**63 - 1
        self.mine = {"numbers": {}, "names": {}}
        self.lines = []

    def value(self):
        dice = self.dice
        return dice.choice([
            lambda: None,
            lambda: dice.choice([0, -1, self.largest, -self.largest, dice.randrange(1000)]),
            lambda: dice.choice([0.5, -2.25, 1e300, 3.0]),
            lambda: dice.choice(["", "it's", "ž🐎", "1", f"{self.name} {dice.randrange(10**6)}"]),
            lambda: dice.choice([b"", b"\x00\xff", dice.randbytes(dice.choice([10, 300, 9000]))]),
        ])()

    def transaction(self):
        statements = []
        for _ in range(self.dice.randrange(1, 5)):
            statements += self.own() if self.dice.random() < 0.6 else self.shared()
        return statements

    def own(self):
        dice = self.dice
        if dice.random() < 0.2:
            return self.line()
        table, key = dice.choice([("numbers", "k"), ("names", "name")])
        mine = self.mine[table]
        kind = dice.random()
        if kind < 0.5 or not mine:
            number = 1000 * self.number + dice.randrange(1000)
            found = number if table == "numbers" else f"{self.name} {number}"
            if found in mine:
                return []
            mine[found] = [self.value(), self.value()]
            return [(f"INSERT INTO {table} ({key}, a, b) VALUES (?, ?, ?)", [found, *mine[found]])]
        found = dice.choice(sorted(mine))
        if kind < 0.8:
            at, value = dice.randrange(2), self.value()
            mine[found][at] = value
            return [(f"UPDATE {table} SET {'ab'[at]} = ? WHERE {key} = ?", [value, found])]
        del mine[found]
        return [(f"DELETE FROM {table} WHERE {key} = ?", [found])]

    def line(self):
        # Without a key: what is done twice is there twice.
        self.lines.append(f"{self.name} {len(self.lines):04}")
        return [("INSERT INTO lines VALUES (?)", self.lines[-1:])]

    def shared(self):
        dice = self.dice
        table, key = dice.choice([("numbers", "k"), ("names", "name")])
        number = dice.randrange(12)
        found = number if table == "numbers" else f"shared {number}"
        kind = dice.random()
        if kind < 0.4:
            insert = f"INSERT INTO {table} ({key}, a, b) SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {key} = ?1)"
            return [(insert, [found, self.value(), self.value()])]
        if kind < 0.8:
            return [(f"UPDATE {table} SET {dice.choice('ab')} = ? WHERE {key} = ?", [self.value(), found])]
        return [(f"DELETE FROM {table} WHERE {key} = ?", [found])]


FAULTS = ["drop", "cut", "status 503", "delay 50"]


def again(what, work):
    """Does it until it succeeds: a fault is for one request."""
    for _ in range(TRIES):
        try:
            return work()
        except Exception as error:  # noqa: BLE001: each client has errors of its own
            failed = error
    raise AssertionError(f"{what}: {failed}")


def dump(client):
    tables = ["SELECT k, typeof(a), a, typeof(b), b, c FROM numbers ORDER BY k"]
    tables += ["SELECT name, typeof(a), a, typeof(b), b FROM names ORDER BY name"]
    tables += ["SELECT line FROM lines ORDER BY line", "SELECT k, v FROM extra ORDER BY k"]
    return [[tuple(row) for row in client.query(sql)] for sql in tables]


def converge(seed, kinds, rounds):
    dice = random.Random(seed)
    first = File("first")
    first.write([(sql, []) for sql in SCHEMA])
    first.sync()
    clients = {name: kind(name) for name, kind in kinds.items()} | {"first": first}
    work = {name: Rows(dice, number, name, kinds.get(name)) for number, name in enumerate(clients, 1)}
    names = sorted(clients)
    altering = dice.choice(names)
    for round in range(rounds):
        name = dice.choice(names)
        clients[name].write(work[name].transaction())
        if round == rounds // 2:
            changes = ["ALTER TABLE numbers ADD COLUMN c DEFAULT 7", "CREATE TABLE extra (k INTEGER PRIMARY KEY, v)"]
            changes += ["INSERT INTO extra VALUES (1, 'one')"]
            clients[altering].write([(sql, []) for sql in changes])
        if dice.random() < 0.5:
            name = dice.choice(names)
            if dice.random() < 0.5:
                clients[name].write(work[name].line())
                # What Turso's clients ask before they push is not what is to fail.
                path = dice.choice([f"/v2/pipeline {int(name in ('turso', 'node'))}", "/pull-updates 0"])
                ask(f"fault {path} {dice.choice(FAULTS)}")
            again(f"{name} syncs", clients[name].sync)
    for client in clients.values():
        if isinstance(client, Watched):
            client.settle()
    # Until nothing changes any more; then all have the same.
    before, now = None, []
    while before != now:
        for name, client in [*clients.items()] * 2:
            again(f"{name} syncs", client.sync)
        before, now = now, [dump(client) for client in clients.values()]
    fresh = File("fresh")
    expected = dump(fresh)
    for name, client in clients.items():
        differ = [pair for pair in zip(dump(client), expected) if pair[0] != pair[1]]
        differ = [[sorted(set(map(repr, a)) - set(map(repr, b)))[:5] for a, b in (pair, pair[::-1])] for pair in differ]
        assert not differ, f"seed {seed}: {name} has, and the server has: {differ}"
    for file in [fresh, *clients.values()]:
        assert not isinstance(file, File) or file.is_sound()
    numbers, names = ({row[0]: row for row in rows} for rows in expected[:2])
    for name, rows in work.items():
        found = {k: [row[2], row[4]] for k, row in numbers.items() if k // 1000 == rows.number}
        assert found == rows.mine["numbers"], f"seed {seed}: rows of {name}"
        found = {k: [row[2], row[4]] for k, row in names.items() if k.startswith(f"{name} ")}
        assert found == rows.mine["names"], f"seed {seed}: rows of {name}"
        found = [line for (line,) in expected[2] if line.startswith(f"{name} ")]
        assert found == rows.lines, f"seed {seed}: lines of {name}"
    assert expected[3] == [(1, "one")]


def all_have_the_same_in_the_end(seed):
    converge(seed, {"turso": Turso, "node": Node, "file": File}, 70)


def all_have_the_same_also_who_watches(seed):
    converge(seed, {"turso": Turso, "node": Node, "watched": Watched}, 70)


def all_have_the_same_also_who_sends_pages(seed):
    pages = lambda name: File(name, "--protocol", "libsql")  # noqa: E731
    converge(seed, {"turso": Turso, "node": Node, "pages": pages, "libsql": Libsql}, 70)


run(globals(), sys.argv[2], int(sys.argv[1]))
