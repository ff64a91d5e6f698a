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

export function createKafkaHealth(log: Log): KafkaHealth {
  const parts = new Map<string, 'fine' | 'failed'>();
  let errors = 0;
  let lastError: string | null = null;

  return {
    failed(part, error) {
      errors += 1;
      lastError = reasonOf(error);
      if (parts.get(part) === 'failed') return;
      parts.set(part, 'failed');
      log.warn('Kafka does not answer as it should; it is tried again and again', {
        part,
        reason: lastError,
      });
    },
    fine(part) {
      if (parts.get(part) === 'fine') return;
      if (parts.get(part) === 'failed') log.info('Kafka answers again', { part });
      parts.set(part, 'fine');
    },
    forget: (part) => void parts.delete(part),
    isConnected: () => parts.size > 0 && [...parts.values()].every((state) => state === 'fine'),
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
