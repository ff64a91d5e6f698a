import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Job } from '../../src/core/work/job.ts';
import {
  decodeBlockCandidate,
  decodeBlockOutcome,
  decodeCheckedShare,
  decodeCoinbasePlans,
  decodeJob,
  decodeRejectedShare,
  decodeShare,
  decodeShareMark,
  decodeSolvedBlock,
  decodeTemplateBody,
  encodeBlockCandidate,
  encodeBlockOutcome,
  encodeCheckedShare,
  encodeCoinbasePlans,
  encodeJob,
  encodeRejectedShare,
  encodeShare,
  encodeShareMark,
  encodeSolvedBlock,
  encodeTemplateBody,
  encodeTemplateInPlace,
} from '../../src/messages/codec.ts';
import { headframe } from '../../src/messages/generated/pool.js';
import type { ShareRecord } from '../../src/messages/share.ts';

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const u32 = fc.nat({ max: 0xffffffff });
const ms = fc.nat({ max: Number.MAX_SAFE_INTEGER });
const text = fc.oneof(
  fc.string({ maxLength: 200 }),
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc.constant('bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq'),
);
const sats = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

const share: fc.Arbitrary<ShareRecord> = fc.record({
  headerHash: bytes(32),
  jobId: text,
  extranonce1: bytes(4),
  extranonce2: bytes(8),
  ntime: u32,
  nonce: u32,
  version: u32,
  difficulty: fc.double({ min: 5e-324, noNaN: true, noDefaultInfinity: true }),
  shareDifficulty: fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }),
  account: text.filter((value) => value !== ''),
  worker: text,
  sessionId: text,
  gateway: text,
  height: fc.nat({ max: 0x7fffffff }),
  acceptedAtMs: ms,
  isBlock: fc.boolean(),
  pool: fc.constantFrom('main', 'solo-2', 'é'),
  networkBits: u32,
  jobValueSats: fc.bigInt({ min: 0n, max: 2n ** 53n - 1n }),
  planId: fc.constantFrom('', '0123456789abcdef'),
  coinbaseBytes: u32,
});

/** What the generated encoder takes for a share: its own name for the bits, numbers for amounts. */
function messageOf({ networkBits, jobValueSats, ...same }: ShareRecord) {
  return { ...same, bits: networkBits, jobValueSats: Number(jobValueSats) };
}

test('the share encoder writes the bytes of the generated one', () => {
  fc.assert(
    fc.property(share, (record) => {
      const generated = headframe.v1.Share.encode(
        headframe.v1.Share.create(messageOf(wellFormed(record))),
      ).finish();
      assert.deepEqual(Buffer.from(encodeShare(record)), Buffer.from(generated));
      assert.equal(decodeShare(encodeShare(record)).ok, true);
    }),
    { numRuns: 2_000 },
  );
});

test('the share encoder takes default and extreme values like the generated one', () => {
  for (const value of [0, 1, 127, 128, 16383, 16384, 2 ** 31, 2 ** 32 - 1]) {
    for (const time of [0, value, 2 ** 53 - 1]) {
      for (const difficulty of [0, -0, Number.NaN, Number.POSITIVE_INFINITY]) {
        const record: ShareRecord = {
          headerHash: new Uint8Array(value === 0 ? 0 : 32),
          jobId: 'é'.repeat(value > 1000 ? 64 : value),
          extranonce1: new Uint8Array(0),
          extranonce2: new Uint8Array(200),
          ntime: value,
          nonce: value,
          version: value,
          difficulty,
          shareDifficulty: difficulty,
          account: 'a'.repeat(value > 20_000 ? 0 : value),
          worker: 'x',
          sessionId: '',
          gateway: '😀',
          height: value,
          acceptedAtMs: time,
          isBlock: false,
          pool: 'p'.repeat(value > 1000 ? 300 : value),
          networkBits: value,
          jobValueSats: BigInt(time),
          planId: value === 0 ? '' : '0123456789abcdef',
          coinbaseBytes: value,
        };
        const generated = headframe.v1.Share.encode(
          headframe.v1.Share.create(messageOf(record)),
        ).finish();
        assert.deepEqual(Buffer.from(encodeShare(record)), Buffer.from(generated));
      }
    }
  }
});

