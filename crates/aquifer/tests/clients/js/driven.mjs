// @tursodatabase/sync, driven by another script: node driven.mjs NAME. A request a line on stdin, an answer a line on stdout.

import { createInterface } from 'node:readline';
import { connect } from '@tursodatabase/sync';

const clientName = process.argv[2];
const url = `${process.env.AQUIFER_URL}/db/shop/`;
const db = await connect({ path: `${clientName}.db`, url, authToken: process.env.AQUIFER_TOKEN, clientName });

/** As JSON has it: blobs in hexadecimal digits, integers of any size. */
const plain = (value) => {
    if (value instanceof Uint8Array) return { blob: Buffer.from(value).toString('hex') };
    return typeof value === 'bigint' ? { integer: value.toString() } : value;
};
const bound = (value) => {
    if (value?.blob !== undefined) return Buffer.from(value.blob, 'hex');
    return value?.integer !== undefined ? BigInt(value.integer) : value;
};

const requests = {
    async write({ statements }) {
        await db.exec('BEGIN');
        for (const [sql, args] of statements) await (await db.prepare(sql)).run(...args.map(bound));
        await db.exec('COMMIT');
    },
    push: () => db.push(),
    pull: () => db.pull(),
    async query({ sql }) {
        const statement = await db.prepare(sql);
        statement.safeIntegers(true);
        return (await statement.raw().all()).map((row) => [...row].map(plain));
    },
};

const tell = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

tell({ value: 'connected' });
for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    const answer = await requests[request.ask](request).then(
        (value) => ({ value: value ?? null }),
        (error) => ({ error: `${error.message} ${error.cause?.message ?? ''}` }),
    );
    tell(answer);
}
process.exit(0);
