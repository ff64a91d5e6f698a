/**
 * Golden transcripts: what each kind of client sends, and every line it must get back, in order. `>` to the pool, `<` from the
 * pool ("*" stands for anything), `!` a step of the stage: flush, commit (the journal syncs), mine (search a share of the newest
 * job), pass N (seconds), reconnect, leave, closed. `{…}` are filled in, see `test/corpus`.
 *
 * Shares at a difficulty of thousands cannot be searched here: `mine` hands the gateway's hash function a winning answer for
 * exactly the header it expects, so every other header still fails.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { encodeHex } from '../../src/core/bitcoin/bytes.ts';
import { foldInTypescript } from '../../src/core/work/fold.ts';
import type { Job } from '../../src/core/work/job.ts';
import { fillWork, headerOf, type Work } from '../../src/core/work/share.ts';
import {
  type Client,
  createJob,
  createRig,
  type Message,
  MINER,
  OTHER_MINER,
  type Rig,
  type Share,
  workOf,
} from '../services/stratumd/gateway-rig.ts';

/** Difficulty 2^40: nothing is clamped by the network. */
const NETWORK_BITS = 0x18010000;

const folder = new URL('./', import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith('.txt'));

test('there are transcripts of at least twelve kinds of client', () => {
  assert.ok(files.length >= 12);
});

for (const file of files) {
  test(`transcript: ${file}`, () => play(readFileSync(new URL(file, folder), 'utf8')));
}

type Stage = {
  rig: Rig;
  job: Job;
  client: Client;
  inbox: Message[];
  share: Share | null;
  sessionId: string;
  extranonce1: string;
};

function play(script: string): void {
  const winners = new Set<string>();
  const rig = createRig({
    port: { startDifficulty: 1, minDifficulty: 2 ** -30, vardiff: true },
    tools: {
      hash: (work: Work) => {
        foldInTypescript(work);
        if (winners.has(encodeHex(headerOf(work)))) work.hash.fill(0, 24);
      },
    },
  });
  const job = createJob({ bits: NETWORK_BITS });
  rig.setJob(job);
  const stage: Stage = {
    rig,
    job,
    client: rig.connect(),
    inbox: [],
    share: null,
    sessionId: '',
    extranonce1: '',
  };
  for (const [index, line] of script.split('\n').entries()) {
    const where = `line ${index + 1}: ${line}`;
    if (line === '' || line.startsWith('#')) continue;
    const text = line.slice(2);
    if (line.startsWith('>')) {
      rig.gateway.line(stage.client.session, fill(text, stage), rig.nowMs);
    } else if (line.startsWith('<')) {
      const message = stage.inbox.shift();
      assert.ok(message, `nothing came, ${where}`);
      match(message, JSON.parse(fill(text, stage)), where);
    } else {
      step(line.slice(1), stage, winners, where);
    }
  }
  assert.deepEqual(stage.inbox, [], 'nothing more than the script says');
}

function step(command: string, stage: Stage, winners: Set<string>, where: string): void {
  const { rig } = stage;
  const [name, argument = ''] = command.split(' ');
  switch (name) {
    case 'flush':
      rig.gateway.flush(stage.client.session);
      break;
    case 'commit':
      rig.gateway.flush(stage.client.session);
      rig.commitAll();
      break;
    case 'pass':
      rig.pass(Number(argument) * 1_000);
      break;
    case 'closed':
      assert.notEqual(stage.client.connection.end, '', where);
      return;
    case 'leave':
      assert.equal(stage.client.connection.end, '', where);
      rig.gateway.closed(stage.client.session, rig.nowMs);
      return;
    case 'reconnect':
      stage.sessionId = stage.client.session.sessionId;
      stage.extranonce1 = stage.client.extranonce1;
      rig.gateway.closed(stage.client.session, rig.nowMs);
      stage.client = rig.connect();
      return;
    case 'mine':
      stage.share = prepare(argument, stage, winners);
      return;
    default:
      assert.fail(`unknown step, ${where}`);
  }
  stage.inbox.push(...stage.client.take());
}

let extranonce2Count = 0;

/** Makes one header of the newest job a winner at the session's difficulty, but no block. */
function prepare(argument: string, stage: Stage, winners: Set<string>): Share {
  const { client, job } = stage;
  const [jobId, , , , , , , ntimeText] = client.notify.map(String);
  const ntime = Number.parseInt(ntimeText!, 16) + 1;
  extranonce2Count += 1;
  const [key, hex = '0'] = argument.split('=');
  const bits = Number.parseInt(hex, 16);
  const version = key === 'version' ? bits : (job.version | bits) >>> 0;
  const work = workOf(client.rig, job);
  const nonce = 0x000a1b2c;
  fillWork(work, {
    extranonce1: Number.parseInt(client.extranonce1, 16),
    extranonce2High: 0xabcd0000,
    extranonce2Low: extranonce2Count,
    ntime,
    nonce,
    version,
  });
  foldInTypescript(work);
  winners.add(encodeHex(headerOf(work)));
  return {
    jobId: jobId!,
    extranonce2: 'abcd0000' + extranonce2Count.toString(16).padStart(8, '0'),
    ntime: ntime.toString(16).padStart(8, '0'),
    nonce: nonce.toString(16).padStart(8, '0'),
  };
}

function fill(text: string, stage: Stage): string {
  const { share, client } = stage;
  return text
    .replaceAll('{ADDR}', MINER)
    .replaceAll('{OTHER}', OTHER_MINER)
    .replaceAll('{JOBID}', String(client.notify[0]))
    .replaceAll('{SESSION}', stage.sessionId)
    .replaceAll('{EN1}', stage.extranonce1)
    .replaceAll('{JOB}', share?.jobId ?? '')
    .replaceAll('{EN2}', share?.extranonce2 ?? '')
    .replaceAll('{EN2^}', share?.extranonce2.toUpperCase() ?? '')
    .replaceAll('{NTIME}', share?.ntime ?? '')
    .replaceAll('{NTIME^}', share?.ntime.toUpperCase() ?? '')
    .replaceAll('{NONCE}', share?.nonce ?? '')
    .replaceAll('{NONCE^}', share?.nonce.toUpperCase() ?? '')
    .replaceAll('{NONCE~}', share?.nonce.replace(/^0+/, '') ?? '');
}

function match(actual: unknown, expected: unknown, where: string): void {
  if (expected === '*') return;
  if (
    typeof expected === 'object' &&
    expected !== null &&
    typeof actual === 'object' &&
    actual !== null
  ) {
    assert.deepEqual(Object.keys(actual), Object.keys(expected), where);
    for (const [key, value] of Object.entries(expected)) {
      match((actual as Record<string, unknown>)[key], value, where);
    }
    return;
  }
  assert.deepEqual(actual, expected, where);
}
