/**
 * The measuring side, run as a process of its own: thousands of Stratum V1 miners on a socket fleet. It speaks only what the
 * benchmarks need (subscribe, authorize, notify, submit) and never computes a hash: it sends shares with counting extranonce2
 * to a server whose share target every hash meets, so the client costs the machine almost nothing.
 *
 * Verbs (see `serveParent`): connect, arm, watched, load, disconnect, usage.
 */
import { createHash } from 'node:crypto';
import { compress, hashStateAgain, INITIAL_STATE } from '../../src/core/bitcoin/sha256.ts';
import { serveParent } from './child.ts';
import { percentile } from './figures.ts';
import { monotonicMs, openFleet } from './fleet.ts';

/** `connect`: how many miners, to which port, and as whom. */
export type ConnectArgs = {
  port: number;
  count: number;
  /** Connections opening at one time; `count` makes it a storm. */
  atOnce: number;
  username: string;
  /** Miners per source address in 127.0.0.0/8. */
  perAddress: number;
  timeoutMs: number;
  /** Such as `fd=0.000000001`. */
  password?: string;
};
/** All times are CLOCK_MONOTONIC milliseconds. */
export type ConnectAnswer = {
  kind: string;
  startedMs: number;
  lastReadyMs: number;
  ready: number;
  refused: number;
  firstRefusal: string;
  answersP50Ms: number;
  answersP99Ms: number;
};
/** When each miner first saw bytes after `arm`, sorted, monotonic milliseconds. */
export type WatchAnswer = {
  seen: number;
  firstMs: number;
  p50Ms: number;
  p99Ms: number;
  lastMs: number;
};
/**
 * `grind`: the server's share target is real, so every line carries a nonce that was searched for. `targetTop` is the upper 32 bits
 * of the target to reach; hashes above it by a fraction of 2^-32 are left out.
 */
export type LoadArgs = {
  grind?: { targetTop: number };
  /** `closed`: every connection keeps `depth` shares in flight. `open`: `perSecond` in all, spread over the connections. */
  mode: 'closed' | 'open';
  depth: number;
  perSecond: number;
  warmupMs: number;
  durationMs: number;
};
export type LoadAnswer = {
  sent: number;
  accepted: number;
  rejected: number;
  firstRejections: string[];
  unanswered: number;
  perSecond: number;
  latencyMs: { p50: number; p99: number; p999: number; max: number };
  acceptedInAll: number;
};

/** One miner. Plain object with monomorphic fields: the load loop touches thousands of them. */
type Miner = {
  fd: number;
  stage: 'connecting' | 'subscribing' | 'authorizing' | 'waiting' | 'ready' | 'gone';
  openedMs: number;
  rest: string;
  jobId: string;
  ntime: string;
  seenMs: number;
  extranonce1: string;
  /** Parameters of the newest notify. */
  notify: unknown[];
  /** Header under construction, when shares are searched for; the nonce is written into it. */
  header: Buffer | null;
  line: Buffer | null;
  /** Where the digits that change stand: of the extranonce2, or of the nonce when shares are searched for. */
  nonceAt: number;
  counter: number;
  inFlight: number;
  /** Send times of shares in flight, a ring. */
  sentMs: Float64Array;
  head: number;
  tail: number;
};

const RING = 256;
const HEX = Buffer.from('0123456789abcdef');
const scratch = Buffer.alloc(1 << 16);
const miners = new Map<number, Miner>();
let username = 'x';
let password = 'x';
let ready = 0;
let refused = 0;
let firstRefusal = '';
let lastReadyMs = 0;
let onReady: (() => void) | null = null;
let readyDelays: number[] = [];
let armed = false;
let isUrgent = false;
let seen = 0;
let load: Load | null = null;
let connecting = 0;

type Load = {
  args: LoadArgs;
  list: Miner[];
  startMs: number;
  measureFromMs: number;
  untilMs: number;
  sent: number;
  accepted: number;
  acceptedInAll: number;
  rejected: number;
  firstRejections: string[];
  latencies: Float64Array;
  latencyCount: number;
  due: number;
  next: number;
};

