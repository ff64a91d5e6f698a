/**
 * `headframe payout`: what would be paid, what was, and how payouts are stopped, started and signed elsewhere.
 *
 * Refused: a change without a reason, money moved without a yes. Nothing here sends a transaction: that is the pool's work, and it
 * takes up what was decided here at its next cycle.
 */

import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { formatSats } from '../../core/ledger/amount.ts';
import type { Db } from '../../ports.ts';
import {
  findAccounts,
  findOrMakeAccounts,
  readSettings,
  setSettings,
} from '../../store/accounts.ts';
import { listProposedReversals } from '../../store/crediting.ts';
import { recordNote } from '../../store/ledger.ts';
import {
  type BatchDetail,
  exportBatch,
  holdPayouts,
  importBatch,
  liftQuarantine,
  listBatches,
  listQuarantine,
  noteSpend,
  type PayoutBatch,
  planPayouts,
  readBatch,
  readControl,
  releaseBatch,
  releasePayouts,
  runPayouts,
} from '../../store/payouts.ts';
import { type Form, printable, type Request } from './arguments.ts';
import {
  actorOf,
  type Command,
  conduct,
  isConfirmed,
  misuse,
  type Read,
  readAddress,
  readFormat,
  reasonOf,
  refuse,
} from './conduct.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';
import { readTextFile, writeNewFile } from './files.ts';
import { printList } from './list.ts';
import { type Column, formatTime, printTable, type Value } from './table.ts';

const EXPORT = { csv: null, json: null } as const;
const PSBT_BYTES_MAX = 8 * 1024 * 1024;

