/**
 * Blocks broken in one way each, with the answers Bitcoin Core 28.1 gives to `submitblock` the first and the second time
 * and to a proposal. The table is asserted on devnet always, and on bitcoind where it is found, from the same bytes.
 */
import { concatBytes } from '../../../src/core/bitcoin/bytes.ts';
import { sha256 } from '../../../src/core/bitcoin/hash.ts';
import type { Header } from '../../../src/core/bitcoin/header.ts';
import { merkleRoot } from '../../../src/core/bitcoin/merkle.ts';
import type { Tx } from '../../../src/core/bitcoin/tx.ts';
import {
  type ChainBlock,
  type ChainTx,
  completeBlock,
  completeTx,
} from '../../../src/services/devnet/blocks.ts';
import type { Devnet } from '../../../src/services/devnet/devnet.ts';
import { planBlock, solveBlock } from '../../../src/services/devnet/mining.ts';
import { commitmentScript } from '../../../src/services/devnet/rules.ts';
import { dropScript } from '../../../src/services/devnet/script.ts';

export type BrokenBlock = {
  name: string;
  raw: Uint8Array;
  /** First answer of `submitblock`; a number is an error code. */
  answer: string | number | null;
  /** Second answer. */
  again: string | number | null;
  /** Answer of the proposal, asked before the block is submitted; undefined: same as `answer`. */
  proposal?: string | number | null;
};

const opTrue = Uint8Array.of(0x51);
const easiest = 0x207fffff;

/**
 * All broken blocks on the tip of `devnet`, whose chain must end with a block whose coinbase (`ripe` and older ones) pays
 * `OP_TRUE`, so that spends need no signature. `ripe` is a mature coinbase, `green` an immature one.
 */
