/**
 * A world for the payer in one process: the development chain with virtual time and its wallet behind the `Rpc` type, a real database,
 * accounts with money, payers that can be killed and made anew, and a judge that reads only the chain and the ledger.
 *
 * The node can be in four moods: `ok`; `slow`: it says nothing in time and does what was asked afterwards; `deaf`: it does what was
 * asked and its answer is lost; `down`: nothing arrives.
 */
import assert from 'node:assert/strict';
import { decodeAddress, encodeAddress } from '../../src/core/bitcoin/address.ts';
import { encodeHex } from '../../src/core/bitcoin/bytes.ts';
import { sha256 } from '../../src/core/bitcoin/hash.ts';
import type { PayoutPolicy } from '../../src/core/ledger/rules.ts';
import type { Rpc, RpcAnswer } from '../../src/core/node/rpc.ts';
import type { Db } from '../../src/ports.ts';
import { readChainTx } from '../../src/services/devnet/blocks.ts';
import { type Devnet, startDevnet } from '../../src/services/devnet/devnet.ts';
import { planBlock, solveBlock } from '../../src/services/devnet/mining.ts';
import { createPayer, type Payer } from '../../src/services/payoutd/payer.ts';
import { auditLedger, postLedger } from '../../src/store/ledger.ts';
import { createSilentLog } from './silent-log.ts';

export const MINUTE_MS = 60_000;
export const HOUR_MS = 60 * MINUTE_MS;

export type Mood = 'ok' | 'slow' | 'deaf' | 'down';

export const POLICY: PayoutPolicy = {
  wallet: 'pool',
  signing: 'hot',
  minimumSats: 10_000n,
  schedule: { kind: 'every', intervalMs: HOUR_MS },
  feePolicy: 'pool',
  feeRateMaxSatsPerVb: 100,
  feePpmMax: 20_000,
  confirmTarget: 6,
  outputsMax: 200,
  transactionMaxSats: 1_000_000_000_000n,
  dailyMaxSats: 10_000_000_000_000n,
  confirmations: 6,
  maturity: 101,
  bumpAfterMs: 3 * HOUR_MS,
};

/** Not a point of the payer: it dies of a commit whose answer is lost. */
export const LOST_COMMIT = 'lost commit';

export class Killed extends Error {}

/** Methods whose loss or double matters; moods act on these, and on all when the node is down. */
const ACTS = new Set([
  'walletcreatefundedpsbt',
  'walletprocesspsbt',
  'lockunspent',
  'sendrawtransaction',
]);

export type Account = { accountId: bigint; address: string; script: Uint8Array };

export type PayerRig = {
  devnet: Devnet;
  db: Db;
  node: Rpc;
  wallet: Rpc;
  setMood(mood: Mood): void;
  nowMs(): number;
  /** Time goes on; what a slow node has yet to do is done. */
  pass(ms: number): Promise<void>;
  /** The wallet's RPC, as an operator or a thief would use it. */
  // Tests look into answers of many shapes.
  // biome-ignore lint/suspicious/noExplicitAny: see above
  call(method: string, params?: unknown[]): Promise<any>;
  /** Mines to an address that is nobody's. */
  mine(blocks: number): Promise<string[]>;
  /** Mines these transactions, whatever the mempool has. */
  mineWith(transactions: readonly Uint8Array[]): Promise<void>;
  /** The node loses its mempool, as by a restart. */
  forgetMempool(): void;
  /** The node's wallet does not know this address (null: knows all). */
  refuseAddress(address: string | null): void;
  /** The next answers of a method, by this function instead of the node. */
  answer(method: string, answer: (() => RpcAnswer) | null): void;
  /** A payer that dies at the given point (or of a lost commit) the nth time it comes by. */
  payer(policy?: Partial<PayoutPolicy>, kill?: { point: string; nth?: number }): Payer;
  account(seed: string, kind?: number): Promise<Account>;
  credit(credits: readonly { accountId: bigint; sats: bigint }[]): Promise<void>;
  balance(kind: string, accountId?: bigint): Promise<bigint>;
  /** What the chain pays to a script. */
  paidTo(script: Uint8Array): bigint;
  /** Throws unless the chain shows each payout once, nothing else left the wallet, and the ledger's sums agree with the chain. */
  judge(accounts: readonly Account[]): Promise<void>;
  stop(): Promise<void>;
};

/** Scripts of the five standard kinds that nobody has a key for. */
export function scriptOf(seed: string, kind = 0): Uint8Array {
  const hash = sha256(new TextEncoder().encode(seed));
  const short = hash.subarray(0, 20);
  if (kind === 1) return Uint8Array.of(0x76, 0xa9, 0x14, ...short, 0x88, 0xac);
  if (kind === 2) return Uint8Array.of(0xa9, 0x14, ...short, 0x87);
  if (kind === 3) return Uint8Array.of(0x00, 0x20, ...hash);
  if (kind === 4)
    for (let x = hash; ; x = sha256(x)) {
      // Half of all numbers are on no point of the curve, and the address of such a one is refused.
      const script = Uint8Array.of(0x51, 0x20, ...x);
      const address = encodeAddress(script, 'regtest');
      if (address !== null && decodeAddress(address, 'regtest').ok) return script;
    }
  return Uint8Array.of(0x00, 0x14, ...short);
}

