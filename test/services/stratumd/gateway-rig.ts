/**
 * A gateway with everything around it faked and visible: connections that collect lines, a journal that commits when told, a
 * lane that collects blocks, and a miner that really searches. Used by the tests of the gateway, the corpus, the transcripts
 * and the fuzz targets.
 */

import { decodeAddress } from '../../../src/core/bitcoin/address.ts';
import { decodeHex, equalBytes } from '../../../src/core/bitcoin/bytes.ts';
import { decodeBits, targetOfDifficulty } from '../../../src/core/bitcoin/target.ts';
import { SESSION_LIMITS } from '../../../src/core/stratum/limits.ts';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import type { CoinbaseParts, Job } from '../../../src/core/work/job.ts';
import { buildPoolCoinbase } from '../../../src/core/work/payout.ts';
import {
  compileWork,
  fillWork,
  meetsTarget,
  type PreparedTarget,
  prepareTarget,
  type Work,
} from '../../../src/core/work/share.ts';
import { VARDIFF_POLICY } from '../../../src/core/work/vardiff.ts';
import type { BlockCandidate } from '../../../src/messages/block.ts';
import { decodeShare } from '../../../src/messages/codec.ts';
import type { ShareRecord } from '../../../src/messages/share.ts';
import type { Log } from '../../../src/ports.ts';
import { Gateway } from '../../../src/services/stratumd/gateway.ts';
import {
  type Connection,
  createGatewayMetrics,
  type GatewayOptions,
  type GatewayTools,
  type PortOptions,
} from '../../../src/services/stratumd/options.ts';
import type { Session } from '../../../src/services/stratumd/session.ts';

/** Regtest addresses; the second is the pool's. */
export const MINER = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';
export const OTHER_MINER = 'bcrt1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qzf4jry';
export const POOL = 'bcrt1qs758ursh4q9z627kt3pp5yysm78ddny6txaqgw';

export const START_MS = 1_780_000_000_000;

/** Difficulty 1 as network: blocks do not happen by chance. */
export const HARD_BITS = 0x1d00ffff;
/** Half of all hashes are blocks. */
export const EASY_BITS = 0x207fffff;
/** One hash in 256. */
export const SHARE_DIFFICULTY = 2 ** -24;

export const silentLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLog,
};

export class FakeConnection implements Connection {
  readonly remoteAddress: string;
  readonly port: PortOptions;
  congested = false;
  /** Every write as text, in order. */
  writes: string[] = [];
  end = '';
  endReason = '';
  constructor(port: PortOptions, remoteAddress = '192.0.2.1') {
    this.port = port;
    this.remoteAddress = remoteAddress;
  }
  write(data: string | Uint8Array): void {
    if (this.end !== '') throw new Error('write after close');
    this.writes.push(typeof data === 'string' ? data : Buffer.from(data).toString('latin1'));
  }
  close(reason: string): void {
    this.end ||= 'close';
    this.endReason ||= reason;
  }
  destroy(reason: string): void {
    this.end ||= 'destroy';
    this.endReason ||= reason;
  }
  /** Everything written since the last call, one object per line. Throws when a line is not whole JSON. */
  take(): Message[] {
    const text = this.writes.join('');
    this.writes = [];
    if (text === '') return [];
    if (!text.endsWith('\n')) throw new Error(`unfinished line: ${text}`);
    return text
      .slice(0, -1)
      .split('\n')
      .map((line) => JSON.parse(line));
  }
}

export type Message = {
  id: unknown;
  method?: string;
  params?: unknown[];
  result?: unknown;
  error?: [number, string, null] | null;
};

export const DEFAULT_PORT: PortOptions = {
  port: 3333,
  startDifficulty: SHARE_DIFFICULTY,
  minDifficulty: 2 ** -30,
  maxDifficulty: 2 ** 60,
  tls: 'auto',
  vardiff: false,
};

export type Rig = ReturnType<typeof createRig>;

