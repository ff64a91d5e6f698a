/**
 * A disk in memory that forgets what was not synced, as a real one does when its plug is pulled: written sectors stay or go one by
 * one, a grown size stays or goes, creations, renames and removals stay or go unless the directory was synced. Faults are made on
 * order. Everything is decided by the `random` it is given, so a run repeats from its seed.
 */
import { basename, dirname } from 'node:path';
import type { Disk, DiskFile } from '../../src/adapters/disk.ts';

export type DiskOperation = 'write' | 'datasync' | 'create' | 'rename' | 'remove' | 'syncDirectory';

export type DiskFault = {
  operation: DiskOperation;
  /** `hang` never answers; `short` writes half, then fails with ENOSPC. */
  kind: 'ENOSPC' | 'EIO' | 'hang' | 'short';
  /** How many more calls it strikes; infinite until `heal` when left out. */
  times?: number;
};

export type CrashDisk = Disk & {
  /** The machine loses power: unsynced data is kept or dropped at random; open files are dead. */
  losePower(): void;
  /** The process is killed: all that was written is kept (page cache), open files are dead. */
  killProcess(): void;
  /** From now on, calls of this kind fail. */
  fail(fault: DiskFault): void;
  /** No more faults. */
  heal(): void;
  /** Runs before every operation; a test may crash from here. */
  onOperation(handler: ((operation: DiskOperation, path: string) => void) | null): void;
  /** Bytes that may be used in all before ENOSPC. */
  setCapacity(bytes: number): void;
  usedBytes(): number;
  /** The live bytes of one file, for a test to damage. */
  contentOf(path: string): Uint8Array | null;
  setContent(path: string, bytes: Uint8Array): void;
  paths(): string[];
};

const SECTOR_BYTES = 512;

type Node = {
  content: Uint8Array;
  durable: Uint8Array;
  /** Sectors written since the last sync. */
  dirty: Set<number>;
};

type Change = { directory: string; name: string; node: Node | null };

