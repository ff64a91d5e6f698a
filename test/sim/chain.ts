/**
 * The world outside the pool: a block chain, nodes that can be down, slow or lying, and templates. A node judges a submitted
 * block byte by byte against the template it gave out, with its own arithmetic, so "accepted" means that the pool built the
 * whole block right.
 */
import type { Rpc, RpcAnswer } from '../../src/core/node/rpc.ts';
import { doubleSha, integerOf, merkleRootOf, targetOfBits } from './oracle.ts';
import type { Random } from './random.ts';
import type { VirtualTime } from './time.ts';

/** One hash in 256 is a block: rare among shares, cheap to search. */
export const NETWORK_BITS = 0x2000ffff;

export type ChainBlock = {
  hashDisplay: string;
  previousDisplay: string;
  height: number;
  ours: boolean;
};

type TemplateTx = {
  data: string;
  txid: string;
  hash: string;
  raw: Buffer;
  id: Buffer;
  weight: number;
};

/** A getblocktemplate answer and what the node needs to judge the block made from it. */
export type SimTemplate = {
  /** As JSON-RPC would give it. */
  answer: Record<string, unknown>;
  previousDisplay: string;
  height: number;
  transactions: TemplateTx[];
  valueSats: number;
  commitmentScript: string;
};

const SLOW_MS = 3_000;

/** How a node behaves at present. */
export type NodeMode = 'up' | 'down' | 'slow' | 'lost-answer' | 'warming' | 'overloaded';
export const NODE_MODES: readonly NodeMode[] = [
  'up',
  'down',
  'slow',
  'lost-answer',
  'warming',
  'overloaded',
];

const display = (hash: Uint8Array): string => Buffer.from(hash).reverse().toString('hex');

