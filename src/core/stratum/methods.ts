/**
 * The methods a miner may call, and those that only go the other way. A Map, never an object: names come from outside.
 */

export type Method =
  | 'submit'
  | 'subscribe'
  | 'authorize'
  | 'configure'
  | 'suggest-difficulty'
  | 'suggest-target'
  | 'extranonce-subscribe'
  | 'ping'
  | 'pong'
  | 'transactions'
  | 'accepted'
  | 'term'
  | 'backwards';

export const METHODS: ReadonlyMap<string, Method> = new Map<string, Method>([
  ['mining.submit', 'submit'],
  ['mining.subscribe', 'subscribe'],
  ['mining.authorize', 'authorize'],
  ['mining.auth', 'authorize'],
  ['mining.configure', 'configure'],
  ['mining.suggest_difficulty', 'suggest-difficulty'],
  ['mining.suggest_target', 'suggest-target'],
  ['mining.extranonce.subscribe', 'extranonce-subscribe'],
  ['mining.ping', 'ping'],
  // Bitaxe answers a ping of the pool with a request of this name.
  ['pong', 'pong'],
  ['mining.pong', 'pong'],
  ['mining.get_transactions', 'transactions'],
  ['mining.get_txnhashes', 'transactions'],
  // bmminer of the S9 and NiceHash's draft: nothing to do, an error would make them leave.
  ['mining.multi_version', 'accepted'],
  ['mining.capabilities', 'accepted'],
  ['mining.term', 'term'],
  ['mining.notify', 'backwards'],
  ['mining.set_difficulty', 'backwards'],
  ['mining.set_extranonce', 'backwards'],
  ['mining.set_version_mask', 'backwards'],
  ['mining.set_goal', 'backwards'],
  ['client.reconnect', 'backwards'],
  ['client.show_message', 'backwards'],
  ['client.get_version', 'backwards'],
]);

const SUGGEST_CALL = 'mining.suggest_difficulty(';

/** The method of a name, and the argument some old clients put into it; null when there is no such method. */
export function findMethod(name: string): { method: Method; argument: string | null } | null {
  const method = METHODS.get(name);
  if (method !== undefined) return { method, argument: null };
  if (name.startsWith(SUGGEST_CALL) && name.endsWith(')')) {
    return { method: 'suggest-difficulty', argument: name.slice(SUGGEST_CALL.length, -1).trim() };
  }
  return null;
}
