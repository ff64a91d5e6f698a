/**
 * Rounds as `headframe ledger` shows, judges and exports them: what is stored in the database, made into the published statement.
 *
 * Refused: a proof from a round that does not agree with itself; an export over a file that is there.
 */

import { decodeHexReversed, encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import type { Network } from '../../core/bitcoin/network.ts';
import { formatSats } from '../../core/ledger/amount.ts';
import {
  encodeStatement,
  makeStatement,
  type RoundStatement,
  verifyStatement,
} from '../../core/ledger/statement.ts';
import type { Db } from '../../ports.ts';
import { listBlocks } from '../../store/blocks.ts';
import { listRounds, readRound, type StoredRound } from '../../store/rounds.ts';
import { readWindowShares } from '../../store/windows.ts';
import { printable, type Request } from './arguments.ts';
import { misuse, type Read, readAccount, readFormat, refuse } from './conduct.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';
import { DamagedFileError, writeNewFile } from './files.ts';
import { printList } from './list.ts';
import { encodeProof, encodeShares, readShares } from './rounds.ts';
import { type Column, formatTime, PAGE, printTable } from './table.ts';

const ROUND_COLUMNS: readonly Column[] = [
  { name: 'found', kind: 'time' },
  { name: 'height', kind: 'count' },
  { name: 'block', kind: 'text' },
  { name: 'generation', kind: 'count' },
  { name: 'pool', kind: 'text' },
  { name: 'scheme', kind: 'text' },
  { name: 'state', kind: 'text' },
  { name: 'reward', kind: 'sats' },
  { name: 'operator', kind: 'sats' },
  { name: 'developer', kind: 'sats' },
  { name: 'root', kind: 'text' },
];

export function printRounds(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const pool = request.options.get('pool');
  return printList<StoredRound>(desk, request, {
    columns: ROUND_COLUMNS,
    read: (last, count) =>
      listRounds(db, {
        limit: count,
        ...(pool === undefined ? {} : { pool }),
        ...(last === null ? {} : { beforeId: last.roundId }),
      }),
    rowsOf: (round) => [
      [
        round.foundAtMs,
        round.height,
        encodeHexReversed(round.blockHash),
        round.generation,
        round.pool,
        round.scheme,
        round.state,
        round.rewardSats,
        round.operatorSats,
        round.developerSats,
        encodeHex(round.root),
      ],
    ],
    empty: 'No block was credited yet.',
  });
}

/** The newest generation of a block's round, by hash or by height. */
export async function findRound(desk: Desk, db: Db, text: string): Promise<Read<StoredRound>> {
  const no = (exitCode: ExitCode): Read<never> => ({ ok: false, exitCode });
  if (/^[0-9a-fA-F]{64}$/.test(text)) {
    const round = await readRound(db, decodeHexReversed(text.toLowerCase())!);
    return round === null
      ? no(refuse(desk, `No round is known for block ${text}.`))
      : { ok: true, value: round };
  }
  if (!/^(0|[1-9]\d{0,8})$/.test(text)) {
    return no(misuse(desk, `"${printable(text)}" is neither the hash of a block nor a height`));
  }
  const height = Number(text);
  const rounds: StoredRound[] = [];
  for (const block of await listBlocks(db, { limit: PAGE, belowHeight: height + 1 })) {
    if (block.height !== height) break;
    const round = await readRound(db, block.hash);
    if (round !== null) rounds.push(round);
  }
  const standing = rounds.filter(({ state }) => state !== 'orphaned');
  const [round, another] = standing.length === 1 ? standing : rounds;
  if (round === undefined) return no(refuse(desk, `No round is known at height ${height}.`));
  if (another !== undefined) {
    const hashes = rounds.map(({ blockHash }) => encodeHexReversed(blockHash)).join(', ');
    return no(refuse(desk, `Several blocks have rounds at height ${height}: ${hashes}.`));
  }
  return { ok: true, value: round };
}

const CREDIT_COLUMNS: readonly Column[] = [
  { name: 'address', kind: 'text' },
  { name: 'work', kind: 'count' },
  { name: 'fee', kind: 'ppm' },
  { name: 'donation', kind: 'ppm' },
  { name: 'credit', kind: 'sats' },
  { name: 'paid', kind: 'sats' },
];

export async function printRound(
  desk: Desk,
  db: Db,
  request: Request,
  found: StoredRound,
): Promise<ExitCode> {
  const format = readFormat(desk, request);
  if (!format.ok) return format.exitCode;
  const round = await readRound(db, found.roundId);
  if (round === null) throw new Error(`round ${found.roundId} is gone`);
  if (format.value === 'text') {
    const { window } = statementOf(desk.network, round);
    for (const line of [
      `Block ${encodeHexReversed(round.blockHash)} at height ${round.height}, found ${formatTime(round.foundAtMs)}`,
      `Pool ${round.pool}, scheme ${round.scheme}, ${round.state}, generation ${round.generation}`,
      `Reward ${formatSats(round.rewardSats)}: operator ${formatSats(round.operatorSats)}, developer ${formatSats(round.developerSats)}, ${round.credits.length} accounts`,
      `Shares ${round.firstSeq} to ${round.lastSeq}, ${round.totalWork} units of work: ${window.rule}`,
      `Root ${encodeHex(round.root)}`,
      '',
    ])
      desk.print(line);
  }
  await printTable(
    desk,
    format.value,
    CREDIT_COLUMNS,
    round.credits.map((credit) => [
      credit.address,
      credit.work,
      credit.feePpm,
      credit.donationPpm,
      credit.creditSats,
      credit.paidSats,
    ]),
    'No account is credited by this round.',
  );
  return EXIT.done;
}

/** A round with its credits. */
export type FullRound = NonNullable<Awaited<ReturnType<typeof readRound>>>;

/** The published record of a stored round. */
export function statementOf(network: Network, round: FullRound): RoundStatement {
  return makeStatement({
    ...round,
    network,
    block: {
      hashDisplay: encodeHexReversed(round.blockHash),
      height: round.height,
      bits: round.bits,
      foundAtMs: round.foundAtMs,
    },
    window: round,
  });
}

/** What is wrong with a stored round, by its own statement. */
export function judgeRound(desk: Desk, round: FullRound): string[] {
  const statement = statementOf(desk.network, round);
  const answer = verifyStatement(statement);
  const findings = answer.ok ? [] : answer.findings;
  const root = encodeHex(round.root);
  if (statement.root.hash !== root) {
    findings.push(`root: ${root} was published, ${statement.root.hash} is that of what is stored`);
  }
  return findings;
}

export async function exportRound(
  desk: Desk,
  db: Db,
  request: Request,
  found: StoredRound,
): Promise<ExitCode> {
  const round = await readRound(db, found.roundId);
  if (round === null) throw new Error(`round ${found.roundId} is gone`);
  const file = request.options.get('file')!;
  const sharesFile = request.options.get('shares');
  if (file === sharesFile) return misuse(desk, '--file and --shares name the same file');
  const statement = statementOf(desk.network, round);
  const findings = judgeRound(desk, round);
  const trouble = await writeNewFile(file, [encodeStatement(statement)]);
  if (trouble !== null) return refuse(desk, trouble);
  desk.print(`${file}: the statement of block ${statement.block.hash}.`);
  if (sharesFile !== undefined) {
    const afterMs = round.afterMs ?? afterMsOfOld(desk, round);
    const shares = readWindowShares(db, { ...round, afterMs });
    const sharesTrouble = await writeNewFile(sharesFile, encodeShares(statement, shares));
    if (sharesTrouble !== null) return refuse(desk, sharesTrouble);
    findings.push(...recount(statement, sharesFile));
    desk.print(`${sharesFile}: the shares of its window.`);
  }
  for (const finding of findings) desk.complain(`WRONG  ${printable(finding)}`);
  return findings.length === 0 ? EXIT.done : EXIT.finding;
}

/** Rounds of version 1 do not say when a window by time begins: by the days of the configuration, which may be others than then. */
function afterMsOfOld(desk: Desk, round: FullRound): number | null {
  const { pool, scheme, statementVersion, wantedWork, foundAtMs } = round;
  const isByTime = wantedWork === null && (scheme === 'pplns' || scheme === 'direct');
  if (statementVersion !== 1 || !isByTime) return null;
  const window = desk.pools.find(({ id }) => id === pool)?.window;
  return window?.kind === 'days' ? foundAtMs - window.days * 86_400_000 : null;
}

/** Whether the shares just written are all that the round counted. */
function recount(statement: RoundStatement, path: string): string[] {
  const counted = { shares: 0 };
  try {
    const answer = verifyStatement(statement, readShares(path, statement, counted));
    if (answer.ok) return [];
    return [
      `the ${counted.shares} shares that are kept do not give this round: older ones may be gone (SHARE_RETENTION_DAYS)`,
      ...answer.findings,
    ];
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    return [error.message];
  }
}

export async function exportProof(
  desk: Desk,
  db: Db,
  request: Request,
  found: StoredRound,
): Promise<ExitCode> {
  const address = readAccount(desk, request.words[1]!);
  if (!address.ok) return address.exitCode;
  const round = await readRound(db, found.roundId);
  if (round === null) throw new Error(`round ${found.roundId} is gone`);
  const findings = judgeRound(desk, round);
  if (findings.length > 0) {
    for (const finding of findings) desk.complain(`WRONG  ${printable(finding)}`);
    return refuse(desk, 'A proof from a round that does not agree with itself would be none.');
  }
  const text = encodeProof(statementOf(desk.network, round), address.value);
  if (text === null) {
    return refuse(desk, `${address.value} has no credit in this round.`);
  }
  const file = request.options.get('file')!;
  const trouble = await writeNewFile(file, [text]);
  if (trouble !== null) return refuse(desk, trouble);
  desk.print(`${file}: the credit of ${address.value} under root ${encodeHex(round.root)}.`);
  return EXIT.done;
}
