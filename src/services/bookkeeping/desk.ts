/**
 * What the operator's commands about money are handed, and how they end. Types and numbers only.
 */

import type { Network } from '../../core/bitcoin/network.ts';
import type { PayoutPolicy, PoolRules } from '../../core/ledger/rules.ts';
import type { Rpc } from '../../core/node/rpc.ts';
import type { Clock, Db } from '../../ports.ts';

export type Desk = {
  /** Opens the database when a command needs it; rejects when it can not be reached. Closed by whoever made the desk. */
  openDb(): Promise<Db>;
  /** One line of the answer, without its end. */
  print(line: string): void;
  /** One line for people: faults, questions, usage. Not part of the answer. */
  complain(line: string): void;
  /** Asks at the terminal; false where there is none, or the answer is no. */
  confirm(question: string): Promise<boolean>;
  clock: Clock;
  network: Network;
  pools: readonly PoolRules[];
  /** Null: nothing is paid out. */
  policy: PayoutPolicy | null;
  /** The wallet that payouts go out from; without it the operator's word is taken for what it would say. */
  wallet?: Rpc | null;
  /** Who is at the terminal: the user of the operating system. Stands in the audit trail. */
  actor: string;
};

/** How a command ends. */
export const EXIT = {
  done: 0,
  /** Something is wrong, or was refused. */
  finding: 1,
  usage: 2,
  /** The database can not be reached; try again (EX_TEMPFAIL). */
  unreachable: 75,
} as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];
