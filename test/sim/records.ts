/** The storing half of a simulated pool process: the real shipper, audit and share log between the journal's reader and the database. */
import { foldInTypescript } from '../../src/core/work/fold.ts';
import type { CoinbaseRules } from '../../src/core/work/payout.ts';
import type { Bus, Clock, Db, Log } from '../../src/ports.ts';
import { startShareLog } from '../../src/services/payoutd/sharelog.ts';
import { startShareproc } from '../../src/services/shareproc/shareproc.ts';
import { type ShareSource, startShipper } from '../../src/services/shareproc/shipper.ts';

export type Records = { stop(): Promise<void> };

/** Starts them, as the thread `store` does. `busOut` is what the shipper publishes on, `busIn` what the others listen to. */
export async function startRecords(
  tools: { db: Db; log: Log; clock: Clock; busIn: Bus; busOut: Bus; source: ShareSource },
  options: { coinbase: CoinbaseRules; coinbaseTag: string },
): Promise<Records> {
  const { busIn: bus, db, log, clock } = tools;
  const shareLog = await startShareLog({ bus, db, log, clock, meter: { count() {}, set() {} } });
  const shareproc = await startShareproc(
    { bus, log, clock, hash: foldInTypescript },
    {
      network: 'regtest',
      coinbaseTag: options.coinbaseTag,
      pools: [{ id: 'main', coinbase: options.coinbase }],
    },
  );
  const shipper = startShipper({ source: tools.source, bus: tools.busOut, log });
  return {
    async stop() {
      await shipper.stop(1000);
      await shareproc.stop();
      await shareLog.stop();
    },
  };
}
