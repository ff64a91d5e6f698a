/**
 * JSON as Bitcoin Core's RPC speaks it: amounts are decimal numbers with eight places which must survive exactly, so
 * neither direction may pass through a binary float. Reading keeps the source text of every number that is not a safe
 * integer (`ExactNumber`); writing prints satoshis with `JSON.rawJSON`. Refuses nothing itself except broken JSON.
 */

/** A JSON number that a double cannot be trusted with: its text as it stood in the request. */
export class ExactNumber {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** Bodies above this are parsed without keeping number texts: only blocks are this big, and they carry no amounts. */
const exactParseCharsMax = 1_000_000;

type ReviverContext = { source?: string };
const parseWithSource = JSON.parse as (
  text: string,
  reviver: (key: string, value: unknown, context: ReviverContext) => unknown,
) => unknown;

/** Parses a request body. Numbers that are not safe integers arrive as `ExactNumber`. Throws SyntaxError. */
export function parseJson(text: string): unknown {
  if (text.length > exactParseCharsMax) return JSON.parse(text);
  return parseWithSource(text, (_key, value, context) =>
    typeof value === 'number' &&
    context.source !== undefined &&
    !(Number.isSafeInteger(value) && /^-?\d+$/.test(context.source))
      ? new ExactNumber(context.source)
      : value,
  );
}

const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON;

/** A JSON value that prints satoshis as bitcoin with exactly eight decimals, the way Core prints amounts. */
export function amountJson(sats: bigint): unknown {
  return rawJson(formatAmount(sats));
}

/** A JSON value that prints an integer of any size as a plain number. */
export function integerJson(value: bigint): unknown {
  return rawJson(value.toString());
}

/** Satoshis as bitcoin text, eight decimals, no exponent: `150n` → `"0.00000150"`. */
export function formatAmount(sats: bigint): string {
  const negative = sats < 0n;
  const digits = (negative ? -sats : sats).toString().padStart(9, '0');
  return `${negative ? '-' : ''}${digits.slice(0, -8)}.${digits.slice(-8)}`;
}

/**
 * Reads an amount in bitcoin, given as a JSON number or a decimal string, into satoshis. Exact: more than eight
 * decimals, exponents that leave fractions of a satoshi and anything else is `null` (Core: "Invalid amount").
 */
export function parseAmount(value: unknown): bigint | null {
  const text =
    value instanceof ExactNumber
      ? value.text
      : typeof value === 'number'
        ? String(value)
        : typeof value === 'string'
          ? value
          : null;
  if (text === null || text.length > 40) return null;
  const match = /^(-?)(\d{1,17})(?:\.(\d{1,17}))?(?:[eE]([+-]?\d{1,2}))?$/.exec(text);
  if (!match) return null;
  const fraction = match[3] ?? '';
  const scale = 8 - fraction.length + Number(match[4] ?? '0');
  const mantissa = BigInt(match[2] + fraction);
  let sats: bigint;
  if (scale >= 0) sats = mantissa * 10n ** BigInt(scale);
  else {
    const divisor = 10n ** BigInt(-scale);
    if (mantissa % divisor !== 0n) return null;
    sats = mantissa / divisor;
  }
  return match[1] ? -sats : sats;
}
