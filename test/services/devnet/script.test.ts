/**
 * Signing and checking of spends against @scure/btc-signer, and what is refused. Bitcoin Core is the other judge
 * (`bitcoind.test.ts`): all four address types spend in both directions there.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Transaction } from '@scure/btc-signer';
import fc from 'fast-check';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { sha256 } from '../../../src/core/bitcoin/hash.ts';
import { decodeTx, encodeTx, type Tx } from '../../../src/core/bitcoin/tx.ts';
import {
  addressTypes,
  deriveKey,
  redeemScriptOf,
  signInput,
} from '../../../src/services/devnet/keys.ts';
import {
  checkSpend,
  countSigops,
  decodePushes,
  dropScript,
  encodePush,
  kindOfScript,
} from '../../../src/services/devnet/script.ts';

const seed = new Uint8Array(32).fill(5);
const keys = addressTypes.map((type, index) => deriveKey(seed, { type, change: false, index }));

/** A transaction that spends one output of each type. */
const spend = (
  outputs: number,
): { tx: Tx; spent: { valueSats: bigint; script: Uint8Array }[] } => ({
  tx: {
    version: 2,
    inputs: keys.map((_, at) => ({
      previousTxid: new Uint8Array(32).fill(at + 1),
      previousIndex: at,
      script: new Uint8Array(0),
      sequence: 0xffff_fffd,
      witness: [],
    })),
    outputs: Array.from({ length: outputs }, (_, at) => ({
      valueSats: BigInt(1000 + at),
      script: keys[at % 4].script,
    })),
    locktime: 7,
  },
  spent: keys.map((key, at) => ({ valueSats: BigInt(50_000 + at), script: key.script })),
});

const sign = (tx: Tx, spent: { valueSats: bigint; script: Uint8Array }[]): Tx => ({
  ...tx,
  inputs: tx.inputs.map((input, at) => ({ ...input, ...signInput(tx, at, spent, keys[at]) })),
});

test('what the wallet signs, the check accepts, and any change to it is refused', () => {
  const { tx, spent } = spend(3);
  const signed = sign(tx, spent);
  for (let at = 0; at < 4; at += 1)
    assert.equal(checkSpend(signed, at, spent), null, addressTypes[at]);
  const changes: [string, Tx, typeof spent][] = [
    [
      'output value',
      { ...signed, outputs: [{ ...signed.outputs[0], valueSats: 1n }, ...signed.outputs.slice(1)] },
      spent,
    ],
    ['lock time', { ...signed, locktime: 8 }, spent],
    ['version', { ...signed, version: 1 }, spent],
    [
      'sequence',
      { ...signed, inputs: signed.inputs.map((input) => ({ ...input, sequence: 1 })) },
      spent,
    ],
  ];
  for (const [name, changed, coins] of changes)
    for (let at = 0; at < 4; at += 1)
      assert.notEqual(checkSpend(changed, at, coins), null, `${name}, ${addressTypes[at]}`);
  const cheaper = spent.map((output) => ({ ...output, valueSats: output.valueSats - 1n }));
  assert.equal(checkSpend(signed, 0, cheaper), null, 'the old hash does not cover amounts');
  for (let at = 1; at < 4; at += 1) assert.notEqual(checkSpend(signed, at, cheaper), null);
});

test('every flipped bit of a signature or key is refused', () => {
  const { tx, spent } = spend(2);
  const signed = sign(tx, spent);
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 3 }), fc.nat(), fc.nat(7), (at, where, bit) => {
      const witness = signed.inputs[at].witness.map((item) => item.slice());
      const item = witness[where % witness.length];
      item[Math.floor(where / 7) % item.length] ^= 1 << bit;
      const broken = {
        ...signed,
        inputs: signed.inputs.map((input, index) => (index === at ? { ...input, witness } : input)),
      };
      assert.notEqual(checkSpend(broken, at, spent), null);
    }),
    { numRuns: 40 },
  );
});

