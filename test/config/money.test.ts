import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ConfigAnswer, readConfig } from '../../src/config.ts';
import type { PoolRules } from '../../src/core/ledger/rules.ts';

const address = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';
const second = 'bcrt1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qzf4jry';
const mainnet = 'bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4';
const node = {
  NETWORK: 'regtest',
  BITCOIN_RPC_HOST: '127.0.0.1',
  BITCOIN_RPC_USER: 'u',
  BITCOIN_RPC_PASSWORD: 'p',
};
const whole = { ...node, POOL_ADDRESS: address };

function read(env: Record<string, string>, file?: string): ConfigAnswer {
  return readConfig({
    argv: [],
    env,
    readFile: () =>
      file === undefined
        ? { kind: 'missing' }
        : { kind: 'bytes', bytes: new TextEncoder().encode(file), othersMayRead: false },
    directory: '/srv/pool',
  });
}

function good(env: Record<string, string>, file?: string) {
  const answer = read(env, file);
  assert.ok(answer.ok, answer.ok ? '' : answer.errors.join('\n'));
  return answer;
}

function pool(env: Record<string, string>): PoolRules {
  return good(env).config.pools[0]!;
}

/** The faults, exactly. */
function faults(env: Record<string, string>, file?: string): string[] {
  const answer = read(env, file);
  assert.ok(!answer.ok, 'accepted');
  assert.equal(answer.exitCode, 78);
  return answer.errors;
}

test('every scheme can be chosen, and fees are exact parts per million', () => {
  for (const scheme of ['pplns', 'prop', 'pps', 'fpps', 'solo', 'direct', 'pool'] as const) {
    const rules = pool({ ...whole, PAYOUT_MODE: scheme, POOL_FEE_PERCENT: '0.2525' });
    assert.equal(rules.scheme, scheme);
    assert.equal(rules.feePpm, scheme === 'pool' ? 0 : 2_525);
    assert.equal(rules.address, address);
  }
});

test('solo and direct: a fee only with somebody to take it', () => {
  for (const PAYOUT_MODE of ['solo', 'direct']) {
    const free = pool({ ...node, PAYOUT_MODE });
    assert.deepEqual([free.feePpm, free.feeAddress], [0, null]);
    const paid = pool({ ...whole, PAYOUT_MODE });
    assert.deepEqual([paid.feePpm, paid.feeAddress], [10_000, address]);
    const elsewhere = pool({ ...whole, PAYOUT_MODE, FEE_ADDRESS: second });
    assert.deepEqual([elsewhere.feePpm, elsewhere.feeAddress], [10_000, second]);
    const none = pool({ ...whole, PAYOUT_MODE, POOL_FEE_PERCENT: '0' });
    assert.deepEqual([none.feePpm, none.feeAddress], [0, null]);
    assert.deepEqual(faults({ ...node, PAYOUT_MODE, POOL_FEE_PERCENT: '1' }), [
      'POOL_FEE_PERCENT asks for a fee, but neither FEE_ADDRESS nor POOL_ADDRESS says who gets it.',
    ]);
  }
  const custodial = pool({ ...whole, FEE_ADDRESS: second.toUpperCase() });
  assert.equal(custodial.feeAddress, second);
});

test('addresses: missing, the example, of another network, of nobody', () => {
  assert.match(faults(node).join(), /^POOL_ADDRESS is missing: the regtest address/);
  assert.deepEqual(faults({ ...node, POOL_ADDRESS: 'your-pool-address-here' }), [
    'POOL_ADDRESS still is the example: set an address of yours.',
  ]);
  for (const name of ['POOL_ADDRESS', 'FEE_ADDRESS', 'DEVELOPER_ADDRESS']) {
    const [fault, ...more] = faults({ ...whole, [name]: mainnet });
    assert.match(fault!, new RegExp(`^${name} is not an address of regtest: .*mainnet`));
    assert.deepEqual(more, []);
  }
  assert.match(
    faults({ POOL_ADDRESS: mainnet }).join(),
    /not an address of the development chain.*configure a node/,
  );
  const nobody = 'bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202';
  assert.match(
    good({ ...whole, FEE_ADDRESS: nobody }).warnings.join(),
    /FEE_ADDRESS is an address whose coins nobody is known to be able to spend/,
  );
});

