import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { createDisk } from '../../src/adapters/disk.ts';
import {
  type Journal,
  type JournalOptions,
  openJournal,
  openJournalReader,
  scanRecords,
} from '../../src/adapters/journal.ts';
import { type CrashDisk, createCrashDisk } from '../tools/crash-disk.ts';
import { createSilentLog } from '../tools/silent-log.ts';

const DIRECTORY = '/journal';

/** mulberry32: small, and the same everywhere. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await turn();
}

/** Timers that wait for nothing, so that no test sleeps. */
const TIMERS = {
  soon: (work: () => void) => void setImmediate(work),
  after: (_delayMs: number, work: () => void) => {
    const handle = setImmediate(work);
    return () => clearImmediate(handle);
  },
};

function optionsFor(disk: CrashDisk, more: Partial<JournalOptions> = {}): JournalOptions {
  return {
    disk,
    directory: DIRECTORY,
    log: createSilentLog(),
    clock: { nowMs: () => 0 },
    timers: TIMERS,
    batchMs: 0,
    ...more,
  };
}

async function readAll(
  disk: CrashDisk,
  journal: Journal,
  batchBytesMax?: number,
): Promise<{ records: string[]; position: number; skippedBytes: number }> {
  const reader = await openJournalReader({
    disk,
    directory: DIRECTORY,
    log: createSilentLog(),
    committed: journal.committedPosition,
    ...(batchBytesMax === undefined ? {} : { batchBytesMax }),
  });
  const records: string[] = [];
  let position = 0;
  let skippedBytes = 0;
  for (;;) {
    const batch = await reader.next();
    if (batch === null) break;
    assert.ok(batch.position > position, 'positions grow');
    position = batch.position;
    skippedBytes += batch.skippedBytes;
    for (const record of batch.records) records.push(Buffer.from(record).toString('latin1'));
  }
  await reader.stop();
  return { records, position, skippedBytes };
}

const record = (text: string): Uint8Array => Buffer.from(text, 'latin1');

test('what is committed is read, in order, across segments and restarts', async () => {
  const disk = createCrashDisk(randomFrom(1));
  const expected: string[] = [];
  for (let run = 0; run < 3; run++) {
    const journal = await openJournal(optionsFor(disk, { segmentBytesMax: 300 }));
    let committed = 0;
    journal.onCommitted = (ticket) => {
      committed = ticket;
    };
    for (let i = 1; i <= 50; i++) {
      const text = `run ${run} record ${i} ${'x'.repeat(i)}`;
      assert.equal(journal.append(record(text)), i);
      expected.push(text);
      if (i % 7 === 0) await turns(6);
    }
    await journal.stop();
    assert.equal(committed, 50);
    assert.equal(journal.append(record('late')), -1);
  }
  const journal = await openJournal(optionsFor(disk));
  assert.deepEqual((await readAll(disk, journal)).records, expected);
  await journal.stop();
});

test('an append in an idle journal is committed without waiting, and a turn shares one commit', async () => {
  const disk = createCrashDisk(randomFrom(2));
  const journal = await openJournal(optionsFor(disk, { batchMs: 5 }));
  const tickets: number[] = [];
  journal.onCommitted = (ticket) => tickets.push(ticket);
  for (let i = 0; i < 100; i++) journal.append(record('a'));
  await turns(20);
  assert.deepEqual(tickets, [100]);
  assert.equal(journal.figures().commits, 1);
  await journal.stop();
});

test('empty and oversized records are refused and leave no trace', async () => {
  const disk = createCrashDisk(randomFrom(3));
  const journal = await openJournal(optionsFor(disk));
  assert.equal(journal.append(new Uint8Array(0)), -1);
  assert.equal(journal.append(new Uint8Array(65_537)), -1);
  assert.equal(journal.append(new Uint8Array(65_536).fill(65)), 1);
  await journal.stop();
  const again = await openJournal(optionsFor(disk));
  assert.deepEqual((await readAll(disk, again)).records, ['A'.repeat(65_536)]);
});

test('shipped records do not come again, and their segments go', async () => {
  const disk = createCrashDisk(randomFrom(4));
  const journal = await openJournal(optionsFor(disk, { segmentBytesMax: 100 }));
  for (let i = 0; i < 40; i++) {
    journal.append(record(`record ${i}`));
    await turns(8);
  }
  const reader = await openJournalReader({
    disk,
    directory: DIRECTORY,
    log: createSilentLog(),
    committed: journal.committedPosition,
    recordsMax: 10,
  });
  const first = await reader.next();
  assert.ok(first);
  assert.ok(first.records.length > 0);
  const before = disk.paths().length;
  let read = first.records.length;
  let last = first;
  while (read < 20) {
    const batch = await reader.next();
    assert.ok(batch);
    read += batch.records.length;
    last = batch;
  }
  await reader.markShipped(last.position);
  assert.ok(disk.paths().length < before);
  // Unmarked records come again after a rewind.
  const following = await reader.next();
  reader.rewind();
  const repeated = await reader.next();
  assert.deepEqual(repeated?.records, following?.records);
  await reader.stop();
  await journal.stop();

  const again = await openJournal(optionsFor(disk));
  const left = await readAll(disk, again);
  assert.equal(left.records.length, 40 - read);
  assert.equal(left.records[0], `record ${read}`);
});

