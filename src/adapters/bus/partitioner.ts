/**
 * Which partition a key belongs to: murmur2 as Kafka's own clients compute it, so that programs in any language that write to these
 * topics agree, and topics of equal count agree with each other.
 */

const SEED = 0x9747b28c;
const M = 0x5bd1e995;
const R = 24;

/** Murmur2, 32 bits, seed of the Kafka clients; as an unsigned number. */
export function murmur2(data: Uint8Array): number {
  const length = data.length;
  let h = SEED ^ length;
  let at = 0;
  for (; at + 4 <= length; at += 4) {
    let k = data[at]! | (data[at + 1]! << 8) | (data[at + 2]! << 16) | (data[at + 3]! << 24);
    k = Math.imul(k, M);
    k ^= k >>> R;
    k = Math.imul(k, M);
    h = Math.imul(h, M) ^ k;
  }
  const left = length - at;
  if (left === 3) h ^= data[at + 2]! << 16;
  if (left >= 2) h ^= data[at + 1]! << 8;
  if (left >= 1) h = Math.imul(h ^ data[at]!, M);
  h ^= h >>> 13;
  h = Math.imul(h, M);
  h ^= h >>> 15;
  return h >>> 0;
}

/** The partition of a key among `count`: the positive half of the hash, as Kafka's default partitioner takes it. */
export function partitionOf(key: Uint8Array, count: number): number {
  return (murmur2(key) & 0x7fffffff) % count;
}
