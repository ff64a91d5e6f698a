/**
 * The life of one found block as a pure state machine: what nodes said goes in, what to do next and what to tell comes out. No clock,
 * no socket, no disk; `lane.ts` does what is decided here.
 *
 * The rules (all learnt from blocks that other pools lost): an answer to `submitblock` never settles anything but invalidity; a block
 * is accepted when a node has it in its best chain (`getblockheader` with confirmations ≥ 1 and `getblockhash` at its height
 * giving its hash); what is not known to a node is sent again, for as long as it takes; a block is orphaned only when another one
 * at its height is at least six deep on a synced node, seen twice, and even that can be undone until it is final.
 */
import type { SubmitVerdict } from '../../core/node/answers.ts';
import type { BlockState } from '../../messages/block.ts';

/** What a node says about the block's place in its chain. */
export type Sight =
  /** In the best chain. */
  | { kind: 'main'; confirmations: number; tipHeight: number }
  /** Known, beside the best chain. */
  | { kind: 'side'; tipHeight: number; synced: boolean; taken: boolean; oursFirst: boolean }
  /** Not known. `taken`: another block has the height. */
  | { kind: 'absent'; tipHeight: number; synced: boolean; taken: boolean }
  /** The node could not be asked, or the answers do not fit together (a reorganisation in between). */
  | { kind: 'unknown'; detail: string };

export type NodeStanding = {
  attempts: number;
  /** Null: the node need not be sent the block (again). */
  submitDueAtMs: number | null;
  submitting: boolean;
  verdict: SubmitVerdict['kind'] | null;
  detail: string;
  /** The verdict says that we built an invalid block. */
  fault: boolean;
  lookDueAtMs: number;
  looking: boolean;
  /** Looks in a row that settled nothing. */
  idleLooks: number;
  sight: Exclude<Sight, { kind: 'unknown' }> | null;
  /** Looks in a row that found another block deep at this height. */
  orphanSightings: number;
  precious: 'unasked' | 'due' | 'asked';
};

export type BlockProgress = {
  height: number;
  nodes: Map<string, NodeStanding>;
  state: BlockState;
  confirmations: number;
  node: string;
  detail: string;
  /** Nothing can change any more: stop watching. */
  final: boolean;
};

export type Limits = {
  finalConfirmations: number;
  orphanDepth: number;
  retryMinMs: number;
  retryMaxMs: number;
  /** Between two tries on a node where nothing is listening: costs it nothing. */
  absentRetryMaxMs: number;
  /** Without an answer to submitblock for so long, another connection asks for the header. */
  hedgeMs: number;
  lookMs: number;
  deepLookMs: number;
};

export const LIMITS: Limits = {
  finalConfirmations: 100,
  orphanDepth: 6,
  retryMinMs: 50,
  retryMaxMs: 5000,
  absentRetryMaxMs: 250,
  hedgeMs: 500,
  lookMs: 2000,
  deepLookMs: 30_000,
};

/** A depth from which a block is looked at rarely. */
const DEEP_CONFIRMATIONS = 6;

export type Action =
  | { kind: 'submit'; node: string; first: boolean }
  | { kind: 'look'; node: string }
  | { kind: 'precious'; node: string };

/** A block just found, or found again on disk after a restart. `known`: some node had it when the pool stopped. */
export function createProgress(
  nodes: readonly string[],
  height: number,
  nowMs: number,
  recovered: { state: BlockState; known: boolean } | null = null,
): BlockProgress {
  const standings = nodes.map((name): [string, NodeStanding] => [
    name,
    {
      attempts: 0,
      submitDueAtMs: recovered?.known ? null : nowMs,
      submitting: false,
      verdict: null,
      detail: '',
      fault: false,
      lookDueAtMs: recovered === null ? Number.POSITIVE_INFINITY : nowMs,
      looking: false,
      idleLooks: 0,
      sight: null,
      orphanSightings: 0,
      precious: 'unasked',
    },
  ]);
  return {
    height,
    nodes: new Map(standings),
    state: recovered?.state ?? 'found',
    confirmations: -1,
    node: '',
    detail: '',
    final: false,
  };
}

