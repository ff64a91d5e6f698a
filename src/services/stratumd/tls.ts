/**
 * Certificates of the Stratum door. With files configured: read, checked as a pair, and read again on SIGHUP or when
 * they change; a bad new pair keeps the old one and warns. With none: a self-signed P-256 certificate is made once and
 * kept, so that TLS works with nothing configured (miners do not check names; the point is that nobody on the line can
 * read or rewrite shares). TLS 1.2 and later, no renegotiation.
 */
import { constants, X509Certificate } from 'node:crypto';
import { chmod, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { createSecureContext, type SecureContext } from 'node:tls';
import { generate } from 'selfsigned';
import type { Log } from '../../ports.ts';

export type TlsOptions = {
  /** PEM files: certificate chain and private key. Null: a self-signed pair under `directory`. */
  files: { certificate: string; key: string } | null;
  /** Where the self-signed pair is kept. */
  directory: string;
};

/** The certificate in use; `context` changes when it is reloaded. */
export type Certificates = {
  readonly context: SecureContext;
  /** SHA-256 of the certificate, colon-separated upper-case hex, as browsers show it. */
  readonly fingerprint: string;
  readonly notAfter: Date;
  /** Reads the files again. True when a new pair is in use; false when it is the same or the new one is bad. */
  reload(): Promise<boolean>;
  /** Reloads when a file's time or size has changed. To be called now and then. */
  reloadIfChanged(): Promise<void>;
};

type Pair = { certificate: string; key: string; stamp: string };

const SELF_SIGNED_DAYS = 3650;

/**
 * Loads or makes the certificate. Rejects with an error that names the file and the setting when configured files can
 * not be used; a damaged self-signed pair is replaced.
 */
export async function loadCertificates(
  tools: { log: Log },
  options: TlsOptions,
): Promise<Certificates> {
  const { log } = tools;
  const paths = options.files ?? {
    certificate: join(options.directory, 'stratum-cert.pem'),
    key: join(options.directory, 'stratum-key.pem'),
  };
  let pair: Pair;
  let inUse: ReturnType<typeof build>;
  if (options.files === null) {
    try {
      pair = await readPair(paths);
      inUse = build(pair);
    } catch {
      await makeSelfSigned(options.directory, paths);
      log.info('made a self-signed certificate for Stratum over TLS', { file: paths.certificate });
      pair = await readPair(paths);
      inUse = build(pair);
    }
  } else {
    try {
      pair = await readPair(paths);
      inUse = build(pair);
    } catch (error) {
      throw new Error(
        'the TLS certificate can not be used ' +
          `(settings TLS_CERT_FILE = ${paths.certificate}, TLS_KEY_FILE = ${paths.key}): ` +
          reasonOf(error),
      );
    }
  }

  /** The stamp of files that were refused, so that one bad pair is reported once. */
  let refusedStamp = '';

  async function reload(): Promise<boolean> {
    try {
      const next = await readPair(paths);
      if (next.stamp === pair.stamp) return false;
      refusedStamp = next.stamp;
      inUse = build(next);
      pair = next;
      log.info('TLS certificate reloaded', {
        file: paths.certificate,
        notAfter: inUse.notAfter.toISOString(),
      });
      return true;
    } catch (error) {
      log.warn('the new TLS certificate can not be used, the old one stays', {
        file: paths.certificate,
        reason: reasonOf(error),
      });
      return false;
    }
  }

  return {
    get context() {
      return inUse.context;
    },
    get fingerprint() {
      return inUse.fingerprint;
    },
    get notAfter() {
      return inUse.notAfter;
    },
    reload,
    async reloadIfChanged() {
      const stamp = await stampOf(paths).catch(() => pair.stamp);
      if (stamp === pair.stamp || stamp === refusedStamp) return;
      refusedStamp = stamp;
      await reload();
    },
  };
}

async function readPair(paths: { certificate: string; key: string }): Promise<Pair> {
  const stamp = await stampOf(paths);
  const certificate = await readFile(paths.certificate, 'utf8');
  const key = await readFile(paths.key, 'utf8');
  return { certificate, key, stamp };
}

async function stampOf(paths: { certificate: string; key: string }): Promise<string> {
  const certificate = await stat(paths.certificate);
  const key = await stat(paths.key);
  return [certificate.mtimeMs, certificate.size, key.mtimeMs, key.size].join(':');
}

/** Throws when certificate and key do not decode or do not belong together. */
function build(pair: Pair): { context: SecureContext; fingerprint: string; notAfter: Date } {
  const certificate = new X509Certificate(pair.certificate);
  const context = createSecureContext({
    cert: pair.certificate,
    key: pair.key,
    minVersion: 'TLSv1.2',
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_CIPHER_SERVER_PREFERENCE,
  });
  return {
    context,
    fingerprint: certificate.fingerprint256,
    notAfter: new Date(certificate.validTo),
  };
}

async function makeSelfSigned(
  directory: string,
  paths: { certificate: string; key: string },
): Promise<void> {
  const notBeforeDate = new Date(Date.now() - 86_400_000);
  const notAfterDate = new Date(notBeforeDate.getTime() + SELF_SIGNED_DAYS * 86_400_000);
  const made = await generate([{ name: 'commonName', value: 'headframe' }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
    notBeforeDate,
    notAfterDate,
    // Marked as its own authority and named for every address of this machine, so that a client can be told to trust
    // exactly this file (cpuminer: --cert) and its check of the name passes.
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', digitalSignature: true, keyCertSign: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames: namesOfThisMachine() },
    ],
  });
  await mkdir(directory, { recursive: true, mode: 0o700 });
  // Written aside and renamed, key first: a crash leaves no certificate without its key.
  for (const [path, text] of [
    [paths.key, made.private],
    [paths.certificate, made.cert],
  ] as const) {
    await writeFile(`${path}.new`, text, { mode: 0o600 });
    await chmod(`${path}.new`, 0o600);
    await rename(`${path}.new`, path);
  }
}

/** Alternative names of the certificate: loopback, the host's name, its addresses (at most 64). */
function namesOfThisMachine(): ({ type: 2; value: string } | { type: 7; ip: string })[] {
  const addresses = new Set(['127.0.0.1', '::1']);
  for (const links of Object.values(networkInterfaces())) {
    for (const { address } of links ?? []) if (!address.includes('%')) addresses.add(address);
  }
  const names = new Set(['localhost']);
  if (/^[A-Za-z0-9.-]{1,63}$/.test(hostname())) names.add(hostname());
  return [
    ...[...names].map((value) => ({ type: 2 as const, value })),
    ...[...addresses].slice(0, 64).map((ip) => ({ type: 7 as const, ip })),
  ];
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