const fleet = openFleet({
  isUrgent: () => isUrgent,
  open(id) {
    const miner = miners.get(id);
    if (miner === undefined) return;
    connecting -= 1;
    miner.stage = 'subscribing';
    send(miner, '{"id":1,"method":"mining.subscribe","params":["headframe-bench/1"]}\n');
  },
  data(id, bytes, length, readyMs) {
    const miner = miners.get(id);
    if (miner === undefined) return;
    if (armed) {
      if (miner.seenMs === 0) {
        miner.seenMs = readyMs;
        seen += 1;
      }
      return;
    }
    if (load !== null && miner.line !== null) answered(load, miner, bytes, length);
    else talk(miner, bytes.toString('latin1', 0, length));
  },
  closed(id, reason) {
    const miner = miners.get(id);
    if (miner === undefined) return;
    miners.delete(id);
    if (miner.stage === 'connecting') connecting -= 1;
    if (miner.stage === 'ready') ready -= 1;
    else {
      refused += 1;
      if (firstRefusal === '') firstRefusal = `${miner.stage}: ${reason}`;
    }
    miner.stage = 'gone';
    onReady?.();
  },
  turn() {
    if (load !== null && load.args.mode === 'open') pace(load);
  },
});

function send(miner: Miner, text: string): void {
  const length = scratch.write(text, 0, 'latin1');
  fleet.write(miner.fd, scratch, length);
}

/** Handshake and job tracking; the slow, parsing path. */
function talk(miner: Miner, chunk: string): void {
  const lines = (miner.rest + chunk).split('\n');
  miner.rest = lines.pop()!;
  for (const line of lines) {
    const message = JSON.parse(line) as {
      id: unknown;
      method?: string;
      params?: unknown[];
      error?: unknown;
    };
    if (message.method === 'mining.notify') {
      miner.notify = message.params!;
      miner.jobId = String(message.params![0]);
      miner.ntime = String(message.params![7]);
      if (load !== null) prepareLine(miner);
    } else if (message.method === undefined) {
      if (message.error !== null && message.error !== undefined && miner.stage !== 'ready') {
        if (firstRefusal === '') firstRefusal = line;
        fleet.close(miner.fd);
        return;
      }
      if (message.id === 1) {
        miner.extranonce1 = (message as unknown as { result: [unknown, string] }).result[1];
        miner.stage = 'authorizing';
        send(
          miner,
          `{"id":2,"method":"mining.authorize","params":["${username}.w${miner.fd}","${password}"]}\n`,
        );
      } else if (message.id === 2) miner.stage = 'waiting';
    }
  }
  if (miner.stage === 'waiting' && miner.jobId !== '') {
    miner.stage = 'ready';
    ready += 1;
    lastReadyMs = monotonicMs();
    readyDelays.push(lastReadyMs - miner.openedMs);
    onReady?.();
  }
}

function connectAll(args: ConnectArgs): Promise<ConnectAnswer> {
  username = args.username;
  password = args.password ?? 'x';
  refused = 0;
  firstRefusal = '';
  readyDelays = [];
  const wanted = ready + args.count;
  const startedMs = monotonicMs();
  let opened = 0;
  const openMore = (): void => {
    while (
      opened < args.count &&
      opened - (ready - (wanted - args.count)) - refused < args.atOnce
    ) {
      const group = Math.floor(opened / args.perAddress);
      const address = `127.${1 + (group >> 14)}.${1 + ((group >> 7) & 127)}.${1 + (group & 127)}`;
      const fd = fleet.connect(args.port, address);
      connecting += 1;
      opened += 1;
      miners.set(fd, {
        fd,
        stage: 'connecting',
        openedMs: monotonicMs(),
        rest: '',
        jobId: '',
        ntime: '',
        seenMs: 0,
        extranonce1: '',
        notify: [],
        header: null,
        line: null,
        nonceAt: 0,
        counter: 0,
        inFlight: 0,
        sentMs: new Float64Array(0),
        head: 0,
        tail: 0,
      });
    }
  };
  return new Promise((resolve) => {
    const finish = (): void => {
      onReady = null;
      clearTimeout(timer);
      const sorted = Float64Array.from(readyDelays).sort();
      resolve({
        kind: fleet.kind,
        startedMs,
        lastReadyMs,
        ready,
        refused,
        firstRefusal,
        answersP50Ms: percentile(sorted, 0.5),
        answersP99Ms: percentile(sorted, 0.99),
      });
    };
    const timer = setTimeout(finish, args.timeoutMs);
    onReady = () => {
      openMore();
      if (ready + refused >= wanted) finish();
    };
    openMore();
  });
}

