/** CPU profiles and heap snapshots of the main thread, for the private port. One at a time. */

import { Session } from 'node:inspector/promises';
import type { Readable } from 'node:stream';
import { getHeapSnapshot } from 'node:v8';

/** Samples the main thread for so long; answers the text of a `.cpuprofile` for browsers' developer tools. */
export async function takeCpuProfile(seconds: number, signal: AbortSignal): Promise<string> {
  const session = new Session();
  session.connect();
  try {
    await session.post('Profiler.enable');
    await session.post('Profiler.setSamplingInterval', { interval: 500 });
    await session.post('Profiler.start');
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        resolve();
      });
    });
    const { profile } = await session.post('Profiler.stop');
    return JSON.stringify(profile);
  } finally {
    session.disconnect();
  }
}

/** A `.heapsnapshot`, made at once: the main thread stands still for about a second per 100 MiB of heap. */
export function takeHeapSnapshot(): Readable {
  return getHeapSnapshot();
}
