/**
 * One miner's connection as the gateway sees it: numbers and short strings, no closures, no timers.
 */

import type { Connection } from './options.ts';

export class Session {
  readonly connection: Connection;
  /** Set by the gateway when the session is over; the door stops reading lines then. */
  closed = false;
  authorized = false;

  constructor(connection: Connection) {
    this.connection = connection;
  }

  /** Longest line the door may pass on: small until a worker is authorized. */
  lineBytesMax = 2_048;
}