/** Options may replace any part; everything else is set up to work. */
export function createRig(
  change: {
    options?: Partial<GatewayOptions>;
    tools?: Partial<GatewayTools>;
    port?: Partial<PortOptions>;
  } = {},
) {
  const pool = decodeAddress(POOL, 'regtest');
  if (!pool.ok) throw new Error(pool.reason);
  const metrics = createGatewayMetrics();
  const journal = {
    appended: [] as ShareRecord[],
    status: 'ok' as 'ok' | 'full' | 'failed',
    append(record: Uint8Array): number {
      if (journal.status !== 'ok') return -1;
      const decoded = decodeShare(record);
      if (!decoded.ok) throw new Error(decoded.reason);
      journal.appended.push(structuredClone(decoded.value));
      return journal.appended.length;
    },
    state: () => journal.status,
  };
  const blocks: BlockCandidate[] = [];
  const blames: { address: string; points: number }[] = [];
  const leases: number[] = [];
  const deferred: (() => void)[] = [];
  /** A lane that keeps a block at once, unless a test says otherwise. */
  const lane = { isPrompt: true, waiting: [] as (() => void)[] };
  let randomCount = 0;
  const tools: GatewayTools = {
    log: silentLog,
    metrics,
    hash: foldInTypescript,
    journal,
    lane: {
      submit: (candidate, onKept) => {
        blocks.push(candidate);
        if (lane.isPrompt) onKept();
        else lane.waiting.push(onKept);
      },
    },
    defer: (work) => void deferred.push(work),
    persistLease: (highWater) => void leases.push(highWater),
    randomBytes: (count) => {
      randomCount += 1;
      const bytes = new Uint8Array(count).fill(0xa5);
      new DataView(bytes.buffer).setUint32(count - 4, randomCount);
      return bytes;
    },
    blame: (address, points) => void blames.push({ address, points }),
    ...change.tools,
  };
  const options: GatewayOptions = {
    network: 'regtest',
    pools: [{ id: 'main', coinbase: { mode: 'pool', script: pool.script, address: POOL } }],
    coinbaseTag: '/test/',
    gateway: 'g1',
    versionMask: 0x1fffe000,
    instancePrefix: 0,
    instancePrefixBits: 0,
    extranonceHighWater: 0,
    ack: 'disk',
    vardiff: VARDIFF_POLICY,
    limits: SESSION_LIMITS,
    ...change.options,
  };
  const port: PortOptions = { ...DEFAULT_PORT, ...change.port };
  const gateway = new Gateway(tools, options);
  const rig = {
    gateway,
    options,
    metrics,
    journal,
    lane,
    blocks,
    blames,
    leases,
    nowMs: START_MS,
    port,
    /** Runs what was deferred, until nothing is. */
    settle(): void {
      for (let work = deferred.shift(); work !== undefined; work = deferred.shift()) work();
    },
    deferred,
    setJob(job: Job): void {
      gateway.setJob(job, rig.nowMs);
      rig.settle();
    },
    connect(remoteAddress?: string, ownPort: Partial<PortOptions> = {}): Client {
      return new Client(rig, new FakeConnection({ ...port, ...ownPort }, remoteAddress));
    },
    /** Moves time in steps of a tick. */
    pass(durationMs: number, stepMs = 250): void {
      const endMs = rig.nowMs + durationMs;
      while (rig.nowMs < endMs) {
        rig.nowMs = Math.min(endMs, rig.nowMs + stepMs);
        gateway.tick(rig.nowMs);
        rig.settle();
      }
    },
    commitAll(): void {
      gateway.committed(journal.appended.length);
    },
  };
  return rig;
}

/** A connected miner. */
export class Client {
  readonly rig: Rig;
  readonly connection: FakeConnection;
  readonly session: Session;
  nextId = 1;
  extranonce1 = '';
  /** The last mining.notify's parameters. */
  notify: unknown[] = [];
  difficulty = 0;

  constructor(rig: Rig, connection: FakeConnection) {
    this.rig = rig;
    this.connection = connection;
    this.session = rig.gateway.open(connection, rig.nowMs);
  }

  /** Sends raw lines as one chunk and returns what came back. */
  send(...lines: string[]): Message[] {
    for (const line of lines) this.rig.gateway.line(this.session, line, this.rig.nowMs);
    this.rig.gateway.flush(this.session);
    return this.take();
  }

  /** Sends one request and returns everything that came back, the answer first in most cases. */
  call(method: string, params: unknown): Message[] {
    const id = this.nextId++;
    return this.send(JSON.stringify({ id, method, params }));
  }

  /** What came since, keeping track of job, difficulty and extranonce. */
  take(): Message[] {
    const messages = this.connection.take();
    for (const message of messages) {
      if (message.method === 'mining.notify') this.notify = message.params ?? [];
      if (message.method === 'mining.set_difficulty') this.difficulty = Number(message.params?.[0]);
      if (message.method === 'mining.set_extranonce')
        this.extranonce1 = String(message.params?.[0]);
      if (
        Array.isArray(message.result) &&
        Array.isArray(message.result[0]) &&
        typeof message.result[1] === 'string'
      ) {
        this.extranonce1 = message.result[1];
      }
    }
    return messages;
  }

  /** Subscribes and authorizes in one chunk. */
  start(username = `${MINER}.w`, agent = 'test/1', password = 'x'): Message[] {
    return this.send(
      JSON.stringify({ id: 1, method: 'mining.subscribe', params: [agent] }),
      JSON.stringify({ id: 2, method: 'mining.authorize', params: [username, password] }),
    );
  }

