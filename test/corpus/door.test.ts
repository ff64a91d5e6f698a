/**
 * The bad-input corpus of the door: group A (bytes and lines) and group E (behaviour), each entry against a listening port
 * with the real gateway behind it. Every entry also asserts that nothing threw and that an honest miner beside it is still
 * answered. `waitIds` waits for answers; `answers` counts; `silent` means that not one byte came back.
 */
import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { after, test } from 'node:test';
import type { FrameFault } from '../../src/core/stratum/framing.ts';
import { ADMISSION_OPTIONS, type AdmissionOptions } from '../../src/services/stratumd/admission.ts';
import type { DoorCounters, DoorLimits } from '../../src/services/stratumd/door.ts';
import type { PortOptions } from '../../src/services/stratumd/options.ts';
import { Client, eventually, openRig, stopRigs } from '../services/stratumd/door-rig.ts';
import { ADDRESS, openPool, type Pool } from '../services/stratumd/pool-rig.ts';

type Step = {
  text?: string;
  hex?: string;
  times?: number;
  chunkBytes?: number;
  numbered?: boolean;
  waitMs?: number;
  waitIds?: unknown[];
  fin?: boolean;
  rst?: boolean;
  stopReading?: boolean;
};

type FramingEntry = {
  id: string;
  note: string;
  send: Step[];
  over?: 'tls';
  tls?: PortOptions['tls'];
  trusted?: boolean;
  limits?: Partial<DoorLimits>;
  expect: {
    ids?: unknown[];
    notIds?: unknown[];
    error?: [code: number, text?: string];
    end: 'open' | 'closed';
    silent?: boolean;
    starts?: string;
    fault?: FrameFault | null;
    foreign?: string;
    counter?: 'wrongTransport' | 'spoofedProxies' | 'proxied' | 'slowReaders';
    answers?: number;
    ordered?: boolean;
    readBytesMax?: number;
  };
};

type Answer = { id: unknown; result: unknown; error: unknown; method?: string };

after(stopRigs);

for (const entry of readEntries<FramingEntry>('A-framing')) {
  test(`${entry.id} ${entry.note}`, async () => {
    const pool = await openPool({
      port: { tls: entry.tls ?? 'auto' },
      door: {
        ...(entry.limits === undefined ? {} : { limits: entry.limits }),
        trustedProxies: entry.trusted === true ? ['127.0.0.0/8'] : [],
      },
    });
    try {
      await runFraming(entry, pool);
      await assertServes(pool, entry.tls === 'only');
    } finally {
      await pool.stop();
    }
  });
}

async function runFraming(entry: FramingEntry, pool: Pool): Promise<void> {
  const { expect } = entry;
  const { counters } = pool.rig.door;
  const client = await Client.open(pool.port, entry.over === 'tls');
  for (const step of entry.send) {
    if (client.end !== null) break;
    await take(step, client);
  }
  if (expect.starts !== undefined) await client.until((text) => text.startsWith(expect.starts!));
  for (const id of expect.ids ?? []) {
    assert.ok(
      await client.until(() => answersOf(client).some((answer) => answer.id === id)),
      `no answer to ${JSON.stringify(id)} in ${JSON.stringify(client.text.slice(-400))}`,
    );
  }
  if (expect.answers !== undefined) {
    await client.until(() => answersOf(client).length >= expect.answers!);
    const answers = answersOf(client);
    assert.equal(answers.length, expect.answers);
    if (expect.ordered)
      assert.deepEqual(
        answers.map(({ id }) => id),
        [...answers.keys()],
      );
  }
  if (expect.end === 'closed') {
    assert.ok(await eventually(() => counters.connections === 0), 'still open');
    assert.ok(await eventually(() => client.end !== null || client.socket.isPaused()));
  } else {
    assert.equal(client.end, null);
    assert.equal(counters.connections, 1);
  }
  if (expect.error !== undefined) {
    const [code, text] = expect.error;
    const last = answersOf(client).findLast((answer) => answer.error !== null);
    assert.ok(Array.isArray(last?.error), client.text.slice(-300));
    assert.equal(last.error[0], code);
    if (text !== undefined) assert.equal(last.error[1], text);
  }
  for (const id of expect.notIds ?? []) {
    assert.ok(!answersOf(client).some((answer) => answer.id === id));
  }
  if (expect.silent) assert.equal(client.text, '');
  if (expect.fault !== undefined) {
    assert.deepEqual([...counters.faults.keys()], expect.fault === null ? [] : [expect.fault]);
  }
  if (expect.foreign !== undefined) assert.equal(counters.foreign.get(expect.foreign), 1);
  if (expect.counter !== undefined) assert.equal(counters[expect.counter], 1);
  if (expect.readBytesMax !== undefined) {
    // What the client got rid of is what the kernel buffered, not what the door read.
    assert.ok(client.socket.bytesWritten - client.socket.writableLength < 67_108_864);
  }
  assert.equal(counters.exceptions, 0);
  client.destroy();
}

