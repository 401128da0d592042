// @tursodatabase/sync, which has the database in a file of its own and pushes and pulls: node sync.mjs CLIENT SCENARIO.

import assert from 'node:assert/strict';
import { connect } from '@tursodatabase/sync';
import { ask, database, restart, run, token } from './stage.mjs';

const openAs = (name, authToken = token, more = {}) =>
    connect({ path: `${name}.db`, url: database(), authToken, clientName: name, ...more });
const query = async (client, sql, ...args) =>
    (await (await client.prepare(sql)).raw().all(...args)).map((row) => [...row]);
const write = async (client, ...row) => (await client.prepare('INSERT INTO t VALUES (?, ?, ?)')).run(...row);
const all = (client) => query(client, 'SELECT id, k, v FROM t ORDER BY id');
const ids = async (client) => (await query(client, 'SELECT id FROM t ORDER BY id')).flat();

/** Two clients of one database with a table that both have. */
async function pair(more = {}) {
    const a = await openAs('a', token, more);
    await a.exec('CREATE TABLE t (id INTEGER PRIMARY KEY, k UNIQUE, v)');
    await a.push();
    return [a, await openAs('b', token, more)];
}

const fails = (promise, what) =>
    assert.rejects(promise, (error) => {
        assert.match(`${error.message} ${error.cause?.message}`, what);
        return true;
    });

const scenarios = {
    async what_one_pushes_the_other_pulls() {
        const [a, b] = await pair();
        await write(a, 1, 'ž🐎', -2.5e-300);
        await write(a, 2, null, Buffer.from([0, 255]));
        await a.push();
        await write(b, 3, 7, "b's");
        await b.push();
        assert.equal(await b.pull(), true);
        assert.equal(await a.pull(), true);
        for (const client of [a, b]) {
            const rows = await all(client);
            assert.deepEqual([rows[0], rows[2]], [[1, 'ž🐎', -2.5e-300], [3, 7, "b's"]]);
            assert.deepEqual([rows[1][1], Buffer.from(rows[1][2])], [null, Buffer.from([0, 255])]);
        }
        await a.exec("UPDATE t SET v = 'new' WHERE id = 1; DELETE FROM t WHERE id = 2");
        await a.push();
        await b.pull();
        assert.deepEqual(await all(b), [[1, 'ž🐎', 'new'], [3, 7, "b's"]]);
        await a.pull();
        assert.equal(await a.pull(), false);
    },

    async what_the_server_refuses_is_kept_for_all_to_see() {
        const [a, b] = await pair();
        await write(a, 1, 'k', 'A');
        await a.push();
        await write(b, 5, 'other', 'before');
        await write(b, 2, 'k', 'B');
        await write(b, 6, 'more', 'after');
        await fails(b.push(), /UNIQUE constraint failed: t.k/);
        // It goes on: nothing of it is stuck.
        await b.push();
        await b.pull();
        await a.pull();
        for (const client of [a, b]) {
            assert.deepEqual(await all(client), [[1, 'k', 'A'], [5, 'other', 'before'], [6, 'more', 'after']]);
            const kept = await query(client, 'SELECT client_id, args, error FROM aquifer_rejected');
            assert.equal(kept.length, 1);
            assert.match(kept[0][0], /^b-/);
            assert.match(kept[0][1], /"B"/);
            assert.match(kept[0][2], /t\.k/);
        }
    },

    async a_restarted_server_is_found_again() {
        const [a, b] = await pair();
        await write(a, 1, 1, 1);
        await a.push();
        await write(a, 2, 2, 2);
        await restart();
        // The connection that was kept alive is gone: the client may have to try twice.
        await a.push().catch(() => a.push());
        await b.pull().catch(() => b.pull());
        assert.deepEqual(await ids(b), [1, 2]);
        await a.close();
        const again = await openAs('a');
        await write(again, 3, 3, 3);
        await again.push();
        await b.pull();
        assert.deepEqual(await ids(b), [1, 2, 3]);
    },

    async a_hundred_thousand_rows_are_bootstrapped() {
        const a = await openAs('a');
        await a.exec('CREATE TABLE big (id INTEGER PRIMARY KEY, v TEXT)');
        await a.transactionAsync(async (tx) => {
            for (let i = 0; i < 100_000; i += 100) {
                const values = Array.from({ length: 100 }, (_, j) => `(${i + j + 1}, 'row ${i + j + 1}')`);
                await tx.exec(`INSERT INTO big VALUES ${values.join()}`);
            }
        })();
        await a.push();
        for (const [name, more] of [['b', {}], ['c', { pullBytesThreshold: 65_536 }]]) {
            const other = await openAs(name, token, more);
            const rows = await query(other, 'SELECT id, v FROM big ORDER BY id');
            assert.equal(rows.length, 100_000);
            rows.forEach(([id, v], i) => {
                if (id !== i + 1 || v !== `row ${i + 1}`) assert.fail(`row ${i}: ${id}, ${v}`);
            });
            assert.deepEqual(await query(other, 'PRAGMA integrity_check'), [['ok']]);
        }
    },

    async a_wrong_token_is_refused() {
        await fails(openAs('c', 'a-wrong-token'), /401/);
        const [a] = await pair();
        await a.close();
        const wrong = await openAs('a', 'a-wrong-token');
        await write(wrong, 1, 1, 1);
        await fails(wrong.push(), /401/);
        await fails(wrong.pull(), /401/);
        await wrong.close();
        await (await openAs('a')).push();
        // What was refused for its token is pushed with the right one.
        assert.deepEqual(await all(await openAs('b2')), [[1, 1, 1]]);
    },

    async faults_lose_nothing_and_repeat_nothing() {
        const [a, b] = await pair();
        let n = 0;
        for (const fault of ['status 401', 'status 503', 'drop', 'cut']) {
            for (const path of ['/pull-updates 0', '/v2/pipeline 0', '/v2/pipeline 1']) {
                n += 1;
                await write(b, n, `key ${n}`, fault);
                await (await b.prepare('UPDATE t SET v = ? WHERE id = 1')).run(`count ${n}`);
                await write(a, 1000 + n, `a's ${n}`, path);
                await a.push();
                await ask(`fault ${path} ${fault}`);
                if (path === '/pull-updates 0') {
                    await fails(b.pull(), /./);
                    await b.pull();
                    await b.push();
                } else {
                    await fails(b.push(), /./);
                    await b.push();
                }
                await a.pull();
                await b.pull();
                assert.deepEqual(await all(a), await all(b), `${fault} ${path}`);
                assert.deepEqual(await query(a, 'SELECT count(*), max(id) FROM t WHERE id < 1000'), [[n, n]]);
                assert.deepEqual(await query(a, 'SELECT v FROM t WHERE id = 1'), [[`count ${n}`]]);
            }
        }
        await ask('fault /pull-updates 0 delay 2000');
        await write(b, 2000, 'late', 'late');
        await b.push();
        await a.pull();
        assert.deepEqual(await query(a, 'SELECT k FROM t WHERE id = 2000'), [['late']]);
        const fresh = await openAs('c');
        assert.deepEqual(await all(fresh), await all(a));
        assert.deepEqual(await query(fresh, "SELECT name FROM sqlite_schema WHERE name = 'aquifer_rejected'"), []);
    },
};

await run(scenarios, process.argv[3]);
