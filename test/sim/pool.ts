/**
 * One incarnation of the pool process: the real parts, wired to the seams of the simulated world. Every seam first asks whether
 * this process is still alive: after a kill it neither reads, writes nor hears anything, however its promises go on.
 */

import { createMemoryBus, type MemoryBus } from '../../src/adapters/bus/memory.ts';
import type { Disk, DiskFile } from '../../src/adapters/disk.ts';
import {
  type Journal,
  type JournalReader,
  openJournal,
  openJournalReader,
} from '../../src/adapters/journal.ts';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { decodeHex } from '../../src/core/bitcoin/bytes.ts';
import { SESSION_LIMITS } from '../../src/core/stratum/limits.ts';
import { foldInTypescript } from '../../src/core/work/fold.ts';
import { buildJob } from '../../src/core/work/job.ts';
import type { CoinbaseRules } from '../../src/core/work/payout.ts';
import { decodeTemplate } from '../../src/core/work/template.ts';
import { VARDIFF_POLICY } from '../../src/core/work/vardiff.ts';
import type { BlockCandidate } from '../../src/messages/block.ts';
import {
  decodeShare,
  encodeJob,
  encodeShare,
  encodeTemplateBody,
} from '../../src/messages/codec.ts';
import type { Bus, BusRecord, Log } from '../../src/ports.ts';
import { type BlockLaneHandle, startBlockLane } from '../../src/services/blocksubmit/lane.ts';
import { Gateway } from '../../src/services/stratumd/gateway.ts';
import {
  type Connection,
  createGatewayMetrics,
  type GatewayMetrics,
  type PortOptions,
} from '../../src/services/stratumd/options.ts';
import type { Session } from '../../src/services/stratumd/session.ts';
import { createCrashDisk } from '../tools/crash-disk.ts';
import type { SimTemplate } from './chain.ts';
import { openSimDatabase } from './database.ts';
import { createRandom, type Random } from './random.ts';
import { type Records, startRecords } from './records.ts';
import { START_MS } from './time.ts';
import type { Link, World } from './world.ts';

const DATA = '/data';
const TAG = '/sim/';
const PORT: PortOptions = {
  port: 3333,
  startDifficulty: 2 ** -31,
  minDifficulty: 2 ** -32,
  maxDifficulty: 2 ** -25,
  tls: 'off',
};
/** Calls of seams at one instant of virtual time beyond which something spins. */
const SPIN_MAX = 20_000;
const POOL_SCRIPT = decodeHex(`0014${'11'.repeat(20)}`)!;
const POOL_COINBASE: CoinbaseRules = {
  mode: 'pool',
  script: POOL_SCRIPT,
  address: encodeAddress(POOL_SCRIPT, 'regtest')!,
};

export class Pool {
  alive = true;
  readonly metrics: GatewayMetrics = createGatewayMetrics();
  readonly #world: World;
  readonly #random: Random;
  readonly #log: Log;
  readonly #disk: Disk;
  readonly #lostDisk: Disk;
  readonly #laneHearsFirst: boolean;
  readonly #sessions = new Map<number, Session>();
  readonly #bySessionId = new Map<string, Session>();
  readonly #jobTips = new Map<string, string>();
  #tips: string[] = [];
  #gateway: Gateway | null = null;
  #reader: JournalReader | null = null;
  #lane: BlockLaneHandle | null = null;
  #records: Records | null = null;
  #bus: MemoryBus | null = null;

  /** The payout address of a simulated miner: regtest P2WPKH of nobody. */
  static accountOf(id: number): string {
    const script = Uint8Array.of(0, 20, ...new Array<number>(20).fill(id + 1));
    return encodeAddress(script, 'regtest')!;
  }

  constructor(world: World, incarnation: number) {
    this.#world = world;
    this.#random = createRandom(world.seed ^ (incarnation * 0x9e37));
    this.#laneHearsFirst = this.#random.chance(0.5);
    this.#log = worldLog(world);
    this.#disk = this.#seamDisk(world.disk);
    this.#lostDisk = this.#seamDisk(createCrashDisk(() => 0.5));
  }

  get retargets(): number {
    return this.metrics.retargets;
  }

