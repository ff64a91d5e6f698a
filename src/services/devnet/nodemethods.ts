/**
 * RPC methods about the chain, blocks, mining and the mempool, with Core 28's fields, codes and texts. Wallet methods are
 * in `walletmethods.ts`, the hidden `devnet.*` ones in `devnet.ts`.
 */
import { decodeAddress } from '../../core/bitcoin/address.ts';
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { decodeHeader, encodeHeader } from '../../core/bitcoin/header.ts';
import { NETWORKS } from '../../core/bitcoin/network.ts';
import { type Args, type Method, readHash, readHex } from './args.ts';
import { type ChainTx, outpointKey, readBlock, readChainTx } from './blocks.ts';
import type { BlockNode } from './chain.ts';
import {
  blockJson,
  difficultyOfBits,
  headerJson,
  scriptJson,
  transactionJson,
  workText,
} from './describe.ts';
import { amountJson, ExactNumber, integerJson, parseAmount } from './json.ts';
import { type MempoolEntry, minRelaySatsPerKvb, signalsReplacement } from './mempool.ts';
import { planBlock, solveBlockPolitely } from './mining.ts';
import type { Node } from './node.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import type { CallContext } from './rpcserver.ts';
import { isCoinbase } from './rules.ts';

const coreVersion = 280100;
const attemptsDefault = 1_000_000;
const generateMax = 10_000;

