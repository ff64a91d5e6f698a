/** The runbook: every command in it exists with the options it is given, every service, setting, metric and section that it names too. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { COMMANDS } from '../../src/config/usage.ts';
import { runLedgerCommand } from '../../src/services/bookkeeping/ledger.ts';
import { runPayoutCommand } from '../../src/services/bookkeeping/payouts.ts';
import { anchorsOf, knownMetrics, readText, readYaml, root, settingNames } from './files.ts';

const page = readText('docs/runbook.md');
const compose = readYaml(readText('deploy/compose.yaml'))[0]!;

/** Subcommand → its usage on one line. */
async function usageOf(run: typeof runLedgerCommand): Promise<Map<string, string>> {
  let text = '';
  const desk = { print: (line: string) => (text += `${line}\n`) };
  await run(desk as never, ['--help']);
  const found = new Map<string, string>();
  for (const [, name, rest] of text.matchAll(/^ {2}headframe \w+ ([\w-]+)((?:.*\n {6}\[.*)*.*)$/gm))
    found.set(name!, rest!);
  return found;
}

test('every headframe command exists, with its options and what it cannot do without', async () => {
  const usages = {
    ledger: await usageOf(runLedgerCommand),
    payout: await usageOf(runPayoutCommand),
  };
  assert.ok(usages.ledger.size > 10 && usages.payout.size > 8);
  let count = 0;
  // In the database's container the program is called by its service, `docker compose run payoutd ledger audit`.
  const calls = page.matchAll(/\b(?:headframe|run --rm payoutd) ([a-z][a-z-]*)(?: ([^`\n]*))?/g);
  for (const [call, command, rest = ''] of calls) {
    if (/^(deploy|containers?)$/.test(command!)) continue;
    if (!COMMANDS.has(command!)) {
      // Prose, such as the name of a lock.
      assert.match(call, /^headframe (ledger lock|-)/, call);
      continue;
    }
    count += 1;
    if (command !== 'ledger' && command !== 'payout') continue;
    if (/^lock\b/.test(rest)) continue;
    const [name, ...words] = rest.split(/\s+/);
    const usage = usages[command].get(name!);
    assert.ok(usage !== undefined, `headframe ${command} ${name}`);
    for (const word of words)
      if (/^--[a-z-]+$/.test(word))
        assert.match(usage, new RegExp(`${word}(?![a-z-])`), `${call}: ${word}`);
    // Bare mentions such as `headframe ledger reverse HASH` in prose stand without; commands to type have their reason.
    const isNeeded = / --reason TEXT(?! *\])/.test(usage) && !usage.includes('[--reason');
    if (isNeeded && /"|AMOUNT|TXID/.test(rest)) assert.match(rest, /--reason/, call);
  }
  assert.ok(count > 30, `${count} commands were found`);
});

test('links within the page, alerts and files lead somewhere', () => {
  const anchors = anchorsOf(page);
  for (const [, anchor] of page.matchAll(/\]\(#([^)]+)\)/g))
    assert.ok(anchors.has(anchor!), `#${anchor}`);
  for (const [path] of page.matchAll(/\bdeploy\/[\w./-]+\w/g)) {
    if (path === 'deploy/.env' || path === 'deploy/headframe.env' || path === 'deploy/pool-payoutd')
      continue;
    assert.ok(existsSync(join(root, path)), path);
  }
  const alerts = readText('deploy/prometheus/alerts.yaml');
  const unit = readText('deploy/systemd/headframe-stratumd@.service');
  for (const [, name] of page.matchAll(/`([A-Z][a-z]+[A-Z][A-Za-z]+)`/g))
    if (!unit.includes(`\n${name}=`)) assert.ok(alerts.includes(`alert: ${name}`), `alert ${name}`);
});

test('services and volumes of compose are called by their names', () => {
  for (const [line, verb, rest] of page.matchAll(
    /docker compose (up -d|stop|start|exec|logs|run|kill)\b([^`\n]*)/g,
  )) {
    const words = rest!.replace(/ {2,}.*$/, '').split(/\s+/);
    const named = words.filter((word) => /^[a-z]+(-\d)?$/.test(word) && !/^(sh|then)$/.test(word));
    const [first] = named.filter((word) => word !== 'ship' && word !== 'd');
    if (verb === 'up -d' && first === undefined) continue;
    assert.ok(first !== undefined && first in compose.services!, `${line}: ${first}`);
    if (verb === 'up -d')
      for (const word of named) assert.ok(word in compose.services!, `${line}: ${word}`);
  }
});

test('settings and metrics are such', async () => {
  const { names } = await knownMetrics();
  for (const [name] of page.matchAll(/\b(?:headframe|stratum|nodejs)_[a-z0-9_]+/g))
    assert.ok(names.has(name), `nothing makes ${name}`);
  const settings = settingNames();
  const others = readText('deploy/env.example');
  for (const [name] of page.matchAll(/\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b/g))
    assert.ok(settings.has(name) || others.includes(name), `${name} is no setting`);
});
