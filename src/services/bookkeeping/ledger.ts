/**
 * `headframe ledger`: what the ledger says, as tables and exports, and the bookings an operator may make by hand.
 *
 * Refused: a change without a reason, money moved without a yes, anything about an address of another network.
 */

import { type Form, readRequest, usageLines } from './arguments.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';

const EXPORT = { csv: null, json: null } as const;

const FORMS: readonly Form[] = [
  {
    name: 'balances',
    words: [],
    options: { kind: 'KIND', pool: 'POOL', ...EXPORT },
    what: 'What every account has, and the sums per kind.',
  },
  {
    name: 'statement',
    words: ['ADDRESS'],
    options: { limit: 'COUNT', ...EXPORT },
    what: 'Every entry of an account, newest first.',
  },
  {
    name: 'rounds',
    words: [],
    options: { pool: 'POOL', limit: 'COUNT', ...EXPORT },
    what: 'Blocks and what they paid, newest first.',
  },
  {
    name: 'round',
    words: ['HASH|HEIGHT'],
    options: { ...EXPORT },
    what: 'One round with every credit in it.',
  },
  {
    name: 'audit',
    words: [],
    options: {},
    what: 'Checks the whole hash chain, every sum and every balance.',
  },
  {
    name: 'credit',
    words: ['ADDRESS', 'AMOUNT'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Books money of the operator to an address.',
  },
  {
    name: 'fund',
    words: ['POOL', 'AMOUNT'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Books money that the operator has put into the wallet: the reserve of a PPS pool, else the operator’s own.',
  },
  {
    name: 'set',
    words: ['ADDRESS'],
    options: {
      'fee-percent': 'PERCENT|default',
      'donation-percent': 'PERCENT',
      minimum: 'AMOUNT|default',
      hold: null,
      'no-hold': null,
      reason: 'TEXT',
    },
    needs: ['reason'],
    what: 'Settings of one account.',
  },
  {
    name: 'reverse',
    words: ['HASH'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Takes back what a block has credited, by counter-entries, after its maturity.',
  },
  {
    name: 'schemes',
    words: [],
    options: {},
    what: 'How every pool counts and pays, and since which share.',
  },
  {
    name: 'export-round',
    words: ['HASH|HEIGHT'],
    options: { file: 'FILE', shares: 'FILE' },
    needs: ['file'],
    what: 'Writes the published statement of a round and, if asked, its shares, for verify-round.',
  },
  {
    name: 'proof',
    words: ['HASH|HEIGHT', 'ADDRESS'],
    options: { file: 'FILE' },
    needs: ['file'],
    what: 'Writes the proof that an address stands in a round’s statement with what it was credited.',
  },
];

/** Runs `headframe ledger` with the words behind it. Never throws for what is expected. */
export async function runLedgerCommand(desk: Desk, argv: readonly string[]): Promise<ExitCode> {
  const answer = readRequest(FORMS, argv);
  if (answer.kind !== 'request') return explain(desk, answer);
  return EXIT.finding;
}

function explain(
  desk: Desk,
  answer: Exclude<ReturnType<typeof readRequest>, { kind: 'request' }>,
): ExitCode {
  const lines = usageLines('ledger', FORMS);
  if (answer.kind === 'help') {
    for (const line of lines) desk.print(line);
    return EXIT.done;
  }
  for (const line of [...answer.errors, 'Usage:', ...lines]) desk.complain(line);
  return EXIT.usage;
}
