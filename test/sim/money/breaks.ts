/**
 * Ways to break the product on purpose, in its statements and its policy. Each stands for a mistake that real pools have made; a test
 * shows that the judge finds every one of them, which is the proof that its promises can fail.
 */
import type { PayoutPolicy } from '../../../src/core/ledger/rules.ts';
import type { Db } from '../../../src/ports.ts';
import type { WalletNode } from '../../tools/wallet-node.ts';

/** Name of the break → the promise that has to notice. */
export const BREAKS = {
  /** One satoshi of a split goes to the wrong account, in posting and record alike. */
  'satoshi-misplaced': 'split',
  /** One satoshi of a posting goes to the operator; the record of the round knows nothing of it. */
  'satoshi-lost': 'drift',
  /** A credit whose commit was not answered is posted again under another key. */
  'credited-twice': 'drift',
  /** The window of a round ends one share early. */
  'window-off-by-one': 'window',
  /** Rewards count as spendable after 11 confirmations. */
  'immature-spent': 'immature',
  /** An orphaned round keeps its credits. */
  'orphan-kept': 'drift',
  /** PPS does not remember how far it has paid. */
  'pps-cursor-lost': 'pps',
  /** What a coinbase paid too little is not carried. */
  'carry-forgotten': 'carry',
  /** A payout whose answer was lost is made anew from other coins. */
  'paid-twice': 'paid-once',
  /** A payout is settled at its first confirmation. */
  'settled-early': 'paid-once',
  /** One account is never planned. */
  'account-forgotten': 'paid-due',
} as const;

export type BreakName = keyof typeof BREAKS;

type Query = (sql: string, params?: readonly unknown[]) => Promise<unknown[]>;

/** The database as a broken product would use it. */
export function bendDb(db: Db, breaks: ReadonlySet<BreakName>, nextNumber: () => number): Db {
  if (breaks.size === 0) return db;
  const bent = (query: Query, after: (sql: string, params: unknown[]) => void): Query => {
    return async (sql, params = []) => {
      const posting = sql.includes('FROM ledger_post(') ? String(params[1]) : '';
      if (posting === 'credit' && breaks.has('credited-twice')) {
        const again = [...params];
        again[0] = `${String(params[0])}:again`;
        after(sql, again);
      }
      if (posting === 'credit' && breaks.has('satoshi-lost'))
        return query(sql, moveSatoshi(params, 'operator-immature'));
      if (posting === 'credit' && breaks.has('satoshi-misplaced'))
        return query(sql, moveSatoshi(params, 'miner-immature'));
      if (sql.includes('INSERT INTO round_credits') && breaks.has('satoshi-misplaced'))
        return query(sql, moveCredit(params));
      if (posting === 'orphan' && breaks.has('orphan-kept'))
        return [{ posted_seq: params[7], is_new: true }];
      if (posting === 'direct' && breaks.has('carry-forgotten'))
        return [{ posted_seq: 1n, is_new: true }];
      if (sql.startsWith('UPDATE pps_cursors') && breaks.has('pps-cursor-lost')) return [{}];
      if (posting === 'pps' && breaks.has('pps-cursor-lost'))
        return query(sql, [`${String(params[0])}:${nextNumber()}`, ...params.slice(1)]);
      const rows = await query(sql, params);
      if (sql.startsWith('SELECT seq, account_id, pool, bits') && breaks.has('window-off-by-one'))
        return (rows as { seq: bigint }[]).map((row) => ({ ...row, seq: row.seq - 1n }));
      if (sql.includes("WHERE l.kind = 'miner' AND l.pool = ''") && breaks.has('account-forgotten'))
        return (rows as { account_id: bigint }[]).filter((row) => row.account_id % 10n !== 3n);
      return rows;
    };
  };
  return {
    query: bent(db.query, () => {}) as Db['query'],
    async transaction(work) {
      const later: [string, unknown[]][] = [];
      const result = await db.transaction((tx) =>
        work({ query: bent(tx.query, (sql, params) => later.push([sql, params])) as Db['query'] }),
      );
      for (const [sql, params] of later) await db.query(sql, params);
      return result;
    },
    stop: () => db.stop(),
  };
}

/** The first miner of a posting has a satoshi less, and somebody of this kind one more. */
function moveSatoshi(params: readonly unknown[], toKind: string): unknown[] {
  const kinds = params[8] as string[];
  const amounts = [...(params[11] as bigint[])];
  const byAccount = rankMiners(params);
  const from = byAccount[0];
  const to = toKind === 'miner-immature' ? byAccount[1] : kinds.indexOf(toKind);
  if (from === undefined || to === undefined || to < 0) return [...params];
  amounts[from] = amounts[from]! - 1n;
  amounts[to] = amounts[to]! + 1n;
  return params.map((param, at) => (at === 11 ? amounts : param));
}

/** Places of miners with something to lose in a posting, by account. */
function rankMiners(params: readonly unknown[]): number[] {
  const kinds = params[8] as string[];
  const ids = params[10] as (bigint | null)[];
  const amounts = params[11] as bigint[];
  return kinds
    .map((kind, at) => ({ kind, at, id: ids[at] ?? 0n, sats: amounts[at]! }))
    .filter((one) => one.kind === 'miner-immature' && one.sats > 1n)
    .sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : a.at - b.at))
    .map((one) => one.at);
}

/** The same in the record of a round. */
function moveCredit(params: readonly unknown[]): unknown[] {
  const ids = params[1] as bigint[];
  const credits = [...(params[5] as bigint[])];
  const ranked = ids
    .map((id, at) => ({ id, at }))
    .filter(({ at }) => credits[at]! > 1n)
    .sort((a, b) => (a.id < b.id ? -1 : 1));
  if (ranked.length < 2) return [...params];
  credits[ranked[0]!.at] = credits[ranked[0]!.at]! - 1n;
  credits[ranked[1]!.at] = credits[ranked[1]!.at]! + 1n;
  return params.map((param, at) => (at === 5 ? credits : param));
}

/** The policy as a broken product would read it. */
export function bendPolicy(policy: PayoutPolicy, breaks: ReadonlySet<BreakName>): PayoutPolicy {
  return {
    ...policy,
    maturity: breaks.has('immature-spent') ? 11 : policy.maturity,
    confirmations: breaks.has('settled-early') ? 1 : policy.confirmations,
  };
}

/** What was sent already is made anew from other coins, and the books call it explained. */
export async function payTwice(node: WalletNode, db: Db): Promise<void> {
  for (const entry of node.mempool.values()) {
    const payouts = entry.tx.outputs.filter((output) => !node.ownsScript(output.script));
    const wanted = payouts.reduce((sum, output) => sum + output.valueSats, 0n) + 50_000n;
    const coin = node
      .spendableCoins()
      .find((one) => one.valueSats > wanted && one.confirmations > 0);
    if (coin === undefined) continue;
    const again = node.signElsewhere({
      version: 2,
      inputs: [
        {
          previousTxid: new Uint8Array(Buffer.from(coin.id, 'hex').reverse()),
          previousIndex: coin.vout,
          script: new Uint8Array(0),
          sequence: 0xfffffffd,
          witness: [],
        },
      ],
      outputs: [...payouts, { valueSats: coin.valueSats - wanted, script: coin.script }],
      locktime: 0,
    });
    node.send(again);
    await db.query(
      `INSERT INTO known_spends (txid, note, at) VALUES ($1, 'sent again', now()) ON CONFLICT DO NOTHING`,
      [new Uint8Array(Buffer.from(again.id, 'hex').reverse())],
    );
    return;
  }
}
