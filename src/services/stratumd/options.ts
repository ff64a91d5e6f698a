/**
 * What the Stratum gateway is handed: its options, its tools, and the counters it keeps. Types and their start values only.
 */

import type { Network } from '../../core/bitcoin/network.ts';
import type { SessionLimits } from '../../core/stratum/limits.ts';
import type { CoinbasePool } from '../../core/work/payout.ts';
import type { HashWork } from '../../core/work/share.ts';
import type { VardiffPolicy } from '../../core/work/vardiff.ts';
import type { BlockCandidate } from '../../messages/block.ts';
import type { Log } from '../../ports.ts';
import type { Neighbours } from './neighbours.ts';
import type { RefusalBook } from './refusals.ts';

/** One Stratum port as configured. Difficulties are numbers for people; below 1 is fine. */
export type PortOptions = {
  port: number;
  /** Interface to listen on; door only. */
  host?: string;
  startDifficulty: number;
  minDifficulty: number;
  maxDifficulty: number;
  tls: 'auto' | 'off' | 'only';
  /** false: every session keeps its starting difficulty. Default true. */
  vardiff?: boolean;
  /** The pool that its shares are counted by. Default `main`. */
  pool?: string;
};

/** A miner's connection, as the door (sockets) or a test (arrays) provides it. */
export type Connection = {
  /** The miner's address, after PROXY protocol. */
  readonly remoteAddress: string;
  /** The port it came in by. */
  readonly port: PortOptions;
  /** One call is one socket write. The door handles back-pressure and destroys slow readers. */
  write(data: string | Uint8Array): void;
  /** Earlier writes have not left yet: a job waits, and a newer one takes its place. Missing means false. */
  readonly congested?: boolean;
  /** Sends what is pending, then FIN. */
  close(reason: string): void;
  /** RST at once. */
  destroy(reason: string): void;
};

export type GatewayOptions = {
  network: Network;
  /** Every pool that a port names, and who its coinbases pay. */
  pools: readonly CoinbasePool[];
  /** Text in every coinbase. */
  coinbaseTag: string;
  /** Name of this gateway in share records. */
  gateway: string;
  /** Version bits the pool lets miners roll; 0x1fffe000 (BIP320). */
  versionMask: number;
  /** The top bits of every extranonce1 of this process; 0 bits when it is the only one. */
  instancePrefix: number;
  instancePrefixBits: number;
  /** What `persistLease` was last called with, in any earlier run; 0 when never. */
  extranonceHighWater: number;
  /** 'disk': answered when the journal is synced. 'memory': answered at once, weaker by the operator's choice. */
  ack: 'disk' | 'memory';
  vardiff: VardiffPolicy;
  limits: SessionLimits;
};

export type GatewayTools = {
  log: Log;
  metrics: GatewayMetrics;
  /** Writes the header hash of a filled work: the accelerator, or the fold in TypeScript. */
  hash: HashWork;
  /** Append returns a ticket, −1 when refused. */
  journal: { append(record: Uint8Array): number; state(): 'ok' | 'full' | 'failed' };
  /** Never throws, never blocks. Calls `onKept` once, when the block is on disk or at a node. */
  lane: { submit(candidate: BlockCandidate, onKept: () => void): void };
  /** Runs the work in a later turn of the event loop (`setImmediate`). */
  defer(work: () => void): void;
  /** Writes the number to disk and syncs before it returns; throws when it cannot. Called once per lease, `limits.extranonceLeaseSize` subscriptions. */
  persistLease(highWater: number): void;
  /** Unguessable bytes (`node:crypto`), for session ids. */
  randomBytes(count: number): Uint8Array;
  /** Points against a source address, from sessions that have never sent a valid share. */
  blame(remoteAddress: string, points: number): void;
  /** The other gateways of the pool; absent where there are none. */
  neighbours?: Pick<Neighbours, 'recall' | 'remember'>;
  /** Where refused submissions are noted for other services; absent where there are none. */
  refusals?: Pick<RefusalBook, 'note'>;
  /** Times each share from its decoded line to its verdict. Absent: not timed. Costs about 0.1 µs per share. */
  stopwatch?: {
    /** Milliseconds that only go forward, with fractions. */
    readMs(): number;
    observe(seconds: number): void;
  };
};

/** Every reason a share can be refused for. The list is closed; metrics and the status page are made from it. */
export const REJECT_REASONS = [
  'not-subscribed',
  'unauthorized',
  'malformed',
  'unknown-job',
  'stale',
  'duplicate',
  'low-difficulty',
  'version-mask',
  'ntime',
  'rate',
  'storage',
  'no-work',
] as const;
export type RejectReason = (typeof REJECT_REASONS)[number];

/** What firmware does that no document allows, and what we let pass. */
export type Quirk =
  | 'short-hex'
  | 'hex-prefix'
  | 'full-version'
  | 'few-version-bits'
  | 'worker-by-account';

/**
 * Plain numbers, bumped in place: an increment costs a nanosecond. `src/metrics.ts` reads them when it is scraped
 * (gauge fields go up and down, all others only up).
 */
export type GatewayMetrics = {
  /** Gauges. */
  sessions: number;
  authorizedSessions: number;
  workers: number;
  currentHeight: number;
  networkDifficulty: number;
  heldAnswers: number;
  jobsKept: number;
  /** 0 fine, 1 degraded (template older than 120 s), 2 no work handed out (older than 600 s, or none yet). */
  workState: number;
  /** Counters. */
  sessionsOpened: number;
  sessionsResumed: number;
  sessionsClosed: number;
  /** Sessions the gateway itself closed, by reason; the keys are the texts passed to `Connection.close`. */
  closedByGateway: Map<string, number>;
  requests: number;
  parseErrors: number;
  unknownMethods: number;
  sharesAccepted: number;
  /** Sum of credited difficulty. */
  workAccepted: number;
  /** By reason; every reason of REJECT_REASONS is a key from the start. */
  sharesRejected: Map<RejectReason, number>;
  /** Handed to the block lane. */
  blocksFound: number;
  /** On a network as easy as regtest only: winning headers beyond what a node can use. */
  toyBlocksHeldBack: number;
  jobsReceived: number;
  /** No valid coinbase could be built for them. */
  jobsRefused: number;
  jobVariants: number;
  notifies: number;
  broadcasts: number;
  retargets: number;
  /** Departures from the rules that are tolerated, by name. */
  quirks: Map<Quirk, number>;
  /** A coinbase over the size the firmware profile can take. */
  oversizedCoinbases: number;
  leasesPersisted: number;
  leaseFailures: number;
};

/** A fresh set of counters, all zero. */
export function createGatewayMetrics(): GatewayMetrics {
  return {
    sessions: 0,
    authorizedSessions: 0,
    workers: 0,
    currentHeight: 0,
    networkDifficulty: 0,
    heldAnswers: 0,
    jobsKept: 0,
    workState: 2,
    sessionsOpened: 0,
    sessionsResumed: 0,
    sessionsClosed: 0,
    closedByGateway: new Map(),
    requests: 0,
    parseErrors: 0,
    unknownMethods: 0,
    sharesAccepted: 0,
    workAccepted: 0,
    sharesRejected: new Map(REJECT_REASONS.map((reason) => [reason, 0])),
    blocksFound: 0,
    toyBlocksHeldBack: 0,
    jobsReceived: 0,
    jobsRefused: 0,
    jobVariants: 0,
    notifies: 0,
    broadcasts: 0,
    retargets: 0,
    quirks: new Map(),
    oversizedCoinbases: 0,
    leasesPersisted: 0,
    leaseFailures: 0,
  };
}
