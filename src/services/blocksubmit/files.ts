/**
 * Found blocks on disk. `<hash>.blk` is the block exactly as `submitblock` wants it (raw, not hex), so that an operator can send
 * it by hand; `<hash>.json` says what became of it; `<hash>.find` is a find that waits for the transactions of its job. Files are written
 * beside, synced, and renamed. What is final moves to `done/`.
 *
 * On start every `.blk` or `.json` found here is taken up again; a `.blk.part` counts when it is a whole block (the process died
 * between sync and rename) and is removed when it is not.
 */

import { decodeBlock } from '../../core/bitcoin/block.ts';
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { hashHeader } from '../../core/bitcoin/header.ts';
import { merkleRoot } from '../../core/bitcoin/merkle.ts';
import { encodeTx, type Tx, txid } from '../../core/bitcoin/tx.ts';
import type { BlockCandidate, BlockState } from '../../messages/block.ts';
import { decodeBlockCandidate, encodeBlockCandidate } from '../../messages/codec.ts';

/** What is asked of a disk. */
export type BlockDisk = {
  makeDirectory(path: string): Promise<void>;
  list(path: string): Promise<string[]>;
  open(
    path: string,
    how: 'create' | 'read',
  ): Promise<{
    write(bytes: Uint8Array, position: number): Promise<void>;
    datasync(): Promise<void>;
    read(position: number, length: number): Promise<Uint8Array>;
    size(): Promise<number>;
    close(): Promise<void>;
  }>;
  rename(from: string, to: string): Promise<void>;
  remove(path: string): Promise<void>;
  syncDirectory(path: string): Promise<void>;
};

/** A block and what was last known of it. */
export type BlockRecord = { candidate: BlockCandidate; state: BlockState };

export type BlockWriting = {
  /** The kernel has the bytes: no death of this process can lose them. */
  written: Promise<void>;
  /** The disk has them: no loss of power can. */
  synced: Promise<void>;
  /** The name is durable too. */
  settled: Promise<void>;
};

export type BlockFiles = {
  /** Starts writing; the three promises resolve one after the other, or reject with the disk's error. */
  writeBlock(hashDisplay: string, parts: readonly Uint8Array[]): BlockWriting;
  writeRecord(hashDisplay: string, record: BlockRecord): Promise<void>;
  readBlock(hashDisplay: string): Promise<Uint8Array | null>;
  /** Out of the way of the next start. The bytes of a confirmed block are on the chain and go. */
  retire(hashDisplay: string, height: number, keepBytes: boolean): Promise<void>;
  /** A find whose block cannot be put together yet. */
  writeFind(hashDisplay: string, candidate: BlockCandidate): Promise<void>;
  removeFind(hashDisplay: string): Promise<void>;
  /** Everything that is not final, oldest height first; finds without a block are not among them. */
  scan(): Promise<BlockRecord[]>;
  scanFinds(): Promise<BlockCandidate[]>;
};

const RECORD_BYTES_MAX = 1024 * 1024;
const BLOCK_BYTES_MAX = 16 * 1024 * 1024;
/** Records of final blocks kept for people to look at. */
const DONE_MAX = 2000;
const DONE_SWEEP = 100;
const STATES: readonly BlockState[] = [
  'found',
  'submitted',
  'accepted',
  'side',
  'confirmed',
  'orphaned',
  'refused',
];

