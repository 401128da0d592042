"""pyturso, which has the database in a file of its own and pushes and pulls: sync.py CLIENT SCENARIO."""

import os
import sys

import turso.sync

from stage import TOKEN, ask, database, fails, restart, run


def open_as(name, token=TOKEN):
    client = turso.sync.connect(f"{name}.db", database(), auth_token=token, client_name=name)
    client.isolation_level = None
    return client


def query(client, sql, args=()):
    return client.execute(sql, args).fetchall()


def pair():
    """Two clients of one database with a table that both have."""
    a = open_as("a")
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, k UNIQUE, v)")
    a.push()
    b = open_as("b")
    return a, b


def write(client, id, k, v):
    client.execute("INSERT INTO t VALUES (?, ?, ?)", (id, k, v))
    client.commit()


ALL = "SELECT id, k, v FROM t ORDER BY id"


def what_one_pushes_the_other_pulls():
    a, b = pair()
    write(a, 1, "ž🐎", -2.5e-300)
    write(a, 2, None, b"\x00\xff")
    a.push()
    write(b, 3, 9_223_372_036_854_775_807, "b's")
    b.push()
    assert b.pull()
    assert a.pull()
    expected = [(1, "ž🐎", -2.5e-300), (2, None, b"\x00\xff"), (3, 9_223_372_036_854_775_807, "b's")]
    assert query(a, ALL) == expected, query(a, ALL)
    assert query(b, ALL) == expected, query(b, ALL)
    a.execute("UPDATE t SET v = 'new' WHERE id = 1")
    a.execute("DELETE FROM t WHERE id = 2")
    a.commit()
    a.push()
    b.pull()
    assert query(b, "SELECT id, v FROM t ORDER BY id") == [(1, "new"), (3, "b's")]
    a.pull()
    assert not a.pull(), "nothing is new"


def what_the_server_refuses_is_kept_for_all_to_see():
    a, b = pair()
    write(a, 1, "k", "A")
    a.push()
    write(b, 5, "other", "before")
    write(b, 2, "k", "B")
    write(b, 6, "more", "after")
    fails(b.push, "UNIQUE constraint failed: t.k")
    # It goes on: nothing of it is stuck.
    b.push()
    b.pull()
    expected = [(1, "k", "A"), (5, "other", "before"), (6, "more", "after")]
    assert query(b, ALL) == expected, query(b, ALL)
    a.pull()
    assert query(a, ALL) == expected, query(a, ALL)
    for client in (a, b):
        (client_id, args, error), = query(client, "SELECT client_id, args, error FROM aquifer_rejected")
        assert client_id.startswith("b-"), client_id
        assert '"B"' in args and "t.k" in error, (args, error)


def a_restarted_server_is_found_again():
    a, b = pair()
    write(a, 1, 1, 1)
    a.push()
    write(a, 2, 2, 2)
    restart()
    a.push()
    b.pull()
    assert query(b, "SELECT id FROM t ORDER BY id") == [(1,), (2,)]
    a.close()
    again = open_as("a")
    write(again, 3, 3, 3)
    again.push()
    b.pull()
    assert query(b, "SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]


def a_hundred_thousand_rows_are_bootstrapped():
    a = open_as("a")
    a.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, v TEXT)")
    a.execute("BEGIN")
    for i in range(0, 100_000, 100):
        values = ", ".join(f"({j}, 'row {j}')" for j in range(i + 1, i + 101))
        a.execute(f"INSERT INTO big VALUES {values}")
    a.execute("COMMIT")
    a.push()
    b = open_as("b")
    rows = query(b, "SELECT id, v FROM big ORDER BY id")
    assert rows == [(i, f"row {i}") for i in range(1, 100_001)], len(rows)
    assert query(b, "PRAGMA integrity_check") == [("ok",)]


def a_wrong_token_is_refused():
    fails(lambda: open_as("c", "a-wrong-token"), "401")
    a, _ = pair()
    a.close()
    wrong = open_as("a", "a-wrong-token")
    write(wrong, 1, 1, 1)
    fails(wrong.push, "401")
    fails(wrong.pull, "401")
    wrong.close()
    right = open_as("a")
    right.push()
    b = open_as("b2")
    assert query(b, ALL) == [(1, 1, 1)], "what was refused for its token is pushed with the right one"


def faults_lose_nothing_and_repeat_nothing():
    a, b = pair()
    n = 0
    for fault in ("status 401", "status 503", "drop", "cut"):
        for path in ("/pull-updates 0", "/v2/pipeline 0", "/v2/pipeline 1"):
            n += 1
            write(b, n, f"key {n}", fault)
            b.execute("UPDATE t SET v = ? WHERE id = 1", (f"count {n}",))
            b.commit()
            write(a, 1000 + n, f"a's {n}", path)
            a.push()
            ask(f"fault {path} {fault}")
            if path == "/pull-updates 0":
                fails(b.pull, ".")
                b.pull()
                b.push()
            else:
                fails(b.push, ".")
                b.push()
            a.pull()
            b.pull()
            assert query(a, ALL) == query(b, ALL), (fault, path)
            assert query(a, "SELECT count(*), max(id) FROM t WHERE id < 1000") == [(n, n)], (fault, path)
            assert query(a, "SELECT v FROM t WHERE id = 1") == [(f"count {n}",)], (fault, path)
    ask("fault /pull-updates 0 delay 2000")
    write(b, 2000, "late", "late")
    b.push()
    a.pull()
    assert query(a, "SELECT k FROM t WHERE id = 2000") == [("late",)]
    fresh = open_as("c")
    assert query(fresh, ALL) == query(a, ALL)
    assert query(fresh, "SELECT name FROM sqlite_schema WHERE name = 'aquifer_rejected'") == []


run(globals(), sys.argv[2])