/** Buffers and arrays with the same bytes are the same value here. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  if (Array.isArray(value)) return value.map(plain);
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
  }
  return value;
}

function roundTrip<T>(
  arbitrary: fc.Arbitrary<T>,
  encode: (value: T) => Uint8Array,
  decode: (bytes: Uint8Array) => { ok: true; value: T } | { ok: false; reason: string },
): void {
  fc.assert(
    fc.property(arbitrary, (value) => {
      const decoded = decode(encode(value));
      assert.ok(decoded.ok, decoded.ok ? '' : decoded.reason);
      assert.deepEqual(plain(decoded.value), plain(value));
    }),
    { numRuns: 300 },
  );
}

/** Lone surrogates become U+FFFD in UTF-8, so that they cannot come back as they were. */
const wellFormed = (record: ShareRecord): ShareRecord => ({
  ...record,
  jobId: record.jobId.toWellFormed(),
  account: record.account.toWellFormed(),
  worker: record.worker.toWellFormed(),
  sessionId: record.sessionId.toWellFormed(),
  gateway: record.gateway.toWellFormed(),
});

const job: fc.Arbitrary<Job> = fc.record({
  jobId: fc.string({ minLength: 1, maxLength: 16 }),
  height: fc.nat({ max: 0x7fffffff }),
  version: u32,
  previousHash: bytes(32),
  bits: u32,
  networkTarget: fc.bigInt({ min: 0n, max: 2n ** 256n - 1n }),
  curtime: u32,
  mintime: u32,
  branch: fc.array(bytes(32), { maxLength: 20 }),
  coinbaseValueSats: fc.bigInt({ min: 0n, max: 2n ** 53n - 1n }),
  coinbaseAux: fc.uint8Array({ maxLength: 40 }),
  witnessCommitment: fc.option(fc.uint8Array({ maxLength: 40 })),
  coinbaseWeightMax: u32,
  feesSats: sats,
  transactionCount: u32,
  clean: fc.boolean(),
  createdAtMs: ms,
});

test('a template whose body cannot be written is none', () => {
  const rest = {
    jobId: 'a',
    height: 1,
    previousHash: new Uint8Array(32),
    transactionCount: 0,
    witness: false,
  };
  assert.equal(
    encodeTemplateInPlace(rest, 4, () => false),
    null,
  );
});

