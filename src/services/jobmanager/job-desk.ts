/**
 * The desk where templates become jobs: when to publish one, the proposal check behind each, and the withdrawal of one that the node
 * refuses.
 *
 * A withdrawal needs no message of its own: a new job with `clean` set takes the place of the refused one. In order of worth it is
 * the last job of the same tip that the node accepted, else the same tip without transactions. If that is refused too, the fault is
 * in our own coinbase or the node is mad, and there is nothing to mine: a job with `createdAtMs` 0 is published, which every gateway
 * reads as older than the limit at which it stops handing out work.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { encodeHexReversed, equalBytes } from '../../core/bitcoin/bytes.ts';
import type { CoinbasePlan } from '../../core/ledger/plan.ts';
import { type ProposalVerdict, readProposalAnswer } from '../../core/node/answers.ts';
import type { Rpc } from '../../core/node/rpc.ts';
import { buildJob, type Job } from '../../core/work/job.ts';
import type { CoinbasePool } from '../../core/work/payout.ts';
import type { Template } from '../../core/work/template.ts';
import { encodeJob } from '../../messages/codec.ts';
import { encodeTransactions } from '../../messages/transactions.ts';
import type { Bus, Cache, Clock, Fault, Log } from '../../ports.ts';
import type { JobIds } from './job-ids.ts';
import { emptyTemplate, encodeProposalFronts } from './proposal.ts';

const RETRY_MS = 50;
const RETRY_MAX_MS = 1_000;
/** Jobs whose transactions are still tried while newer ones are out: miners whose gateway heard of nothing newer mine on them. */
const CARRIED_MAX = 8;
/** How long the transactions of a job and its checks wait for word that it is out. */
const OUT_MS = 100;
/** What gateways on the same machine need to tell their miners of a job. */
const TELL_MS = 10;
/** Shares of an older job are stale by any rule. */
const CACHED_MS = 3_600_000;

export type Meter = {
  /** Adds one. */
  count(name: string, labels?: Record<string, string>): void;
  set(name: string, value: number, labels?: Record<string, string>): void;
};

export type JobDeskOptions = {
  refreshMs: number;
  /** A rise of fees by so much publishes at once; 0 switches it off. */
  feeRiseSats: number;
  /** The same as parts per million of the block's whole value. */
  feeRisePpm: number;
  poolTag: string;
  /** Whose coinbases are proposed to the node. */
  pools: readonly CoinbasePool[];
  proposalTimeoutMs: number;
  /** Name of this job manager; empty when it is the only one. */
  source: string;
};

type Made = {
  job: Job;
  template: Template;
  node: Rpc;
  /** How far down the ladder of replacements this job stands. */
  rank: 'whole' | 'again' | 'empty' | 'stop';
};

export type JobDesk = {
  /**
   * A fresh, decoded template of the node in use. `verify` checks what was left unchecked to be quick and gives a reason when the
   * template is broken; on a new tip it runs when the job is out.
   */
  offer(template: Template, node: Rpc, verify: () => string | null): Promise<void>;
  /** The job now in the hands of miners, or null. */
  current(): Job | null;
  /** Whom the coinbases of direct pools pay from now on: the next proposals have them. */
  setPlans(plans: readonly CoinbasePlan[]): void;
  /** Node whose job that is. */
  currentNode(): string | null;
  /** Says the current job again, for those who came late or wait for a sign of life. Nothing while the last time is under way. */
  sayAgain(): void;
  stop(): void;
};

