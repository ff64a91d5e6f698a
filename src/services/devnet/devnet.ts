/**
 * `headframe devnet`: a Bitcoin-like regtest node in one function, for the demo and for tests. It speaks Bitcoin Core's
 * JSON-RPC and ZMQ as far as a pool uses them (`nodemethods.ts`, `walletmethods.ts`, `publisher.ts`), validates blocks as
 * Core does (`chain.ts` says how far), keeps its chain on disk if given a directory, and fails on command (`faults.ts`).
 * It has no peer-to-peer network: several of them in one process can be joined with `connect`.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeAddress } from '../../core/bitcoin/address.ts';
import { sha256 } from '../../core/bitcoin/hash.ts';
import type { Clock, Log } from '../../ports.ts';
import { Args, type Method, readAmount, readHex } from './args.ts';
import { type ChainBlock, readBlock, readChainTx } from './blocks.ts';
import { openFileStore, openMemoryStore } from './blockstore.ts';
import { type BlockNode, Chain } from './chain.ts';
import { Faucet } from './faucet.ts';
import { decodeFault, type FaultRequest, Faults } from './faults.ts';
import { Mempool } from './mempool.ts';
import { planBlock, solveBlock, solveBlockPolitely } from './mining.ts';
import type { Node } from './node.ts';
import { nodeMethods } from './nodemethods.ts';
import { openPublisher, type ZmqPublisher } from './publisher.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import { type CallContext, openRpcServer } from './rpcserver.ts';
import { easiestBits } from './rules.ts';
import { TemplateMaker, templateWeightMax } from './template.ts';
import { walletMethods } from './walletmethods.ts';

/** Pause between the transactions that follow a block. */
const trickleMs = 20;

export type DevnetOptions = {
  host?: string;
  /** 0: any free port. */
  rpcPort: number;
  /** 0: any free port; null: no ZMQ. */
  zmqPort: number | null;
  /** null: everything in memory. */
  dataDir?: string | null;
  user: string;
  password: string;
  /** Where to write a cookie besides user and password; null: none. */
  cookieFile?: string | null;
  /** Blocks the chain mines at once, paying itself, if it is shorter. 101 and more give it money to spend. */
  initialBlocks: number;
  /** Compact bits of every block above `initialBlocks`; default regtest's 0x207fffff. Fixed when the chain is made. */
  bits?: number;
  /** Signed transactions that are put into the mempool after every block. */
  transactionsPerBlock: number;
  /** Mines a block for itself this often; null or absent: only on command. */
  blockIntervalMs?: number | null;
  /** Same text, same keys and transactions; default: random. */
  seed?: string;
  /** Satoshis per 1000 virtual bytes that `estimatesmartfee` answers; null: "Insufficient data". Default 10,000. */
  feeEstimateSatsPerKvb?: bigint | null;
  /** Requests at once before HTTP 503. Default 64. */
  workQueueDepth?: number;
  /** How long a long poll waits before a changed mempool answers it. Default 60,000 then 10,000, as Core. */
  longPollMempoolMs?: { firstMs: number; laterMs: number };
};

export type Devnet = {
  rpcPort: number;
  rpcUrl: string;
  zmqAddress: string | null;
  user: string;
  password: string;
  cookieFile: string | null;
  /** For looking only; change it through the functions below or by RPC. */
  chain: Chain;
  mempool: Mempool;
  /** Runs an RPC method in this process. Rejects with RpcError (a `code` and Core's message). */
  call(method: string, params?: unknown, wallet?: string): Promise<unknown>;
  /** Mines blocks from the mempool on the tip; ids in display hex. `address` default: the chain's own. */
  generate(blocks: number, address?: string): Promise<string[]>;
  /** Mines `blocks` empty blocks on any block, also beside the tip. They count as received in order. */
  generateOn(parentId: string, blocks: number): Promise<string[]>;
  /** Replaces the last `depth` blocks by `depth + 1` empty ones; their ids. */
  reorganise(depth: number): Promise<string[]>;
  /** `submitblock` without the RPC. */
  submit(block: Uint8Array): string | null;
  /** Pays from the chain's own money into the mempool; txid. Needs 101 blocks. */
  fund(address: string, sats: bigint): string;
  /** Puts ordinary signed transactions into the mempool; how many were made. */
  addTransactions(count: number): number;
  /**
   * Adds transactions until the mempool weighs `weight` units (default: as full as a template gets), `transactions` of
   * them where that many fit. What was added.
   */
  fillMempool(weight?: number, transactions?: number): { weight: number; transactions: number };
  /** The mempool is empty from now on, as after a restart without its file. */
  forgetMempool(): void;
  setFeeEstimate(satsPerKvb: bigint | null): void;
  /** Begins a fault; the returned function ends it. Throws on an unknown one. */
  fault(request: FaultRequest): () => void;
  clearFaults(): void;
  /** New cookie in the cookie file; the old one is refused from now on. */
  rotateCookie(): void;
  /** Exchanges blocks and transactions with another chain in this process, both ways, until the returned function is called. */
  connect(other: Devnet): () => void;
  stop(): Promise<void>;
};

