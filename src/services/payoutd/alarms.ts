/**
 * What a person should look at, kept while it lasts. Each trouble has a key, so that it is logged once when it begins and once when it
 * is over, however many cycles see it.
 */
import type { Log } from '../../ports.ts';

export type Alarms = {
  /** The text is for the operator: what is wrong, and what helps. */
  raise(key: string, text: string): void;
  clear(key: string): void;
  /** Clears every alarm whose key begins so and is not among those to keep. */
  clearOthers(prefix: string, keep: ReadonlySet<string>): void;
  texts(): string[];
};

/** More troubles than this at once are one trouble; further ones are only logged. */
const ALARMS_MAX = 100;

/** None at the start. */
export function createAlarms(log: Log): Alarms {
  const texts = new Map<string, string>();

  function clear(key: string): void {
    if (texts.delete(key)) log.info('this is over', { alarm: key });
  }

  return {
    raise(key, text) {
      if (texts.get(key) === text) return;
      const isNew = !texts.has(key);
      if (!isNew || texts.size < ALARMS_MAX) texts.set(key, text);
      if (isNew) log.error(text, { alarm: key });
    },
    clear,
    clearOthers(prefix, keep) {
      for (const key of texts.keys()) if (key.startsWith(prefix) && !keep.has(key)) clear(key);
    },
    texts: () => [...texts.values()],
  };
}
