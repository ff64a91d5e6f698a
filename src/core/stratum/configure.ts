/**
 * mining.configure, BIP310: what the miner asks, what we grant, and the answer with exactly the keys it asked for (WhatsMiner
 * M30S+ hangs up on others). Every odd form seen in the field is a value here, none is an error: a second parameter that is
 * null, an extension list that is a string, masks in upper case.
 */

import { decodeDecimal, decodeHex32 } from './number.ts';
import { encodeText, hex32 } from './reply.ts';

export type Configure = {
  /** Names as asked, in order, without repeats. */
  extensions: readonly string[];
  /** null: not a mask. Missing means all bits, as the BIP has it. */
  versionMask: number | null;
  versionBitsMin: number;
  /** null: not a positive finite number. */
  minimumDifficulty: number | null;
  /** From the info extension, printable and short. */
  info: string;
};

const NAME = /^[A-Za-z0-9._-]{1,32}$/;
const EXTENSIONS_MAX = 16;

/** Decodes [extensions, parameters]. Total. */
export function decodeConfigure(params: readonly unknown[]): Configure {
  const list = typeof params[0] === 'string' ? [params[0]] : params[0];
  const extensions: string[] = [];
  if (Array.isArray(list)) {
    for (const name of list) {
      if (typeof name !== 'string' || !NAME.test(name) || extensions.includes(name)) continue;
      if (extensions.length < EXTENSIONS_MAX) extensions.push(name);
    }
  }
  const values = new Map<string, unknown>(
    typeof params[1] === 'object' && params[1] !== null ? Object.entries(params[1]) : [],
  );
  return {
    extensions,
    versionMask: decodeMask(values.get('version-rolling.mask')),
    versionBitsMin: decodeCount(values.get('version-rolling.min-bit-count')),
    minimumDifficulty: decodeDifficulty(values.get('minimum-difficulty.value')),
    info: ['hw-version', 'sw-version', 'hw-id']
      .map((key) => printable(values.get(`info.${key}`), 32))
      .filter((text) => text !== '')
      .join(' '),
  };
}

/**
 * The mask granted: what both sides allow. 0 means "no version rolling": then the answer says false and no mask. Fewer bits
 * than `versionBitsMin` are granted all the same; BIP310 leaves it to the miner to work with less.
 */
export function grantMask(configure: Configure, poolMask: number): number {
  if (configure.versionMask === null || !configure.extensions.includes('version-rolling')) return 0;
  return (configure.versionMask & poolMask) >>> 0;
}

/** The result object as JSON, keys in the order asked. */
export function encodeConfigured(configure: Configure, mask: number): string {
  const fields: string[] = [];
  for (const name of configure.extensions) {
    if (name === 'version-rolling') {
      fields.push(`"version-rolling":${mask !== 0}`);
      if (mask !== 0) fields.push(`"version-rolling.mask":"${hex32(mask)}"`);
    } else if (name === 'minimum-difficulty') {
      fields.push(`"minimum-difficulty":${configure.minimumDifficulty !== null}`);
    } else if (name === 'subscribe-extranonce' || name === 'info') {
      fields.push(`"${name}":true`);
    } else {
      fields.push(`${encodeText(name)}:false`);
    }
  }
  return `{${fields.join(',')}}`;
}

/** Set bits of a mask. */
export function countBits(mask: number): number {
  let count = 0;
  for (let rest = mask >>> 0; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}

function decodeMask(raw: unknown): number | null {
  if (raw === undefined || raw === null) return 0xffffffff;
  if (typeof raw !== 'string') return null;
  const mask = decodeHex32(raw);
  return mask < 0 ? null : mask;
}

function decodeCount(raw: unknown): number {
  return typeof raw === 'number' && raw >= 0 && raw <= 32 ? Math.trunc(raw) : 0;
}

function decodeDifficulty(raw: unknown): number | null {
  const value = typeof raw === 'string' ? decodeDecimal(raw) : raw;
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : null;
}

/** Printable ASCII of a string, cut; empty for anything else. */
export function printable(raw: unknown, charsMax: number): string {
  if (typeof raw !== 'string') return '';
  let text = '';
  for (let index = 0; index < raw.length && text.length < charsMax; index += 1) {
    const code = raw.charCodeAt(index);
    if (code >= 0x20 && code <= 0x7e) text += raw[index];
  }
  return text;
}
