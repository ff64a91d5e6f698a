import assert from 'node:assert/strict';
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeHex, encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import {
  DIFFICULTY_1_TARGET,
  difficultyOfTarget,
  hashToInteger,
  TARGET_MAX,
} from '../../../src/core/bitcoin/target.ts';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import {
  checkNtime,
  checkVersionBits,
  coinbaseOf,
  compileWork,
  difficultyOfHash,
  fillWork,
  headerOf,
  meetsTarget,
  NTIME_AHEAD_SECONDS_MAX,
  prepareTarget,
  rollVersion,
  versionOutsideMask,
} from '../../../src/core/work/share.ts';
import { slowVersion } from '../../tools/slow-verifier.ts';

const twice = (bytes: Uint8Array): Buffer =>
  createHash('sha256').update(createHash('sha256').update(bytes).digest()).digest();

function bytesOf(value: bigint): Uint8Array {
  return Uint8Array.from(Buffer.from(value.toString(16).padStart(64, '0'), 'hex')).reverse();
}

test('every length of coinbase halves and branch: coinbase, merkle root, header and hash are right', () => {
  for (let round = 0; round < 400; round++) {
    const branch = Array.from({ length: round % 16 }, () => randomBytes(32));
    const prefix = randomBytes(1 + round);
    const suffix = randomBytes(randomInt(0, 500));
    const job = { previousHash: randomBytes(32), bits: randomInt(2 ** 32), branch };
    const work = compileWork(job, { prefix, suffix });
    const chosen = {
      extranonce1: randomInt(2 ** 32),
      extranonce2High: randomInt(2 ** 32),
      extranonce2Low: randomInt(2 ** 32),
      ntime: randomInt(2 ** 32),
      nonce: randomInt(2 ** 32),
      version: randomInt(2 ** 32),
    };
    const { midstate } = work;
    const before = [...midstate];
    fillWork(work, { ...chosen, nonce: 1, extranonce1: 2, version: 3 }); // an earlier share leaves no trace
    foldInTypescript(work);
    fillWork(work, chosen);
    foldInTypescript(work);
    assert.deepEqual([...midstate], before);

    const extranonce = Buffer.alloc(12);
    extranonce.writeUInt32BE(chosen.extranonce1, 0);
    extranonce.writeUInt32BE(chosen.extranonce2High, 4);
    extranonce.writeUInt32BE(chosen.extranonce2Low, 8);
    const coinbase = Buffer.concat([prefix, extranonce, suffix]);
    assert.deepEqual(Buffer.from(coinbaseOf(work)), coinbase);
    let root = twice(coinbase);
    for (const step of branch) root = twice(Buffer.concat([root, step]));
    const header = Buffer.alloc(80);
    header.writeUInt32LE(chosen.version, 0);
    header.set(job.previousHash, 4);
    header.set(root, 36);
    header.writeUInt32LE(chosen.ntime, 68);
    header.writeUInt32LE(job.bits, 72);
    header.writeUInt32LE(chosen.nonce, 76);
    assert.deepEqual(Buffer.from(headerOf(work)), header, `round ${round}`);
    assert.deepEqual(Buffer.from(work.hash), twice(header), `round ${round}`);
  }
});

test('block 170 of mainnet mined again through a work: its hash, below its target', () => {
  // Its coinbase cut so that 12 bytes of it stand in the place of the extranonce.
  const coinbase = decodeHex(
    '01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff0704ffff001d0102ffffffff0100f2052a01000000434104d46c4968bde02899d2aa0963367c7a6ce34eec332b32e42e5f3407e052d64ac625da6f0718e7b302140434bd725706957c092db53805b821a85b23a7ac61725bac00000000',
  )!;
  const payment = 'f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16';
  const work = compileWork(
    {
      previousHash: decodeHex(
        '000000002a22cfee1f2c846adbd12b3e183d4f97683f85dad08a79780a84bd55',
      )!.reverse(),
      bits: 0x1d00ffff,
      branch: [decodeHex(payment)!.reverse()],
    },
    { prefix: coinbase.slice(0, 50), suffix: coinbase.slice(62) },
  );
  const view = new DataView(coinbase.buffer);
  fillWork(work, {
    extranonce1: view.getUint32(50),
    extranonce2High: view.getUint32(54),
    extranonce2Low: view.getUint32(58),
    ntime: 1231731025,
    nonce: 1889418792,
    version: 1,
  });
  foldInTypescript(work);
  assert.equal(
    encodeHexReversed(work.hash),
    '00000000d1145790a8694403d4063f323d499e655c83426834d4ce2f8dd4a2ee',
  );
  assert.ok(meetsTarget(work.hash, prepareTarget(DIFFICULTY_1_TARGET)));
  assert.ok(!meetsTarget(work.hash, prepareTarget(DIFFICULTY_1_TARGET / 2n)));
  assert.equal(Math.floor(difficultyOfHash(work.hash) * 1000), 1224);
});

