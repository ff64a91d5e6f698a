/**
 * A node that only keeps time: speaks enough of Bitcoin Core's JSON-RPC for a pool to start and submit, and notes on
 * CLOCK_MONOTONIC when the first byte of every submitblock arrived. It accepts everything at once and moves its tip only when told, so that
 * it costs the machine nothing but reading the block.
 *
 * Verbs: listen({ bits, weight }) → { port, blockBytes, transactions }, submissions() → what came since the last call,
 * advance({ weight, bits }) → a new tip with a template of that weight and, if given, those bits; answers when those who wait for it were told.
 */
import { createServer, type Socket } from 'node:net';
import { makeBigTemplate } from './big-template.ts';
import { serveParent } from './child.ts';
import { monotonicMs } from './fleet.ts';

/** First byte of the request and its end, monotonic milliseconds; the 80 header bytes in hex say which block it was. */
export type SubmissionSeen = {
  headerHex: string;
  firstByteMs: number;
  lastByteMs: number;
  bytes: number;
};

let templateJson = '';
const submissions: SubmissionSeen[] = [];
/** Heights of blocks that were asked for. All lie deep in the chain: what is looked at every two seconds for ever would be another load. */
const known = new Map<string, number>();
const atHeight = new Map<number, string>();
const KNOWN_MAX = 10_000;
const DEEP_CONFIRMATIONS = 10;
let lastKnown = 0;
const sockets = new Set<Socket>();
/** regtest's. */
const GENESIS = '0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206';
let tip = 'ab'.repeat(28).padStart(64, '0');
let height = 200;
let bits = 0;
/** Long-polls that wait for a new tip. */
const waiting: { socket: Socket; id: string }[] = [];

/** One connection's request being read. Only the beginning of a body is kept. */
type Reading = {
  firstByteMs: number;
  head: string;
  headEnd: number;
  bodyBytes: number;
  total: number;
};

const server = createServer((socket) => {
  sockets.add(socket);
  socket.setNoDelay(true);
  let reading: Reading | null = null;
  socket.on('data', (bytes: Buffer) => {
    reading ??= { firstByteMs: monotonicMs(), head: '', headEnd: -1, bodyBytes: 0, total: -1 };
    reading.bodyBytes += bytes.length;
    if (reading.head.length < 16_384) reading.head += bytes.toString('latin1', 0, 16_384);
    if (reading.headEnd < 0) {
      const at = reading.head.indexOf('\r\n\r\n');
      if (at < 0) return;
      reading.headEnd = at + 4;
      const match = /content-length:\s*(\d+)/i.exec(reading.head.slice(0, at));
      reading.total = reading.headEnd + Number(match?.[1] ?? 0);
    }
    if (reading.bodyBytes < reading.total) return;
    const done = reading;
    reading = null;
    answer(socket, done);
  });
  socket.on('error', () => {});
  socket.on('close', () => sockets.delete(socket));
});

function answer(socket: Socket, reading: Reading): void {
  const body = reading.head.slice(reading.headEnd);
  const method = /"method"\s*:\s*"(\w+)"/.exec(body)?.[1] ?? '';
  const id = /"id"\s*:\s*("[^"]*"|\d+|null)/.exec(body)?.[1] ?? 'null';
  if (method === 'submitblock') {
    const headerHex = /"params"\s*:\s*\[\s*"([0-9a-f]{160})/.exec(body)?.[1] ?? '';
    submissions.push({
      headerHex,
      firstByteMs: reading.firstByteMs,
      lastByteMs: monotonicMs(),
      bytes: reading.bodyBytes,
    });
    reply(socket, `{"result":null,"error":null,"id":${id}}`);
    return;
  }
  const result = resultOf(method, body);
  if (result === null) {
    reply(
      socket,
      `{"result":null,"error":{"code":-32601,"message":"Method not found"},"id":${id}}`,
    );
  } else if (result === 'never') waiting.push({ socket, id });
  else reply(socket, `{"result":${result},"error":null,"id":${id}}`);
}

/** JSON text of the result, null for a method that is not there, `never` for a long-poll that stays open. */
function resultOf(method: string, body: string): string | null {
  switch (method) {
    case 'getblocktemplate':
      if (body.includes('"proposal"') && body.includes('"mode"')) return 'null';
      return body.includes('longpollid') ? 'never' : templateJson;
    case 'getblockchaininfo':
      return JSON.stringify({
        chain: 'regtest',
        blocks: height,
        headers: height,
        bestblockhash: tip,
        chainwork: (height + 1).toString(16).padStart(64, '0'),
        initialblockdownload: false,
      });
    case 'getnetworkinfo':
      return JSON.stringify({ version: 280_100, subversion: '/bench:1/', connections: 8 });
    case 'getbestblockhash':
      return JSON.stringify(tip);
    case 'getblockcount':
      return String(height);
    case 'getblockhash':
      return JSON.stringify(hashAt(Number(/"params"\s*:\s*\[\s*(\d+)/.exec(body)?.[1] ?? height)));
    case 'getblockheader': {
      const hash = /"([0-9a-f]{64})"/.exec(body.slice(body.indexOf('params')))?.[1] ?? tip;
      return JSON.stringify({
        hash,
        confirmations: hash === tip ? 1 : DEEP_CONFIRMATIONS,
        height: hash === tip ? height : heightOf(hash),
        previousblockhash: tip,
      });
    }
    case 'submitheader':
    case 'preciousblock':
      return 'null';
    default:
      return null;
  }
}

function hashAt(asked: number): string {
  return asked === 0 ? GENESIS : (atHeight.get(asked) ?? tip);
}

/** A height of its own for each block, far from the tip's. */
function heightOf(hash: string): number {
  let own = known.get(hash);
  if (own === undefined) {
    lastKnown += 1;
    own = 1_000_000 + lastKnown;
    known.set(hash, own);
    atHeight.set(own, hash);
    const oldest = own - KNOWN_MAX;
    known.delete(atHeight.get(oldest) ?? '');
    atHeight.delete(oldest);
  }
  return own;
}

function reply(socket: Socket, body: string): void {
  socket.write(
    `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

serveParent(
  {
    listen: (args: { bits: number; weight: number }) =>
      new Promise<{ port: number; blockBytes: number; transactions: number }>((resolve) => {
        bits = args.bits;
        const template = makeBigTemplate({ ...args, time: Math.floor(Date.now() / 1000) });
        templateJson = template.json;
        server.listen(0, '127.0.0.1', () => {
          const address = server.address();
          resolve({
            port: typeof address === 'object' && address !== null ? address.port : 0,
            blockBytes: template.blockBytes,
            transactions: template.transactions,
          });
        });
      }),
    submissions: () => submissions.splice(0),
    advance(args: { weight: number; bits?: number }): { toldMs: number; blockBytes: number } {
      bits = args.bits ?? bits;
      const time = Math.floor(Date.now() / 1000);
      const { json, blockBytes } = makeBigTemplate({ bits, weight: args.weight, time });
      const before = tip;
      height += 1;
      tip = height.toString(16).padStart(8, '0').repeat(7).padStart(64, '0');
      templateJson = json
        .replaceAll('ab'.repeat(28).padStart(64, '0'), tip)
        .replace('"height":201', `"height":${height + 1}`);
      if (before === tip) throw new Error('the tip has not moved');
      const toldMs = monotonicMs();
      for (const { socket, id } of waiting.splice(0)) {
        if (socket.writable) reply(socket, `{"result":${templateJson},"error":null,"id":${id}}`);
      }
      return { toldMs, blockBytes };
    },
    template: () => templateJson,
  },
  () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  },
);
