/**
 * A gateway in small for the crash test: acknowledges shares as fast as the journal takes them, says each acknowledgement on
 * standard output, and ships to the private PostgreSQL. `drain` as second argument: no new shares, ends when all is shipped.
 */
import { randomBytes } from 'node:crypto';
import { writeSync } from 'node:fs';
import { join } from 'node:path';
import { createMemoryBus } from '../../src/adapters/bus/memory.ts';
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { lockDirectory } from '../../src/adapters/db/lock.ts';
import { readMigrations } from '../../src/adapters/db/migrations.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import { createDisk } from '../../src/adapters/disk.ts';
import { openJournal, openJournalReader } from '../../src/adapters/journal.ts';
import { foldInTypescript } from '../../src/core/work/fold.ts';
import { encodeShare } from '../../src/messages/codec.ts';
import { startShareLog } from '../../src/services/payoutd/sharelog.ts';
import { startShareproc } from '../../src/services/shareproc/shareproc.ts';
import { startShipper } from '../../src/services/shareproc/shipper.ts';
import { migrate } from '../../src/store/migrate.ts';
import { createSilentLog } from './silent-log.ts';

const dataDir = process.argv[2] as string;
const drain = process.argv[3] === 'drain';
const log = createSilentLog();
const clock = { nowMs: () => Date.now() };
if (!lockDirectory(dataDir).ok) process.exit(75);

const disk = createDisk();
const directory = join(dataDir, 'journal');
const journal = await openJournal({ disk, directory, log, clock, segmentBytesMax: 200_000 });
const waiting: { ticket: number; hash: string }[] = [];
journal.onCommitted = (ticket) => {
  let text = '';
  while (waiting[0] !== undefined && waiting[0].ticket <= ticket) {
    text += `${waiting.shift()?.hash}\n`;
  }
  writeSync(1, text);
};
let producing: NodeJS.Timeout | undefined;
if (!drain) {
  producing = setInterval(() => {
    for (let i = 0; i < 20; i++) {
      const headerHash = randomBytes(32);
      const ticket = journal.append(
        encodeShare({
          headerHash,
          jobId: 'ff',
          extranonce1: new Uint8Array(4),
          extranonce2: new Uint8Array(8),
          ntime: 1,
          nonce: 1,
          version: 1,
          difficulty: 2 ** -40,
          shareDifficulty: 1,
          account: 'account',
          worker: `rig${i}`,
          sessionId: 's',
          gateway: 'g',
          height: 1,
          acceptedAtMs: Date.now(),
          isBlock: false,
          pool: 'main',
          networkBits: 0x207fffff,
          jobValueSats: 5_000_000_000n,
          planId: '',
          coinbaseBytes: 0,
        }),
      );
      if (ticket > 0) waiting.push({ ticket, hash: headerHash.toString('hex') });
    }
  }, 2);
}

const postgres = await startEmbeddedPostgres({ dataDir, log });
const db = await connectPostgres({ ...postgres.connection, log });
await migrate({ db, log }, readMigrations());
const bus = createMemoryBus({ log });
const shareLog = await startShareLog({ bus, db, log, clock, meter: { count() {}, set() {} } });
const shareproc = await startShareproc(
  { bus, log, clock, hash: foldInTypescript },
  {
    network: 'regtest',
    coinbaseTag: '',
    pools: [{ id: 'main', coinbase: { mode: 'solo', fee: null } }],
  },
);
const source = await openJournalReader({
  disk,
  directory,
  log,
  committed: journal.committedPosition,
  recordsMax: 500,
});
const shipper = startShipper({ source, bus, log });
writeSync(1, 'running\n');

if (drain) {
  await shipper.stop(60_000);
  const rows = await db.query<{ header_hash: Uint8Array; seq: bigint }>(
    'SELECT header_hash, seq FROM shares ORDER BY seq',
  );
  for (const row of rows) writeSync(1, `${Buffer.from(row.header_hash).toString('hex')}\n`);
  const [letters] = await db.query<{ n: bigint }>('SELECT count(*) AS n FROM dead_letters');
  writeSync(1, `last ${rows.at(-1)?.seq ?? 0n} letters ${letters?.n}\n`);
  await shareproc.stop();
  await shareLog.stop();
  await bus.stop();
  await source.stop();
  await journal.stop();
  await db.stop();
  await postgres.stop();
  process.exit(0);
}
process.on('exit', () => clearInterval(producing));