/** Makes the submit line of a miner's present job; the counter digits are patched in place for every share. */
function prepareLine(miner: Miner): void {
  const extranonce2 = '0000000000000000';
  if (load?.args.grind !== undefined) {
    miner.header = headerOf(miner, extranonce2);
    const before = `{"id":7,"method":"mining.submit","params":["${username}.w${miner.fd}","${miner.jobId}","${extranonce2}","${miner.ntime}","`;
    miner.line = Buffer.from(`${before}00000000"]}\n`, 'latin1');
    miner.nonceAt = before.length;
    return;
  }
  const before = `{"id":7,"method":"mining.submit","params":["${username}.w${miner.fd}","${miner.jobId}","00000000`;
  miner.line = Buffer.from(`${before}00000000","${miner.ntime}","0badcafe"]}\n`, 'latin1');
  miner.nonceAt = before.length;
}

const doubleSha = (bytes: Uint8Array): Buffer =>
  createHash('sha256').update(createHash('sha256').update(bytes).digest()).digest();

/** The 80 header bytes of a miner's job with this extranonce2, nonce zero. */
function headerOf(miner: Miner, extranonce2: string): Buffer {
  const [, previous, prefix, suffix, branch, version, bits, ntime] = miner.notify as [
    string,
    string,
    string,
    string,
    string[],
    string,
    string,
    string,
  ];
  let root = doubleSha(Buffer.from(prefix + miner.extranonce1 + extranonce2 + suffix, 'hex'));
  for (const sibling of branch)
    root = doubleSha(Buffer.concat([root, Buffer.from(sibling, 'hex')]));
  const header = Buffer.alloc(80);
  header.writeUInt32LE(Number.parseInt(version, 16), 0);
  Buffer.from(previous, 'hex').swap32().copy(header, 4);
  root.copy(header, 36);
  header.writeUInt32LE(Number.parseInt(ntime, 16), 68);
  header.writeUInt32LE(Number.parseInt(bits, 16), 72);
  return header;
}

const headMidstate = Int32Array.from(INITIAL_STATE);
const searchState = new Int32Array(8);
const searchBlock = new Int32Array(16);
const searchTail = new Int32Array(16);

/** Counts a miner's nonce up to the next one whose hash is below `targetTop` in its upper 32 bits: 0.4 us a try. */
function nextNonce(miner: Miner, targetTop: number): void {
  const header = miner.header!;
  headMidstate.set(INITIAL_STATE);
  for (let i = 0; i < 16; i++) searchBlock[i] = header.readInt32BE(4 * i);
  compress(headMidstate, searchBlock);
  for (let i = 0; i < 3; i++) searchTail[i] = header.readInt32BE(64 + 4 * i);
  searchTail[4] = 0x80000000 | 0;
  searchTail[15] = 640;
  const nonceBytes = Buffer.alloc(4);
  for (;;) {
    miner.counter = (miner.counter + 1) >>> 0;
    nonceBytes.writeUInt32LE(miner.counter);
    searchTail[3] = nonceBytes.readInt32BE(0);
    searchState.set(headMidstate);
    searchBlock.set(searchTail);
    compress(searchState, searchBlock);
    hashStateAgain(searchState, searchBlock);
    // The last word of the hash, its bytes turned round, is the most significant part of the number.
    const last = searchState[7]!;
    const top =
      (((last & 255) << 24) | ((last & 0xff00) << 8) | ((last >>> 8) & 0xff00) | (last >>> 24)) >>>
      0;
    if (top < targetTop) break;
  }
  header.writeUInt32LE(miner.counter, 76);
}

