/**
 * One port of a running pool and everything that may knock on it: miners over plain TCP, over TLS, behind a PROXY protocol balancer (v1
 * and v2), a browser, a scanner; a second port with its own rules; a whole Stratum session by hand; and thousands who come and go.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { PROXY_V2_SIGNATURE } from '../../src/core/stratum/sniff.ts';
import {
  freePort,
  makeDataDir,
  type PoolProcess,
  removeData,
  startPoolProcess,
} from '../tools/pool-process.ts';
import { TestMiner } from '../tools/test-miner.ts';

const ADDRESS = encodeAddress(Uint8Array.of(0, 20, ...new Array<number>(20).fill(8)), 'regtest')!;
const VISITORS = 2_000;
const VISITORS_AT_ONCE = 250;

describe('one port', () => {
  let dataDir = '';
  let pool: PoolProcess;
  let tlsPort = 0;
  const miners: TestMiner[] = [];

  before(async () => {
    dataDir = makeDataDir();
    tlsPort = await freePort();
    pool = await startPoolProcess(dataDir, {
      DEV_BLOCK_TIME: '1s',
      PROXY_TRUSTED: '127.0.0.1',
      LISTEN_PORTS: `${tlsPort};difficulty=0.00003;min=0.00003;tls=only`,
    });
    await pool.until('work', () => pool.logged('new block to mine on').length > 0);
  });

  after(async () => {
    for (const miner of miners) miner.hangUp();
    await pool?.stop();
    removeData(dataDir);
  });

  const certificate = (): string =>
    readFileSync(join(dataDir, 'devnet', 'tls', 'stratum-cert.pem'), 'utf8');

  /** A miner that comes in like this, and whose share is taken. */
  async function mineOnce(name: string, how: Partial<Parameters<typeof TestMiner.join>[0]>) {
    const user = `${ADDRESS}.${name}`;
    const miner = await TestMiner.join({ port: pool.ports.stratum, user, ...how });
    miners.push(miner);
    await miner.acceptedShare();
    return miner;
  }

  /** Says something on a raw connection and gives all that comes back until it is closed. */
  function say(bytes: string | Uint8Array): Promise<string> {
    return new Promise((resolve) => {
      const socket = connect({ port: pool.ports.stratum, host: '127.0.0.1' });
      let heard = '';
      socket.on('error', () => {});
      socket.on('data', (data) => {
        heard += data.toString('latin1');
      });
      socket.on('close', () => resolve(heard));
      socket.write(bytes);
    });
  }

  it('takes plain Stratum, TLS, and TLS by our certificate alone', async () => {
    await mineOnce('plain', {});
    await mineOnce('tls', { tls: true });
    await mineOnce('pinned', { tls: { ca: certificate() } });
    assert.equal(await pool.metric('headframe_tls_connections_total'), 2);
  });

  it('takes PROXY v1 and v2 from a listed balancer, in front of plain and of TLS', async () => {
    const text = 'PROXY TCP4 192.0.2.7 192.0.2.1 51000 3333\r\n';
    await mineOnce('proxy1', { before: Buffer.from(text) });
    const header = Uint8Array.of(
      ...PROXY_V2_SIGNATURE,
      0x21, // version 2, PROXY
      0x21, // TCP over IPv6
      0,
      36,
      ...Buffer.from('20010db8000000000000000000000007', 'hex'),
      ...Buffer.from('20010db8000000000000000000000001', 'hex'),
      0xc7,
      0x38,
      0x0d,
      0x05,
    );
    await mineOnce('proxy2', { before: header });
    assert.equal(await pool.metric('headframe_proxied_total'), 2);
    assert.equal(await say('PROXY TCP4 999.0.2.7 nonsense\r\n'), '', 'a broken header');
  });

  it('answers a browser politely and a scanner not at all', async () => {
    const page = await say('GET / HTTP/1.1\r\nHost: pool\r\n\r\n');
    assert.match(page, /^HTTP\/1\.1 200 OK\r\n/);
    assert.match(page, new RegExp(`stratum\\+tcp://.*:${pool.ports.stratum}`));
    assert.equal(await say('SSH-2.0-OpenSSH_9.6\r\n'), '');
  });

  it('has a second port with a difficulty of its own, for TLS only', async () => {
    const miner = await mineOnce('second', { port: tlsPort, tls: true, suggestedDifficulty: 0 });
    assert.equal(miner.job!.difficulty, 0.00003);
    const first = await mineOnce('first', {});
    assert.ok(first.job!.difficulty < 0.00003, `${first.job!.difficulty}`);
    await assert.rejects(TestMiner.join({ port: tlsPort, user: `${ADDRESS}.x` }), /closed/);
  });

  it('holds a whole Stratum session by hand', async () => {
    const miner = TestMiner.dial({ port: pool.ports.stratum, user: `${ADDRESS}.hand` });
    miners.push(miner);
    const configured = await miner.call('mining.configure', [
      ['version-rolling', 'minimum-difficulty'],
      {
        'version-rolling.mask': 'ffffffff',
        'version-rolling.min-bit-count': 2,
        'minimum-difficulty.value': 0.00001,
      },
    ]);
    assert.deepEqual(configured.result, {
      'version-rolling': true,
      'version-rolling.mask': '1fffe000',
      'minimum-difficulty': true,
    });
    const subscribed = await miner.call('mining.subscribe', ['by-hand/1.0']);
    const [, extranonce1, extranonce2Bytes] = subscribed.result as [unknown, string, number];
    assert.match(extranonce1, /^[0-9a-f]{8}$/);
    assert.equal(extranonce2Bytes, 8);
    const early = await miner.call('mining.submit', [
      `${ADDRESS}.hand`,
      'abc',
      '00'.repeat(8),
      '5f000000',
      '00000000',
    ]);
    assert.notEqual(early.error, null, 'not authorized yet');
    const authorized = await miner.call('mining.authorize', [`${ADDRESS}.hand`, 'x']);
    assert.equal(authorized.result, true);
    await pool.until('a job', () => miner.lines.some((line) => line.includes('mining.notify')));
    const unknown = await miner.call('mining.submit', [
      `${ADDRESS}.hand`,
      'abcdef',
      '00'.repeat(8),
      '5f000000',
      '00000000',
    ]);
    assert.deepEqual(
      [(unknown.error as [number])[0], (unknown.error as unknown[]).length],
      [21, 3],
      'an unknown job',
    );
    assert.equal((await miner.call('mining.ping', [])).result, 'pong');
    const foreign = await miner.call('mining.dance', []);
    assert.ok(foreign.error !== null);
    const stranger = await miner.call('mining.authorize', [
      '1BoatSLRHtKNngkdXEeobR76b53LETtpyT',
      '',
    ]);
    assert.equal((stranger.error as [number])[0], 24, 'an address of another network');
  });

  it(`forgets ${VISITORS} clients who come and go`, async () => {
    for (const miner of miners) miner.hangUp();
    const opened = await pool.metric('stratum_total_connections');
    for (let visited = 0; visited < VISITORS; visited += VISITORS_AT_ONCE) {
      const wave = await Promise.all(
        Array.from({ length: VISITORS_AT_ONCE }, (_, i) =>
          TestMiner.join({
            port: pool.ports.stratum,
            // A hundred names in all: who comes again is the same worker.
            user: `${ADDRESS}.visitor${(visited + i) % 100}`,
          }),
        ),
      );
      // Half say nothing more, half leave in the middle of a line.
      for (const [i, miner] of wave.entries()) {
        if (i % 2 === 0) miner.send('{"id":9,"method":"mining.sub');
        miner.hangUp();
      }
    }
    const { sessions } = await pool.untilPage<{ sessions: number }>(
      '/api/v1/pool',
      (page) => page.sessions === 1,
    );
    assert.equal(sessions, 1, 'the demo miner alone');
    assert.equal(await pool.metric('headframe_connections'), 1);
    assert.equal((await pool.metric('stratum_total_connections')) - opened, VISITORS);
    const { total } = await pool.page<{ total: number }>('/api/v1/workers');
    assert.ok(total <= 100 + 10, `${total} workers`);
    await mineOnce('last', {});
    assert.deepEqual(
      pool.log.filter(({ level }) => level === 'error'),
      [],
    );
  });
});