test('the window is work or days, and never both', () => {
  assert.deepEqual(pool({ ...whole, PPLNS_WINDOW_FACTOR: '0.5' }).window, {
    kind: 'work',
    factorPpm: 500_000n,
  });
  assert.deepEqual(pool({ ...whole, PPLNS_WINDOW_FACTOR: '2.000001' }).window, {
    kind: 'work',
    factorPpm: 2_000_001n,
  });
  assert.deepEqual(pool({ ...whole, PPLNS_WINDOW_DAYS: '7' }).window, { kind: 'days', days: 7 });
  assert.match(
    faults({ ...whole, PPLNS_WINDOW_FACTOR: '2', PPLNS_WINDOW_DAYS: '7' }).join(),
    /both say how large the window is/,
  );
  assert.match(
    faults({ ...whole, PPLNS_WINDOW_DAYS: '91' }).join(),
    /asks for 91 days, but shares are kept for 90/,
  );
  good({ ...whole, PPLNS_WINDOW_DAYS: '91', SHARE_RETENTION_DAYS: '91' });
  assert.match(
    faults({ ...whole, SHARE_RETENTION_DAYS: '10', SPAN_RETENTION_DAYS: '9' }).join(),
    /SPAN_RETENTION_DAYS 9 is below SHARE_RETENTION_DAYS 10/,
  );
  assert.match(
    good({ ...whole, PAYOUT_MODE: 'prop', PPLNS_WINDOW_DAYS: '7' }).warnings.join(),
    /PPLNS_WINDOW_DAYS has no effect: no pool is of scheme pplns or direct/,
  );
  // A pool that may turn into PPLNS needs a window for that day.
  assert.doesNotMatch(
    good({
      ...whole,
      PAYOUT_MODE: 'pps',
      PPS_ON_RUIN: 'downgrade',
      PPLNS_WINDOW_FACTOR: '3',
    }).warnings.join(),
    /no effect/,
  );
});

test('developer fee: with an address, within 100 percent, where it can be taken', () => {
  const env = { ...whole, DEVELOPER_FEE_PERCENT: '0.5' };
  assert.deepEqual(faults(env), [
    'DEVELOPER_FEE_PERCENT asks for a fee, but DEVELOPER_ADDRESS does not say who gets it.',
  ]);
  const rules = pool({ ...env, DEVELOPER_ADDRESS: second });
  assert.deepEqual([rules.developerFeePpm, rules.developerAddress], [5_000, second]);
  assert.match(
    faults({ ...env, DEVELOPER_ADDRESS: second, POOL_FEE_PERCENT: '99.6' }).join(),
    /POOL_FEE_PERCENT and DEVELOPER_FEE_PERCENT are more than 100 percent together/,
  );
  pool({ ...env, DEVELOPER_ADDRESS: second, POOL_FEE_PERCENT: '99.5' });
  assert.match(
    faults({ ...env, DEVELOPER_ADDRESS: second, PAYOUT_MODE: 'solo' }).join(),
    /can be taken in the schemes pplns, prop, pps and fpps only/,
  );
});

test('pps without a fee is ruin', () => {
  for (const PAYOUT_MODE of ['pps', 'fpps']) {
    assert.match(
      faults({ ...whole, PAYOUT_MODE, POOL_FEE_PERCENT: '0' }).join(),
      /without a fee ruin is certain. Set POOL_FEE_PERCENT/,
    );
    assert.match(
      faults({ ...whole, PAYOUT_MODE, PPS_RUIN_PERCENT_MAX: '0' }).join(),
      /PPS_RUIN_PERCENT_MAX must be above 0/,
    );
    const rules = pool({
      ...whole,
      PAYOUT_MODE,
      PPS_RUIN_PERCENT_MAX: '0.01',
      PPS_ON_RUIN: 'downgrade',
    });
    assert.deepEqual([rules.feePpm, rules.ruinPpmMax, rules.onRuin], [10_000, 100, 'downgrade']);
  }
});

