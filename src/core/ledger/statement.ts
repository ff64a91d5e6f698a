/**
 * The published record of a round: which shares counted, what the block paid, who got how much of it and by which rule. JSON with
 * every large integer as a decimal string, so that anybody can recompute it with nothing else at hand.
 *
 * A Merkle-sum root (sum-tree.ts) commits to all of it. Its leaves, in order: the statement's own facts with the sum 0, what went
 * to operator, developer and reserve, then the credits in their order, which decides ties. A leaf's content is a JSON array of its
 * fields. A miner who knows the root needs only the steps from its own credit to check it.
 *
 * Version 2 stands in the order of the addresses, which is the same in every database, and says from which moment on shares count
 * where the window goes by time. Version 1 stood in the order of account ids and did not say it; it is made and checked as ever,
 * because what was published stays as it is.
 *
 * Refused by the decoder: everything that is not exactly this, also fields more than these. The check names every place where a
 * statement disagrees with itself, with the rules of its scheme, or with the shares.
 */

import { decodeHex, encodeHex } from '../bitcoin/bytes.ts';
import type { Network } from '../bitcoin/network.ts';
import { networkWorkOfBits } from './reward.ts';
import type { RoundCredit } from './round.ts';
import type { ExportedShare, Scheme, ShareWindow } from './rules.ts';
import { SCHEMES } from './schemes.ts';
import { decodeSplit, expandSplits } from './shares.ts';
import { creditErrorOf, formErrorOf, isRecord, rootErrorOf } from './statement-form.ts';
import { climbsTo, type SumLeaf, type SumNode, stepsOf, sumTree } from './sum-tree.ts';

/** New rounds have the newest; a round keeps the one that it was published in. */
export const STATEMENT_VERSION = 2;
export type StatementVersion = 1 | typeof STATEMENT_VERSION;

export type RoundStatement = {
  version: StatementVersion;
  pool: string;
  scheme: Scheme;
  network: Network;
  /** Hash as people write it; compact bits as eight hex digits. */
  block: { hash: string; height: number; bits: string; foundAtMs: number };
  window: {
    firstSeq: string;
    lastSeq: string;
    /** The share at the edge when only a part of its work counts. */
    boundary: { seq: string; work: string; countedWork: string } | null;
    totalWork: string;
    wantedWork: string | null;
    /** Where the window goes by time: nothing accepted at or before this moment counts. Not in version 1. */
    afterMs?: number | null;
    rule: string;
  };
  /** What our coinbase in the chain pays. */
  rewardSats: string;
  operatorSats: string;
  developerSats: string;
  /** PPS and FPPS: to the reserve that shares were paid from. */
  reserveSats: string;
  remainderRule: string;
  credits: StatementCredit[];
  root: { hash: string; sumSats: string };
};

export type StatementCredit = {
  address: string;
  work: string;
  feePpm: number;
  donationPpm: number;
  creditSats: string;
  /** Only where the coinbase itself pays: what it paid. */
  paidSats?: string;
};

/** That one credit stands in a statement with this root. */
export type CreditProof = {
  credit: StatementCredit;
  steps: { side: 'left' | 'right'; hash: string; sumSats: string }[];
};

/** About 500 characters for each of 100,000 credits. */
const STATEMENT_CHARACTERS_MAX = 50_000_000;
/** More disagreements than this are counted and not told. */
const FINDINGS_MAX = 100;

const MS_PER_DAY = 86_400_000;

const REMAINDER_RULE_1 =
  'operator: floor(reward * sum(work * fee) / (sum(work) * 10^6)); developer: the same with donation; ' +
  'all the rest to the credits in proportion to work * (10^6 - fee - donation), each the floor of its quota, ' +
  'what is left one satoshi each to the largest fractions, ties to the credit that stands first';
const REMAINDER_RULES: Readonly<Record<StatementVersion, string>> = {
  1: REMAINDER_RULE_1,
  2: `${REMAINDER_RULE_1}; credits stand in the order of their addresses`,
};

/**
 * The statement of a settled round, in the version it was or is published in. `credits` one per account; all of them have
 * `paidSats`, or none. What is neither credited nor operator's or developer's went to the reserve. The same facts give the same
 * statement, whenever it is made. Throws RangeError when more was given out than the reward.
 */
