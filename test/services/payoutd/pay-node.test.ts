/**
 * The payer against Bitcoin Core on regtest, over real HTTP; where Core is not found, against our own development chain, which must
 * behave the same. Cold signing uses a wallet that only watches where the node can have one.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createRpc } from '../../../src/adapters/node/rpc.ts';
import { encodeAddress } from '../../../src/core/bitcoin/address.ts';
import { encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import type { PayoutPolicy } from '../../../src/core/ledger/rules.ts';
import type { Rpc } from '../../../src/core/node/rpc.ts';
import { decodeAmount } from '../../../src/core/node/wallet.ts';
import type { Db } from '../../../src/ports.ts';
import { createPayer, type Payer } from '../../../src/services/payoutd/payer.ts';
import { postLedger } from '../../../src/store/ledger.ts';
import {
  exportBatch,
  importBatch,
  listBatches,
  readBatch,
  readControl,
  releasePayouts,
} from '../../../src/store/payouts.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import { HOUR_MS, POLICY, scriptOf } from '../../tools/payer-rig.ts';
import { findProgram, type RegtestNode, startRegtestNode } from '../../tools/regtest-node.ts';
import { createSilentLog } from '../../tools/silent-log.ts';

const strangers = encodeAddress(scriptOf('strangers'), 'regtest') as string;
const log = createSilentLog();
const deed = { actor: 'operator', reason: 'test', atMs: 0 };
let server: TestServer;
let node: RegtestNode;
let nowMs = Date.now();

before(async () => {
  server = await SERVER_KINDS[0]!.start();
  node = await startRegtestNode(findProgram('BITCOIND', 'bitcoind'));
});
after(async () => {
  await node.stop();
  await server.stop();
});

function doorTo(wallet: string | null): Rpc {
  return createRpc({
    name: wallet ?? 'node',
    url: wallet === null ? node.url : new URL(`/wallet/${wallet}`, node.url).href,
    user: node.user,
    password: node.password,
    timeoutMs: 20_000,
    log,
  });
}

function payerOf(db: Db, wallet: string, policy: Partial<PayoutPolicy> = {}): Payer {
  return createPayer(
    {
      clock: { nowMs: () => nowMs },
      log,
      db,
      node: doorTo(null),
      wallet: doorTo(wallet),
      meter: { count() {}, set() {} },
      fault() {},
    },
    { network: 'regtest', policy: { ...POLICY, wallet, ...policy } },
  );
}

/** A wallet with `rewards` mature rewards of four address types. */
async function fundedWallet(name: string, rewards: number): Promise<void> {
  await node.call('createwallet', [name]);
  const types = ['bech32', 'bech32m', 'p2sh-segwit', 'legacy'];
  for (let at = 0; at < rewards; at += 1)
    await node.call('generatetoaddress', [
      1,
      await node.call('getnewaddress', ['', types[at % 4]], name),
    ]);
  await node.call('generatetoaddress', [101, strangers]);
}

/** Accounts with addresses of all five kinds, each with `sats`. */
async function owe(db: Db, sats: bigint, label: string): Promise<Map<bigint, string>> {
  const accounts = new Map<bigint, string>();
  for (const kind of [0, 1, 2, 3, 4]) {
    const address = encodeAddress(scriptOf(label, kind), 'regtest') as string;
    const [row] = await db.query<{ account_id: bigint }>(
      'INSERT INTO accounts (address, created_at) VALUES ($1, now()) RETURNING account_id',
      [address],
    );
    accounts.set(row?.account_id as bigint, address);
  }
  await db.transaction((tx) =>
    postLedger(tx, {
      key: `owe:${label}`,
      kind: 'manual',
      atMs: nowMs,
      actor: 'test',
      entries: [
        { account: { kind: 'deposit' }, sats: -5n * sats },
        ...[...accounts.keys()].map((accountId) => ({
          account: { kind: 'miner' as const, accountId },
          sats,
        })),
      ],
    }),
  );
  return accounts;
}

const stateOf = async (db: Db): Promise<string | undefined> =>
  (await listBatches(db, { limit: 1 }))[0]?.state;

for (const feePolicy of ['pool', 'miner'] as const)
  test(`paid, bumped twice, reorganised below settlement, settled; the ${feePolicy} pays the fee`, async () => {
    const db = await server.freshDatabase();
    const wallet = `hot-${feePolicy}`;
    await fundedWallet(wallet, 4);
    await owe(db, 30_000_000n, `hot ${feePolicy}`);
    const payer = payerOf(db, wallet, { feePolicy, bumpAfterMs: HOUR_MS });
    await payer.cycle();
    assert.deepEqual(payer.status().alarms, []);
    assert.equal(await stateOf(db), 'broadcast');
    for (const generation of [2, 3]) {
      nowMs += HOUR_MS + 1;
      await payer.cycle();
      assert.deepEqual(payer.status().alarms, []);
      assert.equal((await readBatch(db, 1n))?.generations.length, generation);
    }
    await payer.cycle();
    const bumped = (await readBatch(db, 1n))?.generations ?? [];
    assert.deepEqual(
      bumped.map((one) => one.state),
      ['broadcast', 'broadcast', 'seen'],
    );
    const [block] = (await node.call('generatetoaddress', [3, strangers])) as string[];
    await payer.cycle();
    assert.equal(await stateOf(db), 'confirmed');
    await node.call('invalidateblock', [block]);
    await payer.cycle();
    assert.match((await stateOf(db)) as string, /seen|broadcast/);
    await node.call('generatetoaddress', [6, scriptAddress('other branch')]);
    await payer.cycle();
    assert.equal(await stateOf(db), 'settled');
    const settled = await readBatch(db, 1n);
    const paid = settled?.generations.find((one) => one.state === 'confirmed');
    const fact = (await node.call(
      'gettransaction',
      [encodeHexReversed(paid?.txid as Uint8Array), true, true],
      wallet,
    )) as {
      fee: number;
      decoded: { vout: { value: number; scriptPubKey: { address: string } }[] };
    };
    assert.equal(decodeAmount(-fact.fee), paid?.feeSats);
    for (const item of settled?.items ?? []) {
      const outputs = fact.decoded.vout.filter((one) => one.scriptPubKey.address === item.address);
      assert.deepEqual(
        outputs.map((one) => decodeAmount(one.value)),
        [item.amountSats - item.feeSats],
      );
    }
    const after = await payer.cycle().then(() => payer.status());
    assert.deepEqual(after.alarms, []);
    assert.equal((await readControl(db)).halted, false);
  });

