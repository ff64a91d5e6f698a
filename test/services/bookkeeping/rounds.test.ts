import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import type { ExportedShare } from '../../../src/core/ledger/rules.ts';
import { SCHEMES } from '../../../src/core/ledger/schemes.ts';
import {
  encodeStatement,
  makeStatement,
  type RoundStatement,
  STATEMENT_VERSION,
  sortCredits,
} from '../../../src/core/ledger/statement.ts';
import { writeNewFile } from '../../../src/services/bookkeeping/files.ts';
import {
  encodeProof,
  encodeShares,
  runVerifyRound,
} from '../../../src/services/bookkeeping/rounds.ts';
import { addressOf, NOON_MS } from './pool-books.ts';

const folder = mkdtempSync(join(tmpdir(), 'headframe-verify-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const path = (name: string): string => join(folder, name);

async function verify(...argv: string[]): Promise<{ exitCode: number; out: string }> {
  const lines: string[] = [];
  const exitCode = await runVerifyRound(
    { print: (line) => lines.push(line), complain: (line) => lines.push(line) },
    argv,
  );
  return { exitCode, out: lines.join('\n') };
}

/** Forty shares of four accounts; the first counts in part. Fees differ, and the reward does not divide. */
function makeRound(hashDisplay = 'ab'.repeat(32)): {
  statement: RoundStatement;
  shares: ExportedShare[];
} {
  const shares = Array.from(
    { length: 40 },
    (_, at): ExportedShare => ({
      seq: BigInt(1000 + at * 3),
      address: addressOf(at % 4),
      work: 1_000_003n + BigInt(at) * 77n,
      acceptedAtMs: NOON_MS + at,
    }),
  );
  const boundary = { seq: shares[0]!.seq, work: shares[0]!.work, countedWork: 333_333n };
  const works = new Map<string, bigint>();
  for (const { seq, address, work } of shares) {
    const counted = seq === boundary.seq ? boundary.countedWork : work;
    works.set(address, (works.get(address) ?? 0n) + counted);
  }
  const members = [...works].map(([address, work], at) => ({
    accountId: BigInt(at),
    address,
    work,
    feePpm: at === 2 ? 0 : 10_000,
    donationPpm: at === 1 ? 5_000 : 0,
  }));
  const rewardSats = 312_500_011n;
  const totalWork = members.reduce((sum, { work }) => sum + work, 0n);
  const statement = makeStatement({
    ...SCHEMES.pplns.credit(rewardSats, sortCredits(STATEMENT_VERSION, members)),
    statementVersion: STATEMENT_VERSION,
    pool: 'main',
    scheme: 'pplns',
    network: 'regtest',
    block: { hashDisplay, height: 840_000, bits: 0x1d00ffff, foundAtMs: NOON_MS },
    window: {
      firstSeq: boundary.seq,
      lastSeq: shares.at(-1)!.seq,
      boundary,
      totalWork,
      wantedWork: totalWork,
      afterMs: null,
    },
    rewardSats,
  });
  return { statement, shares };
}

const { statement, shares } = makeRound();
const whole = path('round');
const wholeShares = path('shares');
const proof = path('proof');
await writeNewFile(whole, [encodeStatement(statement)]);
await writeNewFile(wholeShares, encodeShares(statement, from(shares)));
await writeNewFile(proof, [encodeProof(statement, addressOf(2))!]);

async function* from<T>(values: Iterable<T>): AsyncGenerator<T, void, undefined> {
  yield* values;
}

/** Every place in the file where a number stands, as a path to it. */
function numberPlaces(value: unknown, at: (string | number)[] = []): (string | number)[][] {
  if (typeof value === 'number' || (typeof value === 'string' && /^\d{1,30}$/.test(value)))
    return [at];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) => numberPlaces(inner, [...at, name]));
}

function addAt(text: string, place: readonly (string | number)[], more: bigint): string {
  const root = JSON.parse(text) as unknown;
  let holder = root as Record<string, unknown>;
  for (const name of place.slice(0, -1)) holder = holder[name] as Record<string, unknown>;
  const name = String(place.at(-1));
  const old = holder[name];
  holder[name] = typeof old === 'number' ? old + Number(more) : String(BigInt(String(old)) + more);
  return JSON.stringify(root);
}

test('a round that was not touched agrees, alone, with its shares, and with a proof', async () => {
  assert.equal((await verify(whole)).exitCode, 0);
  const all = await verify(whole, '--shares', wholeShares, '--proof', proof);
  assert.equal(all.exitCode, 0, all.out);
  assert.match(
    all.out,
    /Block (ab){32} at height 840000, pool main, scheme pplns: 3\.12500011 BTC for 4 accounts/,
  );
  assert.match(all.out, /Recomputed from 40 shares/);
  assert.match(
    all.out,
    new RegExp(`Credit of 0\\.\\d{8} BTC to ${addressOf(2)}: \\d steps lead to root`),
  );
  assert.match((await verify('--proof', proof)).out, /Compare this root with the one/);
});

test('one satoshi, one unit of work, one of anything, moved anywhere by hand is found', async () => {
  const text = readFileSync(whole, 'utf8');
  const places = numberPlaces(JSON.parse(text));
  assert.ok(places.length > 30, 'there is something to move');
  for (const place of places) {
    for (const more of [1n, -1n]) {
      writeFileSync(path('touched'), addAt(text, place, more));
      const { exitCode, out } = await verify(path('touched'));
      assert.equal(exitCode, 1, `${place.join('.')} ${more}`);
      assert.match(out, /^WRONG {2}\S/m);
      // The place itself is named, not only the root above it.
      if (place.at(-1) === 'creditSats')
        assert.match(out, /WRONG {2}credit of bcrt1\S+, satoshi: \d+ is stated, \d+ is right/);
      if (/^(operator|developer|reserve)Sats$/.test(String(place[0])))
        assert.match(
          out,
          new RegExp(`WRONG {2}.*${String(place[0]).slice(0, -4)}(, satoshi|Sats: no amount)`),
        );
    }
  }
});

