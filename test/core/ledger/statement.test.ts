import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type RoundMember, settleRound } from '../../../src/core/ledger/round.ts';
import type { ExportedShare, PoolRules, Scheme } from '../../../src/core/ledger/rules.ts';
import { SCHEMES } from '../../../src/core/ledger/schemes.ts';
import { expandSplits } from '../../../src/core/ledger/shares.ts';
import {
  type CreditProof,
  decodeStatement,
  encodeStatement,
  makeStatement,
  proofOf,
  type RoundStatement,
  type StatementVersion,
  sortCredits,
  verifyProof,
  verifyStatement,
} from '../../../src/core/ledger/statement.ts';
import { createRandom } from '../../tools/random.ts';

const REWARD = 312_500_001n;
const FOUND_MS = Date.UTC(2026, 10, 21, 12);
const DAY_MS = 86_400_000;
const ACCOUNTS = ['bc1qone', 'bc1qtwo', 'bc1qsix', 'bc1qone*3,bc1qten*1', 'bc1qfew'];

type Round = Parameters<typeof makeStatement>[0];

/**
 * A round of a small log, a share every two hours: its window by the rules (about half of the log), its credits, and the shares as they
 * would be exported.
 */
function roundOf(
  scheme: Scheme,
  seed: number,
  more: { window?: PoolRules['window']; version?: StatementVersion } = {},
): { facts: Round; shares: ExportedShare[] } {
  const { window = { kind: 'work', factorPpm: 20_000n }, version = 2 } = more;
  const random = createRandom(seed);
  const log: ExportedShare[] = Array.from({ length: 12 }, (_, at) => ({
    seq: BigInt(1_000 + 3 * at),
    address: random.pick(ACCOUNTS),
    work: BigInt(random.u32()) << 8n,
    acceptedAtMs: FOUND_MS - (12 - at) * 4 * 3_600_000,
  }));
  const bits = 0x1d00ffff;
  const span = SCHEMES[scheme].span({
    seq: log.at(-1)!.seq,
    foundAtMs: FOUND_MS,
    networkWork: 1n << 48n,
    previousSeq: 1_010n,
    window,
  });
  const shares: ExportedShare[] = [];
  let boundary: Round['window']['boundary'] = null;
  let room = span?.kind === 'work' ? span.work : null;
  for (const share of [...log].reverse()) {
    if (span === null || room === 0n) break;
    if (span.kind === 'since' && share.seq <= span.afterSeq) break;
    if (span.kind === 'time' && share.acceptedAtMs <= span.afterMs) break;
    shares.unshift(share);
    if (room === null) continue;
    if (share.work > room) {
      boundary = { seq: share.seq, work: share.work, countedWork: room };
    }
    room -= share.work > room ? room : share.work;
  }
  const ids = new Map<string, bigint>();
  const idOf = (address: string) => {
    if (!ids.has(address)) ids.set(address, BigInt(50 - ids.size));
    return ids.get(address)!;
  };
  const works = new Map<string, bigint>();
  for (const { seq, address, work } of shares) {
    const counted = seq === boundary?.seq ? boundary.countedWork : work;
    works.set(address, (works.get(address) ?? 0n) + counted);
  }
  const members = expandSplits(
    [...works].map(([address, work]) => ({ accountId: idOf(address), address, work })),
    idOf,
  ).map(
    (member): RoundMember => ({
      ...member,
      feePpm: random.pick([0, 10_000, 15_000]),
      donationPpm: random.pick([0, 500]),
    }),
  );
  const result = SCHEMES[scheme].credit(REWARD, sortCredits(version, members));
  const totalWork = members.reduce((sum, { work }) => sum + work, 0n);
  const pays = SCHEMES[scheme].settles === 'coinbase';
  // The coinbase pays the first what operator and developer should have; that is carried.
  const extraSats = result.operatorSats + result.developerSats;
  const lastSeq = log.at(-1)!.seq;
  return {
    shares,
    facts: {
      statementVersion: version,
      pool: 'main',
      scheme,
      network: 'mainnet',
      block: { hashDisplay: '0a'.repeat(32), height: 840_001, bits, foundAtMs: FOUND_MS },
      window: {
        firstSeq: shares[0]?.seq ?? lastSeq + 1n,
        lastSeq,
        boundary,
        totalWork,
        wantedWork: span?.kind === 'work' ? span.work : null,
        afterMs: span?.kind === 'time' ? span.afterMs : null,
      },
      rewardSats: REWARD,
      operatorSats: result.operatorSats,
      developerSats: result.developerSats,
      credits: result.credits.map((credit, at) => ({
        ...credit,
        ...(pays ? { paidSats: credit.creditSats + (at === 0 ? extraSats : 0n) } : {}),
      })),
    },
  };
}

