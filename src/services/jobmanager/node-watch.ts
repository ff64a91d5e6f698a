/**
 * One node under watch: is it there, on our network, synced, and what is its tip? A poll of `getbestblockhash` every second is what
 * decides; ZMQ only makes the next poll come at once. Never more than one poll in flight.
 *
 * The genesis block is compared at the start, after every outage, and with each full look: a node swapped for another network's is
 * refused within ten seconds.
 */

import { NETWORKS, type Network } from '../../core/bitcoin/network.ts';
import { decodeChainState, decodeHashDisplay } from '../../core/node/answers.ts';
import type { NodeAddress, OpenHints, OpenRpc, Rpc, RpcAnswer } from '../../core/node/rpc.ts';
import type { Clock, Log } from '../../ports.ts';
import type { NodeHealth, NodeView } from './choose.ts';

/** Headers ahead of blocks by more than this: the node is catching up. A few are normal while a block is on its way. */
const HEADERS_AHEAD_MAX = 6;

export type NodeWatch = {
  readonly address: NodeAddress;
  readonly view: NodeView;
  /** For templates and proposals. */
  readonly rpc: Rpc;
  /** For long-polling alone: a connection that is held for minutes. */
  readonly longRpc: Rpc;
  /** Look now. */
  poll(): void;
  /** Called every few hundred milliseconds: polls when it is time. */
  tick(nowMs: number): void;
  stop(): void;
};

export type NodeWatchOptions = {
  network: Network;
  pollMs: number;
  /** How often the full state (network, sync, work) is asked for without a new tip. */
  lookMs: number;
  timeoutMs: number;
  templateTimeoutMs: number;
};

/** `look`: height and work are fresh. */
export type NodeEvent = 'tip' | 'health' | 'hint' | 'look';

