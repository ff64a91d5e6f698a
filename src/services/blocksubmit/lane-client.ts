/**
 * The gateway's end of the block lane: hands candidates over a MessagePort to the lane's thread and keeps each until the lane has
 * said that it is safe. When the lane's thread is started anew, `attach` gives it everything that was not acknowledged.
 */
import type { MessagePort } from 'node:worker_threads';
import type { BlockCandidate } from '../../messages/block.ts';
import type { Log } from '../../ports.ts';

export type LaneRequest = { kind: 'candidate'; candidate: BlockCandidate };
export type LaneAnswer = { kind: 'kept'; headerHash: Uint8Array };

/** What the gateway sees: never throws, never blocks. `onKept` is called once, when the lane has the block safe. */
export type BlockLane = { submit(candidate: BlockCandidate, onKept?: () => void): void };

export type LaneClient = BlockLane & {
  /** Uses this port from now on and repeats what is unacknowledged. The old port, if any, is closed. */
  attach(port: MessagePort): void;
  /** Candidates not yet acknowledged. */
  unacknowledged(): number;
};

/** A thousand blocks without one acknowledgement means regtest with a dead lane; the oldest goes then. */
const KEPT_MAX = 1024;

/** Makes a client; candidates submitted before the first `attach` wait for it. */
export function createLaneClient(tools: { log: Log }): LaneClient {
  const { log } = tools;
  const kept = new Map<string, { candidate: BlockCandidate; onKept: (() => void) | undefined }>();
  let port: MessagePort | null = null;

  function send(candidate: BlockCandidate): void {
    if (port === null) return;
    try {
      const request: LaneRequest = { kind: 'candidate', candidate };
      port.postMessage(request);
    } catch (error) {
      log.error('a found block could not be handed to the block lane; it is repeated', {
        reason: error instanceof Error ? error.message : 'unknown',
      });
    }
  }

  return {
    submit(candidate, onKept) {
      // Copies: the caller may use its buffers again, and a view on a pooled buffer would drag the whole pool along.
      const own: BlockCandidate = {
        ...candidate,
        headerHash: new Uint8Array(candidate.headerHash),
        header: new Uint8Array(candidate.header),
        coinbase: new Uint8Array(candidate.coinbase),
      };
      const key = keyOf(own.headerHash);
      if (kept.size >= KEPT_MAX && !kept.has(key)) {
        kept.delete(kept.keys().next().value!);
        log.error(
          'the block lane acknowledges nothing; the oldest found block is no longer repeated',
        );
      }
      kept.set(key, { candidate: own, onKept });
      send(own);
    },
    attach(next) {
      port?.close();
      port = next;
      next.on('message', (answer: LaneAnswer) => {
        if (answer?.kind !== 'kept') return;
        const key = keyOf(answer.headerHash);
        const onKept = kept.get(key)?.onKept;
        kept.delete(key);
        onKept?.();
      });
      for (const { candidate } of kept.values()) send(candidate);
    },
    unacknowledged: () => kept.size,
  };
}

function keyOf(hash: Uint8Array): string {
  return Buffer.from(hash.buffer, hash.byteOffset, hash.length).toString('latin1');
}
