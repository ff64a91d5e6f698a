import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import type { Network } from '../../../src/core/bitcoin/network.ts';
import { DIFFICULTY_1_TARGET } from '../../../src/core/bitcoin/target.ts';
import { decodeTemplate } from '../../../src/core/work/template.ts';
import { createRandom } from '../../tools/random.ts';
import { createTemplateAnswer, type TemplateJson } from '../../tools/template-answer.ts';

const good = createTemplateAnswer(createRandom(1), 7);
const copy = (): TemplateJson => structuredClone(good);

test('a good answer becomes a template, field by field', () => {
  const answer = decodeTemplate(good, 'mainnet');
  assert.ok(answer.ok, answer.ok ? '' : answer.reason);
  const { template } = answer;
  assert.equal(template.height, 840_001);
  assert.equal(template.version, 0x20000000);
  assert.equal(encodeHexReversed(template.previousHash), good.previousblockhash);
  assert.equal(template.bits, 0x1d00ffff);
  assert.equal(template.networkTarget, DIFFICULTY_1_TARGET);
  assert.equal(template.coinbaseValueSats, BigInt(good.coinbasevalue));
  assert.equal(template.transactions.length, 7);
  assert.equal(encodeHexReversed(template.transactions[3]!.txid), good.transactions[3].txid);
  assert.equal(template.transactions[3]!.data, good.transactions[3].data);
  assert.equal(template.transactions[3]!.feeSats, 1003n);
  assert.equal(
    template.transactionsWeight,
    good.transactions.reduce((sum: number, entry: TemplateJson) => sum + entry.weight, 0),
  );
  assert.equal(template.witnessCommitment!.length, 38);
  assert.equal(template.longPollId, good.longpollid);
  assert.deepEqual(template.rules, ['csv', '!segwit', 'taproot']);
});

test('what nodes may leave out', () => {
  const answer = copy();
  for (const name of [
    'target',
    'longpollid',
    'weightlimit',
    'coinbaseaux',
    'rules',
    'capabilities',
  ]) {
    delete answer[name];
  }
  for (const entry of answer.transactions) {
    delete entry.depends;
    delete entry.fee;
    delete entry.sigops;
  }
  const decoded = decodeTemplate(answer, 'mainnet');
  assert.ok(decoded.ok, decoded.ok ? '' : decoded.reason);
  assert.equal(decoded.template.weightLimit, 4_000_000);
  assert.equal(decoded.template.longPollId, '');
  assert.equal(decoded.template.coinbaseAux.length, 0);
});

test('an empty block needs no commitment, transactions with witnesses do', () => {
  const empty = createTemplateAnswer(createRandom(2), 0);
  delete empty.default_witness_commitment;
  const decoded = decodeTemplate(empty, 'mainnet');
  assert.ok(decoded.ok);
  assert.equal(decoded.template.witnessCommitment, null);
  const answer = copy();
  delete answer.default_witness_commitment;
  assert.match(refusal(answer), /default_witness_commitment is missing/);
});

test('coinbaseaux of several flags is one string of bytes', () => {
  const answer = { ...copy(), coinbaseaux: { flags: '062f503253482f', other: 'ff' } };
  const decoded = decodeTemplate(answer, 'mainnet');
  assert.ok(decoded.ok);
  assert.equal(Buffer.from(decoded.template.coinbaseAux).toString('hex'), '062f503253482fff');
});

test('not an answer at all', () => {
  for (const value of [undefined, null, 0, 'x', true, [], [good], () => good, 5n, Symbol('x')]) {
    assert.equal(decodeTemplate(value, 'mainnet').ok, false);
  }
});

for (const name of [
  'version',
  'previousblockhash',
  'transactions',
  'coinbasevalue',
  'mintime',
  'curtime',
  'bits',
  'height',
]) {
  test(`J01 ${name} missing, or of any wrong type`, () => {
    const missing = copy();
    delete missing[name];
    refusal(missing);
    for (const value of [null, true, {}, [[]], 'x', '', -1, 1.5, Number.NaN, 1e300, '1', ['1']]) {
      refusal({ ...copy(), [name]: value });
    }
  });
}

