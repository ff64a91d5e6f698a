/**
 * Lines to the miner. Every function returns one whole line of plain ASCII with its newline, ready to be joined with others
 * into one write. `id` first, as ckpool and the oldest parsers have it.
 */

import { STRATUM_ERRORS, type StratumErrorName } from './errors.ts';
import type { RequestId } from './request.ts';

const ERROR_TAILS = new Map<StratumErrorName, string>(
  (Object.keys(STRATUM_ERRORS) as StratumErrorName[]).map((name) => {
    const { code, text } = STRATUM_ERRORS[name];
    return [name, `,"result":null,"error":[${code},${JSON.stringify(text)},null]}\n`];
  }),
);

/** An id as JSON, non-ASCII escaped. */
export function encodeId(id: RequestId): string {
  if (typeof id === 'number') return String(id);
  return id === null ? 'null' : encodeText(id);
}

/** A string as a JSON literal in ASCII. */
export function encodeText(text: string): string {
  const json = JSON.stringify(text);
  for (let index = 0; index < json.length; index += 1) {
    if (json.charCodeAt(index) > 0x7e) return escapeAll(json);
  }
  return json;
}

/** `{"id":…,"result":true,"error":null}` */
export function encodeTrue(id: RequestId): string {
  return '{"id":' + encodeId(id) + ',"result":true,"error":null}\n';
}

/** A reply whose result is already JSON. */
export function encodeResult(id: RequestId, resultJson: string): string {
  return '{"id":' + encodeId(id) + ',"result":' + resultJson + ',"error":null}\n';
}

/** A refusal from the closed table. */
export function encodeError(id: RequestId, name: StratumErrorName): string {
  return '{"id":' + encodeId(id) + ERROR_TAILS.get(name);
}

/**
 * The subscribe result: subscriptions with the session id (what a client sends back to resume), extranonce1 as 8 hex digits and
 * the size of extranonce2 in bytes.
 */
export function encodeSubscribed(
  id: RequestId,
  {
    sessionId,
    extranonce1,
    extranonce2Bytes,
  }: { sessionId: string; extranonce1: string; extranonce2Bytes: number },
): string {
  const result = `[[["mining.set_difficulty","${sessionId}"],["mining.notify","${sessionId}"]],"${extranonce1}",${extranonce2Bytes}]`;
  return encodeResult(id, result);
}

/** mining.set_difficulty; a plain JSON number. */
export function encodeSetDifficulty(difficulty: number): string {
  return '{"id":null,"method":"mining.set_difficulty","params":[' + difficulty + ']}\n';
}

/** mining.set_extranonce (NiceHash): takes effect with the next job. */
export function encodeSetExtranonce(extranonce1: string, extranonce2Bytes: number): string {
  return `{"id":null,"method":"mining.set_extranonce","params":["${extranonce1}",${extranonce2Bytes}]}\n`;
}

/** mining.set_version_mask (BIP310). Never called with 0: that switches rolling off in ESP-Miner and others. */
export function encodeSetVersionMask(mask: number): string {
  return `{"id":null,"method":"mining.set_version_mask","params":["${hex32(mask)}"]}\n`;
}

/** client.reconnect. Without host the miner comes back to where it was; Bitaxe ignores host and port anyway. */
export function encodeReconnect(
  target: { host: string; port: number } | null,
  waitSeconds: number,
): string {
  const params = target === null ? '' : `${encodeText(target.host)},${target.port},${waitSeconds}`;
  return `{"id":null,"method":"client.reconnect","params":[${params}]}\n`;
}

/** client.show_message. */
export function encodeShowMessage(text: string): string {
  return `{"id":null,"method":"client.show_message","params":[${encodeText(text)}]}\n`;
}

/** client.get_version, a request of ours: the answer carries `id`. */
export function encodeGetVersion(id: number): string {
  return `{"id":${id},"method":"client.get_version","params":[]}\n`;
}

/** 8 hex digits, lower case, most significant first. */
export function hex32(value: number): string {
  return (value >>> 0).toString(16).padStart(8, '0');
}

function escapeAll(json: string): string {
  let escaped = '';
  for (let index = 0; index < json.length; index += 1) {
    const code = json.charCodeAt(index);
    escaped += code > 0x7e ? '\\u' + code.toString(16).padStart(4, '0') : json[index];
  }
  return escaped;
}
