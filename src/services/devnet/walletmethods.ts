/**
 * RPC methods of wallets, with Core 28's fields, codes and texts. Wallets are chosen as in Core: by the path
 * `/wallet/<name>`, or without one when exactly one is loaded. With a data directory each wallet is one JSON file, written
 * whole and renamed into place before its effects are answered.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { decodeAddress, encodeAddress } from '../../core/bitcoin/address.ts';
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import type { Tx, TxOutput } from '../../core/bitcoin/tx.ts';
import { type Args, type Method, readAmount, readHash, readHex } from './args.ts';
import { type ChainTx, completeTx, outpointKey, readChainTx, scriptKey } from './blocks.ts';
import { transactionJson } from './describe.ts';
import { amountJson, ExactNumber, formatAmount, parseAmount } from './json.ts';
import { type AddressType, addressTypes } from './keys.ts';
import { feeAt, minRelaySatsPerKvb, signalsReplacement } from './mempool.ts';
import type { Node } from './node.ts';
import { sendTransaction } from './nodemethods.ts';
import { combinePsbts, createPsbt, decodePsbt, finalizePsbt, processPsbt } from './psbt.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import type { CallContext } from './rpcserver.ts';
import {
  type PlannedSpend,
  type SpendPlan,
  Wallet,
  type WalletRecord,
  type WalletTx,
} from './wallet.ts';

const walletsMax = 100;
const outputsMax = 20_000;
/** Core's wallet raises a replacement by at least this rate (`WALLET_INCREMENTAL_RELAY_FEE`). */
const walletIncrementSatsPerKvb = 5000n;