/** Starts a node and resolves when its RPC answers. Rejects when a port is taken or the directory is in use or damaged. */
export async function startDevnet(
  tools: { clock: Clock; log: Log },
  options: DevnetOptions,
): Promise<Devnet> {
  const { clock, log } = tools;
  const host = options.host ?? '127.0.0.1';
  const dataDir = options.dataDir ?? null;
  const nowSeconds = (): number => Math.floor(clock.nowMs() / 1000);
  const parameters = { bits: options.bits ?? easiestBits, easyBlocks: options.initialBlocks };
  const store =
    dataDir === null
      ? openMemoryStore(parameters)
      : await openFileStore({ log }, dataDir, parameters);
  if (store.parameters.bits !== parameters.bits)
    log.warn('the stored chain keeps its own difficulty', {
      bits: store.parameters.bits.toString(16),
    });

  const faults = new Faults();
  let chain: Chain;
  try {
    chain = new Chain(store);
  } catch (error) {
    await store.stop();
    throw error;
  }
  const mempool = new Mempool(chain, nowSeconds);
  const templates = new TemplateMaker(
    { chain, mempool, nowSeconds },
    options.longPollMempoolMs ?? { firstMs: 60_000, laterMs: 10_000 },
  );
  const seed = readSeed(options.seed, dataDir);
  const faucet = new Faucet({ chain, mempool }, seed);
  let stopping: Promise<void> | null = null;
  const life = new AbortController();

  const node: Node = {
    log,
    chain,
    mempool,
    templates,
    faults,
    nowSeconds,
    startedAtSeconds: nowSeconds(),
    storedBytes: () => store.size(),
    feeEstimateSatsPerKvb:
      options.feeEstimateSatsPerKvb === undefined ? 10_000n : options.feeEstimateSatsPerKvb,
    coinbaseExtra: () => Uint8Array.from(randomBytes(8)),
    submitBlock: (block) => chain.submit(block, nowSeconds()),
    async mine({ blocks, script, attemptsMax, signal }) {
      const mined: BlockNode[] = [];
      let attemptsLeft = attemptsMax;
      while (mined.length < blocks && attemptsLeft > 0) {
        const template = templates.make();
        const planned = planBlock({
          parent: template.parent,
          bits: chain.requiredBits(template.parent.height + 1),
          transactions: template.entries.map((one) => one.entry),
          feesSats: template.feesSats,
          script,
          extra: node.coinbaseExtra(),
          timeSeconds: nowSeconds(),
        });
        const solved = await solveBlockPolitely(planned, attemptsLeft, signal);
        if (solved === null) break;
        attemptsLeft -= solved.header.nonce + 1;
        const reason = node.submitBlock(solved);
        const found = chain.index.get(solved.id);
        if (found && chain.inActive(found)) mined.push(found);
        else if (!faults.node('freeze-tip') && template.parent === chain.tip)
          throw new RpcError(rpcCode.internal, `ProcessNewBlock, block not accepted (${reason})`);
        else if (faults.node('freeze-tip')) break;
      }
      return mined;
    },
    requestStop() {
      // After the answer has left.
      setTimeout(() => void stop(), 10);
    },
  };

  mineFirstBlocks(node, faucet, options.initialBlocks);

  const controls = controlMethods();
  const methods = new Map<string, Method>();
  for (const method of [...nodeMethods(node), ...walletMethods(node, dataDir), ...controls])
    methods.set(method.name, method);
  methods.set('help', {
    name: 'help',
    params: ['command?'],
    run: (args) => {
      const name = args.optionalText('command');
      if (name === null)
        return [...methods.keys()]
          .filter((known) => !known.startsWith('devnet.'))
          .sort()
          .join('\n');
      const method = methods.get(name);
      return method ? [name, ...method.params].join(' ') : `help: unknown command: ${name}`;
    },
  });
  const run = (name: string, params: unknown, context: CallContext): unknown => {
    const method = methods.get(name);
    if (!method) throw new RpcError(rpcCode.methodNotFound, 'Method not found');
    return method.run(new Args(method, params), context);
  };

  let publisher: ZmqPublisher | null = null;
  const openPorts = async () => {
    if (options.zmqPort !== null)
      publisher = await openPublisher({ log, faults }, { host, port: options.zmqPort });
    return openRpcServer(
      { log, faults, run },
      {
        host,
        port: options.rpcPort,
        user: options.user,
        password: options.password,
        cookieFile: options.cookieFile ?? null,
        workQueueDepth: options.workQueueDepth ?? 64,
      },
    );
  };
  const server = await openPorts().catch(async (error: unknown) => {
    await publisher?.stop();
    await store.stop();
    throw error;
  });
  if (publisher !== null) publishEvents(chain, mempool, publisher);

  let trickle: NodeJS.Timeout | null = null;
  if (options.transactionsPerBlock > 0) {
    faucet.addTransactions(options.transactionsPerBlock);
    let owed = 0;
    chain.onEvent((event) => {
      if (event.kind !== 'tip') return;
      owed = options.transactionsPerBlock;
      // One at a time with pauses: signing takes milliseconds that others in this process want.
      trickle ??= setInterval(() => {
        owed -= 1;
        if (owed >= 0) faucet.addTransactions(1);
        else if (trickle !== null) {
          clearInterval(trickle);
          trickle = null;
        }
      }, trickleMs);
    });
  }
  const interval =
    options.blockIntervalMs == null
      ? null
      : setInterval(() => {
          node
            .mine({
              blocks: 1,
              script: faucet.script,
              attemptsMax: Number.MAX_SAFE_INTEGER,
              signal: life.signal,
            })
            .catch((error) => log.error('the devnet could not mine', { error: String(error) }));
        }, options.blockIntervalMs);

  const stop = (): Promise<void> => {
    stopping ??= (async () => {
      life.abort();
      if (interval !== null) clearInterval(interval);
      if (trickle !== null) clearInterval(trickle);
      await server.stop();
      await publisher?.stop();
      await store.stop();
      log.info('devnet stopped', { height: chain.tip.height });
    })();
    return stopping;
  };

  const syncFreeze = (): void => chain.freeze(faults.node('freeze-tip') !== null);

  const devnet: Devnet = {
    rpcPort: server.port,
    rpcUrl: `http://${host}:${server.port}`,
    zmqAddress: publisher === null ? null : (publisher as ZmqPublisher).address,
    user: options.user,
    password: options.password,
    cookieFile: options.cookieFile ?? null,
    chain,
    mempool,
    async call(method, params = [], wallet) {
      const result = await run(method, params, { wallet: wallet ?? null, signal: life.signal });
      // Amounts are printed exactly and only become numbers when they are read, as on the wire.
      return JSON.parse(JSON.stringify(result ?? null));
    },
    async generate(blocks, address) {
      const script = address === undefined ? faucet.script : scriptOfAddress(address);
      const mined = await node.mine({
        blocks,
        script,
        attemptsMax: Number.MAX_SAFE_INTEGER,
        signal: life.signal,
      });
      return mined.map((one) => one.id);
    },
    async generateOn(parentId, blocks) {
      const ids: string[] = [];
      let parent = chain.index.get(parentId);
      for (let made = 0; made < blocks; made += 1) {
        if (!parent) throw new Error(`no block ${parentId}`);
        const block = await mineEmpty(parent);
        const reason = node.submitBlock(block);
        parent = chain.index.get(block.id);
        if (!parent) throw new Error(`block refused: ${reason}`);
        ids.push(block.id);
      }
      return ids;
    },
    async reorganise(depth) {
      const fork = chain.active[chain.tip.height - depth];
      if (!fork) throw new RangeError('the chain is not that deep');
      return this.generateOn(fork.id, depth + 1);
    },
    submit(bytes) {
      const block = readBlock(bytes);
      if (block === null) throw new RpcError(rpcCode.deserialization, 'Block decode failed');
      return node.submitBlock(block);
    },
    fund(address, sats) {
      const paid = faucet.pay([{ valueSats: sats, script: scriptOfAddress(address) }], 2000n);
      if (paid === null) throw new RpcError(rpcCode.insufficientFunds, 'the faucet has no coins');
      return paid.id;
    },
    addTransactions: (count) => faucet.addTransactions(count),
    fillMempool(weight = templateWeightMax - 1, transactions) {
      let waiting = 0;
      for (const one of mempool.entries.values()) waiting += one.entry.weight;
      const added = faucet.fillMempool(Math.max(0, weight - waiting), transactions);
      templates.refresh();
      return added;
    },
    forgetMempool: () => mempool.forget(),
    setFeeEstimate(satsPerKvb) {
      node.feeEstimateSatsPerKvb = satsPerKvb;
    },
    fault(request) {
      const decoded = decodeFault(request);
      if (!decoded.ok) throw new RpcError(rpcCode.invalidParameter, decoded.reason);
      const remove = faults.add(decoded.fault);
      syncFreeze();
      return () => {
        remove();
        syncFreeze();
      };
    },
    clearFaults() {
      faults.clear();
      syncFreeze();
    },
    rotateCookie() {
      server.rotateCookie();
    },
    connect: (other) => connectChains(devnet, other),
    stop,
  };

  async function mineEmpty(parent: BlockNode): Promise<ChainBlock> {
    const planned = planBlock({
      parent,
      bits: chain.requiredBits(parent.height + 1),
      transactions: [],
      feesSats: 0n,
      script: faucet.script,
      extra: node.coinbaseExtra(),
      timeSeconds: nowSeconds(),
    });
    const solved = await solveBlockPolitely(planned, Number.MAX_SAFE_INTEGER, life.signal);
    if (solved === null) throw new Error('stopped while mining');
    return solved;
  }

  /** The hidden RPC: what tests in another process cannot call directly. Faults never touch it. */
  function controlMethods(): Method[] {
    return [
      {
        name: 'devnet.fault',
        params: ['fault?'],
        run(args) {
          if (args.has('fault')) devnet.fault(args.raw('fault') as FaultRequest);
          return faults.list();
        },
      },
      { name: 'devnet.clearfaults', params: [], run: () => devnet.clearFaults() },
      { name: 'devnet.rotatecookie', params: [], run: () => devnet.rotateCookie() },
      {
        name: 'devnet.generate',
        params: ['nblocks?', 'address?'],
        run: (args) =>
          devnet.generate(args.integer('nblocks', 1), args.optionalText('address') ?? undefined),
      },
      {
        name: 'devnet.reorganise',
        params: ['depth?'],
        run: (args) => devnet.reorganise(args.integer('depth', 1)),
      },
      {
        name: 'devnet.fund',
        params: ['address', 'amount'],
        run: (args) => devnet.fund(args.text('address'), readAmount(args.raw('amount'))),
      },
      {
        name: 'devnet.addtransactions',
        params: ['count?'],
        run: (args) => devnet.addTransactions(args.integer('count', 10)),
      },
      {
        name: 'devnet.fillmempool',
        params: ['weight?', 'transactions?'],
        run: (args) =>
          devnet.fillMempool(
            args.integer('weight', templateWeightMax - 1),
            args.has('transactions') ? args.integer('transactions') : undefined,
          ),
      },
    ];
  }

  log.info('devnet ready', {
    rpc: devnet.rpcUrl,
    zmq: devnet.zmqAddress,
    height: chain.tip.height,
    keptIn: dataDir ?? 'memory',
  });
  return devnet;
}

