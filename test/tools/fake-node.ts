/**
 * A Bitcoin node that does what a test says: real HTTP on loopback, a tree of blocks without consensus, and every way of failing
 * that a pool has met: slow, hanging, 503, 401, HTML, cut off, endless, wrong id, wrong network.
 */
import http from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import { sha256d } from '../../src/core/bitcoin/hash.ts';
import { hashHeader } from '../../src/core/bitcoin/header.ts';
import { merkleRoot } from '../../src/core/bitcoin/merkle.ts';
import { NETWORKS } from '../../src/core/bitcoin/network.ts';
import { encodeTx, type Tx, txid, txWeight, wtxid } from '../../src/core/bitcoin/tx.ts';

export type FakeFault =
  | { kind: 'none' }
  | { kind: 'delay'; delayMs: number }
  | { kind: 'hang' }
  | { kind: 'status'; status: number; text: string }
  | { kind: 'truncate' }
  | { kind: 'huge' }
  | { kind: 'wrong-id' }
  | { kind: 'both' }
  | { kind: 'error'; code: number; message: string }
  | { kind: 'result'; result: unknown }
  /** Does what was asked, then breaks the connection instead of answering. */
  | { kind: 'act-and-break' };

export type FakeCall = {
  method: string;
  params: unknown[];
  atMs: number;
  /** Infinite until then, and for answers that a fault has made. */
  answeredAtMs: number;
  bytes: number;
};

type FakeBlock = { hash: string; previous: string; height: number; hex: string };

export type FakeTransaction = {
  txid: string;
  hash: string;
  data: string;
  weight: number;
  fee: number;
  depends: number[];
};

export type FakeNode = {
  url: string;
  port: number;
  calls: FakeCall[];
  /** By method, or `*` for all. */
  faults: Map<string, FakeFault>;
  /** User and password that are let in; null: everybody. */
  credentials: string | null;
  genesis: string;
  transactions: FakeTransaction[];
  initialBlockDownload: boolean;
  headersAhead: number;
  /** Laid over every template. */
  templateFields: Record<string, unknown>;
  /** What a proposal is answered with; null accepts. */
  proposalAnswer: (hex: string) => unknown;
  /** Resolves when the first byte of a submitblock body came. */
  onRequestStart: ((atMs: number) => void) | null;
  tip(): FakeBlock;
  /** A stranger's block on the given one (default: the tip); becomes the tip when it is higher. */
  mine(onHash?: string): FakeBlock;
  block(hash: string): FakeBlock | undefined;
  isInBestChain(hash: string): boolean;
  forget(hash: string): void;
  callsOf(method: string): FakeCall[];
  /** Stops listening and breaks all connections; `start` on the same port brings it back with its chain. */
  down(): Promise<void>;
  up(): Promise<void>;
  stop(): Promise<void>;
};

