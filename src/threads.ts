/**
 * Keeps the worker threads of the single process alive. A thread is started with its data and one MessagePort for its bus;
 * when it dies it is started again with a fresh port, after a pause that grows; a thread that will not stay up ends the
 * process, because a pool that answers miners but stores nothing, or learns of no block, is worse than one that is restarted.
 */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import type { Figure } from './metrics.ts';
import type { Log } from './ports.ts';

/** From a thread to its keeper. */
export type ThreadSays =
  | { kind: 'ready'; facts?: unknown }
  | { kind: 'status'; status: unknown; figures: Figure[] }
  /** Cannot start for a reason that a restart does not mend. */
  | { kind: 'refused'; reason: string; exitCode: number };

/** From the keeper to its thread. */
export type ThreadHears = { kind: 'stop' } | { kind: 'port'; name: string; port: MessagePort };

export type KeptThread = {
  readonly role: string;
  /** What the thread last said of itself; null before that. */
  status(): unknown;
  figures(): readonly Figure[];
  restarts(): number;
  /** Asks the thread to finish, waits for it, ends it when it does not. */
  stop(timeoutMs: number): Promise<void>;
};

export type ThreadOptions = {
  role: string;
  /** Structured-cloneable; made anew for each start. */
  data: () => Record<string, unknown>;
  /** Connects the near end of the thread's bus port, and whatever other ports it needs; called at each start. */
  connect: (port: MessagePort, send: (name: string, port: MessagePort) => void) => void;
  /** The thread keeps dying, or refused to start. */
  onGivenUp: (reason: string, exitCode: number) => void;
  /** So many deaths within a minute and it is given up; 1 for a thread that cannot take up where it stopped. Default 5. */
  deathsMax?: number;
  /** Default: `thread.ts`. */
  entry?: URL;
};

const ENTRY = new URL('./thread.ts', import.meta.url);
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 5_000;
const DEATHS_MAX = 5;
const DEATHS_WINDOW_MS = 60_000;
const EX_SOFTWARE = 70;

/** Starts a thread and resolves with its facts when it is ready; rejects when it refuses or is given up before that. */
export async function keepThread(
  tools: { log: Log },
  options: ThreadOptions,
): Promise<{ thread: KeptThread; facts: unknown }> {
  const { log } = tools;
  const { role } = options;
  let worker: Worker | null = null;
  let status: unknown = null;
  let figures: Figure[] = [];
  let restarts = 0;
  let pauseMs = PAUSE_MIN_MS;
  let deaths: number[] = [];
  let stopping = false;
  let pauseTimer: NodeJS.Timeout | null = null;
  let isReady = false;
  let settle: { resolve: (facts: unknown) => void; reject: (error: Error) => void } | null = null;

  function giveUp(reason: string, exitCode: number): void {
    stopping = true;
    const error = Object.assign(new Error(reason), { exitCode });
    if (settle !== null) {
      settle.reject(error);
      settle = null;
    } else options.onGivenUp(reason, exitCode);
  }

  function start(): void {
    pauseTimer = null;
    if (stopping) return;
    const channel = new MessageChannel();
    const next = new Worker(options.entry ?? ENTRY, {
      name: role,
      workerData: { role, ...options.data(), port: channel.port2 },
      transferList: [channel.port2],
    });
    worker = next;
    options.connect(channel.port1, (name, port) => {
      next.postMessage({ kind: 'port', name, port } satisfies ThreadHears, [port]);
    });
    next.on('message', (message: ThreadSays) => {
      switch (message.kind) {
        case 'ready':
          pauseMs = PAUSE_MIN_MS;
          isReady = true;
          settle?.resolve(message.facts);
          settle = null;
          return;
        case 'status':
          status = message.status;
          figures = message.figures;
          return;
        case 'refused':
          giveUp(message.reason, message.exitCode);
      }
    });
    next.on('error', (error) => {
      log.error('a thread failed', {
        thread: role,
        reason: String(error),
        stack: (error as Error).stack,
      });
    });
    next.on('exit', (code) => {
      channel.port1.close();
      if (worker === next) worker = null;
      if (stopping) return;
      const nowMs = performance.now();
      deaths = deaths.filter((at) => nowMs - at < DEATHS_WINDOW_MS);
      deaths.push(nowMs);
      restarts += 1;
      if (deaths.length >= (options.deathsMax ?? DEATHS_MAX)) {
        giveUp(`the thread "${role}" ended (${deaths.length} within a minute)`, EX_SOFTWARE);
        return;
      }
      log.error('a thread ended; it is started again', { thread: role, code, isReady, pauseMs });
      pauseTimer = setTimeout(start, pauseMs);
      pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS);
    });
  }

  const thread: KeptThread = {
    role,
    status: () => status,
    figures: () => figures,
    restarts: () => restarts,
    async stop(timeoutMs) {
      stopping = true;
      if (pauseTimer !== null) clearTimeout(pauseTimer);
      const current = worker;
      if (current === null) return;
      const ended = new Promise<void>((resolve) => current.once('exit', () => resolve()));
      current.postMessage({ kind: 'stop' } satisfies ThreadHears);
      const timer = setTimeout(() => {
        log.warn('a thread did not finish in time and is ended', { thread: role, timeoutMs });
        void current.terminate();
      }, timeoutMs);
      await ended;
      clearTimeout(timer);
    },
  };

  const facts = await new Promise<unknown>((resolve, reject) => {
    settle = { resolve, reject };
    start();
  });
  return { thread, facts };
}
