/**
 * Fuzz target: the bytes of a journal on disk, damaged in every way a disk can damage them. Opening and reading must not throw or
 * stand still; what is read was once written, in order, each record at most once; records that the damage did not touch are all
 * there as long as their segment's header is.
 *
 * Longer: `node test/fuzz/journal.ts <seed> <iterations>`.
 */
import { openJournal, openJournalReader } from '../../src/adapters/journal.ts';
import { createCrashDisk } from '../tools/crash-disk.ts';
import { createRandom, type Random } from '../tools/random.ts';
import { createSilentLog } from '../tools/silent-log.ts';

const DIRECTORY = '/journal';
const HEADER_BYTES = 20;

/** Runs `iterations` journals from `seed`; throws on the first broken promise. Answers how many records were read. */
export async function fuzz(seed: number, iterations: number): Promise<number> {
  const random = createRandom(seed);
  let read = 0;
  for (let i = 0; i < iterations; i++) read += await fuzzOnce(random, `seed ${seed} run ${i}`);
  return read;
}

async function fuzzOnce(random: Random, where: string): Promise<number> {
  const disk = createCrashDisk(() => random.below(1_000_000) / 1_000_000);
  const log = createSilentLog();
  const clock = { nowMs: () => 0 };
  const salt = () => random.below(2 ** 31);
  const open = () =>
    openJournal({ disk, directory: DIRECTORY, log, clock, salt, segmentBytesMax: 500 });

  const journal = await open();
  const written: string[] = [];
  for (let i = random.below(30); i >= 0; i--) {
    const text = `${written.length} ${'z'.repeat(random.below(80))}`;
    journal.append(Buffer.from(text));
    written.push(text);
    if (random.below(3) === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await journal.stop();

  const touched = new Set<string>();
  const segments = disk.paths().filter((path) => path.endsWith('.segment'));
  for (let i = random.below(4); i >= 0; i--) {
    const path = random.pick(segments);
    const bytes = disk.contentOf(path)?.slice();
    if (bytes === undefined || bytes.length <= HEADER_BYTES) continue;
    touched.add(path);
    disk.setContent(path, damage(random, bytes));
  }
  if (random.below(5) === 0)
    disk.setContent(`${DIRECTORY}/shipped`, new Uint8Array(random.below(2_000)));

  const again = await open();
  const reader = await openJournalReader({
    disk,
    directory: DIRECTORY,
    log,
    committed: again.committedPosition,
    recordsMax: 1 + random.below(20),
  });
  const known = new Map(written.map((text, at) => [text, at]));
  let last = -1;
  let count = 0;
  for (let batch = await reader.next(); batch !== null; batch = await reader.next()) {
    for (const record of batch.records) {
      const at = known.get(Buffer.from(record).toString());
      if (at === undefined) throw new Error(`${where}: invented ${Buffer.from(record)}`);
      if (at <= last) throw new Error(`${where}: record ${at} after ${last}`);
      last = at;
      count++;
    }
    if (count > written.length) throw new Error(`${where}: reads without end`);
  }
  if (touched.size === 0 && count !== written.length) throw new Error(`${where}: lost records`);
  await reader.stop();
  await again.stop();
  return count;
}

function damage(random: Random, bytes: Uint8Array): Uint8Array {
  const at = HEADER_BYTES + random.below(bytes.length - HEADER_BYTES);
  switch (random.below(6)) {
    case 0:
      return bytes.subarray(0, at);
    case 1:
      bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
      return bytes;
    case 2:
      bytes.fill(
        random.below(2) === 0 ? 0 : 255,
        at,
        Math.min(bytes.length, at + random.below(200)),
      );
      return bytes;
    case 3:
      // A piece of the segment at another place of it.
      bytes.copyWithin(at, HEADER_BYTES, HEADER_BYTES + random.below(200));
      return bytes;
    case 4:
      return Buffer.concat([bytes, new Uint8Array(random.below(600))]);
    default:
      bytes[random.below(HEADER_BYTES)] = random.below(256);
      return bytes;
  }
}

if (import.meta.main) {
  const [seed = '1', iterations = '5000'] = process.argv.slice(2);
  const read = await fuzz(Number(seed), Number(iterations));
  console.log(`${iterations} journals, ${read} records read, no promise broken`);
}
