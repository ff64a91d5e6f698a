/** Every way in which a node can fail to answer, over real HTTP (faults F-N1 to F-N11, bad input J03 and J04). */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { createRpc, type RpcOptions } from '../../../src/adapters/node/rpc.ts';
import { type FakeFault, type FakeNode, startFakeNode } from '../../tools/fake-node.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

describe('rpc', () => {
  let node: FakeNode;
  const log = createMemoryLog();
  const open = (options: Partial<RpcOptions> = {}) =>
    createRpc({ name: 'a', url: node.url, timeoutMs: 2000, log, ...options });

  before(async () => {
    node = await startFakeNode();
  });
  after(() => node.stop());
  beforeEach(() => {
    node.faults.clear();
    node.credentials = null;
    node.calls.length = 0;
  });

  it('answers with the result, over one kept connection', async () => {
    const seen: string[] = [];
    const rpc = open({ onCall: (call) => seen.push(`${call.method} ${call.kind}`) });
    const first = await rpc.call('getbestblockhash', []);
    assert.deepEqual(first, { kind: 'result', result: node.genesis });
    const second = await rpc.call('getblockhash', [7]);
    assert.equal(second.kind === 'error' && second.code, -8);
    assert.deepEqual(seen, ['getbestblockhash result', 'getblockhash error']);
    rpc.stop();
  });

  const cases: [string, FakeFault, string][] = [
    ['HTML', { kind: 'status', status: 200, text: '<html>hello</html>' }, 'bad-answer'],
    ['an array', { kind: 'status', status: 200, text: '[1,2]' }, 'bad-answer'],
    ['Infinity', { kind: 'status', status: 200, text: '{"result":Infinity}' }, 'bad-answer'],
    ['half an answer', { kind: 'truncate' }, 'bad-answer'],
    ['the answer to another question', { kind: 'wrong-id' }, 'bad-answer'],
    ['a result and an error', { kind: 'both' }, 'bad-answer'],
    ['error −28', { kind: 'error', code: -28, message: 'Loading block index…' }, 'warming-up'],
    ['403', { kind: 'status', status: 403, text: '' }, 'unauthorized'],
    ['500 without a body', { kind: 'status', status: 500, text: '' }, 'bad-answer'],
    ['deep nesting', { kind: 'status', status: 200, text: '['.repeat(50_000) }, 'bad-answer'],
  ];
  for (const [what, fault, kind] of cases) {
    it(`takes ${what} for ${kind}`, async () => {
      node.faults.set('*', fault);
      const rpc = open();
      assert.equal((await rpc.call('getbestblockhash', [])).kind, kind);
      rpc.stop();
    });
  }

  it('gives a hanging node its time and no more', async () => {
    node.faults.set('*', { kind: 'hang' });
    const rpc = open();
    const answer = await rpc.call('getbestblockhash', [], { timeoutMs: 60 });
    assert.equal(answer.kind, 'timeout');
    rpc.stop();
  });

  it('cuts off a body of 200 MB at the limit, announced or not', async () => {
    node.faults.set('*', { kind: 'huge' });
    const bytes: number[] = [];
    const rpc = open({ bodyBytesMax: 4 << 20, onCall: (call) => bytes.push(call.bytes) });
    const answer = await rpc.call('getbestblockhash', []);
    assert.equal(answer.kind, 'bad-answer');
    assert.ok(bytes[0]! < 8 << 20, `read ${bytes[0]} bytes`);
    rpc.stop();
  });

  it('waits out a full work queue', async () => {
    node.faults.set('*', { kind: 'status', status: 503, text: 'Work queue depth exceeded' });
    const rpc = open();
    const asked = rpc.call('getbestblockhash', []);
    await until('two tries', () => node.calls.length >= 2);
    node.faults.clear();
    assert.equal((await asked).kind, 'result');
    rpc.stop();
  });

  it('says overloaded when the queue stays full', async () => {
    node.faults.set('*', { kind: 'status', status: 503, text: 'Work queue depth exceeded' });
    const rpc = open();
    const answer = await rpc.call('getbestblockhash', [], { timeoutMs: 160 });
    assert.equal(answer.kind, 'overloaded');
    rpc.stop();
  });

  it('says unreachable when nobody listens, and opens the circuit after three', async () => {
    const gone = await startFakeNode();
    await gone.stop();
    const limits = { failuresMax: 3, pauseMinMs: 40, pauseMaxMs: 40 };
    const rpc = createRpc({
      name: 'b',
      url: gone.url,
      timeoutMs: 1000,
      log,
      breakerLimits: limits,
    });
    for (let i = 0; i < 3; i++)
      assert.equal((await rpc.call('getbestblockhash', [])).kind, 'unreachable');
    assert.equal((await rpc.call('getbestblockhash', [])).kind, 'circuit-open');
    await gone.up();
    let kind = '';
    for (let i = 0; i < 200 && kind !== 'result'; i++) {
      kind = (await rpc.call('getbestblockhash', [])).kind;
      if (kind !== 'result') await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.equal(kind, 'result');
    rpc.stop();
    await gone.stop();
  });

  it('asks again at once when the kept connection was closed under it', async () => {
    const rpc = open();
    await rpc.call('getbestblockhash', []);
    await node.down();
    await node.up();
    assert.equal((await rpc.call('getbestblockhash', [])).kind, 'result');
    rpc.stop();
  });

  it('says that an answer broke off when the node may have acted', async () => {
    node.faults.set('*', { kind: 'act-and-break' });
    const rpc = open();
    const answer = await rpc.call('getbestblockhash', []);
    assert.equal(answer.kind, 'bad-answer');
    rpc.stop();
  });

  it('reads a rotated cookie again and lets no credential out', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'headframe-cookie-'));
    const cookieFile = join(directory, '.cookie');
    await writeFile(cookieFile, '__cookie__:canary-one');
    node.credentials = '__cookie__:canary-one';
    const rpc = open({ cookieFile });
    assert.equal((await rpc.call('getbestblockhash', [])).kind, 'result');
    node.credentials = '__cookie__:canary-two';
    await writeFile(cookieFile, '__cookie__:canary-two');
    // Read at most once per second.
    let answer = await rpc.call('getbestblockhash', []);
    for (let i = 0; i < 300 && answer.kind !== 'result'; i++) {
      assert.equal(answer.kind, 'unauthorized');
      assert.ok(!JSON.stringify(answer).includes('canary'));
      await new Promise((resolve) => setTimeout(resolve, 10));
      answer = await rpc.call('getbestblockhash', []);
    }
    assert.equal(answer.kind, 'result');
    rpc.stop();
    const wrong = createRpc({
      name: 'c',
      url: node.url.replace('127', 'canary:canary@127'),
      timeoutMs: 500,
      log,
    });
    assert.equal((await wrong.call('getbestblockhash', [])).kind, 'unauthorized');
    wrong.stop();
    assert.ok(!log.text().includes('canary'));
    await rm(directory, { recursive: true });
  });

  it('sends a body in pieces as one request', async () => {
    const rpc = open();
    const parts = [
      '{"jsonrpc":"1.0","id":"x1","method":"submitblock","params":["',
      '00'.repeat(90),
      '"]}',
    ];
    const answer = await rpc.callEncoded(
      'submitblock',
      'x1',
      parts.map((part) => Buffer.from(part)),
    );
    assert.deepEqual(answer, { kind: 'result', result: 'prev-blk-not-found' });
    rpc.stop();
  });

  it('ends what is in flight when stopped or aborted', async () => {
    node.faults.set('*', { kind: 'hang' });
    const rpc = open();
    const controller = new AbortController();
    const first = rpc.call('a', [], { signal: controller.signal });
    controller.abort();
    assert.equal((await first).kind, 'aborted');
    const second = rpc.call('b', []);
    rpc.stop();
    assert.equal((await second).kind, 'aborted');
  });

  it('refuses a URL that is not http', () => {
    assert.throws(() => open({ url: 'ftp://x/' }));
  });
});
