/**
 * `headframe verify-round`: recomputes a published round from its export, without pool, database or network, and says where it does not
 * agree.
 */

import { type Form, readRequest, usageLines } from './arguments.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';

const FORMS: readonly Form[] = [
  {
    name: '',
    words: ['FILE'],
    options: { shares: 'FILE', proof: 'FILE' },
    what: 'FILE is what "headframe ledger export-round" wrote. With --shares the window is counted again share by share; with --proof an account’s place in the statement is checked.',
  },
];

/** Runs `headframe verify-round` with the words behind it. Needs no database. Never throws for what is expected. */
export async function runVerifyRound(
  desk: Pick<Desk, 'print' | 'complain'>,
  argv: readonly string[],
): Promise<ExitCode> {
  const answer = readRequest(FORMS, argv);
  if (answer.kind === 'request') return EXIT.finding;
  const lines = usageLines('verify-round', FORMS);
  if (answer.kind === 'help') {
    for (const line of lines) desk.print(line);
    return EXIT.done;
  }
  for (const line of [...answer.errors, 'Usage:', ...lines]) desk.complain(line);
  return EXIT.usage;
}