function findingsOf(statement: RoundStatement, shares?: Iterable<ExportedShare>): string {
  const answer = verifyStatement(statement, shares);
  return answer.ok ? '' : answer.findings.join('\n');
}

/** A deep copy with another value at a path. */
function changed(statement: RoundStatement, path: readonly (string | number)[], value: unknown) {
  const copy = structuredClone(statement);
  // biome-ignore lint/suspicious/noExplicitAny: any place in the object.
  let place: any = copy;
  for (const key of path.slice(0, -1)) place = place[key];
  place[path.at(-1)!] = value;
  return copy;
}

/** Every value of a JSON object, by its path. */
function* placesOf(
  value: unknown,
  path: (string | number)[] = [],
): Generator<[typeof path, unknown]> {
  if (typeof value !== 'object' || value === null) yield [path, value];
  else if (Array.isArray(value)) {
    for (const [at, one] of value.entries()) yield* placesOf(one, [...path, at]);
  } else {
    for (const [key, one] of Object.entries(value)) yield* placesOf(one, [...path, key]);
  }
}

for (const scheme of Object.keys(SCHEMES) as Scheme[]) {
  test(`${scheme}: a statement agrees with itself, its shares, and its text`, () => {
    for (let seed = 1; seed <= 40; seed += 1) {
      const version = seed % 2 === 0 ? 2 : 1;
      const byDays = seed % 4 < 2 ? { window: { kind: 'days', days: 1 } as const } : {};
      const { facts, shares } = roundOf(scheme, seed, { version, ...byDays });
      const statement = makeStatement(facts);
      assert.equal(findingsOf(statement), '');
      assert.equal(findingsOf(statement, shares), '');
      assert.equal(findingsOf(statement, [...shares].reverse()), '');
      assert.equal(statement.root.sumSats, `${REWARD}`);
      const text = encodeStatement(statement);
      assert.deepEqual(decodeStatement(text), { ok: true, statement });
      assert.deepEqual(
        makeStatement({ ...facts, credits: [...facts.credits].reverse() }),
        statement,
      );
    }
  });

  test(`${scheme}: any value that is changed is found, and its root does not hide it`, () => {
    const statement = makeStatement(roundOf(scheme, 7).facts);
    for (const [path, value] of placesOf(statement)) {
      const others: unknown[] =
        typeof value === 'number'
          ? [value + 1, value - 1]
          : value === null
            ? ['5']
            : /^\d+$/.test(`${value}`)
              ? [`${BigInt(`${value}`) + 1n}`, `${value}0`]
              : [`${value}x`, `${value}`.slice(1), `${value}`.replace(/^./, 'f')];
      for (const other of others) {
        if (other === value) continue;
        assert.notEqual(findingsOf(changed(statement, path, other)), '', `${path}: ${other}`);
      }
    }
  });
}

test('a statement names what is wrong, and where', () => {
  const statement = makeStatement(roundOf('pplns', 3).facts);
  const { credits } = statement;
  const plus = (text: string, more: bigint) => `${BigInt(text) + more}`;
  let moved = changed(statement, ['credits', 0, 'creditSats'], plus(credits[0]!.creditSats, 1n));
  moved = changed(moved, ['credits', 1, 'creditSats'], plus(credits[1]!.creditSats, -1n));
  const text = findingsOf(moved);
  assert.match(text, new RegExp(`credit of ${credits[0]!.address}, satoshi: \\d+ is stated`));
  assert.match(text, new RegExp(`credit of ${credits[1]!.address}, satoshi: \\d+ is stated`));
  assert.match(text, /root: [0-9a-f]{64} is stated, [0-9a-f]{64} is right/);
  assert.match(findingsOf(changed(statement, ['rewardSats'], '312500002')), /sum|credit|operator/);
});

/** The statement of the same round by somebody who makes the root fit what was changed. */
function forge(facts: Round, change: (facts: Round) => Round): RoundStatement {
  return makeStatement(change(facts));
}