export function makeStatement(round: {
  statementVersion: StatementVersion;
  pool: string;
  scheme: Scheme;
  network: Network;
  block: { hashDisplay: string; height: number; bits: number; foundAtMs: number };
  window: Omit<ShareWindow, 'shares' | 'accounts'>;
  rewardSats: bigint;
  operatorSats: bigint;
  developerSats: bigint;
  credits: readonly (RoundCredit & { paidSats?: bigint | null })[];
}): RoundStatement {
  const { block, window, rewardSats, operatorSats, developerSats } = round;
  const { hashDisplay, height, foundAtMs } = block;
  const { boundary, wantedWork } = window;
  const version = round.statementVersion;
  const afterMs = version === 1 ? undefined : window.afterMs;
  const credits = sortCredits(version, round.credits);
  let reserveSats = rewardSats - operatorSats - developerSats;
  for (const { creditSats } of credits) reserveSats -= creditSats;
  if (reserveSats < 0n) throw new RangeError(`${-reserveSats} sat more than the reward`);
  const bits = block.bits.toString(16).padStart(8, '0');
  const unrooted = {
    version,
    pool: round.pool,
    scheme: round.scheme,
    network: round.network,
    block: { hash: hashDisplay, height, bits, foundAtMs },
    window: {
      firstSeq: window.firstSeq.toString(),
      lastSeq: window.lastSeq.toString(),
      boundary: boundary && {
        seq: boundary.seq.toString(),
        work: boundary.work.toString(),
        countedWork: boundary.countedWork.toString(),
      },
      totalWork: window.totalWork.toString(),
      wantedWork: wantedWork === null ? null : wantedWork.toString(),
      ...(afterMs === undefined ? {} : { afterMs }),
      rule: describeWindow(round.scheme, {
        wantedWork,
        networkWork: networkWorkOfBits(block.bits),
        spanMs: spanOf(foundAtMs, afterMs),
      }),
    },
    rewardSats: rewardSats.toString(),
    operatorSats: operatorSats.toString(),
    developerSats: developerSats.toString(),
    reserveSats: reserveSats.toString(),
    remainderRule: REMAINDER_RULES[version],
    credits: credits.map(
      ({ address, work, feePpm, donationPpm, creditSats, paidSats }): StatementCredit => ({
        address,
        work: work.toString(),
        feePpm,
        donationPpm,
        creditSats: creditSats.toString(),
        ...(typeof paidSats === 'bigint' ? { paidSats: paidSats.toString() } : {}),
      }),
    ),
  };
  return { ...unrooted, root: rootOf(unrooted) };
}

/** Members or credits of a round in the order in which its statement has them, which decides ties. */
export function sortCredits<T extends { accountId: bigint; address: string }>(
  version: StatementVersion,
  credits: readonly T[],
): T[] {
  return [...credits].sort((a, b) =>
    (version === 1 ? a.accountId < b.accountId : a.address < b.address) ? -1 : 1,
  );
}

/** A statement as the text that is published. */
export function encodeStatement(statement: RoundStatement): string {
  return `${JSON.stringify(statement, null, 1)}\n`;
}

/** Text → statement, checked for form only (`verifyStatement` checks what it says). Total. */
export function decodeStatement(
  text: string,
): { ok: true; statement: RoundStatement } | { ok: false; reason: string } {
  if (text.length > STATEMENT_CHARACTERS_MAX) return { ok: false, reason: 'the text is too long' };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { ok: false, reason: 'the text is no JSON' };
  }
  const wrong = formErrorOf(value);
  if (wrong !== null) return { ok: false, reason: wrong };
  return { ok: true, statement: value as RoundStatement };
}

/**
 * Recomputes a round from its statement, and from the shares when they are given: exactly those of the window, in the order of
 * their sequence numbers up or down, under the addresses of the accounts they were credited to. Total, whatever the object.
 */
export function verifyStatement(
  statement: RoundStatement,
  shares?: Iterable<ExportedShare>,
): { ok: true } | { ok: false; findings: string[] } {
  const wrong = formErrorOf(statement);
  if (wrong !== null) return { ok: false, findings: [wrong] };
  const findings = new Findings();
  checkWindow(statement, findings);
  checkAmounts(statement, findings);
  const root = rootOf(statement);
  findings.compare('root', statement.root.hash, root.hash);
  findings.compare('sum under the root', statement.root.sumSats, root.sumSats);
  if (shares !== undefined) checkShares(statement, shares, findings);
  return findings.answer();
}

