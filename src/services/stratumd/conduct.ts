/**
 * How a session is treated that sends bad things: an error answer, points, and the end when there are too many (promise P37:
 * an address only answers for sessions that never sent a valid share).
 */

import { STRATUM_ERRORS, type StratumErrorName } from '../../core/stratum/errors.ts';
import { encodeError } from '../../core/stratum/reply.ts';
import type { RequestId } from '../../core/stratum/request.ts';
import type { GatewayOptions, GatewayTools, Quirk } from './options.ts';
import type { Roster } from './roster.ts';
import type { Session } from './session.ts';
import type { SessionTime } from './time.ts';

export class Conduct {
  readonly #tools: GatewayTools;
  readonly #options: GatewayOptions;
  readonly #time: SessionTime;
  readonly #roster: Roster;

  constructor(
    tools: GatewayTools & { time: SessionTime; roster: Roster },
    options: GatewayOptions,
  ) {
    this.#tools = tools;
    this.#options = options;
    this.#time = tools.time;
    this.#roster = tools.roster;
  }

  /** An error answer and its points; the session ends when it has too many. */
  fail(session: Session, id: RequestId, error: StratumErrorName): void {
    session.say(encodeError(id, error));
    this.blame(session, STRATUM_ERRORS[error].points);
  }

  /** Points for the session; the source address only answers for sessions that never sent a valid share. */
  blame(session: Session, points: number): void {
    if (points === 0 || session.closed) return;
    const { limits } = this.#options;
    const score = session.addScore(points, limits.scoreDecayPerMinute, this.#time.nowMs);
    if (!session.proven) this.#tools.blame(session.connection.remoteAddress, points);
    if (score >= limits.scoreMax) this.close(session, 'too much bad input');
  }

  /** Counts a departure from the rules that is tolerated. */
  quirk(name: Quirk): void {
    const { quirks } = this.#tools.metrics;
    quirks.set(name, (quirks.get(name) ?? 0) + 1);
  }

  /** Says what there is to say, then closes from our side. */
  close(session: Session, reason: string): void {
    if (session.closed) return;
    if (session.out !== '') {
      session.connection.write(session.out);
      session.out = '';
    }
    this.#roster.countClose(reason);
    this.#roster.remove(session);
    session.connection.close(reason);
  }
}
