/**
 * Who may come in, and when: connection limits in total, per address and per network, the pace of arrivals, and bans.
 * Pure: time is handed in. Limits follow MoneroOcean (256 per IPv4, 1,024 per /24) and p2pool (a source is a /32 or an
 * IPv6 /64).
 *
 * Arrivals over the pace are delayed, not refused: when a pool restarts, every miner comes back in the same second, and
 * one that is turned away goes to its fail-over pool. A source with a session that has earned a share is never banned:
 * one bad machine must not lock out the farm behind the same address. Every table has a maximum.
 */
import { decodeIp, type IpRange, isInRanges, prefixOf } from '../../core/stratum/ip.ts';

export type AdmissionOptions = {
  /** Sockets open at once, all ports together. */
  connectionsMax: number;
  /** Per IPv4 address and per IPv6 /64. */
  connectionsPerSourceMax: number;
  /** Per IPv4 /24 and per IPv6 /48. */
  connectionsPerNetworkMax: number;
  /** Farms, proxies and the machine itself: only the total limit and the common pace hold for them, and no ban. */
  allowed: readonly IpRange[];
  /** Common pace of arrivals; what is above the burst is delayed. */
  arrivalsPerSecond: number;
  arrivalBurst: number;
  /** Pace of one source. */
  sourceArrivalsPerSecond: number;
  sourceArrivalBurst: number;
  /** An arrival that would have to wait longer than this is refused. */
  delayMsMax: number;
  /** Points at which a source is banned, and how fast they are forgotten. */
  banScore: number;
  scoreDecayPerMinute: number;
  /** First ban; each further one doubles it up to the maximum. */
  banMs: number;
  banMsMax: number;
  /** Sources remembered that have no connection now; the least recently seen goes first. */
  idleSourcesMax: number;
};

export const ADMISSION_OPTIONS: AdmissionOptions = {
  connectionsMax: 20_000,
  connectionsPerSourceMax: 256,
  connectionsPerNetworkMax: 1_024,
  allowed: [
    { address: Uint8Array.of(127, 0, 0, 0), bits: 8 },
    { address: Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), bits: 128 },
  ],
  arrivalsPerSecond: 5_000,
  arrivalBurst: 1_000,
  sourceArrivalsPerSecond: 50,
  sourceArrivalBurst: 64,
  delayMsMax: 10_000,
  banScore: 300,
  // 300 points in ten minutes.
  scoreDecayPerMinute: 30,
  banMs: 600_000,
  banMsMax: 86_400_000,
  idleSourcesMax: 50_000,
};

export type RefusalReason = 'total' | 'source' | 'network' | 'pace' | 'banned' | 'address';

/** `admit`: serve it after `delayMs`, and call `leave` with the ticket once when it is gone. */
export type Admitted =
  | { kind: 'admit'; delayMs: number; ticket: Ticket }
  | { kind: 'refuse'; reason: RefusalReason };

/** One admitted connection's place in the tables. */
export type Ticket = { readonly source: Source; readonly isAllowed: boolean; isProven: boolean };

/** How long a source counts as honest after its last proven session is gone. */
const PROVEN_MS = 3_600_000;
/** A ban longer past than this is no longer held against the source. */
const BAN_MEMORY_MS = 86_400_000;

/** What is known of one address. Times are monotonic milliseconds. */
class Source {
  readonly key: string;
  readonly networkKey: string;
  live = 0;
  score = 0;
  scoreAtMs = 0;
  bans = 0;
  bannedUntilMs = 0;
  /** Connections now that have earned a share, and how long the last such one that is gone still counts. */
  provenLive = 0;
  provenUntilMs = 0;
  /** When the last arrival was scheduled to start; `paced` lets it lag behind the clock by the burst. */
  nextArrivalMs = Number.NEGATIVE_INFINITY;

  constructor(key: string, networkKey: string) {
    this.key = key;
    this.networkKey = networkKey;
  }
}

