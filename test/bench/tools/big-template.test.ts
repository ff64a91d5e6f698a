import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeBigTemplate } from '../../../bench/tools/big-template.ts';
import { decodeTemplate } from '../../../src/core/work/template.ts';

test('the benchmark’s full block is one that the pool takes', () => {
  const big = makeBigTemplate({ weight: 3_985_000, bits: 0x1f010000, time: 1_795_000_000 });
  const decoded = decodeTemplate(JSON.parse(big.json), 'regtest');
  assert.ok(decoded.ok, decoded.ok ? '' : decoded.reason);
  assert.equal(decoded.template.transactions.length, big.transactions);
  assert.ok(big.weight > 3_980_000 && big.weight < 3_990_000, `${big.weight}`);
  assert.ok(big.blockBytes > 3_700_000);
});
