/**
 * Numbers as miners write them in text, decoded strictly: `parseInt` would take "1fzz", `Number` would take "" and "0x10".
 */

const DECIMAL = /^[0-9]{1,24}(?:\.[0-9]{0,24})?(?:[eE][+-]?[0-9]{1,3})?$/;
const SCALES = new Map([
  ['k', 1e3],
  ['K', 1e3],
  ['M', 1e6],
  ['G', 1e9],
  ['T', 1e12],
]);

/** A non-negative decimal, with exponent or one of k M G T behind it; null for anything else or not finite. */
export function decodeDecimal(text: string): number | null {
  if (text.length === 0 || text.length > 32) return null;
  const scale = SCALES.get(text[text.length - 1]!);
  const digits = scale === undefined ? text : text.slice(0, -1);
  if (!DECIMAL.test(digits)) return null;
  const value = Number(digits) * (scale ?? 1);
  return Number.isFinite(value) ? value : null;
}

/**
 * Up to eight hex digits of either case, with or without `0x`, as an unsigned number; −1 for anything else. Missing leading
 * zeros are what NerdMiner sends once in sixteen shares.
 */
export function decodeHex32(text: string): number {
  let from = 0;
  const length = text.length;
  if (length > 2 && text.charCodeAt(0) === 48 && (text.charCodeAt(1) | 32) === 120) from = 2;
  if (length - from > 8 || length === from) return -1;
  let value = 0;
  for (let index = from; index < length; index += 1) {
    const digit = hexDigit(text.charCodeAt(index));
    if (digit < 0) return -1;
    value = (value << 4) | digit;
  }
  return value >>> 0;
}

/** 0 to 15, or −1. */
export function hexDigit(code: number): number {
  if (code >= 48 && code <= 57) return code - 48;
  code |= 32;
  return code >= 97 && code <= 102 ? code - 87 : -1;
}
