/**
 * The job manager: watches the nodes, takes templates from the best of them, and publishes `mining.jobs` and `mining.templates`.
 *
 * A new tip is learnt from ZMQ (a hint), from the long-poll and from a poll every second; whichever is first. What a job is built on
 * is its previous block hash, never its height: another block at the same height is a new job. While no node answers the last job
 * stands; its `createdAtMs` tells gateways how old it is, and they stop handing out work beyond their limit.
 *
 * Runs in a worker thread of its own: decoding a template of 10 MB must not hold up a share.
 */
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import type { Network } from '../../core/bitcoin/network.ts';
import type { NodeAddress, OpenHints, OpenRpc } from '../../core/node/rpc.ts';
import type { CoinbasePool } from '../../core/work/payout.ts';
import { decodeTemplate, templateRequest } from '../../core/work/template.ts';
import { decodeCoinbasePlans } from '../../messages/codec.ts';
import type { Bus, Cache, Clock, Fault, Log } from '../../ports.ts';
import { chooseNode, findDisagreement, type NodeView } from './choose.ts';
import { createJobDesk, type Meter } from './job-desk.ts';
import { createJobIds } from './job-ids.ts';
import { type NodeEvent, type NodeWatch, watchNode } from './node-watch.ts';

export type JobmanagerTools = {
  clock: Clock;
  log: Log;
  bus: Bus;
  openRpc: OpenRpc;
  openHints: OpenHints;
  meter?: Meter;
  fault?: Fault;
  /** Where jobs are kept by id; may forget them. */
  cache?: Cache;
  /** See `JobDesk`. Absent where the death of this process is that of everybody who could find a block. */
  keepTransactions?: (encoded: Uint8Array) => void;
  /** Called when something in the status changed, and at least every second. */
  onStatus?: (status: JobmanagerStatus) => void;
};

export type JobmanagerOptions = {
  nodes: readonly NodeAddress[];
  network: Network;
  poolTag: string;
  /** Whose coinbases are proposed to the node. */
  pools: readonly CoinbasePool[];
  /** A job is renewed after this even if nothing changed. */
  refreshMs?: number;
  /** How often the node is asked whether fees have risen. */
  feeCheckMs?: number;
  feeRiseSats?: number;
  feeRisePpm?: number;
  pollMs?: number;
  lookMs?: number;
  pollTimeoutMs?: number;
  templateTimeoutMs?: number;
  proposalTimeoutMs?: number;
  /** A node that cannot give the template of a new tip for so long loses its place to another. */
  templateLateMs?: number;
  /** A node whose template was refused is not preferred for so long. */
  avoidMs?: number;
  degradedMs?: number;
  stoppedMs?: number;
  disagreeMs?: number;
  /** How often all of these times are looked at. */
  tickMs?: number;
  /** Absent: this is the only one, and what it has published is not said again. */
  among?: {
    /** Its name, which no other has. */
    source: string;
    /** How often the current job is said again. */
    againMs: number;
  };
};

export type JobmanagerStatus = {
  /** `waiting`: no job yet. `degraded`: the job is older than two minutes. `stopped`: too old to be mined on. */
  state: 'waiting' | 'working' | 'degraded' | 'stopped';
  node: string | null;
  jobId: string | null;
  height: number;
  jobAgeMs: number;
  nodes: { name: string; health: NodeView['health']; detail: string; blocks: number }[];
};

export type Jobmanager = { status(): JobmanagerStatus; stop(): Promise<void> };

const TICK_MS = 200;
const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 5000;
/** The node answers a long-poll when it has something; a node that is gone is found by the poll. Aborting one leaves a thread of
 * Core waiting until the next block, so it is not done for a timer's sake. */
const LONG_POLL_TIMEOUT_MS = 24 * 3600 * 1000;
/** A long-poll that comes back at once with nothing new: the node does not really hold it. */
const LONG_POLL_EMPTY_MS = 1000;
/** Tips left behind, so that a late answer about one of them is known as late. */
const PAST_TIPS_MAX = 16;
const DISAGREE_BLOCKS_MAX = 2;

const NO_METER: Meter = { count() {}, set() {} };

type Source = {
  watch: NodeWatch;
  fetching: boolean;
  fetchAgain: boolean;
  nextFetchAtMs: number;
  retryMs: number;
  longPollId: string;
  /** Since when its tip is known without a template for it. */
  lateSinceMs: number | null;
};

/**
 * Starts the job manager and returns at once; nodes may come up later.
 *
 * Rejects only when the network is unknown to the configuration or no node is given.
 */
