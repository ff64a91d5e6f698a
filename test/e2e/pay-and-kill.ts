/**
 * Three miners with different hashrates mine two pools of one program on a real node: one is paid by the wallet, the other by the
 * coinbase itself. Then the payer runs alone and is killed with SIGKILL at random moments, many times, while rewards mature one by
 * one. The judge is the chain: every transaction out of the wallet is read, and each due amount must be there once.
 *
 * By hand: `node test/e2e/pay-and-kill.ts --kills 200 --seed 1` (Bitcoin Core by `BITCOIND`, else the development chain).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import { readLocalFile } from '../../src/config/file.ts';
import { readConfig } from '../../src/config.ts';
import { encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import type { PayoutPolicy } from '../../src/core/ledger/rules.ts';
import type { Db } from '../../src/ports.ts';
import { type Miner, startMiner } from '../../src/services/miner/miner.ts';
import { auditLedger, listBalances, sumBalances } from '../../src/store/ledger.ts';
import { listSettled } from '../../src/store/payouts.ts';
import { encodeChildOptions } from '../tools/payoutd-child.ts';
import {
  freePort,
  freePorts,
  makeDataDir,
  removeData,
  settingsOf,
  startPoolProcess,
} from '../tools/pool-process.ts';
import { createRandom } from '../tools/random.ts';
import { findProgram, type RegtestNode, startRegtestNode } from '../tools/regtest-node.ts';
import { createSilentLog } from '../tools/silent-log.ts';

export type PayAndKillOptions = {
  core: string | null;
  seed: number;
  kills: number;
  /** Blocks of each pool before the killing starts. */
  blocks: number;
  say(text: string): void;
};

export type PayAndKillReport = {
  node: string;
  kills: number;
  /** How often an open batch was found in each state after a kill. */
  statesAtKill: Record<string, number>;
  blocksByPool: Record<string, number>;
  batches: number;
  payments: number;
  /** Everything that was wrong, in words; empty when all is well. */
  faults: string[];
  /** Per miner of the wallet pool: what the chain paid, and what the ledger says was paid. */
  paidSats: Record<string, string>;
  /** Blocks orphaned by the reorganisation at the end, and what became of their rounds. */
  orphaned: number;
};

const WALLET = 'till';
const SATS = 100_000_000;
/** Of the machine's work: unequal on purpose. */
const HASHRATES = [60_000, 30_000, 10_000];
/** Long enough for a batch to be made, signed and sent, and short enough to be killed on the way. */
const LIFE_MS_MAX = 1_800;
/** So long without a new block on record: all are there. */
const QUIET_MS = 4_000;
const CHILD = new URL('../tools/payoutd-child.ts', import.meta.url).pathname;

