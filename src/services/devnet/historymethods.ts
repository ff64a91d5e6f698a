/**
 * RPC methods that tell what became of payments: `gettransaction`, `listtransactions`, `listsinceblock`,
 * `abandontransaction`.
 */
import { encodeAddress } from '../../core/bitcoin/address.ts';
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import type { Method } from './args.ts';
import { scriptKey } from './blocks.ts';
import type { Chain } from './chain.ts';
import { transactionJson } from './describe.ts';
import { amountJson } from './json.ts';
import { signalsReplacement } from './mempool.ts';
import type { Node } from './node.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import type { Wallet, WalletTx } from './wallet.ts';
import { walletTxOf } from './walletparams.ts';
import type { WalletShelf } from './walletshelf.ts';

/** Methods that look a payment up. */
export function historyMethods(node: Node, shelf: WalletShelf): Method[] {
  const { chain } = node;
  return [
    {
      name: 'gettransaction',
      params: ['txid', 'include_watchonly?', 'verbose?'],
      run(args, context) {
        const wallet = shelf.of(context);
        const walletTx = walletTxOf(wallet, args.hash('txid'));
        const { entry } = walletTx;
        const debitSats = wallet.debitSats(entry);
        const creditSats = wallet.creditSats(entry);
        const outSats = entry.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
        const feeSats = debitSats > 0n ? outSats - debitSats : 0n;
        return {
          amount: amountJson(creditSats - debitSats - feeSats),
          ...(debitSats > 0n ? { fee: amountJson(feeSats) } : {}),
          ...transactionFacts(wallet, walletTx),
          details: entriesOf(wallet, walletTx, false),
          hex: encodeHex(entry.raw),
          ...(args.flag('verbose', false) ? { decoded: transactionJson(entry) } : {}),
          ...lastProcessed(chain),
        };
      },
    },
    {
      name: 'listtransactions',
      params: ['label?', 'count?', 'skip?', 'include_watchonly?'],
      run(args, context) {
        const wallet = shelf.of(context);
        const label = args.optionalText('label') ?? '*';
        const count = args.integer('count', 10);
        const skip = args.integer('skip', 0);
        if (count < 0) throw new RpcError(rpcCode.invalidParameter, 'Negative count');
        if (skip < 0) throw new RpcError(rpcCode.invalidParameter, 'Negative from');
        const newestFirst: Record<string, unknown>[] = [];
        for (const walletTx of [...wallet.transactions.values()].reverse()) {
          if (newestFirst.length >= count + skip) break;
          const entries = entriesOf(wallet, walletTx, true);
          newestFirst.push(
            ...(label === '*'
              ? entries
              : entries.filter((one) => one.category !== 'send' && one.label === label)
            ).reverse(),
          );
        }
        return newestFirst.slice(skip, skip + count).reverse();
      },
    },
    {
      name: 'listsinceblock',
      params: [
        'blockhash?',
        'target_confirmations?',
        'include_watchonly?',
        'include_removed?',
        'include_change?',
        'label?',
      ],
      run(args, context) {
        const wallet = shelf.of(context);
        const target = args.integer('target_confirmations', 1);
        if (target < 1) throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter');
        let depth = -1;
        if ((args.optionalText('blockhash') ?? '') !== '') {
          const given = chain.index.get(args.hash('blockhash'));
          if (given === undefined)
            throw new RpcError(rpcCode.invalidAddressOrKey, 'Block not found');
          // From where that block's branch leaves the chain.
          let fork = given;
          while (!chain.inActive(fork) && fork.previous !== null) fork = fork.previous;
          depth = chain.tip.height + 1 - fork.height;
        }
        const transactions = [...wallet.transactions.values()]
          .filter((walletTx) => depth === -1 || Math.abs(wallet.confirmations(walletTx)) < depth)
          .flatMap((walletTx) => entriesOf(wallet, walletTx, true));
        const last = Math.max(0, chain.tip.height + 1 - target);
        return { transactions, removed: [], lastblock: chain.active[last].id };
      },
    },
    {
      name: 'abandontransaction',
      params: ['txid'],
      run(args, context) {
        const wallet = shelf.of(context);
        if (!wallet.abandon(walletTxOf(wallet, args.hash('txid'))))
          throw new RpcError(
            rpcCode.invalidAddressOrKey,
            'Transaction not eligible for abandonment',
          );
        return null;
      },
    },
  ];
}

/** The block a wallet's answer is true for. */
export function lastProcessed(chain: Chain): Record<string, unknown> {
  return { lastprocessedblock: { hash: chain.tip.id, height: chain.tip.height } };
}

function transactionFacts(wallet: Wallet, walletTx: WalletTx): Record<string, unknown> {
  const { state, entry } = walletTx;
  const confirmations = wallet.confirmations(walletTx);
  const replaceable =
    confirmations > 0
      ? 'no'
      : state.kind === 'mempool'
        ? signalsReplacement(entry)
          ? 'yes'
          : 'no'
        : 'unknown';
  return {
    confirmations,
    ...(walletTx.coinbase ? { generated: true } : {}),
    ...(state.kind === 'confirmed'
      ? {
          blockhash: state.node.id,
          blockheight: state.node.height,
          blockindex: state.position,
          blocktime: state.node.header.time,
        }
      : { trusted: wallet.trusted(walletTx) }),
    txid: entry.id,
    wtxid: encodeHexReversed(entry.wtxid),
    walletconflicts: wallet.conflictsOf(entry),
    mempoolconflicts: [],
    time: walletTx.timeReceived,
    timereceived: walletTx.timeReceived,
    'bip125-replaceable': replaceable,
    ...(walletTx.comment ? { comment: walletTx.comment } : {}),
    ...(walletTx.to ? { to: walletTx.to } : {}),
    ...(walletTx.replacedBy ? { replaced_by_txid: walletTx.replacedBy } : {}),
    ...(walletTx.replaces ? { replaces_txid: walletTx.replaces } : {}),
  };
}

/** The send and receive entries of one transaction. */
function entriesOf(
  wallet: Wallet,
  walletTx: WalletTx,
  withFacts: boolean,
): Record<string, unknown>[] {
  const { entry } = walletTx;
  const debitSats = wallet.debitSats(entry);
  const outSats = entry.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
  const confirmations = wallet.confirmations(walletTx);
  const abandoned = walletTx.state.kind === 'inactive' && walletTx.state.abandoned;
  const facts = withFacts ? transactionFacts(wallet, walletTx) : {};
  const sent: Record<string, unknown>[] = [];
  const received: Record<string, unknown>[] = [];
  entry.tx.outputs.forEach((output, vout) => {
    const key = wallet.keyOf(output.script);
    const address = encodeAddress(output.script, 'regtest');
    const label = wallet.labels.get(scriptKey(output.script));
    if (key?.change && label === undefined && debitSats > 0n) return;
    const head = address === null ? {} : { address };
    if (debitSats > 0n)
      sent.push({
        ...head,
        category: 'send',
        amount: amountJson(-output.valueSats),
        ...(label === undefined ? {} : { label }),
        vout,
        fee: amountJson(outSats - debitSats),
        ...facts,
        abandoned,
      });
    if (key === null) return;
    const category = !walletTx.coinbase
      ? 'receive'
      : confirmations < 1
        ? 'orphan'
        : confirmations <= 100
          ? 'immature'
          : 'generate';
    received.push({
      ...head,
      category,
      amount: amountJson(output.valueSats),
      ...(label === undefined ? {} : { label }),
      vout,
      abandoned,
      ...facts,
    });
  });
  return [...sent, ...received];
}