test('several pools, each on its port, in the file and in one line', () => {
  const inFile = good(
    whole,
    `
pools:
  - id: alone
    scheme: solo
    fee: 0.5
  - { id: bold, scheme: pps, fee: 4, address: ${second}, ruin_max: 0.1, on_ruin: downgrade, window_days: 3 }
server:
  ports:
    - { port: 3334, pool: alone }
    - { port: 3335, pool: bold }
`,
  );
  const inOneLine = good({
    ...whole,
    POOLS: `alone;scheme=solo;fee=0.5,bold;scheme=pps;fee=4;address=${second};ruin_max=0.1;on_ruin=downgrade;window_days=3`,
    LISTEN_PORTS: '3334;pool=alone,3335;pool=bold',
  });
  assert.deepEqual(inFile.config.pools, inOneLine.config.pools);
  assert.deepEqual(
    inFile.config.stratum.ports.map(({ port, pool }) => [port, pool]),
    [
      [3333, 'main'],
      [3334, 'alone'],
      [3335, 'bold'],
    ],
  );
  const [main, alone, bold] = inFile.config.pools;
  assert.equal(main?.scheme, 'pplns');
  assert.deepEqual([alone?.scheme, alone?.feePpm, alone?.feeAddress], ['solo', 5_000, address]);
  assert.deepEqual(bold, {
    id: 'bold',
    scheme: 'pps',
    window: { kind: 'days', days: 3 },
    feePpm: 40_000,
    feeAddress: null,
    developerFeePpm: 0,
    developerAddress: null,
    address: second,
    ruinPpmMax: 1_000,
    onRuin: 'downgrade',
  });
});

test('what is wrong with pools is said of the pool and the port', () => {
  assert.match(
    faults({ ...whole, POOLS: 'a', LISTEN_PORTS: '3334;pool=b,3335;pool=a' }).join('\n'),
    /^LISTEN_PORTS: port 3334 names the pool "b", which there is not; there are "main", "a"\.$/m,
  );
  assert.match(good({ ...whole, POOLS: 'a' }).warnings.join(), /No port serves the pool "a"/);
  assert.match(faults({ ...whole, POOLS: 'main' }).join(), /lists "main"/);
  assert.match(faults({ ...whole, POOLS: 'a,a' }).join(), /two pools are called "a"/);
  assert.match(faults({ ...whole, POOLS: 'Ab' }).join(), /POOLS.*small letters/);
  assert.match(faults({ ...whole, POOLS: 'a;scheme=ppl' }).join(), /scheme is not one of/);
  assert.match(
    faults({ ...whole, POOLS: `a;address=${mainnet}` }).join(),
    /POOLS: pool "a": address is not an address of regtest/,
  );
  assert.match(
    faults({ ...node, PAYOUT_MODE: 'solo', POOLS: 'a;scheme=prop' }).join(),
    /Pool "a" of scheme prop has no address/,
  );
  assert.match(
    faults({ ...whole, POOLS: 'a;scheme=pps;fee=0' }).join(),
    /Pool "a" of scheme pps takes no fee.*Set POOLS: pool "a": fee/,
  );
  assert.match(
    faults({ ...whole, POOLS: Array.from({ length: 16 }, (_, at) => `p${at}`).join() }).join(),
    /More than 16 pools/,
  );
});

const paid = { ...whole, PAYOUT_WALLET: 'hot' };

test('payouts as written', () => {
  assert.deepEqual(
    good({
      ...paid,
      PAYOUT_SIGNING: 'cold',
      PAYOUT_MINIMUM: '0.005 BTC',
      PAYOUT_SCHEDULE: 'daily 03:30',
      PAYOUT_FEE_POLICY: 'miner',
      PAYOUT_FEE_RATE_MAX: '12.5',
      PAYOUT_FEE_PERCENT_MAX: '0.5',
      PAYOUT_CONFIRM_TARGET: '144',
      PAYOUT_OUTPUTS_MAX: '50',
      PAYOUT_TRANSACTION_MAX: '2 BTC',
      PAYOUT_DAILY_MAX: '2000000000 sat',
      PAYOUT_CONFIRMATIONS: '3',
      PAYOUT_MATURITY: '110',
      PAYOUT_BUMP_AFTER: '2h',
    }).config.payouts,
    {
      wallet: 'hot',
      signing: 'cold',
      minimumSats: 500_000n,
      schedule: { kind: 'daily', minuteOfDayUtc: 210 },
      feePolicy: 'miner',
      feeRateMaxSatsPerVb: 12.5,
      feePpmMax: 5_000,
      confirmTarget: 144,
      outputsMax: 50,
      transactionMaxSats: 200_000_000n,
      dailyMaxSats: 2_000_000_000n,
      confirmations: 3,
      maturity: 110,
      bumpAfterMs: 7_200_000,
    },
  );
});