/** ZMQ in Core's order: transactions and the `sequence` of a block as it connects, `hashblock` once the tip stands. */
function publishEvents(chain: Chain, mempool: Mempool, publisher: ZmqPublisher): void {
  chain.onEvent((event) => {
    if (event.kind === 'tip') {
      if (event.byInvalidation) return;
      publisher.publish('hashblock', displayOrder(event.node.hash));
      const block = chain.block(event.node);
      if (block) publisher.publish('rawblock', block.raw);
      return;
    }
    for (const entry of event.block.transactions) {
      publisher.publish('hashtx', displayOrder(entry.txid));
      publisher.publish('rawtx', entry.raw);
    }
    publisher.publish(
      'sequence',
      labelled(event.node.hash, event.kind === 'connected' ? 'C' : 'D'),
    );
  });
  mempool.onEvent((event) => {
    if (event.kind === 'added') {
      publisher.publish('hashtx', displayOrder(event.entry.txid));
      publisher.publish('rawtx', event.entry.raw);
    }
    publisher.publish(
      'sequence',
      labelled(event.entry.txid, event.kind === 'added' ? 'A' : 'R', event.sequence),
    );
  });
}

function displayOrder(hash: Uint8Array): Uint8Array {
  return hash.toReversed();
}

function labelled(hash: Uint8Array, label: string, sequence?: bigint): Uint8Array {
  const body = new Uint8Array(sequence === undefined ? 33 : 41);
  body.set(displayOrder(hash));
  body[32] = label.charCodeAt(0);
  if (sequence !== undefined) new DataView(body.buffer).setBigUint64(33, sequence, true);
  return body;
}

