/**
 * `payoutd` alone in a process of its own, to be killed: credits, matures, pays. Started with one argument of JSON
 * (`PayoutdChildOptions`, amounts as decimal strings); says `ready` on standard output when it runs.
 */

import { createMemoryBus } from '../../src/adapters/bus/memory.ts';
import { takeAdvisoryLock } from '../../src/adapters/db/advisory-lock.ts';
import { connectPostgres, type PostgresAddress } from '../../src/adapters/db/postgres.ts';
import { createRpc } from '../../src/adapters/node/rpc.ts';
import type { PayoutPolicy, PoolRules } from '../../src/core/ledger/rules.ts';
import type { NodeAddress } from '../../src/core/node/rpc.ts';
import { createLog } from '../../src/log.ts';
import { createMeter } from '../../src/meter.ts';
import { LEDGER_LOCK } from '../../src/roles.ts';
import { startPayoutd } from '../../src/services/payoutd/payoutd.ts';

export type PayoutdChildOptions = {
  database: PostgresAddress;
  nodes: NodeAddress[];
  pools: PoolRules[];
  policy: PayoutPolicy;
  cycleMs: number;
};

/** JSON with bigints as `{"bigint": "…"}`, for the argument of the child. */
export function encodeChildOptions(options: PayoutdChildOptions): string {
  return JSON.stringify(options, (_, value) =>
    typeof value === 'bigint' ? { bigint: String(value) } : value,
  );
}

if (process.argv[1] === import.meta.filename) await main(process.argv[2] ?? '');

async function main(text: string): Promise<void> {
  const options = JSON.parse(text, (_, value) =>
    typeof value?.bigint === 'string' ? BigInt(value.bigint) : value,
  ) as PayoutdChildOptions;
  const log = createLog({ level: 'info', format: 'json', destination: 2 });
  const db = await connectPostgres({ ...options.database, log, firstConnectTimeoutMs: 10_000 });
  await startPayoutd(
    {
      clock: { nowMs: () => Date.now() },
      log,
      db,
      bus: createMemoryBus({ log }),
      meter: createMeter(),
      fault: () => {},
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
      takeLock: () => takeAdvisoryLock({ ...options.database, log, key: LEDGER_LOCK }),
    },
    {
      network: 'regtest',
      nodes: options.nodes,
      pools: options.pools,
      policy: options.policy,
      cycleMs: options.cycleMs,
    },
  );
  process.stdout.write('ready\n');
}