/** Opens the directory, making it if need be. Rejects with the disk's error. */
export async function openBlockFiles(
  disk: BlockDisk,
  directory: string,
  onBroken: (name: string, reason: string) => void,
): Promise<BlockFiles> {
  const done = `${directory}/done`;
  await disk.makeDirectory(done);
  let retired = 0;

  async function writeWhole(
    path: string,
    parts: readonly Uint8Array[],
    onWritten: () => void = () => {},
  ): Promise<void> {
    await disk.remove(path);
    const file = await disk.open(path, 'create');
    try {
      let position = 0;
      for (const part of parts) {
        await file.write(part, position);
        position += part.length;
      }
      onWritten();
      await file.datasync();
    } finally {
      await file.close();
    }
  }

  async function readWhole(path: string, bytesMax: number): Promise<Uint8Array | null> {
    let file: Awaited<ReturnType<BlockDisk['open']>>;
    try {
      file = await disk.open(path, 'read');
    } catch (error) {
      if ((error as { code?: string }).code === 'ENOENT') return null;
      throw error;
    }
    try {
      const size = await file.size();
      if (size > bytesMax) return null;
      return await file.read(0, size);
    } finally {
      await file.close();
    }
  }

  async function rename(from: string, to: string): Promise<void> {
    try {
      await disk.rename(from, to);
    } catch (error) {
      if ((error as { code?: string }).code !== 'ENOENT') throw error;
    }
  }

  async function sweepDone(): Promise<void> {
    const names = await disk.list(done);
    // Names begin with the height: the oldest come first.
    for (const name of names.slice(0, Math.max(0, names.length - DONE_MAX)))
      await disk.remove(`${done}/${name}`);
  }

  async function writeSmall(path: string, record: BlockRecord): Promise<void> {
    await writeWhole(`${path}.part`, [encodeRecord(record)]);
    await disk.rename(`${path}.part`, path);
  }

  async function readRecord(name: string): Promise<BlockRecord | null> {
    const bytes = await readWhole(`${directory}/${name}`, RECORD_BYTES_MAX);
    const record = bytes === null ? null : decodeRecord(bytes);
    if (record === null) onBroken(name, 'not a record of a block');
    return record;
  }

  /** A block without a record, or one whose writing was not finished. */
  async function recover(name: string, hashDisplay: string): Promise<BlockRecord | null> {
    const path = `${directory}/${name}`;
    const bytes = await readWhole(path, BLOCK_BYTES_MAX);
    const candidate = bytes === null ? null : readCandidate(bytes, hashDisplay);
    if (candidate === null) {
      onBroken(name, 'not a whole block');
      if (name.endsWith('.part')) await disk.remove(path);
      return null;
    }
    if (name.endsWith('.part')) {
      // Whole, but perhaps only in the page cache: the name must not become more durable than the bytes.
      const file = await disk.open(path, 'read');
      await file.datasync().finally(() => file.close());
    }
    if (name.endsWith('.part')) await disk.rename(path, `${directory}/${hashDisplay}.blk`);
    return { candidate, state: 'found' };
  }

  return {
    writeBlock(hashDisplay, parts) {
      const path = `${directory}/${hashDisplay}.blk`;
      const written = Promise.withResolvers<void>();
      const synced = writeWhole(`${path}.part`, parts, () => written.resolve());
      synced.catch((error: unknown) => written.reject(error));
      const settled = synced.then(async () => {
        await disk.rename(`${path}.part`, path);
        await disk.syncDirectory(directory);
      });
      return { written: written.promise, synced, settled };
    },
    writeRecord: (hashDisplay, record) => writeSmall(`${directory}/${hashDisplay}.json`, record),
    writeFind: (hashDisplay, candidate) =>
      writeSmall(`${directory}/${hashDisplay}.find`, { candidate, state: 'found' }),
    removeFind: (hashDisplay) => disk.remove(`${directory}/${hashDisplay}.find`),
    async readBlock(hashDisplay) {
      const bytes = await readWhole(`${directory}/${hashDisplay}.blk`, BLOCK_BYTES_MAX);
      return bytes === null || readCandidate(bytes, hashDisplay) === null ? null : bytes;
    },
    async retire(hashDisplay, height, keepBytes) {
      const name = `${String(height).padStart(10, '0')}-${hashDisplay}`;
      const block = `${directory}/${hashDisplay}.blk`;
      if (keepBytes) await rename(block, `${done}/${name}.blk`);
      else await disk.remove(block);
      await rename(`${directory}/${hashDisplay}.json`, `${done}/${name}.json`);
      retired += 1;
      if (retired % DONE_SWEEP === 0) await sweepDone();
    },
    async scan() {
      const records = new Map<string, BlockRecord>();
      const names = await disk.list(directory);
      for (const name of names) {
        const match = /^([0-9a-f]{64})\.json$/.exec(name);
        const record = match === null ? null : await readRecord(name);
        if (record !== null) records.set(match![1]!, record);
      }
      for (const name of names) {
        const match = /^([0-9a-f]{64})\.blk(\.part)?$/.exec(name);
        if (match === null || (match[2] === undefined && records.has(match[1]!))) continue;
        const record = await recover(name, match[1]!);
        if (record !== null && !records.has(match[1]!)) records.set(match[1]!, record);
      }
      await sweepDone();
      return [...records.values()].sort((a, b) => a.candidate.height - b.candidate.height);
    },
    async scanFinds() {
      const finds: BlockCandidate[] = [];
      for (const name of await disk.list(directory)) {
        const record = /^[0-9a-f]{64}\.find$/.test(name) ? await readRecord(name) : null;
        if (record !== null) finds.push(record.candidate);
      }
      return finds;
    },
  };
}