test('a broken note of what was shipped means that everything is shipped again', async () => {
  const disk = createCrashDisk(randomFrom(5));
  const journal = await openJournal(optionsFor(disk));
  journal.append(record('one'));
  await turns(10);
  const reader = await openJournalReader({
    disk,
    directory: DIRECTORY,
    log: createSilentLog(),
    committed: journal.committedPosition,
  });
  const batch = await reader.next();
  await reader.markShipped(batch?.position ?? 0);
  await journal.stop();
  for (const broken of ['', '12', '99999999 00000000\n', '\0'.repeat(1024)]) {
    disk.setContent(`${DIRECTORY}/shipped`, record(broken));
    const again = await openJournal(optionsFor(disk));
    assert.deepEqual((await readAll(disk, again)).records, ['one']);
    await again.stop();
  }
});

describe('a full journal', () => {
  test('refuses until enough was shipped', async () => {
    const disk = createCrashDisk(randomFrom(6));
    const journal = await openJournal(optionsFor(disk, { unshippedBytesMax: 2_000 }));
    let accepted = 0;
    while (journal.append(new Uint8Array(100).fill(66)) > 0) {
      accepted++;
      await turns(4);
      assert.ok(accepted < 100);
    }
    assert.equal(journal.state(), 'full');
    assert.ok(accepted >= 18);
    const reader = await openJournalReader({
      disk,
      directory: DIRECTORY,
      log: createSilentLog(),
      committed: journal.committedPosition,
    });
    const batch = await reader.next();
    assert.equal(batch?.records.length, accepted);
    await reader.markShipped(batch?.position ?? 0);
    assert.equal(journal.state(), 'ok');
    assert.ok(journal.append(record('again')) > 0);
    await journal.stop();
    await reader.stop();
  });

  test('refuses when the disk hangs and memory is used up', async () => {
    const disk = createCrashDisk(randomFrom(7));
    const journal = await openJournal(optionsFor(disk, { pendingBytesMax: 2_000 }));
    disk.fail({ operation: 'datasync', kind: 'hang' });
    let accepted = 0;
    while (journal.append(new Uint8Array(100).fill(67)) > 0) {
      accepted++;
      if (accepted === 3) await turns(4);
      assert.ok(accepted < 100);
    }
    assert.equal(journal.state(), 'full');
    assert.ok(journal.figures().pendingBytes <= 2_000);
  });
});

describe('a failing disk', () => {
  for (const fault of [
    { operation: 'datasync', kind: 'EIO' },
    { operation: 'write', kind: 'EIO' },
    { operation: 'write', kind: 'ENOSPC' },
    { operation: 'write', kind: 'short' },
  ] as const) {
    test(`${fault.kind} on ${fault.operation}: nothing is acknowledged, then everything is`, async () => {
      const disk = createCrashDisk(randomFrom(8));
      const journal = await openJournal(optionsFor(disk));
      let committed = 0;
      journal.onCommitted = (ticket) => {
        committed = ticket;
      };
      journal.append(record('before'));
      await turns(10);
      assert.equal(committed, 1);
      disk.fail(fault);
      journal.append(record('during'));
      await turns(30);
      assert.equal(committed, 1);
      assert.equal(journal.state(), 'failed');
      assert.equal(journal.append(record('refused')), -1);
      disk.heal();
      await turns(30);
      assert.equal(committed, 2);
      assert.equal(journal.state(), 'ok');
      journal.append(record('after'));
      await turns(10);
      const all = await readAll(disk, journal);
      assert.deepEqual(
        all.records.filter((text, at) => all.records.indexOf(text) === at),
        ['before', 'during', 'after'],
      );
      await journal.stop();
      disk.losePower();
      const again = await openJournal(optionsFor(disk));
      const kept = new Set((await readAll(disk, again)).records);
      for (const text of ['before', 'during', 'after']) assert.ok(kept.has(text), text);
    });
  }

  test('a sync that failed once is not believed the second time', async () => {
    const disk = createCrashDisk(randomFrom(9));
    const journal = await openJournal(optionsFor(disk));
    journal.append(record('before'));
    await turns(10);
    const synced: string[] = [];
    disk.onOperation((operation, path) => {
      if (operation === 'datasync') synced.push(path);
    });
    disk.fail({ operation: 'datasync', kind: 'EIO', times: 1 });
    journal.append(record('one'));
    await turns(40);
    assert.equal(journal.state(), 'ok');
    const failed = synced[0];
    assert.equal(synced.filter((path) => path === failed).length, 1);
    await journal.stop();
  });

  test('space that returns is used', async () => {
    const disk = createCrashDisk(randomFrom(10));
    disk.setCapacity(2_000);
    const journal = await openJournal(optionsFor(disk, { segmentBytesMax: 300 }));
    let committed = 0;
    journal.onCommitted = (ticket) => {
      committed = ticket;
    };
    let last = 0;
    for (let i = 0; i < 30; i++) {
      const ticket = journal.append(new Uint8Array(60).fill(68));
      if (ticket > 0) last = ticket;
      await turns(6);
    }
    assert.equal(journal.state(), 'failed');
    assert.ok(committed < last || journal.append(record('x')) === -1);
    disk.setCapacity(100_000);
    await turns(30);
    assert.equal(journal.state(), 'ok');
    assert.equal(committed, last);
    assert.equal((await readAll(disk, journal)).records.length, last);
    await journal.stop();
  });
});

