/**
 * Proof that the simulation of money can fail: the product is broken on purpose in every way of breaks.ts, and the promise named there
 * must notice.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { BREAKS, type BreakName } from './breaks.ts';
import { type MoneyServer, openMoneyServer } from './server.ts';
import { runMoney } from './world.ts';

const SEEDS = 8;

let server: MoneyServer;
before(async () => {
  server = await openMoneyServer();
});
after(() => server.stop());

describe('a ledger broken on purpose is found out', () => {
  for (const [name, promise] of Object.entries(BREAKS) as [BreakName, string][]) {
    test(`${name} breaks "${promise}"`, async () => {
      const found: string[] = [];
      for (let seed = 1; seed <= SEEDS; seed++) {
        const { failure } = await runMoney(
          {
            seed,
            shares: 900,
            blocks: 18,
            accounts: 40,
            crashes: 2,
            looks: 6,
            reorganisations: 0.4,
            drainDaysMax: 2,
            breaks: new Set([name]),
          },
          server,
        );
        if (failure?.promise === promise) return;
        found.push(failure?.promise ?? 'none');
      }
      assert.fail(`not noticed in ${SEEDS} seeds; other promises broken: ${found.join(', ')}`);
    });
  }
});
