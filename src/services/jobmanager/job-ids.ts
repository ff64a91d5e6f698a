/**
 * Job ids: ten hex digits that are drawn, and four that count. Two draws are the same once in 2^40, so an id belongs to one process alone:
 * whether two job managers begin in the same moment, have the same number by mistake, run on copies of one folder, or start anew with a
 * clock that jumped back, makes no difference, and there is nothing to keep on a disk. After 65,536 ids ten other digits are drawn.
 *
 * A gateway that announces a job again puts two digits behind: sixteen in all, as many as ckpool gives out, which firmware of any age takes.
 */
import { randomBytes } from 'node:crypto';

const DRAWN_BYTES = 5;
const COUNTED_DIGITS = 4;

export type JobIds = { next(): string };

/** Ids of this process. `draw` is for tests: five bytes by chance. */
export function createJobIds(draw: () => Uint8Array = () => randomBytes(DRAWN_BYTES)): JobIds {
  let drawn = '';
  let count = 0;
  return {
    next() {
      if (count === 0) drawn = Buffer.from(draw()).toString('hex');
      const id = drawn + count.toString(16).padStart(COUNTED_DIGITS, '0');
      count = (count + 1) % 16 ** COUNTED_DIGITS;
      return id;
    },
  };
}