test('memory mode acknowledges without a sync, and writes all the same', async () => {
  const disk = createCrashDisk(randomFrom(11));
  const journal = await openJournal(optionsFor(disk, { mode: 'memory' }));
  let syncs = 0;
  disk.onOperation((operation) => {
    if (operation === 'datasync') syncs++;
  });
  let committed = 0;
  journal.onCommitted = (ticket) => {
    committed = ticket;
  };
  journal.append(record('one'));
  await turns(10);
  assert.equal(committed, 1);
  assert.equal(syncs, 0);
  disk.killProcess();
  const again = await openJournal(optionsFor(disk));
  assert.deepEqual((await readAll(disk, again)).records, ['one']);
});

test('whatever the moment: an acknowledged record survives a crash, and none is invented', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.nat({ max: 2 ** 31 }),
      fc.array(
        fc.record({
          appends: fc.integer({ min: 1, max: 40 }),
          crashAfter: fc.integer({ min: 1, max: 60 }),
          power: fc.boolean(),
          fault: fc.option(
            fc.constantFrom(
              { operation: 'datasync', kind: 'EIO', times: 1 } as const,
              { operation: 'write', kind: 'short', times: 2 } as const,
              { operation: 'write', kind: 'EIO', times: 1 } as const,
              { operation: 'create', kind: 'ENOSPC', times: 1 } as const,
              { operation: 'syncDirectory', kind: 'EIO', times: 1 } as const,
            ),
          ),
          ship: fc.boolean(),
        }),
        { minLength: 1, maxLength: 5 },
      ),
      async (seed, lives) => {
        const random = randomFrom(seed);
        const disk = createCrashDisk(random);
        const appended = new Set<string>();
        const acknowledged = new Set<string>();
        const shipped = new Set<string>();
        let highest = 0;
        for (const [life, plan] of lives.entries()) {
          let dead = false;
          const journal = await openJournal(
            optionsFor(disk, {
              segmentBytesMax: 400,
              salt: () => Math.floor(random() * 2 ** 32),
            }),
          );
          const begin = Number(new BigInt64Array(journal.committedPosition)[0]);
          assert.ok(begin > highest, 'positions never come twice');
          const texts = new Map<number, string>();
          let announced = 0;
          journal.onCommitted = (ticket) => {
            // What a dead process would have said, nobody heard.
            if (dead) return;
            for (let i = announced + 1; i <= ticket; i++) {
              const text = texts.get(i);
              if (text !== undefined) acknowledged.add(text);
            }
            announced = ticket;
          };
          const reader = await openJournalReader({
            disk,
            directory: DIRECTORY,
            log: createSilentLog(),
            committed: journal.committedPosition,
            recordsMax: 9,
          });
          if (plan.fault) disk.fail(plan.fault);
          let operations = 0;
          disk.onOperation(() => {
            operations++;
            if (operations === plan.crashAfter) {
              dead = true;
              if (plan.power) disk.losePower();
              else disk.killProcess();
            }
          });
          for (let i = 0; i < plan.appends && !dead; i++) {
            const text = `${life}/${i} ${'y'.repeat(Math.floor(random() * 90))}`;
            const ticket = journal.append(record(text));
            if (ticket > 0) {
              appended.add(text);
              texts.set(ticket, text);
            }
            if (random() < 0.4) await turns(3);
          }
          const busy = (async () => {
            for (;;) {
              const batch = await reader.next();
              if (batch === null) return;
              highest = Math.max(highest, batch.position);
              const read = batch.records.map((bytes) => Buffer.from(bytes).toString('latin1'));
              for (const text of read) assert.ok(appended.has(text), 'invented');
              if (!plan.ship) continue;
              // Marked means safe elsewhere from before the mark.
              for (const text of read) shipped.add(text);
              await reader.markShipped(batch.position);
            }
          })();
          await Promise.race([busy, turns(40)]);
          const end = Number(new BigInt64Array(journal.committedPosition)[0]);
          if (end > begin) highest = Math.max(highest, end);
          if (!dead) {
            dead = true;
            if (plan.power) disk.losePower();
            else disk.killProcess();
          }
          disk.onOperation(null);
          disk.heal();
        }
        const journal = await openJournal(optionsFor(disk));
        const all = await readAll(disk, journal);
        const kept = new Set([...shipped, ...all.records]);
        for (const text of acknowledged) assert.ok(kept.has(text), `lost ${text}`);
        for (const text of all.records) assert.ok(appended.has(text), `invented ${text}`);
        await journal.stop();
      },
    ),
    { numRuns: 150 },
  );
});

