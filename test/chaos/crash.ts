/**
 * The crash test: the whole program on the development chain, a handful of miners that send real shares, kill -9 at random moments,
 * restart, again and again; in the end every share that was acknowledged must stand in the database exactly once (promise P01), and
 * no share twice (P07). What was acknowledged is known from the miners' sockets alone.
 */
import { mkdtempSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePorts, type Program, removeData, startProgram } from '../../bench/tools/program.ts';
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import { readLocalFile } from '../../src/config/file.ts';
import { readConfig } from '../../src/config.ts';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import type { Log } from '../../src/ports.ts';
import { Miner, type Submission } from '../sim/miner.ts';
import { createRandom, type Random } from '../sim/random.ts';

export type CrashOptions = {
  seed: number;
  /** Kills; or go on until `forMs` is over. */
  rounds: number;
  forMs: number;
  minersPerRound: number;
  say(text: string): void;
};

export type CrashReport = {
  kills: number;
  acknowledged: number;
  stored: number;
  /** Acknowledged and not in the database. Must be empty. */
  lost: string[];
  /** In the database more than once. Must be empty. */
  twice: string[];
  /** Milliseconds from start to an open Stratum port, of every restart. */
  restartMs: number[];
  exitCode: number | null;
};

const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };
/** Lowest difficulty that the configuration takes: one hash in four meets it. */
const DIFFICULTY = '0.000000001';

/** One miner on a real socket. */
class SocketMiner {
  readonly miner: Miner;
  /** Why its last share was refused, or how its connection ended. */
  lastWord = 'nothing';
  readonly #random: Random;
  #socket: Socket | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(id: number, random: Random, acknowledged: (submission: Submission) => void) {
    this.#random = random;
    const script = Uint8Array.of(0, 20, ...new Array<number>(20).fill(id + 33));
    this.miner = new Miner(
      id,
      'honest',
      encodeAddress(script, 'regtest')!,
      {
        answered: (submission, error) => {
          if (error === null) acknowledged(submission);
          else this.lastWord = `${error.code} ${error.text}`;
        },
        told: () => {},
        subscribed: () => {},
        protocolFault: (_miner, text) => {
          throw new Error(text);
        },
      },
      `fd=${DIFFICULTY}`,
    );
  }

  dial(port: number): void {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.#socket = socket;
    let rest = '';
    socket.on('connect', () => {
      this.miner.connect({ send: (line) => socket.write(`${line}\n`) }, 0, 0, true);
    });
    socket.on('data', (bytes: Buffer) => {
      const text = rest + bytes.toString('latin1');
      const end = text.lastIndexOf('\n') + 1;
      rest = text.slice(end);
      if (end > 0) this.miner.receive(text.slice(0, end), Date.now());
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      if (this.miner.wire !== null) this.lastWord = 'connection closed by the pool';
      if (this.miner.wire !== null) this.miner.disconnected();
    });
    this.#mine();
  }

  #mine(): void {
    this.#timer = setTimeout(() => {
      const { miner } = this;
      if (miner.newest !== null && miner.authorized && miner.wire !== null) {
        // Again what was never answered, as real miners do; its answer may be "duplicate", it must not be a second row.
        const old = miner.unanswered.pop();
        const again = old === undefined ? null : miner.reread(old, Date.now());
        const found = again ?? miner.grind(this.#random, miner.newest, 'share', Date.now());
        if (found !== null) miner.submit(found, Date.now());
      }
      this.#mine();
    }, 2 + this.#random.below(8));
  }

  hangUp(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#socket?.destroy();
  }
}

/** Runs the test and answers what it found. Everything it starts is ended and removed again. */
export async function crashAndCompare(options: CrashOptions): Promise<CrashReport> {
  const random = createRandom(options.seed);
  const dataDir = mkdtempSync(join(tmpdir(), 'headframe-crash-'));
  const ports = await freePorts();
  const acknowledged = new Map<string, Submission>();
  const restartMs: number[] = [];
  const untilMs = performance.now() + options.forMs;
  let kills = 0;
  let program: Program | null = null;
  const run = async (forMs: number): Promise<void> => {
    program = await startProgram({ dataDir, ports, env: { INITIAL_DIFFICULTY: DIFFICULTY } });
    restartMs.push(program.readyMs);
    const before = acknowledged.size;
    const miners = Array.from(
      { length: options.minersPerRound },
      (_, id) =>
        new SocketMiner(id, random, (submission) =>
          acknowledged.set(submission.hashHex, submission),
        ),
    );
    for (const miner of miners) miner.dial(ports.stratum);
    await delay(forMs);
    // The first jobs of a fresh chain take a moment: a round without one share would prove nothing.
    for (let i = 0; i < 100 && acknowledged.size === before; i++) await delay(50);
    if (forMs === LAST_MS) {
      for (const miner of miners) miner.hangUp();
      return;
    }
    const output = program.output();
    await program.kill();
    for (const miner of miners) miner.hangUp();
    kills += 1;
    options.say(
      `kill ${kills}: ready after ${Math.round(restartMs.at(-1)!)} ms, ` +
        `${acknowledged.size - before} shares acknowledged since` +
        (acknowledged.size > before
          ? ''
          : `; ${miners.map((miner) => miner.lastWord).join(', ')}\n${output}`),
    );
  };
  try {
    while (kills < options.rounds && performance.now() < untilMs) {
      await run(200 + random.below(1800));
    }
    await run(LAST_MS);
    const exitCode = await program!.stop();
    const { stored, twice } = await readShares(databaseDirectory(dataDir));
    return {
      kills,
      acknowledged: acknowledged.size,
      stored: stored.size,
      lost: [...acknowledged.keys()].filter((hash) => !stored.has(hash)),
      twice,
      restartMs,
      exitCode,
    };
  } finally {
    if (program !== null) await (program as Program).stop(1000);
    removeData(dataDir);
  }
}

const LAST_MS = 500;

/** Where the program keeps its private database, by its own rules. */
function databaseDirectory(dataDir: string): string {
  const answer = readConfig({ argv: [], env: { DATA_DIR: dataDir }, readFile: readLocalFile });
  if (!answer.ok) throw new Error(answer.errors.join('\n'));
  return answer.config.database.directory;
}

/** The header hashes of all shares, read with the pool stopped. */
async function readShares(directory: string): Promise<{ stored: Set<string>; twice: string[] }> {
  const server = await startEmbeddedPostgres({ dataDir: directory, log: quiet });
  try {
    const db = await connectPostgres({ ...server.connection, log: quiet });
    try {
      const rows = await db.query<{ header_hash: Uint8Array }>('SELECT header_hash FROM shares');
      const stored = new Set<string>();
      const twice: string[] = [];
      for (const row of rows) {
        const hash = Buffer.from(row.header_hash).toString('hex');
        if (stored.has(hash)) twice.push(hash);
        stored.add(hash);
      }
      return { stored, twice };
    } finally {
      await db.stop();
    }
  } finally {
    await server.stop();
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
