/** Reading PSBTs: one that Bitcoin Core 28.1 made, and everything that is none. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeHex, encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import { readPsbt, sameSkeleton } from '../../../src/core/bitcoin/psbt.ts';

/** `walletcreatefundedpsbt` on regtest: one reward of 50 pays 1.5 and 2.5, the fee is 392 sat. */
const MADE =
  'cHNidP8BAKgCAAAAAUr65ZALGVHXAplilhhGeZDo2XrRFdrx44HZdMXUpvx2AAAAAAD9////A4DR8AgAAAAAFgAUvwWPpeVJntYdL3I5RyD2KYnyy5SAsuYOAAAAACJRIMK5EBaQarpNmU5RZzwWEmFUFYzEhwTuEYYAgcg/BzyyeGwuEgEAAAAiUSAJ5ZQywhQPhh+zFWrcMxi7hzcwLYQUsw3DWptdRHXWtwAAAAAAAQCDAgAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP////8CVAD/////AgDyBSoBAAAAFgAULyNkp/CdzOkQwJFV/6hvwfSeib4AAAAAAAAAACZqJKohqe3i9hw/cdHe/T+pmd+jaVN1XGkGiXmZYrSL69g2l06M+QAAAAABAR8A8gUqAQAAABYAFC8jZKfwnczpEMCRVf+ob8H0nom+IgYDVlyr4rX3q8NsUPHBGDFoesaLCuzjkWrFtmu6Ist1ykMY6fwD7FQAAIABAACAAAAAgAAAAAAAAAAAAAAAAQUg9SuMyuHB2CVCzoXxGQW95i7iGzXonHFMKNXRyWZ+9MwhB/UrjMrhwdglQs6F8RkFveYu4hs16JxxTCjV0clmfvTMGQDp/APsVgAAgAEAAIAAAACAAQAAAAAAAAAA';

function made() {
  const read = readPsbt(MADE);
  assert.ok(read.ok);
  return read;
}

test('what Bitcoin Core made is read: outputs, inputs, and what they are worth', () => {
  const { tx, spent } = made();
  assert.deepEqual(
    tx.outputs.map((output) => output.valueSats),
    [150_000_000n, 250_000_000n, 4_599_999_608n],
  );
  assert.equal(encodeHex(tx.outputs[0]?.script ?? new Uint8Array()).slice(0, 4), '0014');
  assert.deepEqual(
    tx.inputs.map((input) => [encodeHexReversed(input.previousTxid), input.previousIndex]),
    [['76fca6d4c574d981e3f1da15d17ad9e89079461896629902d751190b90e5fa4a', 0]],
  );
  assert.equal(spent[0]?.valueSats, 5_000_000_000n);
});

test('one changed byte is never read as the same payment of the same worth, and never throws', () => {
  const original = made();
  const bytes = Buffer.from(MADE, 'base64');
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] as number) ^ flip;
      const read = readPsbt(changed.toString('base64'));
      if (!read.ok || !sameSkeleton(read.tx, original.tx)) return;
      // Only what says how to sign may differ: keys and their paths, not what an input is worth.
      for (const [index, output] of read.spent.entries())
        if (output !== null) assert.deepEqual(output, original.spent[index]);
    }),
    { numRuns: 5_000 },
  );
});

test('cut off, too long, not base64, another format: refused', () => {
  const bytes = Buffer.from(MADE, 'base64');
  for (let length = 0; length < bytes.length; length += 7)
    assert.ok(!readPsbt(bytes.subarray(0, length).toString('base64')).ok);
  for (const text of ['', 'cHNidP8=', '💰', 'A'.repeat(5_000_000), `${MADE}AAAA`])
    assert.ok(!readPsbt(text).ok);
  fc.assert(
    fc.property(fc.string(), (text) => void readPsbt(text)),
    { numRuns: 500 },
  );
});

test('the skeleton is everything but signatures', () => {
  const { tx } = made();
  const signed = {
    ...tx,
    inputs: tx.inputs.map((input) => ({ ...input, witness: [Uint8Array.of(1)] })),
  };
  assert.ok(sameSkeleton(tx, signed));
  const first = tx.outputs[0]!;
  for (const other of [
    { ...tx, version: 1 },
    { ...tx, locktime: 1 },
    { ...tx, inputs: [] },
    { ...tx, inputs: tx.inputs.map((input) => ({ ...input, sequence: 0 })) },
    { ...tx, inputs: tx.inputs.map((input) => ({ ...input, previousIndex: 1 })) },
    { ...tx, outputs: [...tx.outputs].reverse() },
    { ...tx, outputs: [{ ...first, valueSats: first.valueSats - 1n }, ...tx.outputs.slice(1)] },
    { ...tx, outputs: tx.outputs.slice(0, 2) },
  ])
    assert.ok(!sameSkeleton(tx, other));
});