const FORMS: readonly Form[] = [
  {
    name: 'plan',
    words: [],
    options: { ...EXPORT },
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
    options: { limit: 'COUNT', payouts: null, ...EXPORT },
    what: 'Batches, newest first; with --payouts every payout in them, for bookkeeping.',
  },
  {
    name: 'show',
    words: ['BATCH'],
    options: { ...EXPORT },
    what: 'One batch with its payments, transactions and history.',
  },
  {
    name: 'export',
    words: ['BATCH'],
    options: { file: 'FILE', reason: 'TEXT' },
    needs: ['file'],
    what: 'Writes the unsigned transaction (PSBT) of a batch for signing elsewhere. From then on the batch is not given back.',
  },
  {
    name: 'import',
    words: ['BATCH'],
    options: { file: 'FILE', reason: 'TEXT', yes: null },
    needs: ['file'],
    what: 'Takes the signed one back, as PSBT or raw hex; the pool checks it with its node and sends it.',
  },
  {
    name: 'cancel',
    words: ['BATCH'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Gives the money of a batch back to its accounts. Refused as soon as something signed may be out there.',
  },
  {
    name: 'acknowledge',
    words: ['TXID'],
    options: { reason: 'TEXT', yes: null },
    needs: ['reason'],
    what: 'Names a spend from the wallet that is the operator’s own and no payout.',
  },
];

export const PAYOUT_COMMAND: Command = { name: 'payout', forms: FORMS };

/** Runs `headframe payout` with the words behind it. Never throws for what is expected. */
export function runPayoutCommand(given: Desk, argv: readonly string[]): Promise<ExitCode> {
  return conduct(given, PAYOUT_COMMAND, argv, async (desk, db, request) => {
    switch (request.name) {
      case 'plan':
        return printPlan(desk, db, request);
      case 'run':
        return run(desk, db, request);
      case 'hold':
        return request.words[0] === undefined
          ? holdAll(desk, db, request)
          : holdAccount(desk, db, request);
      case 'release':
        return request.words[0] === undefined
          ? releaseAll(desk, db, request)
          : releaseAccount(desk, db, request);
      case 'list':
        return printBatches(desk, db, request);
      case 'acknowledge':
        return acknowledge(desk, db, request);
    }
    const batch = await findBatch(desk, db, request.words[0]!);
    if (!batch.ok) return batch.exitCode;
    switch (request.name) {
      case 'show':
        return printBatch(desk, request, batch.value);
      case 'export':
        return exportUnsigned(desk, db, request, batch.value);
      case 'import':
        return importSigned(desk, db, request, batch.value);
      case 'cancel':
        return cancel(desk, db, request, batch.value);
    }
    throw new Error(`no code for payout ${request.name}`);
  });
}

/** Who does this, when, and why. */
function deedOf(desk: Desk, request: Request): { actor: string; reason: string; atMs: number } {
  return { actor: actorOf(desk), reason: reasonOf(request), atMs: desk.clock.nowMs() };
}

// ── What would be paid ───────────────────────────────────────────────────────────────────────────────────────────────

const PLAN_COLUMNS: readonly Column[] = [
  { name: 'batch', kind: 'text' },
  { name: 'address', kind: 'text' },
  { name: 'amount', kind: 'sats' },
  { name: 'why_not', kind: 'text' },
];

async function printPlan(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const format = readFormat(desk, request);
  if (!format.ok) return format.exitCode;
  const { policy } = desk;
  if (policy === null) return refuse(desk, noWallet(desk));
  const plan = await planPayouts(db, {
    policy,
    network: desk.network,
    nowMs: desk.clock.nowMs(),
  });
  const rows: Value[][] = [
    ...plan.batches.flatMap(({ items }, at) =>
      items.map((item): Value[] => [`planned ${at + 1}`, item.address, item.amountSats, null]),
    ),
    ...plan.skipped.map((skip): Value[] => [
      null,
      skip.address,
      null,
      `${skip.reason}: ${skip.detail}`,
    ]),
  ];
  if (format.value === 'text') await printControl(desk, db);
  await printTable(desk, format.value, PLAN_COLUMNS, rows, 'Nobody has anything to be paid.');
  if (format.value === 'text') {
    const payouts = plan.batches.reduce((sum, { items }) => sum + items.length, 0);
    desk.print('');
    desk.print(
      `${formatSats(plan.totalSats)} in ${payouts} payouts and ${plan.batches.length} transactions, from wallet ${printable(policy.wallet)}. Nothing was changed.`,
    );
  }
  return EXIT.done;
}

/** Whether payouts are stopped, and what waits for a person. */
async function printControl(desk: Desk, db: Db): Promise<void> {
  const control = await readControl(db);
  if (control.halted) {
    desk.print(
      `PAYOUTS ARE STOPPED since ${formatTime(control.haltedAtMs ?? 0)} by ${printable(control.haltedBy)}: ${printable(control.haltReason)}`,
    );
  }
  for (const reversal of await listProposedReversals(db)) {
    desk.print(
      `Block ${encodeHexReversed(reversal.hash)} at height ${reversal.height} has left the chain after its ${formatSats(reversal.rewardSats)} became spendable: see "headframe ledger reverse".`,
    );
  }
  for (const { address, reason } of await listQuarantine(db)) {
    desk.print(`${printable(address)} is not paid: ${printable(reason)}`);
  }
}

function noWallet({ pools }: Desk): string {
  const isPaying = pools.some(({ scheme }) => /^(pplns|prop|f?pps)$/.test(scheme));
  return isPaying
    ? 'Nothing is paid out: PAYOUT_WALLET is not set.'
    : 'Nothing is paid out: no pool holds money for miners.';
}

// ── Stop and go ──────────────────────────────────────────────────────────────────────────────────────────────────────

async function run(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  if (desk.policy === null) return refuse(desk, noWallet(desk));
  const control = await readControl(db);
  if (control.halted) {
    return refuse(
      desk,
      `Payouts are stopped (${printable(control.haltReason)}): "headframe payout release" lets them go on.`,
    );
  }
  const { totalSats, batches } = await planPayouts(db, {
    policy: desk.policy,
    network: desk.network,
    nowMs: desk.clock.nowMs(),
  });
  const question = `Pay ${formatSats(totalSats)} in ${batches.length} transactions now?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  await runPayouts(db, deedOf(desk, request));
  desk.print('The running pool pays at its next cycle: "headframe payout list" shows it.');
  return EXIT.done;
}

async function holdAll(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const isNew = await holdPayouts(db, deedOf(desk, request));
  if (!isNew) {
    const { haltReason, haltedBy } = await readControl(db);
    return refuse(
      desk,
      `Payouts were stopped before, by ${printable(haltedBy)}: ${printable(haltReason)}`,
    );
  }
  desk.print('Payouts are stopped. What has left already is still watched; mining goes on.');
  return EXIT.done;
}

async function releaseAll(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const control = await readControl(db);
  if (!control.halted) return refuse(desk, 'Payouts are not stopped.');
  const question = `Payouts were stopped by ${printable(control.haltedBy)}: ${printable(control.haltReason)}. Let them go on?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  if (!(await releasePayouts(db, deedOf(desk, request)))) {
    return refuse(desk, 'Payouts are not stopped any more.');
  }
  desk.print('Payouts go on. What made them stop is looked at again in every cycle.');
  return EXIT.done;
}

async function holdAccount(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const address = readAddress(desk, request.words[0]!);
  if (!address.ok) return address.exitCode;
  const deed = deedOf(desk, request);
  const accountId = (await findOrMakeAccounts(db, [address.value], deed.atMs)).get(address.value)!;
  const before = (await readSettings(db, [accountId])).get(accountId)!;
  if (before.onHold) {
    return refuse(
      desk,
      `${address.value} is on hold already: ${printable(before.holdReason ?? '')}`,
    );
  }
  await setSettings(db, {
    ...deed,
    accountId,
    change: { onHold: true, holdReason: deed.reason },
  });
  desk.print(`${address.value} is not paid until it is released; what it earns is still booked.`);
  return EXIT.done;
}

async function releaseAccount(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const address = readAddress(desk, request.words[0]!);
  if (!address.ok) return address.exitCode;
  const accountId = (await findAccounts(db, [address.value])).get(address.value);
  if (accountId === undefined) return refuse(desk, `No account has the address ${address.value}.`);
  const before = (await readSettings(db, [accountId])).get(accountId)!;
  const refused = (await listQuarantine(db)).find((one) => one.accountId === accountId);
  if (!before.onHold && refused === undefined) {
    return refuse(desk, `${address.value} is not on hold.`);
  }
  const why = [before.onHold ? before.holdReason : null, refused?.reason ?? null]
    .filter((reason) => reason !== null)
    .map(printable)
    .join('; ');
  const question = `${address.value} was on hold: ${why}. Pay it again?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  const deed = deedOf(desk, request);
  if (before.onHold) {
    await setSettings(db, { ...deed, accountId, change: { onHold: false, holdReason: null } });
  }
  await liftQuarantine(db, accountId, deed);
  desk.print(`${address.value} is paid again.`);
  return EXIT.done;
}

async function acknowledge(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const txid = request.words[0]!.toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(txid)) {
    return misuse(desk, `"${printable(txid)}" is no transaction id of 64 hex digits`);
  }
  const question = `Is ${txid} a spend of the operator's own, and no payout?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  const answer = await noteSpend(db, txid, deedOf(desk, request));
  if (!answer.ok) return refuse(desk, `Not noted: ${answer.reason}.`);
  desk.print(
    `${txid} is known from now on. Payouts that it stopped go on with "headframe payout release".`,
  );
  return EXIT.done;
}

// ── Batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const BATCH_COLUMNS: readonly Column[] = [
  { name: 'batch', kind: 'count' },
  { name: 'made', kind: 'time' },
  { name: 'state', kind: 'text' },
  { name: 'since', kind: 'time' },
  { name: 'signing', kind: 'text' },
  { name: 'fee_paid_by', kind: 'text' },
  { name: 'total', kind: 'sats' },
  { name: 'reason', kind: 'text' },
];

