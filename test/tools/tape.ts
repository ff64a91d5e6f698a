/**
 * A tape of mining: what eight miners said to a pool, byte for byte, and when; the jobs they had, the blocks they found, what became of
 * those in the chain, and what a broken gateway would have left in its journal besides. Made once from a seed with really mined shares.
 * Played to one gateway or to two it gives the same verdicts: the extranonces are the same in both.
 *
 * Every moment of the tape is another millisecond. Shares of the same millisecond have no order that two gateways could agree on: one
 * journal keeps that in which they came, several are ordered by their hashes.
 */
import { encodeBits, targetOfDifficulty } from '../../src/core/bitcoin/target.ts';
import { SESSION_LIMITS } from '../../src/core/stratum/limits.ts';
import { foldInTypescript } from '../../src/core/work/fold.ts';
import type { Job } from '../../src/core/work/job.ts';
import { fillWork, meetsTarget, prepareTarget, type Work } from '../../src/core/work/share.ts';
import type { BlockCandidate } from '../../src/messages/block.ts';
import { decodeShare, encodeShare } from '../../src/messages/codec.ts';
import {
  type Client,
  createJob,
  createRig,
  type Message,
  type Rig,
  START_MS,
  workOf,
} from '../services/stratumd/gateway-rig.ts';
import { createRandom, type Random } from './random.ts';
import { readNodeTx, WalletNode } from './wallet-node.ts';

export const TAPE_FROM_MS = START_MS;
/** Eight: half of them come to the second gateway where there are two. */
const SESSIONS = 8;
const HALF = SESSIONS / 2;
/** Extranonces of 16 bits below the prefix: the first half of the sessions ends where the prefix goes up by one. */
const PREFIX_BITS = 16;
const PREFIX_SIZE = 2 ** (32 - PREFIX_BITS);
/** Of the shares at the lowest difficulty one in a thousand is a block. */
const NETWORK_DIFFICULTY = 2 ** -20;
const DIFFICULTIES = [2 ** -30, 2 ** -29, 2 ** -28] as const;
const ACCOUNTS = [
  'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
  'bcrt1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qzf4jry',
  'bcrt1qs758ursh4q9z627kt3pp5yysm78ddny6txaqgw',
] as const;

/** What stands in a journal that no honest gateway wrote. */
export type Damage = 'again' | 'nonce' | 'difficulty' | 'value' | 'height' | 'pool' | 'poison';
const DAMAGES: readonly Damage[] = [
  'again',
  'again',
  'nonce',
  'difficulty',
  'value',
  'height',
  'pool',
  'poison',
];

export type TapeEvent = { atMs: number } & (
  | { kind: 'job'; job: Job }
  | { kind: 'join'; session: number; line: string }
  | { kind: 'line'; session: number; line: string }
  /** Something made of the last share of this session that was accepted. */
  | { kind: 'damage'; session: number; damage: Damage }
  /** The candidate found last reaches the chain, or comes second. */
  | { kind: 'block'; isSecond: boolean }
);

export type Tape = { seed: number; events: readonly TapeEvent[] };

/** A pool's side of the tape: one gateway, or two that have half of the sessions each. */
export type Player = {
  /** The tape's time. */
  nowMs(): number;
  node: WalletNode;
  /** Plays one event. Answers the verdict where it was a line: `true`, or code and text of the error. */
  play(event: TapeEvent): Played;
};

export type Played = {
  verdict: string | null;
  /** Records for the journal of a gateway, by its number. */
  records: { gateway: number; record: Uint8Array }[];
  candidate: BlockCandidate | null;
};

