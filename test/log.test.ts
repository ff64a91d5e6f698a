import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { createLog, type LogOptions, safeText } from '../src/log.ts';

const folder = mkdtempSync(join(tmpdir(), 'headframe-log-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function capture(options: Partial<LogOptions> = {}) {
  const lines: string[] = [];
  const log = createLog({
    level: 'debug',
    format: 'json',
    ...options,
    destination: { write: (line: string) => lines.push(line) },
  });
  return { log, lines, last: () => JSON.parse(lines.at(-1)!) };
}

test('a line is one JSON object with time, level, message and fields', () => {
  const { log, last } = capture({ service: 'headframe' });
  log
    .child({ thread: 'node' })
    .info('a block was found', { height: 5, rewardSats: 2n ** 60n, hash: Uint8Array.of(1, 255) });
  const { time, ...rest } = last();
  assert.ok(Date.parse(time) > 0);
  assert.deepEqual(rest, {
    level: 'info',
    service: 'headframe',
    thread: 'node',
    height: 5,
    rewardSats: (2n ** 60n).toString(),
    hash: '01ff',
    message: 'a block was found',
  });
});

test('below the level nothing is written', () => {
  const { log, lines } = capture({ level: 'warn' });
  log.debug('a');
  log.info('b');
  log.warn('c');
  assert.equal(lines.length, 1);
});

test('what is named like a secret is hidden, and known secrets are cut out wherever they stand', () => {
  const { log, lines } = capture({ secrets: ['canary-one', 'short'] });
  log.info('connecting with canary-one', {
    rpcPassword: 'canary-two',
    authorization: 'Basic canary-three',
    cookie: 'canary-four',
    inner: { apiSecret: 'canary-five', list: ['canary-one'] },
    url: 'postgres://pool:canary-six@db/pool',
    error: new Error('could not reach http://u:canary-seven@node:8332 with canary-one'),
    hasPassword: true,
  });
  assert.doesNotMatch(lines.join(), /canary/);
  assert.match(lines.join(), /"hasPassword":true/);
});

test('text of miners is cut to 64 characters, and control characters are written out', () => {
  const { log, last } = capture();
  log.info('a miner came', {
    agent: 'x'.repeat(100),
    worker: '\u001b[2Jevil\r\nINFO: fake',
    note: 'y'.repeat(5_000),
  });
  const line = last();
  assert.equal(line.agent.length, 65);
  assert.equal(line.worker, '\\x1b[2Jevil\\x0d\\x0aINFO: fake');
  assert.equal(line.note.length, 1_025);
});

test('in text form a line is one line, whatever is in it', () => {
  const { log, lines } = capture({ format: 'text' });
  log.warn('first\nsecond', { worker: 'a\nb\u001b[31m', error: new Error('x\ny') });
  assert.equal(lines.length, 1);
  assert.equal(lines[0]!.trimEnd().split('\n').length, 1);
  assert.doesNotMatch(lines[0]!.trimEnd(), /[\x00-\x09\x0b-\x1f]/);
  assert.match(lines[0]!, /WARN: first\\x0asecond/);
});

test('any fields whatever can be logged', () => {
  const circular: Record<string, unknown> = { name: 'circle' };
  circular.self = circular;
  const { log, lines } = capture();
  log.info('odd', {
    circular,
    map: new Map([['__proto__', 1]]),
    set: new Set([1n]),
    none: undefined,
    nan: Number.NaN,
    date: new Date(Number.NaN),
    symbol: Symbol('x'),
    deep: [[[[[[[1]]]]]]],
    many: Array.from({ length: 1_000 }, () => 1),
    fine: Object.create(null),
  });
  log.info('throws', {
    get bad(): string {
      throw new Error('no');
    },
  });
  assert.equal(lines.length, 2);
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary' }),
      fc.dictionary(
        fc.string({ unit: 'binary' }),
        fc.anything({ withBigInt: true, withMap: true, withTypedArray: true }),
      ),
      (message, fields) => {
        log.info(message, fields);
        const line = lines.at(-1)!;
        assert.ok(line.endsWith('\n') && line.indexOf('\n') === line.length - 1);
        JSON.parse(line);
      },
    ),
    { numRuns: 100 },
  );
  assert.equal(({} as { polluted?: number }).polluted, undefined);
});

test('cutting never leaves half a character', () => {
  assert.equal(safeText('a'.repeat(63) + '😀', 64).isWellFormed(), true);
});

test('a file is made for its user alone, appended to, and opened again after rotation', async () => {
  const path = join(folder, 'sub', 'pool.log');
  const log = createLog({ level: 'info', format: 'json', destination: path });
  log.info('one');
  log.flush();
  assert.equal(statSync(path).mode & 0o777, 0o600);
  renameSync(path, `${path}.1`);
  log.reopen();
  log.info('two');
  log.flush();
  assert.match(readFileSync(`${path}.1`, 'utf8'), /one/);
  assert.match(readFileSync(path, 'utf8'), /two/);
});

test('a full disk costs lines, which are counted, and nothing else', async () => {
  const log = createLog({ level: 'info', format: 'json', destination: '/dev/full' });
  for (let at = 0; at < 10; at++) log.info('x');
  await new Promise((resolve) => setTimeout(resolve, 50));
  log.info('y');
  log.flush();
  assert.equal(log.dropped(), 11);
});
