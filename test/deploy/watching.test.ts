/** Alerts and dashboards: every metric and label in them is one that the program makes, and every alert leads to a section of the runbook. */
import assert from 'node:assert/strict';
import { globSync } from 'node:fs';
import { test } from 'node:test';
import { anchorsOf, type Json, knownMetrics, namesInQuery, readText, readYaml } from './files.ts';

const alerts = (readYaml(readText('deploy/prometheus/alerts.yaml'))[0]!.groups as Json[]).flatMap(
  (group) => group.rules as Json[],
);
const dashboards = globSync('deploy/grafana/dashboards/*.json').map((path) => ({
  path,
  board: JSON.parse(readText(path)) as Json,
}));
const known = await knownMetrics();

function assertKnown(query: string, where: string): void {
  const { metrics, labels } = namesInQuery(query);
  assert.ok(metrics.length > 0, `${where} asks for nothing: ${query}`);
  for (const metric of metrics)
    assert.ok(known.names.has(metric), `${where}: nothing makes ${metric}`);
  for (const label of labels) assert.ok(known.labels.has(label), `${where}: no label ${label}`);
}

test('a query is taken apart as it is meant', () => {
  assert.deepEqual(
    namesInQuery(
      'sum by (instance, reason) (rate(a_total{kind=~"x|y", job!="z"}[5m])) / on (node) (b offset 10m > 0) and c unless d',
    ),
    { metrics: ['a_total', 'b', 'c', 'd'], labels: ['kind', 'job', 'instance', 'reason', 'node'] },
  );
  assert.ok(!known.names.has('headframe_journal_unshiped_bytes'));
  assert.ok(known.names.has('nodejs_eventloop_lag_p99_seconds'));
  assert.ok(known.names.has('headframe_payout_halted'));
});

test('alerts ask for what there is, say how bad it is, and where to read on', () => {
  const anchors = anchorsOf(readText('docs/runbook.md'));
  const names = new Set<string>();
  for (const rule of alerts) {
    assert.match(rule.alert!, /^[A-Z][A-Za-z]+$/);
    assert.ok(!names.has(rule.alert!), `${rule.alert} is there twice`);
    names.add(rule.alert!);
    assertKnown(rule.expr!, rule.alert!);
    assert.ok(['page', 'ticket'].includes(rule.labels!.severity!), rule.alert!);
    assert.ok((rule.annotations!.summary! as string).length > 10, rule.alert!);
    const [page, anchor] = (rule.annotations!.runbook! as string).split('#');
    assert.equal(page, 'docs/runbook.md');
    assert.ok(anchors.has(anchor!), `${rule.alert}: the runbook has no section ${anchor}`);
  }
});

test('what docs/operating.md tells to watch has an alert', () => {
  const watched = new Set(alerts.flatMap(({ expr }) => namesInQuery(expr!).metrics));
  const table = readText('docs/operating.md').split('## What to watch')[1]!.split('\n## ')[0]!;
  for (const [, name] of table.matchAll(/^\| `([a-z0-9_]+)/gm))
    assert.ok(watched.has(name!), `no alert looks at ${name}`);
});

test('Prometheus scrapes every service of the compose file', () => {
  const config = readYaml(readText('deploy/prometheus/prometheus.yaml'))[0]!;
  const stack = readYaml(readText('deploy/compose.yaml'))[0]!;
  const job = (config.scrape_configs as Json[]).find((one) => one.job_name === 'headframe')!;
  const targets = (job.static_configs as Json[]).flatMap(
    (one) => one.targets as unknown as string[],
  );
  const ours = Object.entries(stack.services!)
    .filter(([, service]) => String((service as Json).image).includes('HEADFRAME_IMAGE'))
    .map(([name]) => `${name}:9090`);
  assert.deepEqual([...targets].sort(), ours.sort());
  for (const file of config.rule_files as unknown as string[])
    assert.ok(readText(`deploy/prometheus/${file}`).length > 0);
});

test('dashboards: whole, without two of the same id, over the provisioned data source, of metrics that there are', () => {
  const source = readYaml(readText('deploy/grafana/provisioning/datasources/prometheus.yaml'))[0]!;
  const uid = source.datasources![0]!.uid;
  assert.deepEqual(dashboards.map(({ board }) => board.uid).sort(), [
    'headframe-blocks',
    'headframe-gateways',
    'headframe-money',
    'headframe-pool',
    'headframe-services',
  ]);
  for (const { path, board } of dashboards) {
    assert.ok(Number(board.schemaVersion) >= 39 && board.title!.length > 0, path);
    const panels = board.panels as Json[];
    assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length, `${path}: ids`);
    const taken = new Set<string>();
    for (const panel of panels) {
      const where = `${path}: ${panel.title}`;
      const { x, y, w, h } = panel.gridPos as unknown as Record<'x' | 'y' | 'w' | 'h', number>;
      assert.ok(x >= 0 && x + w <= 24, `${where} sticks out`);
      for (let column = x; column < x + w; column++)
        for (let line = y; line < y + h; line++) {
          assert.ok(!taken.has(`${column} ${line}`), `${where} lies on another panel`);
          taken.add(`${column} ${line}`);
        }
      if (panel.type === 'row') continue;
      assert.match(panel.type!, /^(timeseries|stat|bargauge|table)$/, where);
      assert.equal(panel.datasource!.uid, uid, where);
      const targets = panel.targets as Json[];
      assert.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length, where);
      for (const target of targets) {
        assertKnown(target.expr!, where);
        for (const [, label] of (target.legendFormat! as string).matchAll(/\{\{(\w+)\}\}/g))
          assert.ok(known.labels.has(label!), `${where}: no label ${label}`);
      }
    }
    for (const note of board.annotations!.list as Json[])
      if ('expr' in note) assertKnown(note.expr!, `${path}: ${note.name}`);
  }
});
