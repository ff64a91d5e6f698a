/**
 * Corpus K: what people and machines write into a configuration, each with its answer. `ok`, `warning` (accepted, and says so),
 * `error` (exit code 78) or `usage` (exit code 2); `says` must be in the text. No entry may throw, print its secret (they all hold
 * the word canary) or touch a prototype.
 */
import assert from 'node:assert/strict';
import { createPrivateKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { generate } from 'selfsigned';
import type { FileBytes } from '../../src/config/file.ts';
import type { ServiceName } from '../../src/config/services.ts';
import { readConfig } from '../../src/config.ts';

type Entry = {
  id: string;
  note: string;
  env?: Record<string, string>;
  argv?: string[];
  file?: string;
  fileHex?: string;
  /** Without the settings of a whole regtest pool. */
  bare?: boolean;
  /** One of the services over Kafka. Default: the single process. */
  service?: ServiceName;
  openFilesMax?: number;
  expect: 'ok' | 'warning' | 'error' | 'usage';
  says?: string;
};

const entries: Entry[] = readFileSync(join(import.meta.dirname, 'K-configuration.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line));

const whole = {
  NETWORK: 'regtest',
  BITCOIN_RPC_HOST: '127.0.0.1',
  BITCOIN_RPC_USER: 'u',
  BITCOIN_RPC_PASSWORD: 'canary-rpc',
  POOL_ADDRESS: 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
  PAYOUT_WALLET: 'payouts',
};

const files = await makeFiles();

for (const entry of entries) {
  test(`${entry.id} ${entry.note}`, () => {
    const { '@root': root, ...env } = { ...(entry.bare ? {} : whole), ...entry.env } as Record<
      string,
      string
    >;
    for (const [name, value] of Object.entries(env))
      if (value === '@long') env[name] = 'x'.repeat(131_072);
    const answer = readConfig({
      service: entry.service ?? null,
      argv: entry.argv ?? [],
      env,
      readFile: (path) =>
        path === '/srv/headframe.yaml'
          ? settingsFile(entry)
          : (files.get(path.replace('/srv/', '')) ?? { kind: 'missing' }),
      openFilesMax: entry.openFilesMax ?? null,
      isRoot: root !== undefined,
      directory: '/srv',
    });
    const said = [...(answer.ok ? [] : answer.errors), ...answer.warnings].join('\n');
    assert.doesNotMatch(said, /canary/, 'a secret is told');
    assert.doesNotMatch(said, /[\x00-\x09\x0b-\x1f\x7f]/, 'control characters reach the terminal');
    assert.ok(said.length < 20_000, 'too much text');
    assert.equal(({} as { polluted?: unknown }).polluted, undefined);
    const outcome = answer.ok
      ? answer.warnings.length > 0
        ? 'warning'
        : 'ok'
      : answer.exitCode === 2
        ? 'usage'
        : 'error';
    assert.equal(outcome, entry.expect, said);
    if (entry.says !== undefined)
      assert.ok(said.includes(entry.says), `"${entry.says}" is not in: ${said}`);
  });
}

test('every id is there once, and every group that can exist', () => {
  const ids = entries.map((entry) => entry.id);
  assert.equal(new Set(ids).size, ids.length);
  // K10 (tokens of the API) has nothing to configure yet; K22 and K23 are tests of the store and of the program.
  const groups = new Set(ids.map((id) => id.split('.')[0]));
  for (const group of [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 24, 25,
  ]) {
    assert.ok(groups.has(`K${String(group).padStart(2, '0')}`), `K${group}`);
  }
});

function settingsFile(entry: Entry): FileBytes {
  if (entry.fileHex !== undefined) return bytes(Buffer.from(entry.fileHex, 'hex'));
  if (entry.file === undefined) return { kind: 'missing' };
  if (entry.file === '@huge') return bytes(Buffer.alloc(1_100_000, '#'));
  if (entry.file === '@brackets') return bytes(Buffer.from(`a: ${'['.repeat(100_000)}`));
  return bytes(Buffer.from(entry.file));
}

function bytes(content: Uint8Array): FileBytes {
  return { kind: 'bytes', bytes: content, othersMayRead: false };
}

async function makeFiles(): Promise<Map<string, FileBytes>> {
  const name = [{ name: 'commonName', value: 'pool' }];
  const options = { keyType: 'ec', curve: 'P-256', algorithm: 'sha256' } as const;
  const pair = await generate(name, options);
  const other = await generate(name, options);
  const expired = await generate(name, {
    ...options,
    keyPair: { publicKey: pair.public, privateKey: pair.private },
    notBeforeDate: new Date('2020-01-01'),
    notAfterDate: new Date('2021-01-01'),
  });
  const encrypted = createPrivateKey(pair.private).export({
    type: 'pkcs8',
    format: 'pem',
    cipher: 'aes-256-cbc',
    passphrase: 'x',
  });
  const der = Buffer.from(pair.cert.replace(/-----.*?-----|\s/g, ''), 'base64');
  const content: Record<string, string | Uint8Array> = {
    'cert.pem': pair.cert,
    'key.pem': pair.private,
    'other-key.pem': other.private,
    'expired.pem': expired.cert,
    'encrypted-key.pem': encrypted,
    'cert.der': der,
    'empty.pem': '',
    'damaged.pem': pair.cert.replace(/[A-Za-z]{20}/, 'AAAAAAAAAAAAAAAAAAAA'),
    cookie: '__cookie__:canary-cookie',
  };
  const made = new Map<string, FileBytes>(
    Object.entries(content).map(([path, of]) => [
      path,
      bytes(typeof of === 'string' ? Buffer.from(of) : of),
    ]),
  );
  made.set('folder', { kind: 'refused', reason: 'is a folder' });
  made.set('fifo', { kind: 'refused', reason: 'is not a regular file' });
  made.set('secret', { kind: 'refused', reason: 'may not be read by this user' });
  return made;
}
