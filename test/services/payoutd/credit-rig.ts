/**
 * A small world for crediting: a chain and a clock of the test's own, a real database, shares and finds as the gateway records them, and
 * cycles of the service that can be killed at any point. Oracles are written in another style than the product.
 */
import assert from 'node:assert/strict';
import { createMemoryBus, type MemoryBus } from '../../../src/adapters/bus/memory.ts';
import { encodeAddress } from '../../../src/core/bitcoin/address.ts';
import { encodeHex, encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import { sha256 } from '../../../src/core/bitcoin/hash.ts';
import { encodeTx, type TxOutput } from '../../../src/core/bitcoin/tx.ts';
import type { ExportedShare, PoolRules } from '../../../src/core/ledger/rules.ts';
import { makeStatement, verifyStatement } from '../../../src/core/ledger/statement.ts';
import { createMeter } from '../../../src/meter.ts';
import type { Db, Log } from '../../../src/ports.ts';
import { type Cycle, type CycleOptions, createCycle } from '../../../src/services/payoutd/cycle.ts';
import { recordCandidate } from '../../../src/store/blocks.ts';
import { auditLedger } from '../../../src/store/ledger.ts';
import { listRounds, readRound } from '../../../src/store/rounds.ts';
import { recordShares } from '../../../src/store/shares.ts';
import { readWindowShares } from '../../../src/store/windows.ts';
import { createMemoryLog } from '../../tools/waiting.ts';
import { type CallFate, type NodeBlock, WalletNode } from '../../tools/wallet-node.ts';

/** Difficulty 1: the network asks for 2^48 units of work. */
export const NETWORK_WORK = 1n << 48n;
const EASY_BITS = 0x1d00ffff;
export const COIN = 100_000_000n;

/** An address that nobody has a key for, made from a name; P2WPKH. */
export function addressOf(name: string): string {
  return encodeAddress(scriptOf(name), 'regtest') as string;
}

export function scriptOf(name: string): Uint8Array {
  return Uint8Array.of(0, 20, ...sha256(new TextEncoder().encode(name)).subarray(0, 20));
}

export function poolOf(rules: Partial<PoolRules> = {}): PoolRules {
  return {
    id: 'main',
    scheme: 'pplns',
    window: { kind: 'work', factorPpm: 2_000_000n },
    feePpm: 10_000,
    feeAddress: null,
    developerFeePpm: 0,
    developerAddress: null,
    address: addressOf('pool'),
    ruinPpmMax: 10_000,
    onRuin: 'refuse',
    ...rules,
  };
}

export type FoundBlock = { block: NodeBlock; hash: Uint8Array; seq: bigint | null };

export type CreditWorld = {
  db: Db;
  node: WalletNode;
  bus: MemoryBus;
  log: ReturnType<typeof createMemoryLog>;
  nowMs(): number;
  pass(ms: number): void;
  /** What becomes of each call to a node, by its name. */
  setFate(fate: (door: string, method: string, params: readonly unknown[]) => CallFate): void;
  /** Records a share of so many parts in 100 of the network's difficulty; answers its number. */
  share(
    name: string,
    percent: number,
    more?: {
      pool?: string;
      address?: string;
      hash?: Uint8Array;
      bits?: number;
      valueSats?: bigint;
    },
  ): Promise<bigint>;
  /** A block of the pool on the tip (or `on`), recorded with its finding share and given to the node. */
  find(
    name: string,
    more?: {
      pool?: string;
      outputs?: TxOutput[];
      valueSats?: bigint;
      on?: NodeBlock;
      bits?: number;
      percent?: number;
      isShared?: boolean;
      isRecorded?: boolean;
      commitment?: boolean;
    },
  ): Promise<FoundBlock>;
  record(
    found: FoundBlock,
    name: string,
    more?: { pool?: string; coinbase?: Uint8Array },
  ): Promise<void>;
  /** Empty blocks of others. */
  mine(count: number, on?: NodeBlock): NodeBlock[];
  /** A service that was just started; every cycle of it runs to its end or to where it is killed. */
  start(
    options?: Partial<CycleOptions>,
    more?: { db?: Db; fault?: (point: string) => void; nodes?: string[] },
  ): Cycle;
  balance(kind: string, who?: { name?: string; address?: string; pool?: string }): Promise<bigint>;
  /** All balances that are not zero, as `kind pool name`. */
  balances(): Promise<Record<string, bigint>>;
  rounds(): Promise<{ height: number; generation: number; state: string; scheme: string }[]>;
  /** The ledger is whole, and so are its sums. */
  audit(): Promise<void>;
  /** The test itself has broken the ledger: it is not audited at the end. */
  spoil(): void;
  /** Audits, and gives the database's connections back. */
  close(): Promise<void>;
};

export function createCreditWorld(db: Db, pools: readonly PoolRules[]): CreditWorld {
  let nowMs = Date.UTC(2026, 10, 21, 12);
  let serial = 0;
  let isClosed = false;
  let isSound = true;
  let fate: (door: string, method: string, params: readonly unknown[]) => CallFate = () => ({
    kind: 'answer',
  });
  const log = createMemoryLog();
  const bus = createMemoryBus({ log: log as Log, encodeCheck: true });
  const clock = { nowMs: () => nowMs };
  const node = new WalletNode({
    network: 'regtest',
    baseHeight: 100,
    nowMs: clock.nowMs,
    fate: (door, method, params) => fate(door, method, params),
  });
  const names = new Map<string, string>();
  const nameOf = (address: string): string => names.get(address) ?? address;
  const known = (name: string): string => {
    const address = addressOf(name);
    names.set(address, name);
    return address;
  };
  for (const { address, feeAddress, developerAddress } of pools) {
    for (const name of ['pool', 'fees', 'developer', 'operator'])
      if ([address, feeAddress, developerAddress].includes(addressOf(name))) known(name);
  }

  const world: CreditWorld = {
    db,
    node,
    bus,
    log,
    nowMs: clock.nowMs,
    pass(ms) {
      nowMs += ms;
    },
    setFate(next) {
      fate = next;
    },
    async share(name, percent, more = {}) {
      serial += 1;
      nowMs += 1_000;
      const headerHash = more.hash ?? sha256(new TextEncoder().encode(`share ${serial}`));
      const { stored } = await recordShares(db, [
        {
          audited: true,
          share: {
            headerHash,
            jobId: '1a',
            extranonce1: new Uint8Array(4),
            extranonce2: new Uint8Array(8),
            ntime: 1,
            nonce: serial,
            version: 0x20000000,
            difficulty: percent / 100,
            shareDifficulty: percent / 100,
            account: more.address ?? known(name),
            worker: 'rig',
            sessionId: 's',
            gateway: 'g',
            height: node.tip.height + 1,
            acceptedAtMs: nowMs,
            isBlock: more.hash !== undefined,
            pool: more.pool ?? 'main',
            networkBits: more.bits ?? EASY_BITS,
            jobValueSats: more.valueSats ?? 50n * COIN,
            planId: '',
            coinbaseBytes: 0,
          },
        },
      ]);
      assert.equal(stored, 1);
      const [row] = await db.query<{ last_seq: bigint }>('SELECT last_seq FROM share_sequence');
      return row!.last_seq;
    },
    async find(name, more = {}) {
      const address = pools.find(({ id }) => id === (more.pool ?? 'main'))?.address ?? null;
      const paid = address === null ? scriptOf(name) : scriptOf(nameOf(address));
      const outputs = more.outputs ?? [{ script: paid, valueSats: more.valueSats ?? 50n * COIN }];
      const block = node.makeBlock({
        outputs,
        bits: more.bits ?? EASY_BITS,
        ...(more.on === undefined ? {} : { previous: more.on }),
        commitment: more.commitment ?? true,
      });
      const pool = more.pool ?? 'main';
      const seq =
        more.isShared === false
          ? null
          : await world.share(name, more.percent ?? 10, {
              pool,
              hash: block.hash,
              bits: more.bits ?? EASY_BITS,
            });
      node.submit(block);
      const found = { block, hash: block.hash, seq };
      if (more.isRecorded !== false) await world.record(found, name, { pool });
      return found;
    },
    async record({ block }, name, more = {}) {
      await recordCandidate(db, {
        jobId: '1a',
        headerHash: block.hash,
        header: block.header,
        coinbase: more.coinbase ?? encodeTx(block.txs[0]!.tx, { witness: false }),
        height: block.height,
        account: known(name),
        worker: 'rig',
        foundAtMs: nowMs,
        networkDifficulty: 1,
        rewardSats: 0n,
        pool: more.pool ?? 'main',
        planId: '',
      });
    },
    mine(count, on) {
      const blocks: NodeBlock[] = [];
      let previous = on;
      for (let at = 0; at < count; at++) {
        const block = node.makeBlock({
          outputs: [{ script: scriptOf('others'), valueSats: 50n * COIN }],
          ...(previous === undefined ? {} : { previous }),
        });
        node.submit(block);
        if (previous !== undefined) previous = block;
        blocks.push(block);
      }
      return blocks;
    },
    start(options = {}, more = {}) {
      return createCycle(
        {
          clock,
          log,
          db: more.db ?? db,
          bus,
          meter: createMeter(),
          fault: more.fault ?? (() => {}),
          openRpc: (address) => node.openDoor(address.name),
        },
        {
          network: 'regtest',
          nodes: (more.nodes ?? ['node']).map((name) => ({ name, url: 'http://127.0.0.1:1/' })),
          pools,
          policy: null,
          ppsIntervalMs: 0,
          ...options,
        },
      );
    },
    async balance(kind, who = {}) {
      const [row] = await db.query<{ balance: bigint }>(
        `SELECT coalesce(sum(balance), 0) AS balance FROM ledger_accounts LEFT JOIN accounts USING (account_id)
         WHERE kind = $1 AND ($2::text IS NULL OR address = $2) AND ($3::text IS NULL OR pool = $3)`,
        [
          kind,
          who.address ?? (who.name === undefined ? null : addressOf(who.name)),
          who.pool ?? null,
        ],
      );
      return row!.balance;
    },
    async balances() {
      const rows = await db.query<{
        kind: string;
        pool: string;
        address: string | null;
        balance: bigint;
      }>(
        `SELECT kind, pool, address, balance FROM ledger_accounts LEFT JOIN accounts USING (account_id)
         WHERE balance <> 0`,
      );
      return Object.fromEntries(
        rows
          .map(({ kind, pool, address, balance }): [string, bigint] => [
            [kind, pool, address === null ? '' : nameOf(address)]
              .filter((part) => part !== '')
              .join(' '),
            balance,
          ])
          .sort(([a], [b]) => (a < b ? -1 : 1)),
      );
    },
    async rounds() {
      return db.query(
        'SELECT height, generation, state, scheme FROM rounds ORDER BY height, block_hash, generation',
      );
    },
    async audit() {
      const audit = await auditLedger(db);
      assert.equal(audit.ok, true, String(audit.ok ? '' : audit.findings));
      for (const { roundId } of await listRounds(db, { limit: 1_000 }))
        await verifyRound(db, roundId);
    },
    spoil() {
      isSound = false;
    },
    async close() {
      if (isClosed) return;
      isClosed = true;
      if (isSound) await world.audit();
      await db.stop();
      // The server stops all its databases at the end.
      db.stop = async () => {};
    },
  };
  return world;
}

/** The statement that can be made of a recorded round has the recorded root, and verifies against the shares. */
async function verifyRound(db: Db, roundId: bigint): Promise<void> {
  const round = await readRound(db, roundId);
  assert.ok(round);
  const { pool, scheme, height, bits, foundAtMs, rewardSats, operatorSats, developerSats } = round;
  const statement = makeStatement({
    statementVersion: round.statementVersion,
    pool,
    scheme,
    network: 'regtest',
    block: { hashDisplay: encodeHexReversed(round.blockHash), height, bits, foundAtMs },
    window: round,
    rewardSats,
    operatorSats,
    developerSats,
    credits: round.credits,
  });
  assert.equal(statement.root.hash, encodeHex(round.root), `root of round ${roundId}`);
  const shares: ExportedShare[] = [];
  for await (const share of readWindowShares(db, round)) shares.push(share);
  // Rounds that count nobody's shares say so by an empty window.
  const isCounted = round.firstSeq <= round.lastSeq;
  assert.deepEqual(verifyStatement(statement, isCounted ? shares : undefined), { ok: true });
}

/** Always works: what `run` asks between steps. */
export const active = (): boolean => true;

/**
 * Who gets what of a reward, worked out satoshi by satoshi from the shares themselves: the window from the newest share backwards, fees
 * first, then one division and the left-over to the largest remainders, ties to the first address. `shares` oldest first, in units of work.
 */
export function oracleSplit(facts: {
  shares: readonly { name: string; work: bigint }[];
  wanted: bigint | null;
  rewardSats: bigint;
  feePpm: (name: string) => number;
  donationPpm?: (name: string) => number;
}): { credits: Map<string, bigint>; operator: bigint; developer: bigint } {
  let left = facts.wanted;
  const work = new Map<string, bigint>();
  for (const share of facts.shares.toReversed()) {
    const taken = left === null || share.work < left ? share.work : left;
    if (left !== null) left -= taken;
    work.set(share.name, (work.get(share.name) ?? 0n) + taken);
  }
  const names = [...work.keys()].filter((name) => work.get(name)! > 0n);
  const total = names.reduce((sum, name) => sum + work.get(name)!, 0n);
  const donationOf = facts.donationPpm ?? (() => 0);
  const part = (rate: (name: string) => number): bigint =>
    (facts.rewardSats *
      names.reduce((sum, name) => sum + work.get(name)! * BigInt(rate(name)), 0n)) /
    (total * 1_000_000n);
  const operator = part(facts.feePpm);
  const developer = part(donationOf);
  const rest = facts.rewardSats - operator - developer;
  const weight = (name: string): bigint =>
    work.get(name)! * BigInt(1_000_000 - facts.feePpm(name) - donationOf(name));
  const weights = names.reduce((sum, name) => sum + weight(name), 0n);
  const credits = new Map(names.map((name) => [name, (rest * weight(name)) / weights]));
  let given = [...credits.values()].reduce((sum, sats) => sum + sats, 0n);
  const byRemainder = names.toSorted((a, b) => {
    const difference = ((rest * weight(b)) % weights) - ((rest * weight(a)) % weights);
    if (difference !== 0n) return difference > 0n ? 1 : -1;
    return addressOf(a) < addressOf(b) ? -1 : 1;
  });
  for (let at = 0; given < rest; at++) {
    const name = byRemainder[at]!;
    credits.set(name, credits.get(name)! + 1n);
    given += 1n;
  }
  return { credits, operator, developer };
}