// Field of the answer, value, part of the reason.
const CASES: [string, unknown, RegExp][] = [
  ['height', -1, /height -1 is outside/],
  ['height', 0, /height 0 is outside/],
  ['height', 2 ** 32, /height 4294967296 is outside/],
  ['height', 840_001.5, /height is not an integer/],
  ['height', '840001', /height is not an integer/],
  ['version', 3, /version 3 is outside/],
  ['version', -1, /version/],
  ['version', 2 ** 31, /version/],
  ['bits', '00000000', /negative, zero or overflows/],
  ['bits', 'ffffffff', /negative, zero or overflows/],
  ['bits', '1d80ffff', /negative, zero or overflows/],
  ['bits', '23000001', /negative, zero or overflows/],
  ['bits', '1d00fff', /8 hex digits/],
  ['bits', '0x1d00ff', /8 hex digits/],
  ['bits', 0x1d00ffff, /8 hex digits/],
  ['bits', '1e00ffff', /easier than mainnet allows/],
  ['bits', '1c00ffff', /target does not agree/],
  ['target', 'ff'.repeat(32), /target does not agree/],
  ['target', '00', /target is not 64 hex digits/],
  ['coinbasevalue', 2 ** 53 + 2, /not an integer/],
  ['coinbasevalue', '312500000', /not an integer/],
  ['coinbasevalue', -1, /outside/],
  ['coinbasevalue', 2_100_000_000_000_001, /outside/],
  ['coinbasevalue', 7000, /less than the fees/],
  ['coinbasevalue', 5_000_100_000, /more than any subsidy/],
  ['mintime', 1_713_571_768, /mintime .* is after curtime/],
  ['curtime', 2 ** 32, /curtime .* is outside/],
  ['previousblockhash', 'a'.repeat(63), /64 hex digits/],
  ['previousblockhash', 'a'.repeat(65), /64 hex digits/],
  ['previousblockhash', 'g'.repeat(64), /64 hex digits/],
  ['rules', ['!segwit', '!quantum'], /"!quantum" is mandatory and unknown/],
  ['rules', ['!'], /mandatory and unknown/],
  ['rules', ['!signet'], /template is for signet/],
  ['rules', 'segwit', /rules is not a list/],
  ['rules', [1], /rules/],
  ['rules', Array(65).fill('csv'), /rules/],
  ['signet_challenge', '51', /signet challenge/],
  ['weightlimit', 4_000_001, /weightlimit .* is outside/],
  ['weightlimit', 500, /outside|more than the limit/],
  ['transactions', Array(100_000).fill({}), /no block holds more/],
  ['transactions', {}, /not an array/],
  ['transactions', [null], /transaction 1 is not an object/],
  ['transactions', [[]], /transaction 1 is not an object/],
  ['transactions', [{}], /transaction 1 has no data/],
  ['coinbaseaux', { flags: 'abc' }, /not hex/],
  ['coinbaseaux', { flags: 5 }, /not hex/],
  ['coinbaseaux', { flags: 'ab'.repeat(65) }, /longer than 64 bytes/],
  ['coinbaseaux', 'ab', /not an object/],
  ['longpollid', 5, /longpollid/],
  ['longpollid', 'x'.repeat(257), /longpollid/],
  ['default_witness_commitment', '6a24aa21a9ed', /not a witness commitment/],
  ['default_witness_commitment', '6a24aa21a9ee' + '00'.repeat(32), /not a witness commitment/],
  ['default_witness_commitment', 5, /not a witness commitment/],
  ['default_witness_commitment', '6a24aa21a9ed' + '00'.repeat(32), /does not commit/],
];
for (const [name, value, pattern] of CASES) {
  test(`J01 ${name} = ${String(JSON.stringify(value)).slice(0, 50)}: refused, ${pattern}`, () => {
    assert.match(refusal({ ...copy(), [name]: value }), pattern);
  });
}

