/** The storing half of a simulated pool process: the real shipper and shareproc between the journal's reader and the database. */
import { foldInTypescript } from '../../src/core/work/fold.ts';
import type { CoinbaseRules } from '../../src/core/work/payout.ts';
import type { Bus, Clock, Db, Log } from '../../src/ports.ts';
import { startShareproc } from '../../src/services/shareproc/shareproc.ts';
import { type ShareSource, startShipper } from '../../src/services/shareproc/shipper.ts';

export type Records = { stop(): Promise<void> };

/** Starts both, as the thread `store` does. `busOut` is what the shipper publishes on, `busIn` what shareproc listens to. */
export async function startRecords(
  tools: { db: Db; log: Log; clock: Clock; busIn: Bus; busOut: Bus; source: ShareSource },
  options: { coinbase: CoinbaseRules; coinbaseTag: string },
): Promise<Records> {
  const shareproc = await startShareproc(
    { bus: tools.busIn, db: tools.db, log: tools.log, clock: tools.clock, hash: foldInTypescript },
    {
      network: 'regtest',
      coinbaseTag: options.coinbaseTag,
      pools: [{ id: 'main', coinbase: options.coinbase }],
    },
  );
  const shipper = startShipper({ source: tools.source, bus: tools.busOut, log: tools.log });
  return {
    async stop() {
      await shipper.stop(1000);
      await shareproc.stop();
    },
  };
}
