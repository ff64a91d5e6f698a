/**
 * The block lane: from a winning header to a block that is final. It runs in its own worker thread with its own connections, and
 * nothing stands before it: no bus, no database, no other thread.
 *
 * A candidate comes in, the block is put together from the template's prepared hex, written to disk and handed to every node at once.
 * The disk comes first, within limits: the block goes out when it is synced, or when the kernel has the bytes (so that no death of the
 * process can lose them) and the sync of a full block takes longer than `syncPatienceMs`; a disk that takes not even the bytes is
 * given `diskPatienceMs`, and an error of the disk holds nothing up. On the second road it goes out at once. After that
 * `decide.ts` says what to do: repeat, look where the block is, follow it until it is final, also across restarts. What happens is
 * told on the bus (`block.candidates`, `block.outcome`) when the bus has time.
 */
import type { MessagePort } from 'node:worker_threads';
import { ByteWriter, concatBytes, encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { addCoinbaseWitness } from '../../core/bitcoin/coinbase.ts';
import { HEADER_BYTES, hashHeader } from '../../core/bitcoin/header.ts';
import type { Network } from '../../core/bitcoin/network.ts';
import {
  decodeChainState,
  decodeHashDisplay,
  decodeHeaderPlace,
  readSubmitAnswer,
} from '../../core/node/answers.ts';
import type { NodeAddress, OpenRpc, Rpc } from '../../core/node/rpc.ts';
import type { Job } from '../../core/work/job.ts';
import type { BlockCandidate, BlockOutcome } from '../../messages/block.ts';
import {
  decodeTemplateBody,
  encodeBlockCandidate,
  encodeBlockOutcome,
} from '../../messages/codec.ts';
import type { Bus, Clock, Fault, Log } from '../../ports.ts';
import {
  type Action,
  type BlockProgress,
  beginAction,
  createProgress,
  deferSubmit,
  hurryLooks,
  hurrySubmit,
  isDelivered,
  LIMITS,
  type Limits,
  nextActions,
  nextDueAtMs,
  recordSight,
  recordSubmit,
  type Sight,
} from './decide.ts';
import {
  type BlockDisk,
  type BlockFiles,
  type BlockWriting,
  openBlockFiles,
  readCandidate,
} from './files.ts';
import type { LaneAnswer, LaneRequest } from './lane-client.ts';
import { TemplateShelf } from './shelf.ts';
import { createSpares } from './spare.ts';

export type LaneMeter = {
  count(name: string, labels?: Record<string, string>): void;
  set(name: string, value: number, labels?: Record<string, string>): void;
  observe(name: string, value: number, labels?: Record<string, string>): void;
};

export type BlockLaneTools = {
  clock: Clock;
  log: Log;
  bus: Bus;
  disk: BlockDisk;
  openRpc: OpenRpc;
  meter?: LaneMeter;
  fault?: Fault;
  /** Milliseconds that only go forward; `performance.now` unless a test owns time. */
  monotonicMs?: () => number;
};

export type BlockLaneOptions = {
  nodes: readonly NodeAddress[];
  network: Network;
  /** Blocks are kept in `blocks/` below. */
  dataDir: string;
  limits?: Partial<Limits>;
  submitTimeoutMs?: number;
  lookTimeoutMs?: number;
  diskPatienceMs?: number;
  syncPatienceMs?: number;
  shelfBytesMax?: number;
  /** How often a node is asked for its tip, which also keeps a connection warm. */
  warmMs?: number;
  /** Finds come from others, who have told of them and have them on disk: none is told of again, or waits for the disk here. */
  isSecondRoad?: boolean;
};

export type LaneStatus = {
  /** Blocks that no node is known to have. */
  undelivered: number;
  /** Blocks under watch. */
  watched: number;
  templates: number;
  nodes: { name: string; reachable: boolean }[];
};

export type BlockLaneHandle = {
  /** Takes a candidate; the same one again is harmless. Resolves when it is safe: on disk, or at a node. */
  submit(candidate: BlockCandidate): Promise<void>;
  /** A job is out: should its template not come, our nodes are asked for it. */
  expectTemplate(job: Job): void;
  /** Whether the template of a job is at hand: a candidate of another waits for it. */
  hasTemplate(jobId: string): boolean;
  /** Whether the block with this header hash is under watch or done with. */
  knows(headerHash: Uint8Array): boolean;
  /**
   * Takes a whole block; the same one again is harmless. Resolves when it is safe, or with false when it is no block: no hash, no
   * coinbase, or transactions that its header does not speak of.
   */
  submitBlock(block: Uint8Array): Promise<boolean>;
  /** Serves a lane client at the other end of the port. */
  attach(port: MessagePort): void;
  status(): LaneStatus;
  stop(): Promise<void>;
};

const SUBMIT_TIMEOUT_MS = 10_000;
const LOOK_TIMEOUT_MS = 5000;
/**
 * The hand-over of a full block is meant to take 25 ms at most; writing 4 MB took 11 ms (median) to 44 ms and syncing it 14 to 54 on a
 * busy cloud machine (2 vCPU Xeon, Nov 2026). A block that is out is safer than one that is only on our disk.
 */
const DISK_PATIENCE_MS = 10;
const SYNC_PATIENCE_MS = 6;
/** On the second road, disk and news wait so long: the finder, whose machine this may be, writes and submits at this moment. */
const SECOND_LATER_MS = 50;
const DISK_RETRY_MS = 1000;
const SHELF_BYTES_MAX = 256 * 1024 * 1024;
const WARM_MS = 5000;
/** Beyond this the oldest blocks that a node has are left to the next start; their records stay on disk. */
const WATCHED_MAX = 4096;
/** Candidates whose template has not come yet. */
const WAITING_MAX = 256;
/** A template that is still not there by then is lost. */
const TEMPLATE_LATE_MS = 1000;
/** Hashes of blocks that are done with, so that a repeated candidate is known. */
const FINISHED_MAX = 4096;
/** Looks at a time, of three questions each: a node has as few as four threads for all who ask, and templates are asked for as well. */
const LOOKS_MAX = 2;
const STOP_PATIENCE_MS = 2000;
const OUTBOX_MAX = 20_000;
const OUTBOX_RETRY_MS = 1000;
const TIPS_SEEN_MAX = 64;

const NO_METER: LaneMeter = { count() {}, set() {}, observe() {} };
const BODY_END = Buffer.from('"]}', 'latin1');

type Watched = {
  hash: string;
  candidate: BlockCandidate;
  progress: BlockProgress;
  /** Hex of the whole block in two parts, while it may be needed at once; else it is read from disk. */
  hex: readonly [string, Uint8Array] | null;
  /** On the monotonic clock; null after a restart. */
  foundAtMs: number | null;
  onDisk: boolean;
  diskFailed: boolean;
  timer: NodeJS.Timeout | null;
  /** Settled when the first writing of block and record has ended, well or not. */
  firstWriting: Promise<void>;
  /** Resolve what `submit` promised. */
  keptResolvers: (() => void)[];
  kept: boolean;
  saving: boolean;
  saveAgain: boolean;
  told: { state: BlockOutcome['state']; confirmations: number } | null;
  retired: boolean;
  receivedAtMs: number;
};

type Node = {
  address: NodeAddress;
  rpc: Rpc;
  /** Nothing listens there; only one block at a time finds out whether that has changed. */
  away: boolean;
  probing: boolean;
  tipDisplay: string | null;
  /** Looks at blocks that it answers at this moment, and those that wait for their turn: one of each block at most. */
  looks: number;
  turns: (() => void)[];
};

type Letter = { topic: string; key: string; value: Uint8Array; sent?: () => void };

/**
 * Starts the lane: opens the directory, takes up every block that is not final, subscribes to templates. Resolves when candidates
 * can be submitted. Rejects only when the directory cannot be made or read at start.
 */
export async function startBlockLane(
  tools: BlockLaneTools,
  options: BlockLaneOptions,
): Promise<BlockLaneHandle> {
  const { clock, log, bus } = tools;
  const meter = tools.meter ?? NO_METER;
  const fault = tools.fault ?? (() => {});
  const monotonicMs = tools.monotonicMs ?? (() => performance.now());
  const limits: Limits = { ...LIMITS, ...options.limits };
  const submitTimeoutMs = options.submitTimeoutMs ?? SUBMIT_TIMEOUT_MS;
  const diskPatienceMs = options.diskPatienceMs ?? DISK_PATIENCE_MS;
  const syncPatienceMs = options.syncPatienceMs ?? SYNC_PATIENCE_MS;
  /** On the second road: blocks that are about to be written. */
  const unwritten = new Set<() => void>();
  const shelf = new TemplateShelf(options.shelfBytesMax ?? SHELF_BYTES_MAX);
  const files: BlockFiles = await openBlockFiles(
    tools.disk,
    `${options.dataDir}/blocks`,
    (name, reason) => log.error('a file among the found blocks is broken', { name, reason }),
  );
  const nodes = new Map<string, Node>();
  const watched = new Map<string, Watched>();
  const finished = new Set<string>();
  /** `writing` ends when the disk has the find, or has refused it. */
  const waiting = new Map<
    string,
    { candidate: BlockCandidate; writing: Promise<void>; resolvers: (() => void)[] }
  >();
  /** When each tip was first heard of: tells whose block came first. */
  const tipsSeen = new Map<string, number>();
  const outbox: Letter[] = [];
  const diskWork = new Set<Promise<void>>();
  let posting = false;
  let requests = 0;
  let stopped = false;

  for (const address of options.nodes) {
    const rpc = tools.openRpc(address, {
      timeoutMs: options.lookTimeoutMs ?? LOOK_TIMEOUT_MS,
      breaker: false,
    });
    nodes.set(address.name, {
      address,
      rpc,
      away: false,
      probing: false,
      tipDisplay: null,
      looks: 0,
      turns: [],
    });
  }
  const nodeNames = [...nodes.keys()];

  // ---- a candidate comes in -------------------------------------------------------------------------------------

  function submit(candidate: BlockCandidate): Promise<void> {
    return new Promise((resolve) => {
      const hash = encodeHexReversed(candidate.headerHash);
      if (joinKnown(hash, resolve)) return;
      if (shelf.find(candidate.jobId) === null) hold(hash, candidate, resolve);
      else begin(hash, candidate, [resolve]);
    });
  }

  async function submitBlock(bytes: Uint8Array): Promise<boolean> {
    const front = new Uint8Array(bytes.subarray(0, HEADER_BYTES));
    const hash = encodeHexReversed(hashHeader(front));
    const isKnown = watched.has(hash) || finished.has(hash);
    const candidate = isKnown ? null : readCandidate(bytes, hash);
    if (!isKnown && candidate === null) return false;
    await new Promise<void>((resolve) => {
      if (joinKnown(hash, resolve) || candidate === null) return;
      const body = new Uint8Array(bytes.subarray(HEADER_BYTES));
      const hexBody = Buffer.from(encodeHex(body), 'latin1');
      take(hash, candidate, [resolve], [front, body], [encodeHex(front), hexBody]);
    });
    return true;
  }

  /** True when the block is known already; `resolve` is then called when it is safe. */
  function joinKnown(hash: string, resolve: () => void): boolean {
    const known = watched.get(hash);
    if (known === undefined || known.kept) {
      if (known === undefined && !finished.has(hash)) return false;
      resolve();
      return true;
    }
    known.keptResolvers.push(resolve);
    return true;
  }

  /** The template is on its way, or lost: the candidate waits for it. */
  function hold(hash: string, candidate: BlockCandidate, resolve: () => void): void {
    const known = waiting.get(hash);
    if (known !== undefined) {
      known.resolvers.push(resolve);
      return;
    }
    // It comes some milliseconds after the job.
    setTimeout(() => {
      if (!waiting.has(hash) || stopped) return;
      meter.count('block_without_template');
      const { jobId, height } = candidate;
      log.error('a found block waits for its template', { hash, jobId, height });
    }, TEMPLATE_LATE_MS).unref();
    if (waiting.size >= WAITING_MAX) {
      const [oldest, { writing }] = waiting.entries().next().value!;
      waiting.delete(oldest);
      forgetFind(oldest, writing);
      log.error('too many found blocks wait for templates; the oldest is given up', {
        hash: oldest,
      });
    }
    const writing = files.writeFind(hash, candidate).catch((error) => {
      log.warn('a find that waits could not be written', { hash, reason: String(error) });
    });
    track(writing);
    // Its file goes when the block is safe.
    waiting.set(hash, {
      candidate,
      writing,
      resolvers: [resolve, () => forgetFind(hash, writing)],
    });
    // Whoever has the template has a block. It is told of once more when the template comes, which changes nothing.
    tellOfFind(hash, candidate);
  }

  function forgetFind(hash: string, writing: Promise<void>): void {
    track(
      writing
        .then(() => files.removeFind(hash))
        .catch((error) => {
          log.warn('a find that waits no more could not be removed', {
            hash,
            reason: String(error),
          });
        }),
    );
  }

  function begin(hash: string, candidate: BlockCandidate, resolvers: (() => void)[]): void {
    const template = shelf.find(candidate.jobId)!;
    const coinbase = template.witness ? addCoinbaseWitness(candidate.coinbase) : candidate.coinbase;
    const count = new ByteWriter().varint(template.transactionCount + 1).take();
    const front = concatBytes(candidate.header, count, coinbase);
    take(
      hash,
      candidate,
      resolvers,
      [front, shelf.bodyOf(candidate.jobId)!],
      [encodeHex(front), shelf.hexOf(candidate.jobId)!],
    );
    if (options.isSecondRoad) return;
    log.info('BLOCK FOUND', {
      hash,
      height: candidate.height,
      account: candidate.account,
      worker: candidate.worker,
      rewardSats: Number(candidate.rewardSats),
    });
    meter.count('blocks_found');
  }

  /** Disk first, within limits, then all nodes at once. Both forms are the whole block, in two parts. */
  function take(
    hash: string,
    candidate: BlockCandidate,
    resolvers: (() => void)[],
    parts: readonly [Uint8Array, Uint8Array],
    hex: readonly [string, Uint8Array],
  ): void {
    const receivedAtMs = monotonicMs();
    const block = watch(hash, candidate, createProgress(nodeNames, candidate.height, receivedAtMs));
    block.hex = hex;
    block.foundAtMs = receivedAtMs;
    block.keptResolvers = resolvers;
    block.receivedAtMs = receivedAtMs;
    if (options.isSecondRoad) {
      // What is to be saved meanwhile is saved behind it.
      block.saving = true;
      pump(block);
      const write = () => {
        if (!unwritten.delete(write)) return;
        keep(block, parts).synced.catch(() => {});
        if (block.told === null) tell(block);
      };
      unwritten.add(write);
      setTimeout(write, SECOND_LATER_MS).unref();
      return;
    }
    fault('block.beforeDisk');
    const writing = keep(block, parts);
    // While the disk works: others have a road of their own to the nodes.
    tellOfFind(hash, candidate);
    let handed = false;
    const handOver = () => {
      if (handed || stopped) return;
      handed = true;
      clearTimeout(patience);
      clearTimeout(syncPatience);
      fault('block.beforeSubmit');
      meter.observe('block_disk_ms', monotonicMs() - receivedAtMs);
      pump(block);
      tell(block);
    };
    const patience = setTimeout(() => {
      log.debug('the disk is slow; the block goes out before it is written', { hash });
      meter.count('block_disk_late');
      handOver();
    }, diskPatienceMs);
    // Written, and for long enough: whichever of the two comes last.
    let isWritten = false;
    let isPatient = true;
    const syncPatience = setTimeout(() => {
      isPatient = false;
      if (isWritten) handOver();
    }, syncPatienceMs);
    writing.written.then(() => {
      isWritten = true;
      if (!isPatient) handOver();
    }, handOver);
    writing.synced.then(handOver, handOver);
  }

  function watch(hash: string, candidate: BlockCandidate, progress: BlockProgress): Watched {
    const block: Watched = {
      hash,
      candidate,
      progress,
      hex: null,
      foundAtMs: null,
      onDisk: false,
      diskFailed: false,
      timer: null,
      firstWriting: Promise.resolve(),
      keptResolvers: [],
      kept: false,
      saving: false,
      saveAgain: false,
      told: null,
      retired: false,
      receivedAtMs: monotonicMs(),
    };
    watched.set(hash, block);
    park();
    meter.set('blocks_watched', watched.size);
    return block;
  }

  /** Keeps the number of watched blocks bounded: the oldest that a node has wait on disk for the next start. */
  function park(): void {
    if (watched.size <= WATCHED_MAX) return;
    for (const block of watched.values()) {
      if (!isDelivered(block.progress) || !block.onDisk) continue;
      if (block.timer !== null) clearTimeout(block.timer);
      watched.delete(block.hash);
      rememberFinished(block.hash);
      log.warn('too many blocks to watch; one is left to the next start', { hash: block.hash });
      return;
    }
  }

  // ---- disk -----------------------------------------------------------------------------------------------------

  /** Writes the block and, behind it, its record. */
  function keep(block: Watched, parts: readonly Uint8Array[]): BlockWriting {
    const writing = files.writeBlock(block.hash, parts);
    block.saving = true;
    const recorded = writing.written
      .then(() => {
        const record = { candidate: block.candidate, state: block.progress.state };
        return files.writeRecord(block.hash, record);
      })
      .finally(() => {
        block.saving = false;
        if (block.retired) track(retire(block));
        else if (block.saveAgain) save(block);
      });
    const whole = Promise.all([writing.settled, recorded]).then(
      () => {
        fault('block.afterDisk');
        block.onDisk = true;
        block.diskFailed = false;
        markKept(block);
      },
      (error: unknown) => {
        meter.count('block_disk_failed');
        if (!block.diskFailed) {
          log.error('a found block cannot be written to disk; it is held in memory and submitted', {
            hash: block.hash,
            reason: (error as { code?: string }).code ?? String(error),
          });
        }
        block.diskFailed = true;
        if (!stopped) setTimeout(() => keepAgain(block), DISK_RETRY_MS).unref();
      },
    );
    block.firstWriting = whole;
    track(whole);
    return writing;
  }

  /** The disk may come back before a node does: while no node has the block, writing it is tried again. */
  function keepAgain(block: Watched): void {
    if (stopped || block.retired || block.onDisk || block.hex === null) return;
    if (isDelivered(block.progress)) return;
    const [front, body] = block.hex;
    const bodyText = Buffer.from(body.buffer, body.byteOffset, body.length).toString('latin1');
    keep(block, [Buffer.from(front, 'hex'), Buffer.from(bodyText, 'hex')]).synced.catch(() => {});
  }

  function track(work: Promise<void>): void {
    const tracked = work.finally(() => diskWork.delete(tracked));
    diskWork.add(tracked);
  }

  function markKept(block: Watched): void {
    block.kept = true;
    for (const resolve of block.keptResolvers.splice(0)) resolve();
    dropHex(block);
  }

  /** Bytes on disk and at a node need not be in memory. */
  function dropHex(block: Watched): void {
    if (block.onDisk && isDelivered(block.progress)) block.hex = null;
  }

  /** Brings the record up to date; one write at a time per block, the newest state wins. */
  function save(block: Watched): void {
    if (block.diskFailed || block.retired || stopped) return;
    if (block.saving) {
      block.saveAgain = true;
      return;
    }
    block.saving = true;
    const work = async () => {
      do {
        block.saveAgain = false;
        try {
          await files.writeRecord(block.hash, {
            candidate: block.candidate,
            state: block.progress.state,
          });
        } catch (error) {
          log.warn('the record of a block cannot be written', {
            hash: block.hash,
            reason: (error as { code?: string }).code ?? String(error),
          });
        }
      } while (block.saveAgain && !stopped);
      block.saving = false;
      if (block.retired) await retire(block);
    };
    track(work());
  }

  async function retire(block: Watched): Promise<void> {
    if (block.saving) return;
    await block.firstWriting;
    try {
      const { candidate, progress } = block;
      await files.writeRecord(block.hash, { candidate, state: progress.state });
      const keepBytes = block.progress.state !== 'confirmed';
      await files.retire(block.hash, block.candidate.height, keepBytes);
    } catch (error) {
      log.warn('the files of a finished block cannot be moved', {
        hash: block.hash,
        reason: (error as { code?: string }).code ?? String(error),
      });
    }
  }

  // ---- doing what is decided ------------------------------------------------------------------------------------

  function pump(block: Watched): void {
    if (stopped || !watched.has(block.hash)) return;
    const nowMs = monotonicMs();
    for (const action of nextActions(block.progress, nowMs)) {
      const node = nodes.get(action.node)!;
      if (action.kind === 'submit' && !action.first && node.away) {
        if (node.probing) {
          deferSubmit(block.progress, action.node, nowMs + limits.absentRetryMaxMs);
          continue;
        }
        node.probing = true;
      }
      beginAction(block.progress, action, nowMs, limits);
      perform(block, action, node).catch((error: unknown) => {
        // Nothing in there rejects by design; should it, the block must not be forgotten.
        log.error('the block lane failed at a step and repeats it', {
          hash: block.hash,
          step: action.kind,
          reason: error instanceof Error ? error.message : 'unknown',
        });
        if (action.kind === 'submit')
          recordSubmit(
            block.progress,
            action.node,
            { kind: 'unknown', detail: 'internal', fault: false, absent: false },
            monotonicMs(),
            limits,
          );
        else if (action.kind === 'look')
          recordSight(
            block.progress,
            action.node,
            { kind: 'unknown', detail: 'internal' },
            monotonicMs(),
            limits,
          );
        schedule(block);
      });
    }
    schedule(block);
  }

  function schedule(block: Watched): void {
    if (block.timer !== null) clearTimeout(block.timer);
    block.timer = null;
    const dueAtMs = nextDueAtMs(block.progress);
    if (stopped || dueAtMs === Number.POSITIVE_INFINITY) return;
    // Rounded up: a timer that fires a fraction early would only fire again.
    const delayMs = Math.max(1, Math.ceil(dueAtMs - monotonicMs()));
    block.timer = setTimeout(() => {
      block.timer = null;
      pump(block);
    }, delayMs);
  }

  async function perform(block: Watched, action: Action, node: Node): Promise<void> {
    switch (action.kind) {
      case 'submit':
        return performSubmit(block, node);
      case 'look': {
        const sight = await lookInTurn(block, node);
        if (stopped) return;
        const changed = recordSight(block.progress, action.node, sight, monotonicMs(), limits);
        return after(block, changed);
      }
      case 'precious': {
        const answer = await node.rpc.call('preciousblock', [block.hash]);
        log.warn('our block lost a race by a hair; asked the node to prefer it', {
          hash: block.hash,
          node: action.node,
          answer: answer.kind,
        });
        meter.count('blocks_preferred', { node: action.node });
        hurryLooks(block.progress, monotonicMs(), { ...limits, lookMs: 0 });
        return schedule(block);
      }
    }
  }

  async function performSubmit(block: Watched, node: Node): Promise<void> {
    const name = node.address.name;
    const first = block.progress.nodes.get(name)?.attempts === 1;
    const hex = block.hex ?? (await readHex(block));
    if (hex === null) {
      log.error('the bytes of a found block are gone; only its header can be watched', {
        hash: block.hash,
      });
      const gone = {
        kind: 'later',
        detail: 'bytes are gone',
        fault: false,
        absent: false,
      } as const;
      if (node.away) node.probing = false;
      return after(block, recordSubmit(block.progress, name, gone, monotonicMs(), limits));
    }
    requests += 1;
    const id = `b${requests}`;
    const parts = [
      Buffer.from(
        `{"jsonrpc":"1.0","id":"${id}","method":"submitblock","params":["${hex[0]}`,
        'latin1',
      ),
      hex[1],
      BODY_END,
    ];
    const sentAtMs = monotonicMs();
    if (first) meter.observe('block_to_submit_ms', sentAtMs - block.receivedAtMs, { node: name });
    const answer = await node.rpc.callEncoded('submitblock', id, parts, {
      timeoutMs: submitTimeoutMs,
    });
    fault('block.afterSubmit');
    const verdict = readSubmitAnswer(answer);
    const nowMs = monotonicMs();
    meter.count('block_submits', { node: name, verdict: verdict.kind });
    const fields = {
      hash: block.hash,
      height: block.candidate.height,
      node: name,
      verdict: verdict.kind,
      detail: verdict.detail,
      tookMs: Math.round(nowMs - sentAtMs),
    };
    if (verdict.fault)
      log.error('the node calls our block invalid: this is a fault of the pool', fields);
    else if (first || verdict.kind !== 'retry') log.info('block handed to node', fields);
    settleGate(node, verdict.absent);
    after(block, recordSubmit(block.progress, name, verdict, nowMs, limits));
  }

  /** Keeps track of nodes that are away, and wakes all blocks when one is back. */
  function settleGate(node: Node, absent: boolean): void {
    const back = node.away && !absent;
    node.away = absent;
    node.probing = false;
    if (!back) return;
    log.info('node is back', { node: node.address.name });
    const nowMs = monotonicMs();
    for (const block of watched.values()) {
      hurrySubmit(block.progress, node.address.name, nowMs);
      schedule(block);
    }
  }

  async function readHex(block: Watched): Promise<readonly [string, Uint8Array] | null> {
    try {
      const bytes = await files.readBlock(block.hash);
      if (bytes === null) return null;
      return ['', Buffer.from(Buffer.from(bytes).toString('hex'), 'latin1')];
    } catch {
      return null;
    }
  }

  /** A block of which nothing is known yet does not wait behind old ones. */
  async function lookInTurn(block: Watched, node: Node): Promise<Sight> {
    const isNew = block.foundAtMs !== null && !isDelivered(block.progress);
    if (isNew || node.looks < LOOKS_MAX) node.looks += 1;
    else await new Promise<void>((resolve) => node.turns.push(resolve));
    try {
      return stopped ? { kind: 'unknown', detail: 'stopped' } : await look(block, node);
    } finally {
      // Its place goes to the next, if there is one to have it.
      if (node.looks <= LOOKS_MAX && node.turns.length > 0) node.turns.shift()!();
      else node.looks -= 1;
    }
  }

  /** Where does this node have the block? */
  async function look(block: Watched, node: Node): Promise<Sight> {
    const { rpc } = node;
    const answer = await rpc.call('getblockheader', [block.hash, true]);
    let height = block.candidate.height;
    let known = false;
    if (answer.kind === 'result') {
      const place = decodeHeaderPlace(answer.result);
      if (place === null) return { kind: 'unknown', detail: 'getblockheader is unreadable' };
      known = true;
      height = place.height;
      if (place.confirmations >= 1) {
        const atHeight = await rpc.call('getblockhash', [height]);
        if (atHeight.kind === 'result' && decodeHashDisplay(atHeight.result) === block.hash) {
          const tipHeight = height + place.confirmations - 1;
          return { kind: 'main', confirmations: place.confirmations, tipHeight };
        }
      }
    } else if (answer.kind !== 'error' || answer.code !== -5) {
      return { kind: 'unknown', detail: answer.kind };
    }
    const info = await rpc.call('getblockchaininfo', []);
    const chain = info.kind === 'result' ? decodeChainState(info.result) : null;
    if (chain === null) return { kind: 'unknown', detail: 'getblockchaininfo failed' };
    const synced =
      chain.headers - chain.blocks <= limits.orphanDepth &&
      (options.network === 'regtest' || !chain.initialBlockDownload);
    const tipHeight = chain.blocks;
    let rival: string | null = null;
    if (tipHeight >= height) {
      const atHeight = await rpc.call('getblockhash', [height]);
      rival = atHeight.kind === 'result' ? decodeHashDisplay(atHeight.result) : null;
      // The chain moved between the questions: ask again.
      if (rival === null || rival === block.hash) return { kind: 'unknown', detail: 'chain moved' };
    }
    const taken = rival !== null;
    if (!known) return { kind: 'absent', tipHeight, synced, taken };
    const rivalSeenAtMs = rival === null ? undefined : tipsSeen.get(rival);
    const oursFirst =
      block.foundAtMs !== null &&
      rival !== null &&
      // Two of ours at one height: either will do, and asking for both would make the node swing.
      !watched.has(rival) &&
      !finished.has(rival) &&
      (rivalSeenAtMs === undefined || rivalSeenAtMs > block.foundAtMs);
    return { kind: 'side', tipHeight, synced, taken, oursFirst };
  }

  /** Everything that follows from something recorded. */
  function after(block: Watched, changed: boolean): void {
    if (stopped) return;
    if (changed || block.told === null) {
      const { state } = block.progress;
      const stateChanged = block.told?.state !== state;
      tell(block);
      if (isDelivered(block.progress)) {
        dropHex(block);
        // A node has it: even with the disk dead nothing can be lost.
        if (block.diskFailed) markKept(block);
      }
      if (block.progress.final) {
        finish(block);
        return;
      }
      if (stateChanged) save(block);
    }
    pump(block);
  }

  function tellOfFind(hash: string, candidate: BlockCandidate): void {
    if (!options.isSecondRoad) post('block.candidates', hash, encodeBlockCandidate(candidate));
  }

  function tell(block: Watched): void {
    const { state, confirmations, node, detail, final } = block.progress;
    const told = block.told;
    const changed = told === null || told.state !== state;
    if (!changed && !final && !isStep(told.confirmations, confirmations)) return;
    block.told = { state, confirmations };
    const outcome: BlockOutcome = {
      headerHash: block.candidate.headerHash,
      height: block.candidate.height,
      state,
      node,
      detail,
      confirmations,
      atMs: clock.nowMs(),
    };
    post(
      'block.outcome',
      block.hash,
      encodeBlockOutcome(outcome),
      final ? () => moveAway(block) : undefined,
    );
    if (!changed) return;
    meter.count('block_states', { state });
    const fields = { hash: block.hash, height: outcome.height, state, node, detail, confirmations };
    if (state === 'orphaned' || state === 'refused' || state === 'side')
      log.warn(`block is ${state}`, fields);
    else if (state === 'found' || state === 'submitted') log.debug(`block is ${state}`, fields);
    else log.info(`block is ${state}`, fields);
  }

  /** Every step to the sixth, then every tenth: a hundred per block are many. Several blocks may come between two looks. */
  function isStep(from: number, to: number): boolean {
    if (from === to) return false;
    return to <= 6 || from < 6 || Math.floor(to / 10) !== Math.floor(from / 10);
  }

  function finish(block: Watched): void {
    if (block.timer !== null) clearTimeout(block.timer);
    block.timer = null;
    watched.delete(block.hash);
    rememberFinished(block.hash);
    markKept(block);
    meter.set('blocks_watched', watched.size);
  }

  /** The last word is safely told: the files may go. Until then a restart tells it again. */
  function moveAway(block: Watched): void {
    block.retired = true;
    track(retire(block));
  }

  function rememberFinished(hash: string): void {
    finished.add(hash);
    if (finished.size > FINISHED_MAX) finished.delete(finished.values().next().value!);
  }

  // ---- telling --------------------------------------------------------------------------------------------------

  function post(topic: string, key: string, value: Uint8Array, sent?: () => void): void {
    if (outbox.length >= OUTBOX_MAX) {
      outbox.shift();
      meter.count('block_news_dropped');
    }
    outbox.push({ topic, key, value, sent });
    if (!posting) void drainOutbox();
  }

  async function drainOutbox(): Promise<void> {
    posting = true;
    while (outbox.length > 0 && !stopped) {
      const letter = outbox[0]!;
      try {
        await bus.publish(letter.topic, [{ key: letter.key, value: letter.value }]);
        // The box may have been cut at its front meanwhile.
        if (outbox[0] === letter) outbox.shift();
        letter.sent?.();
      } catch (error) {
        log.warn('news of a block could not be published, trying again', {
          topic: letter.topic,
          reason: error instanceof Error ? error.message : 'unknown',
        });
        await new Promise((resolve) => setTimeout(resolve, OUTBOX_RETRY_MS));
      }
    }
    posting = false;
  }

  const spares = createSpares({
    log,
    network: options.network,
    nodes: Array.from(nodes.values(), ({ rpc }) => rpc),
    hasTemplate: (jobId) => shelf.find(jobId) !== null,
    take: takeTemplate,
  });

  // ---- templates and tips ---------------------------------------------------------------------------------------

  function takeTemplate(value: Uint8Array): void {
    const decoded = decodeTemplateBody(value);
    if (!decoded.ok) {
      meter.count('templates_unreadable');
      log.error('a template on the bus cannot be read', { reason: decoded.reason });
      return;
    }
    const template = decoded.value;
    noteTip(encodeHexReversed(template.previousHash));
    shelf.add(template);
    meter.set('shelf_bytes', shelf.bytes);
    meter.set('shelf_templates', shelf.templates);
    for (const [hash, { candidate, resolvers }] of waiting) {
      if (candidate.jobId !== template.jobId) continue;
      waiting.delete(hash);
      begin(hash, candidate, resolvers);
    }
  }

  function noteTip(tipDisplay: string): void {
    if (tipsSeen.has(tipDisplay)) return;
    const nowMs = monotonicMs();
    tipsSeen.set(tipDisplay, nowMs);
    if (tipsSeen.size > TIPS_SEEN_MAX) tipsSeen.delete(tipsSeen.keys().next().value!);
    for (const block of watched.values()) {
      hurryLooks(block.progress, nowMs, limits);
      schedule(block);
    }
  }

  /** Keeps a connection to each node open and hears of its tip. */
  async function warm(node: Node): Promise<void> {
    const answer = await node.rpc.call('getbestblockhash', []);
    if (stopped) return;
    const absent = answer.kind === 'unreachable' || answer.kind === 'warming-up';
    if (!node.probing || !absent) settleGate(node, absent);
    const tip = answer.kind === 'result' ? decodeHashDisplay(answer.result) : null;
    meter.set('block_node_reachable', tip === null ? 0 : 1, { node: node.address.name });
    node.tipDisplay = tip;
    if (tip !== null) noteTip(tip);
    if (tip !== null && waiting.size > 0) await seekWaiting(node);
  }

  /** Finds without a template are with whoever had it: once a node knows one, nothing more is to be done about it here. */
  async function seekWaiting({ rpc, address }: Node): Promise<void> {
    for (const [hash, { candidate, resolvers }] of [...waiting]) {
      const answer = await rpc.call('getblockheader', [hash, true]);
      if (stopped) return;
      if (answer.kind !== 'result' || !waiting.delete(hash)) continue;
      rememberFinished(hash);
      for (const resolve of resolvers) resolve();
      log.info('a found block that waited for its template is at a node by the second road', {
        hash,
        height: candidate.height,
        node: address.name,
      });
    }
  }

  // ---- start ----------------------------------------------------------------------------------------------------

  for (const record of await files.scan()) {
    const hash = encodeHexReversed(record.candidate.headerHash);
    const { state } = record;
    const known =
      state === 'accepted' || state === 'side' || state === 'confirmed' || state === 'orphaned';
    const progress = createProgress(nodeNames, record.candidate.height, monotonicMs(), {
      state,
      known,
    });
    const block = watch(hash, record.candidate, progress);
    block.onDisk = true;
    block.kept = true;
    log.info('a found block is taken up again', { hash, height: record.candidate.height, state });
    tellOfFind(hash, record.candidate);
    // What a node had is told when it has been looked at.
    if (!known) tell(block);
    pump(block);
  }
  for (const candidate of await files.scanFinds()) {
    const hash = encodeHexReversed(candidate.headerHash);
    log.info('a find is taken up again', { hash, height: candidate.height });
    // With its block on disk or done with, `submit` resolves at once.
    void submit(candidate).then(() => forgetFind(hash, Promise.resolve()));
  }
  await bus.subscribe('mining.templates', 'blocksubmit', async (records) => {
    for (const { value } of records) takeTemplate(value);
  });
  for (const node of nodes.values()) void warm(node);
  const warming = setInterval(() => {
    for (const node of nodes.values()) void warm(node);
  }, options.warmMs ?? WARM_MS);

  return {
    submit,
    submitBlock,
    expectTemplate: spares.expect,
    hasTemplate: (jobId) => shelf.find(jobId) !== null,
    knows(headerHash) {
      const hash = encodeHexReversed(headerHash);
      return watched.has(hash) || finished.has(hash);
    },
    attach(port) {
      port.on('message', (request: LaneRequest) => {
        if (request?.kind !== 'candidate') return;
        void submit(request.candidate).then(() => {
          const answer: LaneAnswer = { kind: 'kept', headerHash: request.candidate.headerHash };
          if (!stopped) port.postMessage(answer);
        });
      });
    },
    status() {
      const blocks = [...watched.values()];
      return {
        undelivered: blocks.filter(({ progress }) => !isDelivered(progress)).length + waiting.size,
        watched: blocks.length,
        templates: shelf.templates,
        nodes: [...nodes.values()].map(({ address, tipDisplay }) => ({
          name: address.name,
          reachable: tipDisplay !== null,
        })),
      };
    },
    async stop() {
      for (const write of [...unwritten]) write();
      stopped = true;
      spares.stop();
      clearInterval(warming);
      for (const block of watched.values()) if (block.timer !== null) clearTimeout(block.timer);
      for (const { rpc } of nodes.values()) rpc.stop();
      // A disk that hangs must not keep the process from ending.
      let timer: NodeJS.Timeout | undefined;
      const patience = new Promise((resolve) => {
        timer = setTimeout(resolve, STOP_PATIENCE_MS);
      });
      await Promise.race([Promise.allSettled([...diskWork]), patience]);
      clearTimeout(timer);
    },
  };
}