/** Methods of the wallet, and the wallets behind them. `dataDir` null: wallets vanish with the process. */
export function walletMethods(
  node: Node,
  dataDir: string | null,
): { methods: Method[]; wallets: Map<string, Wallet> } {
  const { chain, mempool } = node;
  const wallets = new Map<string, Wallet>();
  /** Unloaded wallets of a node without a directory. */
  const shelf = new Map<string, WalletRecord>();
  const directory = dataDir === null ? null : join(dataDir, 'wallets');

  const openWallet = (name: string, record: WalletRecord | null): Wallet => {
    const seed = record === null ? Uint8Array.from(randomBytes(32)) : readHex(record.seedHex);
    if (seed === null || seed.length !== 32)
      throw new RpcError(rpcCode.wallet, `Wallet file verification failed. ${name} is damaged.`);
    const save = (next: WalletRecord): void => {
      if (directory === null) shelf.set(name, next);
      else writeWallet(directory, name, next);
    };
    const wallet = new Wallet(
      { chain, mempool, nowSeconds: node.nowSeconds, save },
      { name, seed, record },
    );
    wallets.set(name, wallet);
    for (const hex of record?.unconfirmed ?? []) {
      const bytes = readHex(hex);
      const entry = bytes === null ? null : readChainTx(bytes);
      if (entry === null || wallet.transactions.has(entry.id)) continue;
      wallet.remember(entry);
      mempool.accept(entry, { policy: false });
    }
    return wallet;
  };

  const storedRecord = (name: string): WalletRecord | null => {
    if (directory === null) return shelf.get(name) ?? null;
    const path = walletPath(directory, name);
    if (!existsSync(path)) return null;
    const record = decodeWalletRecord(readFileSync(path, 'utf8'));
    if (record === null)
      throw new RpcError(rpcCode.wallet, `Wallet file verification failed. ${path} is damaged.`);
    return record;
  };

  const checkName = (name: string): string => {
    if (!/^[A-Za-z0-9_.-]{0,64}$/.test(name) || name.startsWith('.'))
      throw new RpcError(
        rpcCode.wallet,
        `Wallet name ${JSON.stringify(name).slice(0, 80)} is not usable`,
      );
    return name;
  };

  const walletOf = (context: CallContext): Wallet => {
    if (context.wallet !== null) {
      const named = wallets.get(context.wallet);
      if (!named)
        throw new RpcError(
          rpcCode.walletNotFound,
          'Requested wallet does not exist or is not loaded',
        );
      return named;
    }
    if (wallets.size === 0)
      throw new RpcError(
        rpcCode.walletNotFound,
        'No wallet is loaded. Load a wallet using loadwallet or create a new one with createwallet. (Note: A default wallet is no longer automatically created)',
      );
    if (wallets.size > 1)
      throw new RpcError(
        rpcCode.walletNotSpecified,
        'Wallet file not specified (must request wallet RPC through /wallet/<filename> uri-path).',
      );
    return wallets.values().next().value as Wallet;
  };

  const lastProcessed = () => ({
    lastprocessedblock: { hash: chain.tip.id, height: chain.tip.height },
  });

  const walletTxOf = (wallet: Wallet, id: string): WalletTx => {
    const found = wallet.transactions.get(id);
    if (!found)
      throw new RpcError(rpcCode.invalidAddressOrKey, 'Invalid or non-wallet transaction id');
    return found;
  };

  const knownOutput = (wallet: Wallet) => (key: string) => wallet.ownOutput(key);

  /** Rate in satoshis per 1000 virtual bytes from `fee_rate` (sat/vB) or `feeRate` (BTC/kvB), else the estimate. */
  const rateOf = (feeRate: unknown, feeRateBtc?: unknown): bigint => {
    if (feeRate !== undefined && feeRateBtc !== undefined)
      throw new RpcError(
        rpcCode.invalidParameter,
        'Cannot specify both fee_rate (sat/vB) and feeRate (BTC/kvB)',
      );
    if (feeRateBtc !== undefined) return checkRate(readAmount(feeRateBtc));
    if (feeRate !== undefined) {
      const scaled =
        feeRate instanceof ExactNumber || typeof feeRate === 'number' || typeof feeRate === 'string'
          ? parseAmount(feeRate)
          : null;
      // Eight decimals of one sat/vB; three of them are allowed.
      if (scaled === null || scaled < 0n || scaled % 100_000n !== 0n)
        throw new RpcError(rpcCode.type, 'Invalid amount');
      return checkRate(scaled / 100_000n);
    }
    if (node.feeEstimateSatsPerKvb === null)
      throw new RpcError(
        rpcCode.wallet,
        'Fee estimation failed. Fallbackfee is disabled. Wait a few blocks or enable -fallbackfee.',
      );
    return node.feeEstimateSatsPerKvb;
  };

  const checkRate = (satsPerKvb: bigint): bigint => {
    if (satsPerKvb < minRelaySatsPerKvb)
      throw new RpcError(
        rpcCode.wallet,
        `Fee rate (${rateText(satsPerKvb)} sat/vB) is lower than the minimum fee rate setting (1.000 sat/vB)`,
      );
    return satsPerKvb;
  };

  const planOrThrow = (wallet: Wallet, plan: SpendPlan): PlannedSpend => {
    const answer = wallet.plan(plan);
    if (!answer.ok)
      throw new RpcError(
        answer.insufficient ? rpcCode.insufficientFunds : rpcCode.wallet,
        answer.reason,
      );
    return answer;
  };

  /** Plans, signs, stores and sends a payment. */
  const pay = (
    wallet: Wallet,
    plan: SpendPlan,
    facts: Partial<Pick<WalletTx, 'comment' | 'to' | 'replaces'>> = {},
  ): { entry: ChainTx; feeSats: bigint } => {
    const planned = planOrThrow(wallet, { locktime: chain.tip.height, ...plan });
    const signed = wallet.sign(planned.tx, planned.spent);
    if (!signed.complete) throw new RpcError(rpcCode.wallet, 'Signing transaction failed');
    const entry = completeTx(signed.tx);
    const verdict = mempool.accept(entry, { test: true });
    if (!verdict.ok)
      throw new RpcError(
        rpcCode.wallet,
        verdict.debug === '' ? verdict.reason : `${verdict.reason}, ${verdict.debug}`,
      );
    wallet.remember(entry, facts);
    sendTransaction(node, entry, 0n);
    wallet.persist();
    return { entry, feeSats: planned.feeSats };
  };

  const scriptOfAddress = (text: string): Uint8Array => {
    const address = decodeAddress(text, 'regtest');
    if (!address.ok)
      throw new RpcError(
        rpcCode.invalidAddressOrKey,
        `Invalid Bitcoin address: ${text.slice(0, 100)}`,
      );
    return address.script;
  };

  const addressTypeOf = (text: string | null): AddressType => {
    if (text === null) return 'bech32';
    const type = addressTypes.find((known) => known === text);
    if (!type)
      throw new RpcError(
        rpcCode.invalidAddressOrKey,
        `Unknown address type '${text.slice(0, 40)}'`,
      );
    return type;
  };

  const transactionFacts = (wallet: Wallet, walletTx: WalletTx): Record<string, unknown> => {
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
  };

  /** The send and receive entries of one transaction. */
  const entriesOf = (
    wallet: Wallet,
    walletTx: WalletTx,
    withFacts: boolean,
  ): Record<string, unknown>[] => {
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
  };

  /** `bumpfee` and `psbtbumpfee`: a plan that pays the same outputs at a higher rate. */
  const planBump = (
    wallet: Wallet,
    args: Args,
  ): { walletTx: WalletTx; planned: PlannedSpend; oldFeeSats: bigint } => {
    const walletTx = walletTxOf(wallet, args.hash('txid'));
    const { entry } = walletTx;
    if (entry.tx.outputs.some((_, at) => isSpentByWallet(wallet, entry, at)))
      throw new RpcError(rpcCode.invalidParameter, 'Transaction has descendants in the wallet');
    const waiting = mempool.entries.get(entry.id);
    if (waiting && waiting.children.size > 0)
      throw new RpcError(rpcCode.invalidParameter, 'Transaction has descendants in the mempool');
    if (wallet.confirmations(walletTx) !== 0)
      throw new RpcError(
        rpcCode.wallet,
        'Transaction has been mined, or is conflicted with a mined transaction',
      );
    if (!signalsReplacement(entry))
      throw new RpcError(rpcCode.wallet, 'Transaction is not BIP 125 replaceable');
    if (walletTx.replacedBy)
      throw new RpcError(
        rpcCode.wallet,
        `Cannot bump transaction ${entry.id} which was already bumped by transaction ${walletTx.replacedBy}`,
      );
    const known = entry.spends.map((key) => wallet.ownOutput(key));
    if (known.some((output) => output === null))
      throw new RpcError(
        rpcCode.wallet,
        "Transaction contains inputs that don't belong to this wallet",
      );
    const options = args.fields('options');
    const outSats = entry.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    const oldFeeSats = wallet.debitSats(entry) - outSats;
    const vsize = Math.ceil(entry.weight / 4);
    const oldRate = (oldFeeSats * 1000n) / BigInt(vsize);
    const given = options.get('fee_rate');
    const rate = given === undefined ? oldRate + 1n + walletIncrementSatsPerKvb : rateOf(given);
    const least = oldFeeSats + feeAt(minRelaySatsPerKvb, vsize);
    if (feeAt(rate, vsize) < least)
      throw new RpcError(
        rpcCode.invalidParameter,
        `Insufficient total fee ${formatAmount(feeAt(rate, vsize))}, must be at least ${formatAmount(least)} (oldFee ${formatAmount(oldFeeSats)} + incrementalFee ${formatAmount(least - oldFeeSats)})`,
      );
    const change = entry.tx.outputs.findIndex((output) => wallet.keyOf(output.script)?.change);
    const outputs = options.has('outputs')
      ? readOutputs(options.get('outputs'))
      : entry.tx.outputs.filter((_, at) => at !== change);
    const planned = planOrThrow(wallet, {
      outputs,
      satsPerKvb: rate,
      inputs: entry.tx.inputs.map((input) => ({
        id: encodeHexReversed(input.previousTxid),
        index: input.previousIndex,
      })),
      replaceable: options.get('replaceable') !== false,
      locktime: entry.tx.locktime,
      minConfirmations: 1,
      ...(change >= 0 ? { changeScript: entry.tx.outputs[change].script } : {}),
    });
    return { walletTx, planned, oldFeeSats };
  };

  const methods: Method[] = [
    {
      name: 'createwallet',
      params: [
        'wallet_name',
        'disable_private_keys?',
        'blank?',
        'passphrase?',
        'avoid_reuse?',
        'descriptors?',
        'load_on_startup?',
        'external_signer?',
      ],
      run(args) {
        const name = checkName(args.text('wallet_name'));
        if (args.flag('disable_private_keys', false) || args.flag('blank', false))
          throw new RpcError(rpcCode.wallet, 'Only wallets with their own keys exist here');
        if ((args.optionalText('passphrase') ?? '') !== '')
          throw new RpcError(rpcCode.wallet, 'Encrypted wallets do not exist here');
        if (wallets.has(name) || storedRecord(name) !== null)
          throw new RpcError(
            rpcCode.wallet,
            `Wallet file verification failed. Failed to create database path '${name}'. Database already exists.`,
          );
        if (wallets.size >= walletsMax)
          throw new RpcError(rpcCode.wallet, `At most ${walletsMax} wallets can be loaded`);
        openWallet(name, null);
        return { name };
      },
    },
    {
      name: 'loadwallet',
      params: ['filename', 'load_on_startup?'],
      run(args) {
        const name = checkName(args.text('filename'));
        if (wallets.has(name))
          throw new RpcError(rpcCode.walletAlreadyLoaded, `Wallet "${name}" is already loaded.`);
        const record = storedRecord(name);
        if (record === null)
          throw new RpcError(
            rpcCode.walletNotFound,
            `Wallet file verification failed. Failed to load database path '${name}'. Path does not exist.`,
          );
        openWallet(name, record);
        return { name };
      },
    },
    {
      name: 'unloadwallet',
      params: ['wallet_name?', 'load_on_startup?'],
      run(args, context) {
        const name = args.optionalText('wallet_name') ?? context.wallet ?? walletOf(context).name;
        const wallet = wallets.get(name);
        if (!wallet)
          throw new RpcError(
            rpcCode.walletNotFound,
            'Requested wallet does not exist or is not loaded',
          );
        wallet.persist();
        wallet.unload();
        wallets.delete(name);
        return {};
      },
    },
    { name: 'listwallets', params: [], run: () => [...wallets.keys()] },
    {
      name: 'listwalletdir',
      params: [],
      run() {
        const names =
          directory === null
            ? [...shelf.keys()]
            : existsSync(directory)
              ? readdirSync(directory)
                  .filter((file) => file.endsWith('.json'))
                  .map((file) => file.slice(0, -'.json'.length).slice(1))
              : [];
        return { wallets: names.map((name) => ({ name })) };
      },
    },
    {
      name: 'getwalletinfo',
      params: [],
      run(_args, context) {
        const wallet = walletOf(context);
        const balances = wallet.balances();
        return {
          walletname: wallet.name,
          walletversion: 169900,
          format: 'sqlite',
          balance: amountJson(balances.trustedSats),
          unconfirmed_balance: amountJson(balances.pendingSats),
          immature_balance: amountJson(balances.immatureSats),
          txcount: wallet.transactions.size,
          keypoolsize: 1000,
          keypoolsize_hd_internal: 1000,
          paytxfee: amountJson(0n),
          private_keys_enabled: true,
          avoid_reuse: false,
          scanning: false,
          descriptors: true,
          external_signer: false,
          blank: false,
          ...lastProcessed(),
        };
      },
    },
    {
      name: 'getnewaddress',
      params: ['label?', 'address_type?'],
      run(args, context) {
        const type = addressTypeOf(args.optionalText('address_type'));
        const key = walletOf(context).newKey(type, args.optionalText('label') ?? '', false);
        return encodeAddress(key.script, 'regtest');
      },
    },
    {
      name: 'getrawchangeaddress',
      params: ['address_type?'],
      run(args, context) {
        const type = addressTypeOf(args.optionalText('address_type'));
        return encodeAddress(walletOf(context).newKey(type, null, true).script, 'regtest');
      },
    },
    {
      name: 'setlabel',
      params: ['address', 'label'],
      run(args, context) {
        const wallet = walletOf(context);
        wallet.labels.set(scriptKey(scriptOfAddress(args.text('address'))), args.text('label'));
        wallet.persist();
        return null;
      },
    },
    {
      name: 'getaddressinfo',
      params: ['address'],
      run(args, context) {
        const wallet = walletOf(context);
        const text = args.text('address');
        const address = decodeAddress(text, 'regtest');
        if (!address.ok) throw new RpcError(rpcCode.invalidAddressOrKey, address.reason);
        const key = wallet.keyOf(address.script);
        const label = wallet.labels.get(scriptKey(address.script));
        const witness = address.kind.startsWith('p2w') || address.kind === 'p2tr';
        return {
          address: address.canonical,
          scriptPubKey: encodeHex(address.script),
          ismine: key !== null,
          solvable: key !== null,
          iswatchonly: false,
          isscript: address.kind === 'p2sh' || address.kind === 'p2wsh' || address.kind === 'p2tr',
          iswitness: witness,
          ...(witness
            ? {
                witness_version: address.kind === 'p2tr' ? 1 : 0,
                witness_program: encodeHex(address.script.subarray(2)),
              }
            : {}),
          ...(key ? { pubkey: encodeHex(key.publicKey) } : {}),
          ischange: key?.change === true && label === undefined,
          labels: label === undefined ? [] : [label],
        };
      },
    },
    {
      name: 'getbalance',
      params: ['dummy?', 'minconf?', 'include_watchonly?', 'avoid_reuse?'],
      run(args, context) {
        const wallet = walletOf(context);
        const least = args.integer('minconf', 0);
        let total = 0n;
        for (const coin of wallet.coins())
          if (!coin.immature && coin.safe && coin.confirmations >= least) total += coin.valueSats;
        return amountJson(total);
      },
    },
    {
      name: 'getbalances',
      params: [],
      run(_args, context) {
        const balances = walletOf(context).balances();
        return {
          mine: {
            trusted: amountJson(balances.trustedSats),
            untrusted_pending: amountJson(balances.pendingSats),
            immature: amountJson(balances.immatureSats),
          },
          ...lastProcessed(),
        };
      },
    },
    {
      name: 'getreceivedbyaddress',
      params: ['address', 'minconf?', 'include_immature_coinbase?'],
      run(args, context) {
        const wallet = walletOf(context);
        const script = scriptKey(scriptOfAddress(args.text('address')));
        if (!wallet.keys.has(script))
          throw new RpcError(rpcCode.wallet, 'Address not found in wallet');
        const least = args.integer('minconf', 1);
        const immature = args.flag('include_immature_coinbase', false);
        let total = 0n;
        for (const walletTx of wallet.transactions.values()) {
          const confirmations = wallet.confirmations(walletTx);
          if (confirmations < least || (walletTx.coinbase && confirmations <= 100 && !immature))
            continue;
          for (const output of walletTx.entry.tx.outputs)
            if (scriptKey(output.script) === script) total += output.valueSats;
        }
        return amountJson(total);
      },
    },
    {
      name: 'listunspent',
      params: ['minconf?', 'maxconf?', 'addresses?', 'include_unsafe?', 'query_options?'],
      run(args, context) {
        const wallet = walletOf(context);
        const least = args.integer('minconf', 1);
        const most = args.integer('maxconf', 9_999_999);
        const unsafe = args.flag('include_unsafe', true);
        const scripts = new Set(
          args.list('addresses', []).map((text) => scriptKey(scriptOfAddress(String(text)))),
        );
        const query = args.fields('query_options');
        const immature = query.get('include_immature_coinbase') === true;
        const smallest = query.has('minimumAmount') ? readAmount(query.get('minimumAmount')) : 0n;
        const largest = query.has('maximumAmount') ? readAmount(query.get('maximumAmount')) : null;
        return wallet
          .coins()
          .filter(
            (coin) =>
              coin.confirmations >= least &&
              coin.confirmations <= most &&
              (immature || !coin.immature) &&
              (unsafe || coin.safe) &&
              !wallet.locked.has(coin.key) &&
              (scripts.size === 0 || scripts.has(scriptKey(coin.script))) &&
              coin.valueSats >= smallest &&
              (largest === null || coin.valueSats <= largest),
          )
          .map((coin) => {
            const label = wallet.labels.get(scriptKey(coin.script));
            return {
              txid: coin.id,
              vout: coin.index,
              address: encodeAddress(coin.script, 'regtest'),
              ...(label === undefined ? {} : { label }),
              scriptPubKey: encodeHex(coin.script),
              amount: amountJson(coin.valueSats),
              confirmations: coin.confirmations,
              spendable: true,
              solvable: true,
              safe: coin.safe,
            };
          });
      },
    },
    {
      name: 'lockunspent',
      params: ['unlock', 'transactions?', 'persistent?'],
      run(args, context) {
        const wallet = walletOf(context);
        const unlock = args.flag('unlock', false);
        if (!args.has('transactions')) {
          if (unlock) wallet.locked.clear();
          return true;
        }
        const unspent = new Set(wallet.coins().map((coin) => coin.key));
        const keys = args.list('transactions').map((value) => {
          const { id, index } = readOutpoint(value);
          const key = outpointKey(id, index);
          const known = wallet.transactions.get(id);
          const refuse = (text: string): never => {
            throw new RpcError(rpcCode.invalidParameter, `Invalid parameter, ${text}`);
          };
          if (!known) refuse('unknown transaction');
          if (index >= (known?.entry.tx.outputs.length ?? 0)) refuse('vout index out of bounds');
          if (!unspent.has(key)) refuse('expected unspent output');
          if (unlock && !wallet.locked.has(key)) refuse('expected locked output');
          if (!unlock && wallet.locked.has(key) && !args.flag('persistent', false))
            refuse('output already locked');
          return key;
        });
        for (const key of keys)
          if (unlock) wallet.locked.delete(key);
          else wallet.locked.add(key);
        return true;
      },
    },
    {
      name: 'listlockunspent',
      params: [],
      run: (_args, context) =>
        [...walletOf(context).locked].map((key) => {
          const split = key.lastIndexOf(':');
          return { txid: key.slice(0, split), vout: Number(key.slice(split + 1)) };
        }),
    },
    {
      name: 'sendtoaddress',
      params: [
        'address',
        'amount',
        'comment?',
        'comment_to?',
        'subtractfeefromamount?',
        'replaceable?',
        'conf_target?',
        'estimate_mode?',
        'avoid_reuse?',
        'fee_rate?',
        'verbose?',
      ],
      run(args, context) {
        const wallet = walletOf(context);
        const valueSats = args.amount('amount');
        if (valueSats <= 0n) throw new RpcError(rpcCode.type, 'Invalid amount for send');
        const { entry } = pay(
          wallet,
          {
            outputs: [{ valueSats, script: scriptOfAddress(args.text('address')) }],
            satsPerKvb: rateOf(args.raw('fee_rate')),
            subtractFrom: args.flag('subtractfeefromamount', false) ? [0] : [],
            replaceable: args.flag('replaceable', true),
          },
          { comment: args.optionalText('comment'), to: args.optionalText('comment_to') },
        );
        return args.flag('verbose', false)
          ? { txid: entry.id, fee_reason: 'Fallback fee' }
          : entry.id;
      },
    },
    {
      name: 'sendmany',
      params: [
        'dummy',
        'amounts',
        'minconf?',
        'comment?',
        'subtractfeefrom?',
        'replaceable?',
        'conf_target?',
        'estimate_mode?',
        'fee_rate?',
        'verbose?',
      ],
      run(args, context) {
        const wallet = walletOf(context);
        if ((args.optionalText('dummy') ?? '') !== '')
          throw new RpcError(rpcCode.invalidParameter, 'Dummy value must be set to ""');
        const amounts = args.fields('amounts');
        const outputs = readOutputs(Object.fromEntries(amounts));
        if (outputs.some((output) => output.valueSats <= 0n))
          throw new RpcError(rpcCode.type, 'Invalid amount for send');
        const addresses = [...amounts.keys()];
        const subtractFrom = args.list('subtractfeefrom', []).map((value) => {
          const at = addresses.indexOf(String(value));
          if (at < 0)
            throw new RpcError(
              rpcCode.invalidParameter,
              `Invalid parameter 'subtract fee from output', destination ${String(value).slice(0, 100)} not found in tx outputs`,
            );
          return at;
        });
        const { entry } = pay(
          wallet,
          {
            outputs,
            satsPerKvb: rateOf(args.raw('fee_rate')),
            subtractFrom,
            replaceable: args.flag('replaceable', true),
          },
          { comment: args.optionalText('comment') },
        );
        return args.flag('verbose', false)
          ? { txid: entry.id, fee_reason: 'Fallback fee' }
          : entry.id;
      },
    },
    {
      name: 'createrawtransaction',
      params: ['inputs', 'outputs', 'locktime?', 'replaceable?'],
      run: (args) => encodeHex(completeTx(draftTx(args)).raw),
    },
    {
      name: 'signrawtransactionwithwallet',
      params: ['hexstring', 'prevtxs?', 'sighashtype?'],
      run(args, context) {
        const wallet = walletOf(context);
        const bytes = readHex(args.text('hexstring'));
        const entry = bytes === null ? null : readChainTx(bytes);
        if (entry === null)
          throw new RpcError(
            rpcCode.deserialization,
            'TX decode failed. Make sure the tx has at least one input.',
          );
        const given = new Map<string, { valueSats: bigint; script: Uint8Array }>();
        for (const value of args.list('prevtxs', [])) {
          const { id, index } = readOutpoint(value);
          const facts = new Map(Object.entries(value as Record<string, unknown>));
          const script = readHex(String(facts.get('scriptPubKey') ?? ''));
          if (script !== null && facts.has('amount'))
            given.set(outpointKey(id, index), {
              valueSats: readAmount(facts.get('amount')),
              script,
            });
        }
        const spent = entry.spends.map(
          (key) => given.get(key) ?? mempool.coin(key) ?? wallet.ownOutput(key)?.output ?? null,
        );
        const signed = wallet.sign(entry.tx, spent);
        const errors = entry.tx.inputs.flatMap((input, at) =>
          signed.tx.inputs[at] !== input || input.witness.length > 0 || input.script.length > 0
            ? []
            : [
                {
                  txid: encodeHexReversed(input.previousTxid),
                  vout: input.previousIndex,
                  witness: [],
                  scriptSig: '',
                  sequence: input.sequence,
                  error:
                    spent[at] === null
                      ? 'Input not found or already spent'
                      : 'Unable to sign input, invalid stack size (possibly missing key)',
                },
              ],
        );
        return {
          hex: encodeHex(completeTx(signed.tx).raw),
          complete: signed.complete,
          ...(errors.length > 0 ? { errors } : {}),
        };
      },
    },
    {
      name: 'walletcreatefundedpsbt',
      params: ['inputs?', 'outputs?', 'locktime?', 'options?', 'bip32derivs?'],
      run(args, context) {
        const wallet = walletOf(context);
        const outputs = readOutputs(args.raw('outputs') ?? []);
        const options = args.fields('options');
        const inputs = args.list('inputs', []).map(readOutpoint);
        const changeAddress = options.get('changeAddress') ?? options.get('change_address');
        const changeType = options.get('change_type');
        const changePosition = options.get('changePosition') ?? options.get('change_position');
        const subtract =
          options.get('subtractFeeFromOutputs') ?? options.get('subtract_fee_from_outputs') ?? [];
        const addInputs = options.get('add_inputs');
        const planned = planOrThrow(wallet, {
          outputs,
          inputs,
          satsPerKvb: rateOf(options.get('fee_rate'), options.get('feeRate')),
          addInputs: typeof addInputs === 'boolean' ? addInputs : inputs.length === 0,
          replaceable: options.get('replaceable') !== false,
          locktime: args.integer('locktime', 0),
          unsafe: options.get('include_unsafe') === true,
          subtractFrom: (Array.isArray(subtract) ? subtract : []).map((at) => {
            if (typeof at !== 'number' || !Number.isInteger(at) || at < 0 || at >= outputs.length)
              throw new RpcError(
                rpcCode.invalidParameter,
                `Invalid parameter, output index out of bounds: ${String(at).slice(0, 20)}`,
              );
            return at;
          }),
          ...(typeof changeAddress === 'string'
            ? { changeScript: scriptOfAddress(changeAddress) }
            : {}),
          ...(typeof changeType === 'string' ? { changeType: addressTypeOf(changeType) } : {}),
          ...(typeof changePosition === 'number' ? { changePosition } : {}),
        });
        const lock = options.get('lockUnspents') ?? options.get('lock_unspents');
        if (lock === true)
          for (const input of planned.tx.inputs)
            wallet.locked.add(
              outpointKey(encodeHexReversed(input.previousTxid), input.previousIndex),
            );
        return {
          psbt: createPsbt(planned.tx, knownOutput(wallet)),
          fee: amountJson(planned.feeSats),
          changepos: planned.changePosition,
        };
      },
    },
    {
      name: 'walletprocesspsbt',
      params: ['psbt', 'sign?', 'sighashtype?', 'bip32derivs?', 'finalize?'],
      run(args, context) {
        const answer = processPsbt(args.text('psbt'), knownOutput(walletOf(context)), {
          sign: args.flag('sign', true),
          finalize: args.flag('finalize', true),
        });
        return {
          psbt: answer.psbt,
          complete: answer.complete,
          ...(answer.hex === null ? {} : { hex: answer.hex }),
        };
      },
    },
    {
      name: 'createpsbt',
      params: ['inputs', 'outputs', 'locktime?', 'replaceable?'],
      run: (args) => createPsbt(draftTx(args), () => null),
    },
    {
      name: 'finalizepsbt',
      params: ['psbt', 'extract?'],
      run: (args) => finalizePsbt(args.text('psbt'), args.flag('extract', true)),
    },
    { name: 'decodepsbt', params: ['psbt'], run: (args) => decodePsbt(args.text('psbt')) },
    {
      name: 'combinepsbt',
      params: ['txs'],
      run: (args) =>
        combinePsbts(args.list('txs').map((text) => (typeof text === 'string' ? text : ''))),
    },
    {
      name: 'gettransaction',
      params: ['txid', 'include_watchonly?', 'verbose?'],
      run(args, context) {
        const wallet = walletOf(context);
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
          ...lastProcessed(),
        };
      },
    },
    {
      name: 'listtransactions',
      params: ['label?', 'count?', 'skip?', 'include_watchonly?'],
      run(args, context) {
        const wallet = walletOf(context);
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
      name: 'abandontransaction',
      params: ['txid'],
      run(args, context) {
        const wallet = walletOf(context);
        if (!wallet.abandon(walletTxOf(wallet, args.hash('txid'))))
          throw new RpcError(
            rpcCode.invalidAddressOrKey,
            'Transaction not eligible for abandonment',
          );
        return null;
      },
    },
    {
      name: 'bumpfee',
      params: ['txid', 'options?'],
      run(args, context) {
        const wallet = walletOf(context);
        const { walletTx, planned, oldFeeSats } = planBump(wallet, args);
        const signed = wallet.sign(planned.tx, planned.spent);
        if (!signed.complete) throw new RpcError(rpcCode.wallet, "Can't sign transaction.");
        const entry = completeTx(signed.tx);
        const verdict = mempool.accept(entry, { test: true });
        if (!verdict.ok) throw new RpcError(rpcCode.wallet, `${verdict.reason}, ${verdict.debug}`);
        wallet.remember(entry, { replaces: walletTx.entry.id });
        walletTx.replacedBy = entry.id;
        sendTransaction(node, entry, 0n);
        wallet.persist();
        return {
          txid: entry.id,
          origfee: amountJson(oldFeeSats),
          fee: amountJson(planned.feeSats),
          errors: [],
        };
      },
    },
    {
      name: 'psbtbumpfee',
      params: ['txid', 'options?'],
      run(args, context) {
        const wallet = walletOf(context);
        const { planned, oldFeeSats } = planBump(wallet, args);
        return {
          psbt: createPsbt(planned.tx, knownOutput(wallet)),
          origfee: amountJson(oldFeeSats),
          fee: amountJson(planned.feeSats),
          errors: [],
        };
      },
    },
  ];
  return { methods, wallets };
}

