import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Form, readRequest, usageLines } from '../../../src/services/bookkeeping/arguments.ts';
import { readWords } from '../../../src/services/bookkeeping/conduct.ts';
import { LEDGER_COMMAND } from '../../../src/services/bookkeeping/ledger.ts';
import { PAYOUT_COMMAND } from '../../../src/services/bookkeeping/payouts.ts';

const forms: Form[] = [
  { name: 'list', words: [], options: { csv: null }, what: 'Lists.' },
  {
    name: 'credit',
    words: ['ADDRESS', '[AMOUNT]'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Credits.',
  },
];

function errorsOf(...argv: string[]): string[] {
  const answer = readRequest(forms, argv);
  return answer.kind === 'usage' ? answer.errors : [answer.kind];
}

test('words and options in any order', () => {
  for (const argv of [
    ['credit', 'a', '1 BTC', '--reason', 'lost block', '--yes'],
    ['credit', '--yes', '--reason=lost block', 'a', '1 BTC'],
  ]) {
    assert.deepEqual(readRequest(forms, argv), {
      kind: 'request',
      request: {
        name: 'credit',
        words: ['a', '1 BTC'],
        options: new Map(
          argv[1] === 'a'
            ? [
                ['reason', 'lost block'],
                ['yes', ''],
              ]
            : [
                ['yes', ''],
                ['reason', 'lost block'],
              ],
        ),
      },
    });
  }
});

test('what is wrong is said, all of it', () => {
  assert.deepEqual(errorsOf(), ['what is to be done?']);
  assert.deepEqual(errorsOf('lst'), ['there is no "lst" here']);
  assert.deepEqual(errorsOf('list', 'x'), ['list "x" is not expected here']);
  assert.deepEqual(errorsOf('list', '--json'), ['list unknown option --json']);
  assert.deepEqual(errorsOf('list', '--csv=1'), ['list --csv takes no value']);
  assert.deepEqual(errorsOf('list', '--constructor'), ['list unknown option --constructor']);
  assert.deepEqual(errorsOf('list', '--__proto__=1'), ['list unknown option --__proto__']);
  assert.deepEqual(errorsOf('credit', '--yes', '--yes'), [
    'credit --yes is given twice',
    'credit ADDRESS is missing',
    'credit --reason is missing',
  ]);
  assert.deepEqual(errorsOf('credit', 'a', '--reason'), [
    'credit --reason needs a value: TEXT',
    'credit --reason is missing',
  ]);
  assert.deepEqual(errorsOf('credit', 'a', '--reason='), [
    'credit --reason needs a value: TEXT',
    'credit --reason is missing',
  ]);
  assert.deepEqual(errorsOf('credit', 'a', '--reason', '--yes'), [
    'credit --reason needs a value: TEXT',
    'credit --reason is missing',
  ]);
  assert.match(errorsOf('credit', 'a\u001b', '--reason', 'x').join(), /control characters/);
  assert.deepEqual(errorsOf('credit', 'a', '--help'), ['help']);
});

test('the usage names everything', () => {
  const text = usageLines('ledger', forms).join('\n');
  for (const part of ['headframe ledger list [--csv]', 'ADDRESS [AMOUNT] --reason TEXT [--yes]'])
    assert.ok(text.includes(part), text);
});

test('any words give an answer', () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.string(), fc.constantFrom('credit', '--reason', '--yes', '--', '-x'))),
      (argv) => {
        const answer = readRequest(forms, argv);
        if (answer.kind !== 'request') return;
        const { words, options, name } = answer.request;
        assert.ok(name === 'list' ? words.length === 0 : options.get('reason')!.length > 0);
      },
    ),
    { numRuns: 500 },
  );
});

const silent = { print() {}, complain() {} };

test('help and usage of the commands about money need no configuration', () => {
  for (const [command, name] of [
    [LEDGER_COMMAND, 'withdraw'],
    [PAYOUT_COMMAND, 'acknowledge'],
  ] as const) {
    for (const argv of [['--help'], ['-h'], [name, '--help'], ['no such thing', '--help']]) {
      const [out, faults]: [string[], string[]] = [[], []];
      const desk = {
        print: (line: string) => out.push(line),
        complain: (line: string) => faults.push(line),
      };
      assert.deepEqual(readWords(desk, command, argv), { ok: false, exitCode: 0 });
      assert.ok(out.some((line) => line.startsWith(`  headframe ${command.name} ${name} `)));
      assert.deepEqual(faults, []);
      assert.deepEqual(readWords(desk, command, ['no such thing']), { ok: false, exitCode: 2 });
      assert.ok(faults.length > 10);
    }
    const words = name === 'withdraw' ? ['1 BTC', '--txid', 'x'] : ['x'];
    const read = readWords(silent, command, [name, ...words, '--reason', 'y']);
    assert.ok(read.ok && read.value.name === name);
  }
});
