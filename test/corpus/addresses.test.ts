/**
 * The bad-input corpus of addresses (group L): every line is decoded for its network and compared with its expected answer;
 * for a refusal, `reason` is a part of the text a person reads. `repeat` stands for a character so many times.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { decodeAddress, encodeAddress } from '../../src/core/bitcoin/address.ts';
import { encodeHex } from '../../src/core/bitcoin/bytes.ts';
import type { Network } from '../../src/core/bitcoin/network.ts';

type Entry = {
  id: string;
  note: string;
  network: Network;
  text?: string;
  repeat?: [string, number];
  expect: 'accept' | 'refuse';
  kind?: string;
  canonical?: string;
  script?: string;
  unusual?: true;
  reason?: string;
};

const lines = readFileSync(new URL('./L-addresses.jsonl', import.meta.url), 'utf8')
  .trim()
  .split('\n');
const entries: Entry[] = lines.map((line) => JSON.parse(line));

for (const entry of entries) {
  test(`${entry.id} ${entry.note} (${entry.network}): ${entry.expect}`, () => {
    const text = entry.text ?? entry.repeat![0].repeat(entry.repeat![1]);
    const answer = decodeAddress(text, entry.network);
    if (entry.expect === 'refuse') {
      assert.ok(!answer.ok, 'accepted');
      assert.ok(answer.reason.includes(entry.reason!), answer.reason);
      assert.ok(answer.reason.length < 200, 'a reason is one line');
      return;
    }
    assert.ok(answer.ok, answer.ok ? '' : answer.reason);
    assert.equal(encodeHex(answer.script), entry.script);
    assert.equal(answer.kind, entry.kind);
    assert.equal(answer.canonical, entry.canonical);
    assert.equal(answer.unusual, entry.unusual);
    assert.equal(encodeAddress(answer.script, entry.network), entry.canonical);
  });
}

test('L03 one character changed, at every position, to every other character: refused', () => {
  const accepted = entries.filter(
    (entry) => entry.expect === 'accept' && entry.network === 'mainnet',
  );
  const samples = ['p2pkh', 'p2sh', 'p2wpkh', 'p2wsh', 'p2tr'].map(
    (kind) =>
      accepted.find((entry) => entry.kind === kind && entry.text === entry.canonical)!.text!,
  );
  for (const text of samples) {
    const alphabet = /^bc1/.test(text)
      ? 'qpzry9x8gf2tvdw0s3jn54khce6mua7l1bio'
      : '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
    for (let at = 0; at < text.length; at++) {
      for (const character of alphabet) {
        if (character === text[at]) continue;
        const changed = text.slice(0, at) + character + text.slice(at + 1);
        assert.equal(decodeAddress(changed, 'mainnet').ok, false, changed);
      }
    }
  }
});

test('every group of the plan that concerns an address alone has entries', () => {
  const groups = new Set(entries.map((entry) => entry.id));
  // L03 is the test above; L12 (grammar of user names) and L16 (dust) are decided elsewhere, L12 here as plain refusals.
  for (const group of [
    '01',
    '02',
    '04',
    '05',
    '06',
    '07',
    '08',
    '09',
    '10',
    '11',
    '12',
    '13',
    '14',
    '15',
    '17',
    '18',
  ]) {
    assert.ok(groups.has(`L${group}`), group);
  }
});