/** Opens the desk. `onRefused` is called with the name of a node whose template was refused or broken. */
export function createJobDesk(
  tools: {
    clock: Clock;
    log: Log;
    bus: Bus;
    ids: JobIds;
    meter: Meter;
    fault: Fault;
    /** Work of the chain up to this block (wire order), as far as a node has told. */
    workOf: (blockHash: Uint8Array) => bigint | null;
    /** Where jobs are kept by id for whoever asks; may forget them. */
    cache: Cache | null;
    /** Keeps an encoded `TemplateBody` beyond the death of this process, at once; called before anybody hears of its job. */
    keepTransactions: ((encoded: Uint8Array) => void) | undefined;
  },
  options: JobDeskOptions,
  onRefused: (node: string, reason: string) => void,
): JobDesk {
  const { clock, log, bus, ids, meter, fault } = tools;
  let published: Made | null = null;
  let lastGood: Made | null = null;
  /** Nodes whose last verdict was a refusal: their templates are checked before they are published. */
  const checkFirst = new Set<string>();
  const withoutProposals = new Set<string>();
  const checking = new Map<string, { next: Made | null }>();
  let offers = 0;
  let proposals = 0;
  let plans: readonly CoinbasePlan[] = [];
  let stopped = false;
  let isSayingAgain = false;
  const carried = new Set<Made>();
  /** The transactions of a job that is on its way out: they follow it. */
  let unsent: { made: Made; transactions: Uint8Array | null } | null = null;

  function encode({ job }: Made, isAgain: boolean): Uint8Array {
    const tipWork = tools.workOf(job.previousHash);
    return encodeJob(job, { source: options.source, tipWork, isAgain });
  }

  function make(template: Template, node: Rpc, clean: boolean, rank: Made['rank']): Made {
    const nowMs = clock.nowMs();
    const job = buildJob(template, {
      jobId: ids.next(),
      clean,
      createdAtMs: rank === 'stop' ? 0 : nowMs,
    });
    return { job, template, node, rank };
  }

  function isNewTip(template: Template): boolean {
    return published === null || !equalBytes(published.job.previousHash, template.previousHash);
  }

  /** Is this template worth telling miners about? */
  function isWorthPublishing(template: Template, node: Rpc): boolean {
    if (published === null || isNewTip(template) || published.rank !== 'whole') return true;
    if (published.node.name !== node.name) return true;
    const ageMs = clock.nowMs() - published.job.createdAtMs;
    // A clock set back makes the age negative: then publish, and the age is right again.
    if (ageMs >= options.refreshMs || ageMs < 0) return true;
    const rise = template.coinbaseValueSats - published.job.coinbaseValueSats;
    if (rise <= 0n) return false;
    if (options.feeRiseSats > 0 && rise >= BigInt(Math.trunc(options.feeRiseSats))) return true;
    const risePpm = (rise * 1_000_000n) / (published.job.coinbaseValueSats || 1n);
    return options.feeRisePpm > 0 && risePpm >= BigInt(Math.trunc(options.feeRisePpm));
  }

  /** Publishes until it is there, or nobody wants it any more. */
  async function send(
    topic: string,
    value: Uint8Array,
    made: Made,
    isWanted: () => boolean,
  ): Promise<void> {
    for (let attempt = 1; !stopped; attempt++) {
      try {
        await bus.publish(topic, [{ key: 'job', value }]);
        return;
      } catch (error) {
        meter.count('job_publish_failed', { topic });
        log.warn('a job could not be published, trying again', {
          topic,
          jobId: made.job.jobId,
          attempt,
          reason: error instanceof Error ? error.message : 'unknown',
        });
      }
      await sleep(Math.min(attempt * RETRY_MS, RETRY_MAX_MS));
      if (!isWanted()) return;
    }
  }

  function publish(made: Made, verify: (() => string | null) | null = null): void {
    const { job } = made;
    sendTransactions();
    published = made;
    // Where nobody keeps them they are encoded when the job is out.
    const transactions =
      tools.keepTransactions === undefined ? null : encodeTransactions(job, made.template);
    if (transactions !== null) tools.keepTransactions?.(transactions);
    unsent = { made, transactions };
    fault('job.beforePublish');
    const encoded = encode(made, false);
    const told = send('mining.jobs', encoded, made, () => published === made);
    void followUp(made, verify, told);
    void tools.cache?.set(`job:${job.jobId}`, encoded, CACHED_MS);
    void tools.cache?.set('job:current', encoded, CACHED_MS);
    meter.count('jobs_published', { clean: String(job.clean), rank: made.rank });
    meter.set('job_height', job.height);
    log.info(job.clean ? 'new block to mine on' : 'job refreshed', {
      jobId: job.jobId,
      height: job.height,
      previousHash: encodeHexReversed(job.previousHash),
      transactions: job.transactionCount,
      valueSats: Number(job.coinbaseValueSats),
      node: made.node.name,
    });
  }

  /**
   * Megabytes and their checks would hold up the few hundred bytes that miners wait for, here and on the way: they come after. A block
   * that is found before its transactions are there waits for them.
   */
  async function followUp(
    made: Made,
    verify: (() => string | null) | null,
    told: Promise<void>,
  ): Promise<void> {
    await atMost(told, OUT_MS);
    if (unsent?.made === made) sendTransactions();
    await sleep(TELL_MS);
    if (stopped || published !== made) return;
    const reason = verify === null ? null : verify();
    if (reason !== null) withdraw(made, reason);
    else if (made.rank !== 'stop') check(made);
  }

  /** Those that have not gone yet. */
  function sendTransactions(): void {
    if (unsent === null) return;
    fault('job.betweenPublish');
    const { made } = unsent;
    // None when they are not hex: the check that follows finds that out and withdraws the job.
    const transactions = unsent.transactions ?? encodeTransactions(made.job, made.template);
    unsent = null;
    if (transactions !== null) void carry(made, transactions);
  }

  /** Sends the transactions of a job, for as long as it is one of the newest. */
  async function carry(made: Made, transactions: Uint8Array): Promise<void> {
    carried.add(made);
    if (carried.size > CARRIED_MAX) carried.delete(carried.values().next().value!);
    await send('mining.templates', transactions, made, () => carried.has(made));
    carried.delete(made);
  }

  /** One proposal at a time per node; of those that wait only the newest is worth asking about. */
  function check(made: Made): void {
    if (withoutProposals.has(made.node.name)) return;
    const running = checking.get(made.node.name);
    if (running !== undefined) {
      running.next = made;
      return;
    }
    void checkInTurn(made);
  }

  async function checkInTurn(first: Made): Promise<void> {
    const turn: { next: Made | null } = { next: first };
    checking.set(first.node.name, turn);
    while (turn.next !== null && !stopped) {
      const made: Made = turn.next;
      turn.next = null;
      judge(made, await propose(made));
    }
    checking.delete(first.node.name);
  }

  /** The node's word on all kinds of coinbase the job has: accepted when all are. */
  async function propose(made: Made): Promise<ProposalVerdict> {
    const { poolTag, pools } = options;
    const encoded = encodeProposalFronts(made.job, { tag: poolTag, pools, plans });
    if (!encoded.ok) return { kind: 'refused', detail: `coinbase: ${encoded.reason}` };
    let verdict: ProposalVerdict = { kind: 'inconclusive', detail: 'no pool' };
    for (const front of encoded.fronts) {
      verdict = await proposeFront(made, front);
      if (verdict.kind !== 'accepted') break;
    }
    return verdict;
  }

  async function proposeFront(made: Made, front: string): Promise<ProposalVerdict> {
    proposals += 1;
    const id = `p${proposals}`;
    const parts = [
      Buffer.from(
        `{"jsonrpc":"1.0","id":"${id}","method":"getblocktemplate","params":[{"mode":"proposal","rules":["segwit"],"data":"${front}`,
        'latin1',
      ),
      Buffer.from(made.template.transactions.map(({ data }) => data).join(''), 'latin1'),
      Buffer.from('"}]}', 'latin1'),
    ];
    const answer = await made.node.callEncoded('getblocktemplate', id, parts, {
      timeoutMs: options.proposalTimeoutMs,
    });
    return readProposalAnswer(answer);
  }

  function judge(made: Made, verdict: ProposalVerdict): void {
    if (stopped) return;
    meter.count('job_proposals', { node: made.node.name, verdict: verdict.kind });
    switch (verdict.kind) {
      case 'accepted':
        lastGood = made;
        checkFirst.delete(made.node.name);
        return;
      case 'unsupported':
        withoutProposals.add(made.node.name);
        checkFirst.delete(made.node.name);
        log.warn('node does not check proposals; its jobs go out unchecked', {
          node: made.node.name,
          reason: verdict.detail,
        });
        return;
      case 'inconclusive':
        log.debug('proposal was not judged', { jobId: made.job.jobId, reason: verdict.detail });
        return;
      case 'refused':
        withdraw(made, verdict.detail);
    }
  }

  /** The node calls this job invalid: out of the hands of miners with it. */
  function withdraw(made: Made, reason: string): void {
    meter.count('jobs_withdrawn', { node: made.node.name });
    log.error('node refuses our block proposal; the job is withdrawn', {
      jobId: made.job.jobId,
      height: made.job.height,
      node: made.node.name,
      reason,
    });
    if (lastGood === made) lastGood = null;
    checkFirst.add(made.node.name);
    if (published === made) replace(made);
    onRefused(made.node.name, reason);
  }

  function replace(refused: Made): void {
    const { template, node } = refused;
    const sameTip =
      lastGood !== null && equalBytes(lastGood.job.previousHash, refused.job.previousHash);
    if (refused.rank === 'whole' && sameTip && lastGood !== null)
      publish(make(lastGood.template, lastGood.node, true, 'again'));
    else if (refused.rank !== 'empty' && template.transactions.length > 0)
      publish(make(emptyTemplate(template), node, true, 'empty'));
    else {
      log.error('no block we can build is accepted; miners get no work until one is');
      publish(make(template, node, true, 'stop'));
    }
  }

  return {
    async offer(template, node, verify) {
      offers += 1;
      const offer = offers;
      if (!isWorthPublishing(template, node)) return;
      const newTip = isNewTip(template);
      if (!newTip || checkFirst.has(node.name)) {
        const reason = verify();
        if (reason !== null) {
          meter.count('templates_refused', { node: node.name });
          log.error('template is broken and not used', { node: node.name, reason });
          onRefused(node.name, reason);
          return;
        }
      }
      const clean = newTip || published?.rank === 'stop';
      let made = make(template, node, clean, 'whole');
      if (checkFirst.has(node.name)) {
        let verdict = await propose(made);
        if (verdict.kind === 'refused' && newTip && template.transactions.length > 0) {
          log.warn('proposal refused; trying without transactions', { reason: verdict.detail });
          made = make(emptyTemplate(template), node, clean, 'empty');
          verdict = await propose(made);
        }
        if (offer !== offers || stopped) return;
        meter.count('job_proposals', { node: node.name, verdict: verdict.kind });
        if (verdict.kind === 'refused') {
          log.error('node still refuses our block proposal', {
            node: node.name,
            height: made.job.height,
            reason: verdict.detail,
          });
          onRefused(node.name, verdict.detail);
          // Work on the old tip is worth nothing: better none.
          if (newTip && published !== null && published.rank !== 'stop')
            publish(make(template, node, true, 'stop'));
          return;
        }
        if (verdict.kind === 'inconclusive' && !newTip) return;
        if (verdict.kind !== 'inconclusive' && made.rank === 'whole') checkFirst.delete(node.name);
      }
      publish(made, newTip ? verify : null);
    },
    current: () => published?.job ?? null,
    setPlans(given) {
      plans = given;
    },
    currentNode: () => published?.node.name ?? null,
    sayAgain() {
      if (published === null || isSayingAgain || stopped) return;
      isSayingAgain = true;
      const record = { key: 'job', value: encode(published, true) };
      bus
        .publish('mining.jobs', [record])
        .catch(() => meter.count('job_publish_failed', { topic: 'mining.jobs' }))
        .finally(() => {
          isSayingAgain = false;
        });
    },
    stop() {
      sendTransactions();
      stopped = true;
    },
  };
}

/** Waits for something, but not longer than this. */
async function atMost(what: Promise<void>, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  await Promise.race([what, over]);
  clearTimeout(timer);
}
