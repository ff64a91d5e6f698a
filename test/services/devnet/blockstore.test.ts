/** The chain on disk: replay, decisions, torn tails, damage, the lock, and `kill -9` of a real process. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  appendFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openMemoryStore } from '../../../src/services/devnet/blockstore.ts';
import { startQuietDevnet } from './nodes.ts';

async function inFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'headframe-blocks-'));
  try {
    await run(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test('the chain, its side branches and its decisions come back', () =>
  inFolder(async (dataDir) => {
    let devnet = await startQuietDevnet({ initialBlocks: 105, dataDir });
    devnet.addTransactions(3);
    await devnet.generate(2);
    const side = devnet.chain.tip.id;
    await devnet.reorganise(1);
    await devnet.generate(1);
    await devnet.call('invalidateblock', [devnet.chain.tip.id]);
    const view = () => ({
      tip: devnet.chain.tip.id,
      coins: devnet.chain.coinCount,
      work: devnet.chain.tip.chainWork,
      tips: devnet.chain.tips().map((tip) => [tip.id, tip.failed]),
    });
    const before = view();
    await devnet.stop();
    devnet = await startQuietDevnet({ initialBlocks: 105, dataDir });
    assert.deepEqual(view(), before);
    assert.equal(devnet.chain.confirmations(devnet.chain.index.get(side) ?? assert.fail()), -1);
    await devnet.generate(1);
    devnet.addTransactions(1);
    assert.equal(devnet.mempool.entries.size, 1, 'the kept seed still spends the old coins');
    await devnet.stop();
  }));

test('the stored difficulty wins over another in the options', () =>
  inFolder(async (dataDir) => {
    let devnet = await startQuietDevnet({ initialBlocks: 2, dataDir, bits: 0x1f7fffff });
    await devnet.stop();
    devnet = await startQuietDevnet({ initialBlocks: 2, dataDir });
    assert.equal(devnet.chain.requiredBits(3), 0x1f7fffff);
    await devnet.stop();
  }));

test('a torn last record is cut off at whatever byte it was torn', () =>
  inFolder(async (dataDir) => {
    const path = join(dataDir, 'blocks.dat');
    const devnet = await startQuietDevnet({ initialBlocks: 3, dataDir });
    const whole = statSync(path).size;
    const tip = devnet.chain.tip.id;
    await devnet.generate(1);
    await devnet.stop();
    const bytes = readFileSync(path);
    for (const cut of [whole + 1, whole + 13, whole + 50, bytes.length - 1]) {
      writeFileSync(path, bytes);
      truncateSync(path, cut);
      const again = await startQuietDevnet({ initialBlocks: 3, dataDir });
      assert.equal(again.chain.tip.id, tip, `cut at ${cut}`);
      assert.equal(statSync(path).size, whole);
      await again.stop();
    }
    appendFileSync(path, 'garbage');
    const last = await startQuietDevnet({ initialBlocks: 3, dataDir });
    assert.equal(last.chain.tip.height, 3);
    await last.stop();
  }));

test('damage in the middle is named and refused, not cut away', () =>
  inFolder(async (dataDir) => {
    const path = join(dataDir, 'blocks.dat');
    const devnet = await startQuietDevnet({ initialBlocks: 5, dataDir });
    await devnet.stop();
    const bytes = readFileSync(path);
    bytes[400] ^= 1;
    writeFileSync(path, bytes);
    await assert.rejects(
      startQuietDevnet({ initialBlocks: 5, dataDir }),
      /is damaged at offset \d+/,
    );
    bytes[400] ^= 1;
    writeFileSync(path, bytes);
    const again = await startQuietDevnet({ initialBlocks: 5, dataDir });
    assert.equal(again.chain.tip.height, 5);
    await again.stop();
  }));

test('one directory, one chain', () =>
  inFolder(async (dataDir) => {
    const devnet = await startQuietDevnet({ dataDir });
    await assert.rejects(startQuietDevnet({ dataDir }), /in use by another development chain/);
    await devnet.stop();
    await (await startQuietDevnet({ dataDir })).stop();
  }));

test('kill -9 loses no block that was answered, and frees the directory', () =>
  inFolder(async (dataDir) => {
    const program = `
      import { startDevnet } from ${JSON.stringify(new URL('../../../src/services/devnet/devnet.ts', import.meta.url).href)};
      const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log };
      const devnet = await startDevnet(
        { clock: { nowMs: () => Date.now() }, log },
        { rpcPort: 0, zmqPort: null, dataDir: ${JSON.stringify(dataDir)}, user: 'u', password: 'p', initialBlocks: 2, transactionsPerBlock: 0 },
      );
      for (;;) process.stdout.write((await devnet.generate(1))[0] + '\\n');
    `;
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    await new Promise<void>((resolve) => {
      child.stdout.on('data', (chunk: Buffer) => {
        text += chunk.toString();
        if (text.length > 65 * 40) resolve();
      });
    });
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGKILL');
    await ended;
    const answered = text.slice(0, text.lastIndexOf('\n')).split('\n');
    const devnet = await startQuietDevnet({ initialBlocks: 2, dataDir });
    for (const id of answered) assert.ok(devnet.chain.index.get(id)?.complete, id);
    await devnet.stop();
  }));

test('memory is limited', () => {
  const store = openMemoryStore({ bits: 0, easyBlocks: 0 });
  const chunk = new Uint8Array(256 * 1024 * 1024);
  for (let at = 0; at < 4; at += 1) store.appendBlock(chunk);
  assert.throws(() => store.appendBlock(chunk), RangeError);
});
