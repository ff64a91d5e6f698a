/**
 * A round outside the database: the files that `headframe ledger export-round` and `proof` write, and `headframe verify-round`, which
 * recomputes a round from them without pool, database or network, and says where it does not agree.
 *
 * Three files, all JSON: the statement as core/ledger/statement.ts writes it; the shares of its window, one to a line below a line that
 * says of which block they are; and the proof that one credit stands in a statement.
 */

import { formatSats } from '../../core/ledger/amount.ts';
import type { ExportedShare } from '../../core/ledger/rules.ts';
import {
  type CreditProof,
  decodeStatement,
  proofOf,
  type RoundStatement,
  verifyProof,
  verifyStatement,
} from '../../core/ledger/statement.ts';
import { printable, usageLines } from './arguments.ts';
import { type Command, readWords } from './conduct.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';
import { DamagedFileError, readLines, readTextFile } from './files.ts';

const STATEMENT_BYTES_MAX = 64 * 1024 * 1024;
const PROOF_BYTES_MAX = 256 * 1024;

const COMMAND: Command = {
  name: 'verify-round',
  forms: [
    {
      name: '',
      words: ['[FILE]'],
      options: { shares: 'FILE', proof: 'FILE' },
      what: 'FILE is a statement that "headframe ledger export-round" wrote: what it says is computed again, amount by amount. With --shares the window is counted again, share by share. With --proof the place of one account in the statement is checked, or, without FILE, in the root that the proof names.',
    },
  ],
};

/** What `ledger proof` writes: whose credit, in which block's round, and the way to the root. */
type ProofFile = { version: 1; block: string; root: RoundStatement['root']; proof: CreditProof };

/** Runs `headframe verify-round` with the words behind it. Needs no database. Never throws for what is expected. */
export async function runVerifyRound(
  desk: Pick<Desk, 'print' | 'complain'>,
  argv: readonly string[],
): Promise<ExitCode> {
  const request = readWords(desk, COMMAND, argv);
  if (!request.ok) return request.exitCode;
  const { words, options } = request.value;
  const [statementPath] = words;
  const sharesPath = options.get('shares');
  const proofPath = options.get('proof');
  if (statementPath === undefined && (proofPath === undefined || sharesPath !== undefined)) {
    const lines = ['FILE is missing', 'Usage:', ...usageLines(COMMAND.name, COMMAND.forms)];
    for (const line of lines) desk.complain(line);
    return EXIT.usage;
  }
  const findings: string[] = [];
  let statement: RoundStatement | null = null;
  if (statementPath !== undefined) {
    statement = readStatement(statementPath, findings);
    if (statement !== null) verify(desk, statement, sharesPath, findings);
  }
  if (proofPath !== undefined) verifyProofFile(desk, proofPath, statement, findings);
  for (const finding of findings) desk.print(`WRONG  ${printable(finding)}`);
  desk.print(
    findings.length === 0
      ? 'Everything agrees.'
      : `${findings.length === 1 ? 'One thing does' : `${findings.length} things do`} not agree.`,
  );
  return findings.length === 0 ? EXIT.done : EXIT.finding;
}

function readStatement(path: string, findings: string[]): RoundStatement | null {
  const file = readTextFile(path, STATEMENT_BYTES_MAX);
  if (!file.ok) {
    findings.push(file.reason);
    return null;
  }
  const decoded = decodeStatement(file.text);
  if (decoded.ok) return decoded.statement;
  findings.push(`${path}: ${decoded.reason}`);
  return null;
}

function verify(
  desk: Pick<Desk, 'print'>,
  statement: RoundStatement,
  sharesPath: string | undefined,
  findings: string[],
): void {
  const { block, pool, scheme, credits, window } = statement;
  desk.print(
    `Block ${block.hash} at height ${block.height}, pool ${pool}, scheme ${scheme}: ${formatSats(BigInt(statement.rewardSats))} for ${credits.length} ${credits.length === 1 ? 'account' : 'accounts'}.`,
  );
  desk.print(
    `Operator ${formatSats(BigInt(statement.operatorSats))}, developer ${formatSats(BigInt(statement.developerSats))}, reserve ${formatSats(BigInt(statement.reserveSats))}. Shares ${window.firstSeq} to ${window.lastSeq}: ${printable(window.rule)}.`,
  );
  desk.print(`Root ${statement.root.hash} over ${formatSats(BigInt(statement.root.sumSats))}.`);
  const counted = { shares: 0 };
  try {
    const shares =
      sharesPath === undefined ? undefined : readShares(sharesPath, statement, counted);
    const answer = verifyStatement(statement, shares);
    if (!answer.ok) findings.push(...answer.findings);
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    findings.push(error.message);
  }
  desk.print(
    sharesPath === undefined
      ? 'Recomputed from the work that the statement names; --shares counts that again, too.'
      : `Recomputed from ${counted.shares} shares.`,
  );
}