export async function startFakeNode(options: { genesis?: string } = {}): Promise<FakeNode> {
  const genesis = options.genesis ?? NETWORKS.regtest.genesisHashDisplay;
  const blocks = new Map<string, FakeBlock>();
  blocks.set(genesis, { hash: genesis, previous: '00'.repeat(32), height: 0, hex: '' });
  let tip = blocks.get(genesis)!;
  let serial = 0;
  const sockets = new Set<Socket>();
  const waiters = new Set<() => void>();

  function chainAt(height: number): string | null {
    let block: FakeBlock | undefined = tip;
    while (block !== undefined && block.height > height) block = blocks.get(block.previous);
    return block?.height === height ? block.hash : null;
  }

  function add(block: FakeBlock): void {
    blocks.set(block.hash, block);
    if (block.height > tip.height) setTip(block);
  }

  function setTip(block: FakeBlock): void {
    tip = block;
    for (const wake of waiters) wake();
    waiters.clear();
  }

  function template(): Record<string, unknown> {
    const fees = node.transactions.reduce((sum, { fee }) => sum + fee, 0);
    return {
      version: 0x20000000,
      rules: ['csv', '!segwit', 'taproot'],
      previousblockhash: tip.hash,
      transactions: node.transactions,
      coinbaseaux: {},
      coinbasevalue: 5_000_000_000 + fees,
      longpollid: `${tip.hash}1`,
      target: `7fffff${'00'.repeat(29)}`,
      mintime: 1_600_000_000,
      sigoplimit: 80_000,
      sizelimit: 4_000_000,
      weightlimit: 4_000_000,
      curtime: 1_700_000_000 + tip.height,
      bits: '207fffff',
      height: tip.height + 1,
      default_witness_commitment: commitmentOf(node.transactions),
      ...node.templateFields,
    };
  }

  function submit(hex: string): unknown {
    if (hex.length < 162 || hex.length % 2 !== 0) return rpcError(-22, 'Block decode failed');
    const header = Buffer.from(hex.slice(0, 160), 'hex');
    const hash = encodeHexReversed(hashHeader(header));
    if (blocks.has(hash)) return 'duplicate';
    const previous = encodeHexReversed(header.subarray(4, 36));
    const parent = blocks.get(previous);
    if (parent === undefined) return 'prev-blk-not-found';
    const block = { hash, previous, height: parent.height + 1, hex };
    const better = block.height > tip.height;
    add(block);
    return better ? null : 'inconclusive';
  }

  async function act(method: string, params: unknown[]): Promise<unknown> {
    switch (method) {
      case 'getblockhash': {
        const hash = chainAt(Number(params[0]));
        return hash ?? rpcError(-8, 'Block height out of range');
      }
      case 'getbestblockhash':
        return tip.hash;
      case 'getblockchaininfo':
        return {
          chain: 'regtest',
          blocks: tip.height,
          headers: tip.height + node.headersAhead,
          bestblockhash: tip.hash,
          chainwork: (2n * BigInt(tip.height + 1)).toString(16).padStart(64, '0'),
          initialblockdownload: node.initialBlockDownload,
        };
      case 'getblockheader': {
        const block = blocks.get(String(params[0]));
        if (block === undefined) return rpcError(-5, 'Block not found');
        const main = chainAt(block.height) === block.hash;
        return {
          hash: block.hash,
          confirmations: main ? tip.height - block.height + 1 : -1,
          height: block.height,
          previousblockhash: block.previous,
        };
      }
      case 'getblocktemplate': {
        const request = (params[0] ?? {}) as { mode?: string; data?: string; longpollid?: string };
        if (request.mode === 'proposal') return node.proposalAnswer(request.data ?? '');
        if (request.longpollid === `${tip.hash}1`)
          await new Promise<void>((resolve) => waiters.add(resolve));
        return template();
      }
      case 'submitblock':
        return submit(String(params[0]));
      case 'preciousblock': {
        const block = blocks.get(String(params[0]));
        if (block === undefined) return rpcError(-5, 'Block not found');
        if (block.height === tip.height) setTip(block);
        return null;
      }
      default:
        return rpcError(-32601, 'Method not found');
    }
  }

  function answer(
    response: http.ServerResponse,
    id: unknown,
    result: unknown,
    fault: FakeFault,
  ): void {
    const failed = result instanceof RpcFailure;
    const body = JSON.stringify({
      result: failed ? null : result,
      error: failed
        ? { code: result.code, message: result.text }
        : fault.kind === 'both'
          ? { code: 1, message: 'x' }
          : null,
      id: fault.kind === 'wrong-id' ? 'somebody else' : id,
    });
    response.statusCode = failed ? 500 : 200;
    response.setHeader('content-type', 'application/json');
    response.setHeader('content-length', Buffer.byteLength(body));
    if (fault.kind === 'truncate') {
      response.write(body.slice(0, body.length / 2));
      setImmediate(() => response.socket?.destroy());
      return;
    }
    response.end(body);
  }

  function floodBody(response: http.ServerResponse): void {
    const chunk = Buffer.alloc(1024 * 1024, 0x20);
    let left = 200;
    const more = () => {
      while (left > 0 && !response.destroyed) {
        left -= 1;
        if (!response.write(chunk)) {
          response.once('drain', more);
          return;
        }
      }
      response.end();
    };
    more();
  }

  async function handle(request: http.IncomingMessage, response: http.ServerResponse) {
    const chunks: Buffer[] = [];
    request.on('error', () => {});
    request.once('data', () => node.onRequestStart?.(performance.now()));
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    if (node.credentials !== null) {
      const wanted = `Basic ${Buffer.from(node.credentials).toString('base64')}`;
      if (request.headers.authorization !== wanted) {
        response.statusCode = 401;
        response.end();
        return;
      }
    }
    const { id, method, params } = JSON.parse(body.toString('latin1')) as {
      id: unknown;
      method: string;
      params: unknown[];
    };
    const call: FakeCall = {
      method,
      params,
      atMs: performance.now(),
      answeredAtMs: Number.POSITIVE_INFINITY,
      bytes: body.length,
    };
    node.calls.push(call);
    if (node.calls.length > 10_000) node.calls.splice(0, 5000);
    const fault = node.faults.get(method) ?? node.faults.get('*') ?? { kind: 'none' };
    switch (fault.kind) {
      case 'hang':
        return;
      case 'delay':
        await new Promise((resolve) => setTimeout(resolve, fault.delayMs));
        break;
      case 'status':
        response.statusCode = fault.status;
        response.end(fault.text);
        return;
      case 'huge':
        floodBody(response);
        return;
      case 'error':
        answer(response, id, rpcError(fault.code, fault.message), fault);
        return;
      case 'result':
        answer(response, id, fault.result, fault);
        return;
      case 'act-and-break':
        await act(method, params);
        response.socket?.destroy();
        return;
    }
    const result = await act(method, params);
    call.answeredAtMs = performance.now();
    answer(response, id, result, fault);
  }

  const node: FakeNode = {
    url: '',
    port: 0,
    calls: [],
    faults: new Map(),
    credentials: null,
    genesis,
    transactions: [],
    initialBlockDownload: false,
    headersAhead: 0,
    templateFields: {},
    proposalAnswer: () => null,
    onRequestStart: null,
    tip: () => tip,
    mine(onHash) {
      const parent = blocks.get(onHash ?? tip.hash)!;
      serial += 1;
      const hash = encodeHexReversed(sha256d(Buffer.from(`${node.port}/${serial}`)));
      const block = { hash, previous: parent.hash, height: parent.height + 1, hex: '' };
      add(block);
      return block;
    },
    block: (hash) => blocks.get(hash),
    isInBestChain: (hash) => chainAt(blocks.get(hash)?.height ?? -1) === hash,
    forget(hash) {
      const block = blocks.get(hash);
      if (block !== undefined && tip.hash === hash) tip = blocks.get(block.previous)!;
      blocks.delete(hash);
    },
    callsOf: (method) => node.calls.filter((call) => call.method === method),
    async down() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
    async up() {
      await listen(node.port);
    },
    async stop() {
      for (const wake of waiters) wake();
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };

  const server = http.createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  async function listen(port: number): Promise<void> {
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', () => resolve()));
    node.port = (server.address() as AddressInfo).port;
    node.url = `http://127.0.0.1:${node.port}/`;
  }
  await listen(0);
  return node;
}

class RpcFailure {
  readonly code: number;
  readonly text: string;
  constructor(code: number, text: string) {
    this.code = code;
    this.text = text;
  }
}

function rpcError(code: number, text: string): RpcFailure {
  return new RpcFailure(code, text);
}

/** A transaction with one input (numbered by `serial`) and a witness of `witnessBytes`; without one when that is 0. */
export function fakeTransaction(serial: number, witnessBytes: number, fee = 1000): FakeTransaction {
  const previousTxid = new Uint8Array(32);
  new DataView(previousTxid.buffer).setUint32(0, serial + 1, true);
  const tx: Tx = {
    version: 2,
    inputs: [
      {
        previousTxid,
        previousIndex: 0,
        script: new Uint8Array(0),
        sequence: 0xffffffff,
        witness: witnessBytes === 0 ? [] : [new Uint8Array(witnessBytes).fill(serial & 0xff)],
      },
    ],
    outputs: [{ valueSats: 1000n, script: Uint8Array.of(0x51) }],
    locktime: 0,
  };
  return {
    txid: encodeHexReversed(txid(tx)),
    hash: encodeHexReversed(wtxid(tx)),
    data: Buffer.from(encodeTx(tx, { witness: true })).toString('hex'),
    weight: txWeight(tx),
    fee,
    depends: [],
  };
}

/** Witness transactions that together weigh a little under `weight`, of about 100 kB each. */
export function fatTransactions(weight: number): FakeTransaction[] {
  const list: FakeTransaction[] = [];
  let left = weight;
  while (left > 1000) {
    const next = fakeTransaction(list.length, Math.max(1, Math.min(100_000, left - 300)));
    list.push(next);
    left -= next.weight;
  }
  return list;
}

function commitmentOf(transactions: readonly FakeTransaction[]): string {
  const hashes = transactions.map(({ hash }) => Buffer.from(hash, 'hex').reverse());
  const root = merkleRoot([new Uint8Array(32), ...hashes]);
  const commitment = sha256d(Buffer.concat([root, new Uint8Array(32)]));
  return `6a24aa21a9ed${Buffer.from(commitment).toString('hex')}`;
}
