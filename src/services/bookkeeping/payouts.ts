/**
 * `headframe payout`: what would be paid, what was, and how payouts are stopped, started and signed elsewhere.
 *
 * Refused: a change without a reason, money moved without a yes. Nothing here sends a transaction: that is the pool's work.
 */

import { type Form, readRequest, usageLines } from './arguments.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';

const FORMS: readonly Form[] = [
  {
    name: 'plan',
    words: [],
    options: { json: null, csv: null },
    what: 'Who would be paid now, and who not and why. Changes nothing.',
  },
  {
    name: 'run',
    words: [],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Asks the running pool to pay now instead of at the next time of the schedule.',
  },
  {
    name: 'hold',
    words: ['[ADDRESS]'],
    options: { reason: 'TEXT' },
    needs: ['reason'],
    what: 'Stops all payouts, or those to one address. Mining goes on.',
  },
  {
    name: 'release',
    words: ['[ADDRESS]'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Lets payouts go on.',
  },
  {
    name: 'list',
    words: [],
    options: { limit: 'COUNT', json: null, csv: null },
    what: 'Batches, newest first.',
  },
  {
    name: 'show',
    words: ['BATCH'],
    options: { json: null, csv: null },
    what: 'One batch with its payments, transactions and history.',
  },
  {
    name: 'export',
    words: ['BATCH'],
    options: { file: 'FILE' },
    needs: ['file'],
    what: 'Writes the unsigned transaction (PSBT) of a batch for signing elsewhere.',
  },
  {
    name: 'import',
    words: ['BATCH'],
    options: { file: 'FILE', reason: 'TEXT', yes: null },
    needs: ['file', 'reason'],
    what: 'Takes the signed one back; the pool checks and sends it.',
  },
  {
    name: 'acknowledge',
    words: ['TXID'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Names a spend from the wallet that is the operator’s own and no payout.',
  },
];

/** Runs `headframe payout` with the words behind it. Never throws for what is expected. */
export async function runPayoutCommand(desk: Desk, argv: readonly string[]): Promise<ExitCode> {
  const answer = readRequest(FORMS, argv);
  if (answer.kind === 'request') return EXIT.finding;
  const lines = usageLines('payout', FORMS);
  if (answer.kind === 'help') {
    for (const line of lines) desk.print(line);
    return EXIT.done;
  }
  for (const line of [...answer.errors, 'Usage:', ...lines]) desk.complain(line);
  return EXIT.usage;
}
