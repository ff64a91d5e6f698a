/** Waiting in tests for things that happen on real sockets: by condition, never by a fixed sleep. */

import type { Log } from '../../src/ports.ts';

/** Resolves when `condition` holds; rejects with `what` after `limitMs`. */
export async function until(what: string, condition: () => boolean, limitMs = 4000): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`did not happen in ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** A log that keeps its lines, to be searched for words that must or must not be there. */
export function createMemoryLog() {
  const lines: { level: string; message: string; fields: Record<string, unknown> }[] = [];
  const make = (bound: Record<string, unknown>): Log => {
    const write =
      (level: string) =>
      (message: string, fields: Record<string, unknown> = {}) => {
        lines.push({ level, message, fields: { ...bound, ...fields } });
      };
    return {
      debug: write('debug'),
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      child: (fields: Record<string, unknown>): Log => make({ ...bound, ...fields }),
    };
  };
  return { ...make({}), lines, text: () => JSON.stringify(lines) };
}
