/**
 * The simulation of money in the suite: a few seeds that must keep every promise. That it can fail is shown in breaks.test.ts; more
 * seeds, and the sizes that the README names: run.ts.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type MoneyServer, openMoneyServer } from './server.ts';
import { type MoneyOptions, type MoneyStats, runMoney } from './world.ts';

const SMALL = { shares: 1_200, blocks: 24, accounts: 40, crashes: 20, looks: 6 };

let server: MoneyServer;
before(async () => {
  server = await openMoneyServer();
});
after(() => server.stop());

async function mustHold(options: MoneyOptions): Promise<MoneyStats> {
  const { failure, stats } = await runMoney(options, server);
  const mode = `${options.poor ? ' --poor' : ''}${options.deep ? ' --deep' : ''}`;
  assert.equal(
    failure,
    null,
    `seed ${options.seed} breaks "${failure?.promise}" at step ${failure?.step}: ${failure?.text}\n` +
      `replay: node test/sim/money/run.ts --seed ${options.seed} --shares ${options.shares} --blocks ${options.blocks} ` +
      `--accounts ${options.accounts} --crashes ${options.crashes} --looks ${options.looks}${mode} --trace`,
  );
  return stats;
}

describe('simulation of money', () => {
  test('nothing is lost, invented or paid twice through kills, lost commits and reorganisations', async () => {
    const stats = await mustHold({ seed: 1, ...SMALL });
    // The run must have had something to lose.
    assert.ok(stats.crashes >= 15, `only ${stats.crashes} kills`);
    assert.ok(stats.lostCommits > 5, `only ${stats.lostCommits} lost connections`);
    assert.ok(stats.payouts > 20, `only ${stats.payouts} payouts`);
  });

  test('pools that pay by the share stop or count otherwise when their reserve is small', async () => {
    await mustHold({ seed: 44, ...SMALL, crashes: 5, poor: true });
  });

  test('a reorganisation deeper than maturity costs the pool and no miner', async () => {
    const size = { shares: 900, blocks: 92, accounts: 30, crashes: 0, looks: 2 };
    const stats = await mustHold({ seed: 6, ...size, deep: true });
    assert.ok(stats.losses > 0, 'no spendable reward left the chain');
  });

  test('gives the same run for the same seed', async () => {
    const runs: string[] = [];
    for (let times = 0; times < 2; times++) {
      const lines: string[] = [];
      await runMoney(
        { seed: 77, ...SMALL, shares: 300, blocks: 6, trace: (text) => lines.push(text) },
        server,
      );
      runs.push(lines.join('\n'));
    }
    assert.equal(runs[0], runs[1]);
  });
});
