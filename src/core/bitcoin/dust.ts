/**
 * The least an output may be worth: Bitcoin Core's dust rule, `GetDustThreshold` in `policy/policy.cpp`, at its default
 * `-dustrelayfee` of 3,000 satoshi per 1,000 virtual bytes. An output is dust when spending it would cost more than a third
 * of its value at that rate. Nothing is refused here: every script has a threshold, and that of one nobody can spend is 0.
 */

const DUST_RELAY_SATS_PER_VBYTE = 3n;
/** An input without witness: outpoint 36, script length 1, signature and key 107, sequence 4. */
const SPEND_BYTES = 32n + 4n + 1n + 107n + 4n;
/** The same with signature and key in the witness, where four bytes count as one. */
const WITNESS_SPEND_BYTES = 32n + 4n + 1n + 107n / 4n + 4n;

const OP_0 = 0x00;
const OP_1 = 0x51;
const OP_16 = 0x60;
const OP_RETURN = 0x6a;
/** Consensus: a longer script fails before it runs. */
const SCRIPT_BYTES_MAX = 10_000;

/**
 * Output script → the smallest value in satoshi that is not dust: P2WPKH 294, P2WSH and P2TR 330, P2SH 540, P2PKH 546; 0 for
 * OP_RETURN and for scripts too long to run.
 */
export function dustSats(script: Uint8Array): bigint {
  if (script[0] === OP_RETURN || script.length > SCRIPT_BYTES_MAX) return 0n;
  const spendBytes = isWitnessProgram(script) ? WITNESS_SPEND_BYTES : SPEND_BYTES;
  const outputBytes = 8n + (script.length < 0xfd ? 1n : 3n) + BigInt(script.length);
  return (outputBytes + spendBytes) * DUST_RELAY_SATS_PER_VBYTE;
}

/** BIP141: a version opcode, then one push of 2 to 40 bytes and nothing else. */
function isWitnessProgram(script: Uint8Array): boolean {
  if (script.length < 4 || script.length > 42) return false;
  const version = script[0]!;
  if (version !== OP_0 && (version < OP_1 || version > OP_16)) return false;
  return script[1] === script.length - 2;
}