/** The doorman. One for all ports of a process. */
export class Admission {
  readonly refusals: Record<RefusalReason, number> = {
    total: 0,
    source: 0,
    network: 0,
    pace: 0,
    banned: 0,
    address: 0,
  };
  /** Arrivals that had to wait, and bans spoken. */
  delayed = 0;
  bans = 0;

  readonly #options: AdmissionOptions;
  /** Sources with connections: bounded by `connectionsMax`. */
  readonly #live = new Map<string, Source>();
  /** Sources without, oldest first: bounded by `idleSourcesMax`. */
  readonly #idle = new Map<string, Source>();
  /** Connections per network: bounded by `connectionsMax`. */
  readonly #networks = new Map<string, number>();
  #connections = 0;
  #nextArrivalMs = Number.NEGATIVE_INFINITY;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Connections admitted and not yet gone. */
  get connections(): number {
    return this.#connections;
  }

  /** Sources remembered, with and without connections. */
  get sourcesKept(): number {
    return this.#live.size + this.#idle.size;
  }

  /** True for the farms, proxies and local addresses of the configuration. */
  isAllowed(remoteAddress: string): boolean {
    const address = decodeIp(remoteAddress);
    return address !== null && isInRanges(address, this.#options.allowed);
  }

  /** Decides on a new connection from an address in text form. */
  arrive(remoteAddress: string, nowMs: number): Admitted {
    const options = this.#options;
    if (this.#connections >= options.connectionsMax) return this.#refuse('total');
    const address = decodeIp(remoteAddress);
    if (address === null) return this.#refuse('address');
    const isAllowed = isInRanges(address, options.allowed);
    const source = this.#sourceOf(address, nowMs);
    const network = this.#networks.get(source.networkKey) ?? 0;
    if (!isAllowed) {
      if (source.bannedUntilMs > nowMs) return this.#refuse('banned');
      if (source.live >= options.connectionsPerSourceMax) return this.#refuse('source');
      if (network >= options.connectionsPerNetworkMax) return this.#refuse('network');
      const waitMs = paced(
        source.nextArrivalMs,
        options.sourceArrivalsPerSecond,
        options.sourceArrivalBurst,
        nowMs,
      );
      if (waitMs - nowMs > options.delayMsMax) return this.#refuse('pace');
      source.nextArrivalMs = waitMs;
    }
    this.#nextArrivalMs = paced(
      this.#nextArrivalMs,
      options.arrivalsPerSecond,
      options.arrivalBurst,
      nowMs,
    );
    const startMs = isAllowed
      ? this.#nextArrivalMs
      : Math.max(this.#nextArrivalMs, source.nextArrivalMs);
    const delayMs = Math.max(0, startMs - nowMs);
    if (delayMs > 0) this.delayed++;
    if (source.live++ === 0) {
      this.#idle.delete(source.key);
      this.#live.set(source.key, source);
    }
    this.#networks.set(source.networkKey, network + 1);
    this.#connections++;
    return { kind: 'admit', delayMs, ticket: { source, isAllowed, isProven: false } };
  }

  /** An admitted connection is gone. To be called exactly once per ticket. */
  leave(ticket: Ticket, nowMs: number): void {
    const source = ticket.source;
    if (ticket.isProven) {
      ticket.isProven = false;
      source.provenLive--;
      source.provenUntilMs = nowMs + PROVEN_MS;
    }
    this.#connections--;
    const network = this.#networks.get(source.networkKey)! - 1;
    if (network === 0) this.#networks.delete(source.networkKey);
    else this.#networks.set(source.networkKey, network);
    if (--source.live > 0) return;
    this.#live.delete(source.key);
    this.#rest(source);
  }

  /**
   * Points against an address, from sessions that never earned a share. At `banScore` the address is banned, unless a
   * session that has earned a share is open or was within the last hour.
   * @returns true when this call spoke a ban
   */
  blame(remoteAddress: string, points: number, nowMs: number): boolean {
    const address = decodeIp(remoteAddress);
    if (address === null || !(points > 0)) return false;
    const options = this.#options;
    if (isInRanges(address, options.allowed)) return false;
    const source = this.#sourceOf(address, nowMs);
    if (source.live === 0) this.#rest(source);
    const forgotten = ((nowMs - source.scoreAtMs) * options.scoreDecayPerMinute) / 60_000;
    source.score = Math.min(options.banScore, Math.max(0, source.score - forgotten) + points);
    source.scoreAtMs = nowMs;
    if (source.score < options.banScore) return false;
    if (source.provenLive > 0 || source.provenUntilMs > nowMs) return false;
    if (source.bannedUntilMs > nowMs) return false;
    if (nowMs - source.bannedUntilMs > BAN_MEMORY_MS) source.bans = 0;
    const banMs = Math.min(options.banMs * 2 ** Math.min(source.bans, 30), options.banMsMax);
    source.bannedUntilMs = nowMs + banMs;
    source.bans++;
    source.score = 0;
    this.bans++;
    return true;
  }

  /** Another gateway has banned an address: so it is here, unless it is known for honest. Answers whether it is banned now. */
  heedBan(remoteAddress: string, untilMs: number, nowMs: number): boolean {
    const address = decodeIp(remoteAddress);
    if (address === null || isInRanges(address, this.#options.allowed)) return false;
    const source = this.#sourceOf(address, nowMs);
    if (source.live === 0) this.#rest(source);
    if (source.provenLive > 0 || source.provenUntilMs > nowMs) return false;
    source.bannedUntilMs = Math.max(
      source.bannedUntilMs,
      Math.min(untilMs, nowMs + this.#options.banMsMax),
    );
    return true;
  }

  /** When the ban of an address ends; in the past, or 0, where there is none. */
  bannedUntil(remoteAddress: string, nowMs: number): number {
    const address = decodeIp(remoteAddress);
    return address === null ? 0 : this.#sourceOf(address, nowMs).bannedUntilMs;
  }

  /** A session behind this ticket has earned a share: its address is honest while it lasts and an hour longer. */
  prove(ticket: Ticket): void {
    if (ticket.isProven) return;
    ticket.isProven = true;
    ticket.source.provenLive++;
  }

  #sourceOf(address: Uint8Array, nowMs: number): Source {
    const isV4 = address.length === 4;
    const key = prefixOf(address, isV4 ? 32 : 64);
    const known = this.#live.get(key) ?? this.#idle.get(key);
    if (known !== undefined) return known;
    const source = new Source(key, prefixOf(address, isV4 ? 24 : 48));
    source.scoreAtMs = nowMs;
    return source;
  }

  /** Puts a source without connections at the young end of the idle table. */
  #rest(source: Source): void {
    this.#idle.delete(source.key);
    this.#idle.set(source.key, source);
    if (this.#idle.size <= this.#options.idleSourcesMax) return;
    for (const oldest of this.#idle.keys()) {
      this.#idle.delete(oldest);
      return;
    }
  }

  #refuse(reason: RefusalReason): Admitted {
    this.refusals[reason]++;
    return { kind: 'refuse', reason };
  }
}

/**
 * Virtual scheduling: the moment this arrival may start, given when the one before was scheduled. A burst of `burst` may
 * start at once after a pause.
 */
function paced(previousMs: number, perSecond: number, burst: number, nowMs: number): number {
  const stepMs = 1_000 / perSecond;
  return Math.max(previousMs, nowMs - burst * stepMs) + stepMs;
}

/**
 * Connections the process can hold with the files it may open: nine tenths after 128 are set aside for the node, the
 * database, the journal and the status ports (ckpool: 0.9 × ulimit).
 * @param openFilesMax soft limit of open files, or null when unknown
 */
export function connectionsWithin(connectionsMax: number, openFilesMax: number | null): number {
  if (openFilesMax === null) return connectionsMax;
  return Math.max(1, Math.min(connectionsMax, Math.floor(0.9 * (openFilesMax - 128))));
}
