/** Transactions that do not come with their job, and nodes that still have them, or others. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Rpc, RpcAnswer } from '../../../src/core/node/rpc.ts';
import { buildJob, type Job } from '../../../src/core/work/job.ts';
import { decodeTemplate } from '../../../src/core/work/template.ts';
import { decodeTemplateBody } from '../../../src/messages/codec.ts';
import { encodeTransactions } from '../../../src/messages/transactions.ts';
import { createSpares } from '../../../src/services/blocksubmit/spare.ts';
import { createRandom } from '../../tools/random.ts';
import { createTemplateAnswer, type TemplateJson } from '../../tools/template-answer.ts';
import { createMemoryLog } from '../../tools/waiting.ts';

const AFTER_MS = 1_000;
const settle = () => new Promise((resolve) => setImmediate(resolve));

function templateOf(answer: TemplateJson) {
  const decoded = decodeTemplate(answer, 'mainnet');
  assert.ok(decoded.ok);
  return decoded.template;
}

function jobOf(answer: TemplateJson, jobId = 'aa'): Job {
  return buildJob(templateOf(answer), { jobId, clean: true, createdAtMs: 1 });
}

/** Spares before nodes that answer in turn; what was taken is at hand. */
function createWorld(answers: RpcAnswer[]) {
  const taken: Uint8Array[] = [];
  const asked: unknown[] = [];
  const known = new Set<string>();
  const nodes = answers.map(
    (answer, i) =>
      ({
        name: `n${i}`,
        async call(method: string, params: readonly unknown[]) {
          asked.push([method, params]);
          return answer;
        },
      }) as unknown as Rpc,
  );
  const log = createMemoryLog();
  const spares = createSpares({
    log,
    network: 'mainnet',
    nodes,
    hasTemplate: (jobId) => known.has(jobId),
    take(encoded) {
      taken.push(encoded);
      const body = decodeTemplateBody(encoded);
      assert.ok(body.ok);
      known.add(body.value.jobId);
    },
  });
  return { spares, taken, asked, known, log };
}

const result = (answer: TemplateJson): RpcAnswer => ({ kind: 'result', result: answer });
const random = createRandom(7);

test('the node that still gives the same template is believed, after one that gives another', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const answer = createTemplateAnswer(random, 9);
  const other = { ...createTemplateAnswer(random, 9), previousblockhash: answer.previousblockhash };
  const later = { ...answer, curtime: answer.curtime + 1 };
  const world = createWorld([
    { kind: 'timeout', detail: 'slow' },
    result(other),
    result(later),
    result(answer),
  ]);
  const job = jobOf(answer);
  world.spares.expect(job);
  t.mock.timers.tick(AFTER_MS - 1);
  await settle();
  assert.deepEqual(world.asked, [], 'they may be on their way');
  t.mock.timers.tick(1);
  await settle();
  assert.deepEqual(world.taken, [encodeTransactions(job, templateOf(answer))]);
  assert.equal(world.asked.length, 3, 'nobody is asked once it is there');
  assert.deepEqual(world.asked[0], [
    'getblocktemplate',
    [
      {
        rules: ['segwit', 'taproot'],
        capabilities: ['coinbasevalue', 'longpoll', 'proposal', 'workid'],
      },
    ],
  ]);
});

test('one transaction more, one less, another order, another witness, another tip: not the same', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const answer = createTemplateAnswer(random, 9);
  const { transactions } = answer;
  const swapped = [transactions[1], transactions[0], ...transactions.slice(2)];
  const others: TemplateJson[] = [
    { ...answer, transactions: transactions.slice(0, -1), default_witness_commitment: undefined },
    { ...answer, transactions: swapped },
    { ...answer, previousblockhash: createTemplateAnswer(random, 0).previousblockhash },
    { ...answer, transactions: 'none' },
  ];
  const world = createWorld(others.map(result));
  world.spares.expect({ ...jobOf(answer) });
  t.mock.timers.tick(AFTER_MS);
  await settle();
  assert.equal(world.asked.length, others.length);
  assert.deepEqual(world.taken, []);
  assert.match(world.log.text(), /has to wait for them/);

  const same = createWorld([result(answer)]);
  same.spares.expect({ ...jobOf(answer), witnessCommitment: new Uint8Array(38) });
  t.mock.timers.tick(AFTER_MS);
  await settle();
  assert.deepEqual(same.taken, []);
});

test('nobody is asked for what has come, for what a newer job has replaced, or for a block without transactions', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const answer = createTemplateAnswer(random, 3);
  const empty = createTemplateAnswer(random, 0);
  const world = createWorld([result(answer)]);
  world.known.add('a0');
  world.spares.expect(jobOf(answer, 'a0'));
  world.spares.expect(jobOf(answer, 'a1'));
  world.known.add('a1');
  t.mock.timers.tick(AFTER_MS);
  world.spares.expect(jobOf(answer, 'a2'));
  const newest = jobOf(empty, 'a3');
  world.spares.expect(newest);
  // Said again: its second does not begin anew.
  t.mock.timers.tick(AFTER_MS / 2);
  world.spares.expect(newest);
  t.mock.timers.tick(AFTER_MS / 2);
  await settle();
  assert.deepEqual(world.asked, []);
  assert.deepEqual(world.taken, [encodeTransactions(newest, { transactions: [] })]);
});

test('an answer that is overtaken by the template, or by the end, is not taken', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const answer = createTemplateAnswer(random, 3);
  const world = createWorld([result(answer)]);
  world.spares.expect(jobOf(answer));
  t.mock.timers.tick(AFTER_MS);
  world.known.add('aa');
  await settle();
  world.spares.expect(jobOf(answer, 'bb'));
  t.mock.timers.tick(AFTER_MS);
  world.spares.stop();
  await settle();
  assert.equal(world.asked.length, 2);
  assert.deepEqual(world.taken, []);
});
