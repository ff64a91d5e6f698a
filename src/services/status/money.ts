/**
 * What everybody may read about money: accounts, rounds with their statements, payouts. Types, their JSON schemas, and the routes. All
 * of it is in the chain or concerns an address that its owner told the pool; nothing else is shown.
 */
import type { FastifyInstance } from 'fastify';
import { errorSchema } from './views.ts';

export type AccountView = {
  address: string;
  /** Satoshi. `carrySats` is signed: what coinbases still owe, or have paid ahead. */
  immatureSats: bigint;
  matureSats: bigint;
  transitSats: bigint;
  paidSats: bigint;
  carrySats: bigint;
};

export type RoundView = {
  hashDisplay: string;
  height: number;
  pool: string;
  scheme: string;
  /** immature, mature, orphaned. */
  state: string;
  rewardSats: bigint;
  foundAtMs: number;
  /** Root of the Merkle-sum tree of its statement. */
  root: string;
};

export type PayoutView = {
  batchId: bigint;
  state: string;
  totalSats: bigint;
  payments: number;
  txidDisplay: string | null;
  createdAtMs: number;
};

/** Every function rejects when the database is away. */
export type MoneySources = {
  /** Those with most to come first. */
  accounts(limit: number): Promise<readonly AccountView[]>;
  /** Null: no such account. */
  account(address: string): Promise<AccountView | null>;
  /** Newest first. */
  rounds(limit: number): Promise<readonly RoundView[]>;
  /** The published statement as JSON, exactly as `headframe verify-round` reads it; null when there is none of that block. */
  statement(hashDisplay: string): Promise<string | null>;
  /** That the credit of an address stands in the statement, as JSON; null when there is no such round or credit. */
  proof(hashDisplay: string, address: string): Promise<string | null>;
  payouts(limit: number): Promise<readonly PayoutView[]>;
};

const LISTED_MAX = 500;
const text = { type: 'string' } as const;
const number = { type: 'number' } as const;

const accountSchema = {
  type: 'object',
  properties: {
    address: text,
    immatureSats: text,
    matureSats: text,
    transitSats: text,
    paidSats: text,
    carrySats: text,
  },
} as const;

const roundSchema = {
  type: 'object',
  properties: {
    hashDisplay: text,
    height: number,
    pool: text,
    scheme: text,
    state: text,
    rewardSats: text,
    foundAtMs: number,
    root: text,
  },
} as const;

const payoutSchema = {
  type: 'object',
  properties: {
    batchId: text,
    state: text,
    totalSats: text,
    payments: number,
    txidDisplay: { type: ['string', 'null'] },
    createdAtMs: number,
  },
} as const;

const limited = {
  type: 'object',
  properties: { limit: { type: 'integer', minimum: 1, maximum: LISTED_MAX, default: 50 } },
} as const;
const hashParam = { type: 'string', pattern: '^[0-9a-f]{64}$' } as const;
const addressParam = { type: 'string', minLength: 1, maxLength: 512 } as const;

/** Adds `/api/v1/accounts`, `/rounds` and `/payouts` to the public side. `encode` makes text of what is larger than 2^53. */
export function addMoneyRoutes(
  server: FastifyInstance,
  money: MoneySources,
  encode: (value: unknown) => unknown,
): void {
  const listOf = (name: string, items: object) => ({
    schema: {
      querystring: limited,
      response: {
        200: { type: 'object', properties: { [name]: { type: 'array', items } } },
        503: errorSchema,
      },
    },
  });
  type Limited = { Querystring: { limit: number } };

  server.get<Limited>('/api/v1/accounts', listOf('accounts', accountSchema), async ({ query }) => ({
    accounts: encode(await orUnavailable(money.accounts(query.limit))),
  }));
  server.get<Limited>('/api/v1/rounds', listOf('rounds', roundSchema), async ({ query }) => ({
    rounds: encode(await orUnavailable(money.rounds(query.limit))),
  }));
  server.get<Limited>('/api/v1/payouts', listOf('payouts', payoutSchema), async ({ query }) => ({
    payouts: encode(await orUnavailable(money.payouts(query.limit))),
  }));

  server.get<{ Params: { address: string } }>(
    '/api/v1/accounts/:address',
    {
      schema: {
        params: { type: 'object', properties: { address: addressParam } },
        response: { 200: accountSchema, 404: errorSchema, 503: errorSchema },
      },
    },
    async ({ params }, reply) => {
      const account = await orUnavailable(money.account(params.address));
      if (account === null) return reply.code(404).send({ error: 'no such account' });
      return encode(account);
    },
  );
  server.get<{ Params: { hash: string } }>(
    '/api/v1/rounds/:hash',
    {
      schema: {
        params: { type: 'object', properties: { hash: hashParam } },
        response: { 404: errorSchema, 503: errorSchema },
      },
    },
    async ({ params }, reply) => {
      const statement = await orUnavailable(money.statement(params.hash));
      if (statement === null) return reply.code(404).send({ error: 'no round of that block' });
      return reply.type('application/json').send(statement);
    },
  );
  server.get<{ Params: { hash: string; address: string } }>(
    '/api/v1/rounds/:hash/proofs/:address',
    {
      schema: {
        params: { type: 'object', properties: { hash: hashParam, address: addressParam } },
        response: { 404: errorSchema, 503: errorSchema },
      },
    },
    async ({ params }, reply) => {
      const proof = await orUnavailable(money.proof(params.hash, params.address));
      if (proof === null)
        return reply.code(404).send({ error: 'no credit of that address in that round' });
      return reply.type('application/json').send(proof);
    },
  );
}

/** A source that fails is a database that is away. */
async function orUnavailable<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch {
    throw Object.assign(new Error('the database does not answer'), { statusCode: 503 });
  }
}
