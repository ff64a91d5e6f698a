import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { hashHeader } from '../../../src/core/bitcoin/header.ts';
import {
  assembleMinerHeader,
  type ClientEvent,
  type MinerJob,
  StratumClient,
} from '../../../src/core/stratum/client.ts';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import { buildJobCoinbase, encodeNotify } from '../../../src/core/work/job.ts';
import { compileWork, fillWork, headerOf } from '../../../src/core/work/share.ts';
import { makeJob } from '../../services/stratumd/pool-rig.ts';

const OPTIONS = {
  user: 'bc1qexample.rig',
  password: 'x',
  agent: 'test/1',
  versionMask: 0x1fffe000,
  suggestedDifficulty: 0,
};
const SUBSCRIBED =
  '{"id":2,"result":[[["mining.set_difficulty","abc"],["mining.notify","abc"]],"0a0b0c0d",8],"error":null}';

function ready(): StratumClient {
  const client = new StratumClient(OPTIONS);
  assert.equal(client.line(SUBSCRIBED), null);
  assert.deepEqual(client.line('{"id":3,"result":true,"error":null}'), { kind: 'ready' });
  return client;
}

function jobOf(event: ClientEvent | null): MinerJob {
  return event?.kind === 'job' ? event.job : assert.fail(JSON.stringify(event));
}

describe('the opening', () => {
  it('asks for version rolling, subscribes, authorizes', () => {
    const methods = (text: string) =>
      text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).method);
    const client = new StratumClient({ ...OPTIONS, suggestedDifficulty: 0.5 });
    assert.deepEqual(methods(client.hello()), [
      'mining.configure',
      'mining.suggest_difficulty',
      'mining.subscribe',
      'mining.authorize',
      'mining.extranonce.subscribe',
    ]);
    assert.match(client.hello('abc'), /"mining.subscribe","params":\["test\/1","abc"\]/);
  });

  it('says why when it is refused', () => {
    const client = new StratumClient(OPTIONS);
    const event = client.line('{"id":3,"result":null,"error":[24,"Unauthorized worker",null]}');
    assert.deepEqual(event, { kind: 'refused', reason: 'authorize: Unauthorized worker' });
    assert.equal(client.line('{"id":3,"result":false,"error":null}')?.kind, 'refused');
    assert.ok(!client.isReady);
  });
});

it('makes the same header of a notify as the gateway that sent it', () => {
  const job = makeJob('00c0ffee');
  const built = buildJobCoinbase(job, {
    tag: '/test/',
    extranonceBytes: 12,
    outputs: [{ script: new Uint8Array(22).fill(1), valueSats: 5_000_000_000n }],
  });
  assert.ok(built.ok);
  const work = compileWork(job, built.parts);
  const chosen = { extranonce1: 0x0a0b0c0d, extranonce2High: 0x01020304, extranonce2Low: 7 };
  fillWork(work, { ...chosen, ntime: job.curtime, nonce: 0, version: job.version });
  foldInTypescript(work);

  const mined = jobOf(ready().line(encodeNotify(job, built.parts, true).trim()));
  const extranonce2 = Uint8Array.of(1, 2, 3, 4, 0, 0, 0, 7);
  const header = assembleMinerHeader(mined, extranonce2, mined.version);
  assert.equal(encodeHex(header), encodeHex(headerOf(work)));
  assert.equal(encodeHex(hashHeader(header)), encodeHex(work.hash));
});

it('takes difficulty, extranonce and mask with the next job, not the current one', () => {
  const client = ready();
  const built = buildJobCoinbase(makeJob('01'), {
    tag: '',
    extranonceBytes: 12,
    outputs: [{ script: new Uint8Array(22), valueSats: 5_000_000_000n }],
  });
  assert.ok(built.ok);
  const notify = encodeNotify(makeJob('01'), built.parts, true);
  const before = jobOf(client.line(notify));
  assert.equal(client.line('{"id":null,"method":"mining.set_difficulty","params":[64]}'), null);
  client.line('{"id":null,"method":"mining.set_extranonce","params":["ffff",4]}');
  client.line('{"id":null,"method":"mining.set_version_mask","params":["00ffff00"]}');
  assert.deepEqual([before.difficulty, before.extranonce2Bytes, before.versionMask], [1, 8, 0]);
  const after = jobOf(client.line(notify));
  assert.deepEqual(
    [after.difficulty, after.extranonce2Bytes, encodeHex(after.extranonce1), after.versionMask],
    [64, 4, 'ffff', 0x00ffe000],
  );
});

it('submits five parameters, six with version bits, and matches answers by id', () => {
  const client = ready();
  const solution = {
    jobId: 'ff',
    extranonce2: Uint8Array.of(0, 0, 0, 1),
    ntime: 0x10,
    nonce: 0xfffffffe,
    versionBits: null,
  };
  const plain = client.submit(solution);
  assert.deepEqual(JSON.parse(plain.line).params, [
    OPTIONS.user,
    'ff',
    '00000001',
    '00000010',
    'fffffffe',
  ]);
  const rolled = client.submit({ ...solution, versionBits: 0x2000 });
  assert.equal(JSON.parse(rolled.line).params[5], '00002000');
  assert.notEqual(rolled.id, plain.id);
  assert.deepEqual(client.line(`{"id":${plain.id},"result":true,"error":null}`), {
    kind: 'answer',
    id: plain.id,
    accepted: true,
    code: 0,
    reason: '',
  });
  const refused = client.line(
    `{"id":${rolled.id},"result":null,"error":[23,"Low difficulty",null]}`,
  );
  assert.ok(refused?.kind === 'answer' && !refused.accepted && refused.code === 23);
});

it('answers the pool, and never follows it to another host', () => {
  const client = ready();
  client.line('{"id":77,"method":"client.get_version","params":[]}');
  client.line('{"id":78,"method":"mining.ping","params":[]}');
  assert.match(client.out, /"id":77,"result":"test\/1"[^\n]*\n.*"id":78,"result":"pong"/);
  const reconnect = '{"id":null,"method":"client.reconnect","params":["evil.example",3333,5]}';
  assert.deepEqual(client.line(reconnect), { kind: 'reconnect', waitSeconds: 5 });
});

it('never throws, whatever the pool sends', () => {
  const method = fc.constantFrom(
    'mining.notify',
    'mining.set_difficulty',
    'mining.set_extranonce',
    'mining.set_version_mask',
    'client.reconnect',
    'client.show_message',
    'mining.ping',
  );
  const call = fc.record({ id: fc.jsonValue(), method, params: fc.jsonValue() });
  const answer = fc.record({ id: fc.integer(), result: fc.jsonValue(), error: fc.jsonValue() });
  const line = fc.oneof(
    fc.string(),
    fc.json(),
    call.map((value) => JSON.stringify(value)),
    answer.map((value) => JSON.stringify(value)),
  );
  fc.assert(
    fc.property(fc.array(line, { maxLength: 8 }), (lines) => {
      const client = ready();
      for (const text of lines) client.line(text);
    }),
  );
});
