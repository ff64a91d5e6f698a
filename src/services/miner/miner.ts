/**
 * A CPU miner: a real Stratum V1 client that finds real shares, for the demo, for tests and for trying a pool by hand.
 * Mines on worker threads in plain TypeScript (some 3 MH/s a thread), reconnects with back-off, asks for its session
 * back, and can be throttled so that a demo leaves the machine alone.
 */
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { Worker } from 'node:worker_threads';
import { type ClientEvent, StratumClient } from '../../core/stratum/client.ts';
import { LineFramer } from '../../core/stratum/framing.ts';
import type { Clock, Log } from '../../ports.ts';
import type { FromThread, ThreadOptions, ToThread } from './messages.ts';

export type MinerOptions = {
  host: string;
  port: number;
  /** `insecure` takes any certificate (a pool's self-signed one); `verified` asks the system's authorities. */
  tls: 'off' | 'insecure' | 'verified';
  user: string;
  password: string;
  /** 1 to 64. */
  threads: number;
  /** All threads together; absent for as fast as the machine goes. */
  hashesPerSecondMax?: number;
  /** All threads together, so that a pool's first low difficulty is not a flood. Default 10. */
  sharesPerSecondMax?: number;
  /** How often the pool is asked to expect a share of ours. Default 5. */
  shareIntervalSeconds?: number;
};

export type MinerStats = {
  connected: boolean;
  /** Accepted and rejected shares, and those lost with a connection before they were answered. */
  accepted: number;
  rejected: number;
  unanswered: number;
  reconnects: number;
  hashes: number;
  /** Over the last ten seconds. */
  hashrateHps: number;
  difficulty: number;
  lastRejection: string;
};

export type Miner = { stats(): MinerStats; stop(): Promise<void> };

const AGENT = 'headframe-miner/0.1.0';
const VERSION_MASK = 0x1fffe000;
const LINE_BYTES_MAX = 262_144;
const CONNECT_TIMEOUT_MS = 10_000;
/** A pool sends a job every 30 s or so; one that is silent this long is gone. */
const SILENCE_MS = 180_000;
const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 60_000;
const REPORT_MS = 10_000;
/** Submissions without an answer beyond which nothing more is sent. */
const IN_FLIGHT_MAX = 256;

/** What a thread is expected to do until it has been measured, for the difficulty we suggest. */
const THREAD_HPS = 2_500_000;
const HASHES_PER_DIFFICULTY = 2 ** 32;