function printBatches(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const isEach = request.options.has('payouts');
  return printList<PayoutBatch>(desk, request, {
    columns: isEach ? ITEM_COLUMNS : BATCH_COLUMNS,
    read: (last, count) =>
      listBatches(db, { limit: count, ...(last === null ? {} : { belowId: last.batchId }) }),
    rowsOf: (batch) => (isEach ? readItems(db, batch) : [batchRow(batch)]),
    empty: 'Nothing was paid yet.',
    begin: () => printControl(desk, db),
  });
}

function batchRow(batch: PayoutBatch): Value[] {
  return [
    batch.batchId,
    batch.createdAtMs,
    batch.state,
    batch.stateAtMs,
    batch.signing,
    batch.feePolicy,
    batch.totalSats,
    batch.reason,
  ];
}

async function readItems(db: Db, { batchId }: PayoutBatch): Promise<Value[][]> {
  const batch = await readBatch(db, batchId);
  return batch === null ? [] : itemsOf(batch);
}

async function findBatch(desk: Desk, db: Db, text: string): Promise<Read<BatchDetail>> {
  if (!/^[1-9]\d{0,17}$/.test(text)) {
    return { ok: false, exitCode: misuse(desk, `"${printable(text)}" is no number of a batch`) };
  }
  const batch = await readBatch(db, BigInt(text));
  return batch === null
    ? { ok: false, exitCode: refuse(desk, `There is no batch ${text}.`) }
    : { ok: true, value: batch };
}

const ITEM_COLUMNS: readonly Column[] = [
  { name: 'batch', kind: 'count' },
  { name: 'since', kind: 'time' },
  { name: 'address', kind: 'text' },
  { name: 'amount', kind: 'sats' },
  { name: 'fee', kind: 'sats' },
  { name: 'received', kind: 'sats' },
  { name: 'state', kind: 'text' },
  { name: 'transaction', kind: 'text' },
];

