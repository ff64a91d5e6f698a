/**
 * IP addresses as bytes: strict decoding, canonical text, and ranges in CIDR form. IPv4-mapped IPv6 addresses become
 * plain IPv4, so that one miner has one name whichever socket family he arrived by. Refuses zone names, shortened IPv4
 * forms and leading zeros (which some parsers read as octal).
 */

/** A range of addresses: the first `bits` bits of `address` (4 or 16 bytes, internet order) are fixed. */
export type IpRange = { address: Uint8Array; bits: number };

/** Decodes an address; null unless it is exactly one IPv4 or IPv6 address. Answers 4 or 16 bytes, internet order. */
export function decodeIp(text: string): Uint8Array | null {
  if (text.length > 45) return null;
  if (!text.includes(':')) return decodeIpv4(text);
  const bytes = decodeIpv6(text);
  if (bytes === null) return null;
  return isMapped(bytes) ? bytes.slice(12) : bytes;
}

/** Canonical text of an address of 4 or 16 bytes (RFC 5952 for IPv6: lower case, longest zero run shortened). */
export function encodeIp(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.');
  const words: number[] = [];
  for (let at = 0; at < 16; at += 2) words.push((bytes[at]! << 8) | bytes[at + 1]!);
  const [from, size] = longestZeroRun(words);
  const hex = words.map((word) => word.toString(16));
  if (size < 2) return hex.join(':');
  return `${hex.slice(0, from).join(':')}::${hex.slice(from + size).join(':')}`;
}

/** Decodes `address/bits` or a bare address (which means the one address); null when it is neither. */
export function decodeIpRange(text: string): IpRange | null {
  const slash = text.indexOf('/');
  const address = decodeIp(slash < 0 ? text : text.slice(0, slash));
  if (address === null) return null;
  const bitsMax = address.length * 8;
  if (slash < 0) return { address, bits: bitsMax };
  const digits = text.slice(slash + 1);
  if (!/^\d{1,3}$/.test(digits)) return null;
  const bits = Number(digits);
  return bits <= bitsMax ? { address, bits } : null;
}

/** True when the address (4 or 16 bytes) lies in any of the ranges. */
export function isInRanges(address: Uint8Array, ranges: readonly IpRange[]): boolean {
  for (const range of ranges) if (isInRange(address, range)) return true;
  return false;
}

/** Text that is the same for all addresses sharing the first `bits` bits: the key of a table. */
export function prefixOf(address: Uint8Array, bits: number): string {
  let key = address.length === 4 ? '4' : '6';
  const whole = bits >> 3;
  for (let at = 0; at < whole; at++) key += String.fromCharCode(address[at]!);
  if ((bits & 7) !== 0) key += String.fromCharCode(address[whole]! & (0xff00 >> (bits & 7)));
  return key;
}

function isInRange(address: Uint8Array, range: IpRange): boolean {
  if (address.length !== range.address.length) return false;
  const whole = range.bits >> 3;
  for (let at = 0; at < whole; at++) if (address[at] !== range.address[at]) return false;
  if ((range.bits & 7) === 0) return true;
  const mask = 0xff & (0xff00 >> (range.bits & 7));
  return (address[whole]! & mask) === (range.address[whole]! & mask);
}

function decodeIpv4(text: string): Uint8Array | null {
  if (text.length > 15) return null;
  const bytes = new Uint8Array(4);
  let part = 0;
  let value = -1;
  for (let at = 0; at < text.length; at++) {
    const digit = text.charCodeAt(at) - 48;
    if (digit === -2) {
      if (value < 0 || part === 3) return null;
      bytes[part++] = value;
      value = -1;
    } else {
      // A zero in front of a digit is octal to some parsers: refused.
      if (digit < 0 || digit > 9 || value === 0) return null;
      value = value < 0 ? digit : 10 * value + digit;
      if (value > 255) return null;
    }
  }
  if (part !== 3 || value < 0) return null;
  bytes[3] = value;
  return bytes;
}

function decodeIpv6(text: string): Uint8Array | null {
  const halves = text.split('::');
  if (halves.length > 2) return null;
  const head = decodeGroups(halves[0]!, halves.length === 1);
  if (head === null) return null;
  if (halves.length === 1) return head.length === 16 ? Uint8Array.from(head) : null;
  const tail = decodeGroups(halves[1]!, true);
  if (tail === null || head.length + tail.length > 14) return null;
  const bytes = new Uint8Array(16);
  bytes.set(head, 0);
  bytes.set(tail, 16 - tail.length);
  return bytes;
}

/** Groups of hex between colons; the last may be dotted IPv4 when `isLast`. */
function decodeGroups(text: string, isLast: boolean): number[] | null {
  if (text === '') return [];
  const groups = text.split(':');
  const bytes: number[] = [];
  for (let at = 0; at < groups.length; at++) {
    const group = groups[at]!;
    if (isLast && at === groups.length - 1 && group.includes('.')) {
      const dotted = decodeIpv4(group);
      if (dotted === null) return null;
      bytes.push(...dotted);
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return null;
      const value = Number.parseInt(group, 16);
      bytes.push(value >> 8, value & 0xff);
    }
  }
  return bytes;
}

function isMapped(bytes: Uint8Array): boolean {
  for (let at = 0; at < 10; at++) if (bytes[at] !== 0) return false;
  return bytes[10] === 0xff && bytes[11] === 0xff;
}

function longestZeroRun(words: readonly number[]): [from: number, size: number] {
  let best: [number, number] = [0, 0];
  let from = 0;
  for (let at = 0; at <= words.length; at++) {
    if (at < words.length && words[at] === 0) continue;
    if (at - from > best[1]) best = [from, at - from];
    from = at + 1;
  }
  return best;
}