/** What should be done now. At most one action of a kind is in flight per node. */
export function nextActions(block: BlockProgress, nowMs: number): Action[] {
  const actions: Action[] = [];
  if (block.final) return actions;
  for (const [node, standing] of block.nodes) {
    if (!standing.submitting && standing.submitDueAtMs !== null && standing.submitDueAtMs <= nowMs)
      actions.push({ kind: 'submit', node, first: standing.attempts === 0 });
    if (!standing.looking && standing.lookDueAtMs <= nowMs) actions.push({ kind: 'look', node });
    if (standing.precious === 'due') actions.push({ kind: 'precious', node });
  }
  return actions;
}

/** When `nextActions` should be asked again, unless something is recorded before. Infinity: when something is recorded. */
export function nextDueAtMs(block: BlockProgress): number {
  let dueAtMs = Number.POSITIVE_INFINITY;
  if (block.final) return dueAtMs;
  for (const standing of block.nodes.values()) {
    if (!standing.submitting && standing.submitDueAtMs !== null)
      dueAtMs = Math.min(dueAtMs, standing.submitDueAtMs);
    if (!standing.looking) dueAtMs = Math.min(dueAtMs, standing.lookDueAtMs);
  }
  return dueAtMs;
}

/** Marks an action as in flight. */
export function beginAction(
  block: BlockProgress,
  action: Action,
  nowMs: number,
  limits: Limits,
): void {
  const standing = block.nodes.get(action.node);
  if (standing === undefined) return;
  switch (action.kind) {
    case 'submit':
      standing.submitting = true;
      standing.attempts += 1;
      standing.lookDueAtMs = Math.min(standing.lookDueAtMs, nowMs + limits.hedgeMs);
      return;
    case 'look':
      standing.looking = true;
      return;
    case 'precious':
      standing.precious = 'asked';
  }
}

/** Puts a submission off: the node is known to be away and another block is already trying. */
export function deferSubmit(block: BlockProgress, node: string, untilMs: number): void {
  const standing = block.nodes.get(node);
  if (standing?.submitDueAtMs != null)
    standing.submitDueAtMs = Math.max(standing.submitDueAtMs, untilMs);
}

/** Records an answer to submitblock. True when the state or its detail changed. */
export function recordSubmit(
  block: BlockProgress,
  node: string,
  verdict: SubmitVerdict,
  nowMs: number,
  limits: Limits,
): boolean {
  const standing = block.nodes.get(node);
  if (standing === undefined) return false;
  standing.submitting = false;
  const backOffMs = Math.min(
    limits.retryMinMs * 2 ** Math.min(standing.attempts - 1, 20),
    limits.retryMaxMs,
  );
  // Once a node has the block, a late or repeated answer takes nothing back, and a time-out tells nothing new.
  const has = standing.sight?.kind === 'main' || standing.sight?.kind === 'side';
  if (!(has && (verdict.kind === 'retry' || verdict.kind === 'unknown'))) {
    standing.verdict = verdict.kind;
    standing.detail = verdict.detail;
    standing.fault = verdict.fault;
  }
  switch (verdict.kind) {
    case 'taken':
    case 'known':
    case 'side':
      // Should the look find nothing, it is sent again.
      standing.submitDueAtMs = has ? null : nowMs + limits.retryMaxMs;
      standing.lookDueAtMs = nowMs;
      standing.idleLooks = 0;
      break;
    case 'unknown':
      standing.submitDueAtMs = has ? null : nowMs + backOffMs;
      standing.lookDueAtMs = Math.min(standing.lookDueAtMs, nowMs);
      break;
    case 'retry':
      standing.submitDueAtMs = has
        ? null
        : nowMs + (verdict.absent ? Math.min(backOffMs, limits.absentRetryMaxMs) : backOffMs);
      if (verdict.absent)
        standing.lookDueAtMs = Math.max(standing.lookDueAtMs, nowMs + limits.lookMs);
      break;
    case 'later':
      standing.submitDueAtMs = nowMs + limits.retryMaxMs;
      break;
    case 'refused':
      standing.submitDueAtMs = null;
      standing.lookDueAtMs = nowMs;
  }
  return conclude(block, limits);
}

