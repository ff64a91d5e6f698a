/** The life of a block as a state machine: the table of answers, and properties over random orders of what nodes say. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  readProposalAnswer,
  readSubmitAnswer,
  type SubmitVerdict,
} from '../../../src/core/node/answers.ts';
import type { RpcAnswer } from '../../../src/core/node/rpc.ts';
import {
  beginAction,
  createProgress,
  LIMITS,
  nextActions,
  nextDueAtMs,
  recordSight,
  recordSubmit,
  type Sight,
} from '../../../src/services/blocksubmit/decide.ts';

const HEIGHT = 100;
const side: Sight = {
  kind: 'side',
  tipHeight: HEIGHT,
  synced: true,
  taken: true,
  oursFirst: false,
};
const absent: Sight = { kind: 'absent', tipHeight: HEIGHT - 1, synced: true, taken: false };
const main = (confirmations: number): Sight => ({
  kind: 'main',
  confirmations,
  tipHeight: HEIGHT + confirmations - 1,
});

function verdict(kind: SubmitVerdict['kind'], fields: Partial<SubmitVerdict> = {}): SubmitVerdict {
  return { kind, detail: kind, fault: false, absent: false, ...fields };
}

describe('answers to submitblock', () => {
  const result = (value: unknown): RpcAnswer => ({ kind: 'result', result: value });
  const table: [RpcAnswer, SubmitVerdict['kind'], boolean][] = [
    [result(null), 'taken', false],
    [result('duplicate'), 'known', false],
    [result('duplicate-inconclusive'), 'known', false],
    [result('inconclusive'), 'side', false],
    [result('high-hash'), 'refused', true],
    [result('bad-txnmrklroot'), 'refused', true],
    [result('bad-cb-amount'), 'refused', true],
    [result('duplicate-invalid'), 'refused', true],
    [result('bad-diffbits'), 'refused', true],
    [result('time-too-new'), 'later', false],
    [result('time-too-old'), 'refused', false],
    [result('bad-version(0x00000003)'), 'refused', false],
    [result('prev-blk-not-found'), 'retry', false],
    [result('rejected: already have block 00ab'), 'known', false],
    [result('rejected: block timestamp of x is too far in the future'), 'later', false],
    [result(5), 'unknown', false],
    [{ kind: 'error', code: -22, message: 'Block decode failed' }, 'refused', true],
    [{ kind: 'error', code: -28, message: 'Loading' }, 'retry', false],
    [{ kind: 'error', code: -1, message: 'x' }, 'unknown', false],
    [{ kind: 'unreachable', detail: 'ECONNREFUSED' }, 'retry', false],
    [{ kind: 'warming-up', detail: '' }, 'retry', false],
    [{ kind: 'overloaded', detail: '' }, 'retry', false],
    [{ kind: 'unauthorized', detail: '' }, 'retry', false],
    [{ kind: 'timeout', detail: '' }, 'unknown', false],
    [{ kind: 'bad-answer', detail: '' }, 'unknown', false],
    [{ kind: 'aborted', detail: '' }, 'unknown', false],
  ];
  for (const [answer, kind, fault] of table) {
    it(`${JSON.stringify(answer)} is ${kind}${fault ? ', a fault of ours' : ''}`, () => {
      const read = readSubmitAnswer(answer);
      assert.equal(read.kind, kind);
      assert.equal(read.fault, fault);
    });
  }

  it('proposals: only a reason refuses', () => {
    assert.equal(readProposalAnswer(result(null)).kind, 'accepted');
    assert.equal(readProposalAnswer(result('bad-cb-amount')).kind, 'refused');
    assert.equal(readProposalAnswer(result('inconclusive-not-best-prevblk')).kind, 'inconclusive');
    assert.equal(readProposalAnswer(result({ height: 1 })).kind, 'unsupported');
    assert.equal(readProposalAnswer({ kind: 'timeout', detail: '' }).kind, 'inconclusive');
    assert.equal(readProposalAnswer({ kind: 'error', code: -22, message: '' }).kind, 'refused');
    assert.equal(
      readProposalAnswer({ kind: 'error', code: -32601, message: '' }).kind,
      'unsupported',
    );
  });
});

describe('a block', () => {
  it('goes to every node at once', () => {
    const block = createProgress(['a', 'b', 'c'], HEIGHT, 0);
    assert.deepEqual(
      nextActions(block, 0).map(({ kind, node }) => `${kind} ${node}`),
      ['submit a', 'submit b', 'submit c'],
    );
  });

  it('is not accepted by any answer, only by its header', () => {
    for (const kind of ['taken', 'known', 'side', 'unknown'] as const) {
      const block = createProgress(['a'], HEIGHT, 0);
      beginAction(block, { kind: 'submit', node: 'a', first: true }, 0, LIMITS);
      recordSubmit(block, 'a', verdict(kind), 1, LIMITS);
      assert.equal(block.state, 'submitted');
      assert.ok(nextActions(block, 1).some((action) => action.kind === 'look'));
      recordSight(block, 'a', main(1), 2, LIMITS);
      assert.equal(block.state, 'accepted');
    }
  });

  it('known to the node but not in its chain is sent again', () => {
    const block = createProgress(['a'], HEIGHT, 0);
    beginAction(block, { kind: 'submit', node: 'a', first: true }, 0, LIMITS);
    recordSubmit(block, 'a', verdict('taken'), 1, LIMITS);
    recordSight(block, 'a', absent, 2, LIMITS);
    assert.ok(nextActions(block, 100).some((action) => action.kind === 'submit'));
  });

  it('backs off from 50 ms to 5 s, but asks a dead port every 250 ms', () => {
    const block = createProgress(['a'], HEIGHT, 0);
    let nowMs = 0;
    const delays: number[] = [];
    for (let i = 0; i < 12; i++) {
      beginAction(block, { kind: 'submit', node: 'a', first: i === 0 }, nowMs, LIMITS);
      recordSubmit(block, 'a', verdict('retry'), nowMs, LIMITS);
      delays.push(block.nodes.get('a')!.submitDueAtMs! - nowMs);
      nowMs = block.nodes.get('a')!.submitDueAtMs!;
    }
    assert.deepEqual(delays.slice(0, 4), [50, 100, 200, 400]);
    assert.equal(delays.at(-1), 5000);
    recordSubmit(block, 'a', verdict('retry', { absent: true }), nowMs, LIMITS);
    assert.equal(block.nodes.get('a')!.submitDueAtMs! - nowMs, 250);
  });

  it('looks by another connection when submitblock hangs', () => {
    const block = createProgress(['a'], HEIGHT, 0);
    beginAction(block, { kind: 'submit', node: 'a', first: true }, 0, LIMITS);
    assert.equal(nextDueAtMs(block), LIMITS.hedgeMs);
    assert.deepEqual(nextActions(block, LIMITS.hedgeMs), [{ kind: 'look', node: 'a' }]);
    recordSight(block, 'a', main(1), 510, LIMITS);
    assert.equal(block.state, 'accepted');
    // The time-out that follows takes nothing back.
    recordSubmit(block, 'a', verdict('unknown'), 10_000, LIMITS);
    assert.equal(block.state, 'accepted');
    assert.equal(block.nodes.get('a')!.submitDueAtMs, null);
  });

  it('is orphaned only six deep, seen twice, on a synced node, and comes back', () => {
    const block = createProgress(['a'], HEIGHT, 0);
    recordSight(block, 'a', main(1), 0, LIMITS);
    recordSight(block, 'a', side, 1, LIMITS);
    assert.equal(block.state, 'side');
    const deep: Sight = { ...side, tipHeight: HEIGHT + 5 };
    recordSight(block, 'a', { ...deep, synced: false }, 2, LIMITS);
    recordSight(block, 'a', { ...deep, synced: false }, 3, LIMITS);
    assert.equal(block.state, 'side');
    recordSight(block, 'a', deep, 4, LIMITS);
    assert.equal(block.state, 'side');
    recordSight(block, 'a', deep, 5, LIMITS);
    assert.equal(block.state, 'orphaned');
    assert.equal(block.final, false);
    recordSight(block, 'a', main(8), 6, LIMITS);
    assert.equal(block.state, 'accepted');
    recordSight(block, 'a', { ...side, tipHeight: HEIGHT + 99 }, 7, LIMITS);
    recordSight(block, 'a', { ...side, tipHeight: HEIGHT + 99 }, 8, LIMITS);
    assert.equal(block.state, 'orphaned');
    assert.equal(block.final, true);
  });

  it('is confirmed a hundred deep and then left alone', () => {
    const block = createProgress(['a', 'b'], HEIGHT, 0);
    recordSight(block, 'a', main(99), 0, LIMITS);
    assert.equal(block.final, false);
    recordSight(block, 'a', main(100), 1, LIMITS);
    assert.equal(block.state, 'confirmed');
    assert.deepEqual(nextActions(block, 1e9), []);
  });

  it('is refused only when every node refuses it; another that takes it wins', () => {
    const block = createProgress(['a', 'b'], HEIGHT, 0);
    recordSubmit(
      block,
      'a',
      verdict('refused', { fault: true, detail: 'bad-cb-amount' }),
      0,
      LIMITS,
    );
    assert.equal(block.state, 'refused');
    assert.equal(block.detail, 'bad-cb-amount');
    // The node keeps the header of what it refused.
    recordSight(block, 'a', side, 1, LIMITS);
    assert.equal(block.state, 'refused');
    assert.equal(block.final, false);
    assert.ok(nextActions(block, 1).some(({ kind, node }) => kind === 'submit' && node === 'b'));
    const other = structuredClone(block);
    recordSubmit(block, 'b', verdict('taken'), 2, LIMITS);
    recordSight(block, 'b', main(1), 3, LIMITS);
    assert.equal(block.state, 'accepted');
    recordSubmit(other, 'b', verdict('refused'), 2, LIMITS);
    recordSight(other, 'b', absent, 3, LIMITS);
    assert.equal(other.state, 'refused');
    assert.equal(other.final, true);
  });

  it('asks the node to prefer it when it was first, once', () => {
    const block = createProgress(['a'], HEIGHT, 0);
    recordSight(block, 'a', { ...side, oursFirst: true }, 0, LIMITS);
    const precious = nextActions(block, 0).filter(({ kind }) => kind === 'precious');
    assert.equal(precious.length, 1);
    beginAction(block, precious[0]!, 0, LIMITS);
    recordSight(block, 'a', { ...side, oursFirst: true }, 1, LIMITS);
    assert.ok(nextActions(block, 1).every(({ kind }) => kind !== 'precious'));
  });

  it('believes the node with the longer chain', () => {
    const block = createProgress(['a', 'b'], HEIGHT, 0);
    recordSight(block, 'a', main(2), 0, LIMITS);
    recordSight(block, 'b', { ...side, tipHeight: HEIGHT + 2 }, 0, LIMITS);
    assert.equal(block.state, 'side');
    recordSight(block, 'a', main(4), 0, LIMITS);
    assert.equal(block.state, 'accepted');
  });

  it('is not called accepted when the nodes that had it have lost it, whatever they said last', () => {
    const block = createProgress(['a'], HEIGHT, 0);
    recordSubmit(block, 'a', verdict('retry'), 0, LIMITS);
    recordSight(block, 'a', main(1), 0, LIMITS);
    assert.equal(block.state, 'accepted');
    recordSight(block, 'a', absent, 1, LIMITS);
    assert.equal(block.state, 'submitted');
    assert.ok(nextActions(block, 1).some(({ kind }) => kind === 'submit'));
  });

  it('is never given up or left without a next step before it is final, whatever is said', () => {
    const sight = fc.oneof(
      fc.integer({ min: 1, max: 99 }).map(main),
      fc.record({
        kind: fc.constant('side' as const),
        tipHeight: fc.integer({ min: HEIGHT, max: HEIGHT + 90 }),
        synced: fc.boolean(),
        taken: fc.boolean(),
        oursFirst: fc.boolean(),
      }),
      fc.record({
        kind: fc.constant('absent' as const),
        tipHeight: fc.integer({ min: HEIGHT - 1, max: HEIGHT + 90 }),
        synced: fc.boolean(),
        taken: fc.boolean(),
      }),
      fc.constant({ kind: 'unknown' as const, detail: 'x' }),
    );
    const kinds = ['taken', 'known', 'side', 'retry', 'later', 'unknown', 'refused'] as const;
    const said = fc.record({
      verdict: fc.constantFrom(...kinds),
      absent: fc.boolean(),
      sight,
      stepMs: fc.integer({ min: 0, max: 6000 }),
    });
    fc.assert(
      fc.property(fc.array(said, { maxLength: 60 }), (list) => {
        const block = createProgress(['a', 'b'], HEIGHT, 0);
        let nowMs = 0;
        for (const { verdict: kind, absent: nobody, sight: place, stepMs } of list) {
          nowMs += stepMs;
          const actions = nextActions(block, nowMs);
          const keys = actions.map((action) => `${action.kind} ${action.node}`);
          assert.equal(new Set(keys).size, keys.length);
          for (const action of actions) {
            beginAction(block, action, nowMs, LIMITS);
            if (action.kind === 'submit') {
              recordSubmit(block, action.node, verdict(kind, { absent: nobody }), nowMs, LIMITS);
              if (kind !== 'refused')
                assert.notEqual(block.final && block.state === 'refused', true);
            } else if (action.kind === 'look')
              recordSight(block, action.node, place, nowMs, LIMITS);
          }
          if (block.final) {
            assert.equal(block.state, 'refused');
            for (const { verdict: last } of block.nodes.values()) assert.equal(last, 'refused');
            return;
          }
          const dueAtMs = nextDueAtMs(block);
          assert.ok(
            dueAtMs <= nowMs + LIMITS.deepLookMs,
            `nothing due before ${dueAtMs} at ${nowMs}`,
          );
          if (block.state === 'accepted') {
            assert.ok([...block.nodes.values()].some(({ sight: last }) => last?.kind === 'main'));
          }
        }
      }),
    );
  });
});