test('limits of payouts must leave something to pay', () => {
  for (const [env, fault] of [
    [{ PAYOUT_MINIMUM: '545 sat' }, /0\.00000545 BTC, below 0\.00000546 BTC/],
    [
      { PAYOUT_DAILY_MAX: '0.0001 BTC' },
      /PAYOUT_DAILY_MAX is 0\.00010000 BTC, below PAYOUT_MINIMUM/,
    ],
    [{ PAYOUT_TRANSACTION_MAX: '0.0001 BTC' }, /PAYOUT_TRANSACTION_MAX is .*below PAYOUT_MINIMUM/],
    [
      { PAYOUT_TRANSACTION_MAX: '3 BTC', PAYOUT_DAILY_MAX: '2 BTC' },
      /below PAYOUT_TRANSACTION_MAX.*never be sent/,
    ],
    [{ PAYOUT_MINIMUM: '0.001' }, /PAYOUT_MINIMUM/],
    [{ PAYOUT_MINIMUM: '0,001 BTC' }, /PAYOUT_MINIMUM/],
    [{ PAYOUT_SCHEDULE: 'hourly' }, /not a schedule like/],
    [{ PAYOUT_SCHEDULE: 'every 5s' }, /interval that is outside 10s to 31d/],
    [{ PAYOUT_SCHEDULE: 'daily 24:00' }, /not a schedule/],
    [{ PAYOUT_MATURITY: '100' }, /outside 101 to 1000/],
  ] as const) {
    assert.match(faults({ ...paid, ...env }).join(), fault);
  }
  const one = good({ ...paid, PAYOUT_DAILY_MAX: '1 BTC' }).config.payouts;
  assert.equal(one?.transactionMaxSats, 100_000_000n);
});

test('defaults of payouts on a chain of worth are small', () => {
  const { payouts } = good({
    ...paid,
    NETWORK: 'mainnet',
    POOL_ADDRESS: mainnet,
  }).config;
  assert.deepEqual(
    [payouts?.minimumSats, payouts?.transactionMaxSats, payouts?.dailyMaxSats],
    [100_000n, 1_000_000_000n, 5_000_000_000n],
  );
  assert.deepEqual(payouts?.schedule, { kind: 'every', intervalMs: 3_600_000 });
});

test('without a wallet nothing is paid, and a line says so', () => {
  const { config, warnings } = good({ ...whole, PAYOUT_MINIMUM: '1 BTC' });
  assert.equal(config.payouts, null);
  assert.deepEqual(warnings, [
    'PAYOUT_WALLET is not set: what miners earn is booked in the ledger, and nothing is paid out.',
    'PAYOUT_MINIMUM has no effect: PAYOUT_WALLET is not set.',
  ]);
  for (const PAYOUT_MODE of ['solo', 'direct', 'pool']) {
    assert.match(
      faults({ ...paid, PAYOUT_MODE }).join(),
      /PAYOUT_WALLET names a wallet to pay miners from, but there is nothing to pay/,
    );
    assert.equal(good({ ...whole, PAYOUT_MODE }).config.payouts, null);
    // One pool that holds money is enough.
    const both = good({
      ...paid,
      PAYOUT_MODE,
      POOLS: 'x;scheme=pplns',
      LISTEN_PORTS: '3334;pool=x',
    });
    assert.equal(both.config.payouts?.wallet, 'hot');
  }
});

test('the development chain pays from its own wallet, unless blocks go elsewhere', () => {
  assert.equal(good({}).config.payouts?.wallet, 'headframe');
  assert.equal(good({ PAYOUT_MINIMUM: '1 BTC' }).config.payouts?.minimumSats, 100_000_000n);
  const elsewhere = good({ POOL_ADDRESS: address });
  assert.equal(elsewhere.config.payouts, null);
  assert.match(elsewhere.warnings.join(), /do not pay its own wallet/);
  assert.equal(
    good({ POOL_ADDRESS: address, PAYOUT_WALLET: 'headframe' }).config.payouts?.wallet,
    'headframe',
  );
  for (const PAYOUT_MODE of ['solo', 'direct', 'pool'])
    assert.equal(good({ PAYOUT_MODE }).config.payouts, null);
});
