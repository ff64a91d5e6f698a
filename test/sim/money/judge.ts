/**
 * Compares what the ledger, the payouts and the chain say with what the oracle works out. Reads tables with its own SQL, never through
 * the store; each look reads only what is new, so that thousands of looks are possible.
 */
import type { PayoutPolicy, Scheme } from '../../../src/core/ledger/rules.ts';
import type { Db } from '../../../src/ports.ts';
import { type NodeBlock, nodeDustSats, type WalletNode } from '../../tools/wallet-node.ts';
import { Fraction } from './fraction.ts';
import {
  expandAccounts,
  networkWork,
  type OracleMember,
  PpsFacts,
  type ShareFacts,
  splitReward,
} from './oracle.ts';
import type { Tape } from './tape.ts';

/** A promise that was broken, and how. */
export class BrokenPromise extends Error {
  readonly promise: string;
  constructor(promise: string, text: string) {
    super(text);
    this.promise = promise;
  }
}

/** A block of ours, as it happened. */
export type SimFind = {
  block: NodeBlock;
  pool: number;
  /** Number of the finding share; 0 until it was stored. */
  seq: number;
  foundAtMs: number;
  finder: number;
  /** The finding share never reached the log: the window ends with the newest share that was accepted before. */
  isShareLost: boolean;
};

/** An address's wishes since a moment; the newest before it counts. */
export type SimSettings = {
  feePpm: number | null;
  donationPpm: number;
  minimumSats: bigint | null;
  onHold: boolean;
};

export type JudgeFacts = {
  tape: Tape;
  shares: ShareFacts;
  finds: SimFind[];
  node: WalletNode;
  policy: PayoutPolicy;
  /** All settings an address ever had, oldest first. */
  settings: Map<string, SimSettings[]>;
  /** Postings of the operator: what he put where. */
  funded: { reserve: Map<string, bigint>; operator: bigint };
  /** Spends of the wallet that the operator made himself. */
  ownSpends: Set<string>;
  /** Pools that pay by the share have little in reserve, and may stop or count otherwise. */
  poor: boolean;
  /** Reorganisations deeper than maturity may have happened: the pool bears losses, miners keep what they have. */
  deep: boolean;
};

/** `quiet`: the last cycles ran whole with everything working, so that what must happen in the end has happened. */
export type Look = { quiet: boolean; final?: boolean };

export type JudgeStats = {
  looks: number;
  rounds: number;
  credits: number;
  postings: number;
  entries: number;
  batches: number;
  payouts: number;
  paidSats: bigint;
  creditedSats: bigint;
  orphaned: number;
  /** Rounds of blocks that came back after they were orphaned. */
  recredited: number;
  /** Rounds whose block left the chain after its reward was spendable. */
  losses: number;
};

type Round = {
  find: SimFind;
  generation: number;
  state: 'immature' | 'mature' | 'orphaned';
  /** Its reward was spendable before it was orphaned: the pool's loss, the miners keep theirs. */
  isLoss: boolean;
  scheme: Scheme;
  rewardSats: bigint;
  operatorSats: bigint;
  developerSats: bigint;
  credits: Map<string, bigint>;
  carries: Map<string, bigint>;
  /** By the coinbase itself. */
  paid: Map<string, bigint>;
  /** Counted among what nothing can change any more. */
  isFolded: boolean;
};

type Batch = {
  state: string;
  items: { address: string; scriptHex: string; amountSats: bigint; feeSats: bigint }[];
  feePolicy: string;
};

const ORPHAN_DEPTH = 6;
/** Who earned within this does not count as gone; credits may be a little later than finds. */
const WRITE_OFF_MS = 29 * 86_400_000;
/** Rounding of single groups of shares to 2^-32 satoshi, all together. */
const PPS_TOLERANCE = new Fraction(1_001n, 1_000n);