function isSpentByWallet(wallet: Wallet, entry: ChainTx, at: number): boolean {
  const key = outpointKey(entry.id, at);
  for (const walletTx of wallet.transactions.values())
    if (walletTx.state.kind !== 'conflicted' && walletTx.entry.spends.includes(key)) return true;
  return false;
}

/** `{txid, vout, sequence?}`. */
function readOutpoint(value: unknown): { id: string; index: number; sequence?: number } {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new RpcError(rpcCode.type, 'an input is an object with txid and vout');
  const fields = new Map<string, unknown>(Object.entries(value));
  const txid = fields.get('txid');
  const vout = fields.get('vout');
  const sequence = fields.get('sequence');
  if (typeof txid !== 'string')
    throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter, missing txid key');
  if (typeof vout !== 'number' || !Number.isInteger(vout))
    throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter, missing vout key');
  if (vout < 0)
    throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter, vout cannot be negative');
  if (sequence === undefined) return { id: readHash(txid, 'txid'), index: vout };
  if (typeof sequence !== 'number' || sequence < 0 || sequence > 0xffff_ffff)
    throw new RpcError(
      rpcCode.invalidParameter,
      'Invalid parameter, sequence number is out of range',
    );
  return { id: readHash(txid, 'txid'), index: vout, sequence };
}

