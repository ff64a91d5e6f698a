/**
 * The Stratum V1 gateway without sockets, timers or a clock: lines in, lines out, time handed in. Sessions, jobs, judging,
 * acknowledging. BIP 310 and the Stratum V1 of slush, ckpool and the firmware that grew up with them.
 */

import type { Job } from '../../core/work/job.ts';
import type { Connection, GatewayOptions, GatewayTools } from './options.ts';
import type { Session } from './session.ts';

export class Gateway {
  readonly #tools: GatewayTools;
  readonly #options: GatewayOptions;

  constructor(tools: GatewayTools, options: GatewayOptions) {
    this.#tools = tools;
    this.#options = options;
  }

  open(connection: Connection, nowMs: number): Session {
    void [connection, nowMs, this.#tools, this.#options];
    throw new Error('the gateway is being built');
  }
  line(session: Session, text: string, nowMs: number): void {
    void [session, text, nowMs];
  }
  flush(session: Session): void {
    void session;
  }
  closed(session: Session, nowMs: number): void {
    void [session, nowMs];
  }
  tick(nowMs: number): void {
    void nowMs;
  }
  setJob(job: Job): void {
    void job;
  }
  committed(ticket: number): void {
    void ticket;
  }
  drain(nowMs: number): void {
    void nowMs;
  }
}
