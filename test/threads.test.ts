import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keepThread, type ThreadOptions } from '../src/threads.ts';
import { createSilentLog } from './tools/silent-log.ts';

function optionsOf(deaths: number) {
  const lives = new SharedArrayBuffer(4);
  const connected = Promise.withResolvers<void>();
  const givenUp = Promise.withResolvers<number>();
  let connects = 0;
  const options: ThreadOptions = {
    role: 'test',
    entry: new URL('./tools/dying-thread.ts', import.meta.url),
    data: () => ({ lives, deaths }),
    connect: () => {
      connects += 1;
      if (connects === deaths + 1) connected.resolve();
    },
    onGivenUp: (_reason, exitCode) => givenUp.resolve(exitCode),
  };
  return { options, connected: connected.promise, givenUp: givenUp.promise, lives };
}

test('a thread that dies is started again with a fresh port, and stops when it is told to', async () => {
  const { options, connected } = optionsOf(2);
  const { thread, facts } = await keepThread({ log: createSilentLog() }, options);
  assert.equal(facts, 1);
  await connected;
  assert.equal(thread.restarts(), 2);
  await thread.stop(5_000);
});

test('one that keeps dying is given up, with an exit code', async () => {
  const { options, givenUp, lives } = optionsOf(100);
  const { thread } = await keepThread({ log: createSilentLog() }, options);
  assert.equal(await givenUp, 70);
  assert.equal(new Int32Array(lives)[0], 5);
  await thread.stop(1_000);
});

test('one that cannot take up where it stopped is given up at its first death', async () => {
  const { options, givenUp, lives } = optionsOf(100);
  await keepThread({ log: createSilentLog() }, { ...options, deathsMax: 1 });
  assert.equal(await givenUp, 70);
  assert.equal(new Int32Array(lives)[0], 1);
});
