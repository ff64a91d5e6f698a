/**
 * The crash matrix of the payer. At each of its named points a payer dies (everything of it is dropped and made anew), while the node
 * is well, slow, deaf or down, with one payer at work or two. Then virtual time goes on for 48 hours, and the chain is the judge: every
 * due amount was paid once, nothing else left the wallet, the ledger agrees.
 *
 * Cases run one after the other in one world, so that later ones begin with a wallet and a history that earlier ones have left.
 * `PAYER_CASES` (default 22) is how many are run, `TEST_SEED` the seed they are chosen and varied by; 176 is
 * every point with every node, alone and not.
 */
import type { Db } from '../../src/ports.ts';
import type { Payer } from '../../src/services/payoutd/payer.ts';
import { listBatches, readControl } from '../../src/store/payouts.ts';
import {
  type Account,
  createPayerRig,
  HOUR_MS,
  Killed,
  LOST_COMMIT,
  MINUTE_MS,
  type Mood,
} from '../tools/payer-rig.ts';

/** In the order in which a payout comes by; six of them need a fee bump; last, any commit that is lost. */
export const POINTS = [
  'payout.planning',
  'payout.planned',
  'payout.reserved',
  'payout.funded',
  'payout.built',
  'payout.locked',
  'payout.signedInMemory',
  'payout.signed',
  'payout.marked',
  'payout.sent',
  'payout.sentAgain',
  'payout.seen',
  'payout.confirmed',
  'payout.settling',
  'payout.settled',
  'payout.bumpFunded',
  'payout.bumpBuilt',
  'payout.bumpSignedInMemory',
  'payout.bumpSigned',
  'payout.bumpMarked',
  'payout.bumpSent',
  LOST_COMMIT,
] as const;

const MOODS: readonly Mood[] = ['ok', 'slow', 'deaf', 'down'];

export type CrashReport = {
  cases: number;
  /** How often a payer died, by point. */
  deaths: Map<string, number>;
  batches: number;
  paidSats: bigint;
};

/** Runs `cases` cases; throws with seed and case where a promise breaks. */
export async function runPayerCrashes(
  db: Db,
  options: { seed: number; cases: number },
): Promise<CrashReport> {
  const random = randomOf(options.seed);
  const rig = await createPayerRig(db, { rewards: 12 });
  const accounts: Account[] = [];
  const deaths = new Map<string, number>();
  try {
    for (let at = 0; at < 8; at += 1)
      accounts.push(await rig.account(`crash ${options.seed} ${at}`, at % 5));
    // The operator's own money, out of which the pool pays fees, is what the wallet has above what is owed.
    for (let at = 0; at < options.cases; at += 1) {
      const point = POINTS[at % POINTS.length] as string;
      const round = Math.floor(at / POINTS.length);
      const mood = MOODS[(at + round) % MOODS.length] as Mood;
      const payers = 1 + ((at + Math.floor(round / MOODS.length)) % 2);
      const name = `seed ${options.seed}, case ${at}: ${point}, ${mood}, ${payers} payer(s)`;
      try {
        await runCase({ point, mood, payers });
        if (at % 14 === 13 || at === options.cases - 1) await rig.judge(accounts);
      } catch (error) {
        throw new Error(`${name}: ${error instanceof Error ? error.message : error}`, {
          cause: error,
        });
      }
    }
    const [sum] = await db.query<{ batches: bigint; sats: bigint }>(
      `SELECT count(*) AS batches, coalesce(sum(total_sats), 0)::bigint AS sats FROM payout_batches WHERE state = 'settled'`,
    );
    return {
      cases: options.cases,
      deaths,
      batches: Number(sum?.batches ?? 0n),
      paidSats: sum?.sats ?? 0n,
    };
  } finally {
    await rig.stop();
  }

  async function runCase(one: { point: string; mood: Mood; payers: number }): Promise<void> {
    const credits = accounts
      .filter(() => random(3) > 0)
      .map(({ accountId }) => ({ accountId, sats: BigInt(60_000 + random(5_000_000)) }));
    if (credits.length === 0) return;
    await rig.credit(credits);
    const bump = one.point.startsWith('payout.bump');
    // Bytes are sent again only when they were marked and did not arrive.
    const kills = one.point === 'payout.sentAgain' ? ['payout.marked', one.point] : [one.point];
    const nth = 1 + random(9);
    // Half of the cases fall ill before anything is built, half when it is out there.
    const illFrom = random(2) * (bump ? 1 : 2);
    const policy = {
      feePolicy: random(2) === 0 ? ('pool' as const) : ('miner' as const),
      bumpAfterMs: bump ? 30 * MINUTE_MS : 6 * HOUR_MS,
    };
    const make = (): Payer => {
      const point = kills[0];
      return rig.payer(
        policy,
        point === undefined ? undefined : { point, nth: point === LOST_COMMIT ? nth : 1 },
      );
    };
    const live: Payer[] = [];
    while (live.length < one.payers) live.push(make());
    const started = rig.nowMs();
    await rig.pass(HOUR_MS);
    for (let step = 0; rig.nowMs() - started < 48 * HOUR_MS; step += 1) {
      // The node falls ill for the first hours, then is well: 48 hours are for what comes after.
      rig.setMood(step >= illFrom && step < 4 ? one.mood : 'ok');
      await Promise.all(
        live.map(async (payer, at) => {
          try {
            await payer.cycle();
          } catch (error) {
            if (!(error instanceof Killed)) throw error;
            deaths.set(error.message, (deaths.get(error.message) ?? 0) + 1);
            if (kills[0] === error.message) kills.shift();
            live[at] = make();
          }
        }),
      );
      const open = await listBatches(db, { limit: 100, openOnly: true });
      if (step > 6 && open.length === 0 && (await rig.balance('miner')) < 10_000n) break;
      await rig.pass(step < 4 ? 20 * MINUTE_MS : HOUR_MS);
      if (step >= (bump ? 8 : 2)) await rig.mine(step > 12 ? 6 : 1 + random(3));
    }
    rig.setMood('ok');
    const control = await readControl(db);
    if (control.halted) throw new Error(`payouts are halted: ${control.haltReason}`);
    const owed = await rig.balance('miner');
    const transit = await rig.balance('transit');
    if (owed + transit > 0n)
      throw new Error(
        `${owed} sat are still owed, ${transit} sat in transit; ${JSON.stringify(live.map((payer) => payer.status().alarms))}`,
      );
  }
}

/** Xorshift: the same case for the same seed. */
function randomOf(seed: number): (below: number) => number {
  let state = (seed * 2654435761) | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}
