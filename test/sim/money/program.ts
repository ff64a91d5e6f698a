/** The part of the program that moves money, as its service makes it, one cycle at a time and by hand. */
import type { Network } from '../../../src/core/bitcoin/network.ts';
import type { PayoutPolicy, PoolRules } from '../../../src/core/ledger/rules.ts';
import type { Rpc } from '../../../src/core/node/rpc.ts';
import type { Bus, Clock, Db, Fault, Log } from '../../../src/ports.ts';
import { createCycle } from '../../../src/services/payoutd/cycle.ts';

export type ProgramTools = {
  clock: Clock;
  log: Log;
  db: Db;
  fault: Fault;
  node: Rpc;
  pools: readonly PoolRules[];
  policy: PayoutPolicy;
  network: Network;
  isActive: () => boolean;
  isShipperIdle: () => boolean;
  publishPlans: (bytes: Uint8Array) => void;
};

export type Program = {
  /** One pass. Answers the steps that failed, in words. */
  cycle(): Promise<string[]>;
};

/** What this process knows it learns anew: nothing is read before the first cycle. */
export function startProgram(tools: ProgramTools): Program {
  const { clock, log, db, fault, node, pools, policy, network } = tools;
  const bus: Bus = {
    async publish(_topic, records) {
      for (const { value } of records) tools.publishPlans(value);
    },
    async subscribe() {},
    async stop() {},
  };
  const meter = { count() {}, set() {}, observe() {} };
  const cycle = createCycle(
    { clock, log, db, bus, meter, fault, openRpc: () => node, isShipperIdle: tools.isShipperIdle },
    {
      network,
      nodes: [{ name: node.name, url: 'http://127.0.0.1:1/' }],
      pools,
      policy,
      ppsIntervalMs: 60_000,
    },
  );
  return {
    async cycle() {
      await cycle.run(tools.isActive);
      return cycle.status().alarms;
    },
  };
}