/** One or two gateways with the options of the single process or of the stack. Nothing of it depends on the real clock. */
export function createPlayer(gateways: 1 | 2): Player & { client(session: number): Client } {
  let nowMs = TAPE_FROM_MS;
  let fresh: { gateway: number; record: Uint8Array }[] = [];
  const rigs: Rig[] = [];
  const appended: number[] = [];
  for (let at = 0; at < gateways; at++) {
    appended.push(0);
    const random = createRandom(7 + at);
    rigs.push(
      createRig({
        options: {
          gateway: gateways === 1 ? 'headframe' : `stratumd-${at}`,
          instancePrefix: gateways === 1 ? 0 : at,
          instancePrefixBits: gateways === 1 ? 0 : PREFIX_BITS,
          extranonceHighWater: at === 0 ? PREFIX_SIZE - HALF : 0,
          limits: {
            ...SESSION_LIMITS,
            suggestIntervalMs: 0,
            submitsPerSecond: 100_000,
            submitBurst: 100_000,
            scoreMax: 1e9,
          },
        },
        tools: {
          randomBytes: random.bytes,
          journal: {
            state: () => 'ok',
            append(record) {
              fresh.push({ gateway: at, record: record.slice() });
              appended[at] = appended[at]! + 1;
              return appended[at]!;
            },
          },
        },
        port: { startDifficulty: DIFFICULTIES[0], minDifficulty: 2 ** -31 },
      }),
    );
  }
  const node = new WalletNode({ network: 'regtest', baseHeight: 100, nowMs: () => nowMs });
  const clients = new Map<number, Client>();
  const lastRecord = new Map<number, { gateway: number; record: Uint8Array }>();
  let candidates = 0;
  let candidate: BlockCandidate | null = null;
  const gatewayOf = (session: number): number => (gateways === 1 || session < HALF ? 0 : 1);

  function say(session: number, line: string): Message[] {
    const client = clients.get(session)!;
    const gateway = gatewayOf(session);
    const messages = client.send(line);
    rigs[gateway]!.gateway.committed(appended[gateway]!);
    return [...messages, ...client.take()];
  }

  function newestCandidate(): BlockCandidate | null {
    const all = rigs.flatMap(({ blocks }) => blocks);
    if (all.length === candidates) return null;
    candidates = all.length;
    return all.reduce((newest, one) => (one.foundAtMs >= newest.foundAtMs ? one : newest));
  }

  return {
    nowMs: () => nowMs,
    node,
    client: (session) => clients.get(session)!,
    play(event) {
      nowMs = event.atMs;
      fresh = [];
      for (const rig of rigs) rig.nowMs = nowMs;
      const played: Played = { verdict: null, records: fresh, candidate: null };
      switch (event.kind) {
        case 'job':
          for (const rig of rigs) rig.setJob(event.job);
          for (const client of clients.values()) client.take();
          break;
        case 'join':
          clients.set(event.session, rigs[gatewayOf(event.session)]!.connect());
          for (const line of event.line.split('\n')) say(event.session, line);
          break;
        case 'line': {
          const answer = say(event.session, event.line).find(({ method }) => method === undefined);
          if (answer === undefined) throw new Error(`no answer to ${event.line}`);
          played.verdict = answer.error
            ? answer.error.slice(0, 2).join(' ')
            : String(answer.result);
          if (fresh.length > 0) lastRecord.set(event.session, fresh[0]!);
          played.candidate = newestCandidate();
          candidate = played.candidate ?? candidate;
          break;
        }
        case 'damage': {
          const last = lastRecord.get(event.session);
          if (last !== undefined) {
            fresh.push({
              gateway: last.gateway,
              record: damaged(last.record, event.damage, nowMs),
            });
          }
          break;
        }
        case 'block': {
          const previous = node.tip;
          if (event.isSecond) {
            node.submit(
              node.makeBlock({ outputs: [{ script: OTHERS, valueSats: 5_000_000_000n }] }),
            );
          }
          const found = candidate!;
          const coinbase = readNodeTx(found.coinbase);
          if (coinbase === null) throw new Error('the coinbase of a block cannot be read');
          node.submit({
            hashDisplay: Buffer.from(found.headerHash).reverse().toString('hex'),
            hash: found.headerHash,
            header: found.header,
            height: previous.height + 1,
            previous,
            txs: [coinbase],
            timeMs: nowMs,
            undo: [],
          });
          break;
        }
      }
      return played;
    },
  };
}

const OTHERS = Uint8Array.of(0, 20, ...new Array<number>(20).fill(9));

/** What a broken gateway or a disk could make of a record. */
function damaged(record: Uint8Array, damage: Damage, nowMs: number): Uint8Array {
  if (damage === 'again') return record;
  if (damage === 'poison') return Uint8Array.of(255, ...record.subarray(0, 40));
  const decoded = decodeShare(record);
  if (!decoded.ok) throw new Error(decoded.reason);
  const share = { ...structuredClone(decoded.value), acceptedAtMs: nowMs };
  // Another identity than the true share's; where the hash is looked at first it stays, so that the rest is looked at too.
  if (damage !== 'difficulty') share.headerHash[0] = share.headerHash[0]! ^ 0xff;
  if (damage === 'nonce') share.nonce = (share.nonce + 1) >>> 0;
  if (damage === 'difficulty') share.difficulty = 2 ** 40;
  if (damage === 'value') share.jobValueSats += 1n;
  if (damage === 'height') share.height += 1;
  if (damage === 'pool') share.pool = 'nobody';
  return encodeShare(share);
}

