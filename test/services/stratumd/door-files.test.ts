import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Client, eventually } from './door-rig.ts';

const REQUEST = '{"id":1,"method":"mining.ping","params":[]}\n';

it('with 256 open files: so many miners, the rest turned away, those inside unaffected (P35)', async () => {
  const child = spawn(
    '/bin/sh',
    ['-c', `ulimit -n 256; exec "$0" "$1"`, process.execPath, childPath()],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => JSON.parse((await answers.next()).value as string);
  const clients: Client[] = [];
  try {
    const { port } = await next();
    const first = await Client.open(port);
    first.send(REQUEST);
    assert.ok(await first.lines(1));
    for (let count = 0; count < 299; count++) clients.push(await Client.open(port));
    // 0.9 × (256 − 128) files are for miners, one of them the first.
    const kept = Math.floor(0.9 * (256 - 128)) - 1;
    // Which of them are kept is the kernel's choice: there are several accept queues.
    const inside = () => clients.filter((client) => client.end === null);
    assert.ok(await eventually(() => inside().length === kept));
    first.send(REQUEST);
    assert.ok(await first.lines(2));
    const last = inside()[kept - 1]!;
    last.send(REQUEST);
    assert.ok(await last.lines(1));
    child.stdin.write('counters\n');
    assert.deepEqual(await next(), { connections: kept + 1, refused: 299 - kept, exceptions: 0 });
    first.destroy();
  } finally {
    for (const client of clients) client.destroy();
    child.stdin.end();
    await new Promise((resolve) => child.once('exit', resolve));
  }
});

function childPath(): string {
  return fileURLToPath(new URL('./door-child.ts', import.meta.url));
}
