import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { EMPTY_LINES_MAX, type FrameFault, LineFramer } from '../../../src/core/stratum/framing.ts';

const LIMIT = 2_048;
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decode(bytes: Uint8Array, from: number, to: number, ascii: boolean): string | null {
  const part = bytes.subarray(from, to);
  if (ascii) {
    assert.ok(part.every((byte) => byte < 0x80));
    return Buffer.from(part).toString('latin1');
  }
  try {
    return strict.decode(part);
  } catch {
    return null;
  }
}

function read(
  chunks: readonly (string | Uint8Array)[],
  limit = LIMIT,
): { lines: string[]; fault: FrameFault | null; partialBytes: number } {
  const framer = new LineFramer();
  const lines: string[] = [];
  for (const chunk of chunks) {
    framer.feed(typeof chunk === 'string' ? Buffer.from(chunk) : chunk);
    for (let line = framer.next(limit, decode); line !== null; line = framer.next(limit, decode)) {
      lines.push(line);
    }
  }
  return { lines, fault: framer.fault, partialBytes: framer.partialBytes };
}

describe('lines', () => {
  it('splits at LF, trims CR and blanks, forgives one byte order mark', () => {
    assert.deepEqual(read(['\ufeff{"a":1}\r\n{"b":2}  \n\t\n\r\n{"c":3}\r\r\n']).lines, [
      '{"a":1}',
      '{"b":2}',
      '{"c":3}',
    ]);
    assert.deepEqual(read(['a\n\ufeffb\n']).lines, ['a', '\ufeffb']);
  });

  it('keeps an unfinished line for the next chunk and nothing else', () => {
    const { lines, partialBytes } = read(['abc\nde', 'f\ngh']);
    assert.deepEqual(lines, ['abc', 'def']);
    assert.equal(partialBytes, 2);
    assert.equal(read(['abc\n']).partialBytes, 0);
  });

  it('decodes a character split over two segments', () => {
    const bytes = Buffer.from('{"user":"ü€😀"}\n');
    for (let cut = 1; cut < bytes.length; cut++) {
      const { lines } = read([bytes.subarray(0, cut), bytes.subarray(cut)]);
      assert.deepEqual(lines, ['{"user":"ü€😀"}']);
    }
  });

  it('says the same whatever the segmentation', () => {
    const piece = fc.constantFrom(
      '{"id":1}',
      '\n',
      '\r\n',
      '\r',
      ' ',
      'ü',
      '\ufeff',
      '\0',
      '\t',
      'x'.repeat(300),
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 40 }),
        fc.array(fc.nat(400), { maxLength: 12 }),
        (pieces, cuts) => {
          const bytes = Buffer.from(pieces.join(''));
          const chunks: Uint8Array[] = [];
          let from = 0;
          for (const cut of cuts) {
            chunks.push(bytes.subarray(from, Math.min(from + cut, bytes.length)));
            from = Math.min(from + cut, bytes.length);
          }
          chunks.push(bytes.subarray(from));
          const whole = read([bytes], 700);
          const cutUp = read(chunks, 700);
          assert.deepEqual(cutUp.lines, whole.lines);
          assert.equal(cutUp.fault, whole.fault);
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('faults', () => {
  it('takes a line at the limit and not one byte more', () => {
    assert.equal(read(['x'.repeat(LIMIT), '\n']).lines[0]?.length, LIMIT);
    assert.equal(read(['x'.repeat(LIMIT + 1)]).fault, 'line-too-long');
    assert.equal(read([`${'x'.repeat(LIMIT + 1)}\n`]).fault, 'line-too-long');
    assert.equal(read(['ok\n', 'x'.repeat(LIMIT), 'x']).fault, 'line-too-long');
  });

  it('lets the limit grow between two lines of a chunk', () => {
    const framer = new LineFramer();
    framer.feed(Buffer.from(`a\n${'x'.repeat(5_000)}\n`));
    assert.equal(framer.next(2_048, decode), 'a');
    assert.ok(framer.pending);
    assert.equal(framer.next(8_192, decode)?.length, 5_000);
  });

  it('stops at NUL, a CR in the middle and bytes that are not UTF-8, after the lines before', () => {
    assert.deepEqual(read(['a\nb\0c\nd\n']), { lines: ['a'], fault: 'nul', partialBytes: 0 });
    assert.equal(read(['a\rb\n']).fault, 'lone-cr');
    assert.equal(read(['{"a":1}\r', '{"a":2}\r']).fault, 'lone-cr');
    assert.equal(read([Uint8Array.of(0x61, 0xc0, 0xaf, 0x0a)]).fault, 'bad-utf8');
    assert.equal(read([Uint8Array.of(0xff, 0xfe, 0x0a)]).fault, 'bad-utf8');
  });

  it('forgives some empty lines in a row, not a flood', () => {
    assert.equal(read(['\r\n'.repeat(EMPTY_LINES_MAX)]).fault, null);
    assert.equal(read(['\r\n'.repeat(EMPTY_LINES_MAX + 1)]).fault, 'empty-lines');
    assert.equal(read(['a\n\n\n'.repeat(200)]).fault, null);
  });

  it('answers nothing after a fault', () => {
    const framer = new LineFramer();
    framer.feed(Buffer.from('\0'));
    assert.equal(framer.next(LIMIT, decode), null);
    framer.feed(Buffer.from('fine\n'));
    assert.equal(framer.next(LIMIT, decode), null);
    assert.equal(framer.partialBytes, 0);
  });
});