test('@scure/btc-signer signs the same bytes', () => {
  const { tx, spent } = spend(2);
  const previous = (at: number): Uint8Array =>
    encodeTx(
      {
        version: 2,
        inputs: [{ ...tx.inputs[0], previousTxid: new Uint8Array(32).fill(9) }],
        outputs: Array.from({ length: at + 1 }, () => ({
          valueSats: spent[at].valueSats,
          script: spent[at].script,
        })),
        locktime: 0,
      },
      { witness: true },
    );
  const other = new Transaction({ version: 2, lockTime: 7, disableScriptCheck: true });
  const inputs = tx.inputs.map((input, at) => {
    const { valueSats: amount, script } = spent[at];
    // Legacy inputs need the whole previous transaction, and so name its real hash.
    const legacy = at === 0;
    const parsed = legacy ? Transaction.fromRaw(previous(at), { allowUnknownOutputs: true }) : null;
    other.addInput({
      txid: parsed ? parsed.id : encodeHex(input.previousTxid.toReversed()),
      index: input.previousIndex,
      sequence: input.sequence,
      ...(legacy ? { nonWitnessUtxo: previous(at) } : { witnessUtxo: { amount, script } }),
      ...(at === 1 ? { redeemScript: redeemScriptOf(keys[1]) } : {}),
      ...(at === 3 ? { tapInternalKey: keys[3].publicKey.subarray(1) } : {}),
    });
    return parsed
      ? { ...input, previousTxid: Uint8Array.from(Buffer.from(parsed.id, 'hex')).reverse() }
      : input;
  });
  for (const output of tx.outputs)
    other.addOutput({ script: output.script, amount: output.valueSats });
  for (const [at, key] of keys.entries()) {
    other.signIdx(key.secretKey, at, undefined, new Uint8Array(32));
    other.finalizeIdx(at);
  }
  const theirs = decodeTx(other.extract());
  assert.ok(theirs.ok);
  const ours = sign({ ...tx, inputs }, spent);
  assert.equal(encodeHex(encodeTx(ours, { witness: true })), encodeHex(other.extract()));
  for (let at = 0; at < 4; at += 1) assert.equal(checkSpend(theirs.tx, at, spent), null);
});

test('what is outside the check is refused and says so', () => {
  const { tx } = spend(1);
  const outside: [string, Uint8Array, Partial<Tx['inputs'][0]>, RegExp][] = [
    ['bare multisig', Uint8Array.of(0x51, 0xae), {}, /outside what this development chain checks/],
    [
      'P2SH of anything',
      Uint8Array.of(0xa9, 0x14, ...new Uint8Array(20), 0x87),
      { script: encodePush(Uint8Array.of(0x51)) },
      /outside/,
    ],
    [
      'P2WSH of anything',
      Uint8Array.of(0x00, 0x20, ...sha256(Uint8Array.of(0x52))),
      { witness: [Uint8Array.of(0x52)] },
      /outside/,
    ],
    [
      'taproot script path',
      keys[3].script,
      { witness: [new Uint8Array(1), new Uint8Array(33)] },
      /outside/,
    ],
    ['OP_RETURN', Uint8Array.of(0x6a), {}, /OP_RETURN was encountered/],
    ['empty witness', keys[2].script, {}, /empty witness/],
    [
      'signature too short',
      keys[3].script,
      { witness: [new Uint8Array(63)] },
      /Invalid Schnorr signature size/,
    ],
  ];
  for (const [name, script, input, reason] of outside) {
    const changed = { ...tx, inputs: [{ ...tx.inputs[0], ...input }] };
    assert.match(checkSpend(changed, 0, [{ valueSats: 1n, script }]) ?? 'accepted', reason, name);
  }
});

test('drop scripts throw away exactly what they were made for', () => {
  for (const items of [0, 1, 2, 3, 199, 200]) {
    const script = dropScript(items);
    const output = Uint8Array.of(0x00, 0x20, ...sha256(script));
    const run = (count: number): string | null => {
      const witness = [...Array.from({ length: count }, () => new Uint8Array(520)), script];
      const tx = { ...spend(1).tx, inputs: [{ ...spend(1).tx.inputs[0], witness }] };
      return checkSpend(tx, 0, [{ valueSats: 1n, script: output }]);
    };
    assert.equal(run(items), null, `${items}`);
    assert.notEqual(run(items + 1), null);
    if (items > 0) assert.notEqual(run(items - 1), null);
  }
});

test('small things: kinds, pushes, signature operations', () => {
  assert.deepEqual(
    keys.map((key) => kindOfScript(key.script)),
    ['p2pkh', 'p2sh', 'p2wpkh', 'p2tr'],
  );
  assert.equal(kindOfScript(new Uint8Array(0)), 'nonstandard');
  assert.equal(decodePushes(Uint8Array.of(0x02, 0x01)), null);
  assert.deepEqual(decodePushes(Uint8Array.of(0x4c, 0x01, 0x07)), [Uint8Array.of(7)]);
  assert.equal(decodePushes(Uint8Array.of(0x51)), null);
  assert.equal(countSigops(Uint8Array.of(0xac, 0x01, 0xac, 0xae, 0xad)), 22);
});
