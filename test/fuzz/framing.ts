/**
 * Fuzz target: bytes in any segmentation through `LineFramer`, `sniff` and `decodeProxyHeader`. None may throw; lines and
 * fault must be the same as those of a slow reader that has the whole stream before it; what is held never exceeds the
 * limit.
 *
 * Longer: `node test/fuzz/framing.ts <seed> <iterations>`.
 */
import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { EMPTY_LINES_MAX, type FrameFault, LineFramer } from '../../src/core/stratum/framing.ts';
import { decodeProxyHeader } from '../../src/core/stratum/proxy-header.ts';
import { sniff } from '../../src/core/stratum/sniff.ts';
import { createRandom, type Random } from '../tools/random.ts';

const PIECES = [
  '\n',
  '\r\n',
  '\r',
  ' ',
  '\t',
  '\0',
  '\ufeff',
  '\x01',
  'ü€😀',
  '{"id":1,"method":"mining.submit","params":["a","b","c","d","e"]}\n',
  'x'.repeat(100),
  '\n'.repeat(60),
  'PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n',
  'GET / HTTP/1.1\r\n\r\n',
].map((text) => Buffer.from(text));
const ODD = ['c0af', 'fffe', 'e282', 'eda080', 'f4908080', '0d0a0d0a000d0a515549540a2111000c'].map(
  (hex) => Buffer.from(hex, 'hex'),
);
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

type Reading = { lines: string[]; fault: FrameFault | null };

/** Runs `iterations` streams from `seed`; throws on the first broken promise. Returns how many lines were read. */
export function fuzz(seed: number, iterations: number): number {
  const random = createRandom(seed);
  let lines = 0;
  for (let at = 0; at < iterations; at++) {
    const bytes = makeStream(random);
    const limit = random.pick([50, 200, 2_048]);
    const expected = readSlowly(bytes, limit);
    const got = readInPieces(random, bytes, limit);
    assert.deepEqual(got, expected, `iteration ${at}, ${bytes.toString('hex')}`);
    lines += got.lines.length;
    const cut = bytes.subarray(0, random.below(bytes.length + 1));
    const header = decodeProxyHeader(cut);
    if (header.kind === 'ok') assert.ok(header.bytes <= cut.length);
    const early = sniff(cut);
    if (early.kind !== 'more') assert.deepEqual(sniff(bytes), early);
  }
  return lines;
}

function makeStream(random: Random): Buffer {
  const parts: Uint8Array[] = [];
  for (let count = random.below(20); count >= 0; count--) {
    const kind = random.below(8);
    if (kind < 6) parts.push(random.pick(PIECES));
    else if (kind === 6) parts.push(random.pick(ODD));
    else parts.push(random.bytes(random.below(12)));
  }
  return Buffer.concat(parts);
}

function readInPieces(random: Random, bytes: Uint8Array, limit: number): Reading {
  const framer = new LineFramer();
  const lines: string[] = [];
  const sizes = random.pick([1, 7, 64, 4_096]);
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + random.below(sizes);
    framer.feed(bytes.subarray(at, at + size));
    at += size;
    for (let line = framer.next(limit, decode); line !== null; line = framer.next(limit, decode)) {
      lines.push(line);
    }
    assert.ok(framer.partialBytes <= limit);
  }
  return { lines, fault: framer.fault };
}

/** The same rules, told the long way round. */
function readSlowly(bytes: Buffer, limit: number): Reading {
  const lines: string[] = [];
  let empty = 0;
  let isFirst = true;
  for (let from = 0; from <= bytes.length; ) {
    const found = bytes.indexOf(0x0a, from);
    const end = found < 0 ? bytes.length : found;
    const line = bytes.subarray(from, end);
    for (let at = 0; at < line.length; at++) {
      if (at === limit) return { lines, fault: 'line-too-long' };
      if (line[at] === 0) return { lines, fault: 'nul' };
      const isBlank = line[at] === 0x20 || line[at] === 0x09 || line[at] === 0x0d;
      const before = line.subarray(0, at).toString('latin1');
      if (!isBlank && /\r[ \t\r]*$/.test(before)) return { lines, fault: 'lone-cr' };
    }
    if (found < 0) break;
    from = end + 1;
    let trimmed = line.subarray(0, line.toString('latin1').replace(/[ \t\r]+$/, '').length);
    if (trimmed.length > 0 && isFirst) {
      isFirst = false;
      if (trimmed.subarray(0, 3).toString('hex') === 'efbbbf') trimmed = trimmed.subarray(3);
    }
    if (trimmed.length === 0) {
      if (++empty > EMPTY_LINES_MAX) return { lines, fault: 'empty-lines' };
      continue;
    }
    empty = 0;
    const text = decode(trimmed, 0, trimmed.length, false);
    if (text === null) return { lines, fault: 'bad-utf8' };
    lines.push(text);
  }
  return { lines, fault: null };
}

function decode(bytes: Uint8Array, from: number, to: number, ascii: boolean): string | null {
  const part = bytes.subarray(from, to);
  if (ascii) return Buffer.from(part).toString('latin1');
  try {
    return strict.decode(part);
  } catch {
    return null;
  }
}

if (import.meta.main) {
  const [seed = String(Date.now() >>> 0), iterations = '1000000'] = process.argv.slice(2);
  console.log(`seed ${seed}: ${fuzz(Number(seed), Number(iterations))} lines`);
}
