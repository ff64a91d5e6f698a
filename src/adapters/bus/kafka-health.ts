/**
 * How the parts of the Kafka bus are: each says when it failed and when it is fine again. The log hears of the change, not of every
 * repeat, because a broker that is away is tried for ever.
 */
import type { Log } from '../../ports.ts';

export type KafkaHealth = {
  failed(part: string, error: unknown): void;
  fine(part: string): void;
  /** What befell a connection and is told to nobody who used it: why they failed next, if it is a refusal. */
  overhear(error: unknown): void;
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
  let overheard: unknown = null;

  return {
    failed(part, failure) {
      const error = overheard !== null && !isRefusal(failure) ? overheard : failure;
      overheard = null;
      errors += 1;
      lastError = reasonOf(error);
      const nowMs = performance.now();
      const trouble = parts.get(part) ?? { sinceMs: nowMs, isSaid: false };
      parts.set(part, trouble);
      if (isRefusal(error) && !trouble.isSaid) {
        trouble.isSaid = true;
        log.error('Kafka does not let us in; it is tried again and again', {
          part,
          reason: lastError,
        });
      }
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
      overheard = null;
    },
    overhear(error) {
      if (isRefusal(error)) overheard = error;
    },
    forget: (part) => void parts.delete(part),
    isConnected: () => parts.size > 0 && [...parts.values()].every((trouble) => trouble === null),
    errors: () => errors,
    lastError: () => lastError,
  };
}

/** What a broker refuses whoever comes like this, and what is to be looked at, by how the client and OpenSSL put it. */
const REFUSALS: readonly [RegExp, string][] = [
  [
    /^SASL_AUTHENTICATION_FAILED$|^Invalid server signature/,
    'user or password is refused: KAFKA_USERNAME, KAFKA_PASSWORD, and whether KAFKA_SASL_MECHANISM is the one they are for',
  ],
  [
    /^UNSUPPORTED_SASL_MECHANISM$/,
    'this way of proving who we are is not offered: KAFKA_SASL_MECHANISM',
  ],
  [
    /^ILLEGAL_SASL_STATE$/,
    'nobody is asked for a password at this port: KAFKA_SASL_MECHANISM, or the port in KAFKA_BROKERS',
  ],
  [/^Broker requires TLS/, 'this port is encrypted: KAFKA_TLS=on'],
  [
    /^TLS handshake failed|^ERR_SSL_(WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG)$/,
    'this port is not encrypted: KAFKA_TLS, or the port in KAFKA_BROKERS',
  ],
  [
    /^(UNABLE_TO_VERIFY_LEAF_SIGNATURE|UNABLE_TO_GET_ISSUER_CERT(_LOCALLY)?|SELF_SIGNED_CERT_IN_CHAIN|DEPTH_ZERO_SELF_SIGNED_CERT)$/,
    'its certificate is signed by nobody who is trusted: KAFKA_TLS_CA_FILE',
  ],
  [/^ERR_TLS_CERT_ALTNAME_INVALID$/, 'its certificate is for another name: KAFKA_BROKERS'],
  [/^CERT_(HAS_EXPIRED|NOT_YET_VALID)$/, 'its certificate is out of date'],
  [
    /^ERR_SSL_(TLSV13_ALERT_CERTIFICATE_REQUIRED|.*_ALERT_(BAD_CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE|CERTIFICATE_UNKNOWN|CERTIFICATE_EXPIRED))$/,
    'our certificate is refused, or we have none: KAFKA_TLS_CERT_FILE',
  ],
];

/** A person has to mend it, here or over there; being tried again does no harm. */
export function isRefusal(error: unknown): boolean {
  return refusalOf(error) !== null;
}

function refusalOf(error: unknown): string | null {
  if (!(error instanceof Error)) return null;
  const { apiId, code } = error as { apiId?: unknown; code?: unknown };
  for (const [sign, words] of REFUSALS) {
    const signs = [apiId, code, error.message].filter((one) => typeof one === 'string');
    if (signs.some((one) => sign.test(one))) return words;
  }
  const inner = error instanceof AggregateError ? error.errors : [];
  return [error.cause, ...inner].map(refusalOf).find((words) => words !== null) ?? null;
}

/** The client wraps errors in errors; the innermost say what happened. */
export function reasonOf(error: unknown): string {
  const refusal = refusalOf(error);
  if (refusal !== null) return refusal;
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
