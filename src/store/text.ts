/** Text from miners on its way into PostgreSQL, which takes every character but NUL, and how much of it is kept. */

/** An address, or a split of eight with their weights. */
export const ADDRESS_MAX = 512;
export const POOL_MAX = 16;

/** U+FFFD for NUL and for lone surrogates; at most `charactersMax` UTF-16 units. */
export function storableText(text: string, charactersMax: number): string {
  return text.slice(0, charactersMax).replaceAll('\0', '\ufffd').toWellFormed();
}