test('a forger who makes the root fit is found by the rules: any satoshi, from anybody to anybody', () => {
  for (const scheme of ['pplns', 'prop', 'direct', 'solo'] as const) {
    const { facts } = roundOf(scheme, 5);
    const move = (from: number, to: number) =>
      forge(facts, (round) => ({
        ...round,
        credits: round.credits.map((credit, at) => ({
          ...credit,
          creditSats: credit.creditSats + (at === to ? 1n : 0n) - (at === from ? 1n : 0n),
        })),
      }));
    for (let from = 0; from < facts.credits.length; from += 1) {
      for (let to = 0; to < facts.credits.length; to += 1) {
        if (from !== to) assert.match(findingsOf(move(from, to)), /credit of/);
      }
    }
    const { operatorSats, developerSats } = facts;
    if (developerSats > 0n) {
      const toOperator = { operatorSats: operatorSats + 1n, developerSats: developerSats - 1n };
      assert.match(findingsOf(forge(facts, (round) => ({ ...round, ...toOperator }))), /developer/);
    }
    const lower = forge(facts, (round) => ({ ...round, operatorSats: operatorSats - 1n }));
    assert.match(findingsOf(lower), /operator|reserve/);
    const higherFee = forge(facts, (round) => ({
      ...round,
      credits: round.credits.map((credit) => ({ ...credit, feePpm: credit.feePpm + 10_000 })),
    }));
    assert.match(findingsOf(higherFee), /operator/);
  }
});

/** The same statement under the root that fits it, as its check tells it. */
function reroot(statement: RoundStatement): RoundStatement {
  const text = findingsOf(statement);
  const hash = /^root: \w+ is stated, (\w+) is right$/m.exec(text)?.[1];
  const sumSats = /^sum under the root: \d+ is stated, (\d+) is right$/m.exec(text)?.[1];
  const { root } = statement;
  return { ...statement, root: { hash: hash ?? root.hash, sumSats: sumSats ?? root.sumSats } };
}

test('under a root that fits, rules find every change but of what only chain and share log can tell', () => {
  // Where the block stands, and between which shares; the latter is what the shares are for.
  const free =
    /^(pool|network|block,(hash|height|foundAtMs)|window,(firstSeq|lastSeq|boundary,(work|countedWork)))$/;
  for (const scheme of ['pplns', 'direct', 'prop', 'pps'] as const) {
    const statement = makeStatement(roundOf(scheme, 7).facts);
    let found = 0;
    for (const [path, value] of placesOf(statement)) {
      if (path[0] === 'root' || free.test(path.join())) continue;
      if (path.at(-1) === 'address') continue;
      const more = typeof value === 'number' ? value + 1 : `${value}1`;
      const next = /^\d+$/.test(`${value}`) ? `${BigInt(`${value}`) + 1n}` : more;
      const other = changed(statement, path, typeof value === 'number' ? more : (next as string));
      assert.notEqual(findingsOf(reroot(other)), '', `${scheme} ${path}: ${value}`);
      found += 1;
    }
    assert.ok(found >= 9);
  }
  const { facts } = roundOf('pplns', 4);
  const honest = makeStatement(facts);
  const { boundary, firstSeq, totalWork } = honest.window;
  assert.ok(boundary !== null);
  const wrong: [string, unknown, RegExp][] = [
    ['boundary', { ...boundary, seq: `${BigInt(firstSeq) + 1n}` }, /^boundary: /m],
    ['boundary', { ...boundary, countedWork: boundary.work }, /is not a part/],
    ['boundary', { ...boundary, countedWork: '0' }, /is not a part/],
    ['wantedWork', `${BigInt(totalWork) + 1n}`, /work with a boundary/],
    ['wantedWork', `${BigInt(totalWork) - 1n}`, /were asked for/],
    ['totalWork', `${BigInt(totalWork) + 1n}`, /^total work: /m],
    ['firstSeq', '999999', /begins at 999999/],
    ['rule', 'whatever suits the operator', /^rule: /m],
  ];
  for (const [field, value, finding] of wrong) {
    const text = findingsOf(reroot(changed(honest, ['window', field], value)));
    assert.match(text, finding, field);
    assert.doesNotMatch(text, /^root: /m);
  }
  const prop = makeStatement(roundOf('prop', 4).facts);
  const asks = reroot(changed(prop, ['window', 'wantedWork'], prop.window.totalWork));
  assert.match(findingsOf(asks), /scheme prop does not ask for an amount of work/);
});

