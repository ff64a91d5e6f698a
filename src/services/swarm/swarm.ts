/**
 * A load generator for Stratum V1 servers: many miners in one process, submitting shares that are really valid, paced or
 * as fast as the answers come back. Reports latency, acceptance, how long connecting took and how far apart the first
 * and the last miner heard of a new job. Points at loopback unless the caller says that the server is his own.
 *
 * At difficulties of 2^-32 and below every hash is a share and the nonce is only counted; above, each share is ground,
 * which costs this process 0.3 µs times 2^32 times the difficulty.
 */
import { connect, type Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import { connect as connectTls } from 'node:tls';
import { targetOfDifficulty } from '../../core/bitcoin/target.ts';
import { assembleMinerHeader, type MinerJob, StratumClient } from '../../core/stratum/client.ts';
import { decodeIp, isInRanges } from '../../core/stratum/ip.ts';
import { Grinder } from '../../core/work/grind.ts';
import { type PreparedTarget, prepareTarget } from '../../core/work/share.ts';
import { LatencyCounts } from './latency.ts';

export type SwarmOptions = {
  host: string;
  port: number;
  tls: boolean;
  /** 1 to 50,000. */
  connections: number;
  /** Shares per second over all connections; 0 for as many as `depth` in flight on each connection gives. */
  sharesPerSecond: number;
  /** Shares in flight on one connection at most; 1 to 256. */
  depth: number;
  seconds: number;
  /** Each connection appends `.<number>` to it. */
  user: string;
  password: string;
  /** 0 leaves the difficulty to the server. */
  suggestedDifficulty: number;
  /** Connections being opened at one time; `connections` makes a storm of it. */
  connectsAtOnce: number;
  /** Needed for any server that is not on loopback. */
  ownsServer: boolean;
};

export const SWARM_OPTIONS: SwarmOptions = {
  host: '127.0.0.1',
  port: 3333,
  tls: false,
  connections: 100,
  sharesPerSecond: 100,
  depth: 8,
  seconds: 10,
  user: 'swarm',
  password: 'x',
  suggestedDifficulty: 0,
  connectsAtOnce: 200,
  ownsServer: false,
};

export type Percentiles = { p50Ms: number; p99Ms: number; p999Ms: number; maxMs: number };

export type SwarmReport = {
  connections: number;
  /** Subscribed, authorized and given a job. */
  working: number;
  /** Never got there, with the first reason; and lost later. */
  refused: number;
  firstRefusal: string;
  lost: number;
  /** From the first connect to the moment the last miner was working. */
  connectMs: number;
  sent: number;
  accepted: number;
  rejected: number;
  unanswered: number;
  /** Rejections by code and text, at most 16. */
  rejections: Map<string, number>;
  /** Over the time of sending. */
  acceptedPerSecond: number;
  /** From writing a share to reading its answer. */
  latency: Percentiles;
  /** Paced shares that could not be sent in time, because `depth` were in flight on every connection tried. */
  late: number;
  /** New jobs during the load that reached nine in ten: first to last arrival. */
  notifies: { jobs: number; spreadP50Ms: number; spreadMaxMs: number };
  /** Processor time of this process per share sent, connecting excluded. */
  cpuUsPerShare: number;
};

type Stage = 'connecting' | 'talking' | 'working' | 'gone';

/** One miner of the swarm. Flat on purpose: the load loop touches thousands of them. */
type Member = {
  socket: Socket;
  talk: StratumClient;
  stage: Stage;
  /** The beginning of a line whose end has not come. */
  rest: string;
  head: string;
  middle: string;
  job: MinerJob | null;
  target: PreparedTarget;
  isCounting: boolean;
  nonce: number;
  extranonce2: number;
  nextId: number;
  inFlight: number;
  sentAtMs: Float64Array;
};

type MemberSocket = Socket & { member?: Member };

const AGENT = 'headframe-swarm/0.1.0';
const FIRST_ID = 100;
const CONNECT_TIMEOUT_MS = 30_000;
const ANSWER_WAIT_MS = 2_000;
const REST_CHARS_MAX = 262_144;
const REJECTIONS_MAX = 16;
const JOBS_TRACKED_MAX = 256;
/** Hashes tried for one share before the turn goes to the next connection. */
const GRIND_SLICE = 50_000;
const LOOPBACK = [
  { address: Uint8Array.of(127, 0, 0, 0), bits: 8 },
  { address: Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), bits: 128 },
];

