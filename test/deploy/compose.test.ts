/** The compose files, by the structure that compose gives them, and by compose's own loader, which holds them against the Compose Specification. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { batchBytesMax } from '../../src/adapters/bus/kafka-topics.ts';
import { isServiceName, SERVICES } from '../../src/config/services.ts';
import { readConfig } from '../../src/config.ts';
import { TOPICS } from '../../src/messages/topics.ts';
import {
  type Json,
  readText,
  readYaml,
  root,
  runProgram,
  settingNames,
  usesCache,
} from './files.ts';
import { findTool, sayMissing } from './tools.ts';

const stack = readYaml(readText('deploy/compose.yaml'))[0]!;
const single = readYaml(readText('deploy/single.compose.yaml'))[0]!;
const files: Readonly<Record<string, Json>> = {
  'compose.yaml': stack,
  'single.compose.yaml': single,
};
const isOurs = (service: Json) => String(service.image).includes('HEADFRAME_IMAGE');

test('all seven services run, with two gateways, by commands that the design names', () => {
  const ours = Object.values(stack.services!).filter(isOurs);
  const commands = ours.map((service) => (service as Json).command!.join(' '));
  assert.deepEqual([...new Set(commands)].sort(), Object.keys(SERVICES).sort());
  assert.equal(commands.filter((command) => command === 'stratumd').length, 2);
  assert.deepEqual(single.services!.headframe!.command, ['start']);
});

for (const [name, file] of Object.entries(files)) {
  test(`${name}: every service has a pinned image, a health check, limits, a restart policy and no privileges`, () => {
    for (const [at, service] of Object.entries(file.services!) as [string, Json][]) {
      const { image } = service;
      assert.match(image!, /:[^:/]*\d/, `${at} has no version`);
      assert.doesNotMatch(image!, /:latest/, at);
      assert.ok(Array.isArray(service.healthcheck?.test), `${at} has no health check`);
      for (const field of ['interval', 'timeout', 'retries', 'start_period'])
        assert.ok(field in service.healthcheck!, `${at}: healthcheck.${field}`);
      assert.equal(service.restart, 'unless-stopped', at);
      for (const field of ['mem_limit', 'cpus', 'pids_limit', 'logging'])
        assert.ok(field in service, `${at}: ${field}`);
      assert.deepEqual(service.cap_drop, ['ALL'], at);
      assert.ok(service.security_opt!.includes('no-new-privileges:true'), at);
      assert.notEqual(service.privileged, true, at);
      assert.notEqual(service.network_mode, 'host', at);
      // Kafka writes its configuration into its image.
      if (at !== 'kafka') {
        assert.equal(service.read_only, true, `${at}: read_only`);
        assert.ok(
          service.tmpfs!.some((line: string) => line.startsWith('/tmp')),
          `${at}: /tmp`,
        );
      }
    }
  });

  test(`${name}: what is named is there: dependencies with a condition, networks, volumes, mounted files`, () => {
    for (const [at, service] of Object.entries(file.services!) as [string, Json][]) {
      for (const [on, how] of Object.entries(service.depends_on ?? {}) as [string, Json][]) {
        const target = file.services![on];
        assert.ok(target !== undefined, `${at} depends on ${on}`);
        assert.match(how.condition!, /^service_(healthy|started)$/, `${at} on ${on}`);
        if (target.profiles !== undefined)
          assert.equal(how.required, false, `${at} on ${on}, which may be left out`);
      }
      for (const network of service.networks ?? [])
        assert.ok(network in file.networks!, `${at}: network ${network}`);
      for (const volume of service.volumes ?? []) {
        const [source] = volume.split(':');
        if (source.startsWith('.'))
          assert.ok(existsSync(join(root, 'deploy', source)), `${at} mounts ${source}`);
        else assert.ok(source in file.volumes!, `${at}: volume ${source}`);
      }
    }
    for (const volume of Object.keys(file.volumes ?? {})) {
      const users = Object.values(file.services!).filter((service) =>
        (service as Json).volumes?.some((line: string) => line.startsWith(`${volume}:`)),
      );
      assert.equal(users.length, 1, `volume ${volume} belongs to one service`);
    }
  });

  test(`${name}: every name in the environment of our services is a setting`, () => {
    const names = settingNames();
    for (const [at, service] of Object.entries(file.services!) as [string, Json][]) {
      if (!isOurs(service)) continue;
      for (const variable of Object.keys(service.environment ?? {}))
        assert.ok(names.has(variable), `${at}: ${variable} is no setting`);
    }
  });
}

const loader = findTool('compose-go');
for (const name of Object.keys(files)) {
  test(`${name}: compose itself loads it${sayMissing(loader)}`, (t) => {
    if (loader.program === null) return;
    const { program } = loader;
    const folder = mkdtempSync(join(tmpdir(), 'headframe-compose-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    copyFileSync(join(root, 'deploy/headframe.env.example'), join(folder, 'headframe.env'));
    const text = interpolate(readText(`deploy/${name}`));
    const load = (given: string) => {
      writeFileSync(join(folder, name), given);
      return runProgram(program, ['-no-interpolation', '-format', 'json', name], folder);
    };
    const { services } = JSON.parse(load(text)) as Json;
    assert.deepEqual(Object.keys(services!).sort(), Object.keys(files[name]!.services!).sort());
    assert.throws(() => load(text.replace('stop_grace_period', 'stop_grace')), /stop_grace/);
  });
}

test('each gateway has a number and a disk of its own', () => {
  const gateways = Object.values(stack.services!).filter(
    (service) => (service as Json).command?.[0] === 'stratumd',
  ) as Json[];
  const numbers = gateways.map(({ environment }) => environment!.INSTANCE_ID);
  const disks = gateways.map(({ volumes }) =>
    volumes!.find((line: string) => /:\/data$/.test(line)),
  );
  assert.equal(new Set(numbers).size, gateways.length);
  assert.equal(new Set(disks).size, gateways.length);
  assert.ok(disks.every((disk) => disk !== undefined));
});

test('a gateway is not kept from miners by a store: it waits for none of them to be healthy', () => {
  for (const at of ['stratumd-1', 'stratumd-2']) {
    const conditions = Object.values(stack.services![at]!.depends_on ?? {}) as Json[];
    assert.ok(
      conditions.every(({ condition }) => condition === 'service_started'),
      at,
    );
  }
});

test('stores are reached by services alone: nothing published, one network, and that without a way out', () => {
  assert.equal(stack.networks!.stores!.internal, true);
  assert.equal(stack.networks!.watch!.internal, true);
  for (const at of ['kafka', 'postgres', 'redis', 'influxdb']) {
    assert.equal(stack.services![at]!.ports, undefined, at);
    assert.deepEqual(stack.services![at]!.networks, ['stores'], at);
  }
  // The private port of a service holds everything that the process knows.
  for (const service of [...Object.values(stack.services!), ...Object.values(single.services!)])
    for (const port of (service as Json).ports ?? []) assert.doesNotMatch(port, /:9090$/);
});

test('no password stands in a file: each comes from deploy/.env, and a missing one is named', () => {
  const text = readText('deploy/compose.yaml');
  for (const [, name] of text.matchAll(/\$\{([A-Z0-9_]*(?:PASSWORD|TOKEN))\b/g))
    assert.match(text, new RegExp(`\\$\\{${name}:\\?write it`), `${name} is required`);
  const examples = readText('deploy/env.example');
  for (const [, name] of text.matchAll(/\$\{([A-Z0-9_]+)(?::?[-?])/g))
    assert.ok(
      new RegExp(`^#?${name}=`, 'm').test(examples) || name === 'KAFKA_CLUSTER_ID',
      `${name} stands in env.example`,
    );
  for (const line of examples.split('\n'))
    if (/^[A-Z_]*(PASSWORD|TOKEN)=/.test(line)) assert.match(line, /=$/, 'examples hold no secret');
  assert.match(readText('deploy/.gitignore'), /^\/\.env$/m);
});

test('the broker takes the largest record that we publish', () => {
  const { environment } = stack.services!.kafka!;
  const largest = Math.max(...Object.values(TOPICS).map(batchBytesMax));
  for (const name of ['KAFKA_MESSAGE_MAX_BYTES', 'KAFKA_REPLICA_FETCH_MAX_BYTES'])
    assert.ok(Number(environment![name]) >= largest, `${name} is below ${largest}`);
  assert.equal(environment!.KAFKA_AUTO_CREATE_TOPICS_ENABLE, 'false');
});

test('each service is given what it needs, the program takes it, and no secret of others is in it', () => {
  const shared = Object.fromEntries(
    readText('deploy/headframe.env.example')
      .split('\n')
      .filter((line) => /^[A-Z]/.test(line))
      .map((line) => line.split(/=(.*)/s).slice(0, 2) as [string, string]),
  );
  const address = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';
  for (const [at, service] of Object.entries(stack.services!) as [string, Json][]) {
    if (!isOurs(service)) continue;
    const [name] = service.command! as unknown as string[];
    assert.ok(name !== undefined && isServiceName(name), at);
    const env = Object.fromEntries(
      Object.entries(service.environment!)
        // Without a value: as deploy/.env has it, or not at all.
        .filter(([, value]) => value !== null)
        .map(([key, value]) => [key, interpolate(String(value))]),
    );
    assert.equal(service.environment!.KAFKA_PASSWORD, null, at);
    const answer = readConfig({
      argv: [],
      env: {
        ...shared,
        PAYOUT_WALLET: 'pool',
        POOL_ADDRESS: address,
        ...env,
      },
      readFile: () => ({ kind: 'missing' }),
      service: name,
    });
    assert.ok(answer.ok, `${at}: ${answer.ok ? '' : answer.errors.join(' ')}`);
    assert.deepEqual(answer.warnings, [], at);
    if (name === 'payoutd') {
      // Where the runbook has `headframe ledger`, `payout` and `doctor` run.
      const tools = readConfig({
        argv: [],
        env: { ...shared, PAYOUT_WALLET: 'pool', POOL_ADDRESS: address, ...env },
        readFile: () => ({ kind: 'missing' }),
      });
      assert.ok(tools.ok, tools.ok ? '' : tools.errors.join(' '));
      assert.equal(tools.config.mode, 'node');
      assert.notEqual(tools.config.database.url, null);
    }
    const { needs }: { needs: readonly string[] } = SERVICES[name];
    assert.equal('DATABASE_URL' in env, needs.includes('database'), `${at}: the database`);
    assert.equal('BITCOIN_RPC_PASSWORD' in env, needs.includes('node'), `${at}: the node`);
    // The API reads from InfluxDB where there is one.
    const mayInflux = needs.includes('influx') || name === 'apiserver';
    assert.equal('INFLUX_TOKEN' in env, mayInflux, `${at}: InfluxDB`);
    if (usesCache(name)) assert.ok('REDIS_URL' in env, `${at} uses a cache: give it REDIS_URL`);
  }
});

/** `${NAME:-default}` and `${NAME:?reason}`, where every name without a default is "secret". */
function interpolate(text: string): string {
  let now = text;
  for (let before = ''; before !== now; ) {
    before = now;
    now = now.replace(
      /\$\{[A-Z0-9_]+(?::-([^${}]*)|:\?[^${}]*)?\}/g,
      (_, given) => given ?? 'secret',
    );
  }
  return now;
}