/** The proof for the credit of an address; null when the statement has none. The statement must be one that verifies. */
export function proofOf(statement: RoundStatement, address: string): CreditProof | null {
  const at = statement.credits.findIndex((credit) => credit.address === address);
  if (at < 0) return null;
  const leaves = leavesOf(statement);
  const steps = stepsOf(leaves, leaves.length - statement.credits.length + at);
  return {
    credit: statement.credits[at]!,
    steps: steps.map((step) => ({ side: step.side, ...textOf(step) })),
  };
}

/** Whether a credit stands under a root with all amounts beside it in range. Total, whatever the objects. */
export function verifyProof(proof: CreditProof, root: RoundStatement['root']): boolean {
  if (creditErrorOf(proof?.credit) !== null || rootErrorOf(root) !== null) return false;
  if (!Array.isArray(proof.steps)) return false;
  const steps = [];
  for (const step of proof.steps) {
    if (!isRecord(step) || (step.side !== 'left' && step.side !== 'right')) return false;
    if (rootErrorOf({ hash: step.hash, sumSats: step.sumSats }) !== null) return false;
    steps.push({ side: step.side, ...nodeOf(step) });
  }
  return climbsTo(creditLeaf(proof.credit), steps, nodeOf(root));
}

/** How long before the find a window by time begins; null where it does not go by time, or does not say. */
function spanOf(foundAtMs: number, afterMs: number | null | undefined): number | null {
  return afterMs === null || afterMs === undefined ? null : foundAtMs - afterMs;
}

/** What counted, in words, from what a round's record holds. */
function describeWindow(
  scheme: Scheme,
  facts: { wantedWork: bigint | null; networkWork: bigint; spanMs: number | null },
): string {
  const { wantedWork, networkWork, spanMs } = facts;
  switch (scheme) {
    case 'pplns':
    case 'direct': {
      if (wantedWork === null && spanMs === null)
        return 'all shares accepted in the days before the find';
      if (wantedWork === null) {
        const days = (spanMs as number) / MS_PER_DAY;
        return `all shares accepted in the ${days} days before the find, ending with the finding share`;
      }
      const thousandths = (wantedWork * 1000n + networkWork / 2n) / networkWork;
      const factor = `${thousandths / 1000n}.${(thousandths % 1000n).toString().padStart(3, '0')}`;
      return (
        `the newest work up to ${factor} times the difficulty of the block, ending with the finding share; ` +
        'of the share at the edge only the part that is wanted; a window that is not full: what is there'
      );
    }
    case 'prop':
      return 'all shares since the block before this one';
    case 'solo':
      return 'the finding share';
    case 'pps':
    case 'fpps':
      return 'no shares: each was paid when it came';
    case 'pool':
      return 'no shares: this pool keeps no accounts';
  }
}

type Unrooted = Omit<RoundStatement, 'root'>;

function rootOf(statement: Unrooted): { hash: string; sumSats: string } {
  return textOf(sumTree(leavesOf(statement)));
}

function textOf({ hash, sumSats }: SumNode): { hash: string; sumSats: string } {
  return { hash: encodeHex(hash), sumSats: sumSats.toString() };
}

function nodeOf({ hash, sumSats }: { hash: string; sumSats: string }): SumNode {
  return { hash: decodeHex(hash)!, sumSats: BigInt(sumSats) };
}

function leavesOf(statement: Unrooted): SumLeaf[] {
  const { version, pool, scheme, network, block, window, rewardSats, remainderRule } = statement;
  const { boundary } = window;
  const facts = [
    ...['round', version, pool, scheme, network],
    ...[block.hash, block.height, block.bits, block.foundAtMs],
    ...[window.firstSeq, window.lastSeq],
    boundary && [boundary.seq, boundary.work, boundary.countedWork],
    ...[window.totalWork, window.wantedWork],
    ...(version === 1 ? [] : [window.afterMs]),
    window.rule,
    ...[rewardSats, remainderRule, statement.credits.length],
  ];
  return [
    { content: JSON.stringify(facts), sats: 0n },
    ...(['operator', 'developer', 'reserve'] as const).map((whose) => {
      const sats = statement[`${whose}Sats`];
      return { content: JSON.stringify([whose, sats]), sats: BigInt(sats) };
    }),
    ...statement.credits.map(creditLeaf),
  ];
}