async function take(step: Step, client: Client): Promise<void> {
  if (step.waitMs !== undefined) {
    await new Promise((resolve) => setTimeout(resolve, step.waitMs));
    return;
  }
  if (step.waitIds !== undefined) {
    for (const id of step.waitIds) {
      await client.until(() => answersOf(client).some((answer) => answer.id === id));
    }
    return;
  }
  if (step.fin) {
    client.socket.end();
    return;
  }
  if (step.rst) {
    client.socket.resetAndDestroy();
    return;
  }
  if (step.stopReading) {
    client.socket.pause();
    return;
  }
  const times = step.times ?? 1;
  let bytes: Buffer;
  if (step.numbered) {
    const lines = Array.from({ length: times }, (_, id) =>
      step.text!.replace('"id":3', `"id":${id}`),
    );
    bytes = Buffer.from(lines.join(''));
  } else if (step.hex !== undefined) bytes = Buffer.from(step.hex.repeat(times), 'hex');
  else bytes = Buffer.from(step.text!.replaceAll('USER', `${ADDRESS}.w`).repeat(times));
  const chunkBytes = step.chunkBytes ?? bytes.length;
  for (let at = 0; at < bytes.length && client.end === null; at += chunkBytes) {
    client.send(bytes.subarray(at, at + chunkBytes));
    if (chunkBytes < bytes.length) await new Promise((resolve) => setImmediate(resolve));
    // A sender that is not read from stops like any other program whose socket is full.
    if (client.socket.writableLength > 1_048_576) break;
  }
}

/** A miner that behaves still gets its answer. */
async function assertServes(pool: Pool, tls: boolean): Promise<void> {
  const client = await Client.open(pool.port, tls);
  client.send('{"id":1,"method":"mining.subscribe","params":["honest/1"]}\n');
  assert.ok(
    await client.until((text) => text.includes('"id":1')),
    'the honest miner is not served',
  );
  client.destroy();
}

function answersOf(client: Client): Answer[] {
  const end = client.text.lastIndexOf('\n') + 1;
  return client.text
    .slice(0, end)
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Answer)
    .filter((answer) => answer.method === undefined);
}

// ---- E: behaviour --------------------------------------------------------------------------------------------------

type BehaviourEntry = {
  id: string;
  note: string;
  attack: 'idle' | 'hasty' | 'eager' | 'stalled-tls' | 'rubbish' | 'teardown' | 'deaf-half';
  connections?: number;
  proven?: boolean;
  allowed?: boolean;
  admission?: Partial<AdmissionOptions>;
  limits?: Partial<DoorLimits>;
  expect: {
    kept?: number;
    refused?: keyof DoorCounters['refused'];
    banned?: boolean;
    answered?: boolean;
    delayed?: boolean;
    ended?: boolean;
    pendingMax?: number;
    handled?: number;
    told?: boolean;
  };
};

const SUBSCRIBE = '{"id":1,"method":"mining.subscribe","params":["t/1"]}\n';

for (const entry of readEntries<BehaviourEntry>('E-behaviour')) {
  test(`${entry.id} ${entry.note}`, () => runBehaviour(entry));
}