export class Chain {
  readonly blocks = new Map<string, ChainBlock>();
  /** Best chain, index is height. */
  best: ChainBlock[] = [];
  /** Every block that ever reached a node, by hash; the block itself for the ones of ours. */
  readonly received = new Map<string, { atMs: number; node: string; times: number }>();
  /** Refusals of blocks that are the pool's fault. */
  readonly faults: string[] = [];
  readonly templates = new Map<string, SimTemplate[]>();
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
    const genesis = { hashDisplay: '00'.repeat(32), previousDisplay: '', height: 100, ours: false };
    this.blocks.set(genesis.hashDisplay, genesis);
    this.best[100] = genesis;
  }

  get tip(): ChainBlock {
    return this.best[this.best.length - 1]!;
  }

  /** A block of somebody else on top of `parent` (default: the tip). */
  foreignBlock(parent: ChainBlock = this.tip): ChainBlock {
    const block = {
      hashDisplay: Buffer.from(this.#random.bytes(32)).toString('hex'),
      previousDisplay: parent.hashDisplay,
      height: parent.height + 1,
      ours: false,
    };
    this.#add(block);
    return block;
  }

  /** Another block takes the tip's place at the same height, as after a race that somebody else won. */
  replaceTip(): ChainBlock {
    const old = this.tip;
    if (old.previousDisplay === '') return this.foreignBlock();
    this.best.pop();
    return this.foreignBlock(this.blocks.get(old.previousDisplay)!);
  }

  #add(block: ChainBlock): void {
    this.blocks.set(block.hashDisplay, block);
    if (block.height <= this.tip.height) return;
    // Rewind to the fork, then take the branch: heights are consecutive by construction.
    const branch: ChainBlock[] = [];
    let at: ChainBlock = block;
    while (this.best[at.height]?.hashDisplay !== at.hashDisplay) {
      branch.push(at);
      at = this.blocks.get(at.previousDisplay)!;
    }
    this.best.length = at.height + 1;
    for (const entry of branch.reverse()) this.best[entry.height] = entry;
  }

  confirmations(hashDisplay: string): number {
    const block = this.blocks.get(hashDisplay);
    if (block === undefined || this.best[block.height] !== block) return -1;
    return this.tip.height - block.height + 1;
  }

  /** A template on the tip with a few fresh transactions, some of them with witnesses. */
  template(nowMs: number): SimTemplate {
    const random = this.#random;
    const transactions = Array.from({ length: random.below(5) }, () => makeTransaction(random));
    const tip = this.tip;
    const witnessRoot = merkleRootOf([
      Buffer.alloc(32),
      ...transactions.map((tx) => Buffer.from(tx.hash, 'hex').reverse()),
    ]);
    const commitment = doubleSha(Buffer.concat([witnessRoot, Buffer.alloc(32)]));
    const commitmentScript = `6a24aa21a9ed${commitment.toString('hex')}`;
    const valueSats = 5_000_000_000 + transactions.length * 1000;
    const time = Math.floor(nowMs / 1000);
    const template: SimTemplate = {
      previousDisplay: tip.hashDisplay,
      height: tip.height + 1,
      transactions,
      valueSats,
      commitmentScript,
      answer: {
        capabilities: ['proposal'],
        version: 0x20000000,
        rules: ['csv', '!segwit', 'taproot'],
        vbavailable: {},
        vbrequired: 0,
        previousblockhash: tip.hashDisplay,
        transactions: transactions.map((tx) => ({
          data: tx.data,
          txid: tx.txid,
          hash: tx.hash,
          depends: [],
          fee: 1000,
          sigops: 4,
          weight: tx.weight,
        })),
        coinbaseaux: {},
        coinbasevalue: valueSats,
        longpollid: `${tip.hashDisplay}${random.below(1e6)}`,
        target: targetOfBits(NETWORK_BITS).toString(16).padStart(64, '0'),
        mintime: time - 3600,
        mutable: ['time', 'transactions', 'prevblock'],
        noncerange: '00000000ffffffff',
        sigoplimit: 80_000,
        sizelimit: 4_000_000,
        weightlimit: 4_000_000,
        curtime: time,
        bits: NETWORK_BITS.toString(16).padStart(8, '0'),
        height: tip.height + 1,
        default_witness_commitment: commitmentScript,
      },
    };
    const list = this.templates.get(tip.hashDisplay) ?? [];
    list.push(template);
    this.templates.set(tip.hashDisplay, list);
    return template;
  }

  /** What a node says to `submitblock`: null or Core's own reason. */
  submit(block: Buffer, node: string, nowMs: number): string | null {
    const hash = doubleSha(block.subarray(0, 80));
    const hashDisplay = display(hash);
    const known = this.received.get(hashDisplay);
    if (known !== undefined) {
      known.times += 1;
      return 'duplicate';
    }
    const reason = this.#judge(block, hash);
    if (reason !== null) {
      this.faults.push(`${reason} ${hashDisplay}`);
      return reason;
    }
    const previousDisplay = display(block.subarray(4, 36));
    const parent = this.blocks.get(previousDisplay)!;
    this.received.set(hashDisplay, { atMs: nowMs, node, times: 1 });
    this.#add({ hashDisplay, previousDisplay, height: parent.height + 1, ours: true });
    return this.confirmations(hashDisplay) > 0 ? null : 'inconclusive';
  }

  #judge(block: Buffer, hash: Buffer): string | null {
    if (block.readUInt32LE(72) !== NETWORK_BITS) return 'bad-diffbits';
    if (integerOf(hash) > targetOfBits(NETWORK_BITS)) return 'high-hash';
    const candidates = this.templates.get(display(block.subarray(4, 36)));
    if (candidates === undefined) return 'prev-blk-not-found';
    let last = 'bad-txnmrklroot';
    for (const template of candidates) {
      const verdict = judgeBody(block, template);
      if (verdict === null) return null;
      if (verdict !== 'bad-txnmrklroot') last = verdict;
    }
    return last;
  }
}