/** Starts to mine at once and goes on until stopped; connection failures are logged and tried again. */
export function startMiner(tools: { clock: Clock; log: Log }, options: MinerOptions): Miner {
  const { clock, log } = tools;
  const threads = Math.max(1, Math.min(64, Math.floor(options.threads)));
  const stats: MinerStats = {
    connected: false,
    accepted: 0,
    rejected: 0,
    unanswered: 0,
    reconnects: 0,
    hashes: 0,
    hashrateHps: 0,
    difficulty: 0,
    lastRejection: '',
  };
  const expectedHps = Math.min(
    options.hashesPerSecondMax ?? Number.POSITIVE_INFINITY,
    threads * THREAD_HPS,
  );
  const suggestedDifficulty =
    (expectedHps * (options.shareIntervalSeconds ?? 5)) / HASHES_PER_DIFFICULTY;
  let socket: Socket | null = null;
  let client: StratumClient | null = null;
  let sessionId = '';
  let isStopping = false;
  let retryMs = RETRY_MS_MIN;
  let retryTimer: NodeJS.Timeout | null = null;
  let reported = { hashes: 0, accepted: 0, rejected: 0, atMs: clock.nowMs() };
  const inFlight = new Set<number>();

  const workers = Array.from({ length: threads }, (_, index) => startThread(index));

  function startThread(index: number): Worker {
    const workerData: ThreadOptions = {
      index,
      hashesPerSecondMax: (options.hashesPerSecondMax ?? Number.POSITIVE_INFINITY) / threads,
      sharesPerSecondMax: (options.sharesPerSecondMax ?? 10) / threads,
    };
    const worker = new Worker(new URL('./thread.ts', import.meta.url), { workerData });
    worker.on('message', (message: FromThread) => {
      if (message.kind === 'hashed') {
        stats.hashes += message.hashes;
        return;
      }
      // Solutions for the pool we are no longer connected to have nowhere to go.
      if (client === null || socket === null || inFlight.size >= IN_FLIGHT_MAX) return;
      const { id, line } = client.submit(message.solution);
      inFlight.add(id);
      socket.write(line);
    });
    worker.on('error', (error) => log.error('a mining thread failed', { reason: String(error) }));
    return worker;
  }

  function tell(message: ToThread): void {
    for (const worker of workers) worker.postMessage(message);
  }

  function dial(): void {
    const { host, port, tls } = options;
    const next =
      tls === 'off'
        ? connect({ host, port })
        : connectTls({ host, port, rejectUnauthorized: tls === 'verified' });
    const talk = new StratumClient({
      user: options.user,
      password: options.password,
      agent: AGENT,
      versionMask: VERSION_MASK,
      suggestedDifficulty,
    });
    const framer = new LineFramer();
    let failure = '';
    socket = next;
    next.setNoDelay(true);
    next.setTimeout(CONNECT_TIMEOUT_MS);
    next.on(tls === 'off' ? 'connect' : 'secureConnect', () => {
      next.setTimeout(SILENCE_MS);
      next.write(talk.hello(sessionId));
    });
    next.on('timeout', () => {
      failure = 'the pool is silent';
      next.destroy();
    });
    next.on('error', (error) => {
      failure = error.message;
    });
    next.on('data', (chunk: Buffer) => {
      framer.feed(chunk);
      for (;;) {
        const line = framer.next(LINE_BYTES_MAX, decodeText);
        if (line === null) break;
        const event = talk.line(line);
        if (event !== null) happened(event, next, talk);
      }
      if (talk.out !== '') {
        next.write(talk.out);
        talk.out = '';
      }
      if (framer.fault !== null) {
        failure = `the pool's lines can not be read (${framer.fault})`;
        next.destroy();
      }
    });
    next.on('close', () => {
      stats.connected = false;
      stats.unanswered += inFlight.size;
      inFlight.clear();
      socket = null;
      client = null;
      tell({ kind: 'job', job: null });
      if (!isStopping) retry(failure);
    });
  }

  function retry(failure: string): void {
    stats.reconnects++;
    // Half fixed, half random: a pool that comes back is not met by all at once.
    const waitMs = retryMs / 2 + (Math.random() * retryMs) / 2;
    log.warn('no connection to the pool, trying again', {
      host: options.host,
      port: options.port,
      reason: failure === '' ? 'the pool closed the connection' : failure,
      waitMs: Math.round(waitMs),
    });
    retryMs = Math.min(RETRY_MS_MAX, retryMs * 2);
    retryTimer = setTimeout(dial, waitMs);
  }

  function happened(event: ClientEvent, from: Socket, talk: StratumClient): void {
    switch (event.kind) {
      case 'ready':
        client = talk;
        stats.connected = true;
        sessionId = talk.sessionId;
        retryMs = RETRY_MS_MIN;
        log.info('mining', { host: options.host, port: options.port, user: options.user, threads });
        return;
      case 'job':
        stats.difficulty = event.job.difficulty;
        tell({ kind: 'job', job: event.job });
        return;
      case 'answer':
        inFlight.delete(event.id);
        if (event.accepted) stats.accepted++;
        else {
          stats.rejected++;
          stats.lastRejection = `${event.code} ${event.reason}`;
          log.debug('share rejected', { code: event.code, reason: event.reason });
        }
        return;
      case 'refused':
        log.error('the pool refuses this miner', { reason: event.reason, user: options.user });
        retryMs = RETRY_MS_MAX;
        from.destroy();
        return;
      case 'reconnect':
        // To the same host only, whatever name the pool gives.
        from.end();
        return;
      case 'message':
        log.info('message from the pool', { text: event.text });
        return;
      case 'bad-line':
        log.warn('a line from the pool makes no sense', { reason: event.reason });
        return;
    }
  }

  const reporting = setInterval(() => {
    const nowMs = clock.nowMs();
    const seconds = Math.max(0.001, (nowMs - reported.atMs) / 1_000);
    stats.hashrateHps = (stats.hashes - reported.hashes) / seconds;
    if (stats.connected) {
      log.info('mined', {
        hashrateMhps: Number((stats.hashrateHps / 1e6).toFixed(3)),
        accepted: stats.accepted - reported.accepted,
        rejected: stats.rejected - reported.rejected,
        acceptedInAll: stats.accepted,
        difficulty: stats.difficulty,
      });
    }
    reported = {
      hashes: stats.hashes,
      accepted: stats.accepted,
      rejected: stats.rejected,
      atMs: nowMs,
    };
  }, REPORT_MS);

  dial();

  return {
    stats: () => ({ ...stats }),
    async stop() {
      if (isStopping) return;
      isStopping = true;
      clearInterval(reporting);
      if (retryTimer !== null) clearTimeout(retryTimer);
      socket?.destroy();
      tell({ kind: 'stop' });
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}

function decodeText(bytes: Uint8Array, from: number, to: number, ascii: boolean): string | null {
  return Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString(
    ascii ? 'latin1' : 'utf8',
  );
}
