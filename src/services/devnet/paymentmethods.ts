/**
 * RPC methods that spend: sends, raw transactions, PSBTs, replacement by fee.
 */
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { type Args, type Method, readAmount, readHex } from './args.ts';
import { type ChainTx, completeTx, outpointKey, readChainTx } from './blocks.ts';
import { amountJson, ExactNumber, formatAmount, parseAmount } from './json.ts';
import { feeAt, minRelaySatsPerKvb, signalsReplacement } from './mempool.ts';
import type { Node } from './node.ts';
import { sendTransaction } from './nodemethods.ts';
import { combinePsbts, createPsbt, decodePsbt, finalizePsbt, processPsbt } from './psbt.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import type { PlannedSpend, SpendPlan, Wallet, WalletTx } from './wallet.ts';
import {
  addressTypeOf,
  draftTx,
  readOutpoint,
  readOutputs,
  scriptOfAddress,
  walletTxOf,
} from './walletparams.ts';
import type { WalletShelf } from './walletshelf.ts';

/** Core's wallet raises a replacement by at least this rate (`WALLET_INCREMENTAL_RELAY_FEE`). */
const walletIncrementSatsPerKvb = 5000n;

/** Methods that plan, sign and send. */
export function paymentMethods(node: Node, shelf: WalletShelf): Method[] {
  const { chain, mempool } = node;
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

  return [
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
        const wallet = shelf.of(context);
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
        const wallet = shelf.of(context);
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
        const wallet = shelf.of(context);
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
        const wallet = shelf.of(context);
        const outputs = readOutputs(args.raw('outputs') ?? []);
        const options = args.fields('options');
        const inputs = args.list('inputs', []).map(readOutpoint);
        const changeAddress = options.get('changeAddress') ?? options.get('change_address');
        const changeType = options.get('change_type');
        const changePosition = options.get('changePosition') ?? options.get('change_position');
        const subtract =
          options.get('subtractFeeFromOutputs') ?? options.get('subtract_fee_from_outputs') ?? [];
        const addInputs = options.get('add_inputs');
        const least = options.get('minconf');
        if (least !== undefined && (typeof least !== 'number' || least < 0))
          throw new RpcError(rpcCode.invalidParameter, 'Negative minconf');
        const planned = planOrThrow(wallet, {
          outputs,
          inputs,
          satsPerKvb: rateOf(options.get('fee_rate'), options.get('feeRate')),
          addInputs: typeof addInputs === 'boolean' ? addInputs : inputs.length === 0,
          replaceable: options.get('replaceable') !== false,
          locktime: args.integer('locktime', 0),
          unsafe: options.get('include_unsafe') === true,
          ...(typeof least === 'number' ? { minConfirmations: least } : {}),
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
        const answer = processPsbt(args.text('psbt'), knownOutput(shelf.of(context)), {
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
      name: 'bumpfee',
      params: ['txid', 'options?'],
      run(args, context) {
        const wallet = shelf.of(context);
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
        const wallet = shelf.of(context);
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
}

function checkRate(satsPerKvb: bigint): bigint {
  if (satsPerKvb < minRelaySatsPerKvb)
    throw new RpcError(
      rpcCode.wallet,
      `Fee rate (${rateText(satsPerKvb)} sat/vB) is lower than the minimum fee rate setting (1.000 sat/vB)`,
    );
  return satsPerKvb;
}

function planOrThrow(wallet: Wallet, plan: SpendPlan): PlannedSpend {
  const answer = wallet.plan(plan);
  if (!answer.ok)
    throw new RpcError(
      answer.insufficient ? rpcCode.insufficientFunds : rpcCode.wallet,
      answer.reason,
    );
  return answer;
}

function isSpentByWallet(wallet: Wallet, entry: ChainTx, at: number): boolean {
  const key = outpointKey(entry.id, at);
  for (const walletTx of wallet.transactions.values())
    if (walletTx.state.kind !== 'conflicted' && walletTx.entry.spends.includes(key)) return true;
  return false;
}

function rateText(satsPerKvb: bigint): string {
  return `${satsPerKvb / 1000n}.${(satsPerKvb % 1000n).toString().padStart(3, '0')}`;
}