/** Outputs as an object or an array of objects: address → amount, or `data` → hex. */
function readOutputs(value: unknown): TxOutput[] {
  const parts = Array.isArray(value) ? value : [value];
  const outputs: TxOutput[] = [];
  const seen = new Set<string>();
  for (const part of parts) {
    if (typeof part !== 'object' || part === null || Array.isArray(part))
      throw new RpcError(
        rpcCode.invalidParameter,
        'Invalid parameter, key-value pair not an object as expected',
      );
    for (const [name, amount] of Object.entries(part)) {
      if (outputs.length >= outputsMax)
        throw new RpcError(rpcCode.invalidParameter, `more than ${outputsMax} outputs`);
      if (seen.has(name))
        throw new RpcError(
          rpcCode.invalidParameter,
          name === 'data'
            ? 'Invalid parameter, duplicate key: data'
            : `Invalid parameter, duplicated address: ${name}`,
        );
      seen.add(name);
      if (name === 'data') {
        const data = readHex(String(amount));
        if (data === null || data.length > 80)
          throw new RpcError(
            rpcCode.invalidParameter,
            `Data must be hexadecimal string (not '${String(amount).slice(0, 100)}')`,
          );
        const head = data.length < 0x4c ? [0x6a, data.length] : [0x6a, 0x4c, data.length];
        outputs.push({ valueSats: 0n, script: Uint8Array.of(...head, ...data) });
        continue;
      }
      const address = decodeAddress(name, 'regtest');
      if (!address.ok)
        throw new RpcError(
          rpcCode.invalidAddressOrKey,
          `Invalid Bitcoin address: ${name.slice(0, 100)}`,
        );
      outputs.push({ valueSats: readAmount(amount), script: address.script });
    }
  }
  return outputs;
}

