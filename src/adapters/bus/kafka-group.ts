/**
 * Membership in a consumer group of one topic: which partitions are ours, and committing what was handled. Before the group is joined
 * again, handlers come to an end and their offsets are committed, so that a partition that moves starts where we left it.
 *
 * A member with a name of its own keeps its place while it is away for less than a session. When another one has come under that name,
 * the broker gives that one the place and turns the first away; it goes on without a name, beside the other, and says so.
 *
 * The client's own streams are not used: after a rejoin they go on from what was fetched, not from what was handled. A commit here is
 * never repeated under a later generation: whoever was thrown out of the group is refused by the broker.
 */
import { type Consumer, findErrorBy } from '@platformatic/kafka';
import type { Log } from '../../ports.ts';
import type { KafkaHealth } from './kafka-health.ts';

/** Which partitions are ours from now on. */
export type Assignment = {
  partitions: readonly number[];
  /** Nobody else can have had a partition of ours since the last assignment. */
  isUnbroken: boolean;
};

export type KafkaGroup = {
  /** Next offset of each partition that has been handled up to there. Rejects when the group does not take it. */
  commit(offsets: ReadonlyMap<number, bigint>): Promise<void>;
  /** Where the group left off; null for partitions it never committed. */
  readCommitted(partitions: readonly number[]): Promise<Map<number, bigint | null>>;
  /** Leaves the group, so that others need not wait for the session to end. */
  stop(timeoutMs: number): Promise<void>;
};

export type GroupTools = {
  /** A consumer that repeats nothing by itself, with `beforeJoin` to be awaited ahead of every join. */
  openMember(beforeJoin: () => Promise<void>): Consumer;
  health: KafkaHealth;
  log: Log;
};

export type GroupOptions = {
  topic: string;
  /** Called ahead of each join: resolves when handlers have ended and what they did is committed, or it took too long. */
  beforeJoin(): Promise<void>;
  onAssigned(assignment: Assignment): void;
  /** Longer than a join can take. A client of which nothing is heard for so long, neither good nor bad, is given up for a new one. */
  patienceMs: number;
};

const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 2_000;
/** In so many looks at the client, of which none heard anything, its patience is over. */
const LOOKS = 4;

/** Joins and stays joined, for ever. */
export function joinKafkaGroup(tools: GroupTools, options: GroupOptions): KafkaGroup {
  const { health, log } = tools;
  const { topic } = options;
  let member = open();
  const part = `group ${member.groupId}`;
  let silentLooks = 0;
  let last: { generation: number; memberId: string | null } | null = null;
  let pauseMs = PAUSE_MIN_MS;
  let timer: NodeJS.Timeout | null = null;
  let isJoining = false;
  let isStopped = false;

  function open(): Consumer {
    const made = tools.openMember(options.beforeJoin);
    made.topics.track(topic);
    made.on('consumer:group:join', ({ generationId, memberId, assignments }) => {
      if (made !== member) return;
      silentLooks = 0;
      const generation = generationId ?? -1;
      const isUnbroken = last?.generation === generation - 1 && last.memberId === memberId;
      last = { generation, memberId };
      pauseMs = PAUSE_MIN_MS;
      health.fine(part);
      const mine = (assignments ?? []).filter((one) => one.topic === topic);
      options.onAssigned({ partitions: mine.flatMap(({ partitions }) => partitions), isUnbroken });
    });
    made.on('consumer:heartbeat:error', ({ error }) => {
      if (made !== member) return;
      silentLooks = 0;
      health.failed(part, error);
    });
    made.on('consumer:heartbeat:end', () => {
      if (made !== member) return;
      silentLooks = 0;
      health.fine(part);
    });
    // Said ahead of the join that the client then begins by itself.
    (made as NodeJS.EventEmitter).on(
      'client:performWithRetry:failed',
      (_operation: string, _repeats: number, errors: readonly Error[]) => {
        const isFenced = errors.some(
          (one) => findErrorBy(one, 'apiId', 'FENCED_INSTANCE_ID') !== null,
        );
        if (isFenced && made === member && made.groupInstanceId !== null)
          giveUpName(made.groupInstanceId);
      },
    );
    // A join that the client began by itself has failed, and it does not try again.
    (made as NodeJS.EventEmitter).on('error', (error: Error) => {
      if (made === member) joinLater(error);
    });
    return made;
  }

  const looking = setInterval(() => {
    silentLooks += 1;
    if (silentLooks < LOOKS || timer !== null) return;
    log.warn('nothing is heard of a Kafka client; another one takes its place', {
      group: member.groupId,
    });
    const { groupInstanceId } = member;
    member.close(true).catch(() => {});
    member = open();
    if (groupInstanceId === null) member.groupInstanceId = null;
    isJoining = false;
    void join();
  }, options.patienceMs / LOOKS);

  /** Insisting would take the place from the other, who would take it back, and so on. */
  function giveUpName(name: string): void {
    member.groupInstanceId = null;
    log.error(
      'another process works under the name of this one: give each an INSTANCE_ID of its own. Both go on, and share the work',
      { group: member.groupId, name },
    );
  }

  async function join(): Promise<void> {
    timer = null;
    if (isJoining || isStopped) return;
    isJoining = true;
    silentLooks = 0;
    const joining = member;
    try {
      await joining.joinGroup({});
      if (joining === member) isJoining = false;
    } catch (error) {
      if (joining !== member) return;
      isJoining = false;
      joinLater(error);
    }
  }

  function joinLater(error: unknown): void {
    if (isStopped || timer !== null || isJoining) return;
    health.failed(part, error);
    timer = setTimeout(() => void join(), pauseMs);
    pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS);
  }

  void join();

  return {
    async commit(offsets) {
      await member.commit({
        offsets: Array.from(offsets, ([partition, offset]) => ({
          topic,
          partition,
          offset,
          leaderEpoch: -1,
        })),
      });
    },

    async readCommitted(partitions) {
      const found = await member.listCommittedOffsets({
        topics: [{ topic, partitions: [...partitions] }],
      });
      const offsets = found.get(topic) ?? [];
      return new Map(
        partitions.map((partition) => {
          const offset = offsets[partition];
          return [partition, offset === undefined || offset < 0n ? null : offset];
        }),
      );
    },

    async stop(timeoutMs) {
      isStopped = true;
      clearInterval(looking);
      if (timer !== null) clearTimeout(timer);
      await Promise.race([
        member.close(true).catch(() => {}),
        new Promise((resolve) => setTimeout(resolve, timeoutMs).unref()),
      ]);
      health.forget(part);
    },
  };
}
