/**
 * Where blocks live: in memory, or in one append-only file `blocks.dat` that is replayed at start.
 *
 *   record = "HFDV" | kind u8 | length u32 LE | CRC-32 of the payload u32 LE | payload
 *   kind 0: parameters of the chain, JSON (always the first record)      kind 1: a block, serialised with witness
 *   kind 2: a decision of the operator, JSON {verb, id} (invalidate, reconsider, precious)
 *
 * A record is one write, so `kill -9` leaves at most a torn last record, which is cut off at the next start. Data reaches
 * the disk by `fdatasync` shortly after; a pulled plug can cost the last blocks, never the file. A damaged record that is
 * not the last one is refused with its offset: that is not a crash but a broken disk.
 */

import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fdatasync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Log } from '../../ports.ts';

export type ChainDecision = { verb: 'invalidate' | 'reconsider' | 'precious'; id: string };

/** What the block file says about the chain it holds; fixed when the file is made. */
export type ChainParameters = { bits: number; easyBlocks: number };

export type BlockStore = {
  parameters: ChainParameters;
  /** Calls back once per stored record, oldest first. To be called once, before the first append. */
  replay(
    onBlock: (raw: Uint8Array, position: number) => void,
    onDecision: (decision: ChainDecision) => void,
  ): void;
  /** Keeps a block and returns the handle to read it by. */
  appendBlock(raw: Uint8Array): number;
  appendDecision(decision: ChainDecision): void;
  readBlock(position: number): Uint8Array;
  /** Bytes kept. */
  size(): number;
  stop(): Promise<void>;
};

const memoryBytesMax = 1024 * 1024 * 1024;
const recordBytesMax = 33 * 1024 * 1024;
const headBytes = 13;
const magic = Buffer.from('HFDV');
const kindOf = { parameters: 0, block: 1, decision: 2 } as const;

/** A store that forgets when the process ends; at most 1 GiB, beyond which RangeError. */
export function openMemoryStore(parameters: ChainParameters): BlockStore {
  const blocks: Uint8Array[] = [];
  let bytes = 0;
  return {
    parameters,
    replay() {},
    appendBlock(raw) {
      if (bytes + raw.length > memoryBytesMax)
        throw new RangeError('a development chain in memory is limited to 1 GiB of blocks');
      bytes += raw.length;
      return blocks.push(raw) - 1;
    },
    appendDecision() {},
    readBlock: (position) => blocks[position],
    size: () => bytes,
    async stop() {},
  };
}

/**
 * Opens (or makes) the block file in `directory`, exclusively: a second process, or a second chain in this one, is
 * refused. The file's own parameters win over `parameters`, because the blocks in it obey them.
 */
export async function openFileStore(
  tools: { log: Log },
  directory: string,
  parameters: ChainParameters,
): Promise<BlockStore> {
  const { log } = tools;
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const unlock = await lockDirectory(directory);
  const path = join(directory, 'blocks.dat');
  const file = openSync(path, existsSync(path) ? 'r+' : 'wx+', 0o600);
  let end = 0;
  let syncing = false;
  let syncAgain = false;
  let stopped = false;
  let onSynced: (() => void) | null = null;

  const sync = (): void => {
    if (syncing) {
      syncAgain = true;
      return;
    }
    syncing = true;
    fdatasync(file, (error) => {
      syncing = false;
      if (error) log.error('the block file could not be synced', { path, error: error.message });
      if (syncAgain && !stopped) {
        syncAgain = false;
        sync();
      } else onSynced?.();
    });
  };

  const append = (kind: number, payload: Uint8Array): number => {
    const head = Buffer.alloc(headBytes);
    magic.copy(head);
    head[4] = kind;
    head.writeUInt32LE(payload.length, 5);
    head.writeUInt32LE(crc32(payload), 9);
    const record = Buffer.concat([head, payload]);
    const position = end;
    for (let written = 0; written < record.length; )
      written += writeSync(file, record, written, record.length - written, end + written);
    end += record.length;
    sync();
    return position;
  };

  const readAt = (position: number): { kind: number; payload: Buffer } | null => {
    const head = Buffer.alloc(headBytes);
    if (readSync(file, head, 0, headBytes, position) < headBytes) return null;
    const length = head.readUInt32LE(5);
    if (!head.subarray(0, 4).equals(magic) || length > recordBytesMax) return null;
    const payload = Buffer.alloc(length);
    if (readSync(file, payload, 0, length, position + headBytes) < length) return null;
    return crc32(payload) === head.readUInt32LE(9) ? { kind: head[4], payload } : null;
  };

  const size = fstatSync(file).size;
  const first = size === 0 ? null : readAt(0);
  if (size > 0 && first?.kind !== kindOf.parameters && size > recordBytesMax) {
    closeSync(file);
    await unlock();
    throw new Error(`${path} is not a block file of this development chain`);
  }
  let own = parameters;
  if (first === null || first.kind !== kindOf.parameters) {
    if (size > 0) {
      log.warn(
        'the block file has no readable first record; it is kept aside and a new one begun',
        {
          path,
        },
      );
      writeFileSync(`${path}.damaged`, readFileSync(path));
      ftruncateSync(file, 0);
    }
    append(kindOf.parameters, Buffer.from(JSON.stringify(parameters)));
  } else {
    own = decodeParameters(first.payload, parameters);
    end = headBytes + first.payload.length;
  }

  return {
    parameters: own,
    replay(onBlock, onDecision) {
      while (end < size) {
        const record = readAt(end);
        if (record === null) {
          if (findRecordAfter(file, end + 1, size))
            throw new Error(`${path} is damaged at offset ${end}`);
          log.warn('the last record of the block file was torn and is cut off', {
            path,
            offset: end,
          });
          ftruncateSync(file, end);
          break;
        }
        const position = end;
        end += headBytes + record.payload.length;
        if (record.kind === kindOf.block) onBlock(record.payload, position);
        else if (record.kind === kindOf.decision) {
          const decision = decodeDecision(record.payload);
          if (decision) onDecision(decision);
        }
      }
    },
    appendBlock: (raw) => append(kindOf.block, raw),
    appendDecision(decision) {
      append(kindOf.decision, Buffer.from(JSON.stringify(decision)));
    },
    readBlock(position) {
      const record = readAt(position);
      if (record === null) throw new Error(`${path} is damaged at offset ${position}`);
      return record.payload;
    },
    size: () => end,
    async stop() {
      if (stopped) return;
      if (syncing)
        await new Promise<void>((resolve) => {
          onSynced = resolve;
        });
      stopped = true;
      closeSync(file);
      await unlock();
    },
  };
}