async function runBehaviour(entry: BehaviourEntry): Promise<void> {
  const { expect, attack } = entry;
  if (attack === 'teardown') {
    const rig = await openRig();
    const client = await Client.open(rig.port);
    client.send('{"id":1}\nrubbish\n{"id":2}\n{"id":3}\n');
    await client.ended;
    assert.equal(rig.gateway.lines.length, expect.handled);
    await rig.stop();
    return;
  }
  const pool = await openPool({
    port: { startDifficulty: 1e-6, minDifficulty: 1e-6, vardiff: false },
    door: {
      admission: {
        ...ADMISSION_OPTIONS,
        allowed: entry.allowed === true ? ADMISSION_OPTIONS.allowed : [],
        ...entry.admission,
      },
      ...(entry.limits === undefined ? {} : { limits: entry.limits }),
    },
  });
  const { counters } = pool.rig.door;
  const count = entry.connections ?? 1;
  const clients: Client[] = [];
  try {
    if (entry.proven) {
      const honest = await openProven(pool);
      clients.push(honest);
    }
    if (attack === 'hasty') {
      for (let at = 0; at < count; at++) {
        const socket = connect({ host: '127.0.0.1', port: pool.port });
        socket.on('error', () => undefined);
        const closed = new Promise((resolve) => socket.once('close', resolve));
        socket.once('connect', () => socket.end());
        await closed;
      }
    } else {
      const bytes: Record<string, string | Uint8Array> = {
        idle: '',
        eager: SUBSCRIBE,
        rubbish: `${SUBSCRIBE}\0\n`,
        'stalled-tls': Uint8Array.of(0x16, 0x03, 0x01, 0x02, 0x00, 0x01),
        'deaf-half': SUBSCRIBE,
      };
      for (let at = 0; at < count; at++) {
        const client = await Client.open(pool.port);
        clients.push(client);
        client.send(bytes[attack]!);
        if (attack === 'rubbish') await client.ended;
        assert.ok(counters.handshakesPending <= (expect.pendingMax ?? 0));
      }
    }
    if (expect.kept !== undefined) {
      assert.ok(await eventually(() => counters.connections === expect.kept));
      assert.equal(counters.refused[expect.refused!], count - expect.kept);
    }
    if (expect.answered) {
      for (const client of clients)
        assert.ok(await client.until((text) => text.includes('"id":1')));
    }
    if (expect.delayed) assert.ok(counters.delayed() > 0);
    if (expect.ended) {
      for (const client of clients) await client.ended;
      assert.ok(await eventually(() => counters.handshakesPending === 0));
      await assertServes(pool, true);
    }
    if (expect.banned !== undefined) {
      await eventually(() => counters.bans() > 0 === expect.banned, expect.banned ? 2_000 : 50);
      assert.equal(counters.bans() > 0, expect.banned);
      const next = await Client.open(pool.port);
      next.send(SUBSCRIBE);
      assert.equal(await next.until((text) => text.includes('"id":1'), 1_000), !expect.banned);
      if (expect.banned) assert.ok(counters.refused.banned > 0);
      next.destroy();
    }
    if (expect.told) await assertTold(pool, clients);
    assert.equal(counters.exceptions, 0);
  } finally {
    for (const client of clients) client.destroy();
    await pool.stop();
  }
}

async function assertTold(pool: Pool, clients: readonly Client[]): Promise<void> {
  for (const client of clients) await client.until((text) => text.includes('mining.notify'));
  const deaf = clients.filter((_, at) => at % 2 === 0);
  const hearing = clients.filter((_, at) => at % 2 === 1);
  for (const client of deaf) client.socket.pause();
  for (let jobs = 0; jobs < 3; jobs++) {
    pool.newJob();
    for (const client of hearing) {
      const seen = (client.text.match(/mining\.notify/g) ?? []).length;
      if (seen < jobs + 2) {
        assert.ok(
          await client.until((text) => (text.match(/mining\.notify/g) ?? []).length >= jobs + 2),
        );
      }
    }
  }
}

/** A session whose address counts as honest, as after an accepted share. */
async function openProven(pool: Pool): Promise<Client> {
  const { StratumClient, assembleMinerHeader } = await import('../../src/core/stratum/client.ts');
  const { Grinder } = await import('../../src/core/work/grind.ts');
  const { prepareTarget } = await import('../../src/core/work/share.ts');
  const { targetOfDifficulty } = await import('../../src/core/bitcoin/target.ts');
  const talk = new StratumClient({
    user: `${ADDRESS}.honest`,
    password: 'd=0.000001',
    agent: 't/1',
    versionMask: 0,
    suggestedDifficulty: 0,
  });
  const client = await Client.open(pool.port);
  client.send(talk.hello());
  await client.until((text) => text.includes('mining.notify'));
  let job = null;
  for (const line of client.text.trim().split('\n')) {
    const event = talk.line(line);
    if (event?.kind === 'job') job = event.job;
  }
  assert.ok(job !== null);
  const grinder = new Grinder();
  const extranonce2 = new Uint8Array(job.extranonce2Bytes);
  grinder.setHeader(assembleMinerHeader(job, extranonce2, job.version));
  const target = prepareTarget(targetOfDifficulty(job.difficulty));
  const nonce = grinder.find(0, 2 ** 32, target);
  const share = { jobId: job.jobId, extranonce2, ntime: job.ntime, nonce, versionBits: null };
  client.send(talk.submit(share).line);
  assert.ok(await client.until((text) => text.includes('"id":10,"result":true')), client.text);
  return client;
}

function readEntries<Entry>(file: string): Entry[] {
  const text = readFileSync(new URL(`./${file}.jsonl`, import.meta.url), 'utf8');
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Entry);
}
