"""libsql with the database in a file of its own, offline: offline.py CLIENT SCENARIO."""

import json
import os
import sqlite3
import subprocess
import sys

import libsql

from stage import TOKEN, database, fails, restart, run


def open_as(name, token=TOKEN):
    return libsql.connect(f"{name}.db", sync_url=database().rstrip("/"), auth_token=token, offline=True)


def rows(client):
    return client.execute("SELECT id, v FROM t ORDER BY id").fetchall()


def write(client, id, v):
    client.execute("INSERT INTO t VALUES (?, ?)", (id, v))
    client.commit()


def pair():
    """A client that has made a table and pushed it, and another one that has it too."""
    a = open_as("a")
    a.sync()
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    a.commit()
    a.sync()
    b = open_as("b")
    b.sync()
    return a, b


def what_one_pushes_the_other_pulls():
    a, b = pair()
    write(a, 1, "ž🐎")
    write(a, 2, b"\x00\xff")
    a.sync()
    b.sync()
    assert rows(b) == [(1, "ž🐎"), (2, b"\x00\xff")], rows(b)
    write(b, 3, -2.5e-300)
    b.sync()
    a.sync()
    assert rows(a) == [(1, "ž🐎"), (2, b"\x00\xff"), (3, -2.5e-300)], rows(a)


def a_file_that_aquifer_syncs_as_pages_becomes_the_same():
    a, b = pair()

    def sync_file():
        remote = ["--remote", database().rstrip("/"), "--protocol", "libsql"]
        subprocess.run([os.environ["AQUIFER_PROGRAM"], "sync", "file.db", *remote], check=True, stdout=subprocess.DEVNULL)

    def in_file(sql):
        file = sqlite3.connect("file.db")
        with file:
            found = file.execute(sql).fetchall()
        file.close()
        return found

    expected = []
    for round in range(3):
        write(a, 10 * round, "libsql")
        a.sync()
        sync_file()
        in_file(f"INSERT INTO t VALUES ({10 * round} + 1, 'file')")
        # Others are faster: libSQL's own client would be stuck.
        write(a, 10 * round + 2, "libsql")
        a.sync()
        sync_file()
        a.sync()
        expected += [(10 * round + i, "file" if i == 1 else "libsql") for i in range(3)]
        assert rows(a) == in_file("SELECT id, v FROM t ORDER BY id") == expected, rows(a)
    in_file("CREATE INDEX i ON t(v)")
    in_file("ALTER TABLE t ADD COLUMN more DEFAULT 7")
    sync_file()
    b.sync()
    assert rows(b) == expected, rows(b)
    assert b.execute("SELECT DISTINCT more FROM t").fetchall() == [(7,)]


def a_copy_is_taken_over_by_aquifer_with_what_it_has_not_pushed():
    a, b = pair()
    write(a, 10, "pushed")
    a.sync()
    write(a, 11, "offline")
    a.close()
    expected, pushed = taken_over("a", b, [(10, "pushed"), (11, "offline")])
    assert pushed > 0
    # What was pushed may not have been noted: the process ended at that moment.
    c = open_as("c")
    c.sync()
    write(c, 20, "pushed")
    c.sync()
    with open("c.db-info", "rb") as info:
        note = info.read()
    write(c, 21, "pushed and not noted")
    c.sync()
    c.close()
    with open("c.db-info", "wb") as info:
        info.write(note)
    _, pushed = taken_over("c", b, expected + [(20, "pushed"), (21, "pushed and not noted")])
    assert pushed == 0, "what is on the server is not pushed again"


def taken_over(name, other, expected):
    """Another one writes meanwhile. Returns what all have then, and how much was pushed."""
    other.sync()
    more = (expected[-1][0] + 5, "of another")
    write(other, *more)
    other.sync()
    sync = [os.environ["AQUIFER_PROGRAM"], "sync", f"{name}.db", "--json", "--remote", database().rstrip("/")]
    synced = subprocess.run(sync, check=True, capture_output=True)
    other.sync()
    db = sqlite3.connect(f"{name}.db")
    found = db.execute("SELECT id, v FROM t ORDER BY id").fetchall()
    db.close()
    assert found == rows(other) == expected + [more], (found, rows(other))
    # libSQL's client does not go on with what it does not know any more. It says so on its standard output.
    again = f"import libsql; libsql.connect('{name}.db', sync_url='{database().rstrip('/')}', auth_token='{TOKEN}', offline=True)"
    refused = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True)
    assert refused.returncode != 0 and "metadata" in refused.stderr, refused
    return found, json.loads(synced.stdout)["pushed"]


def what_conflicts_is_refused_and_nothing_of_it_is_written():
    a, b = pair()
    write(a, 1, "A")
    write(b, 1, "B")
    a.sync()
    fails(b.sync, "conflict")
    fresh = open_as("c")
    fresh.sync()
    assert rows(fresh) == [(1, "A")], rows(fresh)


def a_restarted_server_is_found_again():
    a, b = pair()
    write(a, 1, 1)
    a.sync()
    write(a, 2, 2)
    restart()
    a.sync()
    b.sync()
    assert rows(b) == [(1, 1), (2, 2)], rows(b)


def a_hundred_thousand_rows_are_bootstrapped():
    a, _ = pair()
    a.execute(
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        " SELECT i, printf('row %d', i) FROM n"
    )
    a.commit()
    a.sync()
    other = open_as("c")
    other.sync()
    assert rows(other) == [(i, f"row {i}") for i in range(1, 100_001)], len(rows(other))


def a_wrong_token_is_refused():
    fails(lambda: open_as("c", "a-wrong-token").sync(), "401|unauthorized|token")


run(globals(), sys.argv[2])
