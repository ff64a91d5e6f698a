/**
 * The form of a published statement: every field there, none more, each of its kind and in range. It says nothing about whether
 * what stands in them is right; `verifyStatement` does. Nothing here throws, whatever the value.
 */

import { MONEY_MAX_SATS } from '../bitcoin/coinbase.ts';
import { NETWORKS } from '../bitcoin/network.ts';
import { decodeBits } from '../bitcoin/target.ts';
import { SCHEMES } from './schemes.ts';
import type { StatementCredit, StatementVersion } from './statement.ts';

/** Accounts in one round. */
const STATEMENT_CREDITS_MAX = 100_000;
const PPM_MAX = 1_000_000;

/** The first thing wrong with the form of a statement, or null. */
export function formErrorOf(value: unknown): string | null {
  const fields = ['version', 'pool', 'scheme', 'network', 'block', 'window', 'rewardSats'];
  fields.push('operatorSats', 'developerSats', 'reserveSats', 'remainderRule', 'credits', 'root');
  if (!hasFields(value, fields)) return 'statement: not the fields of a statement';
  const { version } = value;
  if (version !== 1 && version !== 2) return 'version: only 1 and 2 are known';
  if (!isText(value.pool, /^[a-z0-9-]{1,16}$/)) return 'pool: no name of a pool';
  if (!isText(value.scheme, /./) || !Object.hasOwn(SCHEMES, value.scheme)) return 'scheme: unknown';
  if (!isText(value.network, /./) || !Object.hasOwn(NETWORKS, value.network)) {
    return 'network: unknown';
  }
  for (const key of ['rewardSats', 'operatorSats', 'developerSats', 'reserveSats'] as const) {
    if (!isSats(value[key])) return `${key}: no amount`;
  }
  if (!isText(value.remainderRule, /^.{1,1000}$/)) return 'remainderRule: no text';
  const wrong =
    blockErrorOf(value.block) ?? windowErrorOf(value.window, version) ?? rootErrorOf(value.root);
  if (wrong !== null) return wrong;
  if (!Array.isArray(value.credits) || value.credits.length > STATEMENT_CREDITS_MAX) {
    return `credits: no list of at most ${STATEMENT_CREDITS_MAX}`;
  }
  const addresses = new Set<string>();
  let sumSats = BigInt(value.operatorSats as string) + BigInt(value.developerSats as string);
  sumSats += BigInt(value.reserveSats as string);
  for (const credit of value.credits as unknown[]) {
    const creditWrong = creditErrorOf(credit);
    if (creditWrong !== null) return creditWrong;
    const { address, creditSats } = credit as StatementCredit;
    if (addresses.has(address)) return `credit of ${address}: stands twice`;
    addresses.add(address);
    sumSats += BigInt(creditSats);
  }
  return sumSats > MONEY_MAX_SATS ? 'credits: more than 21 million BTC in all' : null;
}

function blockErrorOf(value: unknown): string | null {
  if (!hasFields(value, ['hash', 'height', 'bits', 'foundAtMs'])) return 'block: wrong fields';
  if (!isText(value.hash, /^[0-9a-f]{64}$/)) return 'block: no hash';
  if (!isCount(value.height) || value.height > 0x7fffffff) return 'block: no height';
  if (
    !isText(value.bits, /^[0-9a-f]{8}$/) ||
    decodeBits(Number.parseInt(value.bits, 16)) === null
  ) {
    return 'block: no compact bits';
  }
  return isCount(value.foundAtMs) ? null : 'block: no time';
}

function windowErrorOf(value: unknown, version: StatementVersion): string | null {
  const fields = ['firstSeq', 'lastSeq', 'boundary', 'totalWork', 'wantedWork', 'rule'];
  if (version !== 1) fields.push('afterMs');
  if (!hasFields(value, fields)) return 'window: wrong fields';
  const { boundary, wantedWork, afterMs = null } = value;
  if (afterMs !== null && !isCount(afterMs)) return 'window: afterMs is no time';
  for (const key of ['firstSeq', 'lastSeq', 'totalWork'] as const) {
    if (!isInteger(value[key])) return `window: ${key} is no integer`;
  }
  if (wantedWork !== null && !isInteger(wantedWork)) return 'window: wantedWork is no integer';
  if (!isText(value.rule, /^.{1,1000}$/)) return 'window: no rule';
  if (boundary === null) return null;
  const parts = ['seq', 'work', 'countedWork'];
  if (!hasFields(boundary, parts) || !parts.every((key) => isInteger(boundary[key]))) {
    return 'window: the boundary has wrong fields';
  }
  return null;
}

/** The same for one credit. */
export function creditErrorOf(value: unknown): string | null {
  const fields = ['address', 'work', 'feePpm', 'donationPpm', 'creditSats'];
  if (isRecord(value) && Object.hasOwn(value, 'paidSats')) fields.push('paidSats');
  if (!hasFields(value, fields)) return 'credit: wrong fields';
  if (!isText(value.address, /^[0-9A-Za-z]{1,90}$/)) return 'credit: no address';
  for (const key of ['feePpm', 'donationPpm'] as const) {
    const ppm = value[key];
    if (!isCount(ppm) || ppm > PPM_MAX) return `credit of ${value.address}: no ${key}`;
  }
  if (!isInteger(value.work)) return `credit of ${value.address}: no work`;
  const isPaid = value.paidSats === undefined || isSats(value.paidSats);
  return isSats(value.creditSats) && isPaid ? null : `credit of ${value.address}: no amount`;
}

/** The same for a root, or any hash with the sum below it. */
export function rootErrorOf(value: unknown): string | null {
  const isRoot =
    hasFields(value, ['hash', 'sumSats']) &&
    isText(value.hash, /^[0-9a-f]{64}$/) &&
    isSats(value.sumSats);
  return isRoot ? null : 'root: no hash and sum';
}

/** An object with fields, no list. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function hasFields(value: unknown, fields: readonly string[]): value is Record<string, unknown> {
  if (!isRecord(value)) return false;
  const keys = Object.keys(value);
  return keys.length === fields.length && fields.every((field) => Object.hasOwn(value, field));
}

function isText(value: unknown, form: RegExp): value is string {
  return typeof value === 'string' && form.test(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** A whole number from 0, of at most 60 digits. */
function isInteger(value: unknown): value is string {
  return isText(value, /^(0|[1-9]\d{0,59})$/);
}

function isSats(value: unknown): value is string {
  return isText(value, /^(0|[1-9]\d{0,15})$/) && BigInt(value) <= MONEY_MAX_SATS;
}
