/**
 * Fuzz target: `decodeTemplate` on good answers with any part replaced, removed, moved or damaged. It must never throw, and
 * what it accepts must make a job whose coinbase, notify line and work can be built.
 *
 * Longer: `node test/fuzz/template.ts <seed> <iterations>`.
 */
import { buildJob, buildJobCoinbase, encodeNotify } from '../../src/core/work/job.ts';
import { compileWork } from '../../src/core/work/share.ts';
import { decodeTemplate } from '../../src/core/work/template.ts';
import { createRandom, type Random } from '../tools/random.ts';
import { createTemplateAnswer } from '../tools/template-answer.ts';

/** Values a hostile or broken node could put anywhere JSON allows. */
const VALUES: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1,
  1.5,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  2 ** 53 + 2,
  1e308,
  -0,
  '',
  '0',
  '00',
  'ff',
  'zz',
  '0x00',
  'ab'.repeat(32),
  'AB'.repeat(32),
  '00'.repeat(31),
  '1d00ffff',
  'ffffffff',
  '!x',
  '!segwit',
  '51',
  [],
  [[]],
  [1],
  ['!x'],
  {},
  { length: 5 },
  { flags: 'ab' },
  { __proto__: null },
  'x'.repeat(300),
  '\u0000',
  '\ud800',
  '6a24aa21a9ed' + '00'.repeat(32),
];

/** Runs `iterations` inputs from `seed`; throws on the first broken promise. Returns how many were accepted. */
export function fuzz(seed: number, iterations: number): number {
  const random = createRandom(seed);
  const goods = [0, 1, 2, 7].map((count) => JSON.stringify(createTemplateAnswer(random, count)));
  let accepted = 0;
  for (let i = 0; i < iterations; i++) {
    const answer: unknown = JSON.parse(random.pick(goods));
    const rounds = random.below(3);
    for (let round = 0; round < rounds; round++) damage(random, answer);
    const verifyTransactions = random.below(4) !== 0;
    const decoded = decodeTemplate(answer, 'mainnet', { verifyTransactions });
    if (!decoded.ok) {
      if (decoded.reason.length === 0 || decoded.reason.length > 300) {
        throw new Error(`reason of ${JSON.stringify(answer)}`);
      }
      continue;
    }
    accepted += 1;
    const job = buildJob(decoded.template, { jobId: '01', clean: true, createdAtMs: 0 });
    const outputs = [{ script: new Uint8Array(22), valueSats: job.coinbaseValueSats }];
    const built = buildJobCoinbase(job, { tag: '', extranonceBytes: 12, outputs });
    if (!built.ok) {
      if (/script|leaves/.test(built.reason)) continue;
      throw new Error(`${built.reason}: ${JSON.stringify(answer)}`);
    }
    JSON.parse(encodeNotify(job, built.parts, true));
    compileWork(job, built.parts);
  }
  return accepted;
}

/** Walks down from the root some way and changes what it finds there. */
function damage(random: Random, root: unknown): void {
  let node = root as Record<string, unknown>;
  for (;;) {
    const keys = Object.keys(node);
    if (keys.length === 0) return;
    const key = random.pick(keys);
    const value = node[key];
    if (typeof value === 'object' && value !== null && random.below(4) !== 0) {
      node = value as Record<string, unknown>;
      continue;
    }
    switch (random.below(5)) {
      case 0:
        delete node[key];
        return;
      case 1:
        node[key] = node[random.pick(keys)];
        return;
      case 2:
        node[key] = damagedScalar(random, value);
        return;
      default:
        node[key] = random.pick(VALUES);
        return;
    }
  }
}

function damagedScalar(random: Random, value: unknown): unknown {
  if (typeof value === 'number') return value + random.pick([-1, 1, 0.5, 2 ** 32, -value]);
  if (typeof value !== 'string' || value.length === 0) return random.pick(VALUES);
  const at = random.below(value.length);
  const character = random.pick(['0', 'f', 'F', 'g', ' ', '']);
  return value.slice(0, at) + character + value.slice(at + 1);
}

if (import.meta.main) {
  const [seed = String(Date.now() >>> 0), iterations = '100000'] = process.argv.slice(2);
  console.log(
    `template: seed ${seed}, ${iterations} inputs, ${fuzz(Number(seed), Number(iterations))} accepted`,
  );
}
