/**
 * Ways to break the pool on purpose. Each stands for a mistake that real pools have made; a test shows that the simulation finds
 * every one of them (sim.test.ts), which is the proof that its promises can fail.
 */
import { DuplicateSet } from '../../src/core/work/duplicates.ts';
import { Session } from '../../src/services/stratumd/session.ts';

/** Name of the break → the promise that has to notice. */
export const BREAKS = {
  /** Answers as soon as the journal has taken the record, not when it is synced. */
  'ack-before-sync': 'P01',
  /** Marks the journal as shipped before the database has the shares. */
  'ship-before-store': 'P01',
  /** Every hash counts as new. */
  'duplicates-off': 'P07',
  /** The database takes every row it is given. */
  'no-unique-key': 'P07',
  /** Credit is the session's difficulty at the time of the submission, not the job's. */
  'difficulty-at-submit': 'P09',
  /** Every hash meets every share target. */
  'any-hash-accepted': 'P02',
  /** Policies before the block: a stale winning share is thrown away. */
  'stale-block-dropped': 'P03',
  /** Found blocks are only kept in memory. */
  'block-not-on-disk': 'P03',
  /** The coinbase is assembled with its extranonce halves swapped. */
  'block-built-wrong': 'P05',
  /** The lease of extranonces is not stored. */
  'lease-not-stored': 'P08',
  /** Each job's difficulty is announced behind it. */
  'difficulty-after-job': 'P13',
  /** Shares are stored under the account of the session that spoke last. */
  'credit-to-the-last': 'P12',
} as const;

export type BreakName = keyof typeof BREAKS;

/** The breaks that sit inside classes of the pool. Returns the way back; call it in any case. */
export function breakClasses(breaks: ReadonlySet<BreakName>): () => void {
  const { add } = DuplicateSet.prototype;
  const { addTerms } = Session.prototype;
  if (breaks.has('duplicates-off')) DuplicateSet.prototype.add = () => 'added';
  if (breaks.has('any-hash-accepted')) {
    Session.prototype.addTerms = function (terms, termsKept) {
      addTerms.call(this, { ...terms, target: new Uint32Array(8).fill(0xffffffff) }, termsKept);
    };
  }
  return () => {
    DuplicateSet.prototype.add = add;
    Session.prototype.addTerms = addTerms;
  };
}