export function createJudge(db: Db, facts: JudgeFacts) {
  const { tape, shares, node } = facts;
  const stats: JudgeStats = {
    looks: 0,
    rounds: 0,
    credits: 0,
    postings: 0,
    entries: 0,
    batches: 0,
    payouts: 0,
    paidSats: 0n,
    creditedSats: 0n,
    orphaned: 0,
    recredited: 0,
    losses: 0,
  };
  const addressOf = new Map<bigint, string>();
  const idOf = new Map<string, bigint>();
  let lastTx = 0n;
  let lastRound = 0n;
  const entrySums = new Map<bigint, bigint>();
  const rounds = new Map<bigint, Round>();
  const byHash = new Map<string, { find: SimFind; rounds: Round[] }>();
  const batches = new Map<bigint, Batch>();
  const ppsCredited = new Map<string, Map<string, bigint>>();
  const spans = new Map<string, { fromSeq: number; scheme: Scheme }[]>();
  const writtenOff = new Map<string, Map<string, bigint>>();
  const ppsPools = new Map<string, { facts: PpsFacts; at: number }>();
  let goneAfterFees = new Map<string, bigint>();
  const ppsToReserveSats = new Map<string, bigint>();
  let ppsDeveloperSats = 0n;
  let ppsOperatorSats = 0n;

  for (const [at, { rules }] of tape.pools.entries()) {
    if (rules.scheme !== 'pps' && rules.scheme !== 'fpps') continue;
    ppsPools.set(rules.id, {
      at,
      facts: new PpsFacts(tape, shares, at, (job) =>
        rules.scheme === 'pps' ? subsidyAt(job.height) : job.valueSats,
      ),
    });
  }

  const fail = (promise: string, text: string): never => {
    throw new BrokenPromise(promise, text);
  };

  function expect(promise: string, what: string, is: unknown, should: unknown): void {
    if (is !== should) fail(promise, `${what} is ${String(is)}, should be ${String(should)}`);
  }

  async function learnAccounts(): Promise<void> {
    const highest = [...addressOf.keys()].reduce((most, id) => (id > most ? id : most), 0n);
    const rows = await db.query<{ account_id: bigint; address: string }>(
      'SELECT account_id, address FROM accounts WHERE account_id > $1',
      [highest],
    );
    for (const row of rows) {
      addressOf.set(row.account_id, row.address);
      idOf.set(row.address, row.account_id);
    }
  }

  // ---- entries and balances

  async function readEntries(): Promise<void> {
    const [head] = await db.query<{ last_seq: bigint }>('SELECT last_seq FROM ledger_head');
    const newest = head?.last_seq ?? 0n;
    if (newest === lastTx) return;
    const uneven = await db.query<{
      tx_seq: bigint;
      total: bigint;
      number: bigint;
      entries: number;
    }>(
      `SELECT tx_seq, coalesce(sum(amount), 0) AS total, count(amount) AS number, min(t.entries) AS entries
       FROM ledger_transactions t LEFT JOIN ledger_entries e USING (tx_seq)
       WHERE tx_seq > $1 AND tx_seq <= $2 GROUP BY tx_seq
       HAVING coalesce(sum(amount), 0) <> 0 OR count(amount) <> min(t.entries)`,
      [lastTx, newest],
    );
    for (const row of uneven) {
      fail('postings', `posting ${row.tx_seq} sums to ${row.total} over ${row.number} entries`);
    }
    const moved = await db.query<{ ledger_account_id: bigint; total: bigint; number: bigint }>(
      `SELECT ledger_account_id, sum(amount) AS total, count(*) AS number FROM ledger_entries
       WHERE tx_seq > $1 AND tx_seq <= $2 GROUP BY ledger_account_id`,
      [lastTx, newest],
    );
    for (const row of moved) {
      entrySums.set(
        row.ledger_account_id,
        (entrySums.get(row.ledger_account_id) ?? 0n) + row.total,
      );
      stats.entries += Number(row.number);
    }
    stats.postings = Number(newest);
    const pps = await db.query<{
      pool: string;
      kind: string;
      of_pool: string;
      account_id: bigint | null;
      total: bigint;
    }>(
      `SELECT split_part(t.key, ':', 2) AS pool, a.kind, a.pool AS of_pool, a.account_id, sum(e.amount) AS total
       FROM ledger_transactions t JOIN ledger_entries e USING (tx_seq)
       JOIN ledger_accounts a USING (ledger_account_id)
       WHERE t.kind = 'pps' AND tx_seq > $1 AND tx_seq <= $2 GROUP BY 1, 2, 3, 4`,
      [lastTx, newest],
    );
    for (const row of pps) {
      if (row.kind === 'reserve')
        ppsToReserveSats.set(row.of_pool, (ppsToReserveSats.get(row.of_pool) ?? 0n) + row.total);
      else if (row.kind === 'developer') ppsDeveloperSats += row.total;
      else if (row.kind === 'operator') ppsOperatorSats += row.total;
      else if (row.kind === 'miner') {
        const pool = ppsCredited.get(row.pool) ?? new Map<string, bigint>();
        const address = addressOf.get(row.account_id!)!;
        pool.set(address, (pool.get(address) ?? 0n) + row.total);
        ppsCredited.set(row.pool, pool);
      } else fail('pps', `PPS posts to ${row.kind}`);
    }
    await readWriteOffs(newest);
    lastTx = newest;
  }

  /** Debts of those who left scheme direct move to those who are owed, never more than they are owed. */
  async function readWriteOffs(newest: bigint): Promise<void> {
    const rows = await db.query<{ at: Date; pool: string; account_id: bigint; amount: bigint }>(
      `SELECT t.at, a.pool, a.account_id, e.amount
       FROM ledger_transactions t JOIN ledger_entries e USING (tx_seq) JOIN ledger_accounts a USING (ledger_account_id)
       WHERE t.key LIKE 'write-off:%' AND tx_seq > $1 AND tx_seq <= $2`,
      [lastTx, newest],
    );
    for (const row of rows) {
      const address = addressOf.get(row.account_id)!;
      const pool = writtenOff.get(row.pool) ?? new Map<string, bigint>();
      addTo(pool, address, row.amount);
      writtenOff.set(row.pool, pool);
      if (row.amount < 0n) continue;
      for (const round of rounds.values()) {
        if (round.scheme !== 'direct' || !round.carries.has(address) || round.state === 'orphaned')
          continue;
        const agoMs = row.at.getTime() - round.find.foundAtMs;
        if (agoMs > 0 && agoMs < WRITE_OFF_MS)
          fail(
            'carry',
            `a debt of ${address} is written off ${Math.round(agoMs / 86_400_000)} days after it earned`,
          );
      }
    }
  }

  type Balances = {
    of: Map<string, bigint>;
    miner: Map<string, bigint>;
    immature: Map<string, bigint>;
    transit: Map<string, bigint>;
    paid: Map<string, bigint>;
    carry: Map<string, Map<string, bigint>>;
  };

  async function readBalances(): Promise<Balances> {
    const rows = await db.query<{
      ledger_account_id: bigint;
      kind: string;
      pool: string;
      account_id: bigint | null;
      balance: bigint;
    }>('SELECT ledger_account_id, kind, pool, account_id, balance FROM ledger_accounts');
    const balances: Balances = {
      of: new Map(),
      miner: new Map(),
      immature: new Map(),
      transit: new Map(),
      paid: new Map(),
      carry: new Map(),
    };
    let total = 0n;
    for (const row of rows) {
      total += row.balance;
      const should = entrySums.get(row.ledger_account_id) ?? 0n;
      if (row.balance !== should)
        fail(
          'balances',
          `${row.kind} ${row.pool} ${row.account_id} holds ${row.balance}, its entries ${should}`,
        );
      const mayOwe = ['chain', 'deposit', 'expense', 'loss', 'carry'].includes(row.kind);
      if (row.balance < 0n && !mayOwe)
        fail('balances', `${row.kind} ${row.pool} ${row.account_id} is below zero: ${row.balance}`);
      const key = row.pool === '' ? row.kind : `${row.kind}/${row.pool}`;
      balances.of.set(row.kind, (balances.of.get(row.kind) ?? 0n) + row.balance);
      if (row.pool !== '') balances.of.set(key, (balances.of.get(key) ?? 0n) + row.balance);
      if (row.account_id === null) continue;
      const address = addressOf.get(row.account_id)!;
      if (row.kind === 'miner') balances.miner.set(address, row.balance);
      if (row.kind === 'miner-immature') balances.immature.set(address, row.balance);
      if (row.kind === 'transit') balances.transit.set(address, row.balance);
      if (row.kind === 'paid') balances.paid.set(address, row.balance);
      if (row.kind === 'carry') {
        const pool = balances.carry.get(row.pool) ?? new Map<string, bigint>();
        pool.set(address, row.balance);
        balances.carry.set(row.pool, pool);
      }
    }
    expect('balances', 'the sum of all balances', total, 0n);
    return balances;
  }

  // ---- rounds

  type RoundRow = {
    round_id: bigint;
    block_hash: Uint8Array;
    generation: number;
    pool: string;
    scheme: string;
    height: number;
    state: Round['state'];
    reward_sats: bigint;
    operator_sats: bigint;
    developer_sats: bigint;
    first_seq: bigint;
    last_seq: bigint;
    boundary_seq: bigint | null;
    boundary_work: bigint | null;
    boundary_counted: bigint | null;
    total_work: bigint;
    wanted_work: bigint | null;
    bits: bigint;
    mature_tx: bigint | null;
  };

  async function readRounds(): Promise<void> {
    for (const find of facts.finds) {
      if (!byHash.has(find.block.hashDisplay))
        byHash.set(find.block.hashDisplay, { find, rounds: [] });
    }
    const states = await db.query<{
      round_id: bigint;
      state: Round['state'];
      mature_tx: bigint | null;
      credit_tx: bigint | null;
    }>('SELECT round_id, state, mature_tx, credit_tx FROM rounds WHERE round_id <= $1', [
      lastRound,
    ]);
    for (const row of states) {
      const round = rounds.get(row.round_id)!;
      if (round.state === 'orphaned' && row.state !== 'orphaned')
        fail('orphans', `round ${row.round_id} was orphaned and is ${row.state}`);
      if (round.isFolded && row.state !== 'mature')
        fail('orphans', `round ${row.round_id} was mature and is ${row.state}`);
      if (row.state === 'orphaned' && round.state !== 'orphaned') stats.orphaned += 1;
      round.state = row.state;
      round.isLoss = row.state === 'orphaned' && row.mature_tx !== null;
    }
    const fresh = await db.query<RoundRow>(
      'SELECT * FROM rounds WHERE round_id > $1 ORDER BY round_id',
      [lastRound],
    );
    if (fresh.length === 0) return;
    const credits = await db.query<{
      round_id: bigint;
      account_id: bigint;
      work: bigint;
      fee_ppm: number;
      donation_ppm: number;
      credit_sats: bigint;
      paid_sats: bigint | null;
    }>('SELECT * FROM round_credits WHERE round_id > $1 ORDER BY round_id, account_id', [
      lastRound,
    ]);
    const creditsOf = new Map<bigint, typeof credits>();
    for (const credit of credits) {
      const list = creditsOf.get(credit.round_id);
      if (list === undefined) creditsOf.set(credit.round_id, [credit]);
      else list.push(credit);
    }
    for (const row of fresh) {
      const round = judgeRound(row, creditsOf.get(row.round_id) ?? []);
      rounds.set(row.round_id, round);
      byHash.get(round.find.block.hashDisplay)!.rounds.push(round);
      stats.rounds += 1;
      if (round.generation > 0) stats.recredited += 1;
      stats.credits += round.credits.size;
      stats.creditedSats += row.reward_sats;
      lastRound = row.round_id;
    }
  }

  function judgeRound(
    row: RoundRow,
    credits: {
      account_id: bigint;
      work: bigint;
      fee_ppm: number;
      donation_ppm: number;
      credit_sats: bigint;
      paid_sats: bigint | null;
    }[],
  ): Round {
    const hashDisplay = Buffer.from(row.block_hash).reverse().toString('hex');
    const known = byHash.get(hashDisplay);
    if (known === undefined)
      return fail(
        'credited',
        `round ${row.round_id} is of block ${hashDisplay}, which nobody found`,
      );
    const { find } = known;
    const { rules } = tape.pools[find.pool]!;
    if (find.isShareLost) find.seq = shares.newestBy(find.foundAtMs);
    const scheme = schemeOf(find.pool, find.seq).scheme;
    const what = `round ${row.round_id} (${rules.id}, block ${find.block.height})`;
    expect('credited', `the pool of ${what}`, row.pool, rules.id);
    expect('credited', `the scheme of ${what}`, row.scheme, scheme);
    expect('credited', `the generation of ${what}`, row.generation, known.rounds.length);
    const isStanding = known.rounds.some((one) => one.state !== 'orphaned');
    if (isStanding) fail('credited', `${what} stands beside an earlier one of the same block`);
    const coinbase = find.block.txs[0]!.tx.outputs;
    const custody = scheme !== 'solo' && scheme !== 'direct';
    const rewardSats = coinbase
      .filter((output) => !custody || node.ownsScript(output.script))
      .reduce((sum, output) => sum + output.valueSats, 0n);
    expect('whole', `the reward of ${what}`, row.reward_sats, rewardSats);
    const reserve = scheme === 'pps' || scheme === 'fpps';
    const sum = credits.reduce((total, one) => total + one.credit_sats, 0n);
    if (!reserve)
      expect(
        'whole',
        `credits and fees of ${what}`,
        sum + row.operator_sats + row.developer_sats,
        rewardSats,
      );
    const round: Round = {
      find,
      generation: row.generation,
      state: row.state,
      isLoss: row.state === 'orphaned' && row.mature_tx !== null,
      scheme,
      rewardSats,
      operatorSats: row.operator_sats,
      developerSats: row.developer_sats,
      credits: new Map(),
      carries: new Map(),
      paid: new Map(),
      isFolded: false,
    };
    if (round.state === 'orphaned') stats.orphaned += 1;
    if (reserve) {
      expect('whole', `credits of ${what}, which fills a reserve`, sum, 0n);
      return round;
    }
    expect('window', `the last share of ${what}`, row.last_seq, BigInt(find.seq));
    const window = windowOf(find, row);
    expect('window', `the first share of ${what}`, row.first_seq, window.firstSeq);
    expect('window', `the work of ${what}`, row.total_work, window.totalWork);
    expect(
      'window',
      `the share at the edge of ${what}`,
      row.boundary_seq,
      window.boundary?.seq ?? null,
    );
    expect(
      'window',
      `the counted part of ${what}`,
      row.boundary_counted,
      window.boundary?.counted ?? null,
    );
    const works = expandAccounts(tape, window.accounts);
    const members: OracleMember[] = [];
    // Ties go to the address that comes first.
    const addresses = credits.map((credit) => addressOf.get(credit.account_id)!).sort();
    const places = new Map(addresses.map((address, at) => [address, BigInt(at)]));
    const standsAt = (address: string): bigint => places.get(address)!;
    for (const credit of credits) {
      const address = addressOf.get(credit.account_id)!;
      const work = works.get(address) ?? 0n;
      if (credit.work !== work)
        fail('window', `${address} has ${credit.work} work in ${what}, should have ${work}`);
      works.delete(address);
      // Who was paid by the coinbase without any work has no rate.
      if (work > 0n) judgeRates(address, find.pool, credit.fee_ppm, credit.donation_ppm, what);
      members.push({
        id: standsAt(address),
        work,
        feePpm: credit.fee_ppm,
        donationPpm: credit.donation_ppm,
      });
    }
    for (const [address, work] of works) {
      if (work > 0n) fail('window', `${address} is missing in ${what}`);
    }
    const should = splitReward(rewardSats, members);
    expect('split', `the operator's part of ${what}`, row.operator_sats, should.operatorSats);
    expect('split', `the developer's part of ${what}`, row.developer_sats, should.developerSats);
    const paid = new Map<string, bigint>();
    if (!custody) {
      for (const output of coinbase) {
        const hex = hexOf(output.script);
        if (output.valueSats > 0n) paid.set(hex, (paid.get(hex) ?? 0n) + output.valueSats);
      }
    }
    for (const credit of credits) {
      const address = addressOf.get(credit.account_id)!;
      const shouldSats = should.credits.get(standsAt(address))!;
      if (credit.credit_sats !== shouldSats)
        fail(
          'split',
          `${address} is credited ${credit.credit_sats} sat in ${what}, should be ${shouldSats}`,
        );
      round.credits.set(address, credit.credit_sats);
    }
    for (const [hex, sats] of paid) addTo(round.paid, addressOfScript(hex), sats);
    if (scheme === 'direct') {
      // Earned less paid, over everybody who earned or was paid: fees are earned by their addresses.
      const earned = new Map(round.credits);
      addTo(earned, rules.feeAddress!, row.operator_sats);
      addTo(earned, rules.developerAddress!, row.developer_sats);
      for (const [address, sats] of earned) addTo(round.carries, address, sats);
      for (const [address, sats] of round.paid) addTo(round.carries, address, -sats);
    }
    return round;
  }

  const scriptToAddress = new Map<string, string>();
  for (const account of tape.accounts) {
    for (const part of account.parts) scriptToAddress.set(hexOf(part.script), part.address);
  }
  function addressOfScript(hex: string): string {
    return (
      scriptToAddress.get(hex) ??
      fail('carry', `a coinbase pays the script ${hex}, which is nobody's`)
    );
  }

  function windowOf(find: SimFind, row: RoundRow) {
    const { rules } = tape.pools[find.pool]!;
    const bits = Buffer.from(find.block.header).readUInt32LE(72);
    const { scheme, afterSeq } = schemeOf(find.pool, find.seq);
    if (scheme === 'solo')
      return shares.window(find.pool, find.seq, {
        wanted: null,
        afterSeq: find.seq - 1,
        afterMs: null,
      });
    if (scheme === 'prop')
      return shares.window(find.pool, find.seq, {
        wanted: null,
        afterSeq: previousEnd(find),
        afterMs: null,
      });
    if (rules.window.kind === 'days')
      return shares.window(find.pool, find.seq, {
        wanted: null,
        afterSeq,
        afterMs: find.foundAtMs - rules.window.days * 86_400_000,
      });
    const wanted = new Fraction(networkWork(bits) * rules.window.factorPpm, 1_000_000n).floor();
    expect('window', `the work wanted by block ${find.block.height}`, row.wanted_work, wanted);
    return shares.window(find.pool, find.seq, { wanted, afterSeq, afterMs: null });
  }

  /** Which scheme counts a share by the pool's own record, and the share its windows do not reach. */
  function schemeOf(pool: number, seq: number): { scheme: Scheme; afterSeq: number } {
    const { rules } = tape.pools[pool]!;
    const own = spans.get(rules.id) ?? [];
    const at = own.findLastIndex((one) => one.fromSeq <= seq);
    if (at < 0) return { scheme: rules.scheme, afterSeq: 0 };
    const { scheme } = own[at]!;
    let first = at;
    while (first > 0 && own[first - 1]!.scheme === scheme) first -= 1;
    return { scheme, afterSeq: Math.max(0, own[first]!.fromSeq - 1) };
  }

  /** Only pools that pay by the share may count by another scheme, and only where their reserve is small. */
  async function readSchemes(): Promise<void> {
    const rows = await db.query<{ pool: string; from_seq: bigint; scheme: Scheme }>(
      'SELECT pool, from_seq, scheme FROM pool_schemes ORDER BY pool_scheme_id',
    );
    spans.clear();
    for (const row of rows) {
      const list = spans.get(row.pool) ?? [];
      const fromSeq = Number(row.from_seq);
      // Where two begin at the same share the newer one counts.
      spans.set(
        row.pool,
        [...list.filter((one) => one.fromSeq !== fromSeq), { fromSeq, scheme: row.scheme }].sort(
          (a, b) => a.fromSeq - b.fromSeq,
        ),
      );
    }
    for (const { rules } of tape.pools) {
      for (const { scheme } of spans.get(rules.id) ?? []) {
        const isDowngrade = scheme === 'pplns' && ppsPools.has(rules.id);
        if (scheme !== rules.scheme && !(isDowngrade && facts.poor))
          fail('schemes', `${rules.id} counts by ${scheme}`);
      }
    }
  }

  /** PROP begins after the pool's block before this one in the same chain. */
  function previousEnd(find: SimFind): number {
    let end = 0;
    for (const one of facts.finds) {
      if (one.pool !== find.pool || one.seq >= find.seq || one.seq <= end) continue;
      if (isAncestor(one.block, find.block)) end = one.seq;
    }
    return end;
  }

  function isAncestor(older: NodeBlock, newer: NodeBlock): boolean {
    let at: NodeBlock | null = newer;
    while (at !== null && at.height > older.height) {
      if (node.isActive(at)) return node.isActive(older);
      at = at.previous;
    }
    return at === older;
  }

  function judgeRates(
    address: string,
    pool: number,
    feePpm: number,
    donationPpm: number,
    what: string,
  ): void {
    const allowed = [undefined, ...(facts.settings.get(address) ?? [])].map((one) =>
      ratesOf(pool, one),
    );
    if (!allowed.some((one) => one.feePpm === feePpm && one.donationPpm === donationPpm))
      fail(
        'rates',
        `${address} pays ${feePpm} and ${donationPpm} ppm in ${what}, which it never agreed to`,
      );
  }

  /** Fee and donation of an account in a pool; its own wishes go before the pool's. */
  function ratesOf(
    pool: number,
    settings: SimSettings | undefined,
  ): { feePpm: number; donationPpm: number } {
    const { rules } = tape.pools[pool]!;
    // The coinbase of solo is made before anybody asks whose it is: one fee for all.
    if (rules.scheme === 'solo') return { feePpm: rules.feePpm, donationPpm: 0 };
    const feePpm = settings?.feePpm ?? rules.feePpm;
    const donationPpm = (settings?.donationPpm ?? 0) + rules.developerFeePpm;
    return { feePpm, donationPpm: Math.min(donationPpm, 1_000_000 - feePpm) };
  }

  /** Every block of ours is credited while it stands, and only then. */
  function judgeStanding(): void {
    for (const { find, rounds: own } of byHash.values()) {
      if (find.seq === 0 && !find.isShareLost) continue;
      const last = own.at(-1);
      const standing = last !== undefined && last.state !== 'orphaned' ? last : null;
      const confirmations = node.confirmations(find.block);
      const what = `block ${find.block.height} of ${tape.pools[find.pool]!.rules.id} (${find.block.hashDisplay.slice(0, 12)})`;
      if (confirmations >= 1) {
        if (standing === null) {
          if (last?.isLoss) continue;
          fail('credited', `${what} has ${confirmations} confirmations and is not credited`);
        }
        const isMature = confirmations >= facts.policy.maturity;
        if (isMature && standing!.state !== 'mature')
          fail('credited', `${what} has ${confirmations} confirmations and is ${standing!.state}`);
        if (!isMature && standing!.state === 'mature' && !facts.deep)
          fail('immature', `${what} has ${confirmations} confirmations and counts as mature`);
      } else {
        const depth = node.tip.height - find.block.height + 1;
        if (
          depth >= ORPHAN_DEPTH &&
          standing !== null &&
          !(facts.deep && standing.state === 'mature')
        )
          fail(
            'orphans',
            `${what} is beside the chain under ${depth} blocks and still ${standing.state}`,
          );
        if (standing?.state === 'mature' && !facts.deep)
          fail('immature', `${what} is not in the chain and counts as mature`);
      }
    }
  }

  // ---- what everybody has

  function addTo(map: Map<string, bigint>, key: string, sats: bigint): void {
    map.set(key, (map.get(key) ?? 0n) + sats);
  }

  type Owed = {
    credited: Map<string, bigint>;
    matured: Map<string, bigint>;
    /** By coinbases that stand. */
    paid: Map<string, bigint>;
    carry: Map<string, Map<string, bigint>>;
    operator: bigint;
    operatorImmature: bigint;
    developer: bigint;
    developerImmature: bigint;
    reserve: Map<string, bigint>;
    reserveImmature: Map<string, bigint>;
  };

  /** Over all rounds that stand by the ledger's own word; `judgeStanding` compares that word with the chain. */
  function emptyOwed(): Owed {
    return {
      credited: new Map(),
      matured: new Map(),
      paid: new Map(),
      carry: new Map(),
      operator: 0n,
      operatorImmature: 0n,
      developer: 0n,
      developerImmature: 0n,
      reserve: new Map(),
      reserveImmature: new Map(),
    };
  }

  /** Over rounds that nothing can change any more. */
  const folded = emptyOwed();

  function copyOwed(owed: Owed): Owed {
    return {
      ...owed,
      credited: new Map(owed.credited),
      matured: new Map(owed.matured),
      paid: new Map(owed.paid),
      carry: new Map([...owed.carry].map(([pool, carries]) => [pool, new Map(carries)])),
      reserve: new Map(owed.reserve),
      reserveImmature: new Map(owed.reserveImmature),
    };
  }

  function addRound(owed: Owed, round: Round): void {
    if (round.state === 'orphaned' && !round.isLoss) return;
    const isMature = round.state === 'mature' || round.isLoss;
    const { rules } = tape.pools[round.find.pool]!;
    for (const [address, sats] of round.paid) addTo(owed.paid, address, sats);
    if (round.scheme === 'solo') return;
    if (round.scheme === 'direct') {
      const pool = owed.carry.get(rules.id) ?? new Map<string, bigint>();
      for (const [address, sats] of round.carries) addTo(pool, address, sats);
      owed.carry.set(rules.id, pool);
      return;
    }
    if (round.scheme === 'pps' || round.scheme === 'fpps') {
      addTo(isMature ? owed.reserve : owed.reserveImmature, rules.id, round.rewardSats);
      return;
    }
    const credit = (address: string, sats: bigint): void => {
      addTo(owed.credited, address, sats);
      if (isMature) addTo(owed.matured, address, sats);
    };
    for (const [address, sats] of round.credits) credit(address, sats);
    if (rules.feeAddress !== null) credit(rules.feeAddress, round.operatorSats);
    else if (isMature) owed.operator += round.operatorSats;
    else owed.operatorImmature += round.operatorSats;
    if (rules.developerAddress !== null) credit(rules.developerAddress, round.developerSats);
    else if (isMature) owed.developer += round.developerSats;
    else owed.developerImmature += round.developerSats;
  }

  /** Over all rounds that stand by the ledger's own word; `judgeStanding` compares that word with the chain. */
  function sumOwed(): Owed {
    for (const round of rounds.values()) {
      if (round.isFolded || round.state !== 'mature' || facts.deep) continue;
      addRound(folded, round);
      round.isFolded = true;
      round.credits.clear();
      round.paid.clear();
    }
    const owed = copyOwed(folded);
    owed.operator += facts.funded.operator + ppsOperatorSats;
    owed.developer += ppsDeveloperSats;
    for (const [pool, sats] of facts.funded.reserve) addTo(owed.reserve, pool, sats);
    for (const round of rounds.values()) if (!round.isFolded) addRound(owed, round);
    for (const pool of ppsCredited.values()) {
      for (const [address, sats] of pool) {
        addTo(owed.credited, address, sats);
        addTo(owed.matured, address, sats);
      }
    }
    for (const [pool, sats] of ppsToReserveSats) addTo(owed.reserve, pool, sats);
    for (const [pool, moved] of writtenOff) {
      const carries = owed.carry.get(pool) ?? new Map<string, bigint>();
      for (const [address, sats] of moved) addTo(carries, address, sats);
      owed.carry.set(pool, carries);
    }
    return owed;
  }

  function judgeOwed(owed: Owed, balances: Balances, gone: Map<string, bigint>): void {
    const zero = 0n;
    for (const { rules } of tape.pools) {
      if (rules.scheme !== 'direct') continue;
      const is = balances.carry.get(rules.id) ?? new Map<string, bigint>();
      const should = owed.carry.get(rules.id) ?? new Map<string, bigint>();
      let total = 0n;
      for (const address of new Set([...is.keys(), ...should.keys()])) {
        total += is.get(address) ?? 0n;
        expect(
          'carry',
          `the carry of ${address}`,
          is.get(address) ?? 0n,
          should.get(address) ?? 0n,
        );
      }
      expect('carry', `the sum of carries of ${rules.id}`, total, 0n);
    }
    const all = new Set([
      ...owed.credited.keys(),
      ...balances.miner.keys(),
      ...balances.immature.keys(),
      ...gone.keys(),
    ]);
    for (const address of all) {
      const left = (balances.miner.get(address) ?? zero) + (balances.transit.get(address) ?? zero);
      const immature = balances.immature.get(address) ?? zero;
      const paid = gone.get(address) ?? zero;
      const matured = owed.matured.get(address) ?? zero;
      const credited = owed.credited.get(address) ?? zero;
      if (left + paid > matured)
        fail(
          'immature',
          `${address} can spend or has spent ${left + paid} sat, matured are ${matured}`,
        );
      if (left + paid + immature !== credited)
        fail(
          'drift',
          `${address} has ${left} sat, ${immature} immature and was paid ${paid}: ${left + immature + paid} in all, credited are ${credited}`,
        );
    }
    for (const address of new Set([...balances.paid.keys(), ...owed.paid.keys(), ...gone.keys()])) {
      const should = (owed.paid.get(address) ?? zero) + (goneAfterFees.get(address) ?? zero);
      expect('drift', `what ${address} was paid`, balances.paid.get(address) ?? zero, should);
    }
    const of = (kind: string): bigint => balances.of.get(kind) ?? 0n;
    expect('drift', 'the operator', of('operator'), owed.operator);
    expect('drift', 'the operator, immature', of('operator-immature'), owed.operatorImmature);
    expect('drift', 'the developer', of('developer'), owed.developer);
    expect('drift', 'the developer, immature', of('developer-immature'), owed.developerImmature);
    for (const id of ppsPools.keys()) {
      expect('drift', `the reserve of ${id}`, of(`reserve/${id}`), owed.reserve.get(id) ?? 0n);
      expect(
        'drift',
        `the reserve of ${id}, immature`,
        of(`reserve-immature/${id}`),
        owed.reserveImmature.get(id) ?? 0n,
      );
    }
  }

  // ---- PPS

  async function judgePps(look: Look): Promise<void> {
    const cursors = await db.query<{ pool: string; last_seq: bigint }>(
      'SELECT pool, last_seq FROM pps_cursors',
    );
    for (const [id, { facts: pps, at }] of ppsPools) {
      const cursor = Number(cursors.find((row) => row.pool === id)?.last_seq ?? 0n);
      const newest = shares.pools[at]!.seq.at(-1) ?? 0;
      const isPaid = (seq: number): boolean => schemeOf(at, seq).scheme !== 'pplns';
      if (look.quiet && cursor < newest && isPaid(newest) && !(facts.poor && !look.final))
        fail('pps', `${id} has credited up to share ${cursor}, there are ${newest}`);
      pps.countTo(cursor, (address) => ratesOf(at, facts.settings.get(address)?.at(-1)), isPaid);
      const credited = ppsCredited.get(id) ?? new Map<string, bigint>();
      const addresses = look.final ? [...pps.addresses()] : [...pps.touched];
      for (const address of addresses) {
        const owed = pps.owed(address);
        const short = owed.minus(new Fraction(credited.get(address) ?? 0n));
        if (short.compare(new Fraction(0n)) < 0)
          fail('pps', `${address} is credited more than its shares are worth in ${id}`);
        if (short.compare(PPS_TOLERANCE) >= 0)
          fail(
            'pps',
            `${address} is credited ${credited.get(address) ?? 0n} sat in ${id}, owed are ${owed.floor()}`,
          );
      }
      pps.touched.clear();
    }
  }

  // ---- payouts and the chain

  async function judgePayouts(look: Look): Promise<Map<string, bigint>> {
    const states = await db.query<{ batch_id: bigint; state: string; fee_policy: string }>(
      'SELECT batch_id, state, fee_policy FROM payout_batches',
    );
    const unread: bigint[] = [];
    for (const row of states) {
      const known = batches.get(row.batch_id);
      if (known === undefined || known.state !== row.state) unread.push(row.batch_id);
      if (known === undefined)
        batches.set(row.batch_id, { state: row.state, items: [], feePolicy: row.fee_policy });
      else {
        if (known.state === 'settled' && row.state !== 'settled')
          fail('paid-once', `batch ${row.batch_id} was settled and is ${row.state}`);
        known.state = row.state;
      }
    }
    if (unread.length > 0) {
      const items = await db.query<{
        batch_id: bigint;
        account_id: bigint;
        address: string;
        script: Uint8Array;
        amount_sats: bigint;
        fee_sats: bigint;
      }>('SELECT * FROM payout_items WHERE batch_id = ANY($1::bigint[])', [unread]);
      for (const id of unread) batches.get(id)!.items = [];
      for (const row of items) {
        const address = addressOf.get(row.account_id)!;
        if (row.address !== address)
          fail(
            'paid-once',
            `batch ${row.batch_id} pays ${row.address} for the account of ${address}`,
          );
        batches.get(row.batch_id)!.items.push({
          address,
          scriptHex: hexOf(row.script),
          amountSats: row.amount_sats,
          feeSats: row.fee_sats,
        });
      }
    }
    const generations = await db.query<{ txid: Uint8Array; batch_id: bigint }>(
      'SELECT txid, batch_id FROM payout_generations WHERE txid IS NOT NULL',
    );
    const batchOf = new Map(
      generations.map((row) => [Buffer.from(row.txid).reverse().toString('hex'), row.batch_id]),
    );
    // The chain is the judge: every spend of the wallet is one generation of one batch, and no batch has two.
    const txOfBatch = new Map<bigint, { id: string; depth: number }>();
    const chainPaid = new Map<string, bigint>();
    let payouts = 0;
    for (const block of node.active) {
      for (let at = 1; at < block.txs.length; at++) {
        const entry = block.txs[at]!;
        if (!entry.spends.some((key) => node.isOwnOutpoint(key))) continue;
        const batchId = batchOf.get(entry.id);
        for (const output of entry.tx.outputs) {
          if (node.ownsScript(output.script)) continue;
          const address = scriptToAddress.get(hexOf(output.script));
          if (address === undefined) continue;
          payouts += 1;
          addTo(chainPaid, address, output.valueSats);
        }
        if (batchId === undefined) {
          if (facts.ownSpends.has(entry.id)) continue;
          fail(
            'paid-once',
            `the chain has ${entry.id} in block ${block.height}, which no batch knows`,
          );
        }
        const other = txOfBatch.get(batchId!);
        if (other !== undefined)
          fail(
            'paid-once',
            `batch ${batchId} stands twice in the chain: ${other.id} and ${entry.id}`,
          );
        txOfBatch.set(batchId!, { id: entry.id, depth: node.confirmations(block) });
        const outputs = entry.tx.outputs
          .filter((output) => !node.ownsScript(output.script))
          .map((output) => `${hexOf(output.script)} ${output.valueSats}`)
          .sort();
        const should = batches
          .get(batchId!)!
          .items.map((item) => `${item.scriptHex} ${item.amountSats - item.feeSats}`)
          .sort();
        if (
          outputs.length !== should.length ||
          outputs.some((line, index) => line !== should[index])
        )
          fail('paid-once', `batch ${batchId} pays other outputs in the chain than it says`);
      }
    }
    // Settled is what the ledger counts as gone; it must be in the chain.
    const gone = new Map<string, bigint>();
    const inChain = new Map<string, bigint>();
    goneAfterFees = new Map();
    for (const [id, batch] of batches) {
      const tx = txOfBatch.get(id);
      if (batch.state === 'settled') {
        if (tx === undefined && !facts.deep)
          fail('paid-once', `batch ${id} is settled and not in the chain`);
        if (tx !== undefined && tx.depth < facts.policy.confirmations && !facts.deep)
          fail('paid-once', `batch ${id} is settled at depth ${tx.depth}`);
        for (const item of batch.items) {
          addTo(gone, item.address, item.amountSats);
          addTo(goneAfterFees, item.address, item.amountSats - item.feeSats);
        }
      }
      if (batch.state === 'released' && tx !== undefined)
        fail('paid-once', `batch ${id} was released and is in the chain`);
      if (tx !== undefined)
        for (const item of batch.items)
          addTo(inChain, item.address, item.amountSats - item.feeSats);
      if (look.final && !['settled', 'released'].includes(batch.state))
        fail('paid-due', `batch ${id} is ${batch.state} in the end`);
    }
    for (const [address, sats] of chainPaid) {
      if (sats !== (inChain.get(address) ?? 0n))
        fail(
          'paid-once',
          `${address} was paid ${sats} sat by the chain, batches say ${inChain.get(address) ?? 0n}`,
        );
    }
    stats.batches = txOfBatch.size;
    stats.payouts = payouts;
    stats.paidSats = [...chainPaid.values()].reduce((sum, sats) => sum + sats, 0n);
    return gone;
  }

  /** Nobody who is due is left waiting. */
  function judgeDue(balances: Balances): void {
    for (const [address, sats] of balances.miner) {
      const settings = facts.settings.get(address)?.at(-1);
      if (settings?.onHold) continue;
      const account = scriptOfAddress(address);
      const leasts = [
        facts.policy.minimumSats,
        settings?.minimumSats ?? 0n,
        2n * nodeDustSats(account),
      ];
      const least = leasts.reduce((most, one) => (one > most ? one : most));
      if (sats >= least)
        fail('paid-due', `${address} is due ${sats} sat and was not paid (least ${least})`);
    }
  }

  const addressToScript = new Map<string, Uint8Array>();
  for (const account of tape.accounts) {
    for (const part of account.parts) addressToScript.set(part.address, part.script);
  }
  function scriptOfAddress(address: string): Uint8Array {
    return (
      addressToScript.get(address) ??
      fail('drift', `${address} has a balance and is nobody's address`)
    );
  }

  return {
    stats,
    /** One look at everything. Throws BrokenPromise. */
    async look(look: Look): Promise<void> {
      stats.looks += 1;
      await learnAccounts();
      await readEntries();
      await readSchemes();
      await readRounds();
      const balances = await readBalances();
      const gone = await judgePayouts(look);
      if (look.quiet) judgeStanding();
      judgeOwed(sumOwed(), balances, gone);
      await judgePps(look);
      if (look.final) judgeDue(balances);
      stats.losses = [...rounds.values()].filter((round) => round.isLoss).length;
    },
  };
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
}

/** 50 BTC, halved every 210,000 blocks. */
export function subsidyAt(height: number): bigint {
  let sats = 5_000_000_000n;
  for (let at = 210_000; at <= height; at += 210_000) sats /= 2n;
  return sats;
}
