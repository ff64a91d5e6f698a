/**
 * What the status page and the JSON show, as types with their JSON schemas beside them. Satoshi and work are text: JavaScript
 * and jq round what is larger than 2^53. Fields are only ever added within /api/v1.
 */

export type PoolStatus = {
  version: string;
  network: string;
  /** Scheme of the pool `main`. */
  payout: string;
  /** Where blocks of `main` are paid; null in schemes solo and direct. */
  poolAddress: string | null;
  pools: {
    id: string;
    /** As configured; `pplns` in place of a scheme that was given up is told in `note`. */
    scheme: string;
    feePpm: number;
    address: string | null;
    note: string;
  }[];
  /** Payouts and what is wrong with them; null while that is not known. */
  payouts: {
    /** `off`: no wallet is configured. */
    state: string;
    alarms: string[];
  } | null;
  /** There is no node: a development chain is mined. */
  isDevelopment: boolean;
  startedAtMs: number;
  /** Height being mined; 0 before the first job. */
  height: number;
  networkDifficulty: number;
  /** `none`: no work is handed out. `degraded`: work is older than two minutes. */
  work: 'fine' | 'degraded' | 'none';
  sessions: number;
  hashrate: Rates;
  /** Since the start of this process. */
  sharesAccepted: number;
  sharesRejected: Record<string, number>;
  /** Sums of the database; null while it is away. */
  totals: {
    shares: bigint;
    /** Unit: 2^-48 of difficulty 1. */
    work: bigint;
    bestDifficulty: number;
    workers: number;
    blocksFound: number;
    blocksConfirmed: number;
    blocksLost: number;
  } | null;
  nodes: { name: string; health: string; detail: string; blocks: number }[];
  stratumPorts: { port: number; tls: 'auto' | 'off' | 'only'; startDifficulty: number }[];
  journal: { state: string; unshippedBytes: number };
};

export type Rates = { fiveMinutesHps: number; hourHps: number; dayHps: number };

export type WorkerStatus = {
  account: string;
  worker: string;
  agent: string;
  sessions: number;
  accepted: number;
  workAccepted: number;
  rejected: Record<string, number>;
  bestDifficulty: number;
  blocks: number;
  lastShareAtMs: number;
  difficulty: number;
  rates: Rates;
};

export type BlockView = {
  hashDisplay: string;
  height: number;
  state: string;
  confirmations: number;
  account: string | null;
  worker: string | null;
  foundAtMs: number | null;
  rewardSats: bigint | null;
};

/** A process of the stack, as it says of itself. */
export type ServiceView = {
  service: string;
  instance: string;
  version: string;
  /** ready, not ready, silent. */
  state: string;
  /** Why it is not ready. */
  reasons: readonly string[];
  startedAtMs: number;
  heardAtMs: number;
  /** A few numbers and words about what it does; which, depends on the service. */
  figures: Readonly<Record<string, number>>;
  words: Readonly<Record<string, string>>;
  alarms: readonly string[];
};

const number = { type: 'number' } as const;
const text = { type: 'string' } as const;
const maybeText = { type: ['string', 'null'] } as const;
const counts = { type: 'object', additionalProperties: number } as const;
const rates = {
  type: 'object',
  properties: { fiveMinutesHps: number, hourHps: number, dayHps: number },
} as const;

export const poolSchema = {
  type: 'object',
  properties: {
    version: text,
    network: text,
    payout: text,
    poolAddress: maybeText,
    pools: {
      type: 'array',
      items: {
        type: 'object',
        properties: { id: text, scheme: text, feePpm: number, address: maybeText, note: text },
      },
    },
    payouts: {
      type: ['object', 'null'],
      properties: { state: text, alarms: { type: 'array', items: text } },
    },
    isDevelopment: { type: 'boolean' },
    startedAtMs: number,
    height: number,
    networkDifficulty: number,
    work: text,
    sessions: number,
    hashrate: rates,
    sharesAccepted: number,
    sharesRejected: counts,
    totals: {
      type: ['object', 'null'],
      properties: {
        shares: text,
        work: text,
        bestDifficulty: number,
        workers: number,
        blocksFound: number,
        blocksConfirmed: number,
        blocksLost: number,
      },
    },
    nodes: {
      type: 'array',
      items: {
        type: 'object',
        properties: { name: text, health: text, detail: text, blocks: number },
      },
    },
    stratumPorts: {
      type: 'array',
      items: { type: 'object', properties: { port: number, tls: text, startDifficulty: number } },
    },
    journal: { type: 'object', properties: { state: text, unshippedBytes: number } },
  },
} as const;

export const workersSchema = {
  type: 'object',
  properties: {
    total: number,
    workers: {
      type: 'array',
      items: {
        type: 'object',
        properties: {
          account: text,
          worker: text,
          agent: text,
          sessions: number,
          accepted: number,
          workAccepted: number,
          rejected: counts,
          bestDifficulty: number,
          blocks: number,
          lastShareAtMs: number,
          difficulty: number,
          rates,
        },
      },
    },
  },
} as const;

export const blocksSchema = {
  type: 'object',
  properties: {
    blocks: {
      type: 'array',
      items: {
        type: 'object',
        properties: {
          hashDisplay: text,
          height: number,
          state: text,
          confirmations: number,
          account: maybeText,
          worker: maybeText,
          foundAtMs: { type: ['number', 'null'] },
          rewardSats: maybeText,
        },
      },
    },
  },
} as const;

export const servicesSchema = {
  type: 'object',
  properties: {
    /** Of the pool as a whole. */
    status: text,
    reasons: { type: 'array', items: text },
    services: {
      type: 'array',
      items: {
        type: 'object',
        properties: {
          service: text,
          instance: text,
          version: text,
          state: text,
          reasons: { type: 'array', items: text },
          startedAtMs: number,
          heardAtMs: number,
          figures: counts,
          words: { type: 'object', additionalProperties: text },
          alarms: { type: 'array', items: text },
        },
      },
    },
  },
} as const;

export const ratesSchema = {
  type: 'object',
  properties: {
    stepMs: number,
    points: {
      type: 'array',
      items: { type: 'object', properties: { atMs: number, hps: number, shares: number } },
    },
  },
} as const;

export const healthSchema = {
  type: 'object',
  properties: { status: text, reasons: { type: 'array', items: text } },
} as const;

export const errorSchema = { type: 'object', properties: { error: text } } as const;