/** As it was written by the program that knew version 1 only. */
function oldStatement(name: string): string {
  return readFileSync(
    new URL(`../../vectors/statement/${name}-version-1.json`, import.meta.url),
    'utf8',
  );
}

test('what was published in version 1 verifies, proves its credits, and is made again to the byte', () => {
  for (const name of ['pplns-by-work', 'pplns-by-days']) {
    const text = oldStatement(name);
    const decoded = decodeStatement(text);
    assert.ok(decoded.ok);
    const { statement } = decoded;
    const { credits, window, block } = statement;
    const shares = credits.map(({ address, work }, at) => ({
      seq: BigInt(11 + at),
      address,
      work: BigInt(work),
      acceptedAtMs: block.foundAtMs - 100_000,
    }));
    assert.equal(findingsOf(statement, shares), '');
    for (const { address } of credits)
      assert.ok(verifyProof(proofOf(statement, address)!, statement.root));
    // Two did the same work, and the satoshi that was left went to the older account.
    assert.equal(BigInt(credits[0]!.creditSats) - BigInt(credits[1]!.creditSats), 1n);
    const facts: Round = {
      statementVersion: 1,
      pool: 'main',
      scheme: 'pplns',
      network: 'mainnet',
      block: {
        hashDisplay: block.hash,
        height: block.height,
        bits: Number.parseInt(block.bits, 16),
        foundAtMs: block.foundAtMs,
      },
      window: {
        firstSeq: BigInt(window.firstSeq),
        lastSeq: BigInt(window.lastSeq),
        boundary: null,
        totalWork: BigInt(window.totalWork),
        wantedWork: window.wantedWork === null ? null : BigInt(window.wantedWork),
        afterMs: null,
      },
      rewardSats: BigInt(statement.rewardSats),
      operatorSats: BigInt(statement.operatorSats),
      developerSats: BigInt(statement.developerSats),
      credits: credits.map((credit, at) => ({
        ...credit,
        accountId: BigInt(at + 1),
        work: BigInt(credit.work),
        creditSats: BigInt(credit.creditSats),
        paidSats: null,
      })),
    };
    assert.equal(encodeStatement(makeStatement(facts)), text);
    // The older form is no way around the rules of the newer one.
    const asNew = changed(statement, ['version'], 2);
    assert.match(findingsOf(asNew), /window: wrong fields/);
    const named = changed(asNew, ['window', 'afterMs'], null);
    assert.match(findingsOf(reroot(named)), /not in the order of their addresses/);
  }
});

test('ties go to the address that comes first, whatever the account ids', () => {
  const { facts } = roundOf('prop', 1);
  const members = ['bc1qzoe', 'bc1qamy', 'bc1qmia'].map(
    (address): RoundMember => ({
      accountId: 0n,
      address,
      work: 1n << 50n,
      feePpm: 0,
      donationPpm: 0,
    }),
  );
  for (const ids of [
    [1n, 2n, 3n],
    [3n, 2n, 1n],
    [2n, 3n, 1n],
  ]) {
    const named = members.map((member, at) => ({ ...member, accountId: ids[at]! }));
    const statement = makeStatement({
      ...facts,
      window: { ...facts.window, totalWork: 3n << 50n },
      ...settleRound(REWARD, sortCredits(2, named)),
    });
    assert.equal(findingsOf(statement), '');
    assert.deepEqual(
      statement.credits.map(({ address, creditSats }) => [address, creditSats]),
      [
        ['bc1qamy', '104166667'],
        ['bc1qmia', '104166667'],
        ['bc1qzoe', '104166667'],
      ],
    );
    const odd = settleRound(REWARD + 1n, sortCredits(2, named)).credits;
    assert.deepEqual(
      odd.map(({ address, creditSats }) => [address, creditSats]),
      [
        ['bc1qamy', 104_166_668n],
        ['bc1qmia', 104_166_667n],
        ['bc1qzoe', 104_166_667n],
      ],
    );
  }
});

