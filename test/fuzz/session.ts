/**
 * Fuzz target: a whole session against hostile lines. Mutated real lines, JSON built from pieces, raw text; random time, random
 * flushes, jobs and commits between. Nothing may throw, every byte written must be whole lines of JSON, and what is accepted
 * must stand in the journal exactly once.
 *
 * `node test/fuzz/session.ts [runs] [seed]`; the test suite runs a short one.
 */
import assert from 'node:assert/strict';
import { encodeHex } from '../../src/core/bitcoin/bytes.ts';
import type { CoinbasePlan } from '../../src/core/ledger/plan.ts';
import { SESSION_LIMITS } from '../../src/core/stratum/limits.ts';
import { METHODS } from '../../src/core/stratum/methods.ts';
import {
  type Client,
  createJob,
  createRig,
  MINER,
  mine,
  OTHER_MINER,
  POOL,
  partsGiven,
} from '../services/stratumd/gateway-rig.ts';
import { createRandom, type Random } from './random.ts';

const PAID = Uint8Array.of(0, 20, ...new Array<number>(20).fill(7));

/** Runs `count` sessions from a seed; throws with the seed in the message when a promise is broken. */
export function fuzzSessions(count: number, seed: number): { lines: number; accepted: number } {
  let lines = 0;
  let accepted = 0;
  for (let run = 0; run < count; run += 1) {
    try {
      const result = fuzzSession(createRandom(seed + run));
      lines += result.lines;
      accepted += result.accepted;
    } catch (error) {
      throw new Error(`fuzz session failed with seed ${seed + run}`, { cause: error });
    }
  }
  return { lines, accepted };
}

function fuzzSession(random: Random): { lines: number; accepted: number } {
  const rig = createRig({
    options: {
      pools: [
        { id: 'main', coinbase: { mode: 'pool', script: PAID, address: POOL } },
        { id: 'solo', coinbase: { mode: 'solo', fee: { ppm: 10_000, script: PAID } } },
        { id: 'direct', coinbase: { mode: 'direct', fee: null } },
      ],
      limits: { ...SESSION_LIMITS, scoreMax: random.pick([100, 1e9]) },
    },
  });
  let job = createJob();
  if (random.chance(0.9)) rig.setJob(job);
  const connect = (): Client => {
    const client = rig.connect(undefined, { pool: random.pick(['main', 'solo', 'direct']) });
    if (random.chance(0.5)) client.start(`${MINER}.w`, random.pick(['', 'nerdminer', 'bitaxe']));
    return client;
  };
  const clients: Client[] = [connect()];
  let lines = 0;
  for (let step = 0; step < 40; step += 1) {
    const client = random.pick(clients);
    const roll = random.below(20);
    if (roll === 0)
      rig.setJob((job = createJob({ previousHash: new Uint8Array(32).fill(random.below(3)) })));
    else if (roll === 1) rig.pass(random.below(40_000), 1_000);
    else if (roll === 2) rig.commitAll();
    else if (roll === 3) clients.push(connect());
    else if (roll === 4) rig.gateway.closed(client.session, rig.nowMs);
    else if (roll === 5) client.connection.congested = random.chance(0.5);
    else if (roll === 6) rig.journal.status = random.pick(['ok', 'ok', 'full']);
    else if (roll === 7) rig.gateway.setPlans([createPlan(random)], rig.nowMs);
    else {
      const line = createLine(random, client, job);
      lines += 1;
      rig.gateway.line(client.session, line, rig.nowMs);
      if (random.chance(0.6)) rig.gateway.flush(client.session);
    }
    if (client.connection.writes.length > 0) client.take();
    assert.ok(Number.isFinite(client.session.score) && client.session.score >= 0);
    assert.ok(client.session.vardiff.difficulty > 0);
  }
  const hashes = rig.journal.appended.map((record) => encodeHex(record.headerHash));
  assert.equal(new Set(hashes).size, hashes.length);
  assert.equal(rig.metrics.sharesAccepted, hashes.length);
  const ids = rig.options.pools.map(({ id }) => id);
  for (const { pool, planId } of rig.journal.appended)
    assert.ok(ids.includes(pool) && (planId === '' || pool === 'direct'));
  return { lines, accepted: hashes.length };
}