/** Starts watching. `onEvent` is called when the tip or the health changed; `view` then holds the new state. */
export function watchNode(
  tools: { clock: Clock; log: Log; openRpc: OpenRpc; openHints: OpenHints },
  options: NodeWatchOptions & { address: NodeAddress },
  onEvent: (watch: NodeWatch, event: NodeEvent) => void,
): NodeWatch {
  const { clock } = tools;
  const { address, network } = options;
  const log = tools.log.child({ node: address.name });
  const pollRpc = tools.openRpc(address, { timeoutMs: options.timeoutMs });
  const rpc = tools.openRpc(address, { timeoutMs: options.templateTimeoutMs });
  const longRpc = tools.openRpc(address, { timeoutMs: options.templateTimeoutMs, breaker: false });
  const view: NodeView = {
    name: address.name,
    health: 'unasked',
    detail: 'not asked yet',
    bestHashDisplay: null,
    blocks: 0,
    headers: 0,
    chainWork: null,
    avoidUntilMs: 0,
  };
  let stopped = false;
  let polling = false;
  let again = false;
  let verified = false;
  let polledAtMs = Number.NEGATIVE_INFINITY;
  let lookedAtMs = Number.NEGATIVE_INFINITY;

  function setHealth(health: NodeHealth, detail: string): void {
    if (health === 'down' || health === 'starting') verified = false;
    const changed = health !== view.health;
    const detailChanged = detail !== view.detail;
    view.health = health;
    view.detail = detail;
    if (!changed && !detailChanged) return;
    if (health === 'ok') {
      if (changed) log.info('node is ready', { height: view.blocks });
    } else if (changed) log.warn(`node cannot be used: ${health}`, { reason: detail });
    if (changed) onEvent(watch, 'health');
  }

  function setTip(hashDisplay: string): void {
    if (hashDisplay === view.bestHashDisplay) return;
    view.bestHashDisplay = hashDisplay;
    onEvent(watch, 'tip');
  }

  /** Failure of any question: says what it means for the node. */
  function fail(answer: Exclude<RpcAnswer, { kind: 'result' }>): void {
    if (stopped || answer.kind === 'aborted' || answer.kind === 'circuit-open') return;
    if (answer.kind === 'warming-up')
      setHealth('starting', `the node is starting: ${answer.detail}`);
    else if (answer.kind === 'unauthorized') setHealth('down', 'user, password or cookie is wrong');
    else if (answer.kind === 'error') setHealth('down', `error ${answer.code}: ${answer.message}`);
    else if (answer.kind !== 'overloaded' || view.health === 'unasked')
      setHealth('down', `${answer.kind}: ${answer.detail}`);
  }

  async function verifyNetwork(): Promise<boolean> {
    const answer = await pollRpc.call('getblockhash', [0]);
    if (answer.kind !== 'result') {
      fail(answer);
      return false;
    }
    const genesis = decodeHashDisplay(answer.result);
    if (genesis === NETWORKS[network].genesisHashDisplay) {
      verified = true;
      return true;
    }
    verified = false;
    setHealth(
      'wrong-network',
      `its first block is ${genesis ?? 'unreadable'}, not that of ${network}`,
    );
    return false;
  }

  async function look(): Promise<void> {
    if (!(await verifyNetwork())) return;
    const answer = await pollRpc.call('getblockchaininfo', []);
    if (answer.kind !== 'result') {
      fail(answer);
      return;
    }
    const state = decodeChainState(answer.result);
    if (state === null) {
      setHealth('down', 'getblockchaininfo is unreadable');
      return;
    }
    lookedAtMs = clock.nowMs();
    view.blocks = state.blocks;
    view.headers = state.headers;
    view.chainWork = state.chainWork;
    const behind = state.headers - state.blocks;
    // A regtest chain is old or empty as a rule, and calls itself in initial download then.
    if (network !== 'regtest' && state.initialBlockDownload)
      setHealth('syncing', `initial download at block ${state.blocks} of ${state.headers}`);
    else if (network !== 'regtest' && behind > HEADERS_AHEAD_MAX)
      setHealth('syncing', `${behind} blocks behind its headers`);
    else setHealth('ok', `block ${state.blocks}`);
    setTip(state.bestHashDisplay);
    onEvent(watch, 'look');
  }

  async function pollOnce(): Promise<void> {
    const nowMs = clock.nowMs();
    polledAtMs = nowMs;
    const overdue = nowMs - lookedAtMs >= options.lookMs || nowMs < lookedAtMs;
    if (!verified || view.health !== 'ok') return look();
    const answer = await pollRpc.call('getbestblockhash', []);
    if (answer.kind !== 'result') {
      fail(answer);
      return;
    }
    const hash = decodeHashDisplay(answer.result);
    if (hash === null) {
      setHealth('down', 'getbestblockhash is unreadable');
      return;
    }
    const isNew = hash !== view.bestHashDisplay;
    // The template is asked for before anything else is looked at.
    setTip(hash);
    if (isNew || overdue) await look();
  }

  async function run(): Promise<void> {
    if (polling) {
      again = true;
      return;
    }
    polling = true;
    try {
      do {
        again = false;
        await pollOnce();
      } while (again && !stopped);
    } catch (error) {
      // Nothing in there throws by design; the watch goes on with the next tick.
      log.error('looking at the node failed', {
        reason: error instanceof Error ? error.message : 'unknown',
      });
    } finally {
      polling = false;
    }
  }

  const watch: NodeWatch = {
    address,
    view,
    rpc,
    longRpc,
    poll() {
      if (!stopped) void run();
    },
    tick(nowMs) {
      // A clock set back must not stop the watch.
      if (nowMs - polledAtMs >= options.pollMs || nowMs < polledAtMs) watch.poll();
    },
    stop() {
      stopped = true;
      hints.stop();
      pollRpc.stop();
      rpc.stop();
      longRpc.stop();
    },
  };
  const hints = tools.openHints(address, () => {
    watch.poll();
    onEvent(watch, 'hint');
  });
  return watch;
}
