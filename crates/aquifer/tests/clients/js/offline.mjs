// libsql, which has the database in a file of its own: offline, or as a replica whose writes go to the server.
// node offline.mjs CLIENT SCENARIO.

import assert from 'node:assert/strict';
import Database from 'libsql';
import { database, restart, run, token } from './stage.mjs';

const openAs = (name, authToken = token, offline = true) =>
    new Database(`${name}.db`, { syncUrl: database().replace(/\/$/, ''), authToken, offline });
const rows = (client) => client.prepare('SELECT id, v FROM t ORDER BY id').raw().all();
const write = (client, id, v) => client.prepare('INSERT INTO t VALUES (?, ?)').run(id, v);

/** A client that has made a table and pushed it, and another one that has it too. */
function pair() {
    const a = openAs('a');
    a.sync();
    a.exec('CREATE TABLE t (id INTEGER PRIMARY KEY, v)');
    a.sync();
    const b = openAs('b');
    b.sync();
    return [a, b];
}

const scenarios = {
    what_one_pushes_the_other_pulls() {
        const [a, b] = pair();
        write(a, 1, 'ž🐎');
        write(a, 2, Buffer.from([0, 255]));
        a.sync();
        b.sync();
        assert.deepEqual(rows(b).map(([id, v]) => [id, Buffer.from(v)]), [
            [1, Buffer.from('ž🐎')],
            [2, Buffer.from([0, 255])],
        ]);
        b.exec('DELETE FROM t WHERE id = 2');
        write(b, 3, -2.5e-300);
        b.sync();
        a.sync();
        assert.deepEqual(rows(a), [[1, 'ž🐎'], [3, -2.5e-300]]);
    },

    what_conflicts_is_refused_and_nothing_of_it_is_written() {
        const [a, b] = pair();
        write(a, 1, 'A');
        write(b, 1, 'B');
        a.sync();
        assert.throws(() => b.sync(), /conflict/i);
        const fresh = openAs('c');
        fresh.sync();
        assert.deepEqual(rows(fresh), [[1, 'A']]);
        assert.deepEqual(rows(b), [[1, 'B']]);
    },

    async a_restarted_server_is_found_again() {
        const [a, b] = pair();
        write(a, 1, 1);
        a.sync();
        write(a, 2, 2);
        await restart();
        a.sync();
        b.sync();
        assert.deepEqual(rows(b), [[1, 1], [2, 2]]);
    },

    a_hundred_thousand_rows_are_bootstrapped() {
        const [a] = pair();
        a.exec(
            'INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) ' +
                "SELECT i, printf('row %d', i) FROM n",
        );
        a.sync();
        const other = openAs('c');
        other.sync();
        const found = rows(other);
        assert.equal(found.length, 100_000);
        found.forEach(([id, v], i) => {
            if (id !== i + 1 || v !== `row ${i + 1}`) assert.fail(`row ${i}: ${id}, ${v}`);
        });
        assert.deepEqual(other.prepare('PRAGMA integrity_check').raw().all(), [['ok']]);
    },

    a_wrong_token_is_refused() {
        const open = (name) => {
            const client = openAs(name, 'a-wrong-token');
            client.sync();
        };
        assert.throws(() => open('c'), /401|unauthorized|token/i);
    },

    a_replica_reads_its_own_writes() {
        pair();
        const replica = openAs('r', token, false);
        replica.sync();
        write(replica, 1, 'through the server');
        assert.deepEqual(rows(replica), [[1, 'through the server']]);
        const other = openAs('c');
        other.sync();
        assert.deepEqual(rows(other), [[1, 'through the server']]);
    },
};

await run(scenarios, process.argv[3]);