/** `random` gives numbers in [0, 1). */
export function createCrashDisk(random: () => number): CrashDisk {
  let live = new Map<string, Node>();
  let durableNames = new Map<string, Node>();
  let changes: Change[] = [];
  let faults: DiskFault[] = [];
  let generation = 0;
  let capacity = Number.POSITIVE_INFINITY;
  let watch: ((operation: DiskOperation, path: string) => void) | null = null;
  const directories = new Set<string>();

  /** Throws, hangs or does nothing, as ordered. */
  async function strike(operation: DiskOperation, path: string): Promise<'short' | null> {
    const born = generation;
    watch?.(operation, path);
    await null;
    if (born !== generation) await never();
    const fault = faults.find((candidate) => candidate.operation === operation);
    if (!fault) return null;
    if (fault.times !== undefined && --fault.times <= 0) {
      faults = faults.filter((candidate) => candidate !== fault);
    }
    if (fault.kind === 'hang') await never();
    if (fault.kind === 'short') return 'short';
    throw failure(fault.kind, operation, path);
  }

  function setName(path: string, node: Node | null): void {
    if (node === null) live.delete(path);
    else live.set(path, node);
    changes.push({ directory: dirname(path), name: basename(path), node });
  }

  function usedBytes(): number {
    let sum = 0;
    for (const node of new Set(live.values())) sum += node.content.length;
    return sum;
  }

  function grow(node: Node, size: number): void {
    if (size <= node.content.length) return;
    const grown = new Uint8Array(size);
    grown.set(node.content);
    node.content = grown;
  }

  function put(node: Node, bytes: Uint8Array, position: number): void {
    grow(node, position + bytes.length);
    node.content.set(bytes, position);
    const last = Math.floor((position + bytes.length - 1) / SECTOR_BYTES);
    for (let sector = Math.floor(position / SECTOR_BYTES); sector <= last; sector++) {
      node.dirty.add(sector);
    }
  }

  function openNode(path: string, node: Node): DiskFile {
    const born = generation;
    const alive = async (): Promise<void> => {
      if (born !== generation) await never();
    };
    return {
      async write(bytes, position) {
        await alive();
        const mood = await strike('write', path);
        const more = position + bytes.length - node.content.length;
        const room = capacity - usedBytes();
        if (mood === 'short' || more > room) {
          const half =
            mood === 'short' ? bytes.length >> 1 : Math.max(0, bytes.length - (more - room));
          if (half > 0) put(node, bytes.subarray(0, half), position);
          throw failure('ENOSPC', 'write', path);
        }
        if (bytes.length > 0) put(node, bytes, position);
      },
      async datasync() {
        await alive();
        try {
          await strike('datasync', path);
        } catch (error) {
          // As Linux does it: the pages are marked clean although they never arrived. Asking again would lie.
          node.dirty.clear();
          throw error;
        }
        node.durable = node.content.slice();
        node.dirty.clear();
      },
      async read(position, length) {
        await alive();
        await null;
        return node.content.slice(position, position + length);
      },
      async size() {
        await alive();
        return node.content.length;
      },
      async truncate(size) {
        await alive();
        await null;
        if (size < node.content.length) node.content = node.content.slice(0, size);
        else grow(node, size);
      },
      async close() {
        await alive();
      },
    };
  }

  return {
    async makeDirectory(path) {
      directories.add(path);
    },
    async list(path) {
      await null;
      const names: string[] = [];
      for (const name of live.keys()) if (dirname(name) === path) names.push(basename(name));
      return names.sort();
    },
    async open(path, how) {
      if (how === 'create') {
        await strike('create', path);
        if (live.has(path)) throw failure('EEXIST', 'open', path);
        const node: Node = {
          content: new Uint8Array(0),
          durable: new Uint8Array(0),
          dirty: new Set(),
        };
        setName(path, node);
        return openNode(path, node);
      }
      await null;
      const node = live.get(path);
      if (!node) throw failure('ENOENT', 'open', path);
      return openNode(path, node);
    },
    async rename(from, to) {
      await strike('rename', from);
      const node = live.get(from);
      if (!node) throw failure('ENOENT', 'rename', from);
      setName(to, node);
      setName(from, null);
    },
    async remove(path) {
      await strike('remove', path);
      if (live.has(path)) setName(path, null);
    },
    async syncDirectory(path) {
      await strike('syncDirectory', path);
      for (const change of changes) {
        if (change.directory === path) applyTo(durableNames, change);
      }
      changes = changes.filter((change) => change.directory !== path);
    },
    killProcess() {
      generation++;
    },
    losePower() {
      generation++;
      for (const node of new Set([...live.values(), ...durableNames.values()])) {
        settle(node, random);
      }
      // Names reach the disk in order, up to somewhere.
      const reached = Math.floor(random() * (changes.length + 1));
      for (const change of changes.slice(0, reached)) applyTo(durableNames, change);
      changes = [];
      live = new Map(durableNames);
      durableNames = new Map(live);
    },
    fail(fault) {
      faults.push({ ...fault });
    },
    heal() {
      faults = [];
    },
    onOperation(handler) {
      watch = handler;
    },
    setCapacity(bytes) {
      capacity = bytes;
    },
    usedBytes,
    contentOf(path) {
      return live.get(path)?.content ?? null;
    },
    setContent(path, bytes) {
      const node = live.get(path);
      if (!node) throw failure('ENOENT', 'open', path);
      node.content = bytes.slice();
      node.durable = bytes.slice();
    },
    paths() {
      return [...live.keys()].sort();
    },
  };
}

/** What stands in a file after the power came back. */
function settle(node: Node, random: () => number): void {
  const synced = node.durable.length;
  if (node.content.length < synced && random() < 0.5) {
    // A truncation that never arrived.
    node.content = node.durable.slice();
    node.dirty.clear();
    return;
  }
  // The size is metadata: it may have arrived without the data, or part of the way.
  const mood = random();
  const size =
    node.content.length < synced || mood < 0.3
      ? Math.min(synced, node.content.length)
      : mood < 0.6
        ? node.content.length
        : synced + Math.floor(random() * (node.content.length - synced + 1));
  const result = new Uint8Array(size);
  result.set(node.durable.subarray(0, size));
  for (const sector of node.dirty) {
    if (random() < 0.5) continue;
    const start = sector * SECTOR_BYTES;
    const end = Math.min(start + SECTOR_BYTES, size, node.content.length);
    if (start < end) result.set(node.content.subarray(start, end), start);
  }
  node.content = result;
  node.durable = result.slice();
  node.dirty.clear();
}

function applyTo(names: Map<string, Node>, change: Change): void {
  const path = `${change.directory}/${change.name}`;
  if (change.node === null) names.delete(path);
  else names.set(path, change.node);
}

function never(): Promise<never> {
  return new Promise<never>(() => {});
}

function failure(code: string, operation: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${operation} '${path}'`), { code });
}
