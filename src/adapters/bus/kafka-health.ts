/**
 * How the parts of the Kafka bus are: each says when it failed and when it is fine again. The log hears of the change, not of every
 * repeat, because a broker that is away is tried for ever.
 */
import type { Log } from '../../ports.ts';

export type KafkaHealth = {
  failed(part: string, error: unknown): void;
  fine(part: string): void;
  /** A part that ended: nothing is known of it any more. */
  forget(part: string): void;
  /** Every part that was heard of is fine, and at least one was. */
  isConnected(): boolean;
  errors(): number;
  lastError(): string | null;
};

/** Shorter troubles, a coordinator that is chosen or a leader that moves, are no news. */
const QUIET_MS = 2_000;

type Trouble = { sinceMs: number; isSaid: boolean };

export function createKafkaHealth(log: Log): KafkaHealth {
  /** Null: fine. */
  const parts = new Map<string, Trouble | null>();
  let errors = 0;
  let lastError: string | null = null;

  return {
    failed(part, error) {
      errors += 1;
      lastError = reasonOf(error);
      const nowMs = performance.now();
      const trouble = parts.get(part) ?? { sinceMs: nowMs, isSaid: false };
      parts.set(part, trouble);
      if (trouble.isSaid || nowMs - trouble.sinceMs < QUIET_MS) return;
      trouble.isSaid = true;
      log.warn('Kafka does not answer as it should; it is tried again and again', {
        part,
        reason: lastError,
      });
    },
    fine(part) {
      if (parts.get(part)?.isSaid) log.info('Kafka answers again', { part });
      parts.set(part, null);
    },
    forget: (part) => void parts.delete(part),
    isConnected: () => parts.size > 0 && [...parts.values()].every((trouble) => trouble === null),
    errors: () => errors,
    lastError: () => lastError,
  };
}

/** The client wraps errors in errors; the innermost say what happened. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) {
    return reasonOf(error.errors.at(-1));
  }
  if (error instanceof Error) {
    return error.cause instanceof Error
      ? `${error.message} ${reasonOf(error.cause)}`
      : error.message;
  }
  return String(error);
}
