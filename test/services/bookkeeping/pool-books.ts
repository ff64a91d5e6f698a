/**
 * A pool's books for tests, made through the stores that the services use: shares, a block, its round and its postings, in the real
 * database.
 */
import { encodeAddress } from '../../../src/core/bitcoin/address.ts';
import { decodeHex, encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import { networkWorkOfBits } from '../../../src/core/ledger/reward.ts';
import type { PoolRules, Scheme } from '../../../src/core/ledger/rules.ts';
import { SCHEMES } from '../../../src/core/ledger/schemes.ts';
import { expandSplits } from '../../../src/core/ledger/shares.ts';
import {
  makeStatement,
  type RoundStatement,
  STATEMENT_VERSION,
  type StatementVersion,
  sortCredits,
} from '../../../src/core/ledger/statement.ts';
import type { ShareRecord } from '../../../src/messages/share.ts';
import type { Db } from '../../../src/ports.ts';
import { type Desk, EXIT, type ExitCode } from '../../../src/services/bookkeeping/desk.ts';
import { runLedgerCommand } from '../../../src/services/bookkeeping/ledger.ts';
import { runPayoutCommand } from '../../../src/services/bookkeeping/payouts.ts';
import { runVerifyRound } from '../../../src/services/bookkeeping/rounds.ts';
import { findOrMakeAccounts } from '../../../src/store/accounts.ts';
import { recordCandidate } from '../../../src/store/blocks.ts';
import { type LedgerAccount, type LedgerKind, postLedger } from '../../../src/store/ledger.ts';
import { recordRound, setRoundState } from '../../../src/store/rounds.ts';
import { makeSharePartitions, recordShares } from '../../../src/store/shares.ts';
import { readWindow } from '../../../src/store/windows.ts';
import { POLICY } from '../../tools/payer-rig.ts';

export const NOON_MS = Date.UTC(2026, 10, 21, 12);
/** Difficulty 1. */
const BITS = 0x1d00ffff;

/** A regtest address that nobody else has. */
export function addressOf(number: number): string {
  const script = new Uint8Array(22).fill(number + 1);
  script.set([0x00, 0x14]);
  script[21] = 0x5a;
  return encodeAddress(script, 'regtest')!;
}

export const MAIN: PoolRules = {
  id: 'main',
  scheme: 'pplns',
  window: { kind: 'work', factorPpm: 2_000_000n },
  feePpm: 10_000,
  feeAddress: null,
  developerFeePpm: 0,
  developerAddress: null,
  address: addressOf(99),
  ruinPpmMax: 10_000,
  onRuin: 'refuse',
};

function hashOf(number: number): Uint8Array {
  const hash = new Uint8Array(32).fill(0xa5);
  new DataView(hash.buffer).setUint32(0, number);
  return hash;
}

/** Shares of the pool, numbered from `from`; the difficulty grows so that no two windows end evenly. */
export async function mine(
  db: Db,
  shares: { from: number; count: number; accounts: readonly string[]; pool?: string },
): Promise<void> {
  await makeSharePartitions(db, { nowMs: NOON_MS, aheadDays: 1 });
  const { from, count, accounts } = shares;
  const records = Array.from({ length: count }, (_, at): ShareRecord => {
    const number = from + at;
    return {
      headerHash: hashOf(number),
      jobId: '1a',
      extranonce1: new Uint8Array(4),
      extranonce2: new Uint8Array(8),
      ntime: 1,
      nonce: number,
      version: 0x20000000,
      difficulty: 0.007 + (number % 11) / 1000,
      shareDifficulty: 1,
      account: accounts[number % accounts.length]!,
      worker: 'rig',
      sessionId: 's',
      gateway: 'g',
      height: 100,
      acceptedAtMs: NOON_MS + number * 10,
      isBlock: false,
      pool: shares.pool ?? 'main',
      networkBits: BITS,
      jobValueSats: 312_500_000n,
      planId: '',
      coinbaseBytes: 0,
    };
  });
  await recordShares(
    db,
    records.map((share) => ({ share, audited: true })),
  );
}

/** A block at `height` found by share `seq`, credited to its window. Answers its hash as people write it, and its statement. */
export async function credit(
  db: Db,
  block: {
    height: number;
    seq: bigint;
    rewardSats: bigint;
    finder: string;
    scheme?: Exclude<Scheme, 'pool'>;
    donationPpm?: number;
    window?: PoolRules['window'];
    statementVersion?: StatementVersion;
  },
): Promise<{ hash: string; statement: RoundStatement; roundId: bigint }> {
  const { height, seq, rewardSats } = block;
  const scheme = block.scheme ?? 'pplns';
  const statementVersion = block.statementVersion ?? STATEMENT_VERSION;
  const blockHash = hashOf(1_000_000 + height);
  const foundAtMs = NOON_MS + Number(seq - 1n) * 10;
  await recordCandidate(db, {
    headerHash: blockHash,
    header: new Uint8Array(80),
    coinbase: new Uint8Array(100),
    height,
    account: block.finder,
    worker: 'rig',
    jobId: '1a',
    foundAtMs,
    networkDifficulty: 1,
    rewardSats,
    pool: 'main',
    planId: '',
  });
  const span = SCHEMES[scheme].span({
    seq,
    foundAtMs,
    networkWork: networkWorkOfBits(BITS),
    previousSeq: 0n,
    window: block.window ?? MAIN.window,
  });
  const window =
    span === null ? null : await readWindow(db, { pool: 'main', lastSeq: seq, span, afterSeq: 0n });
  const bounds = window ?? {
    firstSeq: seq + 1n,
    lastSeq: seq,
    boundary: null,
    totalWork: 0n,
    wantedWork: null,
    afterMs: null,
    accounts: [],
  };
  return db.transaction(async (tx) => {
    const parts = bounds.accounts.flatMap(({ address }) =>
      address.split(',').map((part) => part.replace(/\*.*$/, '')),
    );
    const ids = await findOrMakeAccounts(tx, parts, NOON_MS);
    const members = expandSplits(bounds.accounts, (address) => ids.get(address)!).map((member) => ({
      ...member,
      feePpm: MAIN.feePpm,
      donationPpm: block.donationPpm ?? 0,
    }));
    const { credits, operatorSats, developerSats, reserveSats } = SCHEMES[scheme].credit(
      rewardSats,
      sortCredits(statementVersion, members),
    );
    const statement = makeStatement({
      statementVersion,
      pool: 'main',
      scheme,
      network: 'regtest',
      block: { hashDisplay: encodeHexReversed(blockHash), height, bits: BITS, foundAtMs },
      window: bounds,
      rewardSats,
      operatorSats,
      developerSats,
      credits,
    });
    const entries: { account: LedgerAccount; sats: bigint }[] = [
      { account: { kind: 'chain' }, sats: -rewardSats },
      { account: { kind: 'operator-immature' }, sats: operatorSats },
      { account: { kind: 'developer-immature' }, sats: developerSats },
      { account: { kind: 'reserve-immature', pool: 'main' }, sats: reserveSats },
      ...credits.map(({ accountId, creditSats }) => ({
        account: { kind: 'miner-immature' as const, accountId },
        sats: creditSats,
      })),
    ];
    const hash = encodeHexReversed(blockHash);
    const { txSeq } = await postLedger(tx, {
      key: `credit:${hash}:0`,
      kind: 'credit',
      atMs: foundAtMs,
      actor: 'payoutd',
      blockHash,
      entries,
    });
    const { roundId } = await recordRound(tx, {
      blockHash,
      generation: 0,
      pool: 'main',
      scheme,
      height,
      rewardSats,
      operatorSats,
      developerSats,
      ...bounds,
      bits: BITS,
      foundAtMs,
      creditedAtMs: foundAtMs,
      root: decodeHex(statement.root.hash)!,
      statementVersion,
      // Rounds of version 1 did not keep it.
      afterMs: statementVersion === 1 ? null : bounds.afterMs,
      creditTx: txSeq,
      credits: credits.map((one) => ({ ...one, paidSats: null })),
    });
    return { hash, statement, roundId };
  });
}

/** Makes what a round credited spendable. */
export async function mature(
  db: Db,
  round: { hash: string; statement: RoundStatement; roundId: bigint },
): Promise<void> {
  const { statement, roundId } = round;
  await db.transaction(async (tx) => {
    const ids = await findOrMakeAccounts(
      tx,
      statement.credits.map(({ address }) => address),
      NOON_MS,
    );
    const entries: { account: LedgerAccount; sats: bigint }[] = [];
    const move = (kind: 'miner' | 'operator' | 'developer', sats: bigint, accountId?: bigint) => {
      const whose = accountId === undefined ? {} : { accountId };
      const immature: LedgerKind = `${kind}-immature`;
      entries.push({ account: { kind: immature, ...whose }, sats: -sats });
      entries.push({ account: { kind, ...whose }, sats });
    };
    move('operator', BigInt(statement.operatorSats));
    move('developer', BigInt(statement.developerSats));
    for (const { address, creditSats } of statement.credits) {
      move('miner', BigInt(creditSats), ids.get(address)!);
    }
    const { txSeq } = await postLedger(tx, {
      key: `mature:${round.hash}:0`,
      kind: 'mature',
      atMs: NOON_MS + 1,
      actor: 'payoutd',
      entries,
    });
    await setRoundState(tx, { roundId, from: 'immature', to: 'mature', txSeq });
  });
}

/** What a command printed and how it ended. */
export type Said = { exitCode: ExitCode; out: string[]; faults: string[]; asked: string[] };

/** Somebody at a desk. `answers`: what is said to a question; none is no. */
export function sitAt(
  db: Db | Error,
  given: Partial<Pick<Desk, 'pools' | 'policy' | 'clock' | 'actor' | 'print' | 'wallet'>> & {
    answer?: boolean;
  } = {},
): {
  ledger(...argv: string[]): Promise<Said>;
  payout(...argv: string[]): Promise<Said>;
  verify(...argv: string[]): Promise<Said>;
} {
  const run =
    (command: (desk: Desk, argv: readonly string[]) => Promise<ExitCode>) =>
    async (...argv: string[]): Promise<Said> => {
      const said: Said = { exitCode: EXIT.done, out: [], faults: [], asked: [] };
      said.exitCode = await command(
        {
          openDb: async () => {
            if (db instanceof Error) throw db;
            return db;
          },
          print: given.print ?? ((line) => said.out.push(line)),
          complain: (line) => said.faults.push(line),
          confirm: async (question) => {
            said.asked.push(question);
            return given.answer ?? false;
          },
          clock: given.clock ?? { nowMs: () => NOON_MS + 60_000 },
          network: 'regtest',
          pools: given.pools ?? [MAIN],
          policy: given.policy === undefined ? POLICY : given.policy,
          actor: given.actor ?? 'ada',
          wallet: given.wallet ?? null,
        },
        argv,
      );
      return said;
    };
  return {
    ledger: run(runLedgerCommand),
    payout: run(runPayoutCommand),
    verify: run(runVerifyRound),
  };
}