/** All methods of a node without a wallet. */
export function nodeMethods(node: Node): Method[] {
  const { chain, mempool, templates, faults } = node;

  const findBlock = (id: string): BlockNode => {
    const found = chain.index.get(id);
    if (!found) throw new RpcError(rpcCode.invalidAddressOrKey, 'Block not found');
    return found;
  };

  const blockAt = (height: number): BlockNode => {
    const found = chain.active[height];
    if (!found) throw new RpcError(rpcCode.invalidParameter, 'Block height out of range');
    return found;
  };

  const genesisId = (): string => faults.node('other-genesis')?.hashDisplay ?? chain.active[0].id;

  const networkHashps = (blocks: number, height: number): number => {
    const last = height < 0 ? chain.tip : (chain.active[height] ?? chain.tip);
    const count = blocks <= 0 ? (last.height % 2016) + 1 : Math.min(blocks, last.height);
    if (last.height === 0 || count === 0) return 0;
    const first = chain.active[last.height - count];
    let low = Number.POSITIVE_INFINITY;
    let high = 0;
    for (let at = first.height; at <= last.height; at += 1) {
      low = Math.min(low, chain.active[at].header.time);
      high = Math.max(high, chain.active[at].header.time);
    }
    return high === low ? 0 : Number(last.chainWork - first.chainWork) / (high - low);
  };

  const readTransaction = (hex: string): ChainTx => {
    const bytes = readHex(hex);
    const entry = bytes === null ? null : readChainTx(bytes);
    if (entry === null)
      throw new RpcError(
        rpcCode.deserialization,
        'TX decode failed. Make sure the tx has at least one input.',
      );
    return entry;
  };

  const invalidateLike = (run: (found: BlockNode) => void) => (args: Args) => {
    run(findBlock(args.hash('blockhash')));
    return null;
  };

  const methods: Method[] = [
    {
      name: 'getblockchaininfo',
      params: [],
      run() {
        const { tip } = chain;
        return {
          chain: faults.node('other-genesis') ? 'main' : NETWORKS.regtest.chainName,
          blocks: tip.height,
          headers: chain.bestHeader.height,
          bestblockhash: tip.id,
          difficulty: difficultyOfBits(tip.header.bits),
          time: tip.header.time,
          mediantime: tip.medianTimePast,
          verificationprogress: 1,
          initialblockdownload: faults.node('initial-download') !== null,
          chainwork: workText(tip.chainWork),
          size_on_disk: node.storedBytes(),
          pruned: false,
          warnings: [],
        };
      },
    },
    {
      name: 'getnetworkinfo',
      params: [],
      run: () => ({
        version: coreVersion,
        subversion: '/Satoshi:28.1.0(headframe-devnet)/',
        protocolversion: 70016,
        localservices: '0000000000000409',
        localservicesnames: ['NETWORK', 'WITNESS', 'NETWORK_LIMITED'],
        localrelay: true,
        timeoffset: 0,
        networkactive: true,
        connections: 0,
        connections_in: 0,
        connections_out: 0,
        networks: [],
        relayfee: amountJson(minRelaySatsPerKvb),
        incrementalfee: amountJson(minRelaySatsPerKvb),
        localaddresses: [],
        warnings: [],
      }),
    },
    {
      name: 'getmininginfo',
      params: [],
      run() {
        const { last } = templates;
        return {
          blocks: chain.tip.height,
          ...(last
            ? { currentblockweight: last.weight + 4000, currentblocktx: last.transactions }
            : {}),
          difficulty: difficultyOfBits(chain.tip.header.bits),
          networkhashps: networkHashps(120, -1),
          pooledtx: mempool.entries.size,
          chain: NETWORKS.regtest.chainName,
          warnings: [],
        };
      },
    },
    {
      name: 'getblocktemplate',
      params: ['template_request?'],
      run: (args, context) => getBlockTemplate(node, args, context),
    },
    {
      name: 'submitblock',
      params: ['hexdata', 'dummy?'],
      run(args) {
        const bytes = readHex(args.text('hexdata'));
        const block = bytes === null ? null : readBlock(bytes);
        if (block === null) throw new RpcError(rpcCode.deserialization, 'Block decode failed');
        if (block.transactions.length === 0 || !isCoinbase(block.transactions[0].tx))
          throw new RpcError(rpcCode.deserialization, 'Block does not start with a coinbase');
        return node.submitBlock(block);
      },
    },
    {
      name: 'submitheader',
      params: ['hexdata'],
      run(args) {
        const bytes = readHex(args.text('hexdata'));
        const header = bytes === null ? null : decodeHeader(bytes.subarray(0, 80));
        if (header === null)
          throw new RpcError(rpcCode.deserialization, 'Block header decode failed');
        const parent = encodeHexReversed(header.previousHash);
        if (!chain.index.has(parent))
          throw new RpcError(rpcCode.verify, `Must submit previous header (${parent}) first`);
        const reason = chain.submitHeader(header, node.nowSeconds());
        if (reason !== null) throw new RpcError(rpcCode.verify, reason);
        return null;
      },
    },
    {
      name: 'getblockheader',
      params: ['blockhash', 'verbose?'],
      run(args) {
        const found = findBlock(args.hash('blockhash'));
        return args.flag('verbose', true)
          ? headerJson(chain, found)
          : encodeHex(encodeHeader(found.header));
      },
    },
    {
      name: 'getblock',
      params: ['blockhash', 'verbosity?'],
      run(args) {
        const found = findBlock(args.hash('blockhash'));
        const given = args.raw('verbosity');
        const verbosity = typeof given === 'boolean' ? Number(given) : args.integer('verbosity', 1);
        const block = chain.block(found);
        if (block === null)
          throw new RpcError(rpcCode.misc, 'Block not available (not fully downloaded)');
        return verbosity <= 0 ? encodeHex(block.raw) : blockJson(chain, found, block, verbosity);
      },
    },
    {
      name: 'getblockhash',
      params: ['height'],
      run(args) {
        const height = args.integer('height');
        return height === 0 ? genesisId() : blockAt(height).id;
      },
    },
    { name: 'getbestblockhash', params: [], run: () => chain.tip.id },
    { name: 'getblockcount', params: [], run: () => chain.tip.height },
    { name: 'getdifficulty', params: [], run: () => difficultyOfBits(chain.tip.header.bits) },
    {
      name: 'getnetworkhashps',
      params: ['nblocks?', 'height?'],
      run: (args) => networkHashps(args.integer('nblocks', 120), args.integer('height', -1)),
    },
    {
      name: 'getchaintips',
      params: [],
      run: () =>
        chain.tips().map((tip) => ({
          height: tip.height,
          hash: tip.id,
          branchlen: tip.height - chain.forkOf(tip).height,
          status: tipStatus(tip, chain.inActive(tip)),
        })),
    },
    {
      name: 'getmempoolinfo',
      params: [],
      run() {
        let feesSats = 0n;
        let bytes = 0;
        for (const one of mempool.entries.values()) {
          feesSats += one.feeSats;
          bytes += one.entry.raw.length;
        }
        return {
          loaded: true,
          size: mempool.entries.size,
          bytes: mempool.vbytes,
          usage: bytes + mempool.entries.size * 1000,
          total_fee: amountJson(feesSats),
          maxmempool: 300_000_000,
          mempoolminfee: amountJson(minRelaySatsPerKvb),
          minrelaytxfee: amountJson(minRelaySatsPerKvb),
          incrementalrelayfee: amountJson(minRelaySatsPerKvb),
          unbroadcastcount: 0,
          fullrbf: true,
        };
      },
    },
    {
      name: 'getrawmempool',
      params: ['verbose?', 'mempool_sequence?'],
      run(args) {
        const sequence = args.flag('mempool_sequence', false);
        if (args.flag('verbose', false)) {
          if (sequence)
            throw new RpcError(
              rpcCode.invalidParameter,
              'Verbose results cannot contain mempool sequence values.',
            );
          return Object.fromEntries(
            [...mempool.entries].map(([id, one]) => [id, mempoolEntryJson(node, one)]),
          );
        }
        const txids = [...mempool.entries.keys()];
        return sequence ? { txids, mempool_sequence: integerJson(mempool.sequence) } : txids;
      },
    },
    {
      name: 'getmempoolentry',
      params: ['txid'],
      run(args) {
        const one = mempool.entries.get(args.hash('txid'));
        if (!one) throw new RpcError(rpcCode.invalidAddressOrKey, 'Transaction not in mempool');
        return mempoolEntryJson(node, one);
      },
    },
    {
      name: 'getrawtransaction',
      params: ['txid', 'verbosity?', 'blockhash?'],
      run(args) {
        const id = args.hash('txid');
        const given = args.raw('verbosity');
        const verbosity = typeof given === 'boolean' ? Number(given) : args.integer('verbosity', 0);
        if (id === encodeHexReversed(chain.active[0].header.merkleRoot))
          throw new RpcError(
            rpcCode.invalidAddressOrKey,
            'The genesis block coinbase is not considered an ordinary transaction and cannot be retrieved',
          );
        let entry: ChainTx | undefined;
        let found: BlockNode | null = null;
        if (args.has('blockhash')) {
          found = chain.index.get(args.hash('blockhash')) ?? null;
          if (found === null)
            throw new RpcError(rpcCode.invalidAddressOrKey, 'Block hash not found');
          entry = chain.block(found)?.transactions.find((one) => one.id === id);
          if (!entry)
            throw new RpcError(
              rpcCode.invalidAddressOrKey,
              'No such transaction found in the provided block. Use gettransaction for wallet transactions.',
            );
        } else {
          entry = mempool.entries.get(id)?.entry;
          if (!entry)
            throw new RpcError(
              rpcCode.invalidAddressOrKey,
              'No such mempool transaction. Use -txindex or provide a block hash to enable blockchain transaction queries. Use gettransaction for wallet transactions.',
            );
        }
        if (verbosity <= 0) return encodeHex(entry.raw);
        return {
          ...(found ? { in_active_chain: chain.inActive(found) } : {}),
          ...transactionJson(entry),
          hex: encodeHex(entry.raw),
          ...(found
            ? {
                blockhash: found.id,
                ...(chain.inActive(found)
                  ? {
                      confirmations: chain.confirmations(found),
                      time: found.header.time,
                      blocktime: found.header.time,
                    }
                  : { confirmations: 0 }),
              }
            : {}),
        };
      },
    },
    {
      name: 'decoderawtransaction',
      params: ['hexstring', 'iswitness?'],
      run(args) {
        const bytes = readHex(args.text('hexstring'));
        const entry = bytes === null ? null : readChainTx(bytes);
        if (entry === null) throw new RpcError(rpcCode.deserialization, 'TX decode failed');
        return transactionJson(entry);
      },
    },
    {
      name: 'sendrawtransaction',
      params: ['hexstring', 'maxfeerate?', 'maxburnamount?'],
      run(args) {
        const entry = readTransaction(args.text('hexstring'));
        sendTransaction(node, entry, readMaxFeeRate(args));
        return entry.id;
      },
    },
    {
      name: 'testmempoolaccept',
      params: ['rawtxs', 'maxfeerate?'],
      run(args) {
        const texts = args.list('rawtxs');
        if (texts.length < 1 || texts.length > 25)
          throw new RpcError(
            rpcCode.invalidParameter,
            'Array must contain between 1 and 25 transactions.',
          );
        const maxRate = readMaxFeeRate(args);
        // Packages are not simulated: each transaction is judged against the mempool as it stands.
        return texts.map((text) => {
          const entry = readTransaction(typeof text === 'string' ? text : '');
          const head = { txid: entry.id, wtxid: encodeHexReversed(entry.wtxid) };
          const verdict = mempool.accept(entry, { test: true });
          if (!verdict.ok)
            return {
              ...head,
              allowed: false,
              'reject-reason': verdict.missingInputs ? 'missing-inputs' : verdict.reason,
            };
          const { feeSats, vsize } = verdict.added;
          if (maxRate > 0n && feeSats > (maxRate * BigInt(vsize)) / 1000n)
            return { ...head, allowed: false, 'reject-reason': 'max-fee-exceeded' };
          return {
            ...head,
            allowed: true,
            vsize,
            fees: {
              base: amountJson(feeSats),
              'effective-feerate': amountJson((feeSats * 1000n) / BigInt(vsize)),
              'effective-includes': [head.wtxid],
            },
          };
        });
      },
    },
    {
      name: 'gettxout',
      params: ['txid', 'n', 'include_mempool?'],
      run(args) {
        const key = outpointKey(args.hash('txid'), args.integer('n'));
        const withMempool = args.flag('include_mempool', true);
        if (withMempool && mempool.spender(key)) return null;
        const coin = withMempool ? mempool.coin(key) : chain.coin(key);
        if (coin === null) return null;
        return {
          bestblock: chain.tip.id,
          confirmations: Math.max(0, chain.tip.height - coin.height + 1),
          value: amountJson(coin.valueSats),
          scriptPubKey: scriptJson(coin.script),
          coinbase: coin.coinbase,
        };
      },
    },
    {
      name: 'gettxoutsetinfo',
      params: ['hash_type?'],
      run() {
        let totalSats = 0n;
        for (const [, coin] of chain.coins()) totalSats += coin.valueSats;
        return {
          height: chain.tip.height,
          bestblock: chain.tip.id,
          txouts: chain.coinCount,
          total_amount: amountJson(totalSats),
        };
      },
    },
    {
      name: 'estimatesmartfee',
      params: ['conf_target', 'estimate_mode?'],
      run(args) {
        const blocks = args.integer('conf_target');
        if (blocks < 1 || blocks > 1008)
          throw new RpcError(
            rpcCode.invalidParameter,
            'Invalid conf_target, must be between 1 and 1008',
          );
        const rate = node.feeEstimateSatsPerKvb;
        return rate === null
          ? { errors: ['Insufficient data or no feerate found'], blocks }
          : { feerate: amountJson(rate), blocks };
      },
    },
    {
      name: 'validateaddress',
      params: ['address'],
      run(args) {
        const text = args.text('address');
        const address = decodeAddress(text, 'regtest');
        if (!address.ok) return { isvalid: false, error_locations: [], error: address.reason };
        const witness = address.kind.startsWith('p2w') || address.kind === 'p2tr';
        return {
          isvalid: true,
          address: address.canonical,
          scriptPubKey: encodeHex(address.script),
          isscript: address.kind === 'p2sh' || address.kind === 'p2wsh' || address.kind === 'p2tr',
          iswitness: witness,
          ...(witness
            ? {
                witness_version: address.kind === 'p2tr' ? 1 : 0,
                witness_program: encodeHex(address.script.subarray(2)),
              }
            : {}),
        };
      },
    },
    {
      name: 'generatetoaddress',
      params: ['nblocks', 'address', 'maxtries?'],
      async run(args, context) {
        const address = decodeAddress(args.text('address'), 'regtest');
        if (!address.ok) throw new RpcError(rpcCode.invalidAddressOrKey, 'Error: Invalid address');
        const blocks = args.integer('nblocks');
        if (blocks < 0 || blocks > generateMax)
          throw new RpcError(rpcCode.invalidParameter, `nblocks must be 0 to ${generateMax}`);
        const mined = await node.mine({
          blocks,
          script: address.script,
          attemptsMax: args.integer('maxtries', attemptsDefault),
          signal: context.signal,
        });
        return mined.map((one) => one.id);
      },
    },
    {
      name: 'generateblock',
      params: ['output', 'transactions', 'submit?'],
      run: (args, context) => generateBlock(node, args, context),
    },
    {
      name: 'invalidateblock',
      params: ['blockhash'],
      run: invalidateLike((found) => {
        if (!chain.invalidate(found))
          throw new RpcError(rpcCode.misc, 'the genesis block cannot be invalidated');
      }),
    },
    {
      name: 'reconsiderblock',
      params: ['blockhash'],
      run: invalidateLike((found) => chain.reconsider(found)),
    },
    {
      name: 'preciousblock',
      params: ['blockhash'],
      run: invalidateLike((found) => chain.precious(found)),
    },
    {
      name: 'uptime',
      params: [],
      run: () => node.nowSeconds() - node.startedAtSeconds,
    },
    {
      name: 'stop',
      params: ['wait?'],
      run() {
        node.requestStop();
        return 'Bitcoin Core stopping';
      },
    },
  ];
  return methods;
}