test('a hash equal to the target is accepted, one above is not', () => {
  const any = fc.bigInt({ min: 1n, max: TARGET_MAX - 1n });
  fc.assert(
    fc.property(any, (target) => {
      const prepared = prepareTarget(target);
      assert.equal(meetsTarget(bytesOf(target), prepared), true);
      assert.equal(meetsTarget(bytesOf(target - 1n), prepared), true);
      assert.equal(meetsTarget(bytesOf(target + 1n), prepared), false);
    }),
  );
  fc.assert(
    fc.property(any, any, fc.nat(255), (hash, other, bit) => {
      assert.equal(meetsTarget(bytesOf(hash), prepareTarget(other)), hash <= other);
      const near = hash ^ (1n << BigInt(bit)) || 1n;
      assert.equal(meetsTarget(bytesOf(hash), prepareTarget(near)), hash <= near);
    }),
  );
  assert.ok(meetsTarget(new Uint8Array(32).fill(255), prepareTarget(TARGET_MAX)));
  assert.ok(meetsTarget(new Uint8Array(32), prepareTarget(1n)));
  assert.throws(() => prepareTarget(0n), RangeError);
  assert.throws(() => prepareTarget(TARGET_MAX + 1n), RangeError);
});

test('the difficulty of a hash is that of the target it would just meet, to a part in 2^50', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 1n, max: TARGET_MAX }), (value) => {
      const exact = difficultyOfTarget(value);
      const shown = difficultyOfHash(bytesOf(value));
      assert.ok(Math.abs(shown - exact) <= exact * 2 ** -50);
      assert.equal(hashToInteger(bytesOf(value)), value);
    }),
  );
  assert.equal(difficultyOfHash(new Uint8Array(32)), Number.MAX_VALUE);
});

const u32 = fc.integer({ min: 0, max: 0xffffffff });

test('versions roll bit by bit as BIP310 says, unsigned', () => {
  fc.assert(
    fc.property(u32, u32, u32, (job, mask, bits) => {
      const hex = (value: number): string => value.toString(16).padStart(8, '0');
      assert.equal(hex(rollVersion(job, mask, bits)), slowVersion(hex(job), hex(mask), hex(bits)));
    }),
  );
});

test('version policy: the whole version and its rolled bits alone are the same share', () => {
  const mask = 0x1fffe000;
  const facts: [number, number, number, 'ok' | 'outside-mask'][] = [
    [0x20000000, mask, 0, 'ok'],
    [0x20000000, mask, 0x00002000, 'ok'],
    [0x20000000, mask, 0x20002000, 'ok'],
    [0x20000000, mask, 0x1fffe000, 'ok'],
    [0x20000000, mask, 0x3fffe000, 'ok'],
    [0x20000000, mask, 0x00001000, 'outside-mask'],
    [0x20000000, mask, 0x40002000, 'outside-mask'],
    [0x20000000, mask, 0x80000000, 'outside-mask'],
    [0xa0000000, mask, 0xa0002000, 'ok'],
    [0x20000000, 0, 0, 'ok'], // no rolling negotiated
    [0x20000000, 0, 0x20000000, 'ok'],
    [0x20000000, 0, 0x00002000, 'outside-mask'],
    [0x20000004, mask, 0x20000000, 'outside-mask'],
    [0x20000004, mask, 0x20000004, 'ok'],
    [0x20000000, 0xffffffff, 0xdeadbeef, 'ok'],
  ];
  for (const [job, allowed, bits, expected] of facts) {
    assert.equal(checkVersionBits(job, allowed, bits), expected, [job, allowed, bits].join());
  }
  fc.assert(
    fc.property(u32, u32, u32, (job, allowed, bits) => {
      const whole = rollVersion(job, allowed, bits);
      assert.equal(checkVersionBits(job, allowed, whole), 'ok');
      assert.equal(rollVersion(job, allowed, whole), whole);
    }),
  );
});

test('outside the mask the header most likely hashed is tested for a block', () => {
  assert.equal(versionOutsideMask(0x20000000, 0x20000001), 0x20000001);
  assert.equal(versionOutsideMask(0x20000000, 0x3fff0001), 0x3fff0001);
  assert.equal(versionOutsideMask(0x20000000, 0x00001000), 0x20001000);
  assert.equal(versionOutsideMask(0x20000000, 0x80000000), 0xa0000000);
});

test('ntime: from mintime to 7000 seconds beyond the earlier of curtime and now', () => {
  const job = { mintime: 1000, curtime: 5000 };
  const latest = 5000 + NTIME_AHEAD_SECONDS_MAX;
  assert.equal(checkNtime(999, job, 6000), 'too-old');
  assert.equal(checkNtime(1000, job, 6000), 'ok');
  assert.equal(checkNtime(latest, job, 6000), 'ok');
  assert.equal(checkNtime(latest + 1, job, 6000), 'too-new');
  assert.equal(checkNtime(4000 + 7000, job, 4000), 'ok');
  assert.equal(checkNtime(4000 + 7001, job, 4000), 'too-new');
  assert.equal(checkNtime(0, job, 6000), 'too-old');
  assert.equal(checkNtime(0xffffffff, job, 6000), 'too-new');
});
