/**
 * Who judges a pool from outside: miners that keep every header hash they sent, what the gateways published, and the chain. No table of
 * the product is asked what should be there. Each question gives its faults in words; none means that all is well.
 */
import { createKafkaBus, type KafkaBus } from '../../src/adapters/bus/kafka.ts';
import { decodeAddress } from '../../src/core/bitcoin/address.ts';
import { decodeHex, encodeHex, encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import { sha256d } from '../../src/core/bitcoin/hash.ts';
import { assembleMinerHeader } from '../../src/core/stratum/client.ts';
import { decodeBlockCandidate, decodeShare } from '../../src/messages/codec.ts';
import { isMarkKey } from '../../src/messages/share.ts';
import type { Db } from '../../src/ports.ts';
import { auditLedger, sumBalances } from '../../src/store/ledger.ts';
import type { RegtestNode } from '../tools/regtest-node.ts';
import { createSilentLog } from '../tools/silent-log.ts';
import { TestMiner } from '../tools/test-miner.ts';
import { until } from '../tools/waiting.ts';

const ANSWER_MS_MAX = 10_000;
const AGAIN_MS = 200;
/** More jobs than come between two shares. */
const EVENTS_MAX = 200;
const SATS = 100_000_000;

export const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Asks again and again until there is no complaint. Gives the last one when the time is over. */
export async function complaintAfter(
  limitMs: number,
  ask: () => Promise<string | null> | string | null,
): Promise<string | null> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    let complaint: string | null;
    try {
      complaint = await ask();
    } catch (error) {
      complaint = String(error);
    }
    if (complaint === null || performance.now() > endMs) return complaint;
    await pause(AGAIN_MS);
  }
}

/** A share that a miner was told is accepted: hex of its header hash in wire order, computed by the miner. */
export type Acknowledged = { worker: string; hash: string; atMs: number };

/** Mines on a gateway whatever happens to it, and remembers what was sent and what was acknowledged. */
export class Load {
  readonly acknowledged: Acknowledged[] = [];
  /** Header hashes of everything that was sent, answered or not. */
  readonly sent = new Set<string>();
  readonly #options: { port: number; address: string; worker: string; paceMs: number };
  #isEnding = false;
  readonly #life: Promise<void>;

  constructor(options: { port: number; address: string; worker: string; paceMs: number }) {
    this.#options = options;
    this.#life = this.#mine();
  }

  async #mine(): Promise<void> {
    const { port, address, worker, paceMs } = this.#options;
    while (!this.#isEnding) {
      let miner: TestMiner | null = null;
      try {
        miner = await TestMiner.join({ port, user: `${address}.${worker}` });
        while (!this.#isEnding) {
          const { id, params } = await miner.findAndSubmit();
          const hash = headerHashOf(miner, params as string[]);
          this.sent.add(hash);
          if (await isAccepted(miner, id))
            this.acknowledged.push({ worker, hash, atMs: Date.now() });
          miner.events.splice(0, miner.events.length - EVENTS_MAX);
          miner.lines.length = 0;
          await pause(paceMs);
        }
      } catch {
        await pause(100);
      } finally {
        miner?.hangUp();
      }
    }
  }

  async end(): Promise<void> {
    this.#isEnding = true;
    await this.#life;
  }
}

/** What a submission hashes to, by what the miner was told of the job. */
function headerHashOf(miner: TestMiner, [, jobId, extranonce2, , nonce]: string[]): string {
  for (const event of miner.events.toReversed()) {
    if (event.kind !== 'job' || event.job.jobId !== jobId) continue;
    const { job } = event;
    const header = assembleMinerHeader(job, decodeHex(extranonce2!)!, job.version);
    new DataView(header.buffer).setUint32(76, Number.parseInt(nonce!, 16), true);
    return encodeHex(sha256d(header));
  }
  throw new Error(`job ${jobId} is forgotten`);
}

