/**
 * The yardstick: node:net and nothing else. It answers every line with a fixed acceptance, keeps no session, checks nothing and
 * hashes nothing; what it costs is what Node's sockets cost on this machine, so the distance of the real server to it is ours.
 *
 * Verbs: listen, broadcast, usage, memory.
 */

import { createServer, type Socket } from 'node:net';
import koffi from 'koffi';
import { serveParent } from './child.ts';
import { monotonicMs } from './fleet.ts';
import { readMemory, type ServerMemory } from './memory.ts';
import type { BroadcastAnswer } from './server.ts';

const ACCEPTED = '{"id":7,"result":true,"error":null}\n';
const SUBSCRIBED = '{"id":1,"result":[[["mining.notify","00000001"]],"00000001",8],"error":null}\n';
const AUTHORIZED =
  '{"id":2,"result":true,"error":null}\n' +
  '{"id":null,"method":"mining.set_difficulty","params":[1]}\n' +
  '{"id":null,"method":"mining.notify","params":["1","","","",[],"20000000","207fffff","60000000",true]}\n';

const sockets = new Set<Socket>();
const server = createServer({ noDelay: true }, (socket) => {
  sockets.add(socket);
  let stage = 0;
  socket.on('data', (bytes) => {
    let lines = 0;
    for (let i = 0; i < bytes.length; i++) if (bytes[i] === 10) lines += 1;
    if (stage === 0) socket.write(SUBSCRIBED, 'latin1');
    else if (stage === 1) socket.write(AUTHORIZED, 'latin1');
    else socket.write(lines === 1 ? ACCEPTED : ACCEPTED.repeat(lines), 'latin1');
    stage += 1;
  });
  socket.on('error', () => {});
  socket.on('close', () => sockets.delete(socket));
});

/** libc's send() on the descriptor itself: what the kernel alone takes, in any language. */
const libcSend = koffi.load(null).func('int64_t send(int, void *, size_t, int)');
const MSG_DONTWAIT_NOSIGNAL = 0x4040;

function sendRaw(socket: Socket, line: Buffer): void {
  const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
  if (libcSend(fd, line, line.length, MSG_DONTWAIT_NOSIGNAL) !== line.length)
    throw new Error('the kernel did not take a line whole');
}

serveParent(
  {
    listen: () =>
      new Promise<number>((resolve) => {
        server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
          const address = server.address();
          resolve(typeof address === 'object' && address !== null ? address.port : 0);
        });
      }),
    /** Writes `bytes` latin1 characters to every socket, `chunk` sockets per turn of the loop. Monotonic ms of begin and end. */
    broadcast: (args: { bytes: number; chunk: number; isRaw: boolean }) =>
      new Promise<BroadcastAnswer>((resolve) => {
        const line = Buffer.from(`${'x'.repeat(args.bytes - 1)}\n`, 'latin1');
        const list = [...sockets];
        const startedMs = monotonicMs();
        let at = 0;
        let longestTurnMs = 0;
        const turn = (): void => {
          const turnMs = monotonicMs();
          for (const end = Math.min(list.length, at + args.chunk); at < end; at++)
            if (args.isRaw) sendRaw(list[at]!, line);
            else list[at]!.write(line);
          longestTurnMs = Math.max(longestTurnMs, monotonicMs() - turnMs);
          if (at < list.length) setImmediate(turn);
          else resolve({ startedMs, endedMs: monotonicMs(), longestTurnMs, bytes: line.length });
        };
        turn();
      }),
    usage: () => process.cpuUsage(),
    memory: (): ServerMemory => readMemory(),
  },
  () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  },
);
