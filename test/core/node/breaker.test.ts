/** The circuit breaker: opens after a row of failures, lets one probe through, closes on any answer. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  admitCall,
  createBreaker,
  recordCall,
  releaseProbe,
} from '../../../src/core/node/breaker.ts';

const LIMITS = { failuresMax: 3, pauseMinMs: 100, pauseMaxMs: 400 };

describe('circuit breaker', () => {
  it('opens after three failures in a row, for a pause that doubles up to its maximum', () => {
    const breaker = createBreaker();
    let nowMs = 0;
    for (let i = 0; i < 3; i++) {
      assert.equal(admitCall(breaker, nowMs), true);
      recordCall(breaker, false, nowMs, LIMITS);
    }
    for (const pauseMs of [100, 200, 400, 400]) {
      assert.equal(admitCall(breaker, nowMs + pauseMs - 1), false);
      nowMs += pauseMs;
      assert.equal(admitCall(breaker, nowMs), true);
      // Only one probe.
      assert.equal(admitCall(breaker, nowMs), false);
      recordCall(breaker, false, nowMs, LIMITS);
    }
    nowMs += 400;
    assert.equal(admitCall(breaker, nowMs), true);
    recordCall(breaker, true, nowMs, LIMITS);
    assert.equal(admitCall(breaker, nowMs), true);
  });

  it('a success between failures keeps it closed; an aborted probe makes room for another', () => {
    const breaker = createBreaker();
    for (const ok of [false, false, true, false, false]) recordCall(breaker, ok, 0, LIMITS);
    assert.equal(admitCall(breaker, 0), true);
    recordCall(breaker, false, 0, LIMITS);
    assert.equal(admitCall(breaker, 50), false);
    assert.equal(admitCall(breaker, 100), true);
    releaseProbe(breaker);
    assert.equal(admitCall(breaker, 100), true);
  });

  it('is never shut for longer than its maximum after the last outcome', () => {
    const step = fc.record({ ok: fc.boolean(), stepMs: fc.integer({ min: 0, max: 500 }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 50 }), (steps) => {
        const breaker = createBreaker();
        let nowMs = 0;
        for (const { ok, stepMs } of steps) {
          nowMs += stepMs;
          if (admitCall(breaker, nowMs)) recordCall(breaker, ok, nowMs, LIMITS);
        }
        assert.equal(admitCall(breaker, nowMs + LIMITS.pauseMaxMs), true);
      }),
    );
  });
});
