/**
 * The acceptance test of a pool: Bitcoin Core on regtest, our program with only the node's address and where to pay, and cpuminer, a
 * client we did not write, over plain TCP and over TLS. Every block must be taken by the node and pay the right script.
 *
 * Core is `BITCOIND` or `bitcoind` in the PATH, cpuminer is `MINERD` or `minerd`. What is not found is said, and our own development
 * chain and miner take its place. `E2E_BLOCKS` is how many blocks each way (5).
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { type Miner, startMiner } from '../../src/services/miner/miner.ts';
import {
  freePorts,
  type LogLine,
  makeDataDir,
  PoolProcess,
  removeData,
  settingsOf,
} from '../tools/pool-process.ts';
import {
  endChild,
  findProgram,
  type RegtestNode,
  startRegtestNode,
} from '../tools/regtest-node.ts';
import { createSilentLog } from '../tools/silent-log.ts';

const BLOCKS = Number(process.env.E2E_BLOCKS ?? 5);
/** A second for each, and a start on a machine that does other things. */
const MINE_MS_MAX = 30_000 + BLOCKS * 4_000;
const POOL_ADDRESS = encodeAddress(
  Uint8Array.of(0, 20, ...new Array<number>(20).fill(7)),
  'regtest',
)!;
const WORKER_ADDRESS = encodeAddress(
  Uint8Array.of(0, 20, ...new Array<number>(20).fill(9)),
  'regtest',
)!;
const clock = { nowMs: () => Date.now() };

const core = findProgram('BITCOIND', 'bitcoind');
const minerd = findProgram('MINERD', 'minerd');
const CORE_MISSING = core === null ? ' (bitcoind NOT FOUND, BITCOIND is its path: devnet)' : '';
const MINERD_MISSING = minerd === null ? ' (minerd NOT FOUND, MINERD is its path: our miner)' : '';

