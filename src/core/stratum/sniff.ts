/**
 * Which protocol speaks, told by the first bytes, so that one port can take plain Stratum, TLS, the PROXY protocol and a
 * lost browser. Works on any prefix down to a single byte and asks for more only while two answers are still possible.
 * Other protocols that knock on open ports (SSH, RDP, SMB, Redis, MQTT, SOCKS) are named, so that they can be counted
 * and hung up on without a word.
 */

/** `more`: undecided, at most `SNIFF_BYTES_MAX` bytes are ever needed. `foreign`: not ours, close silently. */
export type Sniffed =
  | { kind: 'more' }
  | { kind: 'stratum' }
  | { kind: 'tls' }
  | { kind: 'http' }
  | { kind: 'proxy' }
  | { kind: 'foreign'; protocol: string };

/** Every decision falls within this many bytes (the PROXY v2 signature is the longest). */
export const SNIFF_BYTES_MAX = 12;

/** First bytes of a PROXY protocol v2 header (haproxy's proxy-protocol.txt, section 2.2). */
export const PROXY_V2_SIGNATURE: Uint8Array = Uint8Array.of(
  0x0d,
  0x0a,
  0x0d,
  0x0a,
  0x00,
  0x0d,
  0x0a,
  0x51,
  0x55,
  0x49,
  0x54,
  0x0a,
);

const MORE: Sniffed = { kind: 'more' };
const STRATUM: Sniffed = { kind: 'stratum' };
const TLS: Sniffed = { kind: 'tls' };
const HTTP: Sniffed = { kind: 'http' };
const PROXY: Sniffed = { kind: 'proxy' };

const WORDS: readonly (readonly [bytes: Uint8Array, answer: Sniffed])[] = [
  [PROXY_V2_SIGNATURE, PROXY],
  [ascii('PROXY '), PROXY],
  [ascii('GET '), HTTP],
  [ascii('HEAD '), HTTP],
  [ascii('POST '), HTTP],
  [ascii('PUT '), HTTP],
  [ascii('DELETE '), HTTP],
  [ascii('OPTIONS '), HTTP],
  [ascii('PATCH '), HTTP],
  [ascii('TRACE '), HTTP],
  [ascii('CONNECT '), HTTP],
  [ascii('PRI * HTTP/2'), HTTP],
  [ascii('SSH-'), { kind: 'foreign', protocol: 'ssh' }],
];

/** Protocols that give themselves away by a first byte no Stratum line can have. */
const FIRST_BYTES: ReadonlyMap<number, Sniffed> = new Map<number, Sniffed>([
  [0x16, TLS],
  [0x00, { kind: 'foreign', protocol: 'smb' }],
  [0x03, { kind: 'foreign', protocol: 'rdp' }],
  [0x04, { kind: 'foreign', protocol: 'socks' }],
  [0x05, { kind: 'foreign', protocol: 'socks' }],
  [0x10, { kind: 'foreign', protocol: 'mqtt' }],
  [0x2a, { kind: 'foreign', protocol: 'redis' }],
]);

/**
 * Names the protocol of a connection from the first bytes it sent.
 * @param bytes everything received so far, from the first byte on; may be empty
 * @returns `more` only while a longer prefix could still change the answer
 */
export function sniff(bytes: Uint8Array): Sniffed {
  const first = bytes[0];
  if (first === undefined) return MORE;
  const known = FIRST_BYTES.get(first);
  if (known !== undefined) return known;
  let undecided = false;
  for (const [word, answer] of WORDS) {
    const size = Math.min(word.length, bytes.length);
    let same = 0;
    while (same < size && bytes[same] === word[same]) same++;
    if (same === word.length) return answer;
    if (same === bytes.length) undecided = true;
  }
  if (undecided) return MORE;
  const isControl = first < 0x20 && first !== 0x0a && first !== 0x0d && first !== 0x09;
  if (isControl) return { kind: 'foreign', protocol: 'binary' };
  if (first >= 0x80 && first !== 0xef) return { kind: 'foreign', protocol: 'binary' };
  return STRATUM;
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}
