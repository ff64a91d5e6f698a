/**
 * What happens to the simulated pool, as data: a run is a list of steps, each with its own little seed, so that leaving one out
 * does not change what the others do. That is what makes shrinking work.
 */
import { createRandom, type Random } from './random.ts';

export const STEP_KINDS = [
  'mine',
  'burst',
  'block',
  'advance',
  'wait',
  'tip',
  'refresh',
  'rivalTip',
  'connect',
  'disconnect',
  'silence',
  'crash',
  'powerLoss',
  'armCrash',
  'restart',
  'nodeMode',
  'nodesUp',
  'bus',
  'database',
  'disk',
  'diskHeal',
  'freeze',
] as const;
export type StepKind = (typeof STEP_KINDS)[number];

export type Step = {
  kind: StepKind;
  seed: number;
  /** For `armCrash`: this crash instead of one that the seed picks. */
  at?: { point: string; how: 'kill' | 'power' };
};

/** How often each kind comes, in parts of the sum. */
const WEIGHTS: Record<StepKind, number> = {
  mine: 60,
  burst: 4,
  block: 8,
  advance: 40,
  wait: 3,
  tip: 5,
  refresh: 6,
  rivalTip: 2,
  connect: 8,
  disconnect: 5,
  silence: 2,
  crash: 2,
  powerLoss: 2,
  armCrash: 5,
  restart: 6,
  nodeMode: 4,
  nodesUp: 4,
  bus: 3,
  database: 2,
  disk: 2,
  diskHeal: 3,
  freeze: 0.4,
};

/** Places at which a crash can be armed; each stands for a row of the fault matrix (F-S1 to F-S11). */
export const CRASH_POINTS = [
  // F-S1: read, not yet decoded.
  'gateway.line.before',
  // F-S2: judged, not yet in the journal.
  'journal.append.before',
  // F-S3: taken by the journal, not written; written, not synced.
  'journal.append.after',
  'journal.write.after',
  // F-S4: synced, not answered.
  'journal.datasync.after',
  // F-S5: answered, not published.
  'gateway.answered',
  'bus.publish.before',
  // F-S6: published and stored, not marked as shipped.
  'database.commit.before',
  'database.commit.after',
  'bus.publish.after',
  'journal.remove.before',
  // F-S7: block on the disk, not submitted; and before it is there.
  'lane.submit.before',
  'lane.submit.after',
  'blocks.write.after',
  'blocks.datasync.after',
  'blocks.syncDirectory.after',
  // F-S8: while the node works on it.
  'node.submit.before',
  'node.submit.after',
  // F-S9: in the middle of many handshakes.
  'gateway.open',
  // F-S10: half the miners told of a job.
  'gateway.broadcast',
  // F-S11: lease taken, not stored; stored, not used.
  'lease.before',
  'lease.after',
] as const;
export type CrashPoint = (typeof CRASH_POINTS)[number];

/** `count` steps decided by `seed`. */
export function makeSteps(seed: number, count: number): Step[] {
  const random = createRandom(seed ^ 0x5eed);
  const sum = STEP_KINDS.reduce((total, kind) => total + WEIGHTS[kind], 0);
  return Array.from({ length: count }, () => {
    let at = random.below(1 << 20) * (sum / (1 << 20));
    const kind = STEP_KINDS.find((candidate) => (at -= WEIGHTS[candidate]) < 0) ?? 'advance';
    return { kind, seed: random.bits() };
  });
}

/** The step's own randomness. */
export function randomOf(step: Step): Random {
  return createRandom(step.seed);
}