/** Compares a block's body with a template; null when it is exactly right. */
function judgeBody(block: Buffer, template: SimTemplate): string | null {
  const body = Buffer.concat(template.transactions.map((tx) => tx.raw));
  const count = 1 + template.transactions.length;
  if (block[80] !== count) return 'bad-txnmrklroot';
  const end = block.length - body.length;
  if (end < 81 || !block.subarray(end).equals(body)) return 'bad-txnmrklroot';
  const coinbase = block.subarray(81, end);
  // Layout with witness: version 4, marker 00 01, inputs…, witness 01 20 <32 zero bytes>, locktime 4.
  if (coinbase[4] !== 0 || coinbase[5] !== 1) return 'bad-witness-nonce-size';
  const witnessAt = coinbase.length - 4 - 34;
  if (coinbase[witnessAt] !== 1 || coinbase[witnessAt + 1] !== 32) return 'bad-witness-nonce-size';
  const stripped = Buffer.concat([
    coinbase.subarray(0, 4),
    coinbase.subarray(6, witnessAt),
    coinbase.subarray(coinbase.length - 4),
  ]);
  const root = merkleRootOf([doubleSha(stripped), ...template.transactions.map((tx) => tx.id)]);
  if (!root.equals(block.subarray(36, 68))) return 'bad-txnmrklroot';
  const paid = readOutputs(stripped);
  if (paid === null) return 'bad-cb-length';
  const total = paid.reduce((sum, output) => sum + output.sats, 0n);
  if (total > BigInt(template.valueSats)) return 'bad-cb-amount';
  if (!paid.some((output) => output.script === template.commitmentScript))
    return 'bad-witness-merkle-match';
  return null;
}

function readOutputs(coinbase: Buffer): { sats: bigint; script: string }[] | null {
  const scriptLength = coinbase[41]!;
  if (scriptLength < 2 || scriptLength > 100) return null;
  let at = 42 + scriptLength + 4;
  const count = coinbase[at++]!;
  const out: { sats: bigint; script: string }[] = [];
  for (let i = 0; i < count; i++) {
    const sats = coinbase.readBigUInt64LE(at);
    const length = coinbase[at + 8]!;
    out.push({ sats, script: coinbase.subarray(at + 9, at + 9 + length).toString('hex') });
    at += 9 + length;
  }
  return at + 4 === coinbase.length ? out : null;
}

/** One input, one output, every second one with a witness: enough for any parser. */
function makeTransaction(random: Random): TemplateTx {
  const input = Buffer.concat([
    Buffer.from([1]),
    random.bytes(32),
    Buffer.from([random.below(4), 0, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff]),
  ]);
  const output = Buffer.concat([
    Buffer.from([1]),
    random.bytes(4),
    Buffer.from([0, 0, 0, 0, 22, 0, 20]),
    random.bytes(20),
  ]);
  const version = Buffer.from([2, 0, 0, 0]);
  const locktime = Buffer.alloc(4);
  const plain = Buffer.concat([version, input, output, locktime]);
  const witness = Buffer.concat([
    Buffer.from([2, 3]),
    random.bytes(3),
    Buffer.from([2]),
    random.bytes(2),
  ]);
  const raw = random.chance(0.5)
    ? Buffer.concat([version, Buffer.from([0, 1]), input, output, witness, locktime])
    : plain;
  const id = doubleSha(plain);
  return {
    data: raw.toString('hex'),
    txid: display(id),
    hash: display(doubleSha(raw)),
    raw,
    id,
    weight: plain.length * 3 + raw.length,
  };
}

/** A node: the shared chain behind a door that misbehaves on command. */
export class SimNode {
  mode: NodeMode = 'up';
  /** Since when this node has been answering honestly. */
  upSinceMs = 0;
  readonly name: string;
  readonly #chain: Chain;
  readonly #time: VirtualTime;
  /** Called with a name at each step of a call, so that a crash can be placed there. */
  readonly #fault: (point: string) => void;

  constructor(name: string, chain: Chain, time: VirtualTime, fault: (point: string) => void) {
    this.name = name;
    this.#chain = chain;
    this.#time = time;
    this.#fault = fault;
  }

