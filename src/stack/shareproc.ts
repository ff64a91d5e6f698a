/**
 * `headframe shareproc`: the second look at shares and found blocks, on its own. Any number may run; they share the partitions of
 * `share.submissions` among them, and keep nothing.
 */
import { loadAccelerator } from '../adapters/pow/sha256d.ts';
import { coinbaseRules } from '../compose.ts';
import { foldInTypescript } from '../core/work/fold.ts';
import { startShareproc as start } from '../services/shareproc/shareproc.ts';
import { type Frame, openBus, openCache, type Service, type ServiceConfig } from './serve.ts';

/** Runs the audit until the frame ends it. */
export async function startShareproc(frame: Frame, config: ServiceConfig): Promise<Service> {
  const { clock, log } = frame;
  const { network } = config;
  const bus = openBus(frame, config, config.instance.gateway);
  const accelerator = loadAccelerator();
  const shareproc = await start(
    {
      bus,
      log,
      clock,
      hash: accelerator?.hash ?? foldInTypescript,
      cache: openCache(frame, config),
    },
    {
      network,
      coinbaseTag: config.poolTag,
      pools: config.pools.map((pool) => ({ id: pool.id, coinbase: coinbaseRules(pool, network) })),
      buildsBlocks: true,
    },
  );
  frame.keep('shareproc', () => shareproc.stop());
  frame.show({
    figures: () =>
      Object.entries(shareproc.status()).map(([what, value]) => ({
        name: 'headframe_audited_total',
        help: 'Records looked at a second time, by what became of them.',
        kind: 'counter' as const,
        value,
        labels: { what },
      })),
  });
  frame.report(() => ({ figures: new Map(Object.entries(shareproc.status())) }));
  log.info('shares are looked at a second time', { hash: accelerator?.name ?? 'TypeScript' });
  return {};
}