/** Runs it all. Rejects only when something could not be run; what is wrong with money is in the report. */
export async function payAndKill(options: PayAndKillOptions): Promise<PayAndKillReport> {
  const { say } = options;
  const random = createRandom(options.seed);
  const node = await startRegtestNode(options.core);
  const dataDir = makeDataDir();
  const faults: string[] = [];
  const log = createSilentLog();
  try {
    await node.call('createwallet', [WALLET]);
    await node.call('createwallet', ['miners']);
    await node.call('createwallet', ['others']);
    const poolAddress = await newAddress(node, WALLET);
    const elsewhere = await newAddress(node, 'others');
    const addresses: Record<'main' | 'direct', string[]> = { main: [], direct: [] };
    for (const pool of ['main', 'direct'] as const)
      for (let i = 0; i < HASHRATES.length; i++)
        addresses[pool].push(await newAddress(node, 'miners'));

    // ── Mining: the program as an operator runs it.
    const ports = await freePorts();
    const directPort = await freePort();
    const env = {
      ...node.settings,
      ...settingsOf(dataDir, ports),
      POOL_ADDRESS: poolAddress,
      PAYOUT_MODE: 'pplns',
      MIN_DIFFICULTY: '0.000001',
      INITIAL_DIFFICULTY: '0.000001',
      POOLS: 'direct;scheme=direct;fee=1',
      LISTEN_PORTS: `${directPort};pool=direct;difficulty=0.000001;min=0.000001`,
    };
    const pool = await startPoolProcess(dataDir, env, ports);
    const miners: Miner[] = [];
    try {
      for (const id of ['main', 'direct'] as const) {
        addresses[id].forEach((address, i) => {
          miners.push(
            startMiner(
              { clock: { nowMs: () => Date.now() }, log },
              {
                host: '127.0.0.1',
                port: id === 'main' ? ports.stratum : directPort,
                tls: 'off',
                user: `${address}.rig`,
                password: 'x',
                threads: 1,
                hashesPerSecondMax: HASHRATES[i]!,
              },
            ),
          );
        });
      }
      const counted = async () => {
        const { rounds } = await pool.page<{ rounds: { pool: string }[] }>(
          '/api/v1/rounds?limit=500',
        );
        return (id: string) => rounds.filter((round) => round.pool === id).length;
      };
      const endMs = performance.now() + 60_000 + options.blocks * 6_000;
      for (;;) {
        const count = await counted();
        if (count('main') >= options.blocks && count('direct') >= options.blocks) break;
        if (performance.now() > endMs)
          throw new Error(
            `only ${count('main')} and ${count('direct')} rounds were credited\n${pool.tail()}`,
          );
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
      await Promise.all(miners.splice(0).map((miner) => miner.stop()));
      // On a chain this easy blocks come faster than they are written down.
      for (let before = -1, quietSince = 0; performance.now() < endMs; ) {
        const { totals } = await pool.page<{ totals: { blocksFound: number } | null }>(
          '/api/v1/pool',
        );
        const now = (totals?.blocksFound ?? 0) + (await counted())('main');
        if (now !== before) quietSince = performance.now();
        else if (performance.now() - quietSince > QUIET_MS) break;
        before = now;
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
    } finally {
      await Promise.all(miners.map((miner) => miner.stop()));
      if ((await pool.stop()) !== 0) faults.push('the pool did not stop in order');
    }

    // ── Killing the payer.
    const answer = readConfig({ argv: [], env, readFile: readLocalFile });
    if (!answer.ok) throw new Error(answer.errors.join('\n'));
    const { config } = answer;
    const server = await startEmbeddedPostgres({ dataDir: config.database.directory, log });
    const db = await connectPostgres({ ...server.connection, log });
    const policy: PayoutPolicy = {
      wallet: WALLET,
      signing: 'hot',
      minimumSats: 10_000n,
      schedule: { kind: 'every', intervalMs: 1 },
      feePolicy: 'miner',
      feeRateMaxSatsPerVb: 50,
      feePpmMax: 20_000,
      confirmTarget: 6,
      outputsMax: 2,
      transactionMaxSats: 1_000n * BigInt(SATS),
      dailyMaxSats: 1_000_000n * BigInt(SATS),
      confirmations: 6,
      maturity: 101,
      bumpAfterMs: 600_000,
    };
    const startPayer = () =>
      startChild(
        encodeChildOptions({
          database: server.connection,
          nodes: [...config.nodes],
          pools: [...config.pools],
          policy,
          cycleMs: 20,
        }),
      );
    try {
      const found = await db.query<{ pool: string; count: bigint }>(
        `SELECT pool, count(*) AS count FROM rounds GROUP BY pool`,
      );
      const blocksByPool = Object.fromEntries(found.map((row) => [row.pool, Number(row.count)]));
      say(
        `blocks credited: ${JSON.stringify(blocksByPool)}; the payer is killed ${options.kills} times`,
      );
      const chainHeight = Number(await node.call('getblockcount'));
      const [first] = await db.query<{ height: number }>(
        'SELECT min(height) AS height FROM rounds',
      );
      // The first reward matures with the first kill.
      const ahead = Math.max(0, (first?.height ?? chainHeight) + 99 - chainHeight);
      if (ahead > 0) await node.call('generatetoaddress', [ahead, elsewhere]);
      const statesAtKill: Record<string, number> = {};
      for (let kill = 0; kill < options.kills; kill++) {
        if (kill % 2 === 0) await node.call('generatetoaddress', [1, elsewhere]);
        const child = startPayer();
        await child.ready;
        await new Promise((resolve) => setTimeout(resolve, random.below(LIFE_MS_MAX)));
        child.process.kill('SIGKILL');
        await child.gone;
        const states = await db.query<{ state: string }>(
          `SELECT DISTINCT state FROM payout_batches WHERE state NOT IN ('settled', 'released')`,
        );
        for (const { state } of states) statesAtKill[state] = (statesAtKill[state] ?? 0) + 1;
        if (kill % 20 === 19)
          say(`${kill + 1} kills, batches then: ${JSON.stringify(statesAtKill)}`);
      }

      // ── To the end: everything matures, is paid and settles.
      await settle(node, db, startPayer, elsewhere, faults, say);
      await judge(node, db, addresses, poolAddress, faults);

      // ── The block before the last payout's is taken out of the chain.
      const orphaned = await takeBack(node, db, startPayer, elsewhere, faults, say);
      const { batches, payments, paidSats } = await judge(node, db, addresses, poolAddress, faults);
      return {
        node: node.kind,
        kills: options.kills,
        statesAtKill,
        blocksByPool,
        batches,
        payments,
        faults,
        paidSats,
        orphaned,
      };
    } finally {
      await db.stop();
      await server.stop();
    }
  } finally {
    await node.stop();
    removeData(dataDir);
  }
}

async function newAddress(node: RegtestNode, wallet: string): Promise<string> {
  return String(await node.call('getnewaddress', ['', 'bech32'], wallet));
}

type Child = { process: ChildProcess; ready: Promise<void>; gone: Promise<unknown> };

function startChild(options: string): Child {
  const child = spawn(process.execPath, [CHILD, options], { stdio: ['ignore', 'pipe', 'pipe'] });
  const gone = once(child, 'exit');
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4_000);
  });
  const ready = new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    void gone.then(() => reject(new Error(`payoutd ended before it was ready\n${said}`)));
  });
  // Only the first waits for it.
  ready.catch(() => {});
  return { process: child, ready, gone };
}