/** True for literal loopback addresses and `localhost`. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost') return true;
  const address = decodeIp(host);
  return address !== null && isInRanges(address, LOOPBACK);
}

/**
 * Runs one load and reports. Rejects when the server is not on loopback and not declared the caller's own, or when not
 * one connection could be made to work.
 */
export async function runSwarm(options: SwarmOptions): Promise<SwarmReport> {
  if (!options.ownsServer && !isLoopback(options.host)) {
    throw new Error(
      `${options.host} is not this machine: a load test of somebody else's server is an attack. ` +
        'If it is yours, say so with --i-own-this-server.',
    );
  }
  const swarm = new Swarm(options);
  return swarm.run();
}

class Swarm {
  readonly #options: SwarmOptions;
  readonly #members: Member[] = [];
  readonly #grinder = new Grinder();
  readonly #latency = new LatencyCounts();
  readonly #rejections = new Map<string, number>();
  readonly #notifies = new Map<string, { firstMs: number; lastMs: number; count: number }>();
  #opened = 0;
  #opening = 0;
  #working = 0;
  #refused = 0;
  #firstRefusal = '';
  #lost = 0;
  #sent = 0;
  #accepted = 0;
  #rejected = 0;
  #late = 0;
  #inFlight = 0;
  #isLoading = false;
  #isOver = false;
  #lastReadyMs = 0;
  #next = 0;
  #whenSettled: (() => void) | null = null;

  constructor(options: SwarmOptions) {
    this.#options = options;
  }