test('damage costs the records it hits and no others', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 80 }), { minLength: 2, maxLength: 30 }),
      fc.nat(),
      fc.array(fc.nat({ max: 255 }), { minLength: 1, maxLength: 60 }),
      fc.boolean(),
      async (payloads, where, noise, cut) => {
        const disk = createCrashDisk(randomFrom(12));
        const journal = await openJournal(optionsFor(disk));
        for (const payload of payloads) journal.append(payload);
        await journal.stop();
        const path = disk.paths().find((name) => name.endsWith('.segment')) as string;
        const bytes = disk.contentOf(path)?.slice() as Uint8Array;
        const header = 20;
        const at = header + (where % (bytes.length - header));
        const damaged = cut ? bytes.slice(0, at) : bytes.slice();
        if (!cut) damaged.set(noise.slice(0, bytes.length - at), at);
        disk.setContent(path, damaged);
        const again = await openJournal(optionsFor(disk));
        const { records } = await readAll(disk, again, 1);
        const known = payloads.map((payload) => Buffer.from(payload).toString('latin1'));
        let offset = header;
        const expected: string[] = [];
        for (const text of known) {
          const end = offset + 8 + text.length;
          const touched = cut ? end > at : offset < at + noise.length && end > at;
          const same = Buffer.compare(damaged.subarray(offset, end), bytes.subarray(offset, end));
          if (!touched || (end <= damaged.length && same === 0)) expected.push(text);
          offset = end;
        }
        assert.deepEqual(records, expected);
        await again.stop();
      },
    ),
    { numRuns: 300 },
  );
});

test('no bytes make the scan throw, stand still or deliver', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 400 }),
      fc.nat({ max: 2 ** 32 - 1 }),
      fc.boolean(),
      (bytes, salt, atEnd) => {
        const scan = scanRecords(bytes, salt, 20, { recordsMax: 100, atEnd });
        assert.ok(scan.usedBytes <= bytes.length);
        assert.equal(scan.records.length, 0);
      },
    ),
    { numRuns: 2_000 },
  );
});

test("the machine's own disk", async () => {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-journal-'));
  try {
    const disk = createDisk();
    const open = () =>
      openJournal({
        disk,
        directory: join(directory, 'a/b'),
        log: createSilentLog(),
        clock: { nowMs: () => Date.now() },
        segmentBytesMax: 2_000,
      });
    const journal = await open();
    const done = new Promise<void>((resolve) => {
      journal.onCommitted = (ticket) => {
        if (ticket === 200) resolve();
      };
    });
    for (let i = 0; i < 200; i++) {
      journal.append(record(`record ${i}`));
      if (i % 20 === 19) await turns(5);
    }
    await done;
    const reader = await openJournalReader({
      disk,
      directory: join(directory, 'a/b'),
      log: createSilentLog(),
      committed: journal.committedPosition,
    });
    const texts: string[] = [];
    for (let batch = await reader.next(); batch !== null; batch = await reader.next()) {
      for (const bytes of batch.records) texts.push(Buffer.from(bytes).toString());
      await reader.markShipped(batch.position);
    }
    assert.equal(reader.lagBytes(), 0);
    assert.deepEqual(
      texts,
      Array.from({ length: 200 }, (_, i) => `record ${i}`),
    );
    // A waiting reader is woken by a commit.
    const woken = reader.wait(10_000);
    journal.append(record('one more'));
    await woken;
    assert.equal((await reader.next())?.records.length, 1);
    await reader.stop();
    await journal.stop();
    const again = await open();
    assert.equal(again.found.tornBytes, 0);
    await again.stop();
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
