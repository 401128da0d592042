"""libsql as a remote client, which keeps nothing: sql.py CLIENT SCENARIO."""

import sys

import libsql

from stage import TOKEN, database, fails, restart, run


def connect(token=TOKEN):
    return libsql.connect(database(), auth_token=token, isolation_level=None)


def query(client, sql, args=()):
    return client.execute(sql, args).fetchall()


def table():
    client = connect()
    client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)")
    return client


def values_come_back_as_they_were_written():
    client = connect()
    client.execute("CREATE TABLE v (i INTEGER, f REAL, t TEXT, b BLOB, n)")
    # This client sends larger integers as floats.
    written = (2_147_483_647, -2.5e-300, 'žluťoučký "kůň"🐎', b"\x00\xff\x10", None)
    client.execute("INSERT INTO v VALUES (?, ?, ?, ?, ?)", written)
    read = query(client, "SELECT i, f, t, b, n FROM v")
    assert read == [written], read
    types = query(client, "SELECT typeof(i), typeof(f), typeof(t), typeof(b), typeof(n) FROM v")
    assert types == [("integer", "real", "text", "blob", "null")], types


def a_transaction_is_seen_by_others_when_it_commits():
    client, other = table(), connect()
    client.execute("BEGIN IMMEDIATE")
    client.execute("INSERT INTO t VALUES (1, 'one')")
    assert query(other, "SELECT count(*) FROM t") == [(0,)]
    client.execute("COMMIT")
    assert query(other, "SELECT count(*) FROM t") == [(1,)]
    client.execute("BEGIN")
    client.execute("INSERT INTO t VALUES (2, 'two')")
    client.execute("ROLLBACK")
    assert query(other, "SELECT id, v FROM t") == [(1, "one")]
    fails(lambda: client.execute("INSERT INTO t VALUES (3, 'one')"), "UNIQUE constraint failed: t.v")


def a_restarted_server_is_found_again():
    client = table()
    client.execute("INSERT INTO t VALUES (1, 1)")
    client.execute("BEGIN IMMEDIATE")
    client.execute("INSERT INTO t VALUES (2, 2)")
    restart()
    fails(lambda: client.execute("INSERT INTO t VALUES (3, 3)"), "stream|baton")
    again = connect()
    again.execute("INSERT INTO t VALUES (4, 4)")
    assert query(again, "SELECT id FROM t ORDER BY id") == [(1,), (4,)]


def a_hundred_thousand_rows_are_read():
    client = connect()
    client.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, v TEXT)")
    client.execute(
        "INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        " SELECT i, printf('row %d', i) FROM n"
    )
    rows = query(client, "SELECT id, v FROM big ORDER BY id")
    assert rows == [(i, f"row {i}") for i in range(1, 100_001)], len(rows)


def a_wrong_token_is_refused():
    fails(lambda: connect("a-wrong-token").execute("SELECT 1"), "401|token")


run(globals(), sys.argv[2])