/** A chain on which the wallet `pool` owns `rewards` mature rewards, and an empty ledger in `db`. */
export async function createPayerRig(
  db: Db,
  options: { rewards?: number } = {},
): Promise<PayerRig> {
  let nowMs = Date.UTC(2026, 0, 5);
  let mood: Mood = 'ok';
  let refused: string | null = null;
  const answers = new Map<string, () => RpcAnswer>();
  const late: (() => Promise<unknown>)[] = [];
  const log = createSilentLog();
  const clock = { nowMs: () => nowMs };
  const devnet = await startDevnet(
    { clock, log },
    {
      rpcPort: 0,
      zmqPort: null,
      user: 'user',
      password: 'pass',
      initialBlocks: 0,
      transactionsPerBlock: 0,
      seed: 'payer',
      feeEstimateSatsPerKvb: 2_000n,
    },
  );
  await devnet.call('createwallet', ['pool']);
  const poolAddress = String(await devnet.call('getnewaddress', ['rewards'], 'pool'));
  const strangers = encodeAddress(scriptOf('strangers'), 'regtest') as string;
  // One reward for the chain's own purse, out of which tests make deposits.
  await devnet.generate(1);
  await devnet.generate(options.rewards ?? 3, poolAddress);
  await devnet.generate(101, strangers);
  let serial = 0;

  async function run(method: string, params: readonly unknown[], walletName?: string) {
    try {
      const result = await devnet.call(method, params, walletName);
      // As over the wire: amounts arrive as numbers.
      return { kind: 'result', result: JSON.parse(JSON.stringify(result ?? null)) } as RpcAnswer;
    } catch (error) {
      const { code, message } = error as { code?: number; message: string };
      if (typeof code !== 'number') throw error;
      return { kind: 'error', code, message } as RpcAnswer;
    }
  }

  function door(walletName?: string): Rpc {
    return {
      name: walletName ?? 'node',
      async call(method, params): Promise<RpcAnswer> {
        if (mood === 'down') return { kind: 'unreachable', detail: 'down' };
        // JSON carries no more than this: what is not representable must not get through.
        const sent = JSON.parse(JSON.stringify(params)) as unknown[];
        const own = answers.get(method)?.();
        if (own !== undefined) return own;
        if (refused !== null && JSON.stringify(sent).includes(refused)) {
          if (method === 'validateaddress') return { kind: 'result', result: { isvalid: false } };
          if (method === 'walletcreatefundedpsbt')
            return { kind: 'error', code: -5, message: `Invalid Bitcoin address: ${refused}` };
        }
        if (mood === 'slow' && ACTS.has(method)) {
          late.push(() => run(method, sent, walletName));
          return { kind: 'timeout', detail: 'slow' };
        }
        const answer = await run(method, sent, walletName);
        if (mood === 'deaf' && ACTS.has(method)) return { kind: 'bad-answer', detail: 'cut off' };
        return answer;
      },
      callEncoded: () => Promise.reject(new Error('not asked by the payer')),
      stop() {},
    };
  }
  const node = door();
  const wallet = door('pool');
  const addressOf = (script: Uint8Array): string => encodeAddress(script, 'regtest') as string;

  const rig: PayerRig = {
    devnet,
    db,
    node,
    wallet,
    setMood(next) {
      mood = next;
    },
    nowMs: () => nowMs,
    async pass(ms) {
      nowMs += ms;
      for (const act of late.splice(0)) await act();
    },
    async call(method, params = []) {
      return JSON.parse(JSON.stringify((await devnet.call(method, params, 'pool')) ?? null));
    },
    mine: (blocks) => devnet.generate(blocks, strangers),
    async mineWith(transactions) {
      const entries = transactions.map((raw) => {
        const entry = readChainTx(raw);
        assert.ok(entry !== null);
        return entry;
      });
      const { chain } = devnet;
      const planned = planBlock({
        parent: chain.tip,
        bits: chain.requiredBits(chain.tip.height + 1),
        transactions: entries,
        feesSats: 0n,
        script: scriptOf('strangers'),
        extra: Uint8Array.of(1, 2, 3),
        timeSeconds: Math.floor(nowMs / 1000),
      });
      const solved = solveBlock(planned, Number.MAX_SAFE_INTEGER);
      assert.ok(solved !== null);
      assert.equal(devnet.submit(solved.raw), null);
    },
    forgetMempool() {
      devnet.forgetMempool();
    },
    refuseAddress(address) {
      refused = address;
    },
    answer(method, answer) {
      if (answer === null) answers.delete(method);
      else answers.set(method, answer);
    },
    payer(policy = {}, kill) {
      let left = kill?.nth ?? 1;
      /** What was committed stands, and nobody hears of it: the connection broke after COMMIT was sent. */
      const deafDb: Db = {
        ...db,
        async transaction(work) {
          const result = await db.transaction(work);
          left -= 1;
          if (left === 0) throw new Killed(LOST_COMMIT);
          return result;
        },
      };
      return createPayer(
        {
          clock,
          log,
          db: kill?.point === LOST_COMMIT ? deafDb : db,
          node,
          wallet,
          meter: { count() {}, set() {} },
          fault(point) {
            if (kill?.point !== point) return;
            left -= 1;
            if (left === 0) throw new Killed(point);
          },
        },
        { network: 'regtest', policy: { ...POLICY, ...policy } },
      );
    },
    async account(seed, kind = 0) {
      const script = scriptOf(seed, kind);
      const address = addressOf(script);
      const [row] = await db.query<{ account_id: bigint }>(
        `INSERT INTO accounts (address, created_at) VALUES ($1, now())
         ON CONFLICT (address) DO UPDATE SET address = excluded.address RETURNING account_id`,
        [address],
      );
      return { accountId: row?.account_id as bigint, address, script };
    },
    async credit(credits) {
      serial += 1;
      const total = credits.reduce((sum, one) => sum + one.sats, 0n);
      await db.transaction((tx) =>
        postLedger(tx, {
          key: `test-credit:${serial}`,
          kind: 'manual',
          atMs: nowMs,
          actor: 'test',
          entries: [
            { account: { kind: 'deposit' }, sats: -total },
            ...credits.map((one) => ({
              account: { kind: 'miner' as const, accountId: one.accountId },
              sats: one.sats,
            })),
          ],
        }),
      );
    },
    async balance(kind, accountId) {
      const [row] = await db.query<{ sats: bigint }>(
        `SELECT coalesce(sum(balance), 0)::bigint AS sats FROM ledger_accounts
         WHERE kind = $1 AND ($2::bigint IS NULL OR account_id = $2)`,
        [kind, accountId ?? null],
      );
      return row?.sats ?? 0n;
    },
    paidTo(script) {
      let total = 0n;
      const wanted = encodeHex(script);
      for (const block of devnet.chain.active)
        for (const entry of devnet.chain.block(block)?.transactions ?? [])
          for (const output of entry.tx.outputs)
            if (encodeHex(output.script) === wanted) total += output.valueSats;
      return total;
    },
    async judge(accounts) {
      const scripts = new Map<string, bigint>();
      let leftWallet = 0n;
      let fees = 0n;
      const coins = new Map<string, bigint>();
      for (const blockNode of devnet.chain.active) {
        for (const entry of devnet.chain.block(blockNode)?.transactions ?? []) {
          let inSats = 0n;
          for (const key of entry.spends) {
            inSats += coins.get(key) ?? 0n;
            coins.delete(key);
          }
          const spendsOurs = inSats > 0n;
          let outSats = 0n;
          for (const [at, output] of entry.tx.outputs.entries()) {
            outSats += output.valueSats;
            const address = encodeAddress(output.script, 'regtest') ?? '';
            if (await isOurs(address)) {
              coins.set(`${entry.id}:${at}`, output.valueSats);
            } else if (spendsOurs) {
              const key = encodeHex(output.script);
              scripts.set(key, (scripts.get(key) ?? 0n) + output.valueSats);
              leftWallet += output.valueSats;
            }
          }
          if (spendsOurs) fees += inSats - outSats;
        }
      }
      const settled = await db.query<{ account_id: bigint; sats: bigint }>(
        `SELECT account_id, sum(amount_sats - fee_sats)::bigint AS sats FROM payout_items
         JOIN payout_batches USING (batch_id) WHERE state = 'settled' GROUP BY account_id`,
      );
      const booked = new Map(settled.map((row) => [row.account_id, row.sats]));
      let known = 0n;
      for (const account of accounts) {
        const onChain = scripts.get(encodeHex(account.script)) ?? 0n;
        assert.equal(
          onChain,
          booked.get(account.accountId) ?? 0n,
          `${account.address} was paid once`,
        );
        known += onChain;
      }
      assert.equal(leftWallet, known, 'nothing else left the wallet');
      assert.equal(await rig.balance('paid'), leftWallet, 'the ledger has what the chain paid');
      assert.equal(await rig.balance('network-fee'), fees, 'the ledger has the fees of the chain');
      assert.equal(await rig.balance('transit'), 0n, 'nothing is left in transit');
      const audit = await auditLedger(db);
      assert.deepEqual(audit.ok ? [] : audit.findings, []);
    },
    stop: () => devnet.stop(),
  };

  const ours = new Map<string, boolean>();
  async function isOurs(address: string): Promise<boolean> {
    const known = ours.get(address);
    if (known !== undefined) return known;
    const info = address === '' ? { ismine: false } : await rig.call('getaddressinfo', [address]);
    ours.set(address, info.ismine === true);
    return info.ismine === true;
  }
  return rig;
}
