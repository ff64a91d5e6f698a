/** The front door `scripts/run.mjs`, in a folder of its own with an npm that only pretends; and the real program's exit codes. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, test } from 'node:test';

const root = join(import.meta.dirname, '..', '..');
const base = mkdtempSync(join(tmpdir(), 'headframe-run-'));
after(() => rmSync(base, { recursive: true, force: true }));
let folder = '';

/** Makes node_modules with this Node in it, after a moment, and counts how often it was asked. */
const FAKE_NPM = `
const fs = require('node:fs');
fs.appendFileSync('asked', process.argv.slice(2).join(' ') + '\\n');
if (fs.existsSync('refuse')) process.exit(7);
setTimeout(() => {
  fs.mkdirSync('node_modules/.bin', { recursive: true });
  fs.rmSync('node_modules/.bin/node', { force: true });
  fs.symlinkSync(process.execPath, 'node_modules/.bin/node');
}, 300);
`;
const FAKE_MAIN = `
if (process.argv[2] === 'wait') { process.on('SIGTERM', () => process.exit(3)); setInterval(() => {}, 1000); }
else process.exitCode = 5;
process.stdout.write(process.argv.slice(2).join(' ') + '\\n');
`;

beforeEach((t) => {
  folder = join(base, t.name.replace(/\W+/g, '-').slice(0, 40));
  for (const path of ['scripts', 'src']) mkdirSync(join(folder, path), { recursive: true });
  copyFileSync(join(root, 'scripts', 'run.mjs'), join(folder, 'scripts', 'run.mjs'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  writeFileSync(join(folder, 'package-lock.json'), '{}');
  writeFileSync(join(folder, 'src', 'main.ts'), FAKE_MAIN);
  writeFileSync(join(folder, 'npm.cjs'), FAKE_NPM);
});

type Outcome = { code: number | null; out: string; said: string };

function run(
  argv: string[],
  { cwd = folder, env = {} }: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Outcome> {
  const { NODE_TEST_CONTEXT: _, npm_lifecycle_event: __, ...inherited } = process.env;
  const child = spawn(process.execPath, [join(cwd, 'scripts', 'run.mjs'), ...argv], {
    cwd,
    env: { ...inherited, npm_execpath: join(cwd, 'npm.cjs'), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    out += text;
    if (text.startsWith('wait')) child.kill('SIGTERM');
  });
  child.stderr.setEncoding('utf8').on('data', (text) => (said += text));
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, out, said })));
}

const asked = () =>
  existsSync(join(folder, 'asked'))
    ? readFileSync(join(folder, 'asked'), 'utf8').trim().split('\n')
    : [];

test('sets up once, says so, then runs without a word', async () => {
  const first = await run(['start', '--x']);
  assert.match(first.said, /first run: installing dependencies[\s\S]*set-up done/);
  assert.deepEqual([first.code, first.out], [5, 'start --x\n']);
  const second = await run(['start']);
  assert.deepEqual([second.code, second.out, second.said], [5, 'start\n', '']);
  assert.equal(asked().length, 1);
  assert.match(asked()[0]!, /^ci /);
});

test('sets up again when the lock file has changed', async () => {
  await run([]);
  writeFileSync(join(folder, 'package-lock.json'), '{"changed":true}');
  assert.match((await run([])).said, /dependencies have changed/);
  assert.equal(asked().length, 2);
});

test('two commands at once make one set-up', async () => {
  const outcomes = await Promise.all([run(['a']), run(['b'])]);
  assert.deepEqual(
    outcomes.map(({ code, out }) => [code, out]),
    [
      [5, 'a\n'],
      [5, 'b\n'],
    ],
  );
  assert.equal(asked().length, 1);
  assert.match(outcomes.map(({ said }) => said).join(), /another command is setting up/);
});

test('a set-up that fails starts nothing, and leaves no lock', async () => {
  writeFileSync(join(folder, 'refuse'), '');
  const outcome = await run(['start']);
  assert.deepEqual([outcome.code, outcome.out], [1, '']);
  assert.match(outcome.said, /npm ci ended with code 7/);
  assert.equal(existsSync(join(folder, '.headframe-setup.lock')), false);
});

test('signals reach the program, and its exit code comes back', async () => {
  assert.equal((await run(['wait'])).code, 3);
});

test('the real program: wrong command line 2, wrong configuration 78, in any place and language', async () => {
  const odd = {
    TZ: 'Asia/Kathmandu',
    LANG: 'tr_TR.UTF-8',
    LC_ALL: 'tr_TR.UTF-8',
    HOME: '',
    DATA_DIR: folder,
  };
  const usage = await run(['start', '--listn-port', '1'], { cwd: root, env: odd });
  assert.equal(usage.code, 2);
  assert.match(usage.said + usage.out, /did you mean --listen-port/);
  const env = {
    ...odd,
    LISTEN_PORT: 'x',
    LOG_LEVEL: 'INFO',
    BITCOIN_RPC_HOST: 'h',
    BITCOIN_RPC_USER: 'u',
    BITCOIN_RPC_PASSWORD: 'canary\u0001',
  };
  const wrong = await run(['start'], { cwd: root, env });
  assert.equal(wrong.code, 78);
  const text = wrong.said + wrong.out;
  for (const name of ['LISTEN_PORT', 'LOG_LEVEL', 'BITCOIN_RPC_PASSWORD', 'POOL_ADDRESS'])
    assert.match(text, new RegExp(name));
  assert.doesNotMatch(text, /canary/);
  const help = await run(['--help'], { cwd: root, env: odd });
  assert.equal(help.code, 0);
  assert.match(help.out, /Usage: headframe/);
});
