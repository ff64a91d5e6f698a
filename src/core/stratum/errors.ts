/**
 * Every answer that is not a yes, in one closed table: the field's code, the text the miner sees, and the points it adds to
 * the session's ban score. Codes as in slush's Stratum and ckpool: 20 other, 21 stale or unknown job, 22 duplicate, 23 low
 * difficulty, 24 unauthorized, 25 not subscribed; −3 unknown method as DATUM and slush use it.
 */

export type StratumError = { code: 20 | 21 | 22 | 23 | 24 | 25 | -3; text: string; points: number };

export const STRATUM_ERRORS = {
  // Shape of the line
  'parse-error': { code: 20, text: 'parse error', points: 10 },
  'object-expected': { code: 20, text: 'object expected', points: 10 },
  batch: { code: 20, text: 'batch not supported', points: 5 },
  'method-required': { code: 20, text: 'method required', points: 5 },
  params: { code: 20, text: 'params must be an array', points: 5 },
  'params-many': { code: 20, text: 'too many params', points: 5 },
  'keys-many': { code: 20, text: 'too many keys', points: 10 },
  'too-deep': { code: 20, text: 'nested too deep', points: 10 },
  'method-long': { code: 20, text: 'method name too long', points: 5 },
  'method-unknown': { code: -3, text: 'method not found', points: 1 },
  'method-backwards': { code: -3, text: 'method goes from server to client', points: 5 },
  // Session
  'not-subscribed': { code: 25, text: 'not subscribed', points: 5 },
  'subscribed-often': { code: 20, text: 'subscribed too often', points: 50 },
  'no-extranonce': { code: 20, text: 'no extranonce free, try again later', points: 0 },
  draining: { code: 20, text: 'pool is restarting, reconnect', points: 0 },
  'username-invalid': { code: 24, text: 'invalid username: expected ADDRESS.worker', points: 5 },
  'split-invalid': {
    code: 24,
    text: 'bad split: expected ADDRESS*60,ADDRESS*40.worker, up to 8',
    points: 2,
  },
  'worker-name': { code: 24, text: 'bad worker name: letters, digits, _ . - up to 64', points: 2 },
  'workers-many': { code: 24, text: 'too many workers on one connection', points: 10 },
  'address-second': {
    code: 24,
    text: 'one payout address per connection: blocks here pay their finder',
    points: 0,
  },
  'slow-down': { code: 24, text: 'too many authorize requests, slow down', points: 1 },
  'suggest-type': { code: 20, text: 'difficulty must be a number', points: 1 },
  // Shares
  unauthorized: { code: 24, text: 'unauthorized worker', points: 5 },
  'worker-unknown': { code: 24, text: 'worker not authorized on this connection', points: 2 },
  'submit-params': { code: 20, text: 'submit needs 5 or 6 string params', points: 5 },
  'extranonce2-length': { code: 20, text: 'extranonce2 must be 16 hex digits', points: 5 },
  'extranonce2-hex': { code: 20, text: 'extranonce2 is not hex', points: 10 },
  nonce: { code: 20, text: 'nonce must be up to 8 hex digits', points: 10 },
  ntime: { code: 20, text: 'ntime must be up to 8 hex digits', points: 10 },
  'version-bits': { code: 20, text: 'version bits must be up to 8 hex digits', points: 5 },
  'version-mask': { code: 20, text: 'version bits outside the mask', points: 5 },
  'version-unasked': { code: 20, text: 'version rolling was not negotiated', points: 5 },
  'ntime-range': { code: 20, text: 'ntime out of range', points: 2 },
  'ntime-absurd': { code: 20, text: 'ntime out of range', points: 5 },
  'job-unknown': { code: 21, text: 'job not found', points: 2 },
  'job-unknown-free': { code: 21, text: 'job not found', points: 0 },
  stale: { code: 21, text: 'stale job', points: 0 },
  // Firmware that sends every share twice (NerdQAxe, bosminer) must live: the accepted one pays this point back.
  duplicate: { code: 22, text: 'duplicate share', points: 1 },
  'low-difficulty': { code: 23, text: 'low difficulty share', points: 1 },
  rate: { code: 20, text: 'rate of shares too high, difficulty was raised', points: 0 },
  storage: { code: 20, text: 'pool storage unavailable', points: 0 },
  'no-work': { code: 20, text: 'no work', points: 0 },
} as const satisfies Record<string, StratumError>;

export type StratumErrorName = keyof typeof STRATUM_ERRORS;
