// What every script here has from the test that runs it: the server's URL, its tokens, and answers to what it asks for.

import { createInterface } from 'node:readline';

/** The URL of a database, with a slash at its end; another one for each name. */
export const database = (name = 'shop') => `${process.env.AQUIFER_URL}/db/${name}/`;
export const token = process.env.AQUIFER_TOKEN;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the test to do something with the server, and waits until it is done. */
export async function ask(what) {
    process.stdout.write(`${what}\n`);
    const answer = await answers.next();
    if (answer.value !== 'done') throw new Error(`the test did not ${what}: ${answer.value}`);
}

/** The server is killed, and another one is started on an empty disk. */
export const restart = () => ask('restart');

/** Another server is started beside it, and asked from then on. */
export const beside = () => ask('beside');

/** Repeats until it holds. The test ends the script when that takes too long. */
export async function until(holds) {
    while (!(await holds())) await new Promise((resolve) => setImmediate(resolve));
}

/** Runs the scenario that the command line names. */
export async function run(scenarios, name, ...args) {
    if (!scenarios[name]) throw new Error(`there is no scenario ${name}`);
    await scenarios[name](...args);
    // Clients may hold sockets and timers that would keep the process alive.
    process.exit(0);
}
