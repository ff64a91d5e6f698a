/** Workers as the gateways have them now, and behind them those that only the database still knows. Pure. */
import type { WorkerReport } from '../../messages/service.ts';
import type { StoredWorker } from '../../store/status.ts';

/** Live workers as they are; stored ones without a session, unless a gateway has them. */
export function joinWorkers(
  live: readonly WorkerReport[],
  stored: readonly StoredWorker[],
): WorkerReport[] {
  const names = new Set(live.map(({ account, worker }) => `${account}.${worker}`));
  const away = stored
    .filter(({ account, worker }) => !names.has(`${account}.${worker}`))
    .map(
      ({ account, worker, shares, work, bestDifficulty, lastShareAtMs }): WorkerReport => ({
        pool: '',
        account,
        worker,
        agent: '',
        sessions: 0,
        accepted: Number(shares),
        workAccepted: Number(work) / WORK_PER_DIFFICULTY,
        rejected: {},
        bestDifficulty,
        blocks: 0,
        lastShareAtMs,
        difficulty: 0,
        rates: { fiveMinutesHps: 0, hourHps: 0, dayHps: 0 },
      }),
    );
  return [...live, ...away];
}

/** The database counts work in units of 2^-48 of difficulty 1. */
const WORK_PER_DIFFICULTY = 2 ** 48;
