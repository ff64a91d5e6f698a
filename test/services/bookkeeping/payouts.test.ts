import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type { PayoutPolicy } from '../../../src/core/ledger/rules.ts';
import type { Db } from '../../../src/ports.ts';
import { listNotes } from '../../../src/store/ledger.ts';
import { listBatches, quarantineAccount, readBatch } from '../../../src/store/payouts.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import {
  type Account,
  createPayerRig,
  HOUR_MS,
  type PayerRig,
  POLICY,
} from '../../tools/payer-rig.ts';
import { MAIN, type Said, sitAt } from './pool-books.ts';

const folder = mkdtempSync(join(tmpdir(), 'headframe-payouts-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const COLD: PayoutPolicy = { ...POLICY, signing: 'cold' };

for (const kind of SERVER_KINDS) {
  describe(`payout command on ${kind.name}`, () => {
    let server: TestServer;
    let db: Db;
    let rig: PayerRig;
    let accounts: Account[];
    let made = 0;
    const file = (name: string): string => join(folder, `${kind.name}-${made}-${name}`);

    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());
    /** Three accounts, the last with less than the minimum. */
    beforeEach(async () => {
      made += 1;
      db = await server.freshDatabase();
      rig = await createPayerRig(db);
      accounts = [];
      // One after the other: a database in a test has few connections.
      for (const at of [0, 1, 2]) accounts.push(await rig.account(`miner ${at}`, at));
      const sats = [50_000_000n, 1_234_567n, 9_999n];
      await rig.credit(accounts.map(({ accountId }, at) => ({ accountId, sats: sats[at]! })));
    });
    afterEach(() => rig.stop());

    const at = (policy: PayoutPolicy | null = POLICY, answer = false) =>
      sitAt(db, { policy, answer, clock: { nowMs: () => rig.nowMs() } });
    const payout = (...argv: string[]): Promise<Said> => at().payout(...argv);

    test('plan: who is paid, who is not and why, and nothing changes', async () => {
      const { exitCode, out } = await payout('plan');
      assert.equal(exitCode, 0);
      const text = out.join('\n');
      assert.match(text, new RegExp(`${accounts[0]!.address} +0\\.50000000 BTC`));
      assert.match(text, new RegExp(`${accounts[1]!.address} +0\\.01234567 BTC`));
      assert.match(text, new RegExp(`${accounts[2]!.address} +– +below-minimum: below 10000 sat`));
      assert.match(
        out.at(-1)!,
        /^0\.51234567 BTC in 2 payouts and 1 transactions, from wallet pool/,
      );
      assert.deepEqual(await listBatches(db, { limit: 10 }), []);
      const rows = JSON.parse((await payout('plan', '--json')).out.join('\n'));
      assert.deepEqual(
        rows.map((row: Record<string, string>) => row.amount_sat),
        ['50000000', '1234567', null],
      );
      const none = await at(null).payout('plan');
      assert.deepEqual(
        [none.exitCode, none.faults],
        [1, ['Nothing is paid out: PAYOUT_WALLET is not set.']],
      );
    });

    test('run: the pool pays at its next cycle, and list and show say so to the satoshi', async () => {
      const payer = rig.payer({ schedule: { kind: 'daily', minuteOfDayUtc: 0 } });
      await payer.cycle();
      const before = (await listBatches(db, { limit: 10 })).length;
      await rig.credit([{ accountId: accounts[0]!.accountId, sats: 70_000n }]);
      await payer.cycle();
      assert.equal((await listBatches(db, { limit: 10 })).length, before, 'not before tomorrow');
      assert.equal((await payout('run', '--reason', 'asked')).exitCode, 1);
      await rig.mine(6);
      await payer.cycle();
      const said = await at(POLICY, true).payout('run', '--reason', 'asked');
      assert.deepEqual([said.exitCode, said.faults], [0, []]);
      assert.match(said.asked.join(), /Pay 0\.00070000 BTC in 1 transactions now\?/);
      await payer.cycle();
      const batches = await listBatches(db, { limit: 10 });
      assert.equal(batches.length, before + 1);
      const list = await payout('list', '--csv');
      assert.match(list.out[1]!, /,0\.00070000,70000,/);
      const each = JSON.parse((await payout('list', '--payouts', '--json')).out.join('\n'));
      assert.deepEqual(
        each.map((one: Record<string, string>) => [one.address, one.amount_sat]).sort(),
        [
          [accounts[0]!.address, '50000000'],
          [accounts[0]!.address, '70000'],
          [accounts[1]!.address, '1234567'],
        ].sort(),
      );
      assert.ok(
        each.every((one: Record<string, string>) => /^[0-9a-f]{64}$/.test(one.transaction!)),
      );
      const id = String(batches[0]!.batchId);
      const show = await payout('show', id);
      assert.match(show.out.join('\n'), new RegExp(`${accounts[0]!.address} +0\\.00070000 BTC`));
      assert.match(
        show.out.join('\n'),
        /Transaction 1, (broadcast|seen): [0-9a-f]{64}, fee 0\.0000\d+ BTC/,
      );
      const [row] = JSON.parse((await payout('show', id, '--json')).out.join('\n'));
      const batch = await readBatch(db, batches[0]!.batchId);
      assert.deepEqual([row.amount_sat, row.received_sat], ['70000', '70000']);
      assert.equal(
        row.transaction,
        Buffer.from(batch!.generations[0]!.txid!).reverse().toString('hex'),
      );
      assert.equal((await payout('show', '99')).exitCode, 1);
      assert.equal((await payout('show', '0x1')).exitCode, 2);
    });

    test('hold and release: all payouts', async () => {
      const held = await payout('hold', '--reason', 'the wallet moves');
      assert.equal(held.exitCode, 0);
      assert.match(
        (await payout('hold', '--reason', 'x')).faults.join(),
        /stopped before, by operator ada: the wallet moves/,
      );
      const payer = rig.payer();
      await payer.cycle();
      assert.deepEqual(await listBatches(db, { limit: 10 }), []);
      assert.match(
        (await payout('plan')).out[0]!,
        /PAYOUTS ARE STOPPED since .* by operator ada: the wallet moves/,
      );
      assert.match(
        (await payout('run', '--reason', 'x', '--yes')).faults.join(),
        /Payouts are stopped/,
      );
      assert.equal((await payout('release', '--reason', 'moved')).exitCode, 1, 'no yes');
      const released = await payout('release', '--reason', 'moved', '--yes');
      assert.deepEqual([released.exitCode, released.faults], [0, []]);
      assert.equal((await payout('release', '--reason', 'x', '--yes')).exitCode, 1);
      await payer.cycle();
      assert.equal((await listBatches(db, { limit: 10 }))[0]?.state, 'broadcast');
      const events = await db.query(
        'SELECT actor, event, detail FROM payout_events ORDER BY event_id LIMIT 2',
      );
      assert.deepEqual(events, [
        { actor: 'operator ada', event: 'hold', detail: 'the wallet moves' },
        { actor: 'operator ada', event: 'release', detail: 'moved' },
      ]);
    });

    test('hold and release: one account, by a person or by the wallet', async () => {
      const [first, second] = accounts.map(({ address }) => address);
      assert.equal((await payout('hold', first!, '--reason', 'court order')).exitCode, 0);
      assert.equal((await payout('hold', first!, '--reason', 'again')).exitCode, 1);
      await quarantineAccount(db, accounts[1]!.accountId, {
        actor: 'payer',
        reason: 'Invalid address',
        atMs: rig.nowMs(),
      });
      const plan = (await payout('plan')).out.join('\n');
      assert.match(plan, /on-hold: the account is on hold/);
      assert.match(plan, new RegExp(`${second} is not paid: Invalid address`));
      assert.match(plan, /^0\.00000000 BTC in 0 payouts/m);
      const asked = await payout('release', first!, '--reason', 'lifted');
      assert.deepEqual([asked.exitCode, asked.asked.length], [1, 1]);
      assert.match(asked.asked[0]!, /was on hold: court order\. Pay it again\?/);
      for (const address of [first!, second!]) {
        assert.equal((await payout('release', address, '--reason', 'lifted', '--yes')).exitCode, 0);
        assert.equal((await payout('release', address, '--reason', 'x', '--yes')).exitCode, 1);
      }
      assert.match((await payout('plan')).out.at(-1)!, /in 2 payouts/);
      const [note] = await listNotes(db, { limit: 1 });
      assert.deepEqual(
        [
          note?.actor,
          note?.detail.reason,
          (note?.detail.before as { onHold: boolean } | undefined)?.onHold,
        ],
        ['operator ada', 'lifted', true],
      );
    });

    test('cold: export, sign elsewhere, import; another transaction is refused', async () => {
      const payer = rig.payer({ signing: 'cold' });
      await payer.cycle();
      const [batch] = await listBatches(db, { limit: 1 });
      assert.equal(batch?.state, 'built');
      const id = String(batch.batchId);
      const desk = at(COLD);
      const exported = await desk.payout('export', id, '--file', file('psbt'));
      assert.deepEqual([exported.exitCode, exported.faults], [0, []]);
      assert.match(
        exported.out[0]!,
        /generation 1 of batch \d+, 0\.51234567 BTC to 2 accounts, fee 0\.0000/,
      );
      const again = await desk.payout('export', id, '--file', file('psbt'));
      assert.match(again.faults.join(), /not written over/);
      await desk.payout('export', id, '--file', file('psbt2'), '--reason', 'first copy lost');
      const psbt = readFileSync(file('psbt'), 'utf8').trim();
      assert.equal(readFileSync(file('psbt2'), 'utf8').trim(), psbt);
      const cancelled = await desk.payout('cancel', id, '--reason', 'x', '--yes');
      assert.equal(cancelled.exitCode, 1, 'what left the house is not given back');
      const { psbt: signed } = await rig.call('walletprocesspsbt', [
        psbt,
        true,
        'ALL',
        true,
        false,
      ]);
      const bytes = Buffer.from(signed, 'base64');
      const amount = Buffer.alloc(8);
      amount.writeBigInt64LE(50_000_000n);
      const where = bytes.indexOf(amount);
      assert.ok(where > 0);
      bytes[where] = bytes[where]! + 1;
      writeFileSync(file('forged'), bytes.toString('base64'));
      writeFileSync(file('noise'), 'not a transaction');
      for (const name of ['forged', 'noise', 'absent']) {
        const refused = await desk.payout('import', id, '--file', file(name), '--yes');
        assert.equal(refused.exitCode, 1, name);
      }
      writeFileSync(file('signed'), `${signed}\n`);
      assert.equal(
        (await desk.payout('import', id, '--file', file('signed'))).exitCode,
        1,
        'no yes',
      );
      const taken = await desk.payout(
        'import',
        id,
        '--file',
        file('signed'),
        '--yes',
        '--reason',
        'signed by two',
      );
      assert.deepEqual([taken.exitCode, taken.faults], [0, []]);
      for (let depth = 0; depth < 8; depth++) {
        await payer.cycle();
        await rig.mine(1);
      }
      await payer.cycle();
      assert.equal((await listBatches(db, { limit: 1 }))[0]?.state, 'settled');
      await rig.judge(accounts);
      assert.equal(rig.paidTo(accounts[0]!.script), 50_000_000n);
      const notes = await listNotes(db, { limit: 2 });
      assert.deepEqual(
        notes.map(({ actor, action, detail }) => [actor, action, detail.reason]),
        [
          ['operator ada', 'payout import', 'signed by two'],
          ['operator ada', 'payout export', 'first copy lost'],
        ],
      );
    });

    test('cancel: a batch that never left gives its money back', async () => {
      await rig.payer({ signing: 'cold' }).cycle();
      const id = String((await listBatches(db, { limit: 1 }))[0]!.batchId);
      assert.equal(await rig.balance('transit'), 51_234_567n);
      assert.equal((await payout('cancel', id, '--reason', 'wrong wallet')).exitCode, 1);
      const said = await payout('cancel', id, '--reason', 'wrong wallet', '--yes');
      assert.deepEqual([said.exitCode, said.faults], [0, []]);
      assert.equal(await rig.balance('transit'), 0n);
      assert.equal(await rig.balance('miner'), 51_244_566n);
      assert.equal((await payout('cancel', id, '--reason', 'x', '--yes')).exitCode, 1);
    });

    test('acknowledge: a spend of the operator’s own stops payouts until it is named', async () => {
      const payer = rig.payer();
      await payer.cycle();
      await rig.mine(1);
      await payer.cycle();
      const txid = await rig.call('sendtoaddress', [accounts[2]!.address, 1]);
      await rig.mine(1);
      await rig.pass(HOUR_MS);
      await payer.cycle();
      assert.match((await payout('list')).out[0]!, /PAYOUTS ARE STOPPED/);
      assert.equal((await payout('acknowledge', 'ab', '--reason', 'x', '--yes')).exitCode, 2);
      assert.equal((await payout('acknowledge', txid, '--reason', 'rent')).exitCode, 1);
      const said = await payout('acknowledge', txid, '--reason', 'rent', '--yes');
      assert.deepEqual([said.exitCode, said.faults], [0, []]);
      await payout('release', '--reason', 'rent was mine', '--yes');
      await payer.cycle();
      assert.doesNotMatch((await payout('list')).out[0]!, /PAYOUTS ARE STOPPED/);
    });

    test('the exit codes, and every command has code behind it', async () => {
      const away = await sitAt(new Error('connect ECONNREFUSED')).payout('list');
      assert.equal(away.exitCode, 75);
      const { out } = await sitAt(new Error('not opened')).payout('--help');
      const names = out.flatMap((line) => /^ {2}headframe payout (\S+)/.exec(line)?.[1] ?? []);
      assert.equal(names.length, 10);
      for (const name of names) {
        for (const words of [[], ['1'], ['1', '--reason', 'x', '--file', '/nowhere/x', '--yes']])
          assert.ok((await payout(name, ...words)).exitCode <= 2, name);
      }
      const solo = sitAt(db, { policy: null, pools: [{ ...MAIN, scheme: 'solo' }] });
      assert.match((await solo.payout('plan')).faults.join(), /no pool holds money for miners/);
    });
  });
}
