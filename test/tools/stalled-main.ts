/** A thread of its own for a test in which the main thread stands still: a fake node, or a block lane in front of it. */
import { parentPort, workerData } from 'node:worker_threads';
import { createMemoryBus } from '../../src/adapters/bus/memory.ts';
import { createDisk } from '../../src/adapters/disk.ts';
import { createRpc } from '../../src/adapters/node/rpc.ts';
import { startBlockLane } from '../../src/services/blocksubmit/lane.ts';
import { startFakeNode } from './fake-node.ts';
import { createMemoryLog } from './waiting.ts';

export type StalledMainData =
  | { kind: 'node'; submits: SharedArrayBuffer }
  | { kind: 'lane'; url: string; dataDir: string; template: Uint8Array };

const data = workerData as StalledMainData;

if (data.kind === 'node') {
  const node = await startFakeNode();
  const submits = new Int32Array(data.submits);
  setInterval(() => {
    const count = node.callsOf('submitblock').length;
    if (Atomics.exchange(submits, 0, count) !== count) Atomics.notify(submits, 0);
  }, 1);
  parentPort?.postMessage(node.url);
} else {
  const log = createMemoryLog();
  const bus = createMemoryBus({ log });
  const lane = await startBlockLane(
    {
      clock: { nowMs: () => Date.now() },
      log,
      bus,
      disk: createDisk(),
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
    },
    { nodes: [{ name: 'a', url: data.url }], network: 'regtest', dataDir: data.dataDir },
  );
  await bus.publish('mining.templates', [{ key: 'job', value: data.template }]);
  parentPort?.on('message', (port) => lane.attach(port));
  parentPort?.postMessage('ready');
}