/** The payouts of a batch, each with the transaction that pays it: the confirmed one, else the newest that is signed. */
function itemsOf(batch: BatchDetail): Value[][] {
  const confirmed = batch.generations.find(({ state }) => state === 'confirmed');
  const sent = confirmed ?? batch.generations.findLast(({ txid }) => txid !== null);
  const txid = sent?.txid ? encodeHexReversed(sent.txid) : null;
  return batch.items.map((item) => [
    batch.batchId,
    batch.stateAtMs,
    item.address,
    item.amountSats,
    item.feeSats,
    item.amountSats - item.feeSats,
    batch.state,
    txid,
  ]);
}

async function printBatch(desk: Desk, request: Request, batch: BatchDetail): Promise<ExitCode> {
  const format = readFormat(desk, request);
  if (!format.ok) return format.exitCode;
  if (format.value === 'text') {
    desk.print(
      `Batch ${batch.batchId}, ${batch.state} since ${formatTime(batch.stateAtMs)}: ${formatSats(batch.totalSats)}, ${batch.signing}, network fee paid by ${batch.feePolicy}`,
    );
    if (batch.reason !== '') desk.print(printable(batch.reason));
    for (const one of batch.generations) {
      desk.print(
        `Transaction ${one.generation}, ${one.state}: ${one.txid === null ? 'not signed' : encodeHexReversed(one.txid)}, fee ${formatSats(one.feeSats)} for ${one.vsize} vB, ${one.confirmations} confirmations`,
      );
    }
    for (const input of batch.inputs) {
      desk.print(
        `Input ${encodeHexReversed(input.txid)}:${input.vout}, ${formatSats(input.valueSats)}`,
      );
    }
    desk.print('');
  }
  await printTable(desk, format.value, ITEM_COLUMNS, itemsOf(batch), 'The batch pays nobody.');
  if (format.value === 'text') {
    desk.print('');
    for (const { atMs, actor, event, detail } of batch.events) {
      desk.print(
        `${formatTime(atMs)}  ${printable(actor)}  ${event}  ${printable(detail)}`.trimEnd(),
      );
    }
  }
  return EXIT.done;
}

async function exportUnsigned(
  desk: Desk,
  db: Db,
  request: Request,
  batch: BatchDetail,
): Promise<ExitCode> {
  const file = request.options.get('file')!;
  const answer = await exportBatch(db, batch.batchId, deedOf(desk, request));
  if (!answer.ok) return refuse(desk, `Not exported: ${answer.reason}.`);
  await noteDeed(desk, db, request, batch);
  // Asked again, the batch gives the same: a file that could not be written is no loss.
  const trouble = await writeNewFile(file, [`${answer.psbt}\n`]);
  if (trouble !== null) return refuse(desk, trouble);
  desk.print(
    `${file}: generation ${answer.generation} of batch ${batch.batchId}, ${formatSats(answer.totalSats)} to ${answer.payouts} accounts, fee ${formatSats(answer.feeSats)}.`,
  );
  return EXIT.done;
}

async function importSigned(
  desk: Desk,
  db: Db,
  request: Request,
  batch: BatchDetail,
): Promise<ExitCode> {
  const read = readTextFile(request.options.get('file')!, PSBT_BYTES_MAX);
  if (!read.ok) return refuse(desk, read.reason);
  const question = `Send batch ${batch.batchId}, ${formatSats(batch.totalSats)} to ${batch.items.length} accounts, as it was signed?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  const answer = await importBatch(db, batch.batchId, read.text, deedOf(desk, request));
  if (!answer.ok) return refuse(desk, `Not taken: ${answer.reason}.`);
  await noteDeed(desk, db, request, batch);
  desk.print('Taken. The running pool checks it with its node and sends it at its next cycle.');
  return EXIT.done;
}

/** The history of the batch says what was done; the audit trail also why, where a reason was given. */
async function noteDeed(desk: Desk, db: Db, request: Request, batch: BatchDetail): Promise<void> {
  const { actor, reason, atMs } = deedOf(desk, request);
  if (reason === '') return;
  const detail = { batch: batch.batchId, reason, before: batch.state, sats: batch.totalSats };
  await recordNote(db, { atMs, actor, action: `payout ${request.name}`, detail });
}

async function cancel(desk: Desk, db: Db, request: Request, batch: BatchDetail): Promise<ExitCode> {
  const question = `Give ${formatSats(batch.totalSats)} of batch ${batch.batchId} back to its ${batch.items.length} accounts?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  const answer = await releaseBatch(db, batch.batchId, deedOf(desk, request));
  if (!answer.ok) return refuse(desk, `Not given back: ${answer.reason}.`);
  desk.print(`Batch ${batch.batchId} is released; its accounts have their money again.`);
  return EXIT.done;
}
