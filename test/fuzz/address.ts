/**
 * Fuzz target: `decodeAddress` on texts near real addresses and far from them. It must never throw, and what it accepts must
 * be written back as exactly the canonical text it names.
 *
 * Longer: `node test/fuzz/address.ts <seed> <iterations>`.
 */
import { decodeAddress, encodeAddress } from '../../src/core/bitcoin/address.ts';
import { equalBytes } from '../../src/core/bitcoin/bytes.ts';
import { NETWORKS, type Network } from '../../src/core/bitcoin/network.ts';
import { createRandom, type Random } from '../tools/random.ts';

const SEEDS = [
  '1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa',
  '3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy',
  'mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn',
  'bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4',
  'BC1SW50QGDZ25J',
  'bc1pfeessrawgf',
  'bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0',
  'tb1qqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesrxh6hy',
  'bcrt1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqc8gma6',
  'bitcoin:1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa?amount=1',
  '',
];
const PIECES = [
  '1',
  'bc1',
  'tb1',
  'bcrt1',
  'q',
  'p',
  'Q',
  '\u0000',
  '\u0441',
  '\u{1f600}',
  '\ud800',
  ' ',
  'z',
];
const NETWORK_NAMES = Object.keys(NETWORKS) as Network[];

/** Runs `iterations` inputs from `seed`; throws on the first broken promise. Returns how many were accepted. */
export function fuzz(seed: number, iterations: number): number {
  const random = createRandom(seed);
  let accepted = 0;
  for (let i = 0; i < iterations; i++) {
    const network = random.pick(NETWORK_NAMES);
    const text = i % 8 === 0 ? freshAddress(random, network) : mutate(random, random.pick(SEEDS));
    const answer = decodeAddress(text, network);
    if (!answer.ok) {
      if (answer.reason.length === 0 || answer.reason.length > 200)
        throw new Error(`reason of ${JSON.stringify(text)}`);
      continue;
    }
    accepted += 1;
    const again = decodeAddress(answer.canonical, network);
    const stable =
      encodeAddress(answer.script, network) === answer.canonical &&
      again.ok &&
      equalBytes(again.script, answer.script) &&
      [text, text.toLowerCase()].includes(answer.canonical);
    if (!stable) throw new Error(`not stable: ${JSON.stringify(text)} on ${network}`);
  }
  return accepted;
}

function freshAddress(random: Random, network: Network): string {
  const long = random.below(2) === 1;
  const program = random.bytes(long ? 32 : 20);
  const script = Uint8Array.of(
    long && random.below(2) === 1 ? 0x51 : 0,
    program.length,
    ...program,
  );
  const text = encodeAddress(script, network)!;
  return random.below(3) === 0 ? text.toUpperCase() : text;
}

function mutate(random: Random, text: string): string {
  const rounds = random.below(4);
  for (let i = 0; i < rounds; i++) {
    const at = random.below(text.length + 1);
    const end = Math.min(text.length, at + random.below(4));
    const piece =
      random.below(3) === 0 ? random.pick(PIECES) : String.fromCharCode(random.below(0x80));
    text = text.slice(0, at) + piece.repeat(random.below(20) === 0 ? 100 : 1) + text.slice(end);
  }
  return text;
}

if (import.meta.main) {
  const [seed = String(Date.now() >>> 0), iterations = '1000000'] = process.argv.slice(2);
  console.log(
    `address: seed ${seed}, ${iterations} inputs, ${fuzz(Number(seed), Number(iterations))} accepted`,
  );
}
