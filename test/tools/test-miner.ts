/**
 * A Stratum client for tests, on a real socket: speaks through the miner's own protocol half (`core/stratum/client.ts`), keeps every
 * line it hears, finds shares on the test's thread, and can say anything by hand.
 */
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { targetOfDifficulty } from '../../src/core/bitcoin/target.ts';
import {
  assembleMinerHeader,
  type ClientEvent,
  type MinerJob,
  StratumClient,
} from '../../src/core/stratum/client.ts';
import { Grinder } from '../../src/core/work/grind.ts';
import { prepareTarget } from '../../src/core/work/share.ts';
import { until } from './waiting.ts';

export type TestMinerOptions = {
  port: number;
  user: string;
  password?: string;
  /** Takes any certificate, or only this one. */
  tls?: true | { ca: string };
  /** Bytes before the first line, such as a PROXY header. */
  before?: Uint8Array;
  /** Default: some easy shares for a CPU. */
  suggestedDifficulty?: number;
};

type Reply = { id: unknown; result: unknown; error: unknown };

const ANSWER_MS_MAX = 10_000;
const STALE = 21;
const HASHES_PER_SLICE = 20_000;

export class TestMiner {
  readonly lines: string[] = [];
  readonly events: ClientEvent[] = [];
  job: MinerJob | null = null;
  isReady = false;
  isClosed = false;
  accepted = 0;
  readonly #options: TestMinerOptions;
  readonly #client: StratumClient;
  readonly #replies = new Map<number, Reply>();
  readonly #grinder = new Grinder();
  readonly #socket: Socket;
  #nextId = 1_000_000;
  #extranonce2 = 0;
  #nonce = 0;

  private constructor(options: TestMinerOptions) {
    const { port, user, password = 'x', tls } = options;
    this.#options = options;
    this.#client = new StratumClient({
      user,
      password,
      agent: 'test-miner/1',
      versionMask: 0,
      suggestedDifficulty: options.suggestedDifficulty ?? 1e-6,
    });
    const to = { port, host: '127.0.0.1' };
    this.#socket =
      tls === undefined
        ? connect(to)
        : connectTls({ ...to, ...(tls === true ? { rejectUnauthorized: false } : tls) });
    this.#socket.setNoDelay(true);
    let rest = '';
    this.#socket.setEncoding('utf8').on('data', (text) => {
      const lines = (rest + String(text)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#hear(line);
    });
    this.#socket.on('error', () => {});
    this.#socket.on('close', () => {
      this.isClosed = true;
    });
    if (options.before !== undefined) this.#socket.write(options.before);
  }

  /** A connection on which nothing has been said yet. */
  static dial(options: TestMinerOptions): TestMiner {
    return new TestMiner(options);
  }

  /** A miner that is authorized and has work. */
  static async join(options: TestMinerOptions): Promise<TestMiner> {
    const miner = new TestMiner(options);
    miner.#socket.write(miner.#client.hello());
    await until(
      `${options.user} mining`,
      () => {
        if (miner.isClosed) throw new Error(`closed while joining: ${miner.lines.join(' ')}`);
        return miner.isReady && miner.job !== null;
      },
      ANSWER_MS_MAX,
    );
    return miner;
  }

  #hear(line: string): void {
    this.lines.push(line);
    const event = this.#client.line(line);
    if (this.#client.out !== '') this.#socket.write(this.#client.out);
    this.#client.out = '';
    if (event !== null) {
      this.events.push(event);
      if (event.kind === 'ready') this.isReady = true;
      if (event.kind === 'job') this.job = event.job;
      if (event.kind === 'answer' && event.accepted) this.accepted += 1;
    }
    const message = JSON.parse(line) as Partial<Reply>;
    if (typeof message.id === 'number' && !('method' in message))
      this.#replies.set(message.id, message as Reply);
  }

  send(text: string): void {
    this.#socket.write(text);
  }

  /** Calls a method and gives the whole answer. */
  async call(method: string, params: unknown): Promise<Reply> {
    const id = this.#nextId++;
    this.send(`${JSON.stringify({ id, method, params })}\n`);
    return this.#reply(id, method);
  }

  /** Finds a share of the newest job and gives the answer to it. */
  async share(): Promise<Reply & { params: readonly unknown[] }> {
    const { id, params } = await this.findAndSubmit();
    return { ...(await this.#reply(id, 'mining.submit')), params };
  }

  /** Finds shares until one is accepted, and gives what it was. Nothing but a new tip may be in the way. */
  async acceptedShare(): Promise<readonly unknown[]> {
    for (;;) {
      const { result, error, params } = await this.share();
      if (result === true) return params;
      if ((error as [number])[0] !== STALE)
        throw new Error(`${this.#options.user}: ${JSON.stringify(error)} to ${params.join(' ')}`);
    }
  }

  /** Finds a share of the newest job and submits it, without waiting for the answer. */
  async findAndSubmit(): Promise<{ id: number; params: readonly unknown[] }> {
    for (;;) {
      const job = this.job;
      if (job === null) throw new Error('there is no job');
      this.#extranonce2 += 1;
      const extranonce2 = new Uint8Array(job.extranonce2Bytes);
      new DataView(extranonce2.buffer).setUint32(job.extranonce2Bytes - 4, this.#extranonce2);
      this.#grinder.setHeader(assembleMinerHeader(job, extranonce2, job.version));
      const target = prepareTarget(targetOfDifficulty(job.difficulty));
      this.#nonce = 0;
      while (this.job === job && !this.isClosed) {
        const found = this.#grinder.find(this.#nonce, this.#nonce + HASHES_PER_SLICE, target);
        this.#nonce += HASHES_PER_SLICE;
        if (found >= 0) {
          const { jobId, ntime } = job;
          const solution = { jobId, extranonce2, ntime, nonce: found, versionBits: null };
          const { id, line } = this.#client.submit(solution);
          this.send(line);
          return { id, params: (JSON.parse(line) as { params: unknown[] }).params };
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (this.isClosed) throw new Error('the pool closed the connection');
    }
  }

  async #reply(id: number, what: string): Promise<Reply> {
    await until(
      `an answer to ${what} of ${this.#options.user}`,
      () => {
        if (this.#replies.has(id)) return true;
        if (this.isClosed) throw new Error(`closed before the answer to ${what}`);
        return false;
      },
      ANSWER_MS_MAX,
    );
    const reply = this.#replies.get(id)!;
    this.#replies.delete(id);
    return reply;
  }

  hangUp(): void {
    this.#socket.destroy();
  }
}
