/** The pure and small parts of the job manager: choice of node, job ids, outputs, empty template. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import type { CoinbasePlan } from '../../../src/core/ledger/plan.ts';
import { buildJob } from '../../../src/core/work/job.ts';
import type { CoinbasePool } from '../../../src/core/work/payout.ts';
import { decodeTemplate } from '../../../src/core/work/template.ts';
import {
  chooseNode,
  compareWork,
  findDisagreement,
  type NodeView,
} from '../../../src/services/jobmanager/choose.ts';
import { createJobIds } from '../../../src/services/jobmanager/job-ids.ts';
import { emptyTemplate, encodeProposalFronts } from '../../../src/services/jobmanager/proposal.ts';
import { fakeTransaction, startFakeNode } from '../../tools/fake-node.ts';
import { createJob } from '../stratumd/gateway-rig.ts';

function view(name: string, fields: Partial<NodeView> = {}): NodeView {
  return {
    name,
    health: 'ok',
    detail: '',
    bestHashDisplay: 'aa',
    blocks: 100,
    headers: 100,
    chainWork: 100n,
    avoidUntilMs: 0,
    ...fields,
  };
}

describe('choice of node', () => {
  it('takes the first of equals and keeps the current one', () => {
    assert.equal(chooseNode([view('a'), view('b')], null, 0), 'a');
    assert.equal(chooseNode([view('a'), view('b')], 'b', 0), 'b');
  });

  it('goes where more work is, by chain work before height', () => {
    const b = view('b', { chainWork: 101n, blocks: 99 });
    assert.equal(chooseNode([view('a'), b], 'a', 0), 'b');
    const unknown = view('c', { chainWork: null, blocks: 103 });
    assert.equal(chooseNode([view('a'), unknown], 'a', 0), 'c');
  });

  it('leaves out what is down, starting, syncing or on another network', () => {
    for (const health of ['unasked', 'down', 'starting', 'syncing', 'wrong-network'] as const) {
      const bad = view('a', { health, chainWork: 10_000n });
      assert.equal(chooseNode([bad, view('b')], 'a', 0), 'b');
      assert.equal(chooseNode([bad], 'a', 0), null);
    }
  });

  it('avoids a node only while there is another', () => {
    const bad = view('a', { avoidUntilMs: 50, chainWork: 200n });
    assert.equal(chooseNode([bad, view('b')], 'a', 10), 'b');
    assert.equal(chooseNode([bad, view('b')], 'b', 60), 'a');
    assert.equal(chooseNode([bad], null, 10), 'a');
  });

  it('never leaves a healthy node for one without more work', () => {
    const arbitrary = fc.record({
      blocks: fc.integer({ min: 0, max: 5 }),
      chainWork: fc.bigInt({ min: 0n, max: 5n }),
      health: fc.constantFrom('ok' as const, 'down' as const),
    });
    fc.assert(
      fc.property(fc.array(arbitrary, { minLength: 1, maxLength: 5 }), fc.nat(4), (all, pick) => {
        const views = all.map((fields, i) => view(`n${i}`, fields));
        const current = views[pick % views.length]!;
        const chosen = views.find(({ name }) => name === chooseNode(views, current.name, 0));
        if (chosen === undefined) assert.ok(views.every(({ health }) => health === 'down'));
        else {
          assert.equal(chosen.health, 'ok');
          if (current.health === 'ok' && chosen !== current)
            assert.ok(compareWork(chosen, current) > 0);
        }
      }),
    );
  });

  it('sees two nodes disagree', () => {
    assert.equal(findDisagreement([view('a'), view('b')]), null);
    const found = findDisagreement([
      view('a'),
      view('b', { bestHashDisplay: 'bb', chainWork: 103n }),
    ]);
    assert.equal(found?.ahead.name, 'b');
    assert.equal(
      findDisagreement([view('a'), view('b', { health: 'down', bestHashDisplay: 'c' })]),
      null,
    );
  });
});

describe('job ids', () => {
  it('never repeat, in one process or in many, and are short enough to be called again', () => {
    const seen = new Set<string>();
    const makers = Array.from({ length: 500 }, () => createJobIds());
    for (let turn = 0; turn < 20; turn++) {
      for (const ids of makers) {
        const id = ids.next();
        assert.match(id, /^[0-9a-f]{14}$/);
        seen.add(id);
      }
    }
    assert.equal(seen.size, 10_000);
  });

  it('draw anew before the count comes round', () => {
    const draws: number[] = [];
    const ids = createJobIds(() => Uint8Array.of(0, 0, 0, 0, draws.push(1)));
    const first = ids.next();
    for (let i = 1; i < 65_536; i++) ids.next();
    assert.equal(draws.length, 1);
    assert.deepEqual([first, ids.next()], ['00000000010000', '00000000020000']);
    assert.equal(draws.length, 2);
  });
});

const SOLO: CoinbasePool[] = [{ id: 'main', coinbase: { mode: 'solo', fee: null } }];

describe('proposal', () => {
  it('asks about one coinbase of each kind: that of a plan only where there is one', async () => {
    const job = createJob({ witnessCommitment: new Uint8Array(38).fill(4) });
    const entries = Array.from({ length: 30 }, (_, at) => ({
      address: `a${at}`,
      script: Uint8Array.of(0, 20, at, ...new Array<number>(19).fill(9)),
      weight: 1n,
      carrySats: 0n,
    }));
    const plan = {
      planId: '0123456789abcdef',
      pool: 'direct',
      lastSeq: 1n,
      totalWeight: 30n,
      entries,
      createdAtMs: 1,
    };
    const direct: CoinbasePool = { id: 'direct', coinbase: { mode: 'direct', fee: null } };
    const smaller: CoinbasePool = { id: 'smaller', coinbase: { mode: 'direct', fee: null } };
    const few = { ...plan, pool: 'smaller', entries: entries.slice(0, 3) };
    const sizes = (pools: readonly CoinbasePool[], plans: readonly CoinbasePlan[]) => {
      const encoded = encodeProposalFronts(job, { tag: 't', pools, plans });
      assert.ok(encoded.ok);
      return encoded.fronts.map((front) => front.length / 2);
    };
    const [plain] = sizes(SOLO, []);
    assert.deepEqual(sizes([...SOLO, direct], []), [plain]);
    assert.deepEqual(sizes([...SOLO, direct], [plan]), [plain, plain! + 29 * 31]);
    assert.deepEqual(sizes([smaller, ...SOLO, direct], [few, plan]), [plain, plain! + 29 * 31]);
    assert.deepEqual(sizes([direct], [plan]), [plain! + 29 * 31]);
  });

  it('builds the block front, and an empty template worth the subsidy', async () => {
    const node = await startFakeNode();
    node.transactions = [fakeTransaction(0, 10), fakeTransaction(1, 0)];
    const reply = await fetch(node.url, {
      method: 'POST',
      body: JSON.stringify({ id: 1, method: 'getblocktemplate', params: [{}] }),
    });
    const { result } = (await reply.json()) as { result: unknown };
    await node.stop();
    const decoded = decodeTemplate(result, 'regtest');
    assert.ok(decoded.ok);
    const options = { jobId: '0a', clean: true, createdAtMs: 1 };
    const front = encodeProposalFronts(buildJob(decoded.template, options), {
      tag: 't',
      pools: SOLO,
      plans: [],
    });
    assert.ok(front.ok);
    assert.equal(front.fronts[0]!.slice(160, 162), '03');
    const empty = emptyTemplate(decoded.template);
    assert.equal(empty.coinbaseValueSats, 5_000_000_000n);
    assert.equal(
      encodeHex(empty.witnessCommitment!),
      '6a24aa21a9ede2f61c3f71d1defd3fa999dfa36953755c690689799962b48bebd836974e8cf9',
    );
    const long = encodeProposalFronts(buildJob(decoded.template, options), {
      tag: 'x'.repeat(101),
      pools: SOLO,
      plans: [],
    });
    assert.equal(long.ok, false);
  });
});