/** Records where a node has the block. True when the state, its detail or the confirmations changed. */
export function recordSight(
  block: BlockProgress,
  node: string,
  sight: Sight,
  nowMs: number,
  limits: Limits,
): boolean {
  const standing = block.nodes.get(node);
  if (standing === undefined) return false;
  standing.looking = false;
  if (sight.kind === 'unknown') {
    standing.lookDueAtMs = nowMs + idleLookMs(standing, limits);
    standing.idleLooks += 1;
    return false;
  }
  // A node keeps the header of a block it refused: that is not knowing it.
  const seen: typeof sight =
    sight.kind === 'side' && standing.verdict === 'refused'
      ? { kind: 'absent', tipHeight: sight.tipHeight, synced: sight.synced, taken: sight.taken }
      : sight;
  standing.sight = seen;
  if (seen.kind === 'main') {
    standing.orphanSightings = 0;
    standing.idleLooks = 0;
    standing.submitDueAtMs = null;
    standing.lookDueAtMs =
      nowMs + (seen.confirmations < DEEP_CONFIRMATIONS ? limits.lookMs : limits.deepLookMs);
  } else {
    const deep = isDeep(block, seen, limits);
    standing.orphanSightings = deep ? standing.orphanSightings + 1 : 0;
    if (seen.kind === 'side') {
      standing.idleLooks = 0;
      standing.submitDueAtMs = null;
      standing.lookDueAtMs =
        nowMs + (deep && standing.orphanSightings > 2 ? limits.deepLookMs : limits.lookMs);
      if (seen.oursFirst && seen.tipHeight === block.height && standing.precious === 'unasked')
        standing.precious = 'due';
    } else {
      if (standing.verdict !== 'refused' && standing.submitDueAtMs === null && !standing.submitting)
        standing.submitDueAtMs = nowMs;
      // The node said that it has the block, but it has not: do not wait out the grace.
      if (standing.verdict === 'taken' || standing.verdict === 'known')
        standing.submitDueAtMs = Math.min(
          standing.submitDueAtMs ?? nowMs,
          nowMs + idleLookMs(standing, limits),
        );
      standing.lookDueAtMs =
        nowMs +
        (deep || standing.verdict === 'refused' ? limits.deepLookMs : idleLookMs(standing, limits));
      if (deep && standing.orphanSightings < 2) standing.lookDueAtMs = nowMs + limits.lookMs;
      standing.idleLooks += 1;
    }
  }
  return conclude(block, limits);
}

/** The tip has moved: look soon, but not more often than `lookMs`. */
export function hurryLooks(block: BlockProgress, nowMs: number, limits: Limits): void {
  for (const standing of block.nodes.values()) {
    const { sight } = standing;
    // What is deep in the chain, or under another that is, has time.
    const settled =
      standing.orphanSightings > 2 ||
      (sight?.kind === 'main' && sight.confirmations >= DEEP_CONFIRMATIONS);
    if (sight !== null && !settled)
      standing.lookDueAtMs = Math.min(standing.lookDueAtMs, nowMs + limits.lookMs);
  }
}

/** True when every node that matters has told that the block is in a best chain or beside it: the bytes need not be at hand. */
export function isDelivered(block: BlockProgress): boolean {
  for (const { sight } of block.nodes.values()) {
    if (sight?.kind === 'main' || sight?.kind === 'side') return true;
  }
  return false;
}

function idleLookMs(standing: NodeStanding, limits: Limits): number {
  return Math.min(limits.retryMinMs * 2 ** Math.min(standing.idleLooks, 20), limits.retryMaxMs);
}