test('a window by time says from when, and a moved bound is found', () => {
  for (const scheme of ['pplns', 'direct'] as const) {
    for (let seed = 1; seed <= 10; seed += 1) {
      const { facts, shares } = roundOf(scheme, seed, { window: { kind: 'days', days: 1 } });
      const honest = makeStatement(facts);
      assert.equal(honest.window.afterMs, FOUND_MS - DAY_MS);
      assert.match(honest.window.rule, /in the 1 days before the find/);
      assert.ok(shares.length > 3 && shares.length < 12);
      assert.equal(findingsOf(honest, shares), '');
      const move = (afterMs: number | null) =>
        makeStatement({ ...facts, window: { ...facts.window, afterMs } });
      for (const ms of [1, -1, 3_600_000, -3_600_000])
        assert.match(findingsOf(move(FOUND_MS - DAY_MS + ms)), /is no number of days/, `${ms}`);
      assert.match(findingsOf(move(null)), /does not say from when/);
      assert.match(findingsOf(move(FOUND_MS)), /is no number of days/);
      assert.match(findingsOf(move(FOUND_MS + DAY_MS)), /is no number of days/);
      // By a whole day: the statement alone says two days where the pool promises one, the rule names them, and so does the root.
      const earlier = move(FOUND_MS - 2 * DAY_MS);
      assert.match(earlier.window.rule, /in the 2 days before the find/);
      assert.notEqual(earlier.root.hash, honest.root.hash);
      assert.match(findingsOf({ ...earlier, root: honest.root }), /^root: /m);
      assert.match(
        findingsOf(reroot(changed(honest, ['window', 'afterMs'], FOUND_MS - 2 * DAY_MS))),
        /^rule: /m,
      );
      // Shares of before the bound that were smuggled in stand there with their time.
      const early = shares.map((share, at) =>
        at === 0 ? { ...share, acceptedAtMs: FOUND_MS - DAY_MS } : share,
      );
      assert.match(
        findingsOf(honest, early),
        new RegExp(`share ${shares[0]!.seq}: accepted before the window begins`),
      );
      const wide = roundOf(scheme, seed, { window: { kind: 'days', days: 2 } });
      const window = { ...wide.facts.window, afterMs: FOUND_MS - DAY_MS };
      const said = makeStatement({ ...wide.facts, window });
      assert.match(findingsOf(said, wide.shares), /accepted before the window begins/);
    }
  }
  const byWork = roundOf('pplns', 3).facts;
  const both = makeStatement({ ...byWork, window: { ...byWork.window, afterMs: 1_000 } });
  assert.match(findingsOf(both), /does not go by time/);
});

test('a forger who changes work or the window consistently is found by the shares', () => {
  const { facts, shares } = roundOf('pplns', 4);
  assert.ok(facts.window.boundary !== null && shares.length > 3);
  /** A round by the rules, from changed members and window: it agrees with itself. */
  const honest = (
    works: (work: bigint, at: number) => bigint,
    window: Partial<Round['window']> = {},
  ) => {
    const members = facts.credits.map((credit, at) => ({
      ...credit,
      work: works(credit.work, at),
    }));
    const result = settleRound(REWARD, members);
    const totalWork = members.reduce((sum, { work }) => sum + work, 0n);
    return makeStatement({
      ...facts,
      ...result,
      window: { ...facts.window, totalWork, ...window },
    });
  };
  const shift = honest((work, at) => work + (at === 0 ? 1n : 0n) - (at === 1 ? 1n : 0n));
  assert.equal(findingsOf(shift), '');
  assert.match(findingsOf(shift, shares), /work of bc1q/);
  const { boundary } = facts.window;
  const keep = (work: bigint) => work;
  const edges: Partial<Round['window']>[] = [
    { boundary: { ...boundary!, work: boundary!.work + 1n } },
    { boundary: { ...boundary!, countedWork: boundary!.countedWork - 1n } },
    { boundary: null },
    { firstSeq: boundary!.seq + 1n, boundary: { ...boundary!, seq: boundary!.seq + 1n } },
    { firstSeq: boundary!.seq - 1n, boundary: { ...boundary!, seq: boundary!.seq - 1n } },
    { firstSeq: boundary!.seq + 1n, boundary: null },
    { lastSeq: facts.window.lastSeq - 1n },
  ];
  for (const edge of edges) {
    const statement = honest(keep, edge);
    assert.equal(findingsOf(statement), '');
    assert.notEqual(findingsOf(statement, shares), '', JSON.stringify(statement.window));
  }
});