  async start(): Promise<void> {
    const world = this.#world;
    const { time } = world;
    const clock = { nowMs: () => time.nowMs };
    const bus = createMemoryBus({ log: this.#log, encodeCheck: true });
    this.#bus = bus;
    const faultyBus = this.#seamBus(bus);
    const journal = await openJournal({
      disk: this.#disk,
      directory: `${DATA}/journal`,
      log: this.#log,
      clock,
      segmentBytesMax: 4096,
      timers: {
        soon: (work) => this.#soon(work),
        after: (delayMs, work) => {
          const id = time.after(delayMs, () => {
            if (this.alive) work();
          });
          return () => time.cancel(id);
        },
      },
      salt: () => this.#random.bits(),
    });
    this.#lane = await startBlockLane(
      {
        clock,
        log: this.#log,
        bus: faultyBus,
        disk: world.breaks.has('block-not-on-disk') ? this.#lostDisk : this.#disk,
        openRpc: (address) =>
          world.nodes.find((node) => node.name === address.name)!.open(() => this.alive),
        fault: (point) => world.fault(`lane.${point}`),
        monotonicMs: () => time.nowMs - START_MS,
      },
      {
        nodes: world.nodes.map((node) => ({ name: node.name, url: `http://${node.name}/` })),
        network: 'regtest',
        dataDir: DATA,
      },
    );
    this.#reader = this.#seamReader(
      await openJournalReader({
        disk: this.#disk,
        directory: `${DATA}/journal`,
        log: this.#log,
        committed: journal.committedPosition,
      }),
    );
    this.#records = await startRecords(
      {
        db: openSimDatabase(world, () => this.alive),
        log: this.#log,
        clock,
        busIn: bus,
        busOut: faultyBus,
        source: this.#reader,
      },
      { coinbase: POOL_COINBASE, coinbaseTag: TAG },
    );
    const gateway = new Gateway(
      {
        log: this.#log,
        metrics: this.metrics,
        hash: foldInTypescript,
        journal: {
          append: (record) => this.#append(journal, record),
          state: () => journal.state(),
        },
        lane: { submit: (candidate, onKept) => this.#toLane(candidate, onKept) },
        defer: (work) =>
          this.#soon(() => {
            world.fault('gateway.broadcast');
            if (this.alive) work();
          }),
        persistLease: (highWater) => {
          world.fault('lease.before');
          if (!this.alive) return;
          if (!world.breaks.has('lease-not-stored')) world.leaseHighWater = highWater;
          world.fault('lease.after');
        },
        randomBytes: (count) => this.#random.bytes(count),
        blame: () => {},
      },
      {
        network: 'regtest',
        pools: [{ id: 'main', coinbase: POOL_COINBASE }],
        coinbaseTag: TAG,
        gateway: 'sim',
        versionMask: 0x1fffe000,
        instancePrefix: 0,
        instancePrefixBits: 0,
        extranonceHighWater: world.leaseHighWater,
        ack: 'disk',
        vardiff: VARDIFF_POLICY,
        limits: { ...SESSION_LIMITS, broadcastChunk: 2 },
      },
    );
    this.#gateway = gateway;
    journal.onCommitted = (ticket) => {
      if (!this.alive) return;
      world.time.activity += 1;
      gateway.committed(ticket);
    };
    this.#tick();
  }

  async stop(): Promise<void> {
    await Promise.race([
      (async () => {
        await this.#records?.stop();
        await this.#lane?.stop();
      })(),
      new Promise((resolve) => setImmediate(() => setImmediate(resolve))),
    ]);
    this.alive = false;
  }

  // ---- the wire ----------------------------------------------------------------------------------------------------

  /** A new connection; the answer takes the miner's lines. Null when the process died in between. */
  open(link: Link): ((line: string) => void) | null {
    const world = this.#world;
    const gateway = this.#gateway!;
    const connection: Connection = {
      remoteAddress: link.source,
      port: PORT,
      write: (data) => {
        if (!this.alive || !link.open) return;
        world.time.activity += 1;
        let text = typeof data === 'string' ? data : Buffer.from(data).toString('latin1');
        if (world.breaks.has('difficulty-after-job')) text = swapDifficulty(text);
        if (!link.silent) link.miner.receive(text, world.time.nowMs);
        if (text.includes('"result":true')) world.fault('gateway.answered');
      },
      close: () => this.#hungUp(link),
      destroy: () => this.#hungUp(link),
    };
    world.fault('gateway.open');
    if (!this.alive) return null;
    const session = gateway.open(connection, world.time.nowMs);
    this.#sessions.set(link.id, session);
    return (line) => {
      world.fault('gateway.line.before');
      if (!this.alive) return;
      gateway.line(session, line, world.time.nowMs);
      if (session.sessionId !== '') this.#bySessionId.set(session.sessionId, session);
      if (this.alive) gateway.flush(session);
    };
  }

  closed(linkId: number): void {
    const session = this.#sessions.get(linkId);
    if (session === undefined || !this.alive) return;
    this.#sessions.delete(linkId);
    this.#gateway!.closed(session, this.#world.time.nowMs);
  }

  #hungUp(link: Link): void {
    if (!this.alive || !link.open) return;
    this.#world.closedByPool(link);
    this.#soon(() => this.closed(link.id));
  }

  #tick(): void {
    this.#world.time.after(250, () => {
      if (!this.alive) return;
      this.#gateway!.tick(this.#world.time.nowMs);
      this.#tick();
    });
  }

  #soon(work: () => void): void {
    setImmediate(() => {
      if (!this.alive) return;
      this.#world.time.activity += 1;
      work();
    });
  }

  // ---- jobs --------------------------------------------------------------------------------------------------------

  takeTemplate(made: SimTemplate, jobId: string, clean: boolean): void {
    const world = this.#world;
    const decoded = decodeTemplate(made.answer, 'regtest');
    if (!decoded.ok) {
      world.find('wire', `the simulation's template is refused: ${decoded.reason}`);
      return;
    }
    const { template } = decoded;
    const job = buildJob(template, { jobId, clean, createdAtMs: world.time.nowMs });
    world.trace(`template ${jobId} on ${made.previousDisplay.slice(0, 8)} height ${made.height}`);
    this.#jobTips.set(jobId, made.previousDisplay);
    this.#tips = [
      ...this.#tips.filter((tip) => tip !== made.previousDisplay),
      made.previousDisplay,
    ];
    const body = Buffer.concat(made.transactions.map((tx) => tx.raw));
    const record: BusRecord = {
      key: 'constant',
      value: encodeTemplateBody({
        jobId,
        height: made.height,
        previousHash: template.previousHash,
        transactionCount: made.transactions.length,
        body,
        witness: true,
      }),
    };
    void this.#bus!.publish('mining.jobs', [{ key: 'constant', value: encodeJob(job) }]).catch(
      () => {},
    );
    // The lane's thread and the gateway's hear of it in either order, but each of them in the order of the templates.
    const toLane = (): void => {
      void this.#bus!.publish('mining.templates', [record]).catch(() => {});
    };
    if (this.#laneHearsFirst) {
      toLane();
      this.#soon(() => this.#gateway!.setJob(job, world.time.nowMs));
    } else {
      this.#gateway!.setJob(job, world.time.nowMs);
      this.#soon(toLane);
    }
  }

  /** Whether the job of this announcement belongs to one of the last three tips this process has heard of. */
  keepsJob(callId: string): boolean {
    const tip = this.#jobTips.get(callId.slice(0, 8));
    return tip !== undefined && this.#tips.slice(-3).includes(tip);
  }

  hasFreshWork(): boolean {
    return this.metrics.workState < 2;
  }

  // ---- seams -------------------------------------------------------------------------------------------------------

  #append(journal: Journal, record: Uint8Array): number {
    const world = this.#world;
    world.fault('journal.append.before');
    if (!this.alive) return -1;
    let bytes = record;
    if (world.breaks.has('difficulty-at-submit') || world.breaks.has('credit-to-the-last')) {
      const decoded = decodeShare(record);
      if (!decoded.ok) throw new Error(decoded.reason);
      const session = this.#bySessionId.get(decoded.value.sessionId);
      const share = { ...decoded.value };
      if (world.breaks.has('difficulty-at-submit') && session !== undefined) {
        share.difficulty = session.vardiff.difficulty;
      }
      if (world.breaks.has('credit-to-the-last')) {
        const last = [...this.#sessions.values()].at(-1);
        share.account = last?.workers[0]?.record.account ?? share.account;
      }
      bytes = encodeShare(share);
    }
    const ticket = journal.append(bytes);
    world.fault('journal.append.after');
    if (world.breaks.has('ack-before-sync') && ticket > 0) {
      this.#soon(() => this.#gateway!.committed(ticket));
    }
    return ticket;
  }

  /** Over to the lane's thread: a hop that a kill can fall into. */
  #toLane(candidate: BlockCandidate, onKept: () => void): void {
    const world = this.#world;
    if (world.breaks.has('stale-block-dropped')) {
      const tip = this.#jobTips.get(candidate.jobId);
      if (tip !== this.#tips.at(-1)) return;
    }
    const coinbase = candidate.coinbase.slice();
    if (world.breaks.has('block-built-wrong')) coinbase[coinbase.length - 5]! ^= 1;
    const own = { ...candidate, coinbase };
    this.#soon(() => {
      world.fault('lane.submit.before');
      if (!this.alive) return;
      void this.#lane!.submit(own).then(() => this.#soon(() => this.alive && onKept()));
      world.fault('lane.submit.after');
    });
  }

  #seamReader(reader: JournalReader): JournalReader {
    if (!this.#world.breaks.has('ship-before-store')) return reader;
    return {
      ...reader,
      next: async () => {
        const batch = await reader.next();
        if (batch !== null) await reader.markShipped(batch.position);
        return batch;
      },
      rewind: () => {},
    };
  }

  /** The bus as a broker far away would be: loses requests, repeats them, takes them and says that it did not. */
  #seamBus(bus: Bus): Bus {
    const world = this.#world;
    const publish = async (topic: string, records: readonly BusRecord[]): Promise<void> => {
      if (!this.alive) await never();
      world.fault('bus.publish.before');
      if (!this.alive) await never();
      if (world.busFault === 'lose') throw new Error('the broker is away');
      await bus.publish(topic, records);
      if (world.busFault === 'repeat') await bus.publish(topic, records);
      if (!this.alive) await never();
      world.fault('bus.publish.after');
      if (!this.alive) await never();
      if (world.busFault === 'fail-after') throw new Error('the broker did not answer');
    };
    return {
      publish,
      subscribe: (topic, group, handle) => bus.subscribe(topic, group, handle),
      stop: () => bus.stop(),
    };
  }

  #seamDisk(disk: Disk): Disk {
    const world = this.#world;
    const areaOf = (path: string): string => (path.includes('/journal') ? 'journal' : 'blocks');
    const run = async <T>(path: string, name: string, work: () => Promise<T>): Promise<T> => {
      if (!this.alive) await never();
      if (world.time.activity - world.time.instantBegan > SPIN_MAX) {
        world.find('spin', `a loop does not wait: ${name} ${path} at one instant`);
        await never();
      }
      world.fault(`${areaOf(path)}.${name}.before`);
      if (!this.alive) await never();
      const result = await work();
      if (!this.alive) await never();
      world.fault(`${areaOf(path)}.${name}.after`);
      if (!this.alive) await never();
      return result;
    };
    const wait = (ms: number): Promise<void> =>
      new Promise((resolve) => {
        world.time.after(ms, resolve);
      });
    return {
      makeDirectory: (path) => run(path, 'makeDirectory', () => disk.makeDirectory(path)),
      list: (path) => run(path, 'list', () => disk.list(path)),
      rename: (from, to) =>
        run(from, 'rename', async () => {
          await disk.rename(from, to);
          const content = world.synced.get(from);
          if (content !== undefined) world.synced.set(to, content);
          world.synced.delete(from);
          world.durableNames.delete(to);
        }),
      remove: (path) =>
        run(path, 'remove', async () => {
          await disk.remove(path);
          world.synced.delete(path);
          world.durableNames.delete(path);
        }),
      syncDirectory: (path) =>
        run(path, 'syncDirectory', async () => {
          await wait(1);
          await disk.syncDirectory(path);
          for (const name of world.disk.paths())
            if (name.startsWith(`${path}/`)) world.durableNames.add(name);
        }),
      open: (path, how) =>
        run(path, 'open', async (): Promise<DiskFile> => {
          const file = await disk.open(path, how);
          return {
            write: (bytes, position) => run(path, 'write', () => file.write(bytes, position)),
            datasync: () =>
              run(path, 'datasync', async () => {
                await wait(1 + this.#random.below(6));
                if (!this.alive) await never();
                const content = world.disk.contentOf(path);
                await file.datasync();
                if (content !== null) world.synced.set(path, Buffer.from(content));
              }),
            read: (position, length) => run(path, 'read', () => file.read(position, length)),
            size: () => run(path, 'size', () => file.size()),
            truncate: (size) => run(path, 'truncate', () => file.truncate(size)),
            close: () => run(path, 'close', () => file.close()),
          };
        }),
    };
  }

  // ---- what the world looks up for its books -----------------------------------------------------------------------

  lagBytes(): number {
    return this.#reader?.lagBytes() ?? 0;
  }
}

function never(): Promise<never> {
  return new Promise<never>(() => {});
}

/** Puts every set_difficulty behind the notify that follows it. */
function swapDifficulty(text: string): string {
  return text.replace(/(\{[^\n]*set_difficulty[^\n]*\n)(\{[^\n]*mining\.notify[^\n]*\n)/g, '$2$1');
}

function worldLog(world: World): Log {
  const write = (level: string) => (message: string, fields?: Record<string, unknown>) => {
    world.trace(`  ${level} ${message} ${fields === undefined ? '' : JSON.stringify(fields)}`);
  };
  const log: Log = {
    debug: () => {},
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    child: () => log,
  };
  return log;
}
