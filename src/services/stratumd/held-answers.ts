/**
 * Accepted shares whose `true` waits for the journal: sessions in the order of their tickets. A commit of the journal releases
 * everything up to its ticket, with one write per session.
 *
 * The share of a found block is acknowledged when journal and block lane both have it; answers behind it wait as well, some
 * milliseconds for each block found.
 */

import type { Session } from './session.ts';

/** Released entries are cut off the front when there are this many: moving a long tail for every commit would be quadratic. */
const CUT = 65_536;

/** A found block on its way into the lane. */
export type Bar = { ticket: number; untilMs: number; isLifted: boolean };

/** A lane that does not answer holds up miners for no longer: the share itself is in the journal, the lane keeps repeating. */
export const BAR_MS = 1_000;

export class HeldAnswers {
  #sessions: Session[] = [];
  #tickets: number[] = [];
  #from = 0;
  /** In the order of tickets; at most one for each block of the last second. */
  readonly #bars: Bar[] = [];
  #committed = 0;

  /** Answers that wait. Bounded by sessions times `heldAnswersMax`, and long before that by the journal's own maximum. */
  get count(): number {
    return this.#tickets.length - this.#from;
  }

  /** The newest held answer of the session waits for this ticket; tickets only grow. */
  add(session: Session, ticket: number): void {
    this.#sessions.push(session);
    this.#tickets.push(ticket);
  }

  /** Nothing from this ticket on is released before the bar is lifted. */
  bar(bar: Bar, ticket: number): void {
    bar.ticket = ticket;
    this.#bars.push(bar);
  }

  /** Some bar was lifted, or time has passed. */
  look(nowMs: number): void {
    const waited = this.#bars.length;
    while (this.#bars.length > 0 && (this.#bars[0]!.isLifted || this.#bars[0]!.untilMs <= nowMs))
      this.#bars.shift();
    if (this.#bars.length < waited) this.#release();
  }

  /** The journal has synced everything up to and including `ticket`. */
  release(ticket: number): void {
    this.#committed = ticket;
    this.#release();
  }

  #release(): void {
    const ticket = Math.min(this.#committed, (this.#bars[0]?.ticket ?? Infinity) - 1);
    const sessions = this.#sessions;
    const tickets = this.#tickets;
    const first = this.#from;
    let from = first;
    while (from < tickets.length && tickets[from]! <= ticket) {
      sessions[from]!.release();
      from += 1;
    }
    for (let index = first; index < from; index += 1) {
      const session = sessions[index]!;
      if (session.out === '' || session.closed) continue;
      const { out } = session;
      session.out = '';
      session.connection.write(out);
    }
    this.#from = from;
    if (from === tickets.length) {
      sessions.length = 0;
      tickets.length = 0;
      this.#from = 0;
    } else if (from > CUT) {
      this.#sessions = sessions.slice(from);
      this.#tickets = tickets.slice(from);
      this.#from = 0;
    }
  }
}