function sendShares(state: Load, miner: Miner, count: number, nowMs: number): void {
  if (miner.stage !== 'ready') return;
  if (miner.line === null) prepareLine(miner);
  const line = miner.line!;
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (state.args.grind === undefined) miner.counter += 1;
    else nextNonce(miner, state.args.grind.targetTop);
    let rest = miner.counter;
    for (let digit = miner.nonceAt + 7; digit >= miner.nonceAt; digit--) {
      line[digit] = HEX[rest & 15]!;
      rest >>>= 4;
    }
    at += line.copy(scratch, at);
    miner.sentMs[miner.tail] = nowMs;
    miner.tail = (miner.tail + 1) & (RING - 1);
  }
  if (fleet.write(miner.fd, scratch, at)) {
    miner.inFlight += count;
    state.sent += count;
  } else {
    miner.tail = (miner.tail - count) & (RING - 1);
  }
}

/** Answers under load: counts lines without parsing them, except where one is an error or a notification. */
function answered(state: Load, miner: Miner, bytes: Buffer, length: number): void {
  const nowMs = monotonicMs();
  let answers = 0;
  let bad = 0;
  for (let i = 0; i < length; i++) if (bytes[i] === 10) answers += 1;
  // '[' stands only in errors and notifications; answers to accepted shares carry none.
  const bracket = bytes.indexOf(0x5b);
  if (miner.rest !== '' || bytes[length - 1] !== 10 || (bracket !== -1 && bracket < length)) {
    const lines = (miner.rest + bytes.toString('latin1', 0, length)).split('\n');
    miner.rest = lines.pop()!;
    answers = 0;
    for (const line of lines) {
      if (line.includes('"method"')) {
        talk(miner, `${line}\n`);
        continue;
      }
      answers += 1;
      if (!line.includes('true')) {
        bad += 1;
        if (state.firstRejections.length < 5) state.firstRejections.push(line);
      }
    }
  }
  answers = Math.min(answers, miner.inFlight);
  miner.inFlight -= answers;
  const measuring = nowMs >= state.measureFromMs && nowMs < state.untilMs;
  state.rejected += bad;
  state.acceptedInAll += answers - bad;
  if (measuring) state.accepted += answers - bad;
  for (let i = 0; i < answers; i++) {
    if (measuring && state.latencyCount < state.latencies.length) {
      state.latencies[state.latencyCount++] = nowMs - miner.sentMs[miner.head]!;
    }
    miner.head = (miner.head + 1) & (RING - 1);
  }
  if (state.args.mode === 'closed' && nowMs < state.untilMs) {
    const missing = state.args.depth - miner.inFlight;
    if (missing > 0) sendShares(state, miner, missing, nowMs);
  }
}

function pace(state: Load): void {
  const nowMs = monotonicMs();
  if (nowMs >= state.untilMs) return;
  const due = Math.floor(((nowMs - state.startMs) * state.args.perSecond) / 1000);
  while (state.due < due) {
    state.due += 1;
    // A stride coprime with any miner count below it visits all connections in a scattered order.
    state.next = (state.next + 7919) % state.list.length;
    const miner = state.list[state.next]!;
    if (miner.inFlight < RING - 1) sendShares(state, miner, 1, monotonicMs());
  }
}

