/**
 * Every block of ours against the chain, from the find until nothing can change any more: credited at its first confirmation, mature when
 * its reward may be spent, orphaned once a competitor is six deep, credited again if it comes back.
 *
 * A block that leaves the chain after its reward was spendable is a case for a person: payouts stop at once, and when the competitor is
 * six deep the reversal is proposed (`headframe ledger reverse`). Where the coinbase itself paid the miners, the pool holds nothing, and
 * the round is taken back without asking.
 */
import { decodeHexReversed, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { SCHEMES } from '../../core/ledger/schemes.ts';
import {
  FINDS_MAX,
  type KnownFind,
  type LastRound,
  listFinds,
  listProposedReversals,
  noteReversal,
} from '../../store/crediting.ts';
import { holdPayouts } from '../../store/payouts.ts';
import { type ChainTip, locateBlock, type Place } from './chain.ts';
import {
  type CreditOptions,
  type CreditTools,
  creditFind,
  matureRound,
  orphanRound,
  type RecordedFind,
} from './credit.ts';

export type BlockWatch = {
  /** Brings every block's round to where the chain is. Rejects when the database does. */
  step(tip: ChainTip): Promise<void>;
  /** Blocks in the chain whose credit waits for something, and for what. */
  waiting(): ReadonlyMap<string, { pool: string; reason: string }>;
};

export type BlockWatchOptions = CreditOptions & {
  /** Confirmations from which a reward may be spent. */
  maturity: number;
};

/** A competitor this deep has won. */
const FINAL_DEPTH = 6;
/** Blocks below the tip that are looked at again whatever became of them: no chain of ours was ever reorganised deeper. */
const WATCH_DEPTH = 288;
/** Old finds without a round are searched for at the start and once in so many tips. */
const FORGOTTEN_TIPS = 100;
/** Blocks that are known to have lost for good. */
const LOST_MAX = 10_000;
/** A node that failed so often in a row is not asked further in this step. */
const FAILURES_MAX = 3;
const ACTOR = 'payoutd';

/** What to do with a block. `left`: it was spendable and is not in the chain. */
type Step = 'nothing' | 'credit' | 'mature' | 'orphan' | 'left' | 'lost';

/** The rule, alone: where the block stands and what the ledger says of it. */
export function decideStep(
  place: Exclude<Place, { kind: 'unknown' }>,
  state: LastRound['state'] | null,
  maturity: number,
): Step {
  if (place.kind === 'in-chain') {
    if (state === null || state === 'orphaned') return 'credit';
    return state === 'immature' && place.confirmations >= maturity ? 'mature' : 'nothing';
  }
  if (state === 'mature') return 'left';
  if (state === 'immature') return place.competitorDepth >= FINAL_DEPTH ? 'orphan' : 'nothing';
  return place.competitorDepth > WATCH_DEPTH ? 'lost' : 'nothing';
}

/** Nothing is asked before the first step. */
export function createBlockWatch(tools: CreditTools, options: BlockWatchOptions): BlockWatch {
  const { db, log, clock, alarms } = tools;
  const lost = new Set<string>();
  /** Done with as far as the present tip goes. */
  const settled = new Set<string>();
  /** Blocks that stood in the chain when last looked at, with their heights. */
  const standing = new Map<string, number>();
  const waiting = new Map<string, { pool: string; reason: string }>();
  /** Blocks whose rounds were taken back in this step: what was read of them is no longer so. */
  const displaced = new Set<string>();
  /** Alarms of this step about blocks that left the chain after their reward was spendable. */
  const away = new Set<string>();
  let tipSeen = '';
  let tipsUntilSearch = 0;

  async function step(tip: ChainTip): Promise<void> {
    const isNewTip = tip.hashDisplay !== tipSeen;
    if (isNewTip) {
      settled.clear();
      tipsUntilSearch -= 1;
    }
    const forgotten = tipsUntilSearch <= 0;
    const finds = await listFinds(db, { aboveHeight: tip.height - WATCH_DEPTH, forgotten });
    const names = new Set(finds.map(({ hash }) => encodeHexReversed(hash)));
    for (const name of standing.keys()) if (!names.has(name)) standing.delete(name);
    if (forgotten) standing.clear();
    else if (isNewTip) await checkStanding(tip);
    tipSeen = tip.hashDisplay;
    waiting.clear();
    displaced.clear();
    const waitingPools = new Set<string>();
    /** A block in the chain of which only the outcome is known: it may be of any pool, so all later ones wait for it. */
    let isOneUnrecorded = false;
    let failures = 0;
    for (const find of finds) {
      const name = encodeHexReversed(find.hash);
      if (settled.has(name) || lost.has(name)) continue;
      if (!tools.isActive()) return;
      if (displaced.has(name)) {
        waitingPools.add(find.pool);
        continue;
      }
      const place = placeOf(tip, name, find) ?? (await locateBlock(tip, find.hash, find.height));
      if (place.kind === 'unknown') {
        log.debug('a block could not be located', { block: name, reason: place.reason });
        failures += 1;
        if (failures >= FAILURES_MAX) throw new Error(`the node fails: ${place.reason}`);
        waitingPools.add(find.pool);
        continue;
      }
      failures = 0;
      if (place.kind === 'in-chain') standing.set(name, find.height);
      const isOlderWaiting = isOneUnrecorded || waitingPools.has(find.pool);
      const displacedBefore = displaced.size;
      const reason = await advance(tip, find, place, isOlderWaiting);
      if (displaced.size > displacedBefore) waitingPools.add(find.pool);
      if (reason === null) settled.add(name);
      else if (place.kind === 'in-chain') {
        waiting.set(name, { pool: find.pool, reason });
        waitingPools.add(find.pool);
        isOneUnrecorded ||= find.header === null;
      }
    }
    if (isNewTip) await withdrawReturned(tip);
    // Reorganised while it was looked at: what was seen may be of two chains.
    const own = await locateBlock(
      tip,
      decodeHexReversed(tip.hashDisplay) as Uint8Array,
      tip.height,
    );
    if (own.kind !== 'in-chain') standing.clear();
    if (forgotten && finds.length < FINDS_MAX) tipsUntilSearch = FORGOTTEN_TIPS;
  }

  /**
   * If the highest of the blocks that stood in the chain still does, so do those below it: they were its ancestors. That saves asking for
   * each of a hundred blocks at every tip. Else all are asked for again.
   */
  async function checkStanding(tip: ChainTip): Promise<void> {
    let highest: { name: string; height: number } | null = null;
    for (const [name, height] of standing)
      if (highest === null || height > highest.height) highest = { name, height };
    if (highest === null) return;
    const hash = decodeHexReversed(highest.name) as Uint8Array;
    const place = await locateBlock(tip, hash, highest.height);
    if (place.kind !== 'in-chain') standing.clear();
  }

  function placeOf(tip: ChainTip, name: string, find: KnownFind): Place | null {
    const confirmations = tip.height - find.height + 1;
    if (!standing.has(name) || confirmations < 1) return null;
    return { kind: 'in-chain', confirmations, height: find.height };
  }

  /** Takes one block as far as it can go now. Null: nothing more to do at this tip; else what it waits for. */
  async function advance(
    tip: ChainTip,
    find: KnownFind,
    place: Exclude<Place, { kind: 'unknown' }>,
    isOlderWaiting: boolean,
  ): Promise<string | null> {
    const name = encodeHexReversed(find.hash);
    const { round } = find;
    switch (decideStep(place, round?.state ?? null, options.maturity)) {
      case 'nothing':
        return null;
      case 'lost':
        if (lost.size < LOST_MAX) lost.add(name);
        return null;
      case 'credit': {
        if (!isRecorded(find)) return sayUnrecorded(name, place);
        alarms.clear(`record:${name}`);
        const answer = await creditFind(tools, options, { tip, find, isOlderWaiting });
        if (answer.kind === 'waiting') return answer.reason;
        if (answer.kind === 'credited')
          for (const hash of answer.displaced) {
            const other = encodeHexReversed(hash);
            displaced.add(other);
            settled.delete(other);
          }
        // An old block may be mature at once: the next cycle looks again.
        return answer.kind === 'credited' && isOld(place) ? 'it is mature' : null;
      }
      case 'mature':
        await matureRound(tools, { ...find, round: round! });
        return null;
      case 'orphan':
        await orphanRound(tools, { ...find, round: round! });
        return null;
      case 'left':
        await leave(find as KnownFind & { round: LastRound }, place);
        return null;
    }
  }

  function isOld(place: Exclude<Place, { kind: 'unknown' }>): boolean {
    return place.kind === 'in-chain' && place.confirmations >= options.maturity;
  }

  /** The chain has a block of ours that nobody wrote down: its outcome came before its record, or the record was lost. */
  function sayUnrecorded(name: string, place: Exclude<Place, { kind: 'unknown' }>): string {
    if (place.kind === 'in-chain' && place.confirmations >= FINAL_DEPTH)
      alarms.raise(
        `record:${name}`,
        `block ${name} is in the chain, but the record of who found it has not come; it is not credited`,
      );
    return 'the record of its find has not come yet';
  }

  /** The reward was spendable and its block is not in the chain. */
  async function leave(
    find: KnownFind & { round: LastRound },
    place: Exclude<Place, { kind: 'unknown' }>,
  ): Promise<void> {
    const name = encodeHexReversed(find.hash);
    if (SCHEMES[find.round.scheme].settles === 'coinbase') {
      if (place.kind === 'beside' && place.competitorDepth >= FINAL_DEPTH)
        await orphanRound(tools, find);
      return;
    }
    away.add(`deep:${name}`);
    const reason = `block ${name} (height ${find.height}) left the chain after its reward was spendable`;
    alarms.raise(`deep:${name}`, `${reason}; payouts are stopped`);
    const atMs = clock.nowMs();
    const isNew = await holdPayouts(db, { actor: ACTOR, reason, atMs });
    if (isNew) log.error('payouts are stopped', { reason });
    if (place.kind !== 'beside' || place.competitorDepth < FINAL_DEPTH) return;
    const proposal = `headframe ledger reverse ${name}`;
    if (await noteReversal(db, find.hash, { proposed: true, actor: ACTOR, reason, atMs }))
      log.error('a reversal is proposed', { block: name, command: proposal });
    alarms.raise(
      `deep:${name}`,
      `${reason}; payouts are stopped. If the block is gone for good: ${proposal}`,
    );
  }

  /** Of the proposals, those whose block is in the chain again. Alarms stay while their block is away. */
  async function withdrawReturned(tip: ChainTip): Promise<void> {
    for (const { hash, height } of await listProposedReversals(db)) {
      const name = encodeHexReversed(hash);
      const place = await locateBlock(tip, hash, height);
      if (place.kind !== 'in-chain') {
        away.add(`deep:${name}`);
        continue;
      }
      const reason = 'the block is in the chain again';
      const atMs = clock.nowMs();
      await noteReversal(db, hash, { proposed: false, actor: ACTOR, reason, atMs });
      log.warn('a proposed reversal is withdrawn; payouts stay stopped until they are released', {
        block: name,
      });
    }
    alarms.clearOthers('deep:', away);
    away.clear();
  }

  return { step, waiting: () => waiting };
}

function isRecorded(find: KnownFind): find is RecordedFind {
  return (
    find.header !== null &&
    find.coinbase !== null &&
    find.account !== null &&
    find.foundAtMs !== null
  );
}