/** `sendrawtransaction`, also for wallets: idempotent while waiting, Core's codes otherwise. */
export function sendTransaction(node: Node, entry: ChainTx, maxSatsPerKvb: bigint): void {
  const { chain, mempool } = node;
  if (entry.tx.outputs.some((_, at) => chain.coin(outpointKey(entry.id, at))))
    throw new RpcError(rpcCode.alreadyInUtxoSet, 'Transaction outputs already in utxo set');
  if (mempool.entries.has(entry.id)) return;
  const refusal = (verdict: { reason: string; debug: string; missingInputs: boolean }): RpcError =>
    new RpcError(
      verdict.missingInputs ? rpcCode.verify : rpcCode.verifyRejected,
      verdict.debug === '' ? verdict.reason : `${verdict.reason}, ${verdict.debug}`,
    );
  if (maxSatsPerKvb > 0n) {
    const verdict = mempool.accept(entry, { test: true });
    if (!verdict.ok) throw refusal(verdict);
    if (verdict.added.feeSats > (maxSatsPerKvb * BigInt(verdict.added.vsize)) / 1000n)
      throw new RpcError(
        rpcCode.verify,
        'Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)',
      );
  }
  const verdict = mempool.accept(entry);
  if (!verdict.ok) throw refusal(verdict);
}

