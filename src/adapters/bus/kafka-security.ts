/**
 * How the client meets a broker: encrypted or in the open, and as whom. Certificates are read again for every connection, so that new
 * ones need no restart; a pair that does not fit together yet is passed over for the one before.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { createSecureContext, type SecureContext, type SecureContextOptions } from 'node:tls';
import type { ConnectionOptions } from '@platformatic/kafka';
import type { Log } from '../../ports.ts';

/** Plain data, so that it can be posted to a thread. Holds a password. */
export type KafkaSecurity = {
  /** Null: not encrypted. */
  tls: KafkaTls | null;
  /** Null: as nobody, or as whom the client certificate names. */
  sasl: { mechanism: SaslMechanism; username: string; password: string } | null;
};

/** PEM files. */
export type KafkaTls = {
  /** Who signed the brokers' certificates. Null: one of those that Node trusts. */
  caFile: string | null;
  /** What the client shows of itself. */
  client: { certFile: string; keyFile: string } | null;
};

export type SaslMechanism = 'PLAIN' | 'SCRAM-SHA-256' | 'SCRAM-SHA-512';

/** What the client is to be opened with. */
export function connectionOptions(
  security: KafkaSecurity,
  brokers: readonly string[],
  log: Log,
): Pick<ConnectionOptions, 'tls' | 'tlsServerName' | 'sasl'> {
  const { tls, sasl } = security;
  return {
    ...(sasl === null ? {} : { sasl: { ...sasl } }),
    ...(tls === null
      ? {}
      : { tls: refreshedContext(tls, log), tlsServerName: brokers.every(isNamed) }),
  };
}

/** Not by a number: only a name can be told to the broker ahead of its certificate, and one in front of many needs it. */
export function isNamed(broker: string): boolean {
  return isIP(broker.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')) === 0;
}

/** The client copies these options for each connection; that is when the files are read. */
function refreshedContext(files: KafkaTls, log: Log): { readonly secureContext: SecureContext } {
  const { caFile, client } = files;
  const authorities = lastGood(log, () =>
    caFile === null ? {} : { ca: readFileSync(caFile, 'utf8') },
  );
  const ours = lastGood(log, () =>
    client === null
      ? {}
      : { cert: readFileSync(client.certFile, 'utf8'), key: readFileSync(client.keyFile, 'utf8') },
  );
  return {
    get secureContext() {
      return createSecureContext({ ...authorities(), ...ours(), minVersion: 'TLSv1.2' });
    },
  };
}

/** What can be used of what is read; when it can not, what could be before, and a line in the log. */
function lastGood(log: Log, read: () => SecureContextOptions): () => SecureContextOptions {
  let good: SecureContextOptions = {};
  let said: string | null = null;
  return () => {
    try {
      const fresh = read();
      createSecureContext(fresh);
      good = fresh;
      said = null;
    } catch (error) {
      const { message } = error as Error;
      if (message !== said)
        log.warn('a certificate for Kafka can not be used, the one before stays', {
          reason: message,
        });
      said = message;
    }
    return good;
  };
}