  async run(): Promise<SwarmReport> {
    const options = this.#options;
    const startMs = performance.now();
    await this.#connectAll();
    if (this.#working === 0) {
      throw new Error(`not one connection got to work: ${this.#firstRefusal || 'no answer'}`);
    }
    const cpu = process.cpuUsage();
    const loadMs = performance.now();
    this.#isLoading = true;
    await this.#load(loadMs + options.seconds * 1_000);
    const spentMs = performance.now() - loadMs;
    this.#isLoading = false;
    const deadlineMs = performance.now() + ANSWER_WAIT_MS;
    while (this.#inFlight > 0 && performance.now() < deadlineMs) await pause(5);
    const used = process.cpuUsage(cpu);
    this.#isOver = true;
    for (const member of this.#members) member.socket.destroy();
    const spreads = [...this.#notifies.values()]
      .filter((notify) => notify.count >= 0.9 * this.#working)
      .map((notify) => notify.lastMs - notify.firstMs)
      .sort((a, b) => a - b);
    return {
      connections: options.connections,
      working: this.#working,
      refused: this.#refused,
      firstRefusal: this.#firstRefusal,
      lost: this.#lost,
      connectMs: this.#lastReadyMs - startMs,
      sent: this.#sent,
      accepted: this.#accepted,
      rejected: this.#rejected,
      unanswered: this.#inFlight,
      rejections: this.#rejections,
      acceptedPerSecond: (this.#accepted * 1_000) / spentMs,
      latency: this.#latency.percentiles(),
      late: this.#late,
      notifies: {
        jobs: spreads.length,
        spreadP50Ms: spreads[spreads.length >> 1] ?? 0,
        spreadMaxMs: spreads.at(-1) ?? 0,
      },
      cpuUsPerShare: this.#sent === 0 ? 0 : (used.user + used.system) / this.#sent,
    };
  }

  // ---- connecting ------------------------------------------------------------------------------------------------

  async #connectAll(): Promise<void> {
    const settled = new Promise<void>((resolve) => {
      this.#whenSettled = resolve;
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CONNECT_TIMEOUT_MS);
    });
    this.#openMore();
    await Promise.race([settled, late]);
    clearTimeout(timer);
    this.#whenSettled = null;
    for (const member of this.#members) {
      if (member.stage === 'working' || member.stage === 'gone') continue;
      this.#refuse(member, 'no job in time');
      member.socket.destroy();
    }
  }

  #openMore(): void {
    const { connections, connectsAtOnce } = this.#options;
    while (this.#opened < connections && this.#opening < connectsAtOnce) {
      this.#opened++;
      this.#opening++;
      this.#open(this.#opened);
    }
    const isSettled = this.#working + this.#refused + this.#lost >= connections;
    if (isSettled) this.#whenSettled?.();
  }

  #open(number: number): void {
    const { host, port, tls, user, password, suggestedDifficulty, depth } = this.#options;
    const socket: MemberSocket = tls
      ? connectTls({ host, port, rejectUnauthorized: false })
      : connect({ host, port, noDelay: true });
    const member: Member = {
      socket,
      talk: new StratumClient({
        user: `${user}.${number}`,
        password,
        agent: AGENT,
        versionMask: 0,
        suggestedDifficulty,
      }),
      stage: 'connecting',
      rest: '',
      head: '',
      middle: '',
      job: null,
      target: NOTHING_MEETS,
      isCounting: false,
      nonce: 0,
      extranonce2: 0,
      nextId: FIRST_ID,
      inFlight: 0,
      sentAtMs: new Float64Array(depth),
    };
    socket.member = member;
    this.#members.push(member);
    let reason = 'closed by the server';
    socket.on(tls ? 'secureConnect' : 'connect', () => {
      member.stage = 'talking';
      socket.write(member.talk.hello());
    });
    socket.on('data', (chunk: Buffer) => this.#read(member, chunk));
    socket.on('error', (error) => {
      reason = error.message;
    });
    socket.on('close', () => {
      if (this.#isOver || member.stage === 'gone') return;
      if (member.stage === 'working') {
        member.stage = 'gone';
        this.#lost++;
        this.#inFlight -= member.inFlight;
        member.inFlight = 0;
        this.#openMore();
      } else {
        this.#refuse(member, reason);
      }
    });
  }

  #refuse(member: Member, reason: string): void {
    member.stage = 'gone';
    this.#refused++;
    this.#opening--;
    if (this.#firstRefusal === '') this.#firstRefusal = reason;
    this.#openMore();
  }

  // ---- reading ---------------------------------------------------------------------------------------------------

  #read(member: Member, chunk: Buffer): void {
    const nowMs = performance.now();
    let text = chunk.toString('latin1');
    if (member.rest !== '') text = member.rest + text;
    let from = 0;
    for (;;) {
      const end = text.indexOf('\n', from);
      if (end < 0) break;
      if (!this.#answered(member, text, from, nowMs)) {
        this.#talked(member, text.slice(from, end), nowMs);
      }
      from = end + 1;
    }
    member.rest = from === text.length ? '' : text.slice(from);
    if (member.rest.length > REST_CHARS_MAX) member.socket.destroy();
    if (this.#isLoading && this.#options.sharesPerSecond === 0) this.#fill(member, nowMs);
  }

  /** The fast path: `{"id":N,"result":true…`. False when the line is anything else. */
  #answered(member: Member, text: string, from: number, nowMs: number): boolean {
    if (member.stage !== 'working' || !text.startsWith('{"id":', from)) return false;
    let at = from + 6;
    let id = 0;
    for (; ; at++) {
      const digit = text.charCodeAt(at) - 48;
      if (!(digit >= 0 && digit <= 9)) break;
      id = id * 10 + digit;
    }
    if (id < FIRST_ID || !text.startsWith(',"result":true', at)) return false;
    this.#accepted++;
    this.#done(member, id, nowMs);
    return true;
  }

  #done(member: Member, id: number, nowMs: number): void {
    if (id < member.nextId - member.sentAtMs.length || id >= member.nextId) return;
    this.#latency.add(nowMs - member.sentAtMs[id % member.sentAtMs.length]!);
    member.inFlight--;
    this.#inFlight--;
  }

  #talked(member: Member, line: string, nowMs: number): void {
    const event = member.talk.line(line);
    if (member.talk.out !== '') {
      member.socket.write(member.talk.out);
      member.talk.out = '';
    }
    if (event === null) return;
    if (event.kind === 'job') this.#jobCame(member, event.job, nowMs);
    else if (event.kind === 'refused') {
      if (member.stage !== 'working' && member.stage !== 'gone') this.#refuse(member, event.reason);
      member.socket.destroy();
    } else if (event.kind === 'answer') {
      if (event.accepted) this.#accepted++;
      else {
        this.#rejected++;
        const key = `${event.code} ${event.reason}`;
        if (this.#rejections.size < REJECTIONS_MAX || this.#rejections.has(key)) {
          this.#rejections.set(key, (this.#rejections.get(key) ?? 0) + 1);
        }
      }
      this.#done(member, event.id, nowMs);
    }
    if (member.stage === 'talking' && member.talk.isReady && member.job !== null) {
      member.stage = 'working';
      this.#working++;
      this.#opening--;
      this.#lastReadyMs = nowMs;
      this.#openMore();
    }
  }