/** `createrawtransaction`'s and `createpsbt`'s transaction. */
function draftTx(args: Args): Tx {
  const replaceable = args.flag('replaceable', true);
  const locktime = args.integer('locktime', 0);
  if (locktime < 0 || locktime > 0xffff_ffff)
    throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter, locktime out of range');
  const sequence = replaceable ? 0xffff_fffd : locktime > 0 ? 0xffff_fffe : 0xffff_ffff;
  return {
    version: 2,
    inputs: args.list('inputs').map((value) => {
      const outpoint = readOutpoint(value);
      return {
        previousTxid: Uint8Array.from(Buffer.from(outpoint.id, 'hex')).reverse(),
        previousIndex: outpoint.index,
        script: new Uint8Array(0),
        sequence: outpoint.sequence ?? sequence,
        witness: [],
      };
    }),
    outputs: readOutputs(args.raw('outputs')),
    locktime,
  };
}

function rateText(satsPerKvb: bigint): string {
  return `${satsPerKvb / 1000n}.${(satsPerKvb % 1000n).toString().padStart(3, '0')}`;
}

/** The name carries a leading letter so that a wallet may be called by the empty name. */
function walletPath(directory: string, name: string): string {
  return join(directory, `w${name}.json`);
}

function writeWallet(directory: string, name: string, record: WalletRecord): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const path = walletPath(directory, name);
  const file = openSync(`${path}.tmp`, 'w', 0o600);
  writeSync(file, JSON.stringify(record));
  fsyncSync(file);
  closeSync(file);
  renameSync(`${path}.tmp`, path);
}

/** Reads a wallet file; null when it is not one. */
function decodeWalletRecord(text: string): WalletRecord | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null) return null;
  const record = value as Partial<WalletRecord>;
  if (
    typeof record.seedHex !== 'string' ||
    typeof record.counts !== 'object' ||
    !Array.isArray(record.labels) ||
    !Array.isArray(record.unconfirmed)
  )
    return null;
  return record as WalletRecord;
}