/** Two nodes as peers: what either has, the other gets, one turn of the event loop later. */
function connectChains(left: Devnet, right: Devnet): () => void {
  let joined = true;
  const unsubscribe: (() => void)[] = [];
  const deliver = (from: Devnet, to: Devnet): void => {
    const send = (node: BlockNode): void => {
      if (!joined || to.chain.index.get(node.id)?.complete) return;
      if (node.previous) send(node.previous);
      const block = from.chain.block(node);
      if (block) to.submit(block.raw);
    };
    send(from.chain.tip);
    for (const one of from.mempool.entries.values()) to.mempool.accept(one.entry);
    unsubscribe.push(
      from.chain.onEvent((event) => {
        if (event.kind === 'tip') setImmediate(() => send(event.node));
      }),
      from.mempool.onEvent((event) => {
        if (event.kind === 'added')
          setImmediate(() => {
            const entry = readChainTx(event.entry.raw);
            if (joined && entry) to.mempool.accept(entry);
          });
      }),
    );
  };
  deliver(left, right);
  deliver(right, left);
  return () => {
    joined = false;
    for (const leave of unsubscribe) leave();
  };
}

/** The first blocks, ten minutes apart and ending now, so that the chain looks like one that has been running. */
function mineFirstBlocks(node: Node, faucet: Faucet, wanted: number): void {
  const { chain } = node;
  const now = node.nowSeconds();
  while (chain.tip.height < wanted) {
    const parent = chain.tip;
    const planned = planBlock({
      parent,
      bits: chain.requiredBits(parent.height + 1),
      transactions: [],
      feesSats: 0n,
      script: faucet.script,
      extra: node.coinbaseExtra(),
      timeSeconds: now - (wanted - parent.height - 1) * 600,
    });
    const solved = solveBlock(planned, 1_000_000);
    if (solved === null)
      throw new Error('no proof of work for a first block within a million tries');
    const reason = node.submitBlock(solved);
    if (reason !== null) throw new Error(`the chain refuses its own block: ${reason}`);
  }
}

function scriptOfAddress(text: string): Uint8Array {
  const address = decodeAddress(text, 'regtest');
  if (!address.ok) throw new RpcError(rpcCode.invalidAddressOrKey, `Error: Invalid address`);
  return address.script;
}

function readSeed(text: string | undefined, dataDir: string | null): Uint8Array {
  if (text !== undefined) return sha256(new TextEncoder().encode(text));
  if (dataDir === null) return Uint8Array.from(randomBytes(32));
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const path = join(dataDir, 'faucet.seed');
  const kept = existsSync(path) ? readHex(readFileSync(path, 'utf8').trim()) : null;
  if (kept !== null && kept.length === 32) return kept;
  const fresh = Uint8Array.from(randomBytes(32));
  writeFileSync(path, Buffer.from(fresh).toString('hex'), { mode: 0o600 });
  return fresh;
}