function isDeep(
  block: BlockProgress,
  sight: { tipHeight: number; synced: boolean; taken: boolean },
  limits: Limits,
): boolean {
  return sight.synced && sight.taken && sight.tipHeight - block.height + 1 >= limits.orphanDepth;
}

/** Draws the state from all nodes together: the one with the longest chain has the say, and of equal ones the one that has us. */
function conclude(block: BlockProgress, limits: Limits): boolean {
  const { state, confirmations, detail, final } = block;
  let authority: { node: string; standing: NodeStanding } | null = null;
  for (const [node, standing] of block.nodes) {
    if (standing.sight === null) continue;
    if (authority === null || outranks(standing.sight, authority.standing.sight!))
      authority = { node, standing };
  }
  const standings = [...block.nodes.entries()];
  const refused = standings.filter(([, standing]) => standing.verdict === 'refused');
  const answered = standings.filter(
    ([, { verdict }]) => verdict !== null && verdict !== 'retry' && verdict !== 'unknown',
  );
  const sight = authority?.standing.sight ?? null;
  if (authority !== null && sight?.kind === 'main') {
    const done = sight.confirmations >= limits.finalConfirmations;
    settle(block, done ? 'confirmed' : 'accepted', authority.node, '', sight.confirmations, done);
  } else if (
    authority !== null &&
    sight !== null &&
    sight.kind !== 'main' &&
    authority.standing.orphanSightings >= 2
  ) {
    const depth = sight.tipHeight - block.height + 1;
    const words = `another block at this height is ${depth} deep`;
    settle(block, 'orphaned', authority.node, words, -1, depth >= limits.finalConfirmations);
  } else if (refused.length > 0 && refused.length === answered.length) {
    const [node, standing] = refused[0]!;
    // Final when nobody is left to ask and all have looked.
    const done =
      refused.length === standings.length && standings.every(([, { sight }]) => sight !== null);
    settle(block, 'refused', node, standing.detail, -1, done);
  } else if (standings.some(([, { sight }]) => sight?.kind === 'side')) {
    const [node, standing] = standings.find(([, { sight }]) => sight?.kind === 'side')!;
    settle(block, 'side', node, standing.detail, -1, false);
  } else if (standings.some(([, { verdict }]) => verdict !== null && verdict !== 'retry')) {
    const [node, standing] = standings.find(
      ([, { verdict }]) => verdict !== null && verdict !== 'retry',
    )!;
    settle(block, 'submitted', node, standing.detail, -1, false);
  } else if (authority !== null && state !== 'found') {
    // Nodes that had it have it no more, and have not answered since: it is being handed in again.
    settle(block, 'submitted', authority.node, authority.standing.detail, -1, false);
  }
  return (
    state !== block.state ||
    confirmations !== block.confirmations ||
    detail !== block.detail ||
    final !== block.final
  );
}

function outranks(
  a: NonNullable<NodeStanding['sight']>,
  b: NonNullable<NodeStanding['sight']>,
): boolean {
  if (a.tipHeight !== b.tipHeight) return a.tipHeight > b.tipHeight;
  return rankOf(a.kind) > rankOf(b.kind);
}

function rankOf(kind: 'main' | 'side' | 'absent'): number {
  return kind === 'main' ? 2 : kind === 'side' ? 1 : 0;
}

function settle(
  block: BlockProgress,
  state: BlockState,
  node: string,
  detail: string,
  confirmations: number,
  final: boolean,
): void {
  block.state = state;
  block.node = node;
  block.detail = detail;
  block.confirmations = confirmations;
  block.final = final;
}

/** The node is back: whatever waits for its next try is due now. */
export function hurrySubmit(block: BlockProgress, node: string, nowMs: number): void {
  const standing = block.nodes.get(node);
  if (standing?.submitDueAtMs != null && standing.verdict === 'retry')
    standing.submitDueAtMs = Math.min(standing.submitDueAtMs, nowMs);
}
