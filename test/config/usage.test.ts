import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readCommand, separateSettings } from '../../src/config/command.ts';
import { SECTIONS, SETTINGS } from '../../src/config/settings.ts';
import {
  COMMANDS,
  EXIT_CODES,
  helpText,
  settingsPage,
  settingsText,
} from '../../src/config/usage.ts';

const root = join(import.meta.dirname, '..', '..');

test('docs/configuration.md is what the table says', () => {
  const page = readFileSync(join(root, 'docs', 'configuration.md'), 'utf8');
  assert.ok(page === settingsPage(), 'run: npm run check -- --write');
});

test('help names every command and exit code, and every setting stands in the list', () => {
  for (const name of COMMANDS.keys()) assert.match(helpText(), new RegExp(`^  ${name} `, 'm'));
  for (const code of EXIT_CODES.keys()) assert.match(helpText(), new RegExp(`^  ${code} `, 'm'));
  for (const { env } of Object.values(SETTINGS))
    assert.ok(settingsText().includes(`  ${env} `), env);
  for (const line of helpText().split('\n')) assert.ok(line.length <= 102, line);
  for (const name of SECTIONS.keys()) assert.ok(name in SETTINGS);
});

test('the command line up to the command', () => {
  assert.deepEqual(readCommand([], '1.2.3'), { kind: 'run', command: 'start', argv: [] });
  assert.deepEqual(readCommand(['--listen-port', '1'], '1'), {
    kind: 'run',
    command: 'start',
    argv: ['--listen-port', '1'],
  });
  assert.deepEqual(readCommand(['doctor', '--x'], '1'), {
    kind: 'run',
    command: 'doctor',
    argv: ['--x'],
  });
  assert.deepEqual(readCommand(['version'], '1.2.3'), { kind: 'print', text: '1.2.3\n' });
  assert.deepEqual(readCommand(['--version'], '1.2.3'), { kind: 'print', text: '1.2.3\n' });
  assert.equal(readCommand(['--help'], '1').kind, 'print');
  assert.equal(readCommand(['help', 'settings'], '1').kind, 'print');
  assert.equal(readCommand(['--help', '--version'], '1').kind, 'usage');
  assert.equal(readCommand(['help', 'nonsense'], '1').kind, 'usage');
  const unknown = readCommand(['\u001b[2Jx'], '1');
  assert.ok(unknown.kind === 'usage' && !/\u001b/.test(unknown.errors.join()));
  assert.deepEqual(readCommand(['stratumd', '--kafka-brokers', 'k'], '1'), {
    kind: 'run',
    command: 'stratumd',
    argv: ['--kafka-brokers', 'k'],
  });
  const later = readCommand(['coop'], '1');
  assert.ok(later.kind === 'usage' && /headframe start/.test(later.errors.join()));
});

test('commands about money get all that stands behind them, help included', () => {
  for (const command of ['ledger', 'payout', 'verify-round'] as const) {
    assert.deepEqual(readCommand([command, 'x', '--help'], '1'), {
      kind: 'run',
      command,
      argv: ['x', '--help'],
    });
  }
});

test('flags of settings are told from those of a command', () => {
  assert.deepEqual(
    separateSettings([
      'statement',
      '--config',
      'pool.yaml',
      'addr',
      '--network=regtest',
      '--csv',
      '--api-enabled',
      '--reason',
      'a b',
    ]),
    {
      settings: ['--config', 'pool.yaml', '--network=regtest', '--api-enabled'],
      words: ['statement', 'addr', '--csv', '--reason', 'a b'],
    },
  );
  assert.deepEqual(separateSettings(['audit', '--config']), {
    settings: ['--config'],
    words: ['audit'],
  });
});