async function runLoad(args: LoadArgs): Promise<LoadAnswer> {
  const list = [...miners.values()].filter((miner) => miner.stage === 'ready');
  for (const miner of list) {
    miner.sentMs = new Float64Array(RING);
    miner.head = 0;
    miner.tail = 0;
    miner.inFlight = 0;
  }
  const startMs = monotonicMs();
  const state: Load = {
    args,
    list,
    startMs,
    measureFromMs: startMs + args.warmupMs,
    untilMs: startMs + args.warmupMs + args.durationMs,
    sent: 0,
    accepted: 0,
    acceptedInAll: 0,
    rejected: 0,
    firstRejections: [],
    latencies: new Float64Array(2_000_000),
    latencyCount: 0,
    due: 0,
    next: 0,
  };
  load = state;
  for (const miner of list) prepareLine(miner);
  if (args.mode === 'closed') {
    for (const miner of list) sendShares(state, miner, args.depth, monotonicMs());
  }
  await delay(args.warmupMs + args.durationMs);
  const graceUntilMs = monotonicMs() + 3000;
  while (
    list.some((miner) => miner.inFlight > 0 && miner.stage === 'ready') &&
    monotonicMs() < graceUntilMs
  ) {
    await delay(20);
  }
  load = null;
  const sorted = state.latencies.subarray(0, state.latencyCount).sort();
  return {
    sent: state.sent,
    accepted: state.accepted,
    acceptedInAll: state.acceptedInAll,
    rejected: state.rejected,
    firstRejections: state.firstRejections,
    unanswered: list.reduce((sum, miner) => sum + miner.inFlight, 0),
    perSecond: (state.accepted * 1000) / args.durationMs,
    latencyMs: {
      p50: percentile(sorted, 0.5),
      p99: percentile(sorted, 0.99),
      p999: percentile(sorted, 0.999),
      max: percentile(sorted, 1),
    },
  };
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Blocks found ahead of time, one line each, for `sendBlock`. */
type Winner = { miner: Miner; line: Buffer; headerHex: string };
let winners: Winner[] = [];
let blocksMade = 0;

/** Searches headers under `targetTop` on the present jobs of all miners in turn. */
function findBlocks(args: { count: number; targetTop: number }): number {
  const list = [...miners.values()].filter((miner) => miner.stage === 'ready');
  winners = [];
  for (let index = 0; index < args.count; index++) {
    const miner = list[index % list.length]!;
    const extranonce2 = (0xb10c0000 + blocksMade++).toString(16).padStart(16, '0');
    miner.header = headerOf(miner, extranonce2);
    miner.counter = 0;
    nextNonce(miner, args.targetTop);
    const nonce = miner.counter.toString(16).padStart(8, '0');
    winners.push({
      miner,
      headerHex: miner.header.toString('hex'),
      line: Buffer.from(
        `{"id":8,"method":"mining.submit","params":["${username}.w${miner.fd}","${miner.jobId}","${extranonce2}","${miner.ntime}","${nonce}"]}\n`,
      ),
    });
    miner.header = null;
  }
  return winners.length;
}

/** Sends the next block; null when none is left. `sentMs` is taken before the write. */
function sendBlock(): { headerHex: string; sentMs: number } | null {
  const winner = winners.shift();
  if (winner === undefined) return null;
  const sentMs = monotonicMs();
  fleet.write(winner.miner.fd, winner.line, winner.line.length);
  return { headerHex: winner.headerHex, sentMs };
}

serveParent(
  {
    findBlocks,
    sendBlock,
    connect: connectAll,
    /** From now on the first bytes of each miner are noted. "asleep": between them the machine is left to others. */
    arm(how: 'awake' | 'asleep' = 'awake') {
      isUrgent = how === 'awake';
      for (const miner of miners.values()) miner.seenMs = 0;
      seen = 0;
      armed = true;
    },
    /** Waits until every miner has seen bytes (or the time is over), then reports and disarms. */
    async watched(args: { timeoutMs: number }): Promise<WatchAnswer> {
      const until = monotonicMs() + args.timeoutMs;
      while (seen < miners.size && monotonicMs() < until) await delay(5);
      armed = false;
      isUrgent = false;
      const times = Float64Array.from(
        [...miners.values()].filter((miner) => miner.seenMs > 0).map((miner) => miner.seenMs),
      ).sort();
      return {
        seen,
        firstMs: percentile(times, 0),
        p50Ms: percentile(times, 0.5),
        p99Ms: percentile(times, 0.99),
        lastMs: percentile(times, 1),
      };
    },
    load: runLoad,
    /** Closes every connection at once. */
    async disconnect() {
      for (const fd of [...miners.keys()]) {
        miners.delete(fd);
        fleet.close(fd);
      }
      ready = 0;
      await delay(50);
    },
    usage: () => ({ cpu: process.cpuUsage(), connections: miners.size, connecting }),
  },
  () => fleet.stop(),
);