function createLine(random: Random, client: Client, job: ReturnType<typeof createJob>): string {
  const roll = random.below(10);
  if (roll < 3)
    return JSON.stringify({
      id: random.below(9),
      method: random.pick(names),
      params: createParams(random),
    });
  if (roll < 5) return JSON.stringify(createValue(random, 4));
  if (roll === 5) {
    return random.pick([
      `{"id":1,"method":"mining.subscribe","params":["fuzz"]}`,
      `{"id":2,"method":"mining.authorize","params":["${MINER}.w","d=${random.number()}"]}`,
      `{"id":2,"method":"mining.authorize","params":["${OTHER_MINER}.w","x"]}`,
      `{"id":2,"method":"mining.authorize","params":["${MINER}*${random.below(12_000)},${OTHER_MINER}*${random.below(5)}.w","x"]}`,
      `{"id":3,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"ffffffff"}]}`,
    ]);
  }
  if (roll === 6) return random.text(60);
  let line = JSON.stringify({
    id: 4,
    method: 'mining.submit',
    params: [`${MINER}.w`, job.jobId, random.hex(16), random.hex(8), random.hex(8)],
  });
  if (client.session.subscribed && random.chance(0.5)) {
    if (client.connection.writes.length > 0) client.take();
    const parts = client.notify.length === 0 ? null : partsGiven(client);
    const share = mine(client, job, parts === null ? { script: PAID } : { parts });
    const params = [`${MINER}.w`, share.jobId, share.extranonce2, share.ntime, share.nonce];
    line = JSON.stringify({ id: 4, method: 'mining.submit', params });
  }
  return random.chance(0.6) ? line : mutate(random, line);
}

const names = [...METHODS.keys(), '__proto__', 'mining.suggest_difficulty(5)', ''];

function createPlan(random: Random): CoinbasePlan {
  const entries = Array.from({ length: random.below(400) }, (_, at) => ({
    address: `a${at}`,
    script: Uint8Array.of(0, 20, at >> 8, at & 0xff, ...new Array<number>(18).fill(1)),
    weight: BigInt(random.below(1_000)),
    carrySats: BigInt(random.below(1_000)) - 500n,
  }));
  return {
    planId: random.hex(16),
    pool: random.pick(['direct', 'direct', 'main', 'none']),
    lastSeq: 1n,
    totalWeight: entries.reduce((sum, { weight }) => sum + weight, 0n),
    entries,
    createdAtMs: 1,
  };
}

function createParams(random: Random): unknown {
  if (random.chance(0.1)) return createValue(random, 3);
  return Array.from({ length: random.below(8) }, () => createValue(random, 3));
}

function createValue(random: Random, depth: number): unknown {
  const roll = random.below(depth > 0 ? 9 : 6);
  if (roll === 0) return null;
  if (roll === 1) return random.chance(0.5);
  if (roll === 2) return random.number();
  if (roll < 6)
    return random.chance(0.3) ? random.hex(random.below(20)) : random.text(random.below(40));
  if (roll === 6)
    return Array.from({ length: random.below(5) }, () => createValue(random, depth - 1));
  return Object.fromEntries(
    Array.from({ length: random.below(5) }, () => [
      random.pick([
        'id',
        'method',
        'params',
        'result',
        '__proto__',
        'version-rolling.mask',
        random.text(5),
      ]),
      createValue(random, depth - 1),
    ]),
  );
}

function mutate(random: Random, line: string): string {
  const at = random.below(line.length);
  switch (random.below(4)) {
    case 0:
      return line.slice(0, at) + line.slice(at + 1 + random.below(4));
    case 1:
      return line.slice(0, at) + random.text(1 + random.below(4)) + line.slice(at);
    case 2:
      return line.slice(0, at) + line.slice(random.below(line.length));
    default:
      return (
        line.slice(0, at) +
        String.fromCharCode(line.charCodeAt(at) ^ (1 << random.below(7))) +
        line.slice(at + 1)
      );
  }
}

if (import.meta.main) {
  const [runs = '2000', seed = String(Date.now() % 1_000_000)] = process.argv.slice(2);
  console.log(`seed ${seed}`);
  console.log(fuzzSessions(Number(runs), Number(seed)));
}