async function isAccepted(miner: TestMiner, id: number): Promise<boolean> {
  let isGood = false;
  await until(
    'an answer',
    () => {
      if (miner.isClosed) throw new Error('closed before the answer');
      const answer = miner.events.find((event) => event.kind === 'answer' && event.id === id);
      if (answer?.kind === 'answer') isGood = answer.accepted;
      return answer !== undefined;
    },
    ANSWER_MS_MAX,
  );
  return isGood;
}

export type Judge = {
  bus: KafkaBus;
  /** Worker by header hash, of every share that gateways published. */
  published: Map<string, string>;
  candidates: Set<string>;
};

/** Reads everything gateways published, from the beginning. */
export async function startJudge(brokers: readonly string[]): Promise<Judge> {
  const bus = createKafkaBus({
    log: createSilentLog(),
    brokers,
    groupPrefix: 'judge',
    clientId: 'judge',
  });
  const published = new Map<string, string>();
  const candidates = new Set<string>();
  await bus.subscribe('share.submissions', 'judge', async (records) => {
    for (const { key, value } of records) {
      const decoded = isMarkKey(key) ? null : decodeShare(value);
      if (decoded?.ok) published.set(encodeHex(decoded.value.headerHash), decoded.value.worker);
    }
  });
  await bus.subscribe('block.candidates', 'judge', async (records) => {
    for (const { value } of records) {
      const decoded = decodeBlockCandidate(value);
      if (decoded.ok) candidates.add(encodeHex(decoded.value.headerHash));
    }
  });
  return { bus, published, candidates };
}

/** Every acknowledged share is published under its worker, every published one is stored once, and nothing else is. */
export async function judgeShares(
  tools: { db: Db; judge: Pick<Judge, 'published'>; limitMs: number },
  miners: { acknowledged: readonly Acknowledged[]; sent: ReadonlySet<string> },
): Promise<string[]> {
  const { db, judge, limitMs } = tools;
  const { published } = judge;
  const { acknowledged, sent } = miners;
  const stored = async () =>
    (
      await db.query<{ hash: string }>(
        `SELECT encode(header_hash, 'hex') AS hash FROM shares ORDER BY seq`,
      )
    ).map(({ hash }) => hash);
  const complaints = [
    await complaintAfter(limitMs, () => {
      const lost = acknowledged.filter(({ hash, worker }) => published.get(hash) !== worker);
      const [one] = lost;
      if (one === undefined) return null;
      return `${lost.length} of ${acknowledged.length} acknowledged shares were not published, one of ${one.worker} at ${new Date(one.atMs).toISOString()}: ${one.hash}`;
    }),
    await complaintAfter(limitMs, async () => {
      const there = new Set(await stored());
      const lost = [...published.keys()].filter((hash) => !there.has(hash));
      if (lost.length === 0) return null;
      return `${lost.length} of ${published.size} published shares are not stored: ${lost[0]}`;
    }),
  ].filter((complaint) => complaint !== null);
  const all = await stored();
  const twice = all.length - new Set(all).size;
  if (twice > 0) complaints.push(`${twice} shares are stored twice`);
  const strange = all.filter((hash) => !sent.has(hash) || !published.has(hash));
  if (strange.length > 0)
    complaints.push(`${strange.length} shares are from nowhere: ${strange[0]}`);
  return complaints;
}

export type OwnBlock = { hash: string; height: number; rewardSats: bigint };

/** Blocks of the best chain whose coinbase pays an address, with what it pays. Nobody but the pool may have been mining for it. */
export async function readOwnBlocks(
  node: RegtestNode,
  address: string,
  fromHeight = 1,
): Promise<OwnBlock[]> {
  const decoded = decodeAddress(address, 'regtest');
  if (!decoded.ok) throw new Error(decoded.reason);
  const scriptHex = encodeHex(decoded.script);
  const tip = Number(await node.call('getblockcount'));
  const found: OwnBlock[] = [];
  for (let height = fromHeight; height <= tip; height++) {
    const display = await node.call('getblockhash', [height]);
    const block = (await node.call('getblock', [display, 2])) as {
      tx: { vout: { value: number; scriptPubKey: { hex: string } }[] }[];
    };
    const paid = block.tx[0]!.vout.filter(({ scriptPubKey }) => scriptPubKey.hex === scriptHex);
    if (paid.length === 0) continue;
    found.push({
      hash: reverseHash(String(display)),
      height,
      // Amounts of a test chain are far below 2^53 satoshi, and nodes print eight places.
      rewardSats: paid.reduce((sum, { value }) => sum + BigInt(Math.round(value * SATS)), 0n),
    });
  }
  return found;
}

