/**
 * The worker threads of the single process and of a gateway on its own: what each is handed, and which topics it takes from the main thread's bus and gives to it.
 */

import type { PostgresAddress } from './adapters/db/postgres.ts';
import type { StackConfig } from './config.ts';
import type { Network } from './core/bitcoin/network.ts';
import type { NodeAddress } from './core/node/rpc.ts';
import type { LogOptions } from './log.ts';
import type { DevnetOptions } from './services/devnet/devnet.ts';
import type { JobmanagerOptions } from './services/jobmanager/jobmanager.ts';
import type { PayoutdOptions } from './services/payoutd/payoutd.ts';
import type { ShareLogOptions } from './services/payoutd/sharelog.ts';
import type { ShareprocOptions } from './services/shareproc/shareproc.ts';

export type ThreadData = { log: LogOptions } & (
  | { role: 'node'; options: JobmanagerOptions }
  | { role: 'block'; nodes: readonly NodeAddress[]; network: Network; dataDir: string }
  | {
      role: 'store';
      database: PostgresAddress;
      journalDirectory: string;
      /** The journal's committed and shipped position. */
      committed: SharedArrayBuffer;
      shareproc: ShareprocOptions & Pick<ShareLogOptions, 'retentionDays'>;
    }
  | {
      role: 'payout';
      database: PostgresAddress;
      /** As for `store`. */
      committed: SharedArrayBuffer;
      options: PayoutdOptions;
    }
  | {
      role: 'broker';
      kafka: StackConfig['kafka'];
      /** Name of the gateway. */
      gateway: string;
      journalDirectory: string;
      /** As for `store`. */
      committed: SharedArrayBuffer;
      /** Up to when the gateway has settled everything, ms since 1970, a 64-bit integer. */
      settled: SharedArrayBuffer;
    }
  | { role: 'devnet'; options: DevnetOptions; address: string | null }
);

/** The advisory lock of whoever keeps the ledger; another number than that of migrations. */
export const LEDGER_LOCK = 4_714_212_010n;

/** What `devnet` says when it is ready. */
export type DevnetFacts = { node: NodeAddress; address: string };

/** Which topics each role takes from the main thread's bus, and which it gives. */
export const THREAD_TOPICS = {
  node: { takes: ['mining.plans'], gives: ['mining.jobs', 'mining.templates'] },
  block: {
    takes: ['mining.jobs', 'mining.templates'],
    gives: ['block.candidates', 'block.outcome'],
  },
  store: {
    takes: ['mining.jobs', 'mining.plans', 'block.candidates', 'block.outcome'],
    gives: [],
  },
  payout: { takes: [], gives: ['mining.plans'] },
  broker: {
    takes: ['block.candidates', 'block.outcome', 'share.rejected', 'share.stale'],
    gives: ['mining.jobs', 'mining.plans', 'mining.templates'],
  },
  devnet: { takes: [], gives: [] },
} as const satisfies Record<
  ThreadData['role'],
  { takes: readonly string[]; gives: readonly string[] }
>;