  /** Submits and returns the messages; the answer is there at once unless it waits for the journal. */
  submit(share: Share, username = `${MINER}.w`): Message[] {
    return this.call('mining.submit', submitParams(share, username));
  }
}

export type Share = {
  jobId: string;
  extranonce2: string;
  ntime: string;
  nonce: string;
  versionBits?: string;
};

/** mining.submit's parameters. */
export function submitParams(share: Share, username: string): string[] {
  const params = [username, share.jobId, share.extranonce2, share.ntime, share.nonce];
  if (share.versionBits !== undefined) params.push(share.versionBits);
  return params;
}

let jobCount = 0;

/** A job of regtest's shape; ids count up over the process. */
export function createJob(change: Partial<Job> = {}): Job {
  jobCount += 1;
  const bits = change.bits ?? HARD_BITS;
  return {
    jobId: jobCount.toString(16).padStart(8, '0'),
    height: 200,
    version: 0x20000000,
    previousHash: new Uint8Array(32).fill(7),
    bits,
    networkTarget: decodeBits(bits) ?? 1n,
    curtime: START_MS / 1000,
    mintime: START_MS / 1000 - 3_600,
    branch: [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)],
    coinbaseValueSats: 5_000_000_000n,
    coinbaseAux: new Uint8Array(0),
    witnessCommitment: null,
    coinbaseWeightMax: 4_000_000,
    feesSats: 0n,
    transactionCount: 2,
    clean: false,
    createdAtMs: START_MS,
    ...change,
  };
}

/** The work of a job in the first pool, for one payout script where blocks pay their finder; built beside the gateway. */
export function workOf(rig: Rig, job: Job, script?: Uint8Array): Work {
  const { pools, coinbaseTag } = rig.options;
  const built = buildPoolCoinbase(job, {
    tag: coinbaseTag,
    rules: pools[0]!.coinbase,
    finder: script === undefined ? [] : [{ script, weight: 1n }],
    plan: null,
    coinbaseBytesMax: 16_384,
  });
  if (!built.ok) throw new Error(built.reason);
  return compileWork(job, built.parts);
}

/** The coinbase of the job that a client was told last, from the text of the line. */
export function partsGiven(client: Client): CoinbaseParts {
  const [, , prefix, suffix] = client.notify;
  return { prefix: decodeHex(String(prefix))!, suffix: decodeHex(String(suffix))! };
}

let searchFrom = 0;

/**
 * Searches a share of a job for a client: the hash meets `difficulty` and misses `missing` when given. `jobId` may be the id of a
 * later call of the job; ntime is the job's unless given.
 */
export function mine(
  client: Client,
  job: Job,
  options: {
    difficulty?: number;
    /** The hash must not meet this one. */
    missing?: number;
    version?: number;
    versionBits?: string;
    ntime?: number;
    jobId?: string;
    script?: Uint8Array;
    /** The coinbase as the miner was given it. */
    parts?: CoinbaseParts;
    extranonce1?: string;
    block?: boolean;
  } = {},
): Share & { hash: Uint8Array } {
  const work =
    options.parts === undefined
      ? workOf(client.rig, job, options.script)
      : compileWork(job, options.parts);
  const target: PreparedTarget = options.block
    ? prepareTarget(job.networkTarget)
    : prepareTarget(targetOfDifficulty(options.difficulty ?? SHARE_DIFFICULTY));
  const miss =
    options.missing === undefined ? null : prepareTarget(targetOfDifficulty(options.missing));
  const ntime = options.ntime ?? job.curtime;
  const extranonce1 = Number.parseInt(options.extranonce1 ?? client.extranonce1, 16);
  searchFrom += 1;
  for (let nonce = 0; nonce < 20_000_000; nonce += 1) {
    fillWork(work, {
      extranonce1,
      extranonce2High: searchFrom,
      extranonce2Low: 0xabcdef01,
      ntime,
      nonce,
      version: options.version ?? job.version,
    });
    foldInTypescript(work);
    if (!meetsTarget(work.hash, target) || (miss !== null && meetsTarget(work.hash, miss)))
      continue;
    const share: Share & { hash: Uint8Array } = {
      jobId: options.jobId ?? job.jobId,
      extranonce2: searchFrom.toString(16).padStart(8, '0') + 'abcdef01',
      ntime: ntime.toString(16).padStart(8, '0'),
      nonce: nonce.toString(16).padStart(8, '0'),
      hash: work.hash.slice(),
    };
    if (options.versionBits !== undefined) share.versionBits = options.versionBits;
    return share;
  }
  throw new Error('no share found');
}

/** The error code of the first answer with an error, or 0. */
export function codeOf(messages: readonly Message[]): number {
  for (const message of messages) if (message.error) return message.error[0];
  return 0;
}

export { equalBytes };