async function getBlockTemplate(node: Node, args: Args, context: CallContext): Promise<unknown> {
  const request = args.fields('template_request');
  const mode = request.get('mode') ?? 'template';
  if (mode === 'proposal') {
    const data = request.get('data');
    if (typeof data !== 'string')
      throw new RpcError(rpcCode.type, 'Missing data String key for proposal');
    const bytes = readHex(data);
    const block = bytes === null ? null : readBlock(bytes);
    if (block === null) throw new RpcError(rpcCode.deserialization, 'Block decode failed');
    return node.chain.propose(block, node.nowSeconds());
  }
  if (mode !== 'template') throw new RpcError(rpcCode.invalidParameter, 'Invalid mode');
  const longPollId = request.get('longpollid');
  if (longPollId !== undefined) await node.templates.waitForChange(longPollId, context.signal);
  const rules = request.get('rules');
  if (!Array.isArray(rules) || !rules.includes('segwit'))
    throw new RpcError(
      rpcCode.invalidParameter,
      'getblocktemplate must be called with the segwit rule set (call with {"rules": ["segwit"]})',
    );
  return node.templates.answer();
}

async function generateBlock(node: Node, args: Args, context: CallContext): Promise<unknown> {
  const { chain } = node;
  const output = args.text('output');
  const address = decodeAddress(output, 'regtest');
  const raw = /^raw\(([0-9a-fA-F]*)\)/.exec(output);
  const script = address.ok ? address.script : raw ? readHex(raw[1]) : null;
  if (script === null)
    throw new RpcError(rpcCode.invalidAddressOrKey, 'Error: Invalid address or descriptor');
  const transactions = args.list('transactions').map((value) => {
    const text = typeof value === 'string' ? value : '';
    if (text.length === 64) {
      const waiting = node.mempool.entries.get(readHash(text, 'txid'));
      if (!waiting)
        throw new RpcError(rpcCode.invalidAddressOrKey, `Transaction ${text} not in mempool.`);
      return waiting.entry;
    }
    const bytes = readHex(text);
    const entry = bytes === null ? null : readChainTx(bytes);
    if (entry === null)
      throw new RpcError(
        rpcCode.deserialization,
        `Transaction decode failed for ${text}. Make sure the tx has at least one input.`,
      );
    return entry;
  });
  const planned = planBlock({
    parent: chain.tip,
    bits: chain.requiredBits(chain.tip.height + 1),
    transactions,
    // As Core: the coinbase of generateblock takes the subsidy only.
    feesSats: 0n,
    script,
    extra: node.coinbaseExtra(),
    timeSeconds: node.nowSeconds(),
  });
  const reason = chain.propose(planned, node.nowSeconds());
  if (reason !== null) throw new RpcError(rpcCode.verify, `TestBlockValidity failed: ${reason}`);
  const solved = await solveBlockPolitely(planned, attemptsDefault, context.signal);
  if (solved === null) throw new RpcError(rpcCode.misc, 'Failed to make block.');
  if (!args.flag('submit', true)) return { hash: solved.id, hex: encodeHex(solved.raw) };
  node.submitBlock(solved);
  return { hash: solved.id };
}