// Field of the third transaction, value, part of the reason.
const TRANSACTION_CASES: [string, unknown, RegExp][] = [
  ['txid', good.transactions[0].txid, /transaction 3 has the txid of an earlier one/],
  ['txid', good.transactions[0].txid.toUpperCase(), /txid of an earlier one/],
  ['txid', 'ab'.repeat(32), /transaction 3 has a txid that is not the hash of its data/],
  ['txid', 'ab', /64 hex digits/],
  ['txid', 5, /64 hex digits/],
  ['hash', 'ab'.repeat(32), /hash that is not the hash of its data/],
  ['data', 'abc', /not hex/],
  ['data', good.transactions[2].data + '0', /not hex/],
  ['data', good.transactions[2].data.replace(/..$/, 'zz'), /not hex/],
  ['data', good.transactions[2].data + '00', /after its end/],
  ['data', good.transactions[2].data.slice(2), /malformed|unknown flag|too early/],
  ['data', '', /has no data/],
  ['data', 5, /has no data/],
  ['data', 'ab'.repeat(5000), /more bytes than weight/],
  ['weight', good.transactions[2].weight + 1, /weight that is not the weight/],
  ['weight', 239, /weight 239 is outside/],
  ['weight', 4_000_001, /weight 4000001 is outside/],
  ['weight', 3_999_999, /weigh more than the limit/],
  ['weight', '400', /not an integer/],
  ['fee', -1, /fee -1 is outside/],
  ['fee', 1.5, /not an integer/],
  ['fee', 2 ** 53 + 2, /not an integer/],
  ['depends', [3], /does not stand before it/],
  ['depends', [4], /does not stand before it/],
  ['depends', [0], /does not stand before it/],
  ['depends', [-1], /does not stand before it/],
  ['depends', [1.5], /does not stand before it/],
  ['depends', ['1'], /does not stand before it/],
  ['depends', 1, /not an array/],
];
for (const [name, value, pattern] of TRANSACTION_CASES) {
  test(`J01 transaction with ${name} = ${String(JSON.stringify(value)).slice(0, 50)}: refused, ${pattern}`, () => {
    const answer = copy();
    answer.transactions[2][name] = value;
    assert.match(refusal(answer), pattern);
  });
}

test('J01 transactions in another order: the parent after its child is refused', () => {
  const answer = copy();
  const [child] = answer.transactions.splice(2, 1);
  answer.transactions.unshift(child);
  assert.match(refusal(answer), /does not stand before it/);
});

test('J01 a cycle of dependencies', () => {
  const answer = copy();
  answer.transactions[0].depends = [2];
  answer.transactions[1].depends = [1];
  assert.match(refusal(answer), /does not stand before it/);
});

test('without verification the bytes of transactions are taken as given, everything else is still checked', () => {
  const answer = copy();
  answer.transactions[2].txid = 'ab'.repeat(32);
  assert.ok(decodeTemplate(answer, 'mainnet', { verifyTransactions: false }).ok);
  answer.transactions[2].data = 'xx'.repeat(70);
  assert.ok(decodeTemplate(answer, 'mainnet', { verifyTransactions: false }).ok);
  assert.match(refusal(answer), /transaction 3 has data that is not hex/);
  answer.transactions[2].txid = 'ab'.repeat(31);
  assert.ok(!decodeTemplate(answer, 'mainnet', { verifyTransactions: false }).ok);
});

test('bits as easy as the network allows, and signets', () => {
  const easy = { ...copy(), bits: '207fffff', target: '7fffff' + '00'.repeat(29) };
  for (const [network, ok] of [
    ['regtest', true],
    ['signet', false],
    ['testnet4', false],
    ['mainnet', false],
  ] as [Network, boolean][]) {
    assert.equal(decodeTemplate(easy, network).ok, ok, network);
  }
  const signet = { ...copy(), rules: ['!segwit', '!signet'] };
  assert.ok(decodeTemplate({ ...signet, signet_challenge: '51' }, 'signet').ok);
  const signed = decodeTemplate(
    { ...signet, signet_challenge: '5121' + '02'.repeat(33) + '51ae' },
    'signet',
  );
  assert.ok(!signed.ok);
  assert.match(signed.reason, /only a challenge of 51/);
});

test('a getter that throws is not a thing JSON can give; prototype names are', () => {
  const answer = JSON.parse(
    JSON.stringify(good).replace('{', '{"__proto__":{"height":5},"constructor":1,'),
  );
  assert.ok(decodeTemplate(answer, 'mainnet').ok);
  assert.equal(({} as { height?: number }).height, undefined);
});

/** The reason of a refusal; fails when the answer is accepted. */
function refusal(answer: unknown): string {
  const decoded = decodeTemplate(answer, 'mainnet');
  assert.ok(!decoded.ok, 'accepted');
  assert.ok(decoded.reason.length > 0 && decoded.reason.length < 200);
  return decoded.reason;
}
