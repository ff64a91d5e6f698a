/** The measuring client's sockets: both ways of driving them say the same to a line echo. */
import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { openFleet } from '../../../bench/tools/fleet.ts';

for (const kind of ['epoll', 'node'] as const) {
  const applies = kind === 'node' || process.platform === 'linux';
  test(`a fleet on ${kind} ${applies ? 'opens, writes, reads and hears of the end' : 'is for Linux only'}`, async () => {
    if (!applies) {
      assert.throws(() => openFleet({ open() {}, data() {}, closed() {} }, kind));
      return;
    }
    const accepted: Socket[] = [];
    const server = createServer((socket) => {
      accepted.push(socket);
      socket.on('error', () => {});
      socket.pipe(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const heard = new Map<number, string>();
    const ended = new Map<number, string>();
    let finish: () => void = () => {};
    const done = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const fleet = openFleet(
      {
        open(id) {
          const line = Buffer.from(`hello ${id}\n`);
          assert.equal(fleet.write(id, line, line.length), true);
        },
        data(id, bytes, length, readyMs) {
          heard.set(id, (heard.get(id) ?? '') + bytes.toString('latin1', 0, length));
          assert.ok(readyMs > 0);
          if (heard.size === 20) for (const socket of accepted) socket.destroy();
        },
        closed(id, reason) {
          ended.set(id, reason);
          if (ended.size === 20) finish();
        },
      },
      kind,
    );
    assert.equal(fleet.kind, kind);
    for (let i = 0; i < 20; i++) fleet.connect(port, `127.0.0.${1 + (i % 3)}`);
    await done;
    for (const [id, text] of heard) assert.equal(text, `hello ${id}\n`);
    const gone = Buffer.from('x');
    assert.equal(fleet.write([...ended.keys()][0]!, gone, 1), false);
    fleet.stop();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
}
