/**
 * The bad-input corpus of the Stratum session, groups B (JSON), C (session) and D (submit): each line of the `.jsonl` files is sent
 * to a gateway and the answers, the points and the end of the session are compared.
 *
 * What is filled in: USER ADDR OTHER JOB EN2 NTIME NONCE come from a share that was really searched for; `^` makes it upper case, `~`
 * takes leading zeros off, `+n`/`-n` adds to ntime, `-1` cuts a character. BADNONCE misses the target.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { targetOfDifficulty } from '../../src/core/bitcoin/target.ts';
import { foldInTypescript } from '../../src/core/work/fold.ts';
import type { Job } from '../../src/core/work/job.ts';
import { fillWork, meetsTarget, prepareTarget } from '../../src/core/work/share.ts';
import {
  type Client,
  createJob,
  createRig,
  type Message,
  MINER,
  mine,
  OTHER_MINER,
  type Rig,
  SHARE_DIFFICULTY,
  workOf,
} from '../services/stratumd/gateway-rig.ts';

type Expected = number | boolean | string | { id?: unknown; result?: unknown };
type Entry = {
  id: string;
  note: string;
  setup: 'none' | 'subscribed' | 'authorized' | 'rolling' | 'jobless';
  send: string[];
  expect: Expected[];
  closed: boolean;
  score?: number;
  accepted?: number;
  worker?: string;
  workers?: number;
  jobs?: number;
  difficulty?: number | string;
};

for (const file of ['B-json-shape', 'C-session', 'D-submit']) {
  const text = readFileSync(new URL(`./${file}.jsonl`, import.meta.url), 'utf8');
  for (const line of text.trim().split('\n')) {
    const entry = JSON.parse(line) as Entry;
    test(`${entry.id} ${entry.note}`, () => run(entry));
  }
}

function run(entry: Entry): void {
  const rig = createRig();
  const job = createJob();
  if (entry.setup !== 'jobless') rig.setJob(job);
  const client = rig.connect();
  setUp(client, entry.setup);
  const lines = entry.send.map((line) => fill(line, client, job));
  const messages = client.send(...lines);
  if (client.connection.end === '') rig.commitAll();
  const all = [...messages, ...client.take()];
  const answers = all.filter((message) => message.method === undefined);
  assert.equal(answers.length, entry.expect.length, JSON.stringify(answers));
  for (const [index, expected] of entry.expect.entries())
    compare(answers[index]!, expected, client);
  assert.equal(client.connection.end !== '', entry.closed, 'closed');
  if (entry.score !== undefined) assert.equal(client.session.score, entry.score, 'score');
  if (entry.accepted !== undefined) assert.equal(rig.journal.appended.length, entry.accepted);
  if (entry.worker !== undefined)
    assert.equal(client.session.workers[0]?.record.name, entry.worker);
  if (entry.workers !== undefined) assert.equal(client.session.workers.length, entry.workers);
  if (entry.jobs !== undefined) {
    assert.equal(all.filter((message) => message.method === 'mining.notify').length, entry.jobs);
  }
  if (entry.difficulty !== undefined) compareDifficulty(entry.difficulty, client, rig);
  assert.equal(({} as { authorized?: unknown }).authorized, undefined);
  // Nobody else is touched: a second session still works.
  const other = rig.connect('198.51.100.7');
  assert.equal(other.start(`${OTHER_MINER}.w`)[1]?.result, true);
}

function setUp(client: Client, setup: Entry['setup']): void {
  if (setup === 'none') return;
  if (setup === 'subscribed') client.call('mining.subscribe', ['test/1']);
  else client.start();
  if (setup === 'rolling') {
    client.call('mining.configure', [['version-rolling'], { 'version-rolling.mask': '1fffe000' }]);
  }
  client.nextId = 1;
}

function compare(answer: Message, expected: Expected, client: Client): void {
  const shown = JSON.stringify(answer);
  if (typeof expected === 'number') {
    assert.equal(answer.error?.[0], expected, shown);
    assert.equal(answer.result, null, shown);
    assert.equal(answer.error?.length, 3);
  } else if (expected === 'subscribed' || expected === 'subscribed-same') {
    assert.equal(answer.error, null, shown);
    const [subscriptions, extranonce1, size] = answer.result as [unknown[], string, number];
    assert.equal(subscriptions.length, 2);
    assert.match(extranonce1, /^[0-9a-f]{8}$/);
    assert.equal(size, 8);
    assert.equal(extranonce1, client.extranonce1);
  } else if (typeof expected === 'object') {
    assert.equal(answer.error, null, shown);
    for (const [key, value] of Object.entries(expected)) {
      assert.deepEqual(answer[key as 'id' | 'result'], value, shown);
    }
  } else {
    assert.equal(answer.error, null, shown);
    assert.deepEqual(answer.result, expected, shown);
  }
}

function compareDifficulty(expected: number | string, client: Client, rig: Rig): void {
  if (expected === 'any') assert.ok(client.difficulty > 0);
  else if (expected === 'port') assert.equal(client.difficulty, rig.port.startDifficulty);
  else if (expected === 'min') assert.equal(client.difficulty, rig.port.minDifficulty);
  else if (expected === 'network') assert.equal(client.difficulty, 1);
  else assert.equal(client.difficulty, expected);
}

function fill(line: string, client: Client, job: Job): string {
  let made = line
    .replaceAll('{USER}', `${MINER}.w`)
    .replaceAll('{ADDR}', MINER)
    .replaceAll('{ADDR^}', MINER.toUpperCase())
    .replaceAll('{OTHER}', OTHER_MINER);
  if (!/\{(?:JOB|EN2|NTIME|NONCE|BADNONCE)/.test(made)) return made;
  let share = known.get(client);
  if (share === undefined) {
    share = mine(client, job);
    known.set(client, share);
  }
  const ntime = Number.parseInt(share.ntime, 16);
  made = made
    .replaceAll('{JOB}', share.jobId)
    .replaceAll('{JOB^}', share.jobId.toUpperCase())
    .replaceAll('{EN2}', share.extranonce2)
    .replaceAll('{EN2^}', share.extranonce2.toUpperCase())
    .replaceAll('{EN2-1}', share.extranonce2.slice(1))
    .replaceAll('{NTIME}', share.ntime)
    .replaceAll('{NONCE}', share.nonce)
    .replaceAll('{NONCE~}', share.nonce.replace(/^0+/, '') || '0')
    .replaceAll('{BADNONCE}', () => badNonce(client, job, share.extranonce2, ntime));
  return made.replace(/\{NTIME([+-][0-9]+)\}/g, (_, step) => (ntime + Number(step)).toString(16));
}

const known = new WeakMap<Client, ReturnType<typeof mine>>();

function badNonce(client: Client, job: Job, extranonce2: string, ntime: number): string {
  const work = workOf(client.rig, job);
  const target = prepareTarget(targetOfDifficulty(SHARE_DIFFICULTY));
  for (let nonce = 0; ; nonce += 1) {
    fillWork(work, {
      extranonce1: Number.parseInt(client.extranonce1, 16),
      extranonce2High: Number.parseInt(extranonce2.slice(0, 8), 16),
      extranonce2Low: Number.parseInt(extranonce2.slice(8), 16),
      ntime,
      nonce,
      version: job.version,
    });
    foldInTypescript(work);
    if (!meetsTarget(work.hash, target)) return nonce.toString(16).padStart(8, '0');
  }
}
