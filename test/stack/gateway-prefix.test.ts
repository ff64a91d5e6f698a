/**
 * Where a gateway has its number from: INSTANCE_ID, the database, its own file when the database is away; and what it says when it
 * cannot have one, or has lost it.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import { takeGatewayPrefix } from '../../src/stack/gateway-prefix.ts';
import type { Frame, ServiceConfig } from '../../src/stack/serve.ts';
import { createMemoryLog, until } from '../tools/waiting.ts';

const DAY_MS = 86_400_000;

/** As much of a frame as this needs; `end` stops what runs in the background. */
function createFrame(nowMs = 1_800_000_000_000) {
  const ending = new AbortController();
  const stops: (() => Promise<void> | void)[] = [];
  const log = createMemoryLog();
  const failures: string[] = [];
  const waits: string[] = [];
  const frame = {
    clock: { nowMs: () => nowMs },
    log,
    ending: ending.signal,
    keep: (_: string, stop: () => Promise<void> | void) => void stops.push(stop),
    fail: (reason: string) => void failures.push(reason),
    async until<T>(what: string, attempt: () => Promise<T>) {
      waits.push(what);
      return attempt();
    },
  } as unknown as Frame;
  return {
    frame,
    log,
    failures,
    waits,
    async end() {
      ending.abort();
      for (const stop of stops) await stop();
    },
  };
}

describe('the number of a gateway', () => {
  let directory = '';
  let server: Awaited<ReturnType<typeof startEmbeddedPostgres>>;
  let url = '';
  let folders = 0;

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'headframe-prefix-'));
    server = await startEmbeddedPostgres({
      dataDir: join(directory, 'db'),
      log: createMemoryLog(),
    });
    const { socketDirectory, port, user, database } = server.connection;
    url = `postgresql://${user}@localhost:${port}/${database}?host=${encodeURIComponent(socketDirectory)}`;
  });
  after(async () => {
    await server?.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  function configOf(given: { instance?: number; url?: string | null; dataDir?: string } = {}) {
    const dataDir = given.dataDir ?? mkdtempSync(join(directory, `gateway-${folders++}-`));
    const { instance } = given;
    return {
      dataDir,
      serviceName: 'stratumd',
      instance: {
        gateway: instance === undefined ? 'stratumd' : `stratumd-${instance}`,
        prefix: instance ?? 0,
        prefixBits: instance === undefined ? 0 : 8,
      },
      database: { url: given.url === undefined ? url : given.url, directory: dataDir },
    } as unknown as ServiceConfig;
  }

  it('comes from the database, another one for each, and names the gateway', async () => {
    const [one, two] = [createFrame(), createFrame()];
    assert.deepEqual(await takeGatewayPrefix(one.frame, configOf()), {
      prefix: 0,
      name: 'stratumd-0',
    });
    assert.deepEqual(await takeGatewayPrefix(two.frame, configOf()), {
      prefix: 1,
      name: 'stratumd-1',
    });
    await one.end();
    await two.end();
  });

  it('is kept: the next start needs no database, until the lease may have been lost', async () => {
    const config = configOf();
    const first = createFrame();
    const had = await takeGatewayPrefix(first.frame, config);
    await first.end();
    const away = configOf({ dataDir: config.dataDir, url: 'postgresql://nobody@127.0.0.1:1/none' });
    const next = createFrame(1_800_000_000_000 + 20 * DAY_MS);
    assert.deepEqual(await takeGatewayPrefix(next.frame, away), had);
    assert.deepEqual(next.waits, []);
    await next.end();
    const late = createFrame(1_800_000_000_000 + 26 * DAY_MS);
    await assert.rejects(takeGatewayPrefix(late.frame, away), /ECONNREFUSED/);
    assert.equal(late.waits.length, 1);
    await late.end();
  });

  it('INSTANCE_ID needs no database, and is said to be in use when it is', async () => {
    const alone = createFrame();
    const config = configOf({ instance: 77, url: null });
    assert.deepEqual(await takeGatewayPrefix(alone.frame, config), {
      prefix: 77,
      name: 'stratumd-77',
    });
    await alone.end();

    const [first, second] = [createFrame(), createFrame()];
    await takeGatewayPrefix(first.frame, configOf({ instance: 78 }));
    const db = await connectPostgres({ connectionString: url, log: first.log });
    let rows: unknown[] = [];
    const look = setInterval(() => {
      db.query('SELECT FROM gateway_leases WHERE prefix = 78').then(
        (found) => {
          rows = found;
        },
        () => {},
      );
    }, 20);
    await until('the number noted', () => rows.length === 1);
    clearInterval(look);
    await takeGatewayPrefix(second.frame, configOf({ instance: 78 }));
    await until('the complaint', () => second.log.text().includes('also the number of another'));
    await first.end();
    await second.end();
    await db.stop();
  });

  it('without both it says what to set', async () => {
    const { frame, end } = createFrame();
    await assert.rejects(takeGatewayPrefix(frame, configOf({ url: null })), /set INSTANCE_ID/);
    await end();
  });

  it('a number that was given to another ends the gateway, and the next start takes a new one', async () => {
    const config = configOf();
    const first = createFrame();
    const had = await takeGatewayPrefix(first.frame, config);
    await first.end();
    const db = await connectPostgres({ connectionString: url, log: first.log });
    await db.query(
      "UPDATE gateway_leases SET identity = gen_random_uuid(), name = 'other' WHERE prefix = $1",
      [had.prefix],
    );
    await db.stop();
    const second = createFrame();
    await takeGatewayPrefix(second.frame, config);
    await until('the end', () => second.failures.length === 1);
    assert.match(second.failures[0]!, /was given to other/);
    await second.end();
    const third = createFrame();
    const got = await takeGatewayPrefix(third.frame, config);
    assert.notEqual(got.prefix, had.prefix);
    await third.end();
  });

  it('a damaged file is not guessed at', async () => {
    const config = configOf();
    const { frame, end } = createFrame();
    await takeGatewayPrefix(frame, config);
    const path = join(config.dataDir, 'gateway.lease');
    for (const text of ['', 'nonsense', readFileSync(path, 'utf8').replace(/ \d+ /, ' 256 ')]) {
      writeFileSync(path, text);
      await assert.rejects(takeGatewayPrefix(frame, config), /is damaged/);
    }
    await end();
  });
});
