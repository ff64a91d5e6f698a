/** The shelf of templates: what goes in comes out, shared transactions are kept once, three tips stay. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  TemplateShelf,
  TIPS_MAX,
  transactionLengths,
} from '../../../src/services/blocksubmit/shelf.ts';
import { fakeTransaction } from '../../tools/fake-node.ts';

function template(jobId: string, tip: number, bodies: readonly string[]) {
  return {
    jobId,
    height: tip,
    previousHash: new Uint8Array(32).fill(tip),
    transactionCount: bodies.length,
    body: Buffer.from(bodies.join(''), 'hex'),
    witness: true,
  };
}

const transactions = Array.from(
  { length: 60 },
  (_, i) => fakeTransaction(i, i % 3 === 0 ? 0 : 40 * i).data,
);

describe('template shelf', () => {
  it('cuts at transaction borders', () => {
    const body = Buffer.from(transactions.join(''), 'hex');
    assert.deepEqual(
      transactionLengths(body),
      transactions.map((data) => data.length / 2),
    );
  });

  it('cuts any bytes so that the pieces add up', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (body) => {
        const sum = transactionLengths(body).reduce((total, length) => total + length, 0);
        assert.equal(sum, body.length);
      }),
    );
  });

  it('gives back every body whole, whatever was shared and dropped', () => {
    const step = fc.record({
      tip: fc.integer({ min: 0, max: 5 }),
      chosen: fc.subarray(transactions),
      broken: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
        const shelf = new TemplateShelf(1 << 20);
        const expected = new Map<string, string>();
        let id = 0;
        for (const { tip, chosen, broken } of steps) {
          id += 1;
          const list = broken ? [...chosen, 'ff00ff'] : chosen;
          shelf.add(template(`${id}`, tip, list));
          expected.set(`${id}`, list.join(''));
          for (const [jobId, hex] of expected) {
            if (shelf.find(jobId) === null) continue;
            assert.equal(shelf.hexOf(jobId)!.toString('latin1'), hex);
            assert.equal(Buffer.from(shelf.bodyOf(jobId)!).toString('hex'), hex);
          }
        }
        assert.equal(shelf.evicted, 0);
      }),
      { numRuns: 40 },
    );
  });

  it('keeps all templates of the last three tips and each transaction once', () => {
    const shelf = new TemplateShelf(1 << 20);
    const bytes = transactions.join('').length / 2;
    for (let i = 0; i < 100; i++) shelf.add(template(`a${i}`, 1, transactions));
    assert.equal(shelf.bytes, bytes);
    for (let tip = 2; tip <= TIPS_MAX; tip++) shelf.add(template(`b${tip}`, tip, transactions));
    assert.notEqual(shelf.find('a0'), null);
    assert.equal(shelf.add(template('c', 99, [])), true);
    assert.equal(shelf.find('a0'), null);
    assert.equal(shelf.bytes, bytes);
    shelf.add(template('d', 100, []));
    shelf.add(template('e', 101, []));
    assert.equal(shelf.bytes, 0);
  });

  it('stays within its bytes, oldest first, and never drops the newest', () => {
    const shelf = new TemplateShelf(10_000);
    for (let i = 0; i < 5; i++) {
      const own = Array.from(
        { length: 4 },
        (_, n) => fakeTransaction(1000 + i * 10 + n, 1000).data,
      );
      shelf.add(template(`${i}`, 1, own));
    }
    assert.ok(shelf.bytes <= 10_000);
    assert.ok(shelf.evicted > 0);
    assert.equal(shelf.find('0'), null);
    const huge = [fakeTransaction(5000, 50_000).data];
    shelf.add(template('huge', 1, huge));
    assert.equal(shelf.hexOf('huge')!.toString('latin1'), huge[0]);
  });
});