export async function startJobmanager(
  tools: JobmanagerTools,
  options: JobmanagerOptions,
): Promise<Jobmanager> {
  if (options.nodes.length === 0) throw new Error('no node is configured');
  const { clock, log } = tools;
  const meter = tools.meter ?? NO_METER;
  const fault = tools.fault ?? (() => {});
  const feeCheckMs = options.feeCheckMs ?? 10_000;
  const refreshMs = options.refreshMs ?? 30_000;
  const { among } = options;
  const ids = createJobIds();
  /** Work of chains by their last block, as nodes told it, oldest first. */
  const chainWorks = new Map<string, bigint>();
  let saidAtMs = Number.NEGATIVE_INFINITY;
  const sources = new Map<string, Source>();
  const pastTips = new Set<string>();
  const startedAtMs = clock.nowMs();
  const request = templateRequest(options.network);
  let current: string | null = null;
  let longPoll: AbortController | null = null;
  let disagreeSinceMs: number | null = null;
  let disagreeTold = false;
  let lastState: JobmanagerStatus['state'] = 'waiting';
  let stopped = false;

  const desk = createJobDesk(
    {
      clock,
      log,
      bus: tools.bus,
      ids,
      meter,
      fault,
      workOf: (blockHash) => chainWorks.get(encodeHexReversed(blockHash)) ?? null,
      cache: tools.cache ?? null,
      keepTransactions: tools.keepTransactions,
    },
    {
      refreshMs,
      feeRiseSats: options.feeRiseSats ?? 1_000_000,
      feeRisePpm: options.feeRisePpm ?? 10_000,
      poolTag: options.poolTag,
      pools: options.pools,
      proposalTimeoutMs: options.proposalTimeoutMs ?? 10_000,
      source: among?.source ?? '',
    },
    (node) => avoid(node),
  );

  function views(): NodeView[] {
    return [...sources.values()].map(({ watch }) => watch.view);
  }

  /** Prefers other nodes for a while. */
  function avoid(name: string): void {
    const source = sources.get(name);
    if (source === undefined) return;
    source.watch.view.avoidUntilMs = clock.nowMs() + (options.avoidMs ?? 60_000);
    reconsider();
  }

  function reconsider(): void {
    if (stopped) return;
    const chosen = chooseNode(views(), current, clock.nowMs());
    if (chosen === current) return;
    const before = current;
    current = chosen;
    longPoll?.abort();
    longPoll = null;
    meter.count('node_switches');
    if (chosen === null) {
      log.error('no node can be used; the last job stands until it is too old');
      return;
    }
    if (before !== null) log.warn('taking work from another node', { node: chosen, before });
    const source = sources.get(chosen)!;
    source.retryMs = RETRY_MIN_MS;
    void fetchTemplate(source);
    longPoll = new AbortController();
    void runLongPoll(source, longPoll.signal);
  }

  /** At most one template in flight per node; whoever asks meanwhile gets one more round. */
  async function fetchTemplate(source: Source): Promise<void> {
    if (source.fetching) {
      source.fetchAgain = true;
      return;
    }
    source.fetching = true;
    do {
      source.fetchAgain = false;
      const answer = await source.watch.rpc.call('getblocktemplate', [request]);
      if (stopped) return;
      const nowMs = clock.nowMs();
      if (answer.kind === 'result') {
        source.retryMs = RETRY_MIN_MS;
        source.nextFetchAtMs = nowMs + feeCheckMs;
        takeTemplate(source, answer.result, 'asked');
      } else {
        source.nextFetchAtMs = nowMs + source.retryMs;
        source.retryMs = Math.min(source.retryMs * 2, RETRY_MAX_MS);
        meter.count('template_failures', { node: source.watch.view.name, kind: answer.kind });
        const reason =
          answer.kind === 'error'
            ? `${answer.code} ${answer.message}`
            : `${answer.kind}: ${answer.detail}`;
        log.warn('node gives no template', { node: source.watch.view.name, reason });
        // A node that answers everything else but refuses templates (no peers, still syncing) is of no use now.
        if (answer.kind === 'error' || answer.kind === 'bad-answer') avoid(source.watch.view.name);
        source.watch.poll();
      }
    } while (source.fetchAgain && !stopped);
    source.fetching = false;
  }

  function takeTemplate(source: Source, result: unknown, how: 'asked' | 'long-poll'): void {
    try {
      readTemplate(source, result, how);
    } catch (error) {
      // Decoder and builder are total; should one throw all the same, the last good job stands.
      failedToBuild(error);
    }
  }

  function failedToBuild(error: unknown): void {
    meter.count('job_builder_failures');
    log.error('a job could not be built; the last one stands', {
      reason: error instanceof Error ? error.message : 'unknown',
    });
  }

  function readTemplate(source: Source, result: unknown, how: 'asked' | 'long-poll'): void {
    const name = source.watch.view.name;
    fault('job.afterTemplate');
    const decoded = decodeTemplate(result, options.network, { verifyTransactions: false });
    if (!decoded.ok) {
      meter.count('templates_refused', { node: name });
      log.error('template is broken and not used', { node: name, reason: decoded.reason });
      avoid(name);
      return;
    }
    const { template } = decoded;
    source.longPollId = template.longPollId;
    if (name !== current) return;
    const tip = encodeHexReversed(template.previousHash);
    const job = desk.current();
    const tipNow = job === null ? null : encodeHexReversed(job.previousHash);
    if (tip !== tipNow) {
      // A long-poll may have been answered before the tip moved on and be read after: ask again instead of going back.
      if (how === 'long-poll' && pastTips.has(tip)) {
        void fetchTemplate(source);
        return;
      }
      if (tipNow !== null) rememberTip(tipNow);
      pastTips.delete(tip);
    }
    source.lateSinceMs = null;
    const verify = () => {
      const again = decodeTemplate(result, options.network);
      return again.ok ? null : again.reason;
    };
    desk
      .offer(template, source.watch.rpc, verify)
      .catch(failedToBuild)
      .finally(() => tellStatus());
    // The node is further than the poll knows.
    if (tip !== source.watch.view.bestHashDisplay) source.watch.poll();
  }

  function rememberTip(tip: string): void {
    pastTips.add(tip);
    for (const oldest of pastTips) {
      if (pastTips.size <= PAST_TIPS_MAX) break;
      pastTips.delete(oldest);
    }
  }

  async function runLongPoll(source: Source, signal: AbortSignal): Promise<void> {
    while (!signal.aborted && !stopped) {
      if (source.longPollId === '') {
        // The first template is on its way, or the node cannot long-poll.
        await pause(source.fetching ? LONG_POLL_EMPTY_MS / 20 : LONG_POLL_EMPTY_MS, signal);
        continue;
      }
      const asked = source.longPollId;
      const askedAtMs = performance.now();
      const answer = await source.watch.longRpc.call(
        'getblocktemplate',
        [{ ...request, longpollid: asked }],
        { timeoutMs: LONG_POLL_TIMEOUT_MS, signal },
      );
      if (signal.aborted || stopped) return;
      if (answer.kind === 'result') {
        meter.count('long_polls', { node: source.watch.view.name });
        takeTemplate(source, answer.result, 'long-poll');
        const quick = performance.now() - askedAtMs < LONG_POLL_EMPTY_MS / 2;
        if (quick && source.longPollId === asked) await pause(LONG_POLL_EMPTY_MS, signal);
      } else await pause(LONG_POLL_EMPTY_MS, signal);
    }
  }

  function isMinedOn(tip: string | null): boolean {
    const job = desk.current();
    return job !== null && encodeHexReversed(job.previousHash) === tip;
  }

  function onNodeEvent(watch: NodeWatch, event: NodeEvent): void {
    const source = sources.get(watch.view.name);
    if (source === undefined || stopped) return;
    switch (event) {
      case 'tip':
        if (watch.view.name === current) {
          meter.count('tips', { node: watch.view.name });
          // The long-poll was quicker, and the job is out.
          if (isMinedOn(watch.view.bestHashDisplay)) return;
          source.lateSinceMs ??= clock.nowMs();
          void fetchTemplate(source);
        }
        return;
      case 'health':
        if (watch.view.health !== 'ok' && watch.view.name === current) source.lateSinceMs = null;
        reconsider();
        tellStatus();
        return;
      case 'look':
        noteWork(watch.view);
        reconsider();
        return;
      case 'hint':
        meter.count('zmq_hints', { node: watch.view.name });
    }
  }

  /** A job that went out before the work of its tip was known is said again with it. */
  function noteWork({ bestHashDisplay, chainWork }: NodeView): void {
    if (bestHashDisplay === null || chainWork === null) return;
    const isNew = !chainWorks.has(bestHashDisplay);
    chainWorks.set(bestHashDisplay, chainWork);
    if (chainWorks.size > PAST_TIPS_MAX) chainWorks.delete(chainWorks.keys().next().value!);
    if (isNew && isMinedOn(bestHashDisplay)) sayAgain();
  }

  /** Only with a node behind it: a job manager without one is to be left for another. */
  function sayAgain(): void {
    if (among === undefined || current === null || status().state !== 'working') return;
    saidAtMs = clock.nowMs();
    desk.sayAgain();
  }

  function tick(): void {
    if (stopped) return;
    const nowMs = clock.nowMs();
    if (among !== undefined && (nowMs - saidAtMs >= among.againMs || nowMs < saidAtMs)) sayAgain();
    for (const { watch } of sources.values()) watch.tick(nowMs);
    reconsider();
    const source = current === null ? undefined : sources.get(current);
    if (source !== undefined) {
      const { lateSinceMs } = source;
      if (lateSinceMs !== null && nowMs - lateSinceMs > (options.templateLateMs ?? 3000)) {
        source.lateSinceMs = null;
        if (sources.size > 1) {
          log.warn('node knows a new tip but gives no template for it', { node: current });
          avoid(source.watch.view.name);
        }
      }
      if (nowMs >= source.nextFetchAtMs || source.nextFetchAtMs - nowMs > 2 * feeCheckMs)
        if (!source.fetching) void fetchTemplate(source);
    }
    watchDisagreement(nowMs);
    if (nowMs - lastStatusAtMs >= 1000 || nowMs < lastStatusAtMs) tellStatus();
  }

  function watchDisagreement(nowMs: number): void {
    const found = findDisagreement(views());
    meter.set('nodes_disagree', found === null ? 0 : 1);
    if (found === null) {
      disagreeSinceMs = null;
      disagreeTold = false;
      return;
    }
    disagreeSinceMs ??= nowMs;
    const { ahead, behind } = found;
    const long = nowMs - disagreeSinceMs > (options.disagreeMs ?? 60_000);
    if (disagreeTold || (!long && ahead.blocks - behind.blocks <= DISAGREE_BLOCKS_MAX)) return;
    disagreeTold = true;
    meter.count('node_disagreements');
    log.error('nodes disagree about the best chain; working on the one with more work', {
      ahead: ahead.name,
      aheadBlocks: ahead.blocks,
      behind: behind.name,
      behindBlocks: behind.blocks,
    });
  }

  let lastStatusAtMs = Number.NEGATIVE_INFINITY;

  function status(): JobmanagerStatus {
    const job = desk.current();
    const nowMs = clock.nowMs();
    const jobAgeMs = Math.max(0, nowMs - (job?.createdAtMs ?? startedAtMs));
    let state: JobmanagerStatus['state'] = 'working';
    if (job === null) state = 'waiting';
    else if (jobAgeMs > (options.stoppedMs ?? 600_000)) state = 'stopped';
    else if (jobAgeMs > (options.degradedMs ?? 120_000)) state = 'degraded';
    return {
      state,
      node: current,
      jobId: job?.jobId ?? null,
      height: job?.height ?? 0,
      jobAgeMs,
      nodes: views().map(({ name, health, detail, blocks }) => ({ name, health, detail, blocks })),
    };
  }

  function tellStatus(): void {
    if (stopped) return;
    lastStatusAtMs = clock.nowMs();
    const now = status();
    meter.set('job_age_seconds', now.jobAgeMs / 1000);
    if (now.state !== lastState) {
      if (now.state === 'degraded')
        log.error('the job is older than two minutes: no node gives templates');
      else if (now.state === 'stopped')
        log.error('the job is too old to be mined on; gateways stop handing out work');
      else if (now.state === 'working') log.info('work is available', { node: now.node });
      lastState = now.state;
    }
    tools.onStatus?.(now);
  }

  for (const address of options.nodes) {
    const watch = watchNode(
      { clock, log, openRpc: tools.openRpc, openHints: tools.openHints },
      {
        address,
        network: options.network,
        pollMs: options.pollMs ?? 1000,
        lookMs: options.lookMs ?? 10_000,
        timeoutMs: options.pollTimeoutMs ?? 5000,
        templateTimeoutMs: options.templateTimeoutMs ?? 30_000,
      },
      onNodeEvent,
    );
    sources.set(address.name, {
      watch,
      fetching: false,
      fetchAgain: false,
      nextFetchAtMs: 0,
      retryMs: RETRY_MIN_MS,
      longPollId: '',
      lateSinceMs: null,
    });
  }
  await tools.bus.subscribe('mining.plans', 'jobmanager', async (records) => {
    for (const { value } of records) {
      const decoded = decodeCoinbasePlans(value);
      if (decoded.ok) desk.setPlans(decoded.value);
      else log.error('plans of coinbases could not be read', { reason: decoded.reason });
    }
  });
  for (const { watch } of sources.values()) watch.poll();
  const timer = setInterval(tick, options.tickMs ?? TICK_MS);

  return {
    status,
    async stop() {
      stopped = true;
      clearInterval(timer);
      longPoll?.abort();
      desk.stop();
      for (const { watch } of sources.values()) watch.stop();
    },
  };
}

/** Resolves after `delayMs`, or at once when the signal is aborted. */
function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
      return;
    }
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, delayMs);
    signal.addEventListener('abort', done);
  });
}