/** `maxfeerate` in satoshis per 1000 virtual bytes; 0 means any. Default 0.10 BTC/kvB. */
function readMaxFeeRate(args: Args): bigint {
  if (!args.has('maxfeerate')) return 10_000_000n;
  const value = args.raw('maxfeerate');
  const sats =
    value instanceof ExactNumber || typeof value === 'number' || typeof value === 'string'
      ? parseAmount(value)
      : null;
  if (sats === null || sats < 0n) throw new RpcError(rpcCode.type, 'Invalid amount');
  if (sats > 100_000_000n)
    throw new RpcError(
      rpcCode.invalidParameter,
      'Fee rates larger than or equal to 1BTC/kvB are not accepted',
    );
  return sats;
}

function tipStatus(tip: BlockNode, active: boolean): string {
  if (active) return 'active';
  if (tip.failed) return 'invalid';
  if (tip.position === -1) return 'headers-only';
  return tip.connectedOnce ? 'valid-fork' : 'valid-headers';
}

function mempoolEntryJson(node: Node, one: MempoolEntry): Record<string, unknown> {
  const ancestors = [...node.mempool.ancestors(one)];
  const descendants = [...node.mempool.descendants(one)];
  const vsize = (entries: MempoolEntry[]): number =>
    entries.reduce((sum, each) => sum + each.vsize, 0);
  const fees = (entries: MempoolEntry[]): unknown =>
    amountJson(entries.reduce((sum, each) => sum + each.feeSats, 0n));
  return {
    vsize: one.vsize,
    weight: one.entry.weight,
    time: one.time,
    height: one.height,
    descendantcount: descendants.length,
    descendantsize: vsize(descendants),
    ancestorcount: ancestors.length,
    ancestorsize: vsize(ancestors),
    wtxid: encodeHexReversed(one.entry.wtxid),
    fees: {
      base: amountJson(one.feeSats),
      modified: amountJson(one.feeSats),
      ancestor: fees(ancestors),
      descendant: fees(descendants),
    },
    depends: [...one.parents].map((parent) => parent.entry.id),
    spentby: [...one.children].map((child) => child.entry.id),
    'bip125-replaceable': signalsReplacement(one.entry),
    unbroadcast: false,
  };
}
