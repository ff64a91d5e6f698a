/**
 * `headframe ledger`: what the ledger says, as tables and exports, and the bookings an operator may make by hand.
 *
 * Refused: a change without a reason, money moved without a yes, anything about an address of another network.
 */

import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { formatSats } from '../../core/ledger/amount.ts';
import { reserveNeededSats, ruinPpm } from '../../core/ledger/ruin.ts';
import type { Db } from '../../ports.ts';
import { findAccounts, readSettings } from '../../store/accounts.ts';
import { listBlocks } from '../../store/blocks.ts';
import {
  auditLedger,
  type Balance,
  LEDGER_KINDS,
  type LedgerKind,
  listBalances,
  listNotes,
  readBalance,
  readStatement,
  sumBalances,
} from '../../store/ledger.ts';
import { listRounds, readRound, type StoredRound } from '../../store/rounds.ts';
import { listSchemes } from '../../store/schemes.ts';
import { type Form, printable, type Request } from './arguments.ts';
import { creditByHand, describeSettings, fundPool, reverseRound, setAccount } from './bookings.ts';
import {
  type Command,
  conduct,
  misuse,
  readAccount,
  readFormat,
  readLimit,
  refuse,
} from './conduct.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';
import { printList } from './list.ts';
import {
  exportProof,
  exportRound,
  findRound,
  judgeRound,
  printRound,
  printRounds,
} from './round-views.ts';
import {
  type Column,
  EXPORT_ROWS,
  formatPpm,
  formatTime,
  PAGE,
  pages,
  printTable,
  TEXT_ROWS,
  type Value,
} from './table.ts';
import { withdraw } from './withdrawal.ts';

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
    options: { rounds: null },
    what: 'Checks the whole hash chain, every sum and every balance; with --rounds also recomputes every round.',
  },
  {
    name: 'notes',
    words: [],
    options: { limit: 'COUNT', ...EXPORT },
    what: 'The audit trail: who changed what by hand, and why, newest first.',
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
    name: 'withdraw',
    words: ['AMOUNT'],
    options: { txid: 'TXID', pool: 'POOL', fee: 'AMOUNT', reason: 'TEXT', yes: null },
    needs: ['txid', 'reason'],
    what: 'Books money of the operator that he has sent out of the wallet in transaction TXID: AMOUNT is what left it without the network fee, which is an expense of the pool. --pool takes it from the reserve of a PPS pool. The wallet is asked; --fee names the fee where it can not be. From then on the transaction is known, as after "payout acknowledge".',
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
    words: ['HASH|HEIGHT'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Confirms that a block whose reward was spendable is gone for good, and books its reward as a loss.',
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

export const LEDGER_COMMAND: Command = { name: 'ledger', forms: FORMS };

/** Runs `headframe ledger` with the words behind it. Never throws for what is expected. */
export function runLedgerCommand(given: Desk, argv: readonly string[]): Promise<ExitCode> {
  return conduct(given, LEDGER_COMMAND, argv, async (desk, db, request) => {
    switch (request.name) {
      case 'balances':
        return printBalances(desk, db, request);
      case 'statement':
        return printStatement(desk, db, request);
      case 'rounds':
        return printRounds(desk, db, request);
      case 'audit':
        return audit(desk, db, request);
      case 'notes':
        return printNotes(desk, db, request);
      case 'credit':
        return creditByHand(desk, db, request);
      case 'fund':
        return fundPool(desk, db, request);
      case 'withdraw':
        return withdraw(desk, db, request);
      case 'set':
        return setAccount(desk, db, request);
      case 'schemes':
        return printSchemes(desk, db);
    }
    const round = await findRound(desk, db, request.words[0]!);
    if (!round.ok) return round.exitCode;
    switch (request.name) {
      case 'round':
        return printRound(desk, db, request, round.value);
      case 'reverse':
        return reverseRound(desk, db, request, round.value);
      case 'export-round':
        return exportRound(desk, db, request, round.value);
      case 'proof':
        return exportProof(desk, db, request, round.value);
    }
    throw new Error(`no code for ledger ${request.name}`);
  });
}

// ── Balances and statements ──────────────────────────────────────────────────────────────────────────────────────────

const BALANCE_COLUMNS: readonly Column[] = [
  { name: 'kind', kind: 'text' },
  { name: 'pool', kind: 'text' },
  { name: 'address', kind: 'text' },
  { name: 'balance', kind: 'sats' },
];

async function printBalances(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const format = readFormat(desk, request);
  if (!format.ok) return format.exitCode;
  const kind = request.options.get('kind');
  if (kind !== undefined && !isKind(kind)) {
    return misuse(desk, `--kind is one of ${LEDGER_KINDS.join(', ')}`);
  }
  const pool = request.options.get('pool');
  const rows = pages<Balance, Value[]>(
    (last) =>
      listBalances(db, {
        limit: PAGE,
        ...(kind === undefined ? {} : { kind }),
        ...(pool === undefined ? {} : { pool }),
        ...(last === null ? {} : { after: last.ledgerAccountId }),
      }),
    EXPORT_ROWS,
    (row) => [row.kind, row.pool, row.address, row.balanceSats],
  );
  await printTable(desk, format.value, BALANCE_COLUMNS, rows, 'No account holds anything.');
  if (format.value !== 'text') return EXIT.done;
  desk.print('');
  const sums = await sumBalances(db);
  const kinds = LEDGER_KINDS.filter((one) => sums[one] !== 0n);
  for (const one of kinds) desk.print(`${one.padEnd(20)} ${formatSats(sums[one]).padStart(24)}`);
  const total = kinds.reduce((sum, one) => sum + sums[one], 0n);
  desk.print(`${'all together'.padEnd(20)} ${formatSats(total).padStart(24)}`);
  return EXIT.done;
}

function isKind(text: string): text is LedgerKind {
  return (LEDGER_KINDS as readonly string[]).includes(text);
}

const STATEMENT_COLUMNS: readonly Column[] = [
  { name: 'at', kind: 'time' },
  { name: 'posting', kind: 'count' },
  { name: 'kind', kind: 'text' },
  { name: 'account', kind: 'text' },
  { name: 'pool', kind: 'text' },
  { name: 'amount', kind: 'sats' },
  { name: 'balance', kind: 'sats' },
  { name: 'block', kind: 'text' },
  { name: 'batch', kind: 'count' },
  { name: 'reason', kind: 'text' },
];

/** Read at one moment, so that the balance of each line is what it was after it. */
async function printStatement(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const format = readFormat(desk, request);
  if (!format.ok) return format.exitCode;
  const limit = readLimit(desk, request, format.value === 'text' ? TEXT_ROWS : EXPORT_ROWS);
  if (!limit.ok) return limit.exitCode;
  const address = readAccount(desk, request.words[0]!);
  if (!address.ok) return address.exitCode;
  const accountId = (await findAccounts(db, [address.value])).get(address.value);
  if (accountId === undefined) return refuse(desk, `No account has the address ${address.value}.`);
  await db.transaction(async (tx) => {
    await tx.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY');
    if (format.value === 'text') {
      const settings = (await readSettings(tx, [accountId])).get(accountId)!;
      desk.print(`${address.value}: ${describeSettings(settings)}.`);
      desk.print('');
    }
    await printTable(
      desk,
      format.value,
      STATEMENT_COLUMNS,
      statementRows(tx, accountId, limit.value),
      'The ledger has nothing of this account.',
    );
  });
  return EXIT.done;
}

async function* statementRows(
  db: Pick<Db, 'query'>,
  accountId: bigint,
  limit: number,
): AsyncGenerator<Value[], void, undefined> {
  /** Per kind and pool: what there was after the entry that comes next, going back. */
  const after = new Map<string, bigint>();
  let left = limit;
  let beforeSeq: bigint | undefined;
  while (left > 0) {
    const lines = await readStatement(db, accountId, {
      limit: Math.min(left, PAGE),
      ...(beforeSeq === undefined ? {} : { beforeSeq }),
    });
    for (const line of lines) {
      for (const { kind, pool, sats } of line.entries) {
        const name = `${kind} ${pool}`;
        const balance =
          after.get(name) ??
          (await readBalance(db, { kind, accountId, ...(pool === '' ? {} : { pool }) }));
        after.set(name, balance - sats);
        yield [
          line.atMs,
          line.txSeq,
          line.kind,
          kind,
          pool,
          sats,
          balance,
          line.blockHash === null ? null : encodeHexReversed(line.blockHash),
          line.batchId,
          line.reason,
        ];
      }
    }
    if (lines.length === 0) return;
    left -= lines.length;
    beforeSeq = lines.at(-1)!.txSeq;
  }
}

// ── Audit ────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function audit(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const findings: string[] = [];
  const ledger = await auditLedger(db);
  if (ledger.ok) {
    desk.print(
      `${ledger.postings} postings with ${ledger.entries} entries: every hash, sum and balance is right.`,
    );
    desk.print(`Head of the chain: ${encodeHex(ledger.headHash)}`);
  } else findings.push(...ledger.findings);
  if (request.options.has('rounds')) {
    let count = 0;
    const rounds = pages<StoredRound, StoredRound>(
      (last) =>
        listRounds(db, { limit: PAGE, ...(last === null ? {} : { beforeId: last.roundId }) }),
      EXPORT_ROWS,
      (round) => round,
    );
    for await (const { roundId } of rounds) {
      const round = await readRound(db, roundId);
      if (round === null) continue;
      count += 1;
      const hash = encodeHexReversed(round.blockHash);
      findings.push(...judgeRound(desk, round).map((finding) => `round of ${hash}: ${finding}`));
    }
    desk.print(`${count} rounds were recomputed from what they say of their work.`);
  }
  for (const finding of findings) desk.print(`WRONG  ${printable(finding)}`);
  desk.print(
    findings.length === 0
      ? 'Everything agrees.'
      : `${findings.length === 1 ? 'One thing does' : `${findings.length} things do`} not agree.`,
  );
  return findings.length === 0 ? EXIT.done : EXIT.finding;
}

const NOTE_COLUMNS: readonly Column[] = [
  { name: 'at', kind: 'time' },
  { name: 'actor', kind: 'text' },
  { name: 'action', kind: 'text' },
  { name: 'detail', kind: 'text' },
];

function printNotes(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  return printList<Awaited<ReturnType<typeof listNotes>>[number]>(desk, request, {
    columns: NOTE_COLUMNS,
    read: (last, count) =>
      listNotes(db, { limit: count, ...(last === null ? {} : { beforeId: last.noteId }) }),
    rowsOf: (note) => [[note.atMs, note.actor, note.action, JSON.stringify(note.detail)]],
    empty: 'Nothing was changed by hand.',
  });
}

// ── Schemes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function printSchemes(desk: Desk, db: Db): Promise<ExitCode> {
  const [newest] = await listBlocks(db, { limit: 1 });
  for (const pool of desk.pools) {
    const { window } = pool;
    desk.print(
      `Pool ${pool.id}: scheme ${pool.scheme}, fee ${formatPpm(pool.feePpm)}${pool.developerFeePpm > 0 ? `, developer fee ${formatPpm(pool.developerFeePpm)}` : ''}`,
    );
    if (pool.scheme === 'pplns' || pool.scheme === 'direct') {
      desk.print(
        window.kind === 'days'
          ? `  window: ${window.days} days before the find`
          : `  window: ${formatPpm(Number(window.factorPpm))} of the network's difficulty at the find`,
      );
    }
    if (pool.scheme === 'pps' || pool.scheme === 'fpps') {
      const reserveSats = await readBalance(db, { kind: 'reserve', pool: pool.id });
      const blockRewardSats = newest?.rewardSats ?? null;
      desk.print(`  reserve: ${formatSats(reserveSats)}`);
      if (blockRewardSats !== null) {
        const ruin = ruinPpm({ reserveSats, blockRewardSats, feePpm: pool.feePpm });
        const neededSats = reserveNeededSats({
          ruinPpmMax: pool.ruinPpmMax,
          blockRewardSats,
          feePpm: pool.feePpm,
        });
        desk.print(
          `  chance of ruin: at most ${formatPpm(ruin)} with blocks of ${formatSats(blockRewardSats)}; ${formatPpm(pool.ruinPpmMax)} is accepted, which takes a reserve of ${neededSats === null ? 'more than there is' : formatSats(neededSats)}; beyond it: ${pool.onRuin}`,
        );
      }
    }
    for (const change of await listSchemes(db, pool.id)) {
      desk.print(
        `  from share ${change.fromSeq} (${formatTime(change.atMs)}): ${change.scheme}${change.reason === '' ? '' : `, ${printable(change.reason)}`}`,
      );
    }
  }
  return EXIT.done;
}
