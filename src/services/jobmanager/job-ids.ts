/**
 * Job ids that never repeat, also not across restarts and clocks that jump back: milliseconds since 1970, pushed up to be larger
 * than every id before, as 12 hex digits. A file holds a mark above all ids given out; it is written ahead, so that a crash
 * skips ids and never repeats one.
 *
 * Of several job managers each puts its instance behind, as three more digits, and leaves out the first, which is 0 until the year
 * 2527: no two of them ever make the same id.
 */
import type { Log } from '../../ports.ts';

/** So far ahead of the ids in use the mark is written, and when so little is left, written again. */
const RESERVE = 600_000;
const RESERVE_LEFT = 300_000;
const DIGITS = 12;
const INSTANCE_DIGITS = 3;
/** 2^48: more would not fit the digits. */
const ID_MAX = 281_474_976_710_655;

/** Where the mark is kept. `read` gives null when there is none yet. */
export type Mark = { read(): Promise<string | null>; write(text: string): Promise<void> };

export type JobIds = { next(nowMs: number): string };

/** Three hex digits. */
export const JOB_INSTANCES = 4096;

/** Reads the mark and reserves the first ids; `instance` is 0 to 4095, null for the only job manager. A disk that fails costs a warning: the clock alone still makes new ids. */
export async function createJobIds(
  tools: { mark: Mark; log: Log },
  nowMs: number,
  instance: number | null = null,
): Promise<JobIds> {
  const { mark, log } = tools;
  const tail = instance === null ? '' : instance.toString(16).padStart(INSTANCE_DIGITS, '0');
  const digits = instance === null ? DIGITS : DIGITS - 1;
  let last = nowMs - 1;
  let reserved = 0;
  let writing = false;

  async function reserve(): Promise<void> {
    if (writing) return;
    writing = true;
    const goal = last + RESERVE;
    try {
      await mark.write(`${goal}\n`);
      reserved = goal;
    } catch (error) {
      log.warn('job id mark cannot be written; ids rest on the clock alone', {
        reason: (error as { code?: string }).code ?? 'unknown',
      });
    } finally {
      writing = false;
    }
  }

  try {
    const text = await mark.read();
    if (text !== null) {
      const kept = Number(text.trim());
      if (/^\d{1,15}\s*$/.test(text) && kept < ID_MAX) last = Math.max(last, kept);
      else log.warn('job id mark is not a number and is ignored');
    }
  } catch (error) {
    log.warn('job id mark cannot be read; ids rest on the clock alone', {
      reason: (error as { code?: string }).code ?? 'unknown',
    });
  }
  await reserve();

  return {
    next(nowMs) {
      last = Math.max(last + 1, Math.floor(nowMs));
      if (last > reserved - RESERVE_LEFT) void reserve();
      return last.toString(16).padStart(digits, '0') + tail;
    },
  };
}
