/**
 * Scheme direct: who was paid ahead by a coinbase and has left will not earn it back. After thirty days in which it earned nothing such a debt
 * is borne by those who are still owed, in proportion; else the carries of all others would wait for it for ever
 * (`core/ledger/carry.ts`). Doing it again changes nothing: a debt that was written off is gone.
 */
import { formatSats } from '../../core/ledger/amount.ts';
import { writeOffDebts } from '../../core/ledger/carry.ts';
import type { PoolRules } from '../../core/ledger/rules.ts';
import type { Clock, Db, Log } from '../../ports.ts';
import { listCarries } from '../../store/crediting.ts';
import { lockLedger, postLedger } from '../../store/ledger.ts';

const DAY_MS = 86_400_000;
const GONE_DAYS = 30;
/** How often it is looked at. */
const INTERVAL_MS = 3_600_000;

export type Debts = {
  /** Writes off what is due, when it was not looked at for a while. */
  step(): Promise<void>;
};

/** Nothing is read before the first step. */
export function createDebts(
  tools: { clock: Clock; log: Log; db: Db },
  options: { pools: readonly PoolRules[] },
): Debts {
  const { clock, log, db } = tools;
  const pools = options.pools.filter(({ scheme }) => scheme === 'direct');
  let lookedAtMs = Number.NEGATIVE_INFINITY;

  async function writeOff(pool: string, nowMs: number): Promise<void> {
    await db.transaction(async (tx) => {
      await lockLedger(tx);
      const goneBeforeMs = nowMs - GONE_DAYS * DAY_MS;
      const rows = writeOffDebts(await listCarries(tx, { pool, goneBeforeMs }));
      if (rows.length === 0) return;
      const { isNew } = await postLedger(tx, {
        key: `write-off:${pool}:${nowMs}`,
        kind: 'direct',
        atMs: nowMs,
        actor: 'payoutd',
        reason: `debts of accounts that earned nothing for ${GONE_DAYS} days`,
        entries: rows.map(({ accountId, sats }) => ({
          account: { kind: 'carry', pool, accountId },
          sats,
        })),
      });
      const borneSats = rows.reduce((sum, { sats }) => (sats > 0n ? sum + sats : sum), 0n);
      if (isNew)
        log.info('debts of accounts that left are borne by the others', {
          pool,
          amount: formatSats(borneSats),
        });
    });
  }

  return {
    async step() {
      const nowMs = clock.nowMs();
      // A clock set back must not stop it.
      if (Math.abs(nowMs - lookedAtMs) < INTERVAL_MS) return;
      for (const { id } of pools) await writeOff(id, nowMs);
      lookedAtMs = nowMs;
    },
  };
}
