import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { ADMISSION_OPTIONS } from '../../../src/services/stratumd/admission.ts';
import { Client, eventually, openRig, PORT, type Rig, stopRigs } from './door-rig.ts';

const REQUEST = '{"id":1,"method":"mining.subscribe","params":[]}\n';
const ANSWER = '{"id":1,"result":true,"error":null}\n';
const PROXY_V1 = 'PROXY TCP4 203.0.113.7 192.0.2.1 50000 3333\r\n';
const PROXY_V2 = Buffer.from(
  '0d0a0d0a000d0a515549540a' + '21' + '11' + '000c' + 'cb007107' + 'c0000201' + 'c350' + '0d05',
  'hex',
);

after(stopRigs);

describe('one port, every transport', () => {
  let rig: Rig;
  before(async () => {
    rig = await openRig({ trustedProxies: ['127.0.0.0/8'] });
  });
  after(() => rig.stop());

  it('takes plain Stratum', async () => {
    const client = await Client.open(rig.port);
    client.send(REQUEST);
    assert.ok(await client.lines(1));
    assert.equal(client.text, ANSWER);
    client.destroy();
  });

  it('takes plain Stratum byte by byte', async () => {
    const client = await Client.open(rig.port);
    for (const byte of Buffer.from(REQUEST)) {
      client.send(Uint8Array.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.ok(await client.lines(1));
    assert.equal(client.text, ANSWER);
    client.destroy();
  });

  it('takes TLS', async () => {
    const client = await Client.open(rig.port, true);
    client.send(REQUEST);
    assert.ok(await client.lines(1));
    assert.equal(client.text, ANSWER);
    client.destroy();
  });

  for (const [name, header] of [
    ['v1', Buffer.from(PROXY_V1)],
    ['v2', PROXY_V2],
  ] as const) {
    it(`takes PROXY ${name} from a listed balancer, byte by byte, and knows the miner behind it`, async () => {
      const client = await Client.open(rig.port);
      for (const byte of header) {
        client.send(Uint8Array.of(byte));
        await new Promise((resolve) => setImmediate(resolve));
      }
      client.send(REQUEST);
      assert.ok(await client.lines(1));
      assert.equal(rig.gateway.sessions.at(-1)?.connection.remoteAddress, '203.0.113.7');
      client.destroy();
    });
  }

  it('takes TLS after PROXY', async () => {
    const { connect } = await import('node:net');
    const { connect: connectTls } = await import('node:tls');
    const raw = connect({ host: '127.0.0.1', port: rig.port });
    raw.write(PROXY_V1);
    const client = new Client(connectTls({ socket: raw, rejectUnauthorized: false }));
    client.send(REQUEST);
    assert.ok(await client.lines(1));
    assert.equal(client.text, ANSWER);
    assert.equal(rig.gateway.sessions.at(-1)?.connection.remoteAddress, '203.0.113.7');
    client.destroy();
  });

  it('answers a browser on the plain port and over TLS, and hangs up', async () => {
    for (const tls of [false, true]) {
      const client = await Client.open(rig.port, tls);
      client.send('GET / HTTP/1.1\r\nHost: pool\r\n\r\n');
      assert.equal(await client.ended, 'fin');
      assert.match(client.text, /^HTTP\/1\.1 200 OK\r\n[\s\S]*Stratum port/);
    }
    const head = await Client.open(rig.port);
    head.send('HEAD / HTTP/1.1\r\n\r\n');
    await head.ended;
    assert.match(head.text, /^HTTP\/1\.1 200 OK\r\n/);
    assert.doesNotMatch(head.text, /Stratum port/);
    const post = await Client.open(rig.port);
    post.send('POST /x HTTP/1.1\r\n\r\n');
    await post.ended;
    assert.match(post.text, /^HTTP\/1\.1 400 /);
  });
});

describe('what is refused', () => {
  it('drops a PROXY header from an address that is not listed', async () => {
    const rig = await openRig();
    const client = await Client.open(rig.port);
    client.send(PROXY_V1 + REQUEST);
    assert.equal(await client.ended, 'rst');
    assert.equal(client.text, '');
    assert.equal(rig.door.counters.spoofedProxies, 1);
    assert.equal(rig.gateway.sessions.length, 0);
    await rig.stop();
  });

  it('drops the wrong transport where a port takes only one', async () => {
    const rig = await openRig({
      ports: [
        { ...PORT, tls: 'only' },
        { ...PORT, tls: 'off' },
      ],
    });
    const plain = await Client.open(rig.door.ports[0]!);
    plain.send(REQUEST);
    assert.equal(await plain.ended, 'rst');
    const tls = await Client.open(rig.door.ports[1]!, true);
    await tls.ended;
    assert.equal(rig.door.counters.wrongTransport, 2);
    await rig.stop();
  });

  it('lets an address have so many connections and no more', async () => {
    const rig = await openRig({
      admission: { ...ADMISSION_OPTIONS, allowed: [], connectionsPerSourceMax: 3 },
    });
    const clients = [];
    for (let count = 0; count < 5; count++) clients.push(await Client.open(rig.port));
    assert.ok(await eventually(() => rig.door.counters.refused.source === 2));
    assert.ok(await eventually(() => rig.door.counters.connections === 3));
    for (const client of clients) client.destroy();
    assert.ok(await eventually(() => rig.door.counters.connections === 0));
    await rig.stop();
  });

  it('delays arrivals over the pace instead of refusing them', async () => {
    const rig = await openRig({
      admission: { ...ADMISSION_OPTIONS, arrivalsPerSecond: 100, arrivalBurst: 2 },
    });
    const clients = await Promise.all(Array.from({ length: 12 }, () => Client.open(rig.port)));
    for (const client of clients) client.send(REQUEST);
    for (const client of clients) assert.ok(await client.lines(1));
    assert.ok(rig.door.counters.delayed() >= 5);
    assert.equal(rig.door.counters.waiting, 0);
    for (const client of clients) client.destroy();
    await rig.stop();
  });

  it('bans an address after enough points, not one that has earned a share', async () => {
    const rig = await openRig({ admission: { ...ADMISSION_OPTIONS, allowed: [] } });
    const farm = await Client.open(rig.port);
    farm.send(REQUEST);
    await farm.lines(1);
    rig.gateway.sessions[0]!.proven = true;
    farm.send(REQUEST);
    await farm.lines(2);
    rig.door.blame('127.0.0.1', 1_000);
    assert.equal(rig.door.counters.bans(), 0);
    rig.door.blame('127.0.0.9', 1_000);
    assert.equal(rig.door.counters.bans(), 1);
    farm.destroy();
    assert.ok(await eventually(() => rig.door.counters.connections === 0));
    rig.door.blame('127.0.0.1', 1_000);
    assert.equal(rig.door.counters.bans(), 1);
    await rig.stop();
  });
});

describe('connections that misbehave', () => {
  it('destroys a reader that never reads, and keeps little for it', async () => {
    const rig = await openRig({ limits: { pendingBytesMax: 65_536 } });
    const client = await Client.open(rig.port);
    client.send(REQUEST);
    await client.lines(1);
    client.socket.pause();
    const connection = rig.gateway.sessions[0]!.connection;
    const notify = `${'x'.repeat(16_384)}\n`;
    for (let count = 0; count < 2_000 && rig.door.counters.slowReaders === 0; count++) {
      connection.write(notify);
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal(rig.door.counters.slowReaders, 1);
    assert.ok(await eventually(() => rig.gateway.closedCount === 1));
    client.destroy();
    await rig.stop();
  });

  it('closes only the connection whose line breaks the gateway', async () => {
    const rig = await openRig();
    const good = await Client.open(rig.port);
    good.send(REQUEST);
    await good.lines(1);
    const bad = await Client.open(rig.port);
    bad.send('{"id":1,"method":"test.throw"}\n');
    assert.equal(await bad.ended, 'rst');
    good.send(REQUEST);
    assert.ok(await good.lines(2));
    assert.equal(rig.door.counters.exceptions, 1);
    good.destroy();
    await rig.stop();
  });

  it('serves others between the lines of a flood, and parks a flood over its rate', async () => {
    const rig = await openRig({
      admission: { ...ADMISSION_OPTIONS, allowed: [] },
      limits: { lineBurst: 200, linesPerSecond: 2_000, linesPerTurn: 32 },
    });
    const flood = await Client.open(rig.port);
    const calm = await Client.open(rig.port);
    flood.send(REQUEST.repeat(1_000));
    calm.send('{"id":"calm"}\n');
    assert.ok(await calm.lines(1));
    assert.ok(rig.gateway.lines.indexOf('{"id":"calm"}') < 500);
    assert.ok(await flood.lines(1_000));
    assert.equal(flood.text.split('\n').length - 1, 1_000);
    flood.destroy();
    calm.destroy();
    await rig.stop();
  });

  it('ends a connection that says nothing, or begins a line and never ends it', async () => {
    const rig = await openRig({
      limits: { firstBytesTimeoutMs: 100, partialLineTimeoutMs: 100, handshakeTimeoutMs: 100 },
    });
    const silent = await Client.open(rig.port);
    const half = await Client.open(rig.port);
    half.send('{"id":');
    const hello = await Client.open(rig.port);
    hello.send(Uint8Array.of(0x16, 0x03, 0x01, 0x02));
    await Promise.all([silent.ended, half.ended, hello.ended]);
    assert.equal(rig.door.counters.timeouts, 3);
    assert.ok(await eventually(() => rig.door.counters.handshakesPending === 0));
    assert.ok(await eventually(() => rig.door.counters.connections === 0));
    await rig.stop();
  });
});

describe('the life of the door', () => {
  it('names port and setting when a port is taken', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const address = other.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    await assert.rejects(
      openRig({ ports: [PORT, { ...PORT, port }] }),
      new RegExp(`Stratum port ${port}.*in use.*LISTEN_PORT`),
    );
    await new Promise((resolve) => other.close(resolve));
  });

  it('drains: no new miners, good-bye said, every socket closed', async () => {
    const rig = await openRig();
    const client = await Client.open(rig.port);
    client.send(REQUEST);
    await client.lines(1);
    rig.door.drain();
    assert.equal(rig.gateway.drained, 1);
    const late = await Client.open(rig.port);
    assert.equal(late.text, '');
    rig.gateway.sessions[0]!.connection.write('last words\n');
    await rig.door.stop({ flushMs: 200 });
    await client.ended;
    assert.match(client.text, /last words\n$/);
    assert.equal(rig.door.counters.connections, 0);
    assert.equal(rig.gateway.closedCount, 1);
  });

  it('waits for held answers before it closes', async () => {
    const rig = await openRig();
    const client = await Client.open(rig.port);
    client.send(REQUEST);
    await client.lines(1);
    const session = rig.gateway.sessions[0]!;
    session.heldCount = 1;
    const stopped = rig.door.stop({ flushMs: 1_000 });
    setTimeout(() => {
      session.connection.write('the answer\n');
      session.heldCount = 0;
    }, 40);
    await stopped;
    await client.ended;
    assert.match(client.text, /the answer\n$/);
  });

  it('queues TLS handshakes above the limit and finishes all of them', async () => {
    const rig = await openRig({ limits: { handshakesMax: 2 } });
    const clients = await Promise.all(
      Array.from({ length: 12 }, () => Client.open(rig.port, true)),
    );
    for (const client of clients) client.send(REQUEST);
    for (const client of clients) assert.ok(await client.lines(1));
    assert.equal(rig.door.counters.tlsConnections, 12);
    assert.equal(rig.door.counters.handshakesPending, 0);
    for (const client of clients) client.destroy();
    await rig.stop();
  });
});