  setMode(mode: NodeMode): void {
    if (mode === 'up' && this.mode !== 'up') {
      // A call that began while the node was slow still takes its time; after a 503 the pool may wait five seconds.
      const patienceMs =
        this.mode === 'slow' ? SLOW_MS + 500 : this.mode === 'overloaded' ? 5_000 : 0;
      this.upSinceMs = this.#time.nowMs + patienceMs;
    }
    this.mode = mode;
  }

  /** A door for one incarnation of the pool; `alive` says whether that process still exists to hear the answer. */
  open(alive: () => boolean): Rpc {
    const reply = (answer: RpcAnswer, delayMs: number): Promise<RpcAnswer> =>
      new Promise((resolve) => {
        this.#time.after(delayMs, () => {
          if (!alive()) return;
          this.#time.activity += 1;
          resolve(answer);
        });
      });
    const ask = async (method: string, params: readonly unknown[]): Promise<RpcAnswer> => {
      if (!alive()) return new Promise(() => {});
      this.#time.activity += 1;
      if (method === 'submitblock') this.#fault('node.submit.before');
      if (!alive()) return new Promise(() => {});
      switch (this.mode) {
        case 'down':
          return reply({ kind: 'unreachable', detail: 'connection refused' }, 1);
        case 'warming':
          return reply({ kind: 'warming-up', detail: '-28 Loading block index' }, 1);
        case 'overloaded':
          return reply({ kind: 'overloaded', detail: '503 Work queue depth exceeded' }, 2);
        case 'slow':
          await new Promise<void>((resolve) => this.#time.after(SLOW_MS, resolve));
          if (!alive()) return new Promise(() => {});
          return reply(this.#answer(method, params), 1);
        case 'lost-answer':
          this.#answer(method, params);
          return reply({ kind: 'timeout', detail: 'no answer in time' }, 4000);
        case 'up': {
          const answer = this.#answer(method, params);
          if (method === 'submitblock') this.#fault('node.submit.after');
          return reply(answer, 2);
        }
      }
    };
    return {
      name: this.name,
      call: (method, params) => ask(method, params),
      callEncoded: (method, _id, body) => {
        const request = JSON.parse(
          Buffer.concat(body.map((part) => Buffer.from(part))).toString('utf8'),
        ) as {
          params: unknown[];
        };
        return ask(method, request.params);
      },
      stop: () => {},
    };
  }

  #answer(method: string, params: readonly unknown[]): RpcAnswer {
    const chain = this.#chain;
    switch (method) {
      case 'submitblock': {
        const result = chain.submit(
          Buffer.from(String(params[0]), 'hex'),
          this.name,
          this.#time.nowMs,
        );
        return { kind: 'result', result };
      }
      case 'getblockheader': {
        const block = chain.blocks.get(String(params[0]));
        if (block === undefined) return { kind: 'error', code: -5, message: 'Block not found' };
        return {
          kind: 'result',
          result: {
            hash: block.hashDisplay,
            confirmations: chain.confirmations(block.hashDisplay),
            height: block.height,
            previousblockhash: block.previousDisplay,
          },
        };
      }
      case 'getblockhash': {
        const block = chain.best[Number(params[0])];
        if (block === undefined)
          return { kind: 'error', code: -8, message: 'Block height out of range' };
        return { kind: 'result', result: block.hashDisplay };
      }
      case 'getblockcount':
        return { kind: 'result', result: chain.tip.height };
      case 'getbestblockhash':
        return { kind: 'result', result: chain.tip.hashDisplay };
      case 'getblockchaininfo':
        return {
          kind: 'result',
          result: {
            chain: 'regtest',
            blocks: chain.tip.height,
            headers: chain.tip.height,
            bestblockhash: chain.tip.hashDisplay,
            chainwork: chain.tip.height.toString(16).padStart(64, '0'),
            initialblockdownload: false,
          },
        };
      default:
        return { kind: 'error', code: -32601, message: `Method not found: ${method}` };
    }
  }
}