test('signed cold: exported, a forgery refused, imported, paid', async () => {
  const db = await server.freshDatabase();
  await fundedWallet('cold', 3);
  let watching = 'cold';
  if (node.kind === 'core') {
    watching = 'watching';
    await node.call('createwallet', [watching, true, true]);
    const { descriptors } = (await node.call('listdescriptors', [false], 'cold')) as {
      descriptors: Record<string, unknown>[];
    };
    await node.call(
      'importdescriptors',
      [descriptors.map((one) => ({ ...one, timestamp: 0 }))],
      watching,
    );
  }
  await owe(db, 20_000_000n, 'cold');
  const payer = payerOf(db, watching, { signing: 'cold', bumpAfterMs: HOUR_MS });
  await payer.cycle();
  assert.equal(await stateOf(db), 'built');
  const exported = await exportBatch(db, 1n, deed);
  assert.ok(exported.ok);
  await payer.cycle();
  assert.equal(payer.status().alarms[0]?.code, 'awaiting-signature');
  const forged = (await node.call(
    'walletcreatefundedpsbt',
    [[], [{ [scriptAddress('thief')]: '1.0' }], 0, { fee_rate: '2' }],
    'cold',
  )) as { psbt: string };
  const sign = async (psbt: string): Promise<string> =>
    (
      (await node.call('walletprocesspsbt', [psbt, true, 'DEFAULT', true, false], 'cold')) as {
        psbt: string;
      }
    ).psbt;
  const refused = await importBatch(db, 1n, await sign(forged.psbt), deed);
  assert.ok(!refused.ok && /not the transaction that was exported/.test(refused.reason));
  assert.ok((await importBatch(db, 1n, exported.psbt, deed)).ok, 'unsigned: same transaction');
  await payer.cycle();
  assert.equal(await stateOf(db), 'exported', 'but without signatures it goes nowhere');
  assert.equal(payer.status().alarms[0]?.code, 'refused');
  assert.deepEqual(await importBatch(db, 1n, await sign(exported.psbt), deed), { ok: true });
  await payer.cycle();
  assert.equal(await stateOf(db), 'broadcast');
  // A bump of a cold payout waits for the signer again.
  nowMs += HOUR_MS + 1;
  await payer.cycle();
  const again = await exportBatch(db, 1n, deed);
  assert.ok(again.ok && again.generation === 2);
  assert.deepEqual(await importBatch(db, 1n, await sign(again.psbt), deed), { ok: true });
  await payer.cycle();
  await node.call('generatetoaddress', [6, strangers]);
  await payer.cycle();
  assert.equal(await stateOf(db), 'settled');
  assert.equal((await readBatch(db, 1n))?.generations[1]?.state, 'confirmed');
});

test('a spend of the wallet by somebody else stops everything', async () => {
  const db = await server.freshDatabase();
  await fundedWallet('shared', 3);
  const payer = payerOf(db, 'shared');
  await payer.cycle();
  await node.call(
    'sendtoaddress',
    [scriptAddress('thief'), '1.0', '', '', false, true, 6],
    'shared',
  );
  await payer.cycle();
  assert.equal(payer.status().state, 'halted');
  assert.match((await readControl(db)).haltReason, /not in the books/);
  await releasePayouts(db, deed);
  await payer.cycle();
  assert.equal(payer.status().state, 'halted', 'the doubt is still there');
});

function scriptAddress(seed: string): string {
  return encodeAddress(scriptOf(seed), 'regtest') as string;
}

test('a chain exchanged below a settled payout: said, sent again, and said no more when it is back', async () => {
  const db = await server.freshDatabase();
  await fundedWallet('deep', 4);
  await owe(db, 10_000_000n, 'deep');
  const payer = payerOf(db, 'deep');
  await payer.cycle();
  const [block] = (await node.call('generatetoaddress', [8, strangers])) as string[];
  await payer.cycle();
  await payer.cycle();
  assert.equal(await stateOf(db), 'settled');
  const txid = (await readBatch(db, 1n))?.generations[0]?.txid as Uint8Array;
  const confirmations = async () => {
    const known = await node.call('gettransaction', [encodeHexReversed(txid), true], 'deep');
    return (known as { confirmations: number }).confirmations;
  };
  assert.equal(await confirmations(), 8);
  // Deeper than a node puts transactions back by itself: its mempool is emptied on the way.
  await node.call('invalidateblock', [block]);
  for (let at = 0; at < 9; at += 1)
    await node.call('generateblock', [scriptAddress(`without ${at}`), []]);
  assert.equal(await confirmations(), 0);
  await payer.cycle();
  assert.deepEqual(
    payer.status().alarms.map(({ code }) => code),
    ['unsettled'],
  );
  await node.call('generatetoaddress', [1, strangers]);
  assert.ok((await confirmations()) > 0, 'the same bytes are in the chain again');
  await payer.cycle();
  assert.deepEqual(payer.status().alarms, []);
  assert.equal((await readControl(db)).halted, false);
});