/** True when a whole, undamaged record head stands somewhere after `from`: then the damage before it is no torn tail. */
function findRecordAfter(file: number, from: number, size: number): boolean {
  const window = Buffer.alloc(Math.min(size - from, recordBytesMax));
  readSync(file, window, 0, window.length, from);
  for (let at = window.indexOf(magic); at >= 0; at = window.indexOf(magic, at + 1)) {
    if (at + headBytes > window.length) return false;
    const length = window.readUInt32LE(at + 5);
    if (
      at + headBytes + length <= window.length &&
      crc32(window.subarray(at + headBytes, at + headBytes + length)) ===
        window.readUInt32LE(at + 9)
    )
      return true;
  }
  return false;
}

function decodeParameters(payload: Buffer, otherwise: ChainParameters): ChainParameters {
  try {
    const value = JSON.parse(payload.toString('utf8')) as Partial<ChainParameters>;
    if (Number.isSafeInteger(value.bits) && Number.isSafeInteger(value.easyBlocks))
      return { bits: Number(value.bits), easyBlocks: Number(value.easyBlocks) };
  } catch {
    // An undamaged record that is no JSON was written by no version of this program.
  }
  return otherwise;
}

function decodeDecision(payload: Buffer): ChainDecision | null {
  try {
    const value = JSON.parse(payload.toString('utf8')) as Partial<ChainDecision>;
    if (typeof value.id === 'string' && typeof value.verb === 'string')
      return { verb: value.verb as ChainDecision['verb'], id: value.id };
  } catch {
    // As above.
  }
  return null;
}

/**
 * Holds a directory for one process by listening on a unix socket named after it: the system lets go of it however the
 * process ends, and a left-over socket file is told from a held one by connecting to it.
 */
async function lockDirectory(directory: string): Promise<() => Promise<void>> {
  const name = createHash('sha256').update(realpathSync(directory)).digest('hex').slice(0, 24);
  const path = join(tmpdir(), `headframe-devnet-${name}.sock`);
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const server = createServer((socket) => socket.destroy());
    const held = await new Promise<boolean>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) =>
        error.code === 'EADDRINUSE' ? resolve(false) : reject(error),
      );
      server.listen(path, () => resolve(true));
    });
    if (held) {
      server.unref();
      return () => new Promise((resolve) => server.close(() => resolve()));
    }
    const alive = await new Promise<boolean>((resolve) => {
      const probe = connect(path);
      probe.once('connect', () => {
        probe.destroy();
        resolve(true);
      });
      probe.once('error', () => resolve(false));
    });
    if (alive) break;
    rmSync(path, { force: true });
  }
  throw new Error(`${directory} is in use by another development chain`);
}
