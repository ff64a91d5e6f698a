/**
 * Whoever ends a process gives it the time that it takes at most (`DRAIN_MS_MAX`) and some to spare, in every way of deploying it; and the
 * runbook says the same numbers.
 */
import assert from 'node:assert/strict';
import { globSync } from 'node:fs';
import { test } from 'node:test';
import { DRAIN_MS_MAX } from '../../src/compose.ts';
import { type Json, readText, readYaml } from './files.ts';

const LIMIT_SECONDS = Math.ceil(DRAIN_MS_MAX / 1_000);
/** For a machine that is busy, and for what ends around the process. */
const SPARE_SECONDS = 5;
const NEEDED_SECONDS = LIMIT_SECONDS + SPARE_SECONDS;

const runbook = readText('docs/runbook.md');
const section = /## Ending a process\n([\s\S]*?)\n## /.exec(runbook)?.[1] ?? '';
/** Seconds by who ends it and what: `| compose | `stop_grace_period` | 20 | 30 |`. */
const documented = new Map(
  Array.from(section.matchAll(/^\| ([^|]+) \| `(\w+)` \| (\d+) \| (\d+) \|$/gm), (line) => [
    line[2]!,
    { others: Number(line[3]), gateways: Number(line[4]) },
  ]),
);

/** All of the others take one number, all gateways another. */
function check(
  setting: string,
  found: { isGateway: boolean; at: string; seconds: number }[],
): void {
  const told = documented.get(setting);
  assert.ok(told !== undefined, `docs/runbook.md says nothing of ${setting}`);
  assert.ok(found.some(({ isGateway }) => isGateway) && found.some(({ isGateway }) => !isGateway));
  for (const { isGateway, at, seconds } of found) {
    assert.equal(seconds, isGateway ? told.gateways : told.others, `${at}: ${setting}`);
    assert.ok(seconds >= NEEDED_SECONDS, `${at}: ${seconds} s, and it takes ${LIMIT_SECONDS} s`);
  }
}

test('the runbook says how long a process takes at most', () => {
  assert.match(section, new RegExp(`\\b${LIMIT_SECONDS} s\\b`));
  assert.deepEqual(
    [...documented.keys()],
    ['stop_grace_period', 'TimeoutStopSec', 'terminationGracePeriodSeconds'],
  );
});

test('compose waits for as long', () => {
  const found = ['compose.yaml', 'single.compose.yaml'].flatMap((name) =>
    Object.entries(readYaml(readText(`deploy/${name}`))[0]!.services! as Record<string, Json>)
      .filter(([, { image }]) => String(image).includes('HEADFRAME_IMAGE'))
      .map(([at, service]) => ({
        at,
        isGateway: /^(stratumd|start)$/.test(String(service.command)),
        seconds: Number(/^(\d+)s$/.exec(String(service.stop_grace_period))?.[1]),
      })),
  );
  assert.equal(found.length, 9);
  check('stop_grace_period', found);
});

test('systemd waits for as long', () => {
  const found = globSync('deploy/systemd/*.service').map((at) => ({
    at,
    isGateway: at.includes('stratumd'),
    seconds: Number(/^TimeoutStopSec=(\d+)$/m.exec(readText(at))?.[1]),
  }));
  assert.equal(found.length, 7);
  check('TimeoutStopSec', found);
});

test('Kubernetes waits for as long, beside what a pod waits before it is told', () => {
  const services = readText('deploy/helm/headframe/templates/services.yaml');
  const gateways = readYaml(readText('deploy/helm/headframe/values.yaml'))[0]!.gateways!;
  const seconds = Number(/terminationGracePeriodSeconds: (\d+)/.exec(services)?.[1]);
  const waits = Number(/command: \[sleep, "(\d+)"\]/.exec(services)?.[1]);
  assert.ok(seconds - waits >= NEEDED_SECONDS, `${seconds} s less ${waits} s`);
  const own = Number(gateways.terminationSeconds);
  assert.ok(own - Number(gateways.drainSeconds) >= NEEDED_SECONDS);
  check('terminationGracePeriodSeconds', [
    { at: 'services', isGateway: false, seconds },
    { at: 'gateways', isGateway: true, seconds: own },
  ]);
  // A chart whose values leave less does not render.
  const refusal = /lt \(\$g\.terminationSeconds \| int\) \(add \$g\.drainSeconds (\d+) \| int\)/;
  const spare = refusal.exec(readText('deploy/helm/headframe/templates/gateways.yaml'));
  assert.equal(Number(spare?.[1]), NEEDED_SECONDS);
});