function creditLeaf(credit: StatementCredit): SumLeaf {
  const { address, work, feePpm, donationPpm, creditSats, paidSats } = credit;
  const fields = ['credit', address, work, feePpm, donationPpm, creditSats, paidSats ?? null];
  return { content: JSON.stringify(fields), sats: BigInt(creditSats) };
}

/** Where a statement is wrong, as sentences. */
class Findings {
  readonly #told: string[] = [];
  #untold = 0;

  add(finding: string): void {
    if (this.#told.length < FINDINGS_MAX) this.#told.push(finding);
    else this.#untold += 1;
  }

  compare(what: string, stated: bigint | string | number, right: bigint | string | number): void {
    if (stated !== right) this.add(`${what}: ${stated} is stated, ${right} is right`);
  }

  answer(): { ok: true } | { ok: false; findings: string[] } {
    if (this.#told.length === 0) return { ok: true };
    const more = this.#untold === 0 ? [] : [`and ${this.#untold} more`];
    return { ok: false, findings: [...this.#told, ...more] };
  }
}

function checkWindow(statement: RoundStatement, findings: Findings): void {
  const { version, scheme, window, block, credits } = statement;
  const firstSeq = BigInt(window.firstSeq);
  const lastSeq = BigInt(window.lastSeq);
  const totalWork = BigInt(window.totalWork);
  const wantedWork = window.wantedWork === null ? null : BigInt(window.wantedWork);
  const networkWork = networkWorkOfBits(Number.parseInt(block.bits, 16));
  const spanMs = spanOf(block.foundAtMs, window.afterMs);
  const rule = describeWindow(scheme, { wantedWork, networkWork, spanMs });
  findings.compare('rule', window.rule, rule);
  findings.compare('remainder rule', statement.remainderRule, REMAINDER_RULES[version]);
  if (version !== 1) {
    checkTime(statement, spanMs, findings);
    if (credits.some(({ address }, at) => at > 0 && address <= credits[at - 1]!.address))
      findings.add('credits: not in the order of their addresses');
  }
  if (firstSeq > lastSeq + 1n) findings.add(`window: begins at ${firstSeq}, ends at ${lastSeq}`);
  if (wantedWork !== null && scheme !== 'pplns' && scheme !== 'direct') {
    findings.add(`window: scheme ${scheme} does not ask for an amount of work`);
  }
  if (wantedWork !== null && totalWork > wantedWork) {
    findings.add(`window: ${totalWork} units of work where ${wantedWork} were asked for`);
  }
  const { boundary } = window;
  if (boundary !== null) {
    findings.compare('boundary', boundary.seq, window.firstSeq);
    findings.compare('work with a boundary', window.totalWork, window.wantedWork ?? 'none');
    if (BigInt(boundary.countedWork) >= BigInt(boundary.work) || boundary.countedWork === '0') {
      findings.add(`boundary: ${boundary.countedWork} of ${boundary.work} units is not a part`);
    }
  }
  let creditedWork = 0n;
  for (const { work } of credits) creditedWork += BigInt(work);
  findings.compare('total work', totalWork, creditedWork);
}

/** A window by time begins whole days before the find; no other has a moment at which it begins. */
function checkTime(
  { scheme, window }: RoundStatement,
  spanMs: number | null,
  findings: Findings,
): void {
  const isByTime = window.wantedWork === null && (scheme === 'pplns' || scheme === 'direct');
  if (!isByTime) {
    if (spanMs !== null) findings.add('window: begins at a moment and does not go by time');
  } else if (spanMs === null) findings.add('window: goes by time and does not say from when');
  else if (spanMs <= 0 || spanMs % MS_PER_DAY !== 0)
    findings.add(`window: begins ${spanMs} ms before the find, which is no number of days`);
}

function checkAmounts(statement: RoundStatement, findings: Findings): void {
  const { scheme, rewardSats, credits } = statement;
  const members = credits.map(({ address, work, feePpm, donationPpm }, at) => ({
    accountId: BigInt(at),
    address,
    work: BigInt(work),
    feePpm,
    donationPpm,
  }));
  const right = SCHEMES[scheme].credit(BigInt(rewardSats), members);
  if (right.credits.length === credits.length) {
    for (const [at, credit] of credits.entries()) {
      const { creditSats, donationPpm } = right.credits[at]!;
      findings.compare(`credit of ${credit.address}, satoshi`, credit.creditSats, `${creditSats}`);
      findings.compare(`donation of ${credit.address}, ppm`, credit.donationPpm, donationPpm);
    }
  } else {
    findings.add(`credits: scheme ${scheme} has none`);
  }
  for (const whose of ['operator', 'developer', 'reserve'] as const) {
    findings.compare(`${whose}, satoshi`, statement[`${whose}Sats`], `${right[`${whose}Sats`]}`);
  }
  checkPaid(statement, findings);
}

function checkPaid({ scheme, rewardSats, credits }: RoundStatement, findings: Findings): void {
  const paid = credits.flatMap(({ paidSats }) =>
    paidSats === undefined ? [] : [BigInt(paidSats)],
  );
  if (scheme !== 'direct' && paid.length === 0) return;
  if (SCHEMES[scheme].settles !== 'coinbase') {
    findings.add(`paid amounts: the coinbase pays nobody in scheme ${scheme}`);
  }
  if (paid.length !== credits.length) findings.add('paid amounts: some credits have none');
  const paidSats = paid.reduce((sum, sats) => sum + sats, 0n);
  if (credits.length > 0) findings.compare('paid in all, satoshi', `${paidSats}`, rewardSats);
}

function checkShares(
  { scheme, window, credits }: RoundStatement,
  shares: Iterable<ExportedShare>,
  findings: Findings,
): void {
  const firstSeq = BigInt(window.firstSeq);
  const lastSeq = BigInt(window.lastSeq);
  const boundarySeq = window.boundary === null ? null : BigInt(window.boundary.seq);
  const works = new Map<string, bigint>();
  let boundarySeen = false;
  let previousSeq: bigint | null = null;
  let isRising: boolean | null = null;
  const { afterMs = null } = window;
  for (const { seq, address, work, acceptedAtMs } of shares) {
    if (afterMs !== null && acceptedAtMs <= afterMs)
      findings.add(`share ${seq}: accepted before the window begins`);
    if (previousSeq !== null) {
      isRising ??= seq > previousSeq;
      const isNext = isRising ? seq > previousSeq : seq < previousSeq;
      if (!isNext) findings.add(`share ${seq}: stands twice, or not in order`);
    }
    previousSeq = seq;
    if (seq < firstSeq || seq > lastSeq) findings.add(`share ${seq}: not in the window`);
    let counted = work;
    if (seq === boundarySeq) {
      boundarySeen = true;
      findings.compare('work of the boundary share', window.boundary!.work, `${work}`);
      counted = BigInt(window.boundary!.countedWork);
    }
    works.set(address, (works.get(address) ?? 0n) + counted);
  }
  if (boundarySeq !== null && !boundarySeen) findings.add(`share ${boundarySeq}: missing`);
  // A coinbase pays its finder when no share of the window is on record; nothing can be counted then.
  const isFinders = firstSeq === lastSeq + 1n && SCHEMES[scheme].settles === 'coinbase';
  if (isFinders) return;
  const expected = worksByAddress(works, findings);
  for (const { address, work } of credits) {
    findings.compare(`work of ${address}`, BigInt(work), expected.get(address) ?? 0n);
    expected.delete(address);
  }
  for (const [address, work] of expected) {
    if (work > 0n) findings.add(`work of ${address}: ${work} in the shares, and no credit`);
  }
}

/** Work by account text → by address, split accounts divided. */
function worksByAddress(works: Map<string, bigint>, findings: Findings): Map<string, bigint> {
  const ids = new Map<string, bigint>();
  const idOf = (address: string): bigint => {
    const id = ids.get(address) ?? BigInt(ids.size);
    ids.set(address, id);
    return id;
  };
  const members = [];
  for (const [address, work] of works) {
    if (decodeSplit(address) === null) findings.add(`shares of ${address}: this is no account`);
    else members.push({ accountId: idOf(address), address, work });
  }
  return new Map(expandSplits(members, idOf).map(({ address, work }) => [address, work]));
}