function encodeRecord({ candidate, state }: BlockRecord): Uint8Array {
  const text = JSON.stringify({
    hash: encodeHexReversed(candidate.headerHash),
    height: candidate.height,
    state,
    account: candidate.account,
    worker: candidate.worker,
    foundAtMs: candidate.foundAtMs,
    rewardSats: String(candidate.rewardSats),
    // The whole of it, as it goes over the bus.
    candidate: Buffer.from(encodeBlockCandidate(candidate)).toString('base64'),
  });
  return Buffer.from(`${text}\n`);
}

function decodeRecord(bytes: Uint8Array): BlockRecord | null {
  let fields: { candidate?: unknown; state?: unknown } | null;
  try {
    fields = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return null;
  }
  if (typeof fields !== 'object' || fields === null || typeof fields.candidate !== 'string')
    return null;
  const state = STATES.find((known) => known === fields.state);
  const candidate = decodeBlockCandidate(Buffer.from(fields.candidate, 'base64'));
  return candidate.ok && state !== undefined ? { candidate: candidate.value, state } : null;
}

/** The candidate that a block's own bytes tell of, or null when they are not that block, whole. */
export function readCandidate(bytes: Uint8Array, hashDisplay: string): BlockCandidate | null {
  const header = bytes.subarray(0, 80);
  const headerHash = hashHeader(header);
  if (header.length !== 80 || encodeHexReversed(headerHash) !== hashDisplay) return null;
  const decoded = decodeBlock(bytes);
  if (!decoded.ok) return null;
  const { transactions } = decoded.block;
  const coinbase = transactions[0];
  if (coinbase === undefined) return null;
  const root = merkleRoot(transactions.map((tx) => txid(tx)));
  if (encodeHexReversed(root) !== encodeHexReversed(header.subarray(36, 68))) return null;
  let rewardSats = 0n;
  for (const { valueSats } of coinbase.outputs) rewardSats += valueSats;
  return {
    jobId: '',
    headerHash,
    header: new Uint8Array(header),
    coinbase: encodeTx(coinbase, { witness: false }),
    height: readHeight(coinbase),
    account: '',
    worker: '',
    foundAtMs: 0,
    networkDifficulty: 0,
    rewardSats,
    pool: 'main',
    planId: '',
  };
}

/** BIP34: the height is the first push of the coinbase script; small ones are opcodes. 0 when it cannot be read. */
function readHeight(coinbase: Tx): number {
  const script = coinbase.inputs[0]?.script;
  const first = script?.[0];
  if (script === undefined || first === undefined) return 0;
  if (first >= 0x51 && first <= 0x60) return first - 0x50;
  if (first > 4 || script.length < 1 + first) return 0;
  let height = 0;
  for (let i = first; i >= 1; i--) height = height * 256 + script[i]!;
  return height;
}
