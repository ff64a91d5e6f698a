import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  ADMISSION_OPTIONS,
  Admission,
  type AdmissionOptions,
  connectionsWithin,
  type Ticket,
} from '../../../src/services/stratumd/admission.ts';

const open = (changes: Partial<AdmissionOptions> = {}) =>
  new Admission({ ...ADMISSION_OPTIONS, ...changes });

function admit(admission: Admission, address: string, nowMs: number): Ticket {
  const admitted = admission.arrive(address, nowMs);
  assert.equal(admitted.kind, 'admit', JSON.stringify(admitted));
  return admitted.kind === 'admit' ? admitted.ticket : assert.fail();
}

function reasonFor(admission: Admission, address: string, nowMs: number): string {
  const admitted = admission.arrive(address, nowMs);
  return admitted.kind === 'refuse' ? admitted.reason : 'admitted';
}

describe('limits', () => {
  it('holds per address, per network and in total, IPv4 and IPv6 alike', () => {
    const admission = open({
      connectionsPerSourceMax: 2,
      connectionsPerNetworkMax: 3,
      connectionsMax: 8,
    });
    const first = admit(admission, '10.0.0.1', 0);
    admit(admission, '10.0.0.1', 0);
    assert.equal(reasonFor(admission, '10.0.0.1', 0), 'source');
    assert.equal(reasonFor(admission, '::ffff:10.0.0.1', 0), 'source');
    admit(admission, '10.0.0.2', 0);
    assert.equal(reasonFor(admission, '10.0.0.3', 0), 'network');
    admission.leave(first, 0);
    admit(admission, '10.0.0.3', 0);
    admit(admission, '2001:db8:0:1::1', 0);
    admit(admission, '2001:db8:0:1::2', 0);
    assert.equal(reasonFor(admission, '2001:db8:0:1::3', 0), 'source');
    admit(admission, '2001:db8:0:2::1', 0);
    assert.equal(reasonFor(admission, '2001:db8:0:3::1', 0), 'network');
    admit(admission, '127.0.0.1', 0);
    admit(admission, '127.0.0.1', 0);
    assert.equal(admission.connections, 8);
    assert.equal(reasonFor(admission, '192.0.2.1', 0), 'total');
    assert.equal(reasonFor(open(), 'nonsense', 0), 'address');
  });

  it('lets 10,000 miners of 100 farms back within five seconds, none refused', () => {
    const admission = open();
    let lastMs = 0;
    for (let miner = 0; miner < 10_000; miner++) {
      const farm = miner % 100;
      const admitted = admission.arrive(`10.${farm}.0.1`, 1_000_000);
      assert.equal(admitted.kind, 'admit');
      if (admitted.kind === 'admit') lastMs = Math.max(lastMs, admitted.delayMs);
    }
    assert.ok(lastMs > 0 && lastMs < 5_000, `${lastMs}`);
  });

  it('slows one address down, and turns it away only when the wait would be absurd', () => {
    const admission = open({ connectionsPerSourceMax: 1_000 });
    let delayed = 0;
    let refused = 0;
    for (let count = 0; count < 700; count++) {
      const admitted = admission.arrive('10.0.0.1', 0);
      if (admitted.kind === 'refuse') refused++;
      else if (admitted.delayMs > 0) delayed++;
    }
    assert.equal(700 - refused - delayed, 64);
    assert.ok(refused > 100);
    assert.equal(admission.refusals.pace, refused);
    // A neighbour is not slowed by it.
    const neighbour = admission.arrive('10.0.9.1', 0);
    assert.ok(neighbour.kind === 'admit' && neighbour.delayMs === 0);
  });

  it('keeps files back for the rest of the process', () => {
    assert.equal(connectionsWithin(20_000, 1_024), 806);
    assert.equal(connectionsWithin(500, 1_024), 500);
    assert.equal(connectionsWithin(20_000, 256), 115);
    assert.equal(connectionsWithin(20_000, null), 20_000);
    assert.equal(connectionsWithin(20_000, 100), 1);
  });
});

describe('bans', () => {
  it('comes at 300 points in ten minutes, doubles, and ends', () => {
    const admission = open();
    for (let count = 0; count < 5; count++) assert.ok(!admission.blame('10.0.0.1', 50, 0));
    assert.ok(admission.blame('10.0.0.1', 50, 0));
    assert.equal(reasonFor(admission, '10.0.0.1', 599_000), 'banned');
    assert.equal(reasonFor(admission, '10.0.0.2', 0), 'admitted');
    admission.leave(admit(admission, '10.0.0.1', 601_000), 601_000);
    assert.ok(admission.blame('10.0.0.1', 300, 601_000));
    assert.equal(reasonFor(admission, '10.0.0.1', 601_000 + 1_199_000), 'banned');
    assert.equal(reasonFor(admission, '10.0.0.1', 601_000 + 1_201_000), 'admitted');
    for (let count = 0; count < 20; count++) admission.blame('10.0.0.3', 1e9, count * 1e8);
    assert.equal(reasonFor(admission, '10.0.0.3', 19e8 + 86_400_000), 'admitted');
  });

  it('forgets points slowly', () => {
    const admission = open();
    for (let minute = 0; minute < 100; minute++) {
      assert.ok(!admission.blame('10.0.0.1', 30, minute * 60_000));
    }
  });

  it('never locks out the farm of a miner that has earned a share (P37)', () => {
    const admission = open({ connectionsPerSourceMax: 600 });
    const honest = Array.from({ length: 499 }, (_, at) => admit(admission, '10.0.0.1', at * 50));
    admission.prove(honest[7]!);
    const nowMs = 60_000;
    for (let count = 0; count < 1_000; count++) {
      assert.ok(!admission.blame('10.0.0.1', 100, nowMs));
    }
    for (const ticket of honest) admission.leave(ticket, nowMs);
    assert.ok(!admission.blame('10.0.0.1', 300, nowMs + 3_599_000));
    assert.equal(reasonFor(admission, '10.0.0.1', nowMs + 3_599_000), 'admitted');
    assert.ok(admission.blame('10.0.0.1', 300, nowMs + 3_601_000));
  });

  it('does not ban the allow-list', () => {
    const admission = open();
    assert.ok(!admission.blame('127.0.0.1', 1e6, 0));
    assert.equal(reasonFor(admission, '127.0.0.1', 0), 'admitted');
  });
});

it('keeps its tables within their maximum under a million addresses', () => {
  const admission = open({ idleSourcesMax: 1_000 });
  for (let count = 0; count < 100_000; count++) {
    const address = `${1 + (count % 120)}.${(count >> 7) & 255}.${(count >> 3) & 255}.${count & 255}`;
    admission.blame(address, 1, count);
    const admitted = admission.arrive(address, count);
    if (admitted.kind === 'admit') admission.leave(admitted.ticket, count);
  }
  assert.equal(admission.connections, 0);
  assert.ok(admission.sourcesKept <= 1_000);
});
