/**
 * The Helm chart: its values against their schema and our settings, and, where helm is on this machine (HELM is its path), what it
 * renders. `kubernetes-validate` holds that against the schemas of Kubernetes itself.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import packageJson from '../../package.json' with { type: 'json' };
import { SERVICES, type ServiceName } from '../../src/config/services.ts';
import { SETTINGS, type Setting } from '../../src/config/settings.ts';
import { readConfig } from '../../src/config.ts';
import {
  findProgram,
  type Json,
  knownMetrics,
  readText,
  readYaml,
  root,
  runProgram,
  settingNames,
  usesCache,
} from './files.ts';
import { findTool, sayMissing } from './tools.ts';

const CHART = 'deploy/helm/headframe';
const chart = readYaml(readText(`${CHART}/Chart.yaml`))[0]!;
const values = readYaml(readText(`${CHART}/values.yaml`))[0]!;
const schema = JSON.parse(readText(`${CHART}/values.schema.json`)) as Json;
const helpers = readText(`${CHART}/templates/_helpers.tpl`);
const needs = readYaml(/"headframe.needs" -\}\}\n([\s\S]*?)\{\{- end/.exec(helpers)![1]!)[0]!;

const GIVEN = {
  settings: {
    NETWORK: 'regtest',
    POOL_ADDRESS: 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
    PAYOUT_WALLET: 'pool',
    KAFKA_BROKERS: 'kafka:9092',
    BITCOIN_RPC_HOST: 'bitcoind',
    BITCOIN_RPC_USER: 'headframe',
    INFLUX_URL: 'http://influxdb:8181',
  },
  secrets: {
    values: {
      KAFKA_PASSWORD: '',
      DATABASE_URL: 'postgres://headframe:secret@postgres:5432/headframe',
      BITCOIN_RPC_PASSWORD: 'secret',
      REDIS_URL: 'redis://redis:6379/0',
      INFLUX_TOKEN: 'secret',
    },
  },
};
const ALL_ON = {
  ...GIVEN,
  settings: {
    ...GIVEN.settings,
    KAFKA_SASL_MECHANISM: 'SCRAM-SHA-512',
    KAFKA_USERNAME: 'headframe',
  },
  secrets: { values: { ...GIVEN.secrets.values, KAFKA_PASSWORD: 'secret' } },
  kafka: { tls: true, certificates: 'kafka-tls', clientCertificate: true },
  gateways: {
    extraPorts: [3334],
    firstInstance: 8,
    tls: { secretName: 'pool-tls' },
    autoscaling: { enabled: true },
    persistence: { size: '8Gi', storageClass: 'fast' },
  },
};

test('the chart is of this version of the program, and its image has no moving tag', () => {
  assert.equal(chart.appVersion, packageJson.version);
  assert.equal(values.image!.tag, '');
});

test('the schema knows exactly the values that there are', () => {
  assert.deepEqual(
    Object.keys(values).sort(),
    Object.keys(schema.properties!)
      .filter((name) => name !== 'global')
      .sort(),
  );
  assert.equal(schema.additionalProperties, false);
  for (const service of Object.keys(SERVICES))
    assert.ok((service === 'stratumd' ? 'gateways' : service) in values, service);
});

test('every setting that the chart names is one, and every secret setting is kept out of the plain ones', () => {
  const names = settingNames();
  for (const name of Object.keys(values.settings!)) assert.ok(names.has(name), name);
  const secret = Object.values(SETTINGS as Record<string, Setting<unknown>>)
    .filter((setting) => setting.secret === true)
    .map(({ env }) => env);
  assert.deepEqual(Object.keys(values.secrets!.values!).sort(), secret.sort());
  const kept = schema.properties!.settings!.propertyNames!.not!.enum as unknown as string[];
  for (const name of secret) assert.ok(kept.includes(name), `${name} may be written into settings`);
  for (const name of kept) assert.ok(names.has(name), name);
});

test('each service is given, and may reach, what it needs and nothing else', () => {
  assert.deepEqual(Object.keys(needs).sort(), Object.keys(SERVICES).sort());
  for (const [name, { needs: wanted }] of Object.entries(SERVICES) as [
    ServiceName,
    { needs: readonly string[] },
  ][]) {
    const given = new Set(needs[name] as unknown as string[]);
    const expected = new Set(['kafka', ...wanted.filter((need) => need !== 'pools')]);
    if (usesCache(name)) expected.add('redis');
    // The API reads from InfluxDB where there is one.
    if (name === 'apiserver') expected.add('influx');
    assert.deepEqual([...given].sort(), [...expected].sort(), name);
  }
});

const helm = findProgram('helm', 'HELM');
const missing = helm === null ? ' (helm NOT FOUND)' : '';

/** What helm makes of the chart. Throws what helm says. */
function render(given: object, more: readonly string[] = []): Json[] {
  const folder = mkdtempSync(join(tmpdir(), 'headframe-chart-'));
  try {
    const file = join(folder, 'values.yaml');
    writeFileSync(file, JSON.stringify(given));
    const text = runProgram(helm!, [
      ...['template', 'pool', join(root, CHART), '--namespace', 'mining'],
      ...['--kube-version', '1.34.0', '-f', file, ...more],
    ]);
    return readYaml(text).filter((one) => one !== null);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test(`helm lint is content${missing}`, () => {
  if (helm === null) return;
  const folder = mkdtempSync(join(tmpdir(), 'headframe-chart-'));
  try {
    const file = join(folder, 'values.yaml');
    writeFileSync(file, JSON.stringify(ALL_ON));
    assert.match(
      runProgram(helm, ['lint', '--strict', join(root, CHART), '-f', file]),
      / 0 chart\(s\) failed/,
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test(`what is missing or misspelt is refused in words${missing}`, () => {
  if (helm === null) return;
  const without = (name: string) => ({
    ...GIVEN,
    settings: Object.fromEntries(Object.entries(GIVEN.settings).filter(([key]) => key !== name)),
  });
  for (const name of ['KAFKA_BROKERS', 'BITCOIN_RPC_HOST', 'POOL_ADDRESS', 'INFLUX_URL'])
    assert.throws(() => render(without(name)), new RegExp(`settings\\.${name} is missing`));
  assert.throws(() => render({ settings: GIVEN.settings }), /DATABASE_URL is empty/);
  assert.throws(() => render(GIVEN, ['--set', 'gateways.replicass=3']), /replicass/);
  assert.throws(() => render(GIVEN, ['--set', 'image.tag=latest']), /image\/tag/);
  assert.throws(() => render(GIVEN, ['--set', 'settings.REDIS_URL=redis://r']), /REDIS_URL/);
  assert.throws(() => render(GIVEN, ['--set', 'gateways.firstInstance=255']), /more than 256/);
  assert.throws(() => render(GIVEN, ['--set', 'kafka.certificates=a']), /kafka.tls is false/);
  assert.throws(() => render(GIVEN, ['--set', 'blocksubmit.replicas=2']), /blocksubmit\/replicas/);
  assert.throws(() => render(GIVEN, ['--set', 'gateways.drainSeconds=31']), /terminationSeconds/);
});

for (const [what, given] of Object.entries({
  'as little as possible': GIVEN,
  'everything on': ALL_ON,
})) {
  test(`${what}: pods may do nothing that they need not${missing}`, () => {
    if (helm === null) return;
    const parts = render(given);
    const owners = parts.filter(({ kind }) => kind === 'Deployment' || kind === 'StatefulSet');
    assert.equal(owners.length, Object.keys(SERVICES).length);
    for (const { metadata, spec } of owners) {
      const at = metadata!.name! as string;
      const pod = spec!.template!.spec!;
      assert.equal(pod.automountServiceAccountToken, false, at);
      assert.equal(pod.securityContext!.runAsNonRoot, true, at);
      assert.equal(pod.securityContext!.runAsUser, 10_001, at);
      const [container] = pod.containers! as Json[];
      const security = container!.securityContext!;
      assert.equal(security.readOnlyRootFilesystem, true, at);
      assert.equal(security.allowPrivilegeEscalation, false, at);
      assert.deepEqual(security.capabilities!.drop, ['ALL'], at);
      assert.equal(container!.livenessProbe!.httpGet!.path, '/live', at);
      assert.equal(container!.readinessProbe!.httpGet!.path, '/ready', at);
      assert.ok(container!.resources!.limits!.memory !== undefined, at);
      const mounts = (container!.volumeMounts! as Json[]).map(({ mountPath }) => mountPath);
      assert.ok(mounts.includes('/data') && mounts.includes('/tmp'), at);
      // What is mounted is there.
      const volumes = new Set(
        [
          ...((pod.volumes ?? []) as Json[]),
          ...((spec!.volumeClaimTemplates ?? []) as Json[]).map((claim) => claim.metadata!),
        ].map(({ name }) => name),
      );
      for (const { name } of container!.volumeMounts! as Json[])
        assert.ok(volumes.has(name!), `${at}: ${name}`);
    }
  });

  test(`${what}: the program takes the environment of every pod${missing}`, () => {
    if (helm === null) return;
    const parts = render(given);
    const secret = parts.find(({ kind }) => kind === 'Secret')!.stringData! as unknown as Record<
      string,
      string
    >;
    for (const { kind, spec } of parts) {
      if (kind !== 'Deployment' && kind !== 'StatefulSet') continue;
      const [container] = spec!.template!.spec!.containers! as Json[];
      const [service] = container!.args! as unknown as ServiceName[];
      const env: Record<string, string> = {};
      for (const { name, value, valueFrom } of container!.env! as Json[]) {
        assert.ok(!(name! in env), `${service}: ${name} twice`);
        env[name!] =
          value ??
          (valueFrom!.secretKeyRef === undefined ? '7' : secret[valueFrom!.secretKeyRef.key!])!;
      }
      if (given === ALL_ON) {
        assert.equal(env.KAFKA_TLS_CA_FILE, '/kafka-tls/ca.crt', service);
        assert.equal(env.KAFKA_TLS_KEY_FILE, '/kafka-tls/tls.key', service);
      }
      const pem = Object.fromEntries(
        [
          'TLS_CERT_FILE',
          'TLS_KEY_FILE',
          'KAFKA_TLS_CA_FILE',
          'KAFKA_TLS_CERT_FILE',
          'KAFKA_TLS_KEY_FILE',
        ].map((name) => [name, undefined]),
      );
      const answer = readConfig({
        argv: [],
        env: { ...env, ...pem },
        readFile: () => ({ kind: 'missing' }),
        service: service!,
      });
      assert.ok(answer.ok, `${service}: ${answer.ok ? '' : answer.errors.join(' ')}`);
      assert.deepEqual(answer.warnings, [], service);
      if (given === ALL_ON)
        assert.deepEqual(answer.config.stack!.kafka.security, {
          tls: { caFile: null, client: null },
          sasl: { mechanism: 'SCRAM-SHA-512', username: 'headframe', password: 'secret' },
        });
      assert.equal(answer.config.metrics?.host, '0.0.0.0');
      if (service === 'stratumd') assert.equal(answer.config.instance.prefix, 7);
    }
  });

  test(`${what}: services, budgets, policies and scaling lead to pods that there are${missing}`, async () => {
    if (helm === null) return;
    const parts = render(given);
    const pods = parts
      .filter(({ kind }) => kind === 'Deployment' || kind === 'StatefulSet')
      .map(({ spec }) => spec!.template!);
    const fits = (selector: Json, labels: Json) =>
      Object.entries(selector).every(([name, value]) => labels[name] === value);
    const meant = (selector: Json) =>
      pods.filter(({ metadata }) => fits(selector, metadata!.labels!));
    const portNames = (pod: Json) =>
      new Set(
        (pod.spec!.containers! as Json[]).flatMap(({ ports }) =>
          (ports! as Json[]).map(({ name }) => name),
        ),
      );
    const covered = new Set<string>();
    for (const { kind, metadata, spec } of parts) {
      const at = `${kind} ${metadata!.name}`;
      if (kind === 'Service') {
        const chosen = meant(spec!.selector!);
        assert.equal(chosen.length, 1, at);
        for (const { targetPort } of spec!.ports! as Json[])
          assert.ok(portNames(chosen[0]!).has(targetPort!), at);
        if (spec!.type === 'LoadBalancer') assert.equal(spec!.externalTrafficPolicy, 'Local', at);
      }
      if (kind === 'PodDisruptionBudget')
        assert.equal(meant(spec!.selector!.matchLabels!).length, 1, at);
      if (kind === 'NetworkPolicy') {
        const chosen = meant(spec!.podSelector!.matchLabels!);
        if (metadata!.name === 'pool-nothing') assert.equal(chosen.length, pods.length, at);
        else {
          assert.equal(chosen.length, 1, at);
          covered.add(chosen[0]!.metadata!.labels!['app.kubernetes.io/component']!);
          for (const { ports } of spec!.ingress! as Json[])
            for (const { port } of ports! as Json[])
              assert.ok(portNames(chosen[0]!).has(port!), `${at}: ${port}`);
        }
      }
      if (kind === 'HorizontalPodAutoscaler') {
        const target = spec!.scaleTargetRef!;
        const owner = parts.find(
          (one) => one.kind === target.kind && one.metadata!.name === target.name,
        )!;
        assert.ok(!('replicas' in owner.spec!), 'the scaler alone says how many there are');
        const { names } = await knownMetrics();
        assert.ok(names.has(spec!.metrics![0]!.pods!.metric!.name!), at);
      }
    }
    assert.deepEqual([...covered].sort(), Object.keys(SERVICES).sort());
  });
}

test(`gateways keep their disks when they go, and begin to count where they are told${missing}`, () => {
  if (helm === null) return;
  const { spec } = render(ALL_ON).find(({ kind }) => kind === 'StatefulSet')!;
  assert.deepEqual(spec!.persistentVolumeClaimRetentionPolicy, {
    whenDeleted: 'Retain',
    whenScaled: 'Retain',
  });
  assert.equal(spec!.ordinals!.start, 8);
  assert.equal(spec!.volumeClaimTemplates![0]!.spec!.storageClassName, 'fast');
});

const validate = helm === null ? null : findTool('kubernetes-validate');
test(`Kubernetes' own schemas take all of it, unknown fields refused${missing}${sayMissing(validate)}`, (t) => {
  if (helm === null || validate?.program == null) return;
  const { program } = validate;
  const folder = mkdtempSync(join(tmpdir(), 'headframe-chart-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const given of [GIVEN, ALL_ON]) {
    const parts = render(given);
    const file = join(folder, 'rendered.yaml');
    writeFileSync(file, parts.map((part) => `---\n${JSON.stringify(part)}\n`).join(''));
    for (const version of ['1.28', '1.34', '1.37'])
      runProgram(program, ['--strict', '--quiet', '-k', version, file]);
    // It does refuse.
    const owner = parts.find(({ kind }) => kind === 'StatefulSet')!;
    writeFileSync(file, JSON.stringify({ ...owner, spec: { ...owner.spec, replicass: 2 } }));
    assert.throws(
      () => runProgram(program, ['--strict', '--quiet', '-k', '1.34', file]),
      /replicass/,
    );
  }
});
