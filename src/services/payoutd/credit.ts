/**
 * From a block of ours in the chain to its round: the window of shares, the reward that our coinbase really paid, credits exact to the
 * satoshi, one posting and one record, in one database transaction. Then mature, or taken back when the block is orphaned, and credited
 * again in a new generation when it comes back.
 *
 * Everything is read before the transaction and can only be the same when read again: the share log below the finding share, the block,
 * the history of schemes. The posting's key is the block and the generation, so that repeating after a lost commit changes nothing, and of
 * two that credit at once the second finds the round there.
 *
 * In PROP a share is paid by one block. Blocks are in the order of their finding shares, whichever is heard of first: one that comes late
 * takes its shares out of the round that has them, which is taken back and credited anew with what is left, as long as it is immature.
 *
 * Refused: a block whose record, finding share or coinbase is not there yet (it waits); a coinbase that pays nothing to where it should
 * (an alarm: a person must look).
 */
import { decodeAddress, encodeAddress } from '../../core/bitcoin/address.ts';
import { decodeHex, encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { decodeHeader } from '../../core/bitcoin/header.ts';
import type { Network } from '../../core/bitcoin/network.ts';
import type { TxOutput } from '../../core/bitcoin/tx.ts';
import { type DirectCarry, directCarry } from '../../core/ledger/carry.ts';
import { networkWorkOfBits } from '../../core/ledger/reward.ts';
import type { RoundMember } from '../../core/ledger/round.ts';
import type { PoolRules, Scheme, ShareWindow } from '../../core/ledger/rules.ts';
import type { SchemeResult, SchemeRule } from '../../core/ledger/schemes/scheme.ts';
import { SCHEMES } from '../../core/ledger/schemes.ts';
import {
  makeStatement,
  STATEMENT_VERSION,
  type StatementVersion,
  sortCredits,
} from '../../core/ledger/statement.ts';
import type { Clock, Db, Fault, Log } from '../../ports.ts';
import { findOrMakeAccounts } from '../../store/accounts.ts';
import {
  type KnownFind,
  type LastRound,
  readEntries,
  readLastRound,
} from '../../store/crediting.ts';
import { lockLedger, type Posting, postLedger, reverseLedger } from '../../store/ledger.ts';
import {
  listPropOverlaps,
  type NewRound,
  type RoundCreditRow,
  readRound,
  recordRound,
  type StandingRound,
  setRoundState,
} from '../../store/rounds.ts';
import { findShareSeq, lastSeqAtOrBefore, readWindow } from '../../store/windows.ts';
import type { Alarms } from './alarms.ts';
import { type ChainTip, readCoinbase } from './chain.ts';
import type { LogProgress } from './log-progress.ts';
import { membersOf } from './members.ts';
import { isLater, type PropBounds, propBounds } from './prop.ts';
import type { SchemeBook } from './scheme-book.ts';

export type CreditTools = {
  clock: Clock;
  log: Log;
  db: Db;
  fault: Fault;
  alarms: Alarms;
  schemes: SchemeBook;
  progress: LogProgress;
  /** Whether this process is still the one that works; asked between blocks. */
  isActive: () => boolean;
};

export type CreditOptions = { network: Network; pools: readonly PoolRules[] };

/** `waiting`: something is not there yet; asked again in the next cycle. `nothing`: the ledger has no part in this block. */
export type CreditAnswer =
  /** `displaced`: blocks whose rounds counted shares of this one and were taken back; they are to be credited again. */
  | { kind: 'credited'; roundId: bigint; displaced: readonly Uint8Array[] }
  | { kind: 'waiting'; reason: string }
  | { kind: 'nothing' };

/** A find whose record has arrived. */
export type RecordedFind = KnownFind & {
  header: Uint8Array;
  coinbase: Uint8Array;
  account: string;
  foundAtMs: number;
};

type Tx = Pick<Db, 'query'>;

const ACTOR = 'payoutd';
/** What a coinbase outside a window's work is weighed with: any number that splits well. */
const LONE_WORK = 1_000_000n;

/** What the round of a block counts and pays; the same whenever it is worked out. */
type RoundBasis = {
  rules: PoolRules;
  scheme: Exclude<Scheme, 'pool'>;
  window: Omit<ShareWindow, 'shares' | 'accounts'>;
  members: RoundMember[];
  statementVersion: StatementVersion;
  /** See `PropBounds`. */
  rivals: ReadonlySet<string>;
};

/**
 * Credits a find that stands in the best chain of `tip`, in the generation after its last. `isOlderWaiting`: a lower block of the same
 * pool is in the chain and not credited yet.
 */
export async function creditFind(
  tools: CreditTools,
  options: CreditOptions,
  task: CreditTask,
): Promise<CreditAnswer> {
  const { tip, find } = task;
  const { alarms, log } = tools;
  const name = encodeHexReversed(find.hash);
  const alarmKey = `block:${name}`;
  const generation = find.round === null ? 0 : find.round.generation + 1;
  const rules = options.pools.find(({ id }) => id === find.pool);
  if (rules === undefined) {
    alarms.raise(
      alarmKey,
      `block ${name} was found by pool "${find.pool}", which is not configured: it is not credited until it is`,
    );
    return { kind: 'waiting', reason: 'its pool is not configured' };
  }
  if (find.round !== null && find.round.reversedBy === 'loss') return restore(tools, find);
  const basis = await basisOf(tools, task, rules);
  if ('kind' in basis) return basis;

  const coinbase = await readCoinbase(tip.rpc, find.hash, find.coinbase);
  if (coinbase.kind === 'unknown') {
    alarms.raise(
      `coinbase:${name}`,
      `block ${name} cannot be credited: what its coinbase pays is not known (${coinbase.reason})`,
    );
    return { kind: 'waiting', reason: coinbase.reason };
  }
  alarms.clear(`coinbase:${name}`);
  if (coinbase.kind === 'stored')
    log.warn('the coinbase of a block comes from our own record, checked by its hash', {
      block: name,
      reason: coinbase.reason,
    });

  const settled = await settle(tools, options, { find, basis, outputs: coinbase.outputs });
  if (!settled.ok) {
    alarms.raise(alarmKey, `block ${name} is not credited: ${settled.reason}`);
    return { kind: 'waiting', reason: settled.reason };
  }
  alarms.clear(alarmKey);
  const { posting, round } = settled.make(generation);
  const recorded = await record(tools, { find, posting, round, rivals: basis.rivals });
  if (recorded === 'there') return { kind: 'waiting', reason: 'another process has credited it' };
  if (recorded === 'paid')
    return { kind: 'waiting', reason: 'another process has credited some of its shares' };
  const { roundId, displaced } = recorded;
  log.info('a block is credited', {
    block: name,
    height: find.height,
    pool: find.pool,
    scheme: basis.scheme,
    generation,
    rewardSats: String(round.rewardSats),
    accounts: round.credits.length,
  });
  for (const hash of displaced)
    log.warn('a later block had been credited with shares of this one; it is credited anew', {
      block: name,
      later: encodeHexReversed(hash),
    });
  return { kind: 'credited', roundId, displaced };
}

/** Which shares count. A block that comes back counts what it counted before, less what others have been paid for since. */
async function basisOf(
  tools: CreditTools,
  task: CreditTask,
  rules: PoolRules,
): Promise<RoundBasis | Exclude<CreditAnswer, { kind: 'credited' }>> {
  const { db, schemes } = tools;
  const { find } = task;
  if (find.round !== null) return basisAgain(tools, task, rules, find.round);
  const share = await findShareSeq(db, find.hash, find.foundAtMs);
  if (share === null && !(await tools.progress.isPast(find.foundAtMs)))
    return { kind: 'waiting', reason: 'its finding share is not in the share log yet' };
  const seq = share?.seq ?? (await lastSeqAtOrBefore(db, find.foundAtMs));
  const counted = schemes.at(find.pool, seq);
  if (counted === null)
    return { kind: 'waiting', reason: 'the scheme of its pool is not known yet' };
  const { scheme } = counted;
  if (scheme === 'pool') return { kind: 'nothing' };
  const rule = SCHEMES[scheme];
  if (rule.settles === 'reserve' && !(await schemes.isSettledThrough(rules, seq)))
    return { kind: 'waiting', reason: 'shares before it are not paid yet' };
  if (scheme === 'prop' && task.isOlderWaiting) return OLDER_WAITS;
  const bounds =
    scheme === 'prop'
      ? await propBounds(tools, { ...task, seq })
      : { previousSeq: 0n, lastSeq: seq, rivals: new Set<string>() };
  if (bounds === null) return END_UNKNOWN;
  if (share === null)
    tools.log.warn('the finding share of a block was not credited; its window ends before it', {
      block: encodeHexReversed(find.hash),
      lastSeq: String(seq),
    });
  // Nobody's share ends a window that has no finding share: in solo it is the finder's all the same.
  const isEmpty = scheme === 'solo' && share === null;
  return count(tools, find, rules, { scheme, bounds, afterSeq: counted.afterSeq, isEmpty });
}

/** Reads a window and says who takes part in it. Nothing at or before `afterSeq` counts. */
async function count(
  tools: CreditTools,
  find: RecordedFind,
  rules: PoolRules,
  facts: { scheme: RoundBasis['scheme']; bounds: PropBounds; afterSeq: bigint; isEmpty: boolean },
): Promise<RoundBasis> {
  const { db, clock } = tools;
  const { scheme, bounds, afterSeq } = facts;
  const { previousSeq, lastSeq, rivals } = bounds;
  const rule = SCHEMES[scheme];
  const span = rule.span({
    seq: lastSeq,
    foundAtMs: find.foundAtMs,
    networkWork: networkWorkOfBits(bitsOf(find)),
    previousSeq,
    window: rules.window,
  });
  const read =
    span === null || facts.isEmpty
      ? emptyWindow(lastSeq)
      : await readWindow(db, {
          pool: find.pool,
          lastSeq,
          span,
          afterSeq: afterSeq > 0n ? afterSeq : 0n,
        });
  const { accounts, shares: _shares, ...window } = read;
  // What the coinbase paid must be earned by somebody: without any work it is the finder.
  const isLone = rule.settles === 'coinbase' && window.totalWork === 0n;
  if (isLone) window.totalWork = LONE_WORK;
  const atMs = clock.nowMs();
  const worked = isLone
    ? [{ accountId: await accountOf(tools, find.account), address: find.account, work: LONE_WORK }]
    : accounts;
  const members = await membersOf(db, rules, scheme, worked, atMs);
  return { rules, scheme, window, members, statementVersion: STATEMENT_VERSION, rivals };
}

/** Of a block that was credited before and was taken back. */
async function basisAgain(
  tools: CreditTools,
  task: CreditTask,
  rules: PoolRules,
  last: LastRound,
): Promise<RoundBasis | Waiting> {
  const before = await readRound(tools.db, last.roundId);
  if (before === null) throw new Error(`round ${last.roundId} has gone`);
  const { scheme, statementVersion, firstSeq, lastSeq, boundary } = before;
  const { wantedWork, afterMs, totalWork } = before;
  let rivals: ReadonlySet<string> = new Set();
  if (scheme === 'prop') {
    if (task.isOlderWaiting) return OLDER_WAITS;
    const bounds = await propBounds(tools, { ...task, seq: lastSeq });
    if (bounds === null) return END_UNKNOWN;
    if (bounds.previousSeq >= firstSeq || bounds.lastSeq < lastSeq)
      return count(tools, task.find, rules, {
        scheme,
        bounds,
        afterSeq: firstSeq - 1n,
        isEmpty: false,
      });
    rivals = bounds.rivals;
  }
  return {
    rules,
    scheme,
    statementVersion,
    window: { firstSeq, lastSeq, boundary, wantedWork, afterMs, totalWork },
    // Those the coinbase paid without any work are found again in the coinbase.
    members: before.credits.filter(({ work }) => work > 0n),
    rivals,
  };
}

type CreditTask = { tip: ChainTip; find: RecordedFind; isOlderWaiting: boolean };
type Waiting = { kind: 'waiting'; reason: string };
const OLDER_WAITS: Waiting = { kind: 'waiting', reason: 'a block before it is not credited yet' };
const END_UNKNOWN: Waiting = {
  kind: 'waiting',
  reason: 'where the round before it ended is not known yet',
};

type Settled =
  | { ok: true; make(generation: number): { posting: Posting | null; round: NewRound } }
  | { ok: false; reason: string };

/** From outputs and members to posting and record. */
async function settle(
  tools: CreditTools,
  options: CreditOptions,
  facts: { find: RecordedFind; basis: RoundBasis; outputs: readonly TxOutput[] },
): Promise<Settled> {
  const { find, basis, outputs } = facts;
  const { rules, scheme, window, statementVersion } = basis;
  const rule: SchemeRule = SCHEMES[scheme];
  const nowMs = tools.clock.nowMs();
  const reward = rewardOf(rule, rules, options.network, outputs);
  if (!reward.ok) return reward;
  const { rewardSats } = reward;
  if (reward.elsewhereSats > 0n)
    tools.log.warn('a coinbase of ours also pays others', {
      block: encodeHexReversed(find.hash),
      elsewhereSats: String(reward.elsewhereSats),
    });
  const result = rule.credit(rewardSats, sortCredits(statementVersion, basis.members));
  const [feeAccount, developerAccount] = await Promise.all([
    rules.feeAddress === null ? null : accountOf(tools, rules.feeAddress),
    rules.developerAddress === null ? null : accountOf(tools, rules.developerAddress),
  ]);
  let credits: (RoundCreditRow & { address: string })[];
  let entries: Posting['entries'];
  if (rule.settles === 'coinbase') {
    const carried = await carryOf(tools, options, {
      basis,
      result,
      outputs,
      feeAccount,
      developerAccount,
    });
    if (!carried.ok) return carried;
    credits = carried.credits;
    entries = coinbaseEntries(carried.rows, find.pool, rewardSats, scheme === 'direct');
  } else {
    credits = result.credits.map((credit) => ({ ...credit, paidSats: null }));
    entries = ledgerEntries(result, find.pool, rewardSats, feeAccount, developerAccount);
  }
  const bits = bitsOf(find);
  const hashDisplay = encodeHexReversed(find.hash);
  const statement = makeStatement({
    statementVersion,
    pool: find.pool,
    scheme,
    network: options.network,
    block: { hashDisplay, height: find.height, bits, foundAtMs: find.foundAtMs },
    window,
    rewardSats,
    operatorSats: result.operatorSats,
    developerSats: result.developerSats,
    credits,
  });
  const root = decodeHex(statement.root.hash);
  if (root === null) throw new Error('the root of a statement is no hash');
  return {
    ok: true,
    make: (generation) => ({
      posting:
        entries.length === 0
          ? null
          : {
              key: `${rule.settles === 'reserve' ? 'reserve' : 'credit'}:${hashDisplay}:${generation}`,
              kind:
                rule.settles === 'reserve'
                  ? 'reserve'
                  : rule.settles === 'coinbase'
                    ? 'direct'
                    : 'credit',
              atMs: nowMs,
              actor: ACTOR,
              blockHash: find.hash,
              entries,
            },
      round: {
        blockHash: find.hash,
        generation,
        pool: find.pool,
        scheme,
        height: find.height,
        rewardSats,
        operatorSats: result.operatorSats,
        developerSats: result.developerSats,
        ...window,
        bits,
        foundAtMs: find.foundAtMs,
        creditedAtMs: nowMs,
        root,
        statementVersion,
        creditTx: null,
        credits,
      },
    }),
  };
}

/** What the block brought the pool: all outputs where the coinbase pays everybody, else those to the pool's own address. */
function rewardOf(
  rule: SchemeRule,
  rules: PoolRules,
  network: Network,
  outputs: readonly TxOutput[],
): { ok: true; rewardSats: bigint; elsewhereSats: bigint } | { ok: false; reason: string } {
  const totalSats = outputs.reduce((sum, { valueSats }) => sum + valueSats, 0n);
  if (rule.settles === 'coinbase') return { ok: true, rewardSats: totalSats, elsewhereSats: 0n };
  const address = rules.address === null ? null : decodeAddress(rules.address, network);
  if (address === null || !address.ok)
    return { ok: false, reason: `pool "${rules.id}" has no address that its blocks pay` };
  const own = encodeHex(address.script);
  const rewardSats = outputs
    .filter(({ script }) => encodeHex(script) === own)
    .reduce((sum, { valueSats }) => sum + valueSats, 0n);
  if (rewardSats === 0n && totalSats > 0n)
    return {
      ok: false,
      reason: `its coinbase pays nothing to ${rules.address}; was the address of the pool changed?`,
    };
  return { ok: true, rewardSats, elsewhereSats: totalSats - rewardSats };
}

/** From the chain to those who earned it, immature. Nothing at all when the block paid nothing. */
function ledgerEntries(
  result: SchemeResult,
  pool: string,
  rewardSats: bigint,
  feeAccount: bigint | null,
  developerAccount: bigint | null,
): Posting['entries'] {
  if (rewardSats === 0n) return [];
  const fees = [
    { kind: 'operator-immature', accountId: feeAccount, sats: result.operatorSats },
    { kind: 'developer-immature', accountId: developerAccount, sats: result.developerSats },
  ] as const;
  return [
    { account: { kind: 'chain' }, sats: -rewardSats },
    ...result.credits.map(({ accountId, creditSats }) => ({
      account: { kind: 'miner-immature', accountId } as const,
      sats: creditSats,
    })),
    ...fees.map(({ kind, accountId, sats }) => ({
      account: accountId === null ? { kind } : ({ kind: 'miner-immature', accountId } as const),
      sats,
    })),
    { account: { kind: 'reserve-immature', pool }, sats: result.reserveSats },
  ];
}

/** What the coinbase itself paid, and in scheme direct what it owes or is owed after that. */
function coinbaseEntries(
  rows: readonly DirectCarry[],
  pool: string,
  rewardSats: bigint,
  hasCarry: boolean,
): Posting['entries'] {
  const entries: Posting['entries'] = [
    { account: { kind: 'chain' }, sats: -rewardSats },
    ...rows.map(({ accountId, paidSats }) => ({
      account: { kind: 'paid', accountId } as const,
      sats: paidSats,
    })),
    ...(hasCarry ? rows : []).map(({ accountId, carrySats }) => ({
      account: { kind: 'carry', pool, accountId } as const,
      sats: carrySats,
    })),
  ];
  return entries.filter(({ sats }) => sats !== 0n);
}

type Carried =
  | { ok: true; credits: (RoundCreditRow & { address: string })[]; rows: DirectCarry[] }
  | { ok: false; reason: string };

/** Who earned how much of a coinbase, and who was paid how much by it. */
async function carryOf(
  tools: CreditTools,
  options: CreditOptions,
  facts: {
    basis: RoundBasis;
    result: SchemeResult;
    outputs: readonly TxOutput[];
    feeAccount: bigint | null;
    developerAccount: bigint | null;
  },
): Promise<Carried> {
  const { network } = options;
  const { basis, result, feeAccount, developerAccount } = facts;
  const { rules, members } = basis;
  const paidOutputs = facts.outputs.filter(({ valueSats }) => valueSats > 0n);
  const paidAddresses: string[] = [];
  for (const { script } of paidOutputs) {
    const address = encodeAddress(script, network);
    if (address === null)
      return {
        ok: false,
        reason: `its coinbase pays script ${encodeHex(script)}, which is nobody's`,
      };
    paidAddresses.push(address);
  }
  const paidAccounts = await findOrMakeAccounts(tools.db, paidAddresses, tools.clock.nowMs());
  const scriptOf = (address: string): Uint8Array => {
    const decoded = decodeAddress(address, network);
    // An account that cannot be paid earns all the same; this is no script of any output.
    return decoded.ok ? decoded.script : new TextEncoder().encode(`unpayable ${address}`);
  };
  const earnings = result.credits.map(({ accountId, address, creditSats }) => ({
    accountId,
    script: scriptOf(address),
    earnedSats: creditSats,
  }));
  const fees = [
    { accountId: feeAccount, address: rules.feeAddress, earnedSats: result.operatorSats },
    {
      accountId: developerAccount,
      address: rules.developerAddress,
      earnedSats: result.developerSats,
    },
  ];
  for (const { accountId, address, earnedSats } of fees) {
    if (accountId !== null && address !== null)
      earnings.push({ accountId, script: scriptOf(address), earnedSats });
    else if (earnedSats > 0n)
      return { ok: false, reason: `pool "${rules.id}" has a fee and no address to pay it to` };
  }
  for (const [address, accountId] of paidAccounts)
    earnings.push({ accountId, script: scriptOf(address), earnedSats: 0n });
  const carry = directCarry(earnings, paidOutputs);
  if (!carry.ok) return carry;
  const paid = new Map(carry.rows.map(({ accountId, paidSats }) => [accountId, paidSats]));
  const known = new Set(members.map(({ accountId }) => accountId));
  const credits: (RoundCreditRow & { address: string })[] = result.credits.map((credit) => ({
    ...credit,
    paidSats: paid.get(credit.accountId) ?? 0n,
  }));
  for (const [address, accountId] of paidAccounts) {
    if (known.has(accountId)) continue;
    credits.push({
      accountId,
      address,
      work: 0n,
      feePpm: 0,
      donationPpm: 0,
      creditSats: 0n,
      paidSats: paid.get(accountId) ?? 0n,
    });
  }
  return { ok: true, credits, rows: carry.rows };
}

/**
 * Posting and record in one, after what counts the same shares was taken back. `there`: another process was first; `paid`: another one has
 * credited shares of it since they were read.
 */
async function record(
  { db, fault, clock }: CreditTools,
  task: {
    find: RecordedFind;
    posting: Posting | null;
    round: NewRound;
    rivals: RoundBasis['rivals'];
  },
): Promise<{ roundId: bigint; displaced: Uint8Array[] } | 'there' | 'paid'> {
  const { find, posting, round, rivals } = task;
  fault('credit.before');
  const answer = await db.transaction(async (tx) => {
    await lockLedger(tx);
    const last = await readLastRound(tx, find.hash);
    const isNext =
      last === null
        ? round.generation === 0
        : last.state === 'orphaned' && last.generation === round.generation - 1;
    if (!isNext) return 'there';
    const others = round.scheme === 'prop' ? await listPropOverlaps(tx, round) : [];
    const overlaps = others.filter(({ blockHash }) => !rivals.has(encodeHexReversed(blockHash)));
    const isPaid = (other: StandingRound): boolean =>
      other.state === 'mature' || !isLater(other, round);
    if (overlaps.some(isPaid)) return 'paid';
    const atMs = clock.nowMs();
    for (const other of overlaps) await takeBack(tx, other.blockHash, other, { atMs, fault });
    const posted = posting === null ? null : await postLedger(tx, posting);
    fault('credit.posted');
    const recorded = await recordRound(tx, { ...round, creditTx: posted?.txSeq ?? null });
    fault('credit.recorded');
    return {
      roundId: recorded.roundId,
      displaced: overlaps.map(({ blockHash }) => blockHash),
    };
  });
  fault('credit.committed');
  return answer;
}

/** Makes a round's credits spendable. False: it was not immature. */
export async function matureRound(
  { db, fault, clock, log }: CreditTools,
  find: KnownFind & { round: LastRound },
): Promise<boolean> {
  const { round } = find;
  const hashDisplay = encodeHexReversed(find.hash);
  const atMs = clock.nowMs();
  fault('mature.before');
  const isDone = await db.transaction(async (tx) => {
    await lockLedger(tx);
    const last = await readLastRound(tx, find.hash);
    if (last?.roundId !== round.roundId || last.state !== 'immature') return false;
    const credited = round.creditTx === null ? [] : await readEntries(tx, round.creditTx);
    const entries = credited.flatMap(({ account, sats }) => {
      const kind = MATURE_KINDS.get(account.kind);
      if (kind === undefined) return [];
      return [
        { account, sats: -sats },
        { account: { ...account, kind }, sats },
      ];
    });
    const posted =
      entries.length === 0
        ? null
        : await postLedger(tx, {
            key: `mature:${hashDisplay}:${round.generation}`,
            kind: 'mature',
            atMs,
            actor: ACTOR,
            blockHash: find.hash,
            entries,
          });
    fault('mature.posted');
    const txSeq = posted?.txSeq ?? null;
    return setRoundState(tx, { roundId: round.roundId, from: 'immature', to: 'mature', txSeq });
  });
  fault('mature.committed');
  if (isDone) log.info('the reward of a block is spendable', { block: hashDisplay });
  return isDone;
}

const MATURE_KINDS = new Map([
  ['miner-immature', 'miner'],
  ['operator-immature', 'operator'],
  ['developer-immature', 'developer'],
  ['reserve-immature', 'reserve'],
] as const) as ReadonlyMap<string, 'miner' | 'operator' | 'developer' | 'reserve'>;

/** Takes a round's credits back by counter-entries. False: its state was another. */
export async function orphanRound(
  { db, fault, clock, log }: CreditTools,
  find: KnownFind & { round: LastRound },
): Promise<boolean> {
  const { round } = find;
  const hashDisplay = encodeHexReversed(find.hash);
  const atMs = clock.nowMs();
  fault('orphan.before');
  const isDone = await db.transaction(async (tx) => {
    await lockLedger(tx);
    const last = await readLastRound(tx, find.hash);
    if (last?.roundId !== round.roundId || last.state !== round.state) return false;
    return takeBack(tx, find.hash, round, { atMs, fault });
  });
  fault('orphan.committed');
  if (isDone)
    log.warn('a block is orphaned; its credits are taken back', {
      block: hashDisplay,
      height: find.height,
    });
  return isDone;
}

/** Counters a standing round's posting and closes the round. Under the ledger's lock. */
async function takeBack(
  tx: Tx,
  hash: Uint8Array,
  round: Pick<LastRound, 'roundId' | 'generation' | 'creditTx' | 'state'>,
  { atMs, fault }: { atMs: number; fault: Fault },
): Promise<boolean> {
  const reversed =
    round.creditTx === null
      ? null
      : await reverseLedger(tx, {
          txSeq: round.creditTx,
          key: `orphan:${encodeHexReversed(hash)}:${round.generation}`,
          kind: 'orphan',
          atMs,
          actor: ACTOR,
        });
  fault('orphan.posted');
  const txSeq = reversed?.txSeq ?? null;
  return setRoundState(tx, { roundId: round.roundId, from: round.state, to: 'orphaned', txSeq });
}

/**
 * A block that was written off as a loss is in the chain again. Its credits were never taken from anybody, so the loss is taken back and
 * the round stands as it stood.
 */
async function restore(tools: CreditTools, find: RecordedFind): Promise<CreditAnswer> {
  const { db, clock, fault, log } = tools;
  const old = find.round as LastRound;
  const before = await readRound(db, old.roundId);
  if (before === null || old.reverseTx === null) throw new Error(`round ${old.roundId} has gone`);
  const hashDisplay = encodeHexReversed(find.hash);
  const generation = old.generation + 1;
  const atMs = clock.nowMs();
  const lossTx = old.reverseTx;
  fault('restore.before');
  const roundId = await db.transaction(async (tx) => {
    await lockLedger(tx);
    const last = await readLastRound(tx, find.hash);
    if (last?.roundId !== old.roundId || last.state !== 'orphaned') return null;
    const posted = await reverseLedger(tx, {
      txSeq: lossTx,
      key: `credit:${hashDisplay}:${generation}`,
      kind: 'loss',
      atMs,
      actor: ACTOR,
      reason: 'the block is in the chain again',
    });
    const recorded = await recordRound(tx, {
      ...before,
      generation,
      creditedAtMs: atMs,
      creditTx: posted.txSeq,
    });
    const { roundId } = recorded;
    await setRoundState(tx, { roundId, from: 'immature', to: 'mature', txSeq: null });
    return roundId;
  });
  fault('restore.committed');
  if (roundId === null) return { kind: 'waiting', reason: 'another process has restored it' };
  log.warn('a block that was written off is in the chain again; the loss is taken back', {
    block: hashDisplay,
  });
  return { kind: 'credited', roundId, displaced: [] };
}

async function accountOf({ db, clock }: CreditTools, address: string): Promise<bigint> {
  const accounts = await findOrMakeAccounts(db, [address], clock.nowMs());
  return accounts.get(address) as bigint;
}

/** The block's own compact bits. */
function bitsOf(find: RecordedFind): number {
  const header = decodeHeader(find.header);
  if (header === null) throw new Error(`the header of ${encodeHexReversed(find.hash)} is none`);
  return header.bits;
}

function emptyWindow(lastSeq: bigint): ShareWindow {
  return {
    firstSeq: lastSeq + 1n,
    lastSeq,
    boundary: null,
    wantedWork: null,
    afterMs: null,
    totalWork: 0n,
    shares: 0n,
    accounts: [],
  };
}
