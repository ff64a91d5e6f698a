/** Memory of the calling process as the kernel and V8 see it. */
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Bytes. `rss` is resident memory; `heapUsed` and `external` are V8's figures after a full collection. */
export type ServerMemory = { rss: number; heapUsed: number; external: number };

/** Collects garbage twice and reads the figures. */
export function readMemory(): ServerMemory {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  collect();
  collect();
  const usage = process.memoryUsage();
  return { rss: residentBytes() ?? usage.rss, heapUsed: usage.heapUsed, external: usage.external };
}

/** VmRSS of this process from /proc, or null where there is none. */
function residentBytes(): number | null {
  try {
    const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'latin1'));
    return match === null ? null : Number(match[1]) * 1024;
  } catch {
    return null;
  }
}