test('shares that are missing, doubled, foreign, outside or out of order are named', () => {
  const { facts, shares } = roundOf('pplns', 4);
  const statement = makeStatement(facts);
  const [first, second, third] = shares;
  assert.match(findingsOf(statement, shares.slice(1)), new RegExp(`share ${first!.seq}: missing`));
  assert.match(findingsOf(statement, shares.slice(0, -1)), /work of/);
  assert.match(findingsOf(statement, [first!, ...shares]), /stands twice, or not in order/);
  const swapped = [first!, third!, second!, ...shares.slice(3)];
  assert.match(findingsOf(statement, swapped), /stands twice, or not in order/);
  const outside = { ...first!, seq: first!.seq - 1n };
  assert.match(findingsOf(statement, [outside, ...shares]), /not in the window/);
  const stranger = { ...second!, address: 'bc1qstranger' };
  assert.match(
    findingsOf(statement, [first!, stranger, ...shares.slice(2)]),
    /work of bc1qstranger: \d+ in the shares, and no credit/,
  );
  const nobody = { ...second!, address: 'a,b' };
  assert.match(findingsOf(statement, [first!, nobody, ...shares.slice(2)]), /this is no account/);
  assert.match(findingsOf(statement, []), /missing/);
});

test('many findings are counted, not all told', () => {
  const { facts } = roundOf('prop', 1);
  const credits = Array.from({ length: 300 }, (_, at) => ({
    ...facts.credits[0]!,
    accountId: BigInt(at),
    address: `bc1q${at}`,
    work: 1n,
    creditSats: BigInt(at),
  }));
  const statement = makeStatement({ ...facts, credits });
  const answer = verifyStatement(statement);
  assert.ok(!answer.ok);
  assert.equal(answer.findings.length, 101);
  assert.match(answer.findings.at(-1)!, /^and \d+ more$/);
});

test('a coinbase that paid its finder because no share is on record verifies, and nothing else without shares', () => {
  const credits = [
    {
      accountId: 1n,
      address: 'bc1qone',
      work: 1n,
      feePpm: 0,
      donationPpm: 0,
      creditSats: REWARD,
      paidSats: REWARD,
    },
  ];
  const window = {
    firstSeq: 6n,
    lastSeq: 5n,
    boundary: null,
    totalWork: 1n,
    wantedWork: null,
    afterMs: null,
  };
  const lone = {
    ...roundOf('solo', 1).facts,
    window,
    credits,
    operatorSats: 0n,
    developerSats: 0n,
  };
  assert.equal(findingsOf(makeStatement(lone), []), '');
  const full = { ...lone, window: { ...window, firstSeq: 5n } };
  assert.match(findingsOf(makeStatement(full), []), /work of bc1qone/);
});

test('every credit is proved by its steps; no other credit, root or step passes', () => {
  for (const count of [1, 2, 3, 64, 1_000]) {
    const members = Array.from(
      { length: count },
      (_, at): RoundMember => ({
        accountId: BigInt(at),
        address: `bc1q${at}`,
        work: BigInt(at + 1),
        feePpm: 10_000,
        donationPpm: 0,
      }),
    );
    const { facts } = roundOf('prop', 1);
    const totalWork = members.reduce((sum, { work }) => sum + work, 0n);
    const statement = makeStatement({
      ...facts,
      window: { ...facts.window, totalWork },
      ...settleRound(REWARD, sortCredits(2, members)),
    });
    for (const at of new Set([0, count >> 1, count - 1])) {
      const proof = proofOf(statement, `bc1q${at}`)!;
      const { root } = statement;
      assert.ok(proof.steps.length <= Math.ceil(Math.log2(count + 4)));
      assert.ok(verifyProof(proof, root));
      assert.ok(verifyProof(JSON.parse(JSON.stringify(proof)) as CreditProof, root));
      const { credit, steps } = proof;
      const wrongCredits = [
        { ...credit, creditSats: `${BigInt(credit.creditSats) + 1n}` },
        { ...credit, work: `${BigInt(credit.work) + 1n}` },
        { ...credit, feePpm: credit.feePpm - 1 },
        { ...credit, address: 'bc1qelse' },
        { ...credit, paidSats: '0' },
        { ...credit, creditSats: `-${credit.creditSats}` },
      ];
      for (const wrong of wrongCredits) assert.ok(!verifyProof({ credit: wrong, steps }, root));
      for (const [i, step] of steps.entries()) {
        const other = (change: object) => ({
          credit,
          steps: steps.map((one, j) => (i === j ? { ...one, ...change } : one)),
        });
        assert.ok(!verifyProof(other({ sumSats: `${BigInt(step.sumSats) + 1n}` }), root));
        assert.ok(!verifyProof(other({ sumSats: '-1' }), root));
        assert.ok(!verifyProof(other({ hash: 'ff'.repeat(32) }), root));
        assert.ok(!verifyProof(other({ hash: 'ff' }), root));
        assert.ok(!verifyProof(other({ side: 'middle' }), root));
      }
      assert.ok(!verifyProof(proof, { ...root, sumSats: `${REWARD - 1n}` }));
      assert.ok(!verifyProof(proof, { ...root, hash: '00'.repeat(32) }));
    }
    assert.equal(proofOf(statement, 'bc1qnobody'), null);
  }
});