/** Makes a tape of so many submissions. */
export function recordTape(seed: number, submissions: number): Tape {
  const random = createRandom(seed);
  const player = createPlayer(1);
  const events: TapeEvent[] = [];
  let atMs = TAPE_FROM_MS;
  const at = (): number => {
    atMs += 1 + random.below(12);
    return atMs;
  };
  function put(event: TapeEvent): Played {
    events.push(event);
    return player.play(event);
  }

  const jobs: { job: Job; work: Work | null; difficulty: number[] }[] = [];
  const announced: number[] = [];
  let jobSerial = 0;
  function nextJob(clean: boolean): void {
    const when = at();
    jobSerial += 1;
    const bits = encodeBits(targetOfDifficulty(NETWORK_DIFFICULTY));
    const job = createJob({
      jobId: (0x1000 + jobSerial).toString(16).padStart(8, '0'),
      bits,
      height: player.node.tip.height + 1,
      previousHash: player.node.tip.hash,
      curtime: Math.floor(when / 1000),
      mintime: Math.floor(when / 1000) - 600,
      branch: [],
      clean,
      createdAtMs: when,
      coinbaseValueSats: 5_000_000_000n + BigInt(random.below(1_000_000)),
    });
    put({ atMs: when, kind: 'job', job });
    // What was announced before a job counts for it.
    for (let session = 0; session < SESSIONS; session++) {
      const client = player.client(session) as Client | undefined;
      announced[session] = client?.difficulty ?? DIFFICULTIES[0];
    }
    jobs.push({ job, work: null, difficulty: announced.slice() });
    if (jobs.length > 6) jobs.shift();
  }

  nextJob(true);
  for (let session = 0; session < SESSIONS; session++) {
    const line = [
      { id: 1, method: 'mining.subscribe', params: ['tape/1'] },
      { id: 2, method: 'mining.authorize', params: [userOf(session), 'x'] },
    ]
      .map((request) => JSON.stringify(request))
      .join('\n');
    put({ atMs: at(), kind: 'join', session, line });
  }
  nextJob(false);

  let serial = 10;
  const sent: { session: number; line: string }[] = [];
  let made = 0;
  while (made < submissions) {
    const chance = random.below(1_000);
    const session = random.below(SESSIONS);
    if (chance < 6) {
      nextJob(false);
      continue;
    }
    if (chance < 16) {
      const suggested = random.pick(DIFFICULTIES);
      const request = { id: serial++, method: 'mining.suggest_difficulty', params: [suggested] };
      put({ atMs: at(), kind: 'line', session, line: JSON.stringify(request) });
      continue;
    }
    if (chance < 28) {
      put({ atMs: at(), kind: 'damage', session, damage: random.pick(DAMAGES) });
      continue;
    }
    made += 1;
    if (chance < 60 && sent.length > 0) {
      // Again, by the same miner or by a thief.
      const old = sent[Math.max(0, sent.length - 1 - random.below(40))]!;
      const who = random.below(3) === 0 ? session : old.session;
      put({ atMs: at(), kind: 'line', session: who, line: old.line });
      continue;
    }
    const isOld = chance < 100;
    const given = isOld ? random.pick(jobs) : jobs.at(-1)!;
    const isLow = chance >= 100 && chance < 120;
    const client = player.client(session);
    given.work ??= workOf(client.rig, given.job);
    const line = mineLine(random, {
      id: serial++,
      user: userOf(session),
      extranonce1: Number.parseInt(client.extranonce1, 16),
      job: given.job,
      work: given.work,
      difficulty: isLow ? 0 : given.difficulty[session]!,
    });
    sent.push({ session, line });
    if (sent.length > 100) sent.shift();
    const { candidate } = put({ atMs: at(), kind: 'line', session, line });
    if (candidate === null) continue;
    // Found on an older job of a tip that is gone, it comes too late.
    if (candidate.height !== player.node.tip.height + 1) continue;
    put({ atMs: at(), kind: 'block', isSecond: random.below(5) === 0 });
    nextJob(true);
  }
  return { seed, events };
}

const userOf = (session: number): string => `${ACCOUNTS[session % ACCOUNTS.length]}.rig${session}`;

/** A submission of a really mined share. With difficulty 0 the first nonce is taken. */
function mineLine(
  random: Random,
  wanted: {
    id: number;
    user: string;
    extranonce1: number;
    job: Job;
    work: Work;
    difficulty: number;
  },
): string {
  const { id, user, extranonce1, job, work, difficulty } = wanted;
  const target = difficulty === 0 ? null : prepareTarget(targetOfDifficulty(difficulty));
  const high = random.u32();
  const low = random.u32();
  for (let nonce = random.below(1 << 30); ; nonce++) {
    fillWork(work, {
      extranonce1,
      extranonce2High: high,
      extranonce2Low: low,
      ntime: job.curtime,
      nonce,
      version: job.version,
    });
    foldInTypescript(work);
    if (target !== null && !meetsTarget(work.hash, target)) continue;
    const hex = (value: number): string => value.toString(16).padStart(8, '0');
    const params = [user, job.jobId, hex(high) + hex(low), hex(job.curtime), hex(nonce)];
    return JSON.stringify({ id, method: 'mining.submit', params });
  }
}
