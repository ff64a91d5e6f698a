import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Db } from '../../../src/ports.ts';
import { readSettings } from '../../../src/store/accounts.ts';
import { noteReversal } from '../../../src/store/crediting.ts';
import { listNotes, readBalance } from '../../../src/store/ledger.ts';
import { recordScheme } from '../../../src/store/schemes.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import { addressOf, credit, MAIN, mature, mine, NOON_MS, sitAt } from './pool-books.ts';

const [ann, bob, cid] = [addressOf(1), addressOf(2), addressOf(3)];
const split = [`${ann}*3`, `${bob}*2`].sort().join(',');
const REWARD_SATS = 312_500_007n;
const folder = mkdtempSync(join(tmpdir(), 'headframe-books-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const file = (name: string): string => join(folder, name);

/** 300 shares of three accounts and a split, and a block found by the last but ten. */
async function someBooks(db: Db, options: { isMature?: boolean } = {}) {
  await mine(db, { from: 1, count: 300, accounts: [ann, bob, cid, split] });
  const round = await credit(db, {
    height: 101,
    seq: 290n,
    rewardSats: REWARD_SATS,
    finder: bob,
    donationPpm: 2_500,
  });
  if (options.isMature) await mature(db, round);
  return round;
}

for (const kind of SERVER_KINDS) {
  describe(`ledger command on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('balances: every account with its unit, and all together nothing', async () => {
      const db = await server.freshDatabase();
      const empty = await sitAt(db).ledger('balances');
      assert.equal(empty.out[0], 'No account holds anything.');
      const { statement } = await someBooks(db);
      const { exitCode, out } = await sitAt(db).ledger('balances');
      assert.equal(exitCode, 0);
      for (const { address, creditSats } of statement.credits) {
        const amount = `${creditSats.slice(0, -8) || '0'}.${creditSats.slice(-8).padStart(8, '0')}`;
        const line = out.find((one) => one.includes(address)) ?? '';
        assert.match(line, /^miner-immature /);
        assert.ok(line.endsWith(` ${amount} BTC`), `${line} is not ${amount}`);
      }
      assert.match(out.join('\n'), /^chain +-3\.12500007 BTC$/m);
      assert.match(out.at(-1)!, /^all together +0\.00000000 BTC$/);
      const json = await sitAt(db).ledger('balances', '--json', '--kind', 'miner-immature');
      const rows = JSON.parse(json.out.join('\n')) as Record<string, string>[];
      assert.deepEqual(
        new Map(rows.map((row) => [row.address, row.balance_sat])),
        new Map(statement.credits.map(({ address, creditSats }) => [address, creditSats])),
      );
      assert.equal((await sitAt(db).ledger('balances', '--kind', 'x')).exitCode, 2);
    });

    test('statement: what every posting did, with the balance after it', async () => {
      const db = await server.freshDatabase();
      const round = await someBooks(db, { isMature: true });
      const own = round.statement.credits.find(({ address }) => address === cid)!.creditSats;
      const { exitCode, out } = await sitAt(db).ledger('statement', cid, '--json');
      assert.equal(exitCode, 0);
      const rows = JSON.parse(out.join('\n')) as Record<string, string>[];
      assert.deepEqual(
        rows.map((row) => [row.posting, row.account, row.amount_sat, row.balance_sat]),
        [
          ['2', 'miner', own, own],
          ['2', 'miner-immature', `-${own}`, '0'],
          ['1', 'miner-immature', own, own],
        ],
      );
      assert.equal(rows[2]!.block, round.hash);
      const text = await sitAt(db).ledger('statement', cid.toUpperCase(), '--limit', '1');
      assert.match(text.out.join('\n'), /fee as the pool, donation 0%.*not on hold/);
      assert.equal(text.out.filter((line) => line.includes(' BTC')).length, 2);
      const csv = await sitAt(db).ledger('statement', cid, '--csv');
      assert.match(csv.out[0]!, /^at_utc,posting,.*amount_btc,amount_sat,balance_btc,balance_sat/);
      assert.match((await sitAt(db).ledger('statement', addressOf(7))).faults.join(), /No account/);
      const wrong = await sitAt(db).ledger('statement', 'bc1qxyz');
      assert.deepEqual(
        [wrong.exitCode, /not an address of regtest/.test(wrong.faults.join())],
        [2, true],
      );
    });

    test('rounds and round: by hash and by height, the same numbers everywhere', async () => {
      const db = await server.freshDatabase();
      const { hash, statement } = await someBooks(db);
      const rounds = JSON.parse((await sitAt(db).ledger('rounds', '--json')).out.join('\n'));
      assert.deepEqual(
        [rounds[0].block, rounds[0].reward_sat, rounds[0].root, rounds[0].state],
        [hash, `${REWARD_SATS}`, statement.root.hash, 'immature'],
      );
      const byHash = await sitAt(db).ledger('round', hash);
      assert.deepEqual(byHash.out, (await sitAt(db).ledger('round', '101')).out);
      assert.match(byHash.out.join('\n'), /Reward 3\.12500007 BTC: operator 0\.03125000 BTC/);
      const csv = await sitAt(db).ledger('round', '101', '--csv');
      assert.equal(
        csv.out[0],
        'address,work,fee_percent,donation_percent,credit_btc,credit_sat,paid_btc,paid_sat',
      );
      assert.equal(csv.out.length, 1 + statement.credits.length);
      assert.equal((await sitAt(db).ledger('round', '102')).exitCode, 1);
      assert.equal((await sitAt(db).ledger('round', 'ab'.repeat(32))).exitCode, 1);
      assert.equal((await sitAt(db).ledger('round', 'x')).exitCode, 2);
    });

    test('an exported round and its shares verify offline, and a proof does', async () => {
      const db = await server.freshDatabase();
      const { hash, statement } = await someBooks(db);
      assert.ok(statement.window.boundary !== null, 'a share at the edge counts in part');
      const name = `${kind.name}-round`;
      const [round, shares, proof] = [file(name), file(`${name}-shares`), file(`${name}-proof`)];
      const said = await sitAt(db).ledger(
        'export-round',
        hash,
        '--file',
        round,
        '--shares',
        shares,
      );
      assert.deepEqual([said.exitCode, said.faults], [0, []]);
      assert.deepEqual(JSON.parse(readFileSync(round, 'utf8')), statement);
      const proven = await sitAt(db).ledger('proof', '101', cid, '--file', proof);
      assert.equal(proven.exitCode, 0);
      const offline = sitAt(new Error('nobody may open a database'));
      const verified = await offline.verify(round, '--shares', shares, '--proof', proof);
      assert.deepEqual([verified.exitCode, verified.faults], [0, []]);
      assert.equal(verified.out.at(-1), 'Everything agrees.');
      assert.match(verified.out.join('\n'), /Recomputed from \d+ shares/);
      // Nothing is written over, and nobody gets a proof of what he does not have.
      const again = await sitAt(db).ledger('export-round', hash, '--file', round);
      assert.deepEqual([again.exitCode, /not written over/.test(again.faults.join())], [1, true]);
      const none = await sitAt(db).ledger('proof', hash, addressOf(7), '--file', file('none'));
      assert.deepEqual([none.exitCode, existsSync(file('none'))], [1, false]);
    });

    test('an export says when shares of the window are gone', async () => {
      const db = await server.freshDatabase();
      const { hash } = await someBooks(db);
      await db.query('DELETE FROM shares WHERE seq = 280');
      const name = `${kind.name}-gone`;
      const said = await sitAt(db).ledger(
        'export-round',
        hash,
        '--file',
        file(name),
        '--shares',
        file(`${name}-shares`),
      );
      assert.equal(said.exitCode, 1);
      assert.match(said.faults.join('\n'), /older ones may be gone/);
    });

    test('a window by days is exported as it was counted', async () => {
      const db = await server.freshDatabase();
      await mine(db, { from: 1, count: 50, accounts: [ann, bob] });
      const window = { kind: 'days' as const, days: 1 };
      const { hash, statement } = await credit(db, {
        height: 101,
        seq: 50n,
        rewardSats: REWARD_SATS,
        finder: ann,
        window,
      });
      assert.equal(statement.window.wantedWork, null);
      assert.equal(statement.window.afterMs, statement.block.foundAtMs - 86_400_000);
      // Whatever the configuration says by now.
      const name = `${kind.name}-days`;
      const paths = ['--file', file(name), '--shares', file(`${name}-shares`)];
      assert.deepEqual((await sitAt(db).ledger('export-round', hash, ...paths)).faults, []);
      assert.deepEqual(JSON.parse(readFileSync(file(name), 'utf8')), statement);
    });

    test('a round that was published in version 1 is exported as it was', async () => {
      const db = await server.freshDatabase();
      await mine(db, { from: 1, count: 50, accounts: [ann, bob] });
      const window = { kind: 'days' as const, days: 1 };
      const { hash, statement } = await credit(db, {
        height: 101,
        seq: 50n,
        rewardSats: REWARD_SATS,
        finder: ann,
        window,
        statementVersion: 1,
      });
      assert.equal(statement.version, 1);
      const name = `${kind.name}-version-1`;
      const desk = sitAt(db, { pools: [{ ...MAIN, window }] });
      const paths = ['--file', file(name), '--shares', file(`${name}-shares`)];
      assert.deepEqual((await desk.ledger('export-round', hash, ...paths)).faults, []);
      assert.deepEqual(JSON.parse(readFileSync(file(name), 'utf8')), statement);
      assert.equal((await desk.ledger('audit', '--rounds')).exitCode, 0);
    });

    test('audit: all right, and a hand in the tables is found', async () => {
      const db = await server.freshDatabase();
      const { roundId } = await someBooks(db, { isMature: true });
      const good = await sitAt(db).ledger('audit', '--rounds');
      assert.equal(good.exitCode, 0, good.out.join('\n'));
      assert.match(
        good.out.join('\n'),
        /^2 postings with \d+ entries: every hash, sum and balance/,
      );
      assert.match(good.out.join('\n'), /1 rounds were recomputed/);
      await db.transaction(async (tx) => {
        await tx.query('SET LOCAL session_replication_role = replica');
        await tx.query(
          `UPDATE round_credits SET credit_sats = credit_sats +
             CASE account_id WHEN (SELECT min(account_id) FROM round_credits) THEN 1 ELSE -1 END
           WHERE round_id = $1 AND account_id IN
             ((SELECT min(account_id) FROM round_credits), (SELECT max(account_id) FROM round_credits))`,
          [roundId],
        );
        await tx.query(`UPDATE ledger_accounts SET balance = balance + 1 WHERE kind = 'operator'`);
      });
      const bad = await sitAt(db).ledger('audit', '--rounds');
      assert.equal(bad.exitCode, 1);
      assert.match(bad.out.join('\n'), /WRONG {2}balance of operator/);
      assert.match(bad.out.join('\n'), /WRONG {2}round of .*credit of bcrt1/);
      assert.match(bad.out.join('\n'), /WRONG {2}round of .*was published/);
    });

    test('credit: with a reason, a yes, a trail, and never twice', async () => {
      const db = await server.freshDatabase();
      const desk = sitAt(db);
      const args = ['credit', cid, '0.01 BTC', '--reason', 'share log lost on 3 May'];
      assert.deepEqual((await desk.ledger('credit', cid, '0.01 BTC', '--yes')).exitCode, 2);
      assert.deepEqual((await desk.ledger('credit', cid, '0.01', '--reason', 'x')).exitCode, 2);
      assert.deepEqual((await desk.ledger('credit', cid, '0 BTC', '--reason', 'x')).exitCode, 2);
      assert.deepEqual((await desk.ledger('credit', cid, '-1 BTC', '--reason', 'x')).exitCode, 2);
      const short = await desk.ledger(...args, '--yes');
      assert.equal(short.exitCode, 1);
      assert.match(short.faults.join(), /operator has only 0\.00000000 BTC/);
      const funded = await desk.ledger('fund', 'main', '1 BTC', '--reason', 'start', '--yes');
      assert.deepEqual([funded.exitCode, funded.faults], [0, []]);
      // No terminal and no --yes, then a terminal.
      const silent = await desk.ledger(...args);
      assert.equal(silent.exitCode, 1);
      assert.match(silent.asked.join(), /Book 0\.01000000 BTC from the operator, who has 1\.0/);
      assert.equal(await readBalance(db, { kind: 'operator' }), 100_000_000n);
      const booked = await sitAt(db, { answer: true }).ledger(...args);
      assert.deepEqual([booked.exitCode, booked.faults], [0, []]);
      assert.match(booked.out.join(), /Posting 2: 0\.01000000 BTC.*now has 0\.01000000 BTC/);
      const again = await desk.ledger(...args, '--yes');
      assert.equal(again.exitCode, 1);
      assert.match(again.faults.join(), /booked already.*posting 2/);
      const other = await sitAt(db, { actor: 'bob' }).ledger(...args, '--yes');
      assert.equal(other.exitCode, 1);
      assert.match(other.faults.join(), /booked already.*another operator/);
      assert.equal(await readBalance(db, { kind: 'operator' }), 99_000_000n);
      const [note] = await listNotes(db, { limit: 10 });
      assert.deepEqual([note?.actor, note?.action], ['operator ada', 'credit']);
      assert.deepEqual(
        [note?.detail.reason, note?.detail.sats],
        ['share log lost on 3 May', '1000000'],
      );
      assert.deepEqual(
        [note?.detail.from, (note?.detail.to as Record<string, unknown> | undefined)?.afterSats],
        [{ kind: 'operator', beforeSats: '100000000', afterSats: '99000000' }, '1000000'],
      );
      const notes = await desk.ledger('notes');
      assert.match(notes.out.join('\n'), /operator ada +credit .*share log lost/);
      assert.equal((await desk.ledger('audit')).exitCode, 0);
    });

    test('two credits at once do not spend the same money', async () => {
      const db = await server.freshDatabase();
      const desk = sitAt(db);
      await desk.ledger('fund', 'main', '1 BTC', '--reason', 'start', '--yes');
      const said = await Promise.all(
        ['a', 'b'].map((reason) =>
          desk.ledger('credit', cid, '0.7 BTC', '--reason', reason, '--yes'),
        ),
      );
      assert.deepEqual(said.map(({ exitCode }) => exitCode).sort(), [0, 1]);
      assert.equal(await readBalance(db, { kind: 'operator' }), 30_000_000n);
    });

    test('fund: the reserve of a PPS pool, else the operator', async () => {
      const db = await server.freshDatabase();
      const pools = [MAIN, { ...MAIN, id: 'bold', scheme: 'pps' as const }];
      const desk = sitAt(db, { pools });
      await desk.ledger('fund', 'bold', '30 BTC', '--reason', 'reserve', '--yes');
      assert.equal(await readBalance(db, { kind: 'reserve', pool: 'bold' }), 3_000_000_000n);
      assert.equal(await readBalance(db, { kind: 'deposit' }), -3_000_000_000n);
      const unknown = await desk.ledger('fund', 'x', '1 BTC', '--reason', 'x', '--yes');
      assert.deepEqual(
        [unknown.exitCode, unknown.faults],
        [2, ['there is no pool "x"; there are main, bold']],
      );
      await credit(db, {
        height: 101,
        seq: 0n,
        rewardSats: REWARD_SATS,
        finder: ann,
        scheme: 'pps',
      });
      await db.transaction((tx) =>
        recordScheme(tx, {
          pool: 'bold',
          fromSeq: 1n,
          scheme: 'pps',
          reason: 'start',
          atMs: NOON_MS,
        }),
      );
      const { out } = await desk.ledger('schemes');
      assert.match(out.join('\n'), /Pool main: scheme pplns, fee 1%\n {2}window: 200% of/);
      assert.match(out.join('\n'), /reserve: 30\.00000000 BTC\n {2}chance of ruin: at most \d/);
      assert.match(out.join('\n'), /from share 1 \(2026-11-21T12:00:00Z\): pps, start/);
    });

    test('set: checked, with before and after', async () => {
      const db = await server.freshDatabase();
      const desk = sitAt(db);
      const set = (...options: string[]) =>
        desk.ledger('set', cid, ...options, '--reason', 'friend');
      const said = await set(
        '--fee-percent',
        '0.25',
        '--donation-percent',
        '1',
        '--minimum',
        '0.5 BTC',
        '--hold',
      );
      assert.deepEqual([said.exitCode, said.faults], [0, []]);
      assert.match(
        said.out[0]!,
        /before: fee as the pool, donation 0%, minimum as the pool, not on hold/,
      );
      assert.match(
        said.out[1]!,
        /now: {4}fee 0\.25%, donation 1%, minimum 0\.50000000 BTC, on hold \(friend\)/,
      );
      await set('--fee-percent', 'default', '--minimum', 'default', '--no-hold');
      const [id] = await db.query<{ account_id: bigint }>('SELECT account_id FROM accounts');
      assert.deepEqual((await readSettings(db, [id!.account_id])).get(id!.account_id), {
        feePpm: null,
        donationPpm: 10_000,
        minimumPayoutSats: null,
        onHold: false,
        holdReason: null,
      });
      for (const [options, exitCode, fault] of [
        [[], 2, /changes nothing/],
        [['--hold', '--no-hold'], 2, /do not go together/],
        [['--fee-percent', '100.1'], 2, /no percentage/],
        [['--fee-percent', '1%'], 2, /no percentage/],
        [['--minimum', '9999 sat'], 2, /may ask for more, never for less/],
        [['--fee-percent', '99.5'], 1, /more than 100% together/],
      ] as const) {
        const refused = await set(...options);
        assert.equal(refused.exitCode, exitCode, options.join(' '));
        assert.match(refused.faults.join(), fault);
      }
      assert.equal((await listNotes(db, { limit: 10 })).length, 2);
      assert.equal((await desk.ledger('set', split, '--hold', '--reason', 'x')).exitCode, 2);
    });

    test('reverse: only what the chain has lost, as a loss of the pool', async () => {
      const db = await server.freshDatabase();
      const round = await someBooks(db, { isMature: true });
      const desk = sitAt(db);
      const args = ['reverse', round.hash, '--reason', 'attack on the chain', '--yes'];
      const early = await desk.ledger(...args);
      assert.equal(early.exitCode, 1);
      assert.match(early.faults.join(), /Not reversed: nobody has seen this block leave the chain/);
      const [block] = await db.query<{ block_hash: Uint8Array }>('SELECT block_hash FROM rounds');
      await noteReversal(db, block!.block_hash, {
        proposed: true,
        actor: 'payoutd',
        reason: 'gone',
        atMs: NOON_MS,
      });
      const said = await desk.ledger(...args);
      assert.deepEqual([said.exitCode, said.faults], [0, []]);
      assert.match(said.out.join(), /a loss of 3\.12500007 BTC/);
      assert.equal(await readBalance(db, { kind: 'loss' }), -REWARD_SATS);
      assert.equal((await desk.ledger(...args)).exitCode, 1);
      assert.equal((await desk.ledger('audit', '--rounds')).exitCode, 0);
    });

    test('the exit codes: no database, a lost one, a bug', async () => {
      const away = await sitAt(new Error('connect ECONNREFUSED')).ledger('audit');
      assert.deepEqual([away.exitCode, /can not be reached/.test(away.faults.join())], [75, true]);
      const usage = await sitAt(new Error('not opened')).ledger('adit');
      assert.equal(usage.exitCode, 2);
      assert.ok(usage.faults.some((line) => line.includes('headframe ledger audit')));
      const help = await sitAt(new Error('not opened')).ledger('--help');
      assert.deepEqual([help.exitCode, help.faults], [0, []]);
      const db = await server.freshDatabase();
      const lost = await sitAt({
        ...db,
        transaction: () =>
          Promise.reject(Object.assign(new Error('terminating connection'), { code: '57P01' })),
      }).ledger('audit');
      assert.equal(lost.exitCode, 75);
      const gone = await sitAt(db, {
        print: () => {
          throw Object.assign(new Error('write EPIPE'), { code: 'EPIPE', syscall: 'write' });
        },
      }).ledger('balances');
      assert.deepEqual([gone.exitCode, gone.faults], [0, []], 'as with | head');
      await db.query('ALTER TABLE rounds RENAME TO other');
      await assert.rejects(sitAt(db).ledger('rounds'), { code: '42P01' });
    });

    test('every command has code behind it', async () => {
      const db = await server.freshDatabase();
      await someBooks(db);
      const { out } = await sitAt(db).ledger('--help');
      const names = out.flatMap((line) => /^ {2}headframe ledger (\S+)/.exec(line)?.[1] ?? []);
      assert.equal(names.length, 14);
      for (const name of names) {
        // Whatever is missing or wrong, it is told and not thrown.
        const said = await sitAt(db).ledger(
          name,
          '101',
          'x',
          '--reason',
          'x',
          '--file',
          '/nowhere/x',
        );
        assert.ok(said.exitCode <= 2, name);
        await sitAt(db).ledger(name);
        await sitAt(db).ledger(name, '101', '--reason', 'x', '--file', '/nowhere/x');
      }
    });
  });
}

test('a file that is there stays as it was', async () => {
  writeFileSync(file('mine'), 'mine');
  const said = await sitAt(new Error('no')).verify(file('mine'));
  assert.equal(said.exitCode, 1);
  assert.equal(readFileSync(file('mine'), 'utf8'), 'mine');
});
