import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { directCarry, writeOffDebts } from '../../../src/core/ledger/carry.ts';

const script = (id: number) => Uint8Array.of(0, 20, ...new Uint8Array(20).fill(id));
const commitment = { script: Uint8Array.of(0x6a, 1, 2), valueSats: 0n };

test('earned less paid, by account id, adds up to zero', () => {
  const answer = directCarry(
    [
      { accountId: 3n, script: script(3), earnedSats: 500n },
      { accountId: 1n, script: script(1), earnedSats: 400n },
      // The fee goes to a miner's account.
      { accountId: 3n, script: script(3), earnedSats: 100n },
      { accountId: 2n, script: script(2), earnedSats: 0n },
    ],
    [
      { script: script(3), valueSats: 250n },
      commitment,
      { script: script(2), valueSats: 700n },
      { script: script(3), valueSats: 50n },
    ],
  );
  assert.deepEqual(answer, {
    ok: true,
    rows: [
      { accountId: 1n, earnedSats: 400n, paidSats: 0n, carrySats: 400n },
      { accountId: 2n, earnedSats: 0n, paidSats: 700n, carrySats: -700n },
      { accountId: 3n, earnedSats: 600n, paidSats: 300n, carrySats: 300n },
    ],
  });
});

test('a coinbase that is not the plan’s is a reason, not a guess', () => {
  const earnings = [{ accountId: 1n, script: script(1), earnedSats: 400n }];
  const reasonOf = (answer: ReturnType<typeof directCarry>) => (answer.ok ? 'ok' : answer.reason);
  assert.match(
    reasonOf(directCarry(earnings, [{ script: script(9), valueSats: 400n }])),
    /which is nobody's/,
  );
  assert.match(reasonOf(directCarry(earnings, [commitment])), /differ by 400 sat/);
  assert.match(
    reasonOf(directCarry(earnings, [{ script: script(1), valueSats: 401n }])),
    /differ by -1 sat/,
  );
  const twins = [...earnings, { accountId: 2n, script: script(1), earnedSats: 0n }];
  assert.match(reasonOf(directCarry(twins, [])), /share a script/);
  assert.deepEqual(directCarry([], [commitment]), { ok: true, rows: [] });
});

test('debts of who has left are borne by who is owed, and nobody changes sides', () => {
  const sats = fc.bigInt({ min: -1_000_000n, max: 1_000_000n });
  const rows = fc
    .array(fc.tuple(sats, fc.boolean()), { minLength: 1, maxLength: 30 })
    .map((list) => {
      const sum = list.reduce((all, [one]) => all + one, 0n);
      return [...list, [-sum, false] as const].map(([carrySats, hasLeft], at) => ({
        accountId: BigInt(at),
        carrySats,
        hasLeft,
      }));
    });
  fc.assert(
    fc.property(rows, (balances) => {
      const after = new Map(balances.map((row) => [row.accountId, row.carrySats]));
      const changes = writeOffDebts(balances);
      for (const { accountId, sats: change } of changes) {
        assert.notEqual(change, 0n);
        after.set(accountId, after.get(accountId)! + change);
      }
      let sum = 0n;
      for (const { accountId, carrySats, hasLeft } of balances) {
        const left = after.get(accountId)!;
        sum += left;
        if (carrySats > 0n) assert.ok(left >= 0n && left <= carrySats);
        else assert.equal(left, hasLeft ? 0n : carrySats);
      }
      assert.equal(sum, 0n);
    }),
  );
  assert.throws(
    () => writeOffDebts([{ accountId: 1n, carrySats: 1n, hasLeft: false }]),
    RangeError,
  );
});