test('every message comes back as it was', () => {
  roundTrip(share.map(wellFormed), encodeShare, decodeShare);
  roundTrip(
    fc.record({ share: share.map(wellFormed), audited: fc.boolean() }),
    encodeCheckedShare,
    decodeCheckedShare,
  );
  roundTrip(
    fc.record({ gateway: fc.string({ minLength: 1 }), throughMs: ms, sequence: ms }),
    encodeShareMark,
    decodeShareMark,
  );
  roundTrip(job, encodeJob, decodeJob);
  roundTrip(
    fc.record({
      share: fc.option(share.map(wellFormed)),
      raw: fc.uint8Array({ maxLength: 100 }),
      reason: fc.string(),
      detail: fc.string(),
      atMs: ms,
    }),
    encodeRejectedShare,
    decodeRejectedShare,
  );
  const template = fc.record({
    jobId: fc.string({ minLength: 1 }),
    height: fc.nat({ max: 0x7fffffff }),
    previousHash: bytes(32),
    transactionCount: u32,
    body: fc.uint8Array({ maxLength: 5_000 }),
    witness: fc.boolean(),
  });
  roundTrip(template, encodeTemplateBody, decodeTemplateBody);
  roundTrip(
    template,
    ({ body, ...rest }) =>
      encodeTemplateInPlace(rest, body.length, (place) => {
        place.set(body);
        return true;
      })!,
    decodeTemplateBody,
  );
  roundTrip(
    fc.record({
      jobId: fc.string(),
      headerHash: bytes(32),
      header: bytes(80),
      coinbase: fc.uint8Array(),
      height: fc.nat({ max: 0x7fffffff }),
      account: fc.string(),
      worker: fc.string(),
      foundAtMs: ms,
      networkDifficulty: fc.double({ noNaN: true, noDefaultInfinity: true }),
      rewardSats: sats,
      pool: fc.constantFrom('main', 'solo'),
      planId: fc.constantFrom('', '0123456789abcdef'),
    }),
    encodeBlockCandidate,
    decodeBlockCandidate,
  );
  roundTrip(
    fc.record({
      headerHash: bytes(32),
      height: fc.nat({ max: 0x7fffffff }),
      block: fc.uint8Array({ minLength: 81, maxLength: 200 }),
    }),
    encodeSolvedBlock,
    decodeSolvedBlock,
  );
  roundTrip(
    fc.record({
      headerHash: bytes(32),
      height: fc.nat({ max: 0x7fffffff }),
      state: fc.constantFrom(
        'found' as const,
        'submitted' as const,
        'accepted' as const,
        'side' as const,
        'confirmed' as const,
        'orphaned' as const,
        'refused' as const,
      ),
      node: fc.string(),
      detail: fc.string(),
      confirmations: fc.integer({ min: -1, max: 2 ** 31 - 1 }),
      atMs: ms,
    }),
    encodeBlockOutcome,
    decodeBlockOutcome,
  );
});

test('no bytes make a decoder throw', () => {
  const decoders = [
    decodeShare,
    decodeRejectedShare,
    decodeJob,
    decodeTemplateBody,
    decodeBlockCandidate,
    decodeSolvedBlock,
    decodeBlockOutcome,
  ];
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ maxLength: 300 }),
        fc
          .tuple(share, fc.nat(), fc.nat({ max: 255 }), fc.nat())
          .map(([record, at, value, cut]) => {
            const encoded = Uint8Array.from(encodeShare(record));
            encoded[at % encoded.length] = value;
            return encoded.subarray(0, encoded.length - (cut % 3));
          }),
      ),
      (input) => {
        for (const decode of decoders) {
          const decoded = decode(input);
          assert.equal(typeof decoded.ok, 'boolean');
          if (!decoded.ok) assert.ok(decoded.reason.length > 0);
        }
      },
    ),
    { numRuns: 2_000 },
  );
});

test('a share that could not be credited is refused with its reason', () => {
  const good: ShareRecord = {
    headerHash: new Uint8Array(32).fill(1),
    jobId: '1',
    extranonce1: new Uint8Array(4),
    extranonce2: new Uint8Array(8),
    ntime: 1,
    nonce: 1,
    version: 1,
    difficulty: 1,
    shareDifficulty: 1,
    account: 'a',
    worker: '',
    sessionId: '',
    gateway: '',
    height: 1,
    acceptedAtMs: 1,
    isBlock: false,
    pool: 'main',
    networkBits: 0x1d00ffff,
    jobValueSats: 5_000_000_000n,
    planId: '',
    coinbaseBytes: 0,
  };
  assert.equal(decodeShare(encodeShare(good)).ok, true);
  const faults: Partial<ShareRecord>[] = [
    { headerHash: new Uint8Array(31) },
    { extranonce1: new Uint8Array(3) },
    { extranonce2: new Uint8Array(9) },
    { difficulty: 0 },
    { difficulty: -1 },
    { difficulty: Number.NaN },
    { difficulty: Number.POSITIVE_INFINITY },
    { shareDifficulty: Number.NaN },
    { account: '' },
  ];
  for (const fault of faults) {
    assert.equal(decodeShare(encodeShare({ ...good, ...fault })).ok, false, JSON.stringify(fault));
  }
});

