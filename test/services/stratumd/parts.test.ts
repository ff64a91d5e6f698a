/** The gateway's parts on their own: jobs, held answers, workers, session time. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeAddress } from '../../../src/core/bitcoin/address.ts';
import { SESSION_LIMITS } from '../../../src/core/stratum/limits.ts';
import { HeldAnswers } from '../../../src/services/stratumd/held-answers.ts';
import { JobBook } from '../../../src/services/stratumd/jobs.ts';
import { Session } from '../../../src/services/stratumd/session.ts';
import { SessionTime } from '../../../src/services/stratumd/time.ts';
import { type Rejection, WorkerBook } from '../../../src/services/stratumd/workers.ts';
import { createJob, DEFAULT_PORT, FakeConnection, POOL } from './gateway-rig.ts';

function createBook(limits = SESSION_LIMITS): JobBook {
  const pool = decodeAddress(POOL, 'regtest');
  assert.ok(pool.ok);
  return new JobBook({
    limits,
    pools: [{ id: 'main', coinbase: { mode: 'pool', script: pool.script, address: POOL } }],
    coinbaseTag: '/t/',
  });
}

function createSession(): Session {
  return new Session(new FakeConnection(DEFAULT_PORT), {
    limits: SESSION_LIMITS,
    difficulty: 1,
    pool: createBook().poolOf('main'),
    nowMs: 0,
  });
}

test('a repeated delivery of a job changes nothing', () => {
  const book = createBook();
  const job = createJob();
  assert.ok(book.add(job, 0, 0, assert.fail));
  assert.equal(book.add(job, 0, 0, assert.fail), null);
  assert.equal(book.size, 1);
});

test('a job without a valid coinbase is not handed out, and the last good one stays', () => {
  const book = createBook();
  const good = book.add(createJob(), 0, 0, assert.fail);
  let reason = '';
  assert.equal(
    book.add(createJob({ coinbaseWeightMax: 10 }), 0, 0, (text) => {
      reason = text;
    }),
    null,
  );
  assert.match(reason, /weigh/);
  assert.equal(book.newest, good);
});

test('calls of one job have ids and times of their own and are bounded', () => {
  const book = createBook();
  book.add(createJob(), 0, 0, assert.fail);
  const ids = new Set([book.newest!.id]);
  let { curtime } = book.newest!;
  for (let call = book.callAgain(1_000); call !== null; call = book.callAgain(1_000)) {
    assert.ok(call.curtime > curtime);
    curtime = call.curtime;
    ids.add(call.id);
    assert.match(call.id, /^[0-9a-f]{1,32}$/);
    assert.equal(book.find(call.id), call);
  }
  assert.equal(ids.size, 255);
});

test('jobs are kept for three tips, at least sixteen, never more than the maximum; a tip that comes back is current again', () => {
  const limits = { ...SESSION_LIMITS, jobsMax: 24 };
  const book = createBook(limits);
  const tip = (n: number) => ({ previousHash: new Uint8Array(32).fill(n) });
  const first = createJob(tip(1));
  book.add(first, 0, 0, assert.fail);
  for (let n = 0; n < 20; n += 1) book.add(createJob(tip(2)), 0, 0, assert.fail);
  book.add(createJob(tip(1)), 0, 0, assert.fail);
  assert.equal(book.isCurrent(book.find(first.jobId)!.known), true);
  for (let n = 3; n < 6; n += 1) book.add(createJob(tip(n)), 0, 0, assert.fail);
  assert.equal(book.find(first.jobId), null);
  assert.ok(book.size >= SESSION_LIMITS.jobsMin);
  for (let n = 0; n < 60; n += 1) book.add(createJob(tip(9)), 0, 0, assert.fail);
  assert.equal(book.size, 24);
});

test('held answers are released in order and once', () => {
  const held = new HeldAnswers();
  const [a, b] = [createSession(), createSession()];
  const say = (session: Session, text: string, ticket: number) => {
    session.hold(text);
    held.add(session, ticket);
  };
  say(a, 'a1', 1);
  say(b, 'b2', 2);
  say(a, 'a3', 3);
  a.say('+');
  held.release(0);
  assert.deepEqual((a.connection as FakeConnection).writes, []);
  held.release(2);
  assert.deepEqual((a.connection as FakeConnection).writes, ['a1']);
  assert.deepEqual((b.connection as FakeConnection).writes, ['b2']);
  held.release(9);
  held.release(9);
  assert.deepEqual((a.connection as FakeConnection).writes, ['a1', 'a3+']);
  assert.equal(held.count, 0);
});

test('a hundred thousand held answers over many commits', () => {
  const held = new HeldAnswers();
  const session = createSession();
  for (let ticket = 1; ticket <= 100_000; ticket += 1) {
    session.hold('x');
    held.add(session, ticket);
    if (ticket % 1_000 === 0) held.release(ticket - 500);
  }
  held.release(100_000);
  const { writes } = session.connection as FakeConnection;
  assert.equal(writes.join('').length, 100_000);
  assert.equal(session.heldCount, 0);
});

test('workers are bounded, and those without a session go first', () => {
  const book = new WorkerBook({ ...SESSION_LIMITS, workersMax: 3 });
  const live = book.take('main', 'a', '1', 0);
  live.sessions = 1;
  book.take('main', 'a', '2', 0);
  book.take('main', 'a', '3', 0);
  assert.equal(book.take('main', 'a', '2', 0).name, '2');
  book.take('main', 'a', '4', 0);
  assert.equal(book.size, 3);
  assert.equal(book.find('main', 'a.1'), live);
  assert.equal(book.find('main', 'a.3'), null);
});

test('rejections are bounded per worker and in all', () => {
  const book = new WorkerBook(SESSION_LIMITS);
  const rejection: Rejection = {
    atMs: 0,
    reason: 'stale',
    error: 'stale',
    line: '',
    header: null,
    headerHash: null,
    expectedTargetDisplay: '',
    difficulty: 0,
    shareDifficulty: 0,
  };
  const first = book.take('main', 'a', 'first', 0);
  book.reject(first, rejection);
  for (let n = 0; n < 1_300; n += 1) {
    const worker = book.take('main', 'a', `w${n}`, 0);
    for (let k = 0; k < 20; k += 1) book.reject(worker, rejection);
    assert.equal(worker.rejections?.length, SESSION_LIMITS.rejectionsKept);
  }
  assert.equal(first.rejections?.length, 0);
  assert.equal(first.rejected?.get('stale'), 1);
});

test('session time follows the clock forward and ignores its jumps', () => {
  const time = new SessionTime();
  time.advance(1_000_000);
  time.advance(1_000_250);
  assert.equal(time.nowMs, 1_000_250);
  time.advance(400_000);
  assert.equal(time.nowMs, 1_000_250);
  assert.equal(time.wallMs, 400_000);
  time.advance(4_000_000);
  assert.equal(time.nowMs, 1_060_250);
});