/** Hex of a hash in wire order from the reversed hex that people and RPC use; the other way round it is the same. */
export function reverseHash(hash: string): string {
  return encodeHexReversed(decodeHex(hash)!);
}

/**
 * Every block of ours in the chain has exactly one mature round, which gives away exactly what the coinbase brought; no other block has
 * one; what became of each candidate is what the chain says; the ledger is right. The blocks must be deep enough to be mature.
 */
export async function judgeBlocks(
  tools: { db: Db; node: RegtestNode; judge: Pick<Judge, 'candidates'>; limitMs: number },
  address: string,
): Promise<{ faults: string[]; ours: OwnBlock[] }> {
  const { db, node, judge, limitMs } = tools;
  const ours = await readOwnBlocks(node, address);
  const byHash = new Map(ours.map((block) => [block.hash, block]));
  const faults: string[] = [];
  const complain = (complaint: string | null): void => {
    if (complaint !== null) faults.push(complaint);
  };
  if (ours.length === 0) faults.push('no block of ours is in the chain');

  type Round = { hash: string; state: string; reward: bigint; fees: bigint; credited: bigint };
  let rounds: Round[] = [];
  complain(
    await complaintAfter(limitMs, async () => {
      rounds = await db.query<Round>(
        `SELECT encode(block_hash, 'hex') AS hash, state, reward_sats AS reward, operator_sats + developer_sats AS fees,
                (SELECT coalesce(sum(credit_sats), 0) FROM round_credits c WHERE c.round_id = r.round_id) AS credited
         FROM rounds r`,
      );
      const standing = rounds.filter(({ state }) => state !== 'orphaned');
      const mature = new Set(
        standing.filter(({ state }) => state === 'mature').map(({ hash }) => hash),
      );
      const without = ours.filter(({ hash }) => !mature.has(hash));
      const beside = standing.filter(({ hash }) => !byHash.has(hash));
      if (without.length + beside.length === 0 && standing.length === ours.length) return null;
      return `${ours.length} blocks of ours and ${standing.length} rounds, ${without.length} blocks without a mature one (${without[0]?.height} ${without[0]?.hash}), ${beside.length} rounds without a block in the chain`;
    }),
  );
  for (const { hash, state, reward, fees, credited } of rounds) {
    if (credited + fees !== reward)
      faults.push(`round of ${hash}: ${credited} credited and ${fees} fees are not ${reward}`);
    const block = byHash.get(hash);
    if (state !== 'orphaned' && block !== undefined && block.rewardSats !== reward)
      faults.push(`round of ${hash}: ${reward}, the coinbase brought ${block.rewardSats}`);
  }

  complain(
    await complaintAfter(limitMs, async () => {
      const states = new Map(
        (
          await db.query<{ hash: string; state: string }>(
            `SELECT encode(hash, 'hex') AS hash, state FROM blocks`,
          )
        ).map(({ hash, state }) => [hash, state]),
      );
      const all = [...new Set([...judge.candidates, ...byHash.keys()])];
      const wrong = all.filter(
        (hash) => !states.has(hash) || (states.get(hash) === 'confirmed') !== byHash.has(hash),
      );
      if (wrong.length === 0) return null;
      return `${wrong.length} of ${all.length} outcomes are wrong: ${wrong[0]} is ${states.get(wrong[0]!)}`;
    }),
  );
  const audit = await auditLedger(db);
  if (!audit.ok) faults.push(...audit.findings);
  const sum = Object.values(await sumBalances(db)).reduce((total, sats) => total + sats, 0n);
  if (sum !== 0n) faults.push(`the balances of the ledger sum to ${sum}`);
  return { faults, ours };
}