test('a satoshi moved from anybody to anybody is found, and both are named', async () => {
  const text = readFileSync(whole, 'utf8');
  const amounts = numberPlaces(JSON.parse(text)).filter((place) =>
    /^(operatorSats|developerSats|creditSats)$/.test(String(place.at(-1))),
  );
  const nameOf = (place: (string | number)[]): string =>
    place.length === 1
      ? String(place[0]).replace('Sats', '')
      : statement.credits[Number(place[1])]!.address;
  for (const a of amounts) {
    for (const b of amounts) {
      if (a === b) continue;
      writeFileSync(path('moved'), addAt(addAt(text, a, -1n), b, 1n));
      const { exitCode, out } = await verify(path('moved'));
      assert.equal(exitCode, 1);
      const wrong = out.split('\n').filter((line) => line.startsWith('WRONG'));
      for (const place of [a, b])
        assert.ok(
          wrong.some((line) => line.includes(nameOf(place))),
          `${nameOf(place)}\n${out}`,
        );
    }
  }
});

test('work moved between any two shares of different accounts is found', async () => {
  const lines = readFileSync(wholeShares, 'utf8').trimEnd().split('\n');
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 1, max: 40 }),
      async (a, b) => {
        fc.pre((a - b) % 4 !== 0);
        const moved = [...lines];
        moved[a] = addAt(moved[a]!, ['work'], -1n);
        moved[b] = addAt(moved[b]!, ['work'], 1n);
        writeFileSync(path('moved-shares'), `${moved.join('\n')}\n`);
        const { exitCode, out } = await verify(whole, '--shares', path('moved-shares'));
        assert.equal(exitCode, 1);
        assert.match(out, /WRONG {2}work of /);
      },
    ),
    { numRuns: 60 },
  );
});

test('shares left out, added, doubled, of another round, or damaged are told', async () => {
  const [head, ...lines] = readFileSync(wholeShares, 'utf8').trimEnd().split('\n');
  for (const [given, said] of [
    [[head, ...lines.slice(1)], /share 1000: missing/],
    [[head, ...lines.slice(0, 20), ...lines.slice(21)], /work of bcrt1/],
    [[head, ...lines, lines[39]], /stands twice/],
    [[head, ...lines, lines[39]!.replace('1117', '1118')], /share 1118: not in the window/],
    [[head!.replace('ab', 'ac'), ...lines], /the shares of another round/],
    [[...lines], /is no file of shares/],
    [[head, ...lines.slice(0, 3), 'x', ...lines.slice(3)], /line 5 is no share/],
    [[head, lines[0]!.replace('"work":"', '"work":"-')], /line 2 is no share/],
    [[head, 'y'.repeat(5000)], /a line that is too long/],
    [[], /is (empty|no file of shares)/],
  ] as const) {
    writeFileSync(path('other-shares'), given.length === 0 ? '' : `${given.join('\n')}\n`);
    const { exitCode, out } = await verify(whole, '--shares', path('other-shares'));
    assert.equal(exitCode, 1, String(said));
    assert.match(out, said);
  }
});

test('a proof that was touched leads nowhere', async () => {
  const text = readFileSync(proof, 'utf8');
  for (const place of numberPlaces(JSON.parse(text))) {
    writeFileSync(path('touched-proof'), addAt(text, place, 1n));
    const { exitCode, out } = await verify(whole, '--proof', path('touched-proof'));
    assert.equal(exitCode, 1, place.join('.'));
    assert.match(out, /^WRONG {2}/m);
  }
  const other = makeRound('cd'.repeat(32)).statement;
  writeFileSync(path('other-proof'), encodeProof(other, addressOf(2))!);
  assert.match((await verify(whole, '--proof', path('other-proof'))).out, /about another block/);
});

test('files that are none: told, never thrown', async () => {
  writeFileSync(path('garbage'), '{"version":1}');
  for (const argv of [
    [path('missing')],
    [folder],
    ['/dev/zero'],
    [path('garbage')],
    [whole, '--shares', path('missing')],
    [whole, '--shares', '/dev/zero'],
    [whole, '--proof', path('garbage')],
  ]) {
    const { exitCode, out } = await verify(...argv);
    assert.equal(exitCode, 1, argv.join(' '));
    assert.match(out, /^WRONG {2}/m);
  }
  for (const argv of [[], ['--shares', wholeShares], [whole, 'x'], [whole, '--share', 'x']])
    assert.equal((await verify(...argv)).exitCode, 2, argv.join(' '));
  assert.equal((await verify('--help')).exitCode, 0);
});

test('any bytes in the place of a file are told', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(fc.json(), fc.string(), fc.constant(readFileSync(whole, 'utf8').slice(0, 900))),
      fc.constantFrom('statement', 'shares', 'proof'),
      async (text, which) => {
        writeFileSync(path('any'), text);
        const argv = which === 'statement' ? [path('any')] : [whole, `--${which}`, path('any')];
        assert.equal((await verify(...argv)).exitCode, 1);
      },
    ),
    { numRuns: 200 },
  );
});
