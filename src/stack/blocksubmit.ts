/**
 * `headframe blocksubmit`: the second road of found blocks, on its own: hands them to all nodes again and follows them until they are
 * final. A gateway has handed them over already; this one is for when it could not, and for what becomes of them.
 */
import { createDisk } from '../adapters/disk.ts';
import { createRpc } from '../adapters/node/rpc.ts';
import { waitForLock } from '../compose.ts';
import { startBlocksubmit as start } from '../services/blocksubmit/blocksubmit.ts';
import { type Frame, openBus, type Service, type ServiceConfig } from './serve.ts';

/** Follows blocks until the frame ends it. */
export async function startBlocksubmit(frame: Frame, config: ServiceConfig): Promise<Service> {
  const { clock, log, meter, keep } = frame;
  const { dataDir, network, nodes } = config;
  const lock = await waitForLock(dataDir, log);
  keep('lock', lock.release);
  const bus = openBus(frame, config, config.instance.gateway);
  const blocksubmit = await start(
    {
      clock,
      log,
      bus,
      meter,
      disk: createDisk(),
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
    },
    { nodes, network, dataDir },
  );
  keep('blocksubmit', () => blocksubmit.stop());
  frame.watch(() =>
    blocksubmit.status().nodes.some(({ reachable }) => reachable) ? [] : ['no node answers'],
  );
  frame.show({ lane: () => blocksubmit.status() });
  frame.report(() => {
    const { undelivered, watched, assembled, received, unreadable } = blocksubmit.status();
    return {
      figures: new Map(Object.entries({ undelivered, watched, assembled, received, unreadable })),
      alarms: undelivered > 0 ? [`${undelivered} blocks that no node is known to have`] : [],
    };
  });
  log.info('found blocks are followed', { nodes: nodes.map(({ name }) => name) });
  return {};
}