describe(`mining on a node with a client we did not write${CORE_MISSING}${MINERD_MISSING}`, () => {
  let node: RegtestNode;
  let pool: PoolProcess;
  let dataDir = '';

  before(async () => {
    if (CORE_MISSING !== '' || MINERD_MISSING !== '')
      console.log(`core-cpuminer.test.ts:${CORE_MISSING}${MINERD_MISSING}`);
    node = await startRegtestNode(core);
    dataDir = makeDataDir();
    const ports = await freePorts();
    // Beside what the acceptance names, only where this test's data and ports are.
    pool = new PoolProcess(
      ['start'],
      {
        ...node.settings,
        POOL_ADDRESS,
        ...settingsOf(dataDir, ports),
        // Our own miner is slower than cpuminer: four million hashes for a block is too long to wait.
        ...(minerd === null ? { MIN_DIFFICULTY: '0.0001' } : {}),
      },
      ports,
    );
    await pool.until(
      'a pool with work',
      () => pool.logged('miners are welcome').length > 0,
      60_000,
    );
  });

  after(async () => {
    await pool?.stop();
    await node?.stop();
    if (dataDir !== '') removeData(dataDir);
  });

  for (const transport of ['plain TCP', 'TLS'] as const) {
    it(`${BLOCKS} blocks over ${transport}${minerd === null ? ' (minerd NOT FOUND)' : ''}`, async () => {
      const from = Number(await node.call('getblockcount'));
      const before = pool.logged('BLOCK FOUND').length;
      const client = startClient(transport, pool.ports.stratum, dataDir);
      try {
        await pool.until(
          `${BLOCKS} blocks over ${transport}`,
          () => acceptedOf(pool.logged('BLOCK FOUND').slice(before)).length >= BLOCKS,
          MINE_MS_MAX,
        );
      } catch (error) {
        throw new Error(`${(error as Error).message}\n${client.text()}`);
      } finally {
        await client.stop();
      }
      // Two blocks of one height within milliseconds are both ours: the node keeps the second beside its chain.
      await pool.until('an outcome for each block', () =>
        pool
          .logged('BLOCK FOUND')
          .slice(before)
          .every(({ hash }) => outcomeOf(hash) !== null),
      );
      const ours = pool.logged('BLOCK FOUND').slice(before);
      const accepted = acceptedOf(ours);
      for (const { hash, height } of ours) {
        if (outcomeOf(hash) === 'accepted') continue;
        assert.equal(outcomeOf(hash), 'side');
        assert.ok(accepted.some((line) => line.height === height));
      }
      const to = Number(await node.call('getblockcount'));
      assert.equal(to - from, accepted.length, 'all in a row, and nobody else mined');
      for (let height = from + 1; height <= to; height++) {
        const hash = await node.call('getblockhash', [height]);
        const block = (await node.call('getblock', [hash, 2])) as {
          tx: { vout: { value: number; scriptPubKey: { hex: string } }[] }[];
        };
        assert.equal(accepted.find((line) => line.hash === hash)?.height, height);
        const paid = block.tx[0]!.vout.filter(({ value }) => Number(value) > 0);
        assert.equal(paid.length, 1);
        assert.equal(paid[0]!.scriptPubKey.hex, `0014${'07'.repeat(20)}`, 'pays POOL_ADDRESS');
      }
      const { blocks } = await pool.untilPage<{ blocks: { hashDisplay: string; state: string }[] }>(
        '/api/v1/blocks?limit=500',
        (page) => ours.every(({ hash }) => page.blocks.some((block) => block.hashDisplay === hash)),
      );
      for (const { hash } of accepted) {
        const block = blocks.find(({ hashDisplay }) => hashDisplay === hash);
        assert.match(block!.state, /^(found|submitted|accepted|confirmed)$/);
      }
    });
  }

  /** What became of a block, from the log; null while it is not known. */
  function outcomeOf(hash: unknown): string | null {
    const line = pool.log.find(
      (one) => one.hash === hash && /^block is /.test(one.message) && one.state !== 'submitted',
    );
    return line === undefined ? null : String(line.state);
  }

  function acceptedOf(found: readonly LogLine[]): readonly LogLine[] {
    return found.filter(({ hash }) => outcomeOf(hash) === 'accepted');
  }

  it('nothing went wrong on the way', () => {
    assert.deepEqual(
      pool.log.filter((line) => line.level === 'error'),
      [],
    );
    assert.equal(pool.log.filter((line) => line.state === 'refused').length, 0);
  });
});

type Client = { text(): string; stop(): Promise<void> };

/** cpuminer, or our own miner where there is none. */
function startClient(transport: 'plain TCP' | 'TLS', port: number, dataDir: string): Client {
  const user = `${WORKER_ADDRESS}.cpu`;
  const certificate = join(dataDir, 'regtest', 'tls', 'stratum-cert.pem');
  if (transport === 'TLS') {
    assert.ok(existsSync(certificate), `the pool made ${certificate}`);
    assert.match(readFileSync(certificate, 'utf8'), /BEGIN CERTIFICATE/);
  }
  if (minerd === null) return startOwnMiner(transport, port, user);
  const url = `stratum+tcp${transport === 'TLS' ? 's' : ''}://127.0.0.1:${port}`;
  const trust = transport === 'TLS' ? ['--cert', certificate] : [];
  const child = spawn(
    minerd,
    ['-a', 'sha256d', '-o', url, '-u', user, '-p', 'x', '-t', '1', '-R', '1', ...trust],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let text = '';
  const take = (bytes: Buffer) => {
    text = (text + bytes.toString('utf8')).slice(-4000);
  };
  child.stdout.on('data', take);
  child.stderr.on('data', take);
  return { text: () => text, stop: () => endChild(child, 1_000) };
}

function startOwnMiner(transport: 'plain TCP' | 'TLS', port: number, user: string): Client {
  const miner: Miner = startMiner(
    { clock, log: createSilentLog() },
    {
      host: '127.0.0.1',
      port,
      tls: transport === 'TLS' ? 'insecure' : 'off',
      user,
      password: 'x',
      threads: 1,
    },
  );
  return { text: () => JSON.stringify(miner.stats()), stop: () => miner.stop() };
}