  #jobCame(member: Member, job: MinerJob, nowMs: number): void {
    member.job = job;
    const target = targetOfDifficulty(job.difficulty);
    member.isCounting = target === ALL_MEET;
    member.target = member.isCounting ? NOTHING_MEETS : prepareTarget(target);
    this.#nextExtranonce(member);
    if (!this.#isLoading) return;
    const seen = this.#notifies.get(job.jobId);
    if (seen !== undefined) {
      seen.lastMs = nowMs;
      seen.count++;
    } else if (this.#notifies.size < JOBS_TRACKED_MAX) {
      this.#notifies.set(job.jobId, { firstMs: nowMs, lastMs: nowMs, count: 1 });
    }
  }

  /** Fresh nonces: the parts of the submit line that do not change from share to share. */
  #nextExtranonce(member: Member): void {
    const job = member.job!;
    member.extranonce2++;
    member.nonce = 0;
    const digits = member.extranonce2.toString(16).padStart(2 * job.extranonce2Bytes, '0');
    const user = JSON.stringify(member.talk.user);
    member.head = '{"id":';
    member.middle =
      `,"method":"mining.submit","params":[${user},${JSON.stringify(job.jobId)},` +
      `"${digits}","${hex32(job.ntime)}","`;
  }

  // ---- sending ---------------------------------------------------------------------------------------------------

  async #load(untilMs: number): Promise<void> {
    const { sharesPerSecond } = this.#options;
    const startMs = performance.now();
    if (sharesPerSecond === 0) {
      for (const member of this.#members) this.#fill(member, performance.now());
      while (performance.now() < untilMs) {
        await pause(20);
        // Whoever had nothing to send when its answers came (still grinding, new job) goes on here.
        for (const member of this.#members) this.#fill(member, performance.now());
      }
      return;
    }
    let scheduled = 0;
    for (;;) {
      const nowMs = performance.now();
      if (nowMs >= untilMs) return;
      const due = Math.floor(((nowMs - startMs) * sharesPerSecond) / 1_000) - scheduled;
      for (let count = 0; count < due; count++) if (!this.#sendNext(nowMs)) this.#late++;
      scheduled += due;
      await pause(1);
    }
  }

  /** One share on the next connection that has room; false when none of the next 64 has. */
  #sendNext(nowMs: number): boolean {
    const members = this.#members;
    for (let tries = Math.min(64, members.length); tries > 0; tries--) {
      const member = members[this.#next++ % members.length]!;
      if (member.stage !== 'working' || member.inFlight >= this.#options.depth) continue;
      const line = this.#share(member, nowMs);
      if (line === '') continue;
      member.socket.write(line, 'latin1');
      return true;
    }
    return false;
  }

  /** Brings one connection up to its depth with one write. */
  #fill(member: Member, nowMs: number): void {
    if (member.stage !== 'working') return;
    let lines = '';
    while (member.inFlight < this.#options.depth) {
      const line = this.#share(member, nowMs);
      if (line === '') break;
      lines += line;
    }
    if (lines !== '') member.socket.write(lines, 'latin1');
  }

  /** The next valid share as a line, or '' when none was found in this slice. */
  #share(member: Member, nowMs: number): string {
    if (member.nonce > 0xffff_fff0) this.#nextExtranonce(member);
    let nonce = member.nonce;
    if (!member.isCounting) {
      const job = member.job!;
      const extranonce2 = bigEndian(member.extranonce2, job.extranonce2Bytes);
      this.#grinder.setHeader(assembleMinerHeader(job, extranonce2, job.version));
      const to = Math.min(nonce + GRIND_SLICE, 0xffff_fff0);
      nonce = this.#grinder.find(nonce, to, member.target);
      if (nonce < 0) {
        member.nonce = to;
        return '';
      }
    }
    member.nonce = nonce + 1;
    const id = member.nextId++;
    member.sentAtMs[id % member.sentAtMs.length] = nowMs;
    member.inFlight++;
    this.#inFlight++;
    this.#sent++;
    return `${member.head}${id}${member.middle}${hex32(nonce)}"]}\n`;
  }
}

const ALL_MEET = (1n << 256n) - 1n;
const NOTHING_MEETS = prepareTarget(1n);
const HEX_BYTES: readonly string[] = Array.from({ length: 256 }, (_, value) =>
  value.toString(16).padStart(2, '0'),
);

function hex32(value: number): string {
  return (
    HEX_BYTES[value >>> 24]! +
    HEX_BYTES[(value >>> 16) & 255]! +
    HEX_BYTES[(value >>> 8) & 255]! +
    HEX_BYTES[value & 255]!
  );
}

function bigEndian(value: number, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let at = size - 1; at >= 0 && value > 0; at--) {
    bytes[at] = value & 255;
    value = Math.floor(value / 256);
  }
  return bytes;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
