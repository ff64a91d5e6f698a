/**
 * The first byte of every extranonce1 that this gateway gives out, and the name that follows from it. INSTANCE_ID decides where it is
 * set. Else the byte is leased from the database once, for the identity of the data directory, and kept in a file there, so that later
 * starts need no database; while the gateway runs it is seen in the database every hour.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { readMigrations } from '../adapters/db/migrations.ts';
import { connectPostgres } from '../adapters/db/postgres.ts';
import { readFileIfAny, replaceFile } from '../adapters/files.ts';
import { StartError } from '../compose.ts';
import type { Db } from '../ports.ts';
import { LEASE_DAYS, type LeaseAnswer, takeGatewayLease } from '../store/gateways.ts';
import { migrate } from '../store/migrate.ts';
import { asStartError, EX_CONFIG, type Frame, type ServiceConfig } from './serve.ts';

const FILE = 'gateway.lease';
const EX_TEMPFAIL = 75;
const SEEN_MS = 3_600_000;
const SEEN_RETRY_MS = 60_000;
/** A lease that nobody has confirmed for longer may soon be another's: then the database is waited for. */
const TRUSTED_MS = (LEASE_DAYS - 5) * 86_400_000;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** What the file holds: `<identity> [<prefix> <confirmed at, ms since 1970>]`. */
type Kept = { identity: string; lease: { prefix: number; seenAtMs: number } | null };

export type GatewayPrefix = { prefix: number; name: string };

/**
 * The byte and the name of this gateway. Waits for the database when it has to be asked. Throws `StartError` when there is neither
 * INSTANCE_ID nor a database, or when all bytes are taken.
 */
export async function takeGatewayPrefix(
  frame: Frame,
  config: ServiceConfig,
): Promise<GatewayPrefix> {
  const { clock } = frame;
  const path = join(config.dataDir, FILE);
  const kept = readKept(path) ?? { identity: randomUUID(), lease: null };
  const nameOf = (prefix: number) =>
    config.instance.prefixBits > 0 ? config.instance.gateway : `${config.serviceName}-${prefix}`;
  const keep = (lease: Kept['lease']) => {
    kept.lease = lease;
    replaceFile(path, `${[kept.identity, lease?.prefix, lease?.seenAtMs].join(' ').trim()}\n`);
  };

  const ask = (wanted: number | null) =>
    askDatabase(frame, config, {
      identity: kept.identity,
      name: nameOf(wanted ?? 0),
      wanted,
    });

  if (config.instance.prefixBits > 0) {
    const { prefix } = config.instance;
    keep({ prefix, seenAtMs: clock.nowMs() });
    if (config.database.url !== null)
      beSeen(frame, async () => {
        const answer = await ask(prefix);
        if (answer.kind !== 'leased')
          frame.log.error(
            'INSTANCE_ID is also the number of another gateway: miners of the two get the same work',
            { instanceId: prefix, ...answer },
          );
      });
    return { prefix, name: nameOf(prefix) };
  }

  if (config.database.url === null && kept.lease === null)
    throw new StartError(
      'a gateway needs a number of its own: set INSTANCE_ID (0 to 255, another one for each gateway), or DATABASE_URL, from which it takes one',
      EX_CONFIG,
    );
  const isTrusted =
    kept.lease !== null &&
    (config.database.url === null || clock.nowMs() - kept.lease.seenAtMs < TRUSTED_MS);
  if (!isTrusted || kept.lease === null) {
    const answer = await frame.until('PostgreSQL, for the number of this gateway', () =>
      ask(kept.lease?.prefix ?? null),
    );
    if (answer.kind === 'full')
      throw new StartError(
        'all 256 numbers of gateways are taken: delete the rows of gateways that are gone from table gateway_leases',
        EX_CONFIG,
      );
    if (answer.kind === 'taken') {
      keep(null);
      throw new StartError(lostText(answer), EX_TEMPFAIL);
    }
    keep({ prefix: answer.prefix, seenAtMs: clock.nowMs() });
    frame.log.info('this gateway has its number', { prefix: answer.prefix });
  }
  const { prefix } = kept.lease!;
  if (config.database.url !== null)
    beSeen(frame, async () => {
      const answer = await ask(prefix);
      if (answer.kind === 'leased') return keep({ prefix, seenAtMs: clock.nowMs() });
      keep(null);
      if (answer.kind === 'taken') frame.fail(lostText(answer), EX_TEMPFAIL);
    });
  return { prefix, name: nameOf(prefix) };
}

function lostText({ prefix, name }: { prefix: number; name: string }): string {
  return `number ${prefix} of this gateway was given to ${name} meanwhile; the next start takes another`;
}

/** Now and every hour, in the background; the database may be away for as long as it likes. */
function beSeen(frame: Frame, look: () => Promise<void>): void {
  let timer: NodeJS.Timeout;
  async function run(): Promise<void> {
    let waitMs = SEEN_MS;
    try {
      await look();
    } catch (error) {
      waitMs = SEEN_RETRY_MS;
      frame.log.debug('the number of this gateway could not be confirmed', {
        reason: String(error),
      });
    }
    if (!frame.ending.aborted) timer = setTimeout(run, waitMs);
  }
  timer = setTimeout(run, 0);
  frame.keep('lease of the gateway', () => clearTimeout(timer));
}

async function askDatabase(
  { log }: Frame,
  config: ServiceConfig,
  gateway: Parameters<typeof takeGatewayLease>[1],
): Promise<LeaseAnswer> {
  let db: Db | null = null;
  try {
    db = await connectPostgres({
      connectionString: config.database.url ?? '',
      log,
      connectionsMax: 1,
      name: 'headframe stratumd',
    });
    await migrate({ db, log }, readMigrations());
    return await takeGatewayLease(db, gateway);
  } catch (error) {
    throw asStartError(error);
  } finally {
    await db?.stop();
  }
}

/** Null when there is none; a damaged file throws, because its number may be in use. */
function readKept(path: string): Kept | null {
  const text = readFileIfAny(path);
  if (text === null) return null;
  const [identity = '', prefix, seenAtMs] = text.trim().split(' ');
  const lease =
    prefix === undefined ? null : { prefix: Number(prefix), seenAtMs: Number(seenAtMs) };
  const isWhole =
    UUID.test(identity) &&
    (lease === null ||
      (Number.isInteger(lease.prefix) &&
        lease.prefix >= 0 &&
        lease.prefix < 256 &&
        Number.isSafeInteger(lease.seenAtMs)));
  if (!isWhole)
    throw new StartError(
      `${path} is damaged: delete it, and the gateway takes a new number`,
      EX_CONFIG,
    );
  return { identity, lease };
}
