import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  cleanTag,
  encodeLine,
  type LinePoint,
  quoteName,
  quoteText,
} from '../../../src/core/series/line.ts';

const AT_MS = 1_700_000_000_000;
const point = (more: Partial<LinePoint>): LinePoint => ({
  measurement: 'shares',
  tags: { pool: 'main' },
  fields: { count: 1n },
  atMs: AT_MS,
  ...more,
});

test('lines as the protocol writes them', () => {
  for (const [given, line] of [
    [{}, 'shares,pool=main count=1i 1700000000000000'],
    [{ tags: {} }, 'shares count=1i 1700000000000000'],
    [{ tags: { b: 'x', a: 'y' } }, 'shares,a=y,b=x count=1i 1700000000000000'],
    [{ tags: { pool: '', a: 'y' } }, 'shares,a=y count=1i 1700000000000000'],
    [{ tags: { a: 'b c,d=e' } }, 'shares,a=b\\ c\\,d\\=e count=1i 1700000000000000'],
    [{ tags: { a: 'x\n# y\\' } }, 'shares,a=x_#\\ y_ count=1i 1700000000000000'],
    [{ tags: { 'k =,': 'v' } }, 'shares,k\\ \\=\\,=v count=1i 1700000000000000'],
    [{ measurement: 'a b,c' }, 'a\\ b\\,c,pool=main count=1i 1700000000000000'],
    [
      { fields: { a: 1, b: 1.5, c: -0.5, d: 1e300 } },
      'shares,pool=main a=1,b=1.5,c=-0.5,d=1e+300 1700000000000000',
    ],
    [
      { fields: { a: true, b: 'q"\\\n' } },
      'shares,pool=main a=true,b="q\\"\\\\ " 1700000000000000',
    ],
    [{ fields: { a: Number.NaN, b: 2n ** 63n, c: 3n } }, 'shares,pool=main c=3i 1700000000000000'],
    [{ atMs: AT_MS + 0.001 }, 'shares,pool=main count=1i 1700000000000001'],
    [{ atMs: AT_MS + 9_999.999 }, 'shares,pool=main count=1i 1700000009999999'],
    [{ fields: {} }, null],
    [{ fields: { a: Number.POSITIVE_INFINITY } }, null],
    [{ atMs: Number.NaN }, null],
    [{ atMs: 1e300 }, null],
    [{ measurement: '' }, null],
    [{ measurement: '# no' }, null],
  ] satisfies [Partial<LinePoint>, string | null][]) {
    assert.equal(encodeLine(point(given)), line);
  }
});

/** Reads a line as the servers do, with another hand: unescaped separators part it. */
function readLine(line: string): { parts: number; tags: number; fields: number } {
  let text = '';
  let isQuoted = false;
  // Escaped characters and quoted text say nothing about the structure.
  for (let i = 0; i < line.length; i++) {
    if (line[i] === '\\') i++;
    // In names and tags a quotation mark is a letter.
    else if (line[i] === '"' && text.includes(' ')) isQuoted = !isQuoted;
    else if (!isQuoted) text += line[i];
  }
  assert.equal(isQuoted, false);
  const parts = text.split(' ');
  return {
    parts: parts.length,
    tags: parts[0]!.split(',').length - 1,
    fields: parts[1]!.split(',').length,
  };
}

test('no text adds a point, a tag or a field', () => {
  const nasty = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc
      .array(
        fc.constantFrom(',', '=', ' ', '\\', '"', "'", '\n', '\r', '\u2028', '#', 'a', '\ud800'),
      )
      .map((letters) => letters.join('')),
  );
  fc.assert(
    fc.property(nasty, nasty, nasty, nasty, (name, tagKey, tagValue, text) => {
      const line = encodeLine(
        point({
          measurement: `m${name}`,
          tags: { [`k${tagKey}`]: `v${tagValue}` },
          fields: { f: text, n: 1n },
        }),
      );
      assert.ok(line !== null);
      assert.doesNotMatch(line, /[\r\n\u2028\u2029\u0000]/);
      assert.deepEqual(readLine(line), { parts: 3, tags: 1, fields: 2 });
      assert.equal(Buffer.from(line).toString(), line);
    }),
    { numRuns: 500 },
  );
});

test('a tag is cleaned once: what is written is what is asked for', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.equal(cleanTag(cleanTag(text)), cleanTag(text));
    }),
  );
  assert.equal(cleanTag('x'.repeat(5_000)).length, 1_024);
});

test('literals of InfluxQL end where they end', () => {
  assert.equal(quoteText("a' OR 'x'='x"), "'a\\' OR \\'x\\'=\\'x'");
  assert.equal(quoteText('a\\'), "'a\\\\'");
  assert.equal(quoteText('a\nb'), "'a_b'");
  assert.equal(quoteName('a"; DROP DATABASE "b'), '"a\\"; DROP DATABASE \\"b"');
});