// ── Shares ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The lines of a file of shares. */
export async function* encodeShares(
  statement: RoundStatement,
  shares: AsyncIterable<ExportedShare>,
): AsyncGenerator<string, void, undefined> {
  yield `${JSON.stringify({ version: 1, block: statement.block.hash, pool: statement.pool })}\n`;
  for await (const { seq, address, work, acceptedAtMs } of shares) {
    yield `${JSON.stringify({ seq: String(seq), address, work: String(work), acceptedAtMs })}\n`;
  }
}

/** The shares of a file; `counted` says how many there were. Throws DamagedFileError. */
export function* readShares(
  path: string,
  statement: RoundStatement,
  counted: { shares: number },
): Generator<ExportedShare, void, undefined> {
  let at = 0;
  for (const line of readLines(path)) {
    at += 1;
    if (at === 1) {
      const head = decodeFields(line, ['version', 'block', 'pool']);
      if (head?.version !== 1) throw new DamagedFileError(`${path} is no file of shares`);
      if (head.block !== statement.block.hash || head.pool !== statement.pool) {
        throw new DamagedFileError(`${path} has the shares of another round`);
      }
      continue;
    }
    const share = decodeShare(line);
    if (share === null) throw new DamagedFileError(`${path}: line ${at} is no share`);
    counted.shares += 1;
    yield share;
  }
  if (at === 0) throw new DamagedFileError(`${path} is empty`);
}

function decodeShare(line: string): ExportedShare | null {
  const fields = decodeFields(line, ['seq', 'address', 'work', 'acceptedAtMs']);
  if (fields === null) return null;
  const { seq, address, work, acceptedAtMs } = fields;
  const isInteger = (value: unknown): value is string =>
    typeof value === 'string' && /^(0|[1-9]\d{0,39})$/.test(value);
  if (!isInteger(seq) || !isInteger(work) || typeof address !== 'string') return null;
  if (!Number.isSafeInteger(acceptedAtMs)) return null;
  return { seq: BigInt(seq), address, work: BigInt(work), acceptedAtMs: acceptedAtMs as number };
}

// ── Proofs ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The text of a proof for an address; null when the statement has no credit for it. */
export function encodeProof(statement: RoundStatement, address: string): string | null {
  const proof = proofOf(statement, address);
  if (proof === null) return null;
  const file: ProofFile = { version: 1, block: statement.block.hash, root: statement.root, proof };
  return `${JSON.stringify(file, null, 1)}\n`;
}

function verifyProofFile(
  desk: Pick<Desk, 'print'>,
  path: string,
  statement: RoundStatement | null,
  findings: string[],
): void {
  const read = readTextFile(path, PROOF_BYTES_MAX);
  if (!read.ok) {
    findings.push(read.reason);
    return;
  }
  const file = decodeFields(read.text, ['version', 'block', 'root', 'proof']) as ProofFile | null;
  if (file?.version !== 1) {
    findings.push(`${path} is no proof`);
    return;
  }
  const { block, root, proof } = file;
  if (!verifyProof(proof, root)) {
    findings.push(`${path}: the way from the credit does not lead to the root`);
    return;
  }
  desk.print(
    `Credit of ${formatSats(BigInt(proof.credit.creditSats))} to ${proof.credit.address}: ${proof.steps.length} steps lead to root ${root.hash} over ${formatSats(BigInt(root.sumSats))}.`,
  );
  if (statement === null) {
    desk.print('Compare this root with the one that the pool publishes.');
    return;
  }
  if (block !== statement.block.hash) findings.push(`${path} is about another block`);
  if (root.hash !== statement.root.hash || root.sumSats !== statement.root.sumSats) {
    findings.push(`${path} leads to another root than that of the statement`);
  }
}

/** A JSON object with exactly these fields; null for anything else. */
function decodeFields(text: string, names: readonly string[]): Record<string, unknown> | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  const has = Object.keys(value);
  return has.length === names.length && names.every((name) => Object.hasOwn(value, name))
    ? (value as Record<string, unknown>)
    : null;
}