test('shares and finds of a time with one pool count as those of the pool main', () => {
  const fields = {
    headerHash: new Uint8Array(32).fill(1),
    extranonce1: new Uint8Array(4),
    extranonce2: new Uint8Array(8),
    difficulty: 1,
    account: 'a',
  };
  const old = headframe.v1.Share.encode(headframe.v1.Share.create(fields)).finish();
  const decoded = decodeShare(old);
  assert.ok(decoded.ok);
  const { pool, networkBits, jobValueSats, planId, coinbaseBytes } = decoded.value;
  assert.deepEqual(
    [pool, networkBits, jobValueSats, planId, coinbaseBytes],
    ['main', 0, 0n, '', 0],
  );
  const find = { headerHash: new Uint8Array(32), header: new Uint8Array(80) };
  const oldFind = headframe.v1.BlockCandidate.encode(headframe.v1.BlockCandidate.create(find));
  const decodedFind = decodeBlockCandidate(oldFind.finish());
  assert.ok(decodedFind.ok);
  assert.deepEqual([decodedFind.value.pool, decodedFind.value.planId], ['main', '']);
});

test('an amount that no number is exact for is refused, not rounded', () => {
  const { Share } = headframe.v1;
  const over = Share.create({
    headerHash: new Uint8Array(32),
    extranonce1: new Uint8Array(4),
    extranonce2: new Uint8Array(8),
    difficulty: 1,
    account: 'a',
    jobValueSats: 2 ** 53,
  });
  assert.equal(decodeShare(Share.encode(over).finish()).ok, false);
});

test('plans of coinbases come back as they were; what is none is refused', () => {
  const plan = fc.record({
    planId: fc.constantFrom('0123456789abcdef', 'ffffffffffffffff'),
    pool: fc.string({ minLength: 1 }),
    lastSeq: fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
    totalWeight: fc.bigInt({ min: 0n, max: 10n ** 50n }),
    entries: fc.array(
      fc.record({
        address: fc.string({ minLength: 1 }),
        script: fc.uint8Array({ minLength: 1, maxLength: 42 }),
        weight: fc.bigInt({ min: 0n, max: 10n ** 50n }),
        carrySats: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      }),
      { maxLength: 20 },
    ),
    createdAtMs: ms,
  });
  roundTrip(fc.array(plan, { maxLength: 4 }), encodeCoinbasePlans, decodeCoinbasePlans);

  const { CoinbasePlans } = headframe.v1;
  const entry = { address: 'a', script: new Uint8Array(22), weight: '1' };
  const good = { planId: '0123456789abcdef', pool: 'main', totalWeight: '1', entries: [entry] };
  const decodes = (one: object) =>
    decodeCoinbasePlans(CoinbasePlans.encode(CoinbasePlans.create({ plans: [one] })).finish()).ok;
  assert.equal(decodes(good), true);
  const faults: object[] = [
    { planId: '0123456789ABCDEF' },
    { planId: '' },
    { pool: '' },
    { totalWeight: '' },
    { totalWeight: '-1' },
    { totalWeight: '1e3' },
    { totalWeight: '9'.repeat(100) },
    { entries: [{ ...entry, weight: '1.5' }] },
    { entries: [{ ...entry, script: new Uint8Array(0) }] },
    { entries: [{ ...entry, script: new Uint8Array(1000) }] },
    { entries: [{ ...entry, address: '' }] },
    { entries: Array.from({ length: 501 }, () => entry) },
  ];
  for (const fault of faults) assert.equal(decodes({ ...good, ...fault }), false);
});

test('unknown fields of a newer writer are skipped', () => {
  const encoded = encodeBlockOutcome({
    headerHash: new Uint8Array(32),
    height: 1,
    state: 'found',
    node: '',
    detail: '',
    confirmations: 0,
    atMs: 1,
  });
  // Field 1000, a varint.
  const newer = Buffer.concat([encoded, Buffer.from([0xc0, 0x3e, 0x05])]);
  const decoded = decodeBlockOutcome(newer);
  assert.ok(decoded.ok);
  assert.equal(decoded.value.state, 'found');
});
