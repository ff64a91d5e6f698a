/** The systemd units: one per service, each with what it needs and nothing of others; checked by systemd itself where that is here. */
import assert from 'node:assert/strict';
import { globSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { SERVICES, type ServiceName } from '../../src/config/services.ts';
import { findProgram, readText, runProgram, settingNames, usesCache } from './files.ts';

const paths = globSync('deploy/systemd/*.service').sort();

/** `Key=value` lines of a unit, in their order. */
function readUnit(path: string): { section: string; key: string; value: string }[] {
  let section = '';
  return readText(path)
    .split('\n')
    .flatMap((line) => {
      if (line === '' || line.startsWith('#')) return [];
      const heading = /^\[(\w+)\]$/.exec(line);
      if (heading !== null) {
        section = heading[1]!;
        return [];
      }
      const match = /^([A-Za-z]+)=(.*)$/.exec(line);
      assert.ok(match !== null, `${path}: ${line}`);
      return [{ section, key: match[1]!, value: match[2]! }];
    });
}

test('there is one unit for each service', () => {
  const services = paths.map((path) => /headframe-([a-z]+)@?\.service$/.exec(path)![1]!);
  assert.deepEqual(services.sort(), Object.keys(SERVICES).sort());
});

for (const path of paths) {
  const service = /headframe-([a-z]+)@?\.service$/.exec(path)![1] as ServiceName;
  test(`${basename(path)} starts ${service} with what it needs, hardened, and part of the target`, () => {
    const unit = readUnit(path);
    const all = (key: string) => unit.filter((one) => one.key === key).map(({ value }) => value);
    assert.match(all('ExecStart')[0]!, new RegExp(`/src/main\\.ts ${service}$`));
    assert.deepEqual(all('PartOf'), ['headframe.target']);
    assert.deepEqual(all('WantedBy'), ['headframe.target']);
    assert.deepEqual(all('User'), ['headframe']);
    assert.deepEqual(all('RestartPreventExitStatus'), ['2 78']);
    for (const key of ['NoNewPrivileges', 'ProtectHome', 'PrivateTmp'])
      assert.deepEqual(all(key), ['yes'], key);
    assert.deepEqual(all('ProtectSystem'), ['strict']);
    const names = settingNames();
    for (const line of all('Environment'))
      assert.ok(names.has(line.split('=')[0]!), `${line} is no setting`);
    const files = all('EnvironmentFile').join(' ');
    const needs: readonly string[] = SERVICES[service].needs;
    const mayInflux = needs.includes('influx') || service === 'apiserver';
    assert.ok(files.includes('-/etc/headframe/kafka.env'), 'Kafka');
    assert.equal(files.includes('/node.env'), needs.includes('node'), 'the node');
    assert.equal(files.includes('/database.env'), needs.includes('database'), 'the database');
    assert.equal(files.includes('/influx.env'), mayInflux, 'InfluxDB');
    assert.equal(files.includes('/redis.env'), usesCache(service), 'Redis');
    // Its state folder is the only place that it may write to.
    const [state] = all('StateDirectory');
    assert.ok(all('Environment').includes(`DATA_DIR=/var/lib/${state}`), 'DATA_DIR');
  });
}

test('no two units that may stand on one machine share a private port', () => {
  const ports = paths
    .flatMap((path) => readUnit(path))
    .filter(({ key, value }) => key === 'Environment' && value.startsWith('METRICS_PORT='))
    .map(({ value }) => value);
  assert.equal(ports.length, Object.keys(SERVICES).length - 1, 'all but the gateway');
  assert.equal(new Set(ports).size, ports.length);
});

const systemd = findProgram('systemd-analyze', 'SYSTEMD_ANALYZE');
test(`systemd takes the units${systemd === null ? ' (systemd-analyze NOT FOUND)' : ''}`, (t) => {
  if (systemd === null) return;
  const folder = mkdtempSync(join(tmpdir(), 'headframe-units-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const names = ['headframe.target'];
  writeFileSync(join(folder, 'headframe.target'), readText('deploy/systemd/headframe.target'));
  for (const path of paths) {
    // A template is checked as one of its instances, and the program where it is on this machine.
    const name = basename(path).replace('@.', '@1.');
    const text = readText(path).replace(/^ExecStart=\S+/m, `ExecStart=${process.execPath}`);
    writeFileSync(join(folder, name), text);
    names.push(name);
  }
  const verified = runProgram(systemd, [
    'verify',
    '--man=no',
    ...names.map((name) => join(folder, name)),
  ]);
  assert.doesNotMatch(verified, /headframe/);
});