/** Blocks and time until nothing is open and nothing is due. */
async function settle(
  node: RegtestNode,
  db: Db,
  startPayer: () => Child,
  elsewhere: string,
  faults: string[],
  say: (text: string) => void,
): Promise<void> {
  const child = startPayer();
  await child.ready;
  try {
    await node.call('generatetoaddress', [101, elsewhere]);
    const endMs = performance.now() + 120_000;
    for (;;) {
      const [open] = await db.query<{ count: bigint }>(
        `SELECT (SELECT count(*) FROM payout_batches WHERE state NOT IN ('settled', 'released'))
              + (SELECT count(*) FROM ledger_accounts WHERE kind = 'miner' AND balance >= 10000)
              + (SELECT count(*) FROM rounds WHERE state = 'immature') AS count`,
      );
      if (open?.count === 0n && (await isAllInChain(node, db))) return;
      if (performance.now() > endMs) {
        const batches = await db.query(
          'SELECT batch_id, state, reason FROM payout_batches WHERE state <> $1',
          ['settled'],
        );
        const control = await db.query('SELECT halted, halt_reason FROM payout_control');
        faults.push(
          `not everything due was paid: ${open?.count} things are open, ${JSON.stringify([batches.slice(0, 5), control], (_, value) => (typeof value === 'bigint' ? String(value) : value))}`,
        );
        return;
      }
      await node.call('generatetoaddress', [1, elsewhere]);
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
  } finally {
    child.process.kill('SIGKILL');
    await child.gone;
    say('everything matured, and what was due is settled');
  }
}

/** Whether the transaction of every settled batch is in the chain as it is now. */
async function isAllInChain(node: RegtestNode, db: Db): Promise<boolean> {
  for (const { txid } of await listSettled(db, { limit: 1_000 })) {
    const known = await node.call('gettransaction', [encodeHexReversed(txid), true], WALLET);
    if ((known as { confirmations: number }).confirmations <= 0) return false;
  }
  return true;
}

type Block = { hash: string; height: number; tx: Tx[] };
type Tx = {
  txid: string;
  vin: { txid?: string; vout?: number }[];
  vout: { value: number; n: number; scriptPubKey: { address?: string; hex: string } }[];
};

/** Every due amount once: the chain against the batches, the batches against the ledger, the coinbases against the carries. */
async function judge(
  node: RegtestNode,
  db: Db,
  addresses: Record<'main' | 'direct', string[]>,
  feeAddress: string,
  faults: string[],
): Promise<Pick<PayAndKillReport, 'batches' | 'payments' | 'paidSats'>> {
  const blocks = await readChain(node);
  const inChain = new Map<string, Tx>();
  for (const block of blocks) for (const tx of block.tx) inChain.set(tx.txid, tx);

  const items = await db.query<{
    batch_id: bigint;
    address: string;
    amount_sats: bigint;
    fee_sats: bigint;
    state: string;
  }>(
    'SELECT batch_id, address, amount_sats, fee_sats, state FROM payout_items JOIN payout_batches USING (batch_id)',
  );
  const generations = await db.query<{ batch_id: bigint; txid: Uint8Array | null }>(
    'SELECT batch_id, txid FROM payout_generations',
  );
  // Each settled batch is in the chain by exactly one of its transactions, which pays each of its accounts once, to the satoshi.
  const ours = new Set<string>();
  for (const batchId of new Set(items.map(({ batch_id }) => batch_id))) {
    const state = items.find(({ batch_id }) => batch_id === batchId)!.state;
    const confirmed = generations
      .filter(({ batch_id, txid }) => batch_id === batchId && txid !== null)
      .map(({ txid }) => encodeHexReversed(txid!))
      .filter((txid) => inChain.has(txid));
    if (state === 'released' && confirmed.length === 0) continue;
    if (confirmed.length !== 1)
      faults.push(`batch ${batchId} (${state}) is in the chain ${confirmed.length} times`);
    for (const txid of confirmed) {
      ours.add(txid);
      for (const item of items.filter(({ batch_id }) => batch_id === batchId)) {
        const paid = inChain
          .get(txid)!
          .vout.filter(({ scriptPubKey }) => scriptPubKey.address === item.address)
          .map(({ value }) => toSats(value));
        if (paid.length !== 1 || paid[0] !== item.amount_sats - item.fee_sats)
          faults.push(
            `batch ${batchId} owes ${item.amount_sats - item.fee_sats} sat to ${item.address} and paid ${paid}`,
          );
      }
    }
  }
  // Nothing else ever left the wallet: what the miners got outside coinbases is exactly those transactions.
  const paidSats: Record<string, string> = {};
  for (const address of addresses.main) {
    let outside = 0n;
    let owed = 0n;
    for (const block of blocks)
      for (const tx of block.tx.slice(1))
        for (const output of tx.vout)
          if (output.scriptPubKey.address === address) {
            outside += toSats(output.value);
            if (!ours.has(tx.txid)) faults.push(`${tx.txid} pays ${address} and is no batch`);
          }
    for (const item of items)
      if (item.address === address && item.state === 'settled')
        owed += item.amount_sats - item.fee_sats;
    if (outside !== owed)
      faults.push(`${address} got ${outside} sat and the ledger settled ${owed}`);
    const books = await db.query<{ kind: string; balance: bigint }>(
      `SELECT kind, balance FROM ledger_accounts JOIN accounts USING (account_id) WHERE address = $1`,
      [address],
    );
    const bookOf = (kind: string) => books.find((row) => row.kind === kind)?.balance ?? 0n;
    if (bookOf('paid') !== outside)
      faults.push(
        `${address}: the ledger says ${bookOf('paid')} sat were paid, the chain ${outside}`,
      );
    if (bookOf('miner') >= 10_000n) faults.push(`${address} is still owed ${bookOf('miner')} sat`);
    paidSats[address] = String(outside);
  }
  await judgeRounds(blocks, db, feeAddress, faults);
  const audit = await auditLedger(db);
  if (!audit.ok) faults.push(...audit.findings);
  const sums = Object.values(await sumBalances(db)).reduce((sum, sats) => sum + sats, 0n);
  if (sums !== 0n) faults.push(`the ledger sums to ${sums} sat`);
  return {
    batches: new Set(items.map(({ batch_id }) => batch_id)).size,
    payments: items.length,
    paidSats,
  };
}

/** Rounds against blocks: what stands is in the chain, credits add up to what the coinbase pays, carries are earned less paid. */
async function judgeRounds(
  blocks: readonly Block[],
  db: Db,
  feeAddress: string,
  faults: string[],
): Promise<void> {
  const byHash = new Map(blocks.map((block) => [block.hash, block]));
  const rounds = await db.query<{
    round_id: bigint;
    block_hash: Uint8Array;
    pool: string;
    state: string;
    reward_sats: bigint;
    operator_sats: bigint;
    developer_sats: bigint;
  }>(
    'SELECT round_id, block_hash, pool, state, reward_sats, operator_sats, developer_sats FROM rounds',
  );
  const credits = await db.query<{ round_id: bigint; address: string; credit_sats: bigint }>(
    'SELECT round_id, address, credit_sats FROM round_credits JOIN accounts USING (account_id)',
  );
  const carries = new Map<string, bigint>();
  for (const round of rounds) {
    const hash = encodeHexReversed(round.block_hash);
    const block = byHash.get(hash);
    if ((block === undefined) !== (round.state === 'orphaned'))
      faults.push(
        `round of ${hash} is ${round.state}, its block is ${block === undefined ? 'not ' : ''}in the chain`,
      );
    if (block === undefined) continue;
    const coinbase = block.tx[0]!.vout.filter(({ value }) => value > 0);
    const paid = coinbase.reduce((sum, { value }) => sum + toSats(value), 0n);
    const own = credits.filter(({ round_id }) => round_id === round.round_id);
    const credited = own.reduce((sum, { credit_sats }) => sum + credit_sats, 0n);
    if (credited + round.operator_sats + round.developer_sats !== paid)
      faults.push(
        `round of ${hash}: ${credited} + ${round.operator_sats} sat credited, the coinbase pays ${paid}`,
      );
    if (round.reward_sats !== paid)
      faults.push(`round of ${hash}: reward ${round.reward_sats}, the coinbase pays ${paid}`);
    if (round.pool !== 'direct') continue;
    for (const { address, credit_sats } of own)
      carries.set(address, (carries.get(address) ?? 0n) + credit_sats);
    carries.set(feeAddress, (carries.get(feeAddress) ?? 0n) + round.operator_sats);
    for (const { value, scriptPubKey } of coinbase)
      carries.set(
        scriptPubKey.address!,
        (carries.get(scriptPubKey.address!) ?? 0n) - toSats(value),
      );
  }
  const booked = await listBalances(db, { kind: 'carry', limit: 1_000, withEmpty: true });
  for (const address of new Set([...carries.keys(), ...booked.map((one) => one.address ?? '')])) {
    const expected = carries.get(address) ?? 0n;
    const balanceSats = booked.find((one) => one.address === address)?.balanceSats ?? 0n;
    if (balanceSats !== expected)
      faults.push(`${address} carries ${balanceSats} sat, by the chain ${expected}`);
  }
}

/** Invalidates the block before that of the newest payout, mines another chain past it, and waits until the ledger agrees with it. */
async function takeBack(
  node: RegtestNode,
  db: Db,
  startPayer: () => Child,
  elsewhere: string,
  faults: string[],
  say: (text: string) => void,
): Promise<number> {
  const [last] = await db.query<{ block_hash: Uint8Array }>(
    `SELECT block_hash FROM payout_generations WHERE block_hash IS NOT NULL ORDER BY batch_id DESC LIMIT 1`,
  );
  if (last === undefined) {
    faults.push('no payout has a block');
    return 0;
  }
  const payoutBlock = encodeHexReversed(last.block_hash);
  const header = (await node.call('getblockheader', [payoutBlock])) as {
    height: number;
    previousblockhash: string;
  };
  const tip = Number(await node.call('getblockcount'));
  await node.call('invalidateblock', [header.previousblockhash]);
  // One longer than what was, in steps, so that the payer sees the chain on the way.
  const missing = tip - header.height + 2 + 8;
  const child = startPayer();
  await child.ready;
  try {
    for (let i = 0; i < missing; i++) {
      await node.call('generatetoaddress', [1, await newAddress(node, 'others')]);
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
  } finally {
    child.process.kill('SIGKILL');
    await child.gone;
  }
  await settle(node, db, startPayer, elsewhere, faults, say);
  say(`${tip - header.height + 2} blocks were taken back`);
  const [orphaned] = await db.query<{ count: bigint }>(
    `SELECT count(*) AS count FROM rounds WHERE state = 'orphaned'`,
  );
  return Number(orphaned?.count ?? 0n);
}

async function readChain(node: RegtestNode): Promise<Block[]> {
  const height = Number(await node.call('getblockcount'));
  const blocks: Block[] = [];
  for (let at = 1; at <= height; at++)
    blocks.push((await node.call('getblock', [await node.call('getblockhash', [at]), 2])) as Block);
  return blocks;
}

/** Amounts of a test chain are far below 2^53 satoshi, and Core prints eight places. */
function toSats(value: number): bigint {
  return BigInt(Math.round(value * SATS));
}

if (process.argv[1] === import.meta.filename) {
  const { values } = parseArgs({
    options: {
      kills: { type: 'string', default: '200' },
      blocks: { type: 'string', default: '40' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    },
  });
  console.log(`seed ${values.seed}`);
  const report = await payAndKill({
    core: findProgram('BITCOIND', 'bitcoind'),
    seed: Number(values.seed),
    kills: Number(values.kills),
    blocks: Number(values.blocks),
    say: (text) => console.log(text),
  });
  console.log(report);
  process.exitCode = report.faults.length > 0 ? 1 : 0;
}
