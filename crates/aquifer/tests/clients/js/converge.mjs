// Random transactions from clients of different kinds: node converge.mjs SEED SCENARIO.

import assert from 'node:assert/strict';
import { connect } from '@tursodatabase/sync';
import { createClient } from '@libsql/client';
import Offline from 'libsql';
import { database, restart, run, token } from './stage.mjs';

/** Numbers below n, the same for the same seed. */
function dice(seed) {
    let state = BigInt(seed);
    return (n) => {
        state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
        return Number((state >> 33n) % BigInt(n));
    };
}

const ROWS = 'SELECT k, v, hex(b) AS b FROM t ORDER BY k';
const TABLE = 'CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v TEXT, b BLOB)';
const url = () => database().replace(/\/$/, '');

/** Rows as text, to be compared. */
const dump = (rows) => rows.map((row) => `${row.k}|${row.v}|${row.b}`).join('\n');

async function turso(name) {
    const db = await connect({ path: `${name}.db`, url: url(), authToken: token, clientName: name });
    return {
        write: async (statements) => {
            await db.exec('BEGIN');
            for (const sql of statements) await db.exec(sql);
            await db.exec('COMMIT');
        },
        push: () => db.push(),
        pull: () => db.pull(),
        rows: async () => (await db.prepare(ROWS)).all(),
    };
}

/** One that keeps a copy; `offline` writes into it and pushes frames, otherwise SQL is sent. */
async function libsql(name, offline) {
    const db = new Offline(`${name}.db`, { syncUrl: url(), authToken: token, offline });
    await db.sync();
    return {
        // It never gets out of a conflict, so it writes on top of the newest, and pushes before others write.
        write: async (statements) => {
            await db.sync();
            db.exec(['BEGIN', ...statements, 'COMMIT'].join(';'));
            await db.sync();
        },
        push: async () => {},
        pull: () => db.sync(),
        rows: async () => db.prepare(ROWS).all(),
    };
}

function sql() {
    const client = createClient({ url: database(), authToken: token });
    return {
        write: (statements) => client.batch(statements, 'write'),
        push: async () => {},
        pull: async () => {},
        rows: async () => (await client.execute(ROWS)).rows,
    };
}

function transaction(roll) {
    const statements = [];
    for (let n = 0; n <= roll(4); n++) {
        const k = roll(60);
        const kind = roll(10);
        if (kind < 5) {
            const bytes = roll(12) === 0 ? 20000 : roll(300);
            statements.push(
                `INSERT INTO t(k, v, b) VALUES(${k}, 'v${roll(1e6)}', zeroblob(${bytes})) ` +
                    `ON CONFLICT(k) DO UPDATE SET v = excluded.v, b = excluded.b`,
            );
        } else if (kind < 8) {
            statements.push(`UPDATE t SET v = 'u${roll(1e6)}' WHERE k >= ${k} AND k < ${k + 1 + roll(9)}`);
        } else {
            statements.push(`DELETE FROM t WHERE k = ${k}`);
        }
    }
    return statements;
}

async function converge(seed, rounds, restarts) {
    const roll = dice(seed);
    const server = sql();
    await server.write([TABLE]);
    const clients = {
        server,
        turso_a: await turso('turso_a'),
        turso_b: await turso('turso_b'),
        offline: await libsql('offline', true),
        replica: await libsql('replica', false),
    };
    const all = Object.values(clients);
    for (let round = 0; round < rounds; round++) {
        const client = all[roll(all.length)];
        await client.write(transaction(roll));
        if (roll(3) === 0) await client.push();
        if (roll(3) === 0) await all[roll(all.length)].pull();
        if (restarts && round === rounds >> 1) await restart();
    }
    for (const client of all) await client.push();
    for (const client of all) await client.pull();
    const expected = dump(await server.rows());
    for (const [name, client] of Object.entries(clients)) {
        assert.equal(dump(await client.rows()), expected, `seed ${seed}: ${name}`);
    }
}

const scenarios = {
    all_have_the_same_in_the_end: (seed) => converge(seed, 60, false),
    all_have_the_same_after_a_restart: (seed) => converge(seed, 40, true),
};

await run(scenarios, process.argv[3], process.argv[2]);
