/**
 * The PROXY protocol, versions 1 (text) and 2 (binary): the true address of a miner behind haproxy, nginx, stunnel or a
 * cloud balancer. Spec: haproxy's doc/proxy-protocol.txt. Total: any bytes give an answer. Refuses lines above 107
 * bytes, addresses that do not decode, unknown commands and families it would have to guess.
 *
 *   v1  PROXY TCP4|TCP6|UNKNOWN <source> <destination> <source port> <destination port> CR LF
 *   v2  signature (12) | version and command (1) | family (1) | length (2, big-endian) | addresses, then TLVs (length)
 */
import { decodeIp, encodeIp } from './ip.ts';
import { PROXY_V2_SIGNATURE } from './sniff.ts';

/**
 * `ok`: `bytes` long, the miner's address in canonical text, or null where the balancer speaks for itself (LOCAL,
 * UNKNOWN: keep the socket's own address). `more`: not complete yet. `bad`: hang up.
 */
export type ProxyHeader =
  | { kind: 'ok'; bytes: number; source: string | null }
  | { kind: 'more' }
  | { kind: 'bad'; reason: string };

/** Longest header accepted; more TLVs than this are nobody's balancer. */
export const PROXY_HEADER_BYTES_MAX = 1024;

const V1_BYTES_MAX = 107;
const V2_FIXED_BYTES = 16;
const MORE: ProxyHeader = { kind: 'more' };

/** Reads the header that a stream begins with. `bytes` holds everything received so far, from the first byte on. */
export function decodeProxyHeader(bytes: Uint8Array): ProxyHeader {
  if (bytes.length === 0) return MORE;
  return bytes[0] === PROXY_V2_SIGNATURE[0] ? decodeV2(bytes) : decodeV1(bytes);
}

function decodeV1(bytes: Uint8Array): ProxyHeader {
  const end = bytes.subarray(0, V1_BYTES_MAX).indexOf(0x0a);
  if (end < 0) return bytes.length >= V1_BYTES_MAX ? bad('line too long') : MORE;
  if (end < 1 || bytes[end - 1] !== 0x0d) return bad('line does not end in CR LF');
  let line = '';
  for (let at = 0; at < end - 1; at++) {
    const byte = bytes[at]!;
    if (byte < 0x20 || byte > 0x7e) return bad('line is not plain text');
    line += String.fromCharCode(byte);
  }
  const words = line.split(' ');
  if (words[0] !== 'PROXY') return bad('line does not begin with PROXY');
  if (words[1] === 'UNKNOWN') return { kind: 'ok', bytes: end + 1, source: null };
  const isV4 = words[1] === 'TCP4';
  if ((!isV4 && words[1] !== 'TCP6') || words.length !== 6) return bad('unknown family');
  const source = isV4 === words[2]!.includes(':') ? null : decodeIp(words[2]!);
  const destination = isV4 === words[3]!.includes(':') ? null : decodeIp(words[3]!);
  if (source === null || destination === null) return bad('address does not decode');
  if (!isPort(words[4]!) || !isPort(words[5]!)) return bad('port does not decode');
  return { kind: 'ok', bytes: end + 1, source: encodeIp(source) };
}

function decodeV2(bytes: Uint8Array): ProxyHeader {
  const size = Math.min(bytes.length, PROXY_V2_SIGNATURE.length);
  for (let at = 0; at < size; at++) {
    if (bytes[at] !== PROXY_V2_SIGNATURE[at]) return bad('wrong signature');
  }
  if (bytes.length < V2_FIXED_BYTES) return MORE;
  const command = bytes[12]!;
  const family = bytes[13]!;
  const length = (bytes[14]! << 8) | bytes[15]!;
  const total = V2_FIXED_BYTES + length;
  if (command !== 0x20 && command !== 0x21) return bad('unknown version or command');
  if (total > PROXY_HEADER_BYTES_MAX) return bad('header too long');
  if (bytes.length < total) return MORE;
  if (command === 0x20) return { kind: 'ok', bytes: total, source: null };
  if (family === 0x00) return { kind: 'ok', bytes: total, source: null };
  const addressBytes = family === 0x11 ? 4 : family === 0x21 ? 16 : 0;
  if (addressBytes === 0) return bad('not TCP');
  if (length < 2 * addressBytes + 4) return bad('addresses cut short');
  const address = bytes.slice(V2_FIXED_BYTES, V2_FIXED_BYTES + addressBytes);
  // Through the text once more, so that a mapped IPv4 address gets its one name.
  const source = decodeIp(encodeIp(address));
  return source === null
    ? bad('address does not decode')
    : { kind: 'ok', bytes: total, source: encodeIp(source) };
}

function isPort(text: string): boolean {
  return /^(0|[1-9]\d{0,4})$/.test(text) && Number(text) <= 65535;
}

function bad(reason: string): ProxyHeader {
  return { kind: 'bad', reason };
}
