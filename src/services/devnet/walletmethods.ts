/**
 * RPC methods of wallets, with Core 28's fields, codes and texts: wallets themselves, addresses, balances, coins. What
 * spends is in `paymentmethods.ts`, what looks back in `historymethods.ts`.
 */
import { decodeAddress, encodeAddress } from '../../core/bitcoin/address.ts';
import { encodeHex } from '../../core/bitcoin/bytes.ts';
import { type Method, readAmount } from './args.ts';
import { outpointKey, scriptKey } from './blocks.ts';
import { historyMethods, lastProcessed } from './historymethods.ts';
import { amountJson } from './json.ts';
import type { Node } from './node.ts';
import { paymentMethods } from './paymentmethods.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import { addressTypeOf, readOutpoint, scriptOfAddress } from './walletparams.ts';
import { openWalletShelf } from './walletshelf.ts';

/** All wallet methods of a node; its wallets are kept under `dataDir`, or in memory. */
export function walletMethods(node: Node, dataDir: string | null): Method[] {
  const { chain } = node;
  const shelf = openWalletShelf(node, dataDir);
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
        const name = args.text('wallet_name');
        if (args.flag('disable_private_keys', false) || args.flag('blank', false))
          throw new RpcError(rpcCode.wallet, 'Only wallets with their own keys exist here');
        if ((args.optionalText('passphrase') ?? '') !== '')
          throw new RpcError(rpcCode.wallet, 'Encrypted wallets do not exist here');
        shelf.create(name);
        return { name };
      },
    },
    {
      name: 'loadwallet',
      params: ['filename', 'load_on_startup?'],
      run(args) {
        const name = args.text('filename');
        shelf.load(name);
        return { name };
      },
    },
    {
      name: 'unloadwallet',
      params: ['wallet_name?', 'load_on_startup?'],
      run(args, context) {
        const name = args.optionalText('wallet_name') ?? context.wallet ?? shelf.of(context).name;
        shelf.unload(name);
        return {};
      },
    },
    { name: 'listwallets', params: [], run: () => [...shelf.wallets.keys()] },
    {
      name: 'listwalletdir',
      params: [],
      run() {
        return { wallets: shelf.names().map((name) => ({ name })) };
      },
    },
    {
      name: 'getwalletinfo',
      params: [],
      run(_args, context) {
        const wallet = shelf.of(context);
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
          ...lastProcessed(chain),
        };
      },
    },
    {
      name: 'getnewaddress',
      params: ['label?', 'address_type?'],
      run(args, context) {
        const type = addressTypeOf(args.optionalText('address_type'));
        const key = shelf.of(context).newKey(type, args.optionalText('label') ?? '', false);
        return encodeAddress(key.script, 'regtest');
      },
    },
    {
      name: 'getrawchangeaddress',
      params: ['address_type?'],
      run(args, context) {
        const type = addressTypeOf(args.optionalText('address_type'));
        return encodeAddress(shelf.of(context).newKey(type, null, true).script, 'regtest');
      },
    },
    {
      name: 'setlabel',
      params: ['address', 'label'],
      run(args, context) {
        const wallet = shelf.of(context);
        wallet.labels.set(scriptKey(scriptOfAddress(args.text('address'))), args.text('label'));
        wallet.persist();
        return null;
      },
    },
    {
      name: 'getaddressinfo',
      params: ['address'],
      run(args, context) {
        const wallet = shelf.of(context);
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
        const wallet = shelf.of(context);
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
        const balances = shelf.of(context).balances();
        return {
          mine: {
            trusted: amountJson(balances.trustedSats),
            untrusted_pending: amountJson(balances.pendingSats),
            immature: amountJson(balances.immatureSats),
          },
          ...lastProcessed(chain),
        };
      },
    },
    {
      name: 'getreceivedbyaddress',
      params: ['address', 'minconf?', 'include_immature_coinbase?'],
      run(args, context) {
        const wallet = shelf.of(context);
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
        const wallet = shelf.of(context);
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
        const wallet = shelf.of(context);
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
        [...shelf.of(context).locked].map((key) => {
          const split = key.lastIndexOf(':');
          return { txid: key.slice(0, split), vout: Number(key.slice(split + 1)) };
        }),
    },
  ];
  return [...methods, ...paymentMethods(node, shelf), ...historyMethods(node, shelf)];
}
