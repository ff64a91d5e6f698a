/**
 * Accepted shares whose `true` waits for the journal: sessions in the order of their tickets. A commit of the journal releases
 * everything up to its ticket, with one write per session.
 */

import type { Session } from './session.ts';

/** Released entries are cut off the front when there are this many: moving a long tail for every commit would be quadratic. */
const CUT = 65_536;

export class HeldAnswers {
  #sessions: Session[] = [];
  #tickets: number[] = [];
  #from = 0;

  /** Answers that wait. Bounded by sessions times `heldAnswersMax`, and long before that by the journal's own maximum. */
  get count(): number {
    return this.#tickets.length - this.#from;
  }

  /** The newest held answer of the session waits for this ticket; tickets only grow. */
  add(session: Session, ticket: number): void {
    this.#sessions.push(session);
    this.#tickets.push(ticket);
  }

  /** The journal has synced everything up to and including `ticket`. */
  release(ticket: number): void {
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