export function brokenBlocks(devnet: Devnet, ripe: ChainTx, green: ChainTx): BrokenBlock[] {
  const { tip } = devnet.chain;
  const nowSeconds = Math.floor(Date.now() / 1000);
  let extra = 0;

  const plan = (transactions: ChainTx[] = [], feesSats = 0n): ChainBlock => {
    extra += 1;
    return planBlock({
      parent: tip,
      bits: easiest,
      transactions,
      feesSats,
      script: opTrue,
      extra: Uint8Array.of(extra, 7, 7, 7),
      timeSeconds: nowSeconds,
    });
  };
  const solve = (block: ChainBlock): Uint8Array => {
    const solved = solveBlock(block, 1_000_000);
    if (solved === null) throw new Error('no proof of work');
    return solved.raw;
  };
  /** Replaces transactions and makes the merkle root right again. */
  const withTransactions = (block: ChainBlock, transactions: ChainTx[]): ChainBlock =>
    completeBlock(
      { ...block.header, merkleRoot: merkleRoot(transactions.map((entry) => entry.txid)) },
      transactions,
    );
  const withHeader = (block: ChainBlock, header: Partial<Header>): ChainBlock =>
    completeBlock({ ...block.header, ...header }, block.transactions);
  /** Changes the coinbase; the witness commitment stays right unless `change` breaks it. */
  const withCoinbase = (block: ChainBlock, change: (tx: Tx) => Tx): ChainBlock =>
    withTransactions(block, [
      completeTx(change(block.transactions[0].tx)),
      ...block.transactions.slice(1),
    ]);
  const coinbaseScript = (script: Uint8Array) => (tx: Tx) => ({
    ...tx,
    inputs: [{ ...tx.inputs[0], script }],
  });
  const spend = (
    from: ChainTx,
    options: {
      outSats?: bigint;
      sequence?: number;
      locktime?: number;
      script?: Uint8Array;
      outputs?: Tx['outputs'];
      version?: number;
    } = {},
  ): ChainTx =>
    completeTx({
      version: options.version ?? 2,
      inputs: [
        {
          previousTxid: from.txid,
          previousIndex: 0,
          script: options.script ?? new Uint8Array(0),
          sequence: options.sequence ?? 0xffff_ffff,
          witness: [],
        },
      ],
      outputs: options.outputs ?? [
        { valueSats: options.outSats ?? from.tx.outputs[0].valueSats, script: opTrue },
      ],
      locktime: options.locktime ?? 0,
    });

  const found: BrokenBlock[] = [];
  const add = (
    name: string,
    raw: Uint8Array,
    answer: BrokenBlock['answer'],
    again: BrokenBlock['again'],
    proposal?: BrokenBlock['proposal'],
  ): void => {
    found.push({ name, raw, answer, again, ...(proposal === undefined ? {} : { proposal }) });
  };
  /** A fault of the block's inside: found again and again, never remembered. */
  const addForgotten = (name: string, block: ChainBlock, answer: string): void =>
    add(name, solve(block), answer, answer);
  /** A fault that condemns the header. */
  const addRemembered = (name: string, block: ChainBlock, answer: string): void =>
    add(name, solve(block), answer, 'duplicate-invalid');

  // Header.
  const unsolved = plan();
  let nonce = 0;
  while (solveBlock(withHeader(unsolved, { nonce }), 1) !== null) nonce += 1;
  // Proposals need no proof of work.
  add('hash above target', withHeader(unsolved, { nonce }).raw, 'high-hash', 'high-hash', null);
  add(
    'target above the limit',
    withHeader(plan(), { bits: 0x2100ffff }).raw,
    'high-hash',
    'high-hash',
    'bad-diffbits',
  );
  addForgotten(
    'bits other than required',
    withHeader(plan(), { bits: 0x207ffffe }),
    'bad-diffbits',
  );
  addForgotten(
    'time at the median',
    withHeader(plan(), { time: tip.medianTimePast }),
    'time-too-old',
  );
  addForgotten(
    'time three hours ahead',
    withHeader(plan(), { time: nowSeconds + 3 * 3600 }),
    'time-too-new',
  );
  addForgotten('version 1', withHeader(plan(), { version: 1 }), 'bad-version(0x00000001)');
  addForgotten('version 3', withHeader(plan(), { version: 3 }), 'bad-version(0x00000003)');
  addForgotten(
    'negative version',
    withHeader(plan(), { version: 0x80000000 }),
    'bad-version(0x80000000)',
  );
  add(
    'unknown parent',
    solve(withHeader(plan(), { previousHash: new Uint8Array(32).fill(7) })),
    'prev-blk-not-found',
    'prev-blk-not-found',
    'inconclusive-not-best-prevblk',
  );

  // Form.
  addForgotten(
    'wrong merkle root',
    withHeader(plan(), { merkleRoot: new Uint8Array(32).fill(1) }),
    'bad-txnmrklroot',
  );
  const twin = spend(ripe);
  const twins = plan([twin]);
  addForgotten(
    'last transaction twice',
    // Three leaves and three leaves with the last doubled have the same root (CVE-2012-2459).
    (() => {
      const other = spend(twin);
      const honest = plan([twin, other]);
      return completeBlock(honest.header, [...honest.transactions, honest.transactions[2]]);
    })(),
    'bad-txns-duplicate',
  );
  add('no coinbase', solve(withTransactions(twins, [twin])), -22, -22, 'bad-cb-missing');
  addForgotten(
    'two coinbases',
    withTransactions(plan(), [plan().transactions[0], plan().transactions[0]]),
    'bad-cb-multiple',
  );
  addForgotten(
    'coinbase script of 101 bytes',
    withCoinbase(plan(), coinbaseScript(new Uint8Array(101).fill(1))),
    'bad-cb-length',
  );
  addForgotten(
    'coinbase script of one byte',
    withCoinbase(plan(), coinbaseScript(Uint8Array.of(1))),
    'bad-cb-length',
  );
  addForgotten(
    'more than a megabyte without witness',
    withCoinbase(plan(), (tx) => ({
      ...tx,
      outputs: [
        ...tx.outputs,
        { valueSats: 0n, script: concatBytes(Uint8Array.of(0x6a), new Uint8Array(1_000_000)) },
      ],
    })),
    'bad-blk-length',
  );
  addForgotten(
    'no outputs',
    plan([completeTx({ ...spend(ripe).tx, outputs: [] })]),
    'bad-txns-vout-empty',
  );
  addForgotten(
    'output above 21 million',
    plan([spend(ripe, { outSats: 2_100_000_000_000_001n })]),
    'bad-txns-vout-toolarge',
  );
  addForgotten(
    'negative output',
    plan([spend(ripe, { outSats: 0xffff_ffff_ffff_ffffn })]),
    'bad-txns-vout-negative',
  );
  addForgotten(
    'outputs above 21 million together',
    plan([
      spend(ripe, {
        outputs: [
          { valueSats: 2_000_000_000_000_000n, script: opTrue },
          { valueSats: 2_000_000_000_000_000n, script: opTrue },
        ],
      }),
    ]),
    'bad-txns-txouttotal-toolarge',
  );
  addForgotten(
    'the same input twice',
    plan([
      completeTx({
        ...spend(ripe).tx,
        inputs: [spend(ripe).tx.inputs[0], spend(ripe).tx.inputs[0]],
      }),
    ]),
    'bad-txns-inputs-duplicate',
  );
  addForgotten(
    'a null input beside another',
    plan([
      completeTx({
        ...spend(ripe).tx,
        inputs: [spend(ripe).tx.inputs[0], { ...plan().transactions[0].tx.inputs[0], witness: [] }],
      }),
    ]),
    'bad-txns-prevout-null',
  );
  addForgotten(
    'too many signature operations',
    withCoinbase(plan(), (tx) => ({
      ...tx,
      outputs: [...tx.outputs, { valueSats: 0n, script: new Uint8Array(20_001).fill(0xac) }],
    })),
    'bad-blk-sigops',
  );

  // Context.
  addRemembered(
    'not final',
    plan([spend(ripe, { sequence: 0, locktime: tip.height + 100 })]),
    'bad-txns-nonfinal',
  );
  addRemembered(
    'height of another block',
    withCoinbase(plan(), coinbaseScript(Uint8Array.of(0x02, 0x39, 0x05, 0x00))),
    'bad-cb-height',
  );
  addForgotten(
    'commitment to other witnesses',
    withCoinbase(plan(), (tx) => ({
      ...tx,
      outputs: tx.outputs.map((output, at) =>
        at === 1
          ? { ...output, script: concatBytes(output.script.subarray(0, 6), new Uint8Array(32)) }
          : output,
      ),
    })),
    'bad-witness-merkle-match',
  );
  addForgotten(
    'reserved value of 31 bytes',
    withCoinbase(plan(), (tx) => ({
      ...tx,
      inputs: [{ ...tx.inputs[0], witness: [new Uint8Array(31)] }],
    })),
    'bad-witness-nonce-size',
  );
  addForgotten(
    'witness without commitment',
    withCoinbase(plan(), (tx) => ({ ...tx, outputs: tx.outputs.slice(0, 1) })),
    'unexpected-witness',
  );
  const heavy = plan();
  const reserved = [new Uint8Array(32)];
  addRemembered(
    'too heavy with its witnesses',
    // 900,000 bytes without witness and 500,000 of witness: each part is allowed, 4.1 million units together are not.
    (() => {
      const bulky = completeTx({
        version: 2,
        inputs: [{ ...twin.tx.inputs[0], witness: [new Uint8Array(500_000)] }],
        outputs: [
          { valueSats: 0n, script: concatBytes(Uint8Array.of(0x6a), new Uint8Array(900_000)) },
        ],
        locktime: 0,
      });
      const coinbase = completeTx({
        ...heavy.transactions[0].tx,
        inputs: [{ ...heavy.transactions[0].tx.inputs[0], witness: reserved }],
        outputs: [
          heavy.transactions[0].tx.outputs[0],
          { valueSats: 0n, script: commitmentScript([heavy.transactions[0], bulky]) },
        ],
      });
      return withTransactions(heavy, [coinbase, bulky]);
    })(),
    'bad-blk-weight',
  );

  // Coins.
  addRemembered('one satoshi too much', plan([], 1n), 'bad-cb-amount');
  addRemembered(
    'an input that does not exist',
    plan([spend(completeTx({ ...ripe.tx, locktime: 99 }))]),
    'bad-txns-inputs-missingorspent',
  );
  addRemembered(
    'an output spent twice in one block',
    plan([spend(ripe), spend(ripe, { outSats: 1n })]),
    'bad-txns-inputs-missingorspent',
  );
  addRemembered(
    'an immature coinbase',
    plan([spend(green)]),
    'bad-txns-premature-spend-of-coinbase',
  );
  addRemembered(
    'more out than in',
    plan([spend(ripe, { outSats: ripe.tx.outputs[0].valueSats + 1n })]),
    'bad-txns-in-belowout',
  );
  addRemembered(
    'a relative lock that still holds',
    plan([spend(ripe, { sequence: 1000, version: 2 })]),
    'bad-txns-nonfinal',
  );
  addRemembered(
    'a script that fails',
    // OP_RETURN in the input of a bare OP_TRUE output.
    plan([spend(ripe, { script: Uint8Array.of(0x6a) })]),
    'block-validation-failed',
  );
  addRemembered(
    'a witness program with the wrong script',
    (() => {
      const script = concatBytes(Uint8Array.of(0x00, 0x20), sha256(dropScript(1)));
      const funding = spend(ripe, { outputs: [{ valueSats: 1000n, script }] });
      const theft = completeTx({
        ...spend(funding).tx,
        inputs: [{ ...spend(funding).tx.inputs[0], witness: [Uint8Array.of(1), dropScript(2)] }],
      });
      return plan([funding, theft]);
    })(),
    'block-validation-failed',
  );

  // No block at all.
  const whole = solve(plan());
  add('half a block', whole.subarray(0, whole.length - 20), -22, -22);
  add('empty', new Uint8Array(0), -22, -22);
  add('a header alone', whole.subarray(0, 80), -22, -22);
  return found;
}
