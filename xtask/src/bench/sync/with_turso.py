"""Changes rows and pushes or pulls; prints the seconds of that: with_turso.py FILE URL push|pull FIRST STEP ROWS."""

import sys
import time

import turso.sync

file, url, what = sys.argv[1:4]
first, step, rows = map(int, sys.argv[4:])
client = turso.sync.connect(file, url, client_name="bench")
client.isolation_level = None
client.execute("BEGIN")
for row in range(rows):
    client.execute("UPDATE kv SET n = n + 1 WHERE k = ?", (first + row * step,))
client.execute("COMMIT")
begun = time.perf_counter()
getattr(client, what)()
print(time.perf_counter() - begun)
