/** PAYOUT_MODE=solo: the coinbase of a block pays the address of the miner who found it, with and without a fee for the pool. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { type Devnet, startDevnet } from '../../src/services/devnet/devnet.ts';
import {
  makeDataDir,
  type PoolProcess,
  removeData,
  startPoolProcess,
} from '../tools/pool-process.ts';
import { createSilentLog } from '../tools/silent-log.ts';
import { TestMiner } from '../tools/test-miner.ts';

type Output = { value: number; scriptPubKey: { hex: string } };

const p2wpkh = (fill: number): Uint8Array =>
  Uint8Array.of(0, 20, ...new Array<number>(20).fill(fill));
const p2tr = (hex: string): Uint8Array => Uint8Array.of(0x51, 32, ...Buffer.from(hex, 'hex'));
const scripts = {
  pool: p2wpkh(1),
  anna: p2wpkh(2),
  // An x coordinate that is on the curve: the first test vector of BIP341's wallet.
  bert: p2tr('53a1f6e454df1aa2776a2814a721372d6258050de330b3c6d10ee8f4e0dda343'),
};
const addressOf = (script: Uint8Array): string => encodeAddress(script, 'regtest')!;
const hexOf = (script: Uint8Array): string => Buffer.from(script).toString('hex');

describe('solo', () => {
  let node: Devnet;
  const dataDirs: string[] = [];
  const pools: PoolProcess[] = [];
  const miners: TestMiner[] = [];

  before(async () => {
    node = await startDevnet(
      { clock: { nowMs: () => Date.now() }, log: createSilentLog() },
      {
        rpcPort: 0,
        zmqPort: 0,
        user: 'pool',
        password: 'word',
        initialBlocks: 103,
        transactionsPerBlock: 5,
      },
    );
  });

  after(async () => {
    for (const miner of miners) miner.hangUp();
    for (const pool of pools) await pool.stop();
    await node?.stop();
    for (const dataDir of dataDirs) removeData(dataDir);
  });

  async function startSolo(env: Record<string, string>): Promise<PoolProcess> {
    const dataDir = makeDataDir();
    dataDirs.push(dataDir);
    const pool = await startPoolProcess(dataDir, {
      NETWORK: 'regtest',
      PAYOUT_MODE: 'solo',
      BITCOIN_RPC_URL: node.rpcUrl,
      BITCOIN_RPC_USER: 'pool',
      BITCOIN_RPC_PASSWORD: 'word',
      BITCOIN_ZMQ_ADDR: node.zmqAddress!,
      MIN_DIFFICULTY: '0.00001',
      INITIAL_DIFFICULTY: '0.00001',
      ...env,
    });
    pools.push(pool);
    return pool;
  }

  /** Lets this miner find a block and gives the outputs of its coinbase that pay something, in satoshis. */
  async function mineBlock(
    pool: PoolProcess,
    script: Uint8Array,
  ): Promise<{ paid: Map<string, bigint>; totalSats: bigint }> {
    const user = `${addressOf(script)}.rig`;
    const miner = await TestMiner.join({ port: pool.ports.stratum, user });
    miners.push(miner);
    const before = pool.logged('block is accepted').length;
    await miner.acceptedShare();
    await pool.until('a block', () => pool.logged('block is accepted').length > before);
    const { hash } = pool.logged('block is accepted').at(-1)!;
    const found = pool.logged('BLOCK FOUND').find((line) => line.hash === hash)!;
    assert.equal(found.account, addressOf(script));
    const block = (await node.call('getblock', [hash, 2])) as { tx: { vout: Output[] }[] };
    const outputs = block.tx[0]!.vout.map(({ value, scriptPubKey }) => ({
      sats: BigInt(Math.round(Number(String(value)) * 1e8)),
      hex: scriptPubKey.hex,
    })).filter(({ sats }) => sats > 0n);
    const totalSats = outputs.reduce((sum, { sats }) => sum + sats, 0n);
    assert.equal(totalSats, BigInt(String(found.rewardSats)), 'nothing is left unclaimed');
    miner.hangUp();
    return { paid: new Map(outputs.map(({ sats, hex }) => [hex, sats])), totalSats };
  }

  it('without POOL_ADDRESS the finder has it all', async () => {
    const pool = await startSolo({});
    for (const script of [scripts.anna, scripts.bert]) {
      const { paid, totalSats } = await mineBlock(pool, script);
      assert.deepEqual([...paid], [[hexOf(script), totalSats]]);
    }
    const page = await pool.page<{ payout: string; poolAddress: string | null }>('/api/v1/pool');
    assert.deepEqual([page.payout, page.poolAddress], ['solo', null]);
  });

  it('a fee goes to POOL_ADDRESS, the rest to the finder', async () => {
    const pool = await startSolo({
      POOL_ADDRESS: addressOf(scripts.pool),
      POOL_FEE_PERCENT: '2.5',
    });
    for (const script of [scripts.anna, scripts.bert]) {
      const { paid, totalSats } = await mineBlock(pool, script);
      const feeSats = (totalSats * 25_000n) / 1_000_000n;
      assert.equal(paid.size, 2);
      assert.equal(paid.get(hexOf(scripts.pool)), feeSats);
      assert.equal(paid.get(hexOf(script)), totalSats - feeSats);
    }
  });

  it('without an address there is no work to be had', async () => {
    const port = pools[0]!.ports.stratum;
    const miner = TestMiner.dial({ port, user: 'nobody' });
    miners.push(miner);
    await miner.call('mining.subscribe', ['test/1']);
    const answer = await miner.call('mining.authorize', ['just-a-name', 'x']);
    assert.equal((answer.error as [number])[0], 24);
    assert.equal(miner.job, null);
  });
});
