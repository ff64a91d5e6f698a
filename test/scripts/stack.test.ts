import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { findProgram, isAlive } from '../../scripts/stack/server.ts';

const script = join(import.meta.dirname, '../../scripts/stack.ts');
const redis = findProgram('redis-server', ['/usr/bin']);

type Answer = { code: number; stdout: string; stderr: string };

function stack(args: string[], environment: Record<string, string> = {}): Promise<Answer> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [script, ...args],
      { env: { ...process.env, ...environment } },
      (_, stdout, stderr) => resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    );
  });
}

function ask(port: number, question: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(question));
    socket.once('data', (data) => {
      resolve(String(data));
      socket.destroy();
    });
    socket.once('error', reject);
  });
}

test(`stack: up, up again, one dies, down${redis === null ? ': Redis NOT FOUND' : ''}`, async () => {
  if (redis === null) return;
  const directory = mkdtempSync(join(tmpdir(), 'headframe-stack-'));
  const at = ['--dir', directory];
  const pid = (): number => JSON.parse(readFileSync(join(directory, 'stack.json'), 'utf8'))[0].pid;
  try {
    assert.equal((await stack(['status', ...at])).code, 1);
    const up = await stack(['up', ...at, '--only', 'redis']);
    assert.equal(up.code, 0, up.stderr);
    const port = Number(/^REDIS_URL=redis:\/\/127\.0\.0\.1:(\d+)\n$/.exec(up.stdout)?.[1]);
    assert.equal(await ask(port, 'PING\r\n'), '+PONG\r\n');
    assert.equal(readFileSync(join(directory, 'stack.env'), 'utf8'), up.stdout);
    const first = pid();
    assert.equal((await stack(['up', ...at, '--only', 'redis'])).stdout, up.stdout);
    assert.equal(pid(), first);
    assert.equal((await stack(['status', ...at])).code, 0);

    process.kill(first, 'SIGKILL');
    while (isAlive(first)) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal((await stack(['status', ...at])).code, 1);
    assert.equal((await stack(['up', ...at, '--only', 'redis'])).stdout, up.stdout);
    assert.notEqual(pid(), first);

    const second = pid();
    assert.equal((await stack(['down', ...at])).code, 0);
    assert.equal(isAlive(second), false);
  } finally {
    await stack(['down', ...at, '--wipe']);
    rmSync(directory, { recursive: true, force: true });
  }
});

test('stack: what is not on the machine is said in words', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-stack-'));
  try {
    const answer = await stack(['up', '--dir', directory, '--only', 'kafka'], { PATH: directory });
    assert.equal(answer.code, 1);
    assert.match(answer.stderr, /Kafka was not found: there is no Java on this machine/);
    const unknown = await stack(['up', '--dir', directory, '--only', 'mysql']);
    assert.equal(unknown.code, 2);
    assert.match(unknown.stderr, /kafka, postgres, redis, influx/);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
