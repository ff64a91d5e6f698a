/**
 * The simulation's own arithmetic, written a second time on purpose: node:crypto instead of the fold, BigInt instead of words,
 * built from what the miner was told on the wire instead of from the gateway's memory. A mistake in `core` must not be able to
 * hide by being made twice.
 */
import { createHash } from 'node:crypto';

const DIFFICULTY_1 = 0xffffn << 208n;

/** SHA-256 twice. */
export function doubleSha(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(createHash('sha256').update(bytes).digest()).digest();
}

/** Header hash (wire order) as the integer that is compared with a target. */
export function integerOf(hash: Uint8Array): bigint {
  return BigInt(`0x${Buffer.from(hash).reverse().toString('hex')}`);
}

/** floor(difficulty-1 target / difficulty), at most 2^256 − 1; exact for every double over 2^-100. */
export function targetOf(difficulty: number): bigint {
  const scaled = BigInt(difficulty * 2 ** 110);
  const target = (DIFFICULTY_1 << 110n) / scaled;
  const max = (1n << 256n) - 1n;
  return target > max ? max : target;
}

/** Target of compact bits; the simulation only makes well-formed ones. */
export function targetOfBits(bits: number): bigint {
  return BigInt(bits & 0x7fffff) << BigInt(8 * ((bits >>> 24) - 3));
}

/** What a `mining.notify` told, as bytes. */
export type ToldJob = {
  jobId: string;
  /** Wire order. */
  previousHash: Buffer;
  prefix: Buffer;
  suffix: Buffer;
  branch: Buffer[];
  version: number;
  bits: number;
  ntime: number;
  clean: boolean;
};

/** Reads the parameters of a `mining.notify`; throws on anything a miner's firmware would choke on. */
export function readNotify(params: unknown[]): ToldJob {
  const [jobId, previous, prefix, suffix, branch, version, bits, ntime, clean] = params as [
    string,
    string,
    string,
    string,
    string[],
    string,
    string,
    string,
    boolean,
  ];
  const hex = (text: string, bytes: number | null): Buffer => {
    if (typeof text !== 'string' || !/^(?:[0-9a-f]{2})*$/.test(text))
      throw new Error(`notify: ${text}`);
    if (bytes !== null && text.length !== bytes * 2) throw new Error(`notify: ${text}`);
    return Buffer.from(text, 'hex');
  };
  // Stratum sends the previous hash as eight 32-bit words, each with its bytes turned round.
  const previousHash = hex(previous, 32).swap32();
  if (typeof clean !== 'boolean' || typeof jobId !== 'string') throw new Error('notify: types');
  return {
    jobId,
    previousHash,
    prefix: hex(prefix, null),
    suffix: hex(suffix, null),
    branch: branch.map((text) => hex(text, 32)),
    version: hex(version, 4).readUInt32BE(),
    bits: hex(bits, 4).readUInt32BE(),
    ntime: hex(ntime, 4).readUInt32BE(),
    clean,
  };
}

/** Merkle root (wire order) of a job with the given extranonces. */
export function rootOf(job: ToldJob, extranonce1: Uint8Array, extranonce2: Uint8Array): Buffer {
  let hash = doubleSha(Buffer.concat([job.prefix, extranonce1, extranonce2, job.suffix]));
  for (const sibling of job.branch) hash = doubleSha(Buffer.concat([hash, sibling]));
  return hash;
}

/** The 80 header bytes. */
export function headerBytes(
  job: ToldJob,
  root: Uint8Array,
  fields: { version: number; ntime: number; nonce: number },
): Buffer {
  const header = Buffer.alloc(80);
  header.writeUInt32LE(fields.version >>> 0, 0);
  job.previousHash.copy(header, 4);
  header.set(root, 36);
  header.writeUInt32LE(fields.ntime >>> 0, 68);
  header.writeUInt32LE(job.bits, 72);
  header.writeUInt32LE(fields.nonce >>> 0, 76);
  return header;
}

/** Merkle root of a list of transaction ids (wire order), the plain way. */
export function merkleRootOf(ids: readonly Uint8Array[]): Buffer {
  let row: Buffer[] = ids.map((id) => Buffer.from(id));
  while (row.length > 1) {
    if (row.length % 2 === 1) row.push(row[row.length - 1]!);
    const next: Buffer[] = [];
    for (let i = 0; i < row.length; i += 2)
      next.push(doubleSha(Buffer.concat([row[i]!, row[i + 1]!])));
    row = next;
  }
  return row[0]!;
}
