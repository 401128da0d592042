// Clients that send SQL and keep nothing: node sql.mjs CLIENT SCENARIO.

import assert from 'node:assert/strict';
import { createClient } from '@libsql/client';
import { connect } from '@tursodatabase/serverless';
import { beside, database, restart, run, token } from './stage.mjs';

/** @libsql/client, over http or ws. */
function libsql(scheme) {
    return (authToken = token) => {
        const url = database().replace(/^http/, scheme);
        const client = createClient({ url, authToken, intMode: 'bigint' });
        const rows = (set) => set.rows.map((row) => set.columns.map((_, i) => row[i]));
        return {
            query: async (sql, args = []) => rows(await client.execute({ sql, args })),
            batch: (statements) =>
                client.batch(statements.map(([sql, ...args]) => ({ sql, args })), 'write'),
            transaction: async (work) => {
                const transaction = await client.transaction('write');
                try {
                    const query = async (sql, args = []) => rows(await transaction.execute({ sql, args }));
                    await work(query);
                    await transaction.commit();
                } finally {
                    transaction.close();
                }
            },
            script: (sql) => client.executeMultiple(sql),
        };
    };
}

/** @tursodatabase/serverless, which reads everything through cursors. */
function serverless(authToken = token) {
    const client = connect({ url: database(), authToken });
    client.defaultSafeIntegers(true);
    const rows = (of) => async (sql, args = []) =>
        (await (await of.prepare(sql)).raw().all(args)).map((row) => [...row]);
    return {
        query: rows(client),
        batch: (statements) =>
            client.batch(statements.map(([sql, ...args]) => ({ sql, args })), 'immediate'),
        transaction: (work) => client.transactionAsync((tx) => work(rows(tx))).immediate(),
        script: (sql) => client.exec(sql),
    };
}

const clients = { http: libsql('http'), ws: libsql('ws'), serverless };

/** Fails with an error in which this is. */
const fails = (promise, what) =>
    assert.rejects(promise, (error) => {
        const told = `${error.code} ${error.rawCode} ${error.message} ${error.cause?.message}`;
        assert.match(told, what);
        return true;
    });

async function table(client) {
    await client.query('CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)');
}

const scenarios = {
    async values_come_back_as_they_were_written(client) {
        await client.query('CREATE TABLE v (i INTEGER, f REAL, t TEXT, b BLOB, n)');
        const written = [9_223_372_036_854_775_807n, -2.5e-300, 'žluťoučký "kůň"\0🐎', Buffer.from([0, 255, 16]), null];
        await client.query('INSERT INTO v VALUES (?, ?, ?, ?, ?)', written);
        const [[i, f, t, b, n]] = await client.query('SELECT i, f, t, b, n FROM v');
        assert.deepEqual([i, f, t, Buffer.from(b), n], written);
        const types = await client.query('SELECT typeof(i), typeof(f), typeof(t), typeof(b), typeof(n) FROM v');
        assert.deepEqual(types, [['integer', 'real', 'text', 'blob', 'null']]);
        assert.deepEqual(await client.query('SELECT i FROM v WHERE f = ?', [-2.5e-300]), [[written[0]]]);
    },

    async a_batch_is_all_or_nothing(client) {
        await table(client);
        await client.batch([['INSERT INTO t VALUES (?, ?)', 1, 'one'], ['INSERT INTO t VALUES (2, ?)', 'two']]);
        await fails(
            client.batch([['INSERT INTO t VALUES (3, ?)', 'three'], ['INSERT INTO t VALUES (4, ?)', 'one']]),
            /SQLITE_CONSTRAINT.*UNIQUE/,
        );
        assert.deepEqual(await client.query('SELECT id FROM t ORDER BY id'), [[1n], [2n]]);
        await client.script('DELETE FROM t; INSERT INTO t VALUES (9, NULL)');
        assert.deepEqual(await client.query('SELECT id FROM t'), [[9n]]);
    },

    async a_transaction_is_seen_by_others_when_it_commits(client, connect) {
        await table(client);
        const other = connect();
        const count = async () => Number((await other.query('SELECT count(*) FROM t'))[0][0]);
        await client.transaction(async (query) => {
            await query('INSERT INTO t VALUES (1, ?)', ['one']);
            await query('INSERT INTO t VALUES (2, (SELECT v || ? FROM t WHERE id = 1))', ['!']);
            assert.equal(await count(), 0);
        });
        assert.equal(await count(), 2);
        await fails(
            client.transaction(async (query) => {
                await query('INSERT INTO t VALUES (3, 3)');
                throw new Error('changed my mind');
            }),
            /changed my mind/,
        );
        assert.equal(await count(), 2);
    },

    async a_writer_who_waits_in_vain_is_told_that_it_is_busy(client, connect) {
        await table(client);
        const other = connect();
        await client.transaction(async (query) => {
            await query('INSERT INTO t VALUES (1, 1)');
            await fails(other.query('INSERT INTO t VALUES (2, 2)'), /SQLITE_BUSY|locked/);
        });
        await other.query('INSERT INTO t VALUES (2, 2)');
        assert.deepEqual(await client.query('SELECT id FROM t ORDER BY id'), [[1n], [2n]]);
    },

    async a_restarted_server_is_found_again(client) {
        await table(client);
        await client.query('INSERT INTO t VALUES (1, 1)');
        const lost = client.transaction(async (query) => {
            await query('INSERT INTO t VALUES (2, 2)');
            await restart();
            await query('INSERT INTO t VALUES (3, 3)');
        });
        await assert.rejects(lost);
        // A WebSocket's client may learn only now that its connection is gone.
        await client.query('SELECT 1').catch(() => {});
        await client.query('INSERT INTO t VALUES (4, 4)');
        assert.deepEqual(await client.query('SELECT id FROM t ORDER BY id'), [[1n], [4n]]);
    },

    async a_server_that_does_not_have_the_database_passes_everything_on(client, connect) {
        await table(client);
        await beside();
        const other = connect();
        await other.transaction(async (query) => {
            await query('INSERT INTO t VALUES (1, ?)', ['one']);
            await query('INSERT INTO t VALUES (2, ?)', ['x'.repeat(1_000_000)]);
        });
        const lengths = 'SELECT id, length(v) FROM t ORDER BY id';
        assert.deepEqual(await other.query(lengths), [[1n, 3n], [2n, 1_000_000n]]);
        await fails(connect('a-wrong-token').query('SELECT 1'), /401|token/i);
    },

    async a_hundred_thousand_rows_are_read(client) {
        await client.script(
            'CREATE TABLE big (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO big WITH RECURSIVE n(i) AS ' +
                "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i, printf('row %d', i) FROM n",
        );
        const rows = await client.query('SELECT id, v FROM big ORDER BY id');
        assert.equal(rows.length, 100_000);
        rows.forEach(([id, v], i) => {
            if (id !== BigInt(i + 1) || v !== `row ${i + 1}`) assert.fail(`row ${i}: ${id}, ${v}`);
        });
    },

    async a_wrong_token_is_refused(_, connect) {
        await fails(connect('a-wrong-token').query('SELECT 1'), /401|token/i);
        await fails(connect('').query('SELECT 1'), /401|token/i);
    },
};

const [name, scenario] = process.argv.slice(2);
await run(scenarios, scenario, clients[name](), clients[name]);