test('proofs and statements that are no such things are refused without a throw', () => {
  const statement = makeStatement(roundOf('pplns', 3).facts);
  const strange: unknown[] = [null, undefined, 0, '', [], {}, { credit: null, steps: null }];
  for (const value of strange) {
    assert.equal(verifyProof(value as CreditProof, statement.root), false);
    assert.notEqual(findingsOf(value as RoundStatement), '');
  }
  const proof = proofOf(statement, statement.credits[0]!.address)!;
  for (const value of strange) {
    assert.equal(verifyProof(proof, value as RoundStatement['root']), false);
    assert.equal(
      verifyProof({ ...proof, steps: [value] as CreditProof['steps'] }, statement.root),
      false,
    );
  }
  for (const text of ['', '{', 'null', '[]', '{}', '{"version":1}', '1e999']) {
    assert.equal(decodeStatement(text).ok, false, text);
  }
  fc.assert(
    fc.property(fc.jsonValue(), fc.nat(), (value, pick) => {
      const places = [...placesOf(statement)];
      const [path, before] = places[pick % places.length]!;
      if (JSON.stringify(value) === JSON.stringify(before)) return;
      const text = JSON.stringify(changed(statement, path, value));
      const decoded = decodeStatement(text);
      if (decoded.ok) assert.notEqual(findingsOf(decoded.statement), '');
    }),
    { numRuns: 1_000 },
  );
});

test('fields that do not belong there are refused at every level', () => {
  const statement = makeStatement(roundOf('direct', 3).facts);
  const places: (string | number)[][] = [[], ['block'], ['window'], ['credits', 0], ['root']];
  if (statement.window.boundary !== null) places.push(['window', 'boundary']);
  for (const path of places) {
    const more = encodeStatement(changed(statement, [...path, 'note'], 'trust me'));
    assert.equal(decodeStatement(more).ok, false, path.join('.'));
  }
  const text = encodeStatement(statement).replace('"pool"', '"__proto__": {"a": 1}, "pool"');
  assert.equal(decodeStatement(text).ok, false);
});

test('paid amounts stand only where the coinbase pays, for all, and add up', () => {
  const direct = makeStatement(roundOf('direct', 3).facts);
  const paid = BigInt(direct.credits[0]!.paidSats!);
  assert.match(
    findingsOf(changed(direct, ['credits', 0, 'paidSats'], `${paid + 1n}`)),
    /paid in all/,
  );
  const { paidSats: _, ...unpaid } = direct.credits[0]!;
  assert.match(findingsOf(changed(direct, ['credits', 0], unpaid)), /some credits have none/);
  const pplns = makeStatement(roundOf('pplns', 3).facts);
  assert.match(
    findingsOf(changed(pplns, ['credits', 0, 'paidSats'], '1')),
    /coinbase pays nobody in scheme pplns/,
  );
});

test('a donation of more than the fee leaves is found', () => {
  const { facts } = roundOf('prop', 3);
  const credits = facts.credits.map((one) => ({ ...one, feePpm: 999_999, donationPpm: 2 }));
  const { credits: settled, ...rest } = settleRound(REWARD, credits);
  const stated = settled.map((one) => ({ ...one, donationPpm: 2 }));
  const statement = makeStatement({ ...facts, ...rest, credits: stated });
  assert.match(findingsOf(statement), /^donation of bc1q\w+, ppm: 2 is stated, 1 is right$/m);
});

test('more given out than there was is a bug', () => {
  const { facts } = roundOf('pplns', 3);
  const operatorSats = facts.operatorSats + 1n;
  assert.throws(() => makeStatement({ ...facts, operatorSats }), RangeError);
});
