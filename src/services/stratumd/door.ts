/**
 * The door of the Stratum service: listening ports, sockets, TLS, the PROXY protocol, and everything that can be decided
 * about a connection before a line reaches the gateway. One port takes plain Stratum, TLS, PROXY v1 and v2 (from listed
 * balancers only) and answers a lost browser; what else knocks is closed without a word.
 *
 * A connection costs one `Wire`, one `LineFramer` and Node's socket: no timer, no closure, no buffer while it is idle.
 * Deadlines are kept by one sweep every 250 ms over the few connections that have one. Every connection gets a slice of
 * lines per turn of the event loop, so a flood on one socket does not starve the others.
 */
import { Buffer } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import type { Server } from 'node:net';
import { performance } from 'node:perf_hooks';
import { TLSSocket } from 'node:tls';
import { type FrameFault, LineFramer } from '../../core/stratum/framing.ts';
import { decodeIp, encodeIp, type IpRange, isInRanges } from '../../core/stratum/ip.ts';
import { decodeProxyHeader } from '../../core/stratum/proxy-header.ts';
import { sniff } from '../../core/stratum/sniff.ts';
import type { Clock, Log } from '../../ports.ts';
import {
  Admission,
  type AdmissionOptions,
  connectionsWithin,
  type RefusalReason,
} from './admission.ts';
import type { Gateway } from './gateway.ts';
import { openListeners } from './listeners.ts';
import type { Neighbours } from './neighbours.ts';
import type { PortOptions } from './options.ts';
import { type Certificates, loadCertificates, type TlsOptions } from './tls.ts';
import { NO_BYTES, onClose, onData, onSecure, WIRE, Wire, type WiredSocket } from './wire.ts';

export type DoorTools = {
  clock: Clock;
  log: Log;
  gateway: Pick<Gateway, 'open' | 'line' | 'flush' | 'closed' | 'tick' | 'drain'>;
  /** The other gateways of the pool; absent where there are none. */
  neighbours?: Pick<Neighbours, 'ban' | 'arrive'>;
};

export type DoorOptions = {
  /** At least one; port 0 takes any free one. */
  ports: readonly PortOptions[];
  /** Balancers whose PROXY header is believed. From anybody else such a header is an attack. */
  trustedProxies: readonly IpRange[];
  admission: AdmissionOptions;
  /** Null only when every port has `tls: 'off'`. */
  tls: TlsOptions | null;
  limits: DoorLimits;
};

export type DoorLimits = {
  /** From accept (or the end of the handshake) to a decision about the protocol. */
  firstBytesTimeoutMs: number;
  handshakeTimeoutMs: number;
  /** From the hello to the start of a handshake that had to wait for others. */
  handshakeWaitMs: number;
  handshakesMax: number;
  handshakesPerSourceMax: number;
  httpTimeoutMs: number;
  httpBytesMax: number;
  /** A line once begun must end within this. */
  partialLineTimeoutMs: number;
  /** Unsent bytes at which a reader is too slow, and how long any unsent bytes may stay. */
  pendingBytesMax: number;
  pendingTimeoutMs: number;
  /** Lines of one connection per turn of the event loop, and connections with a backlog served per turn. */
  linesPerTurn: number;
  backlogsPerTurn: number;
  /** Lines of one connection over time; farms and proxies of `admission.allowed` are exempt. */
  linesPerSecond: number;
  lineBurst: number;
  /** How long a closed connection may take to read its last words, and what it may still send meanwhile. */
  lingerMs: number;
  lingerBytesMax: number;
  /** Connections the kernel may hold until they are accepted: per queue, and the queues per port (Linux only). */
  backlog: number;
  acceptQueues: number;
};

export const DOOR_LIMITS: DoorLimits = {
  firstBytesTimeoutMs: 15_000,
  handshakeTimeoutMs: 10_000,
  handshakeWaitMs: 60_000,
  handshakesMax: 2_000,
  handshakesPerSourceMax: 64,
  httpTimeoutMs: 5_000,
  httpBytesMax: 8_192,
  partialLineTimeoutMs: 15_000,
  pendingBytesMax: 262_144,
  pendingTimeoutMs: 10_000,
  linesPerTurn: 32,
  backlogsPerTurn: 16,
  // A miner says less than one line a second; 250 connections that flood at this pace cost a tenth of a core.
  linesPerSecond: 100,
  lineBurst: 500,
  lingerMs: 2_000,
  lingerBytesMax: 65_536,
  backlog: 16_384,
  acceptQueues: 4,
};

/** Plain numbers, bumped in place and read when metrics are scraped. All only go up except the first three. */
export type DoorCounters = {
  connections: number;
  handshakesPending: number;
  waiting: number;
  accepted: number;
  tlsConnections: number;
  tlsFailures: number;
  proxied: number;
  spoofedProxies: number;
  wrongTransport: number;
  httpAnswers: number;
  /** Protocols that are not ours, by name. The keys are the closed list of `core/stratum/sniff.ts`. */
  foreign: Map<string, number>;
  /** Streams that could not be read on, by reason. */
  faults: Map<FrameFault, number>;
  slowReaders: number;
  timeouts: number;
  acceptErrors: number;
  exceptions: number;
  /** Connections turned away, by reason: the admission's own record. */
  refused: Readonly<Record<RefusalReason, number>>;
  delayed: () => number;
  bans: () => number;
};

export type Door = {
  /** The ports listened on, in the order of the options (with the real number where 0 was asked for). */
  readonly ports: readonly number[];
  readonly counters: DoorCounters;
  /** SHA-256 fingerprint of the certificate in use, or null without TLS. */
  readonly fingerprint: string | null;
  /** Points against an address, from a session that never earned a share. Handed to the gateway as a tool. */
  blame(remoteAddress: string, points: number): void;
  /** Reads the certificate files again (SIGHUP). */
  reloadCertificates(): Promise<void>;
  /** Stops accepting and lets the gateway say good-bye; open sessions still get their answers. */
  drain(): void;
  /** Drains, sends what is pending, closes every socket; resolves when none is left. */
  stop(options?: { flushMs?: number }): Promise<void>;
};

const SWEEP_MS = 250;
const WAIT_SLOT_MS = 20;
const CERTIFICATE_CHECK_MS = 60_000;

const BLAME_WRONG_PROTOCOL = 1;
const BLAME_SPOOFED_PROXY = 20;
const BLAME_NOTHING_SAID = 5;
const BLAME_FAULT = 10;
const BLAME_LONG_LINE = 50;

const FAULT_TEXTS: Record<FrameFault, string> = {
  'line-too-long': 'Line too long',
  nul: 'Parse error',
  'lone-cr': 'Parse error',
  'bad-utf8': 'Parse error',
  'empty-lines': 'Too many empty lines',
};

/**
 * Opens the ports. Rejects with an error for people when a port can not be had or a certificate not be used; nothing
 * stays open then.
 */
export async function startDoor(tools: DoorTools, options: DoorOptions): Promise<Door> {
  const openFilesMax = await readOpenFilesMax();
  const connectionsMax = connectionsWithin(options.admission.connectionsMax, openFilesMax);
  if (connectionsMax < options.admission.connectionsMax) {
    tools.log.warn('fewer connections than configured: the limit of open files is too low', {
      configured: options.admission.connectionsMax,
      connectionsMax,
      openFilesMax,
    });
    options = { ...options, admission: { ...options.admission, connectionsMax } };
  }
  const needsTls = options.ports.some((port) => port.tls !== 'off');
  if (needsTls && options.tls === null) throw new Error('TLS is on for a port, but not configured');
  const certificates =
    needsTls && options.tls !== null ? await loadCertificates(tools, options.tls) : null;
  const hall = new Hall(tools, options, certificates);
  await hall.listen();
  return hall;
}

/** All ports and connections of one door. */
class Hall implements Door {
  readonly counters: DoorCounters;
  readonly ports: number[] = [];
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #gateway: DoorTools['gateway'];
  readonly #neighbours: DoorTools['neighbours'] | null;
  readonly #options: DoorOptions;
  readonly #limits: DoorLimits;
  readonly #certificates: Certificates | null;
  readonly #admission: Admission;
  readonly #servers: Server[] = [];
  /** Every connection: bounded by `connectionsMax`; so are the sets below, which are parts of it. */
  readonly #wires = new Set<Wire>();
  /** Connections without a session yet. */
  readonly #early = new Set<Wire>();
  readonly #partial = new Set<Wire>();
  readonly #pending = new Set<Wire>();
  readonly #closing = new Set<Wire>();
  /** Connections with unread lines, in turn. */
  #backlog: Wire[] = [];
  #isBacklogDue = false;
  /** Out of lines for this moment; tried again at each sweep. */
  readonly #parked = new Set<Wire>();
  /** Delayed arrivals by the slot of time they start in. */
  readonly #waiting = new Map<number, Wire[]>();
  #waitTimer: NodeJS.Timeout | null = null;
  readonly #handshakes = new Map<string, number>();
  #handshakesWaiting: Wire[] = [];
  #sweepTimer: NodeJS.Timeout | null = null;
  #certificateTimer: NodeJS.Timeout | null = null;
  #acceptAgainMs = 0;
  #isDraining = false;
  #whenEmpty: (() => void) | null = null;

  constructor(tools: DoorTools, options: DoorOptions, certificates: Certificates | null) {
    this.#log = tools.log;
    this.#clock = tools.clock;
    this.#gateway = tools.gateway;
    this.#neighbours = tools.neighbours ?? null;
    this.#options = options;
    this.#limits = options.limits;
    this.#certificates = certificates;
    // Balancers open many connections and speak for themselves now and then (health checks).
    const allowed = [...options.admission.allowed, ...options.trustedProxies];
    const admission = new Admission({ ...options.admission, allowed });
    this.#admission = admission;
    this.counters = {
      connections: 0,
      handshakesPending: 0,
      waiting: 0,
      accepted: 0,
      tlsConnections: 0,
      tlsFailures: 0,
      proxied: 0,
      spoofedProxies: 0,
      wrongTransport: 0,
      httpAnswers: 0,
      foreign: new Map(),
      faults: new Map(),
      slowReaders: 0,
      timeouts: 0,
      acceptErrors: 0,
      exceptions: 0,
      refused: admission.refusals,
      delayed: () => admission.delayed,
      bans: () => admission.bans,
    };
  }

  get fingerprint(): string | null {
    return this.#certificates?.fingerprint ?? null;
  }

  async listen(): Promise<void> {
    for (const port of this.#options.ports) {
      try {
        const listeners = await openListeners(port, this.#limits, {
          arrive: (socket) => this.#arrive(socket, port),
          failed: (error) => this.#acceptFailed(error),
        });
        this.#servers.push(...listeners.servers);
        this.ports.push(listeners.port);
        this.#log.info('listening for miners', { port: listeners.port, tls: port.tls });
      } catch (error) {
        for (const open of this.#servers) open.close();
        throw error;
      }
    }
    this.#sweepTimer = setInterval(() => this.#sweep(), SWEEP_MS);
    if (this.#certificates !== null) {
      this.#certificateTimer = setInterval(
        () => void this.#certificates?.reloadIfChanged(),
        CERTIFICATE_CHECK_MS,
      );
      this.#certificateTimer.unref();
    }
  }

  blame(remoteAddress: string, points: number): void {
    const nowMs = performance.now();
    if (!this.#admission.blame(remoteAddress, points, nowMs)) return;
    const leftMs = this.#admission.bannedUntil(remoteAddress, nowMs) - nowMs;
    this.#neighbours?.ban(remoteAddress, this.#clock.nowMs() + leftMs);
    this.#log.warn('address banned: too much bad input and never a share', { remoteAddress });
    for (const wire of this.#early) if (wire.remoteAddress === remoteAddress) this.destroy(wire);
  }

  async reloadCertificates(): Promise<void> {
    await this.#certificates?.reload();
  }

  drain(): void {
    if (this.#isDraining) return;
    this.#isDraining = true;
    for (const server of this.#servers) server.close();
    for (const wire of this.#early) this.destroy(wire);
    this.#gateway.drain(this.#clock.nowMs());
  }

  async stop({ flushMs = 1_000 }: { flushMs?: number } = {}): Promise<void> {
    this.drain();
    // Shares that were accepted get their answer: the journal has them in a few milliseconds.
    const heldUntilMs = performance.now() + flushMs;
    while (this.#hasHeldAnswers() && performance.now() < heldUntilMs) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const empty = new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
    });
    for (const wire of this.#wires) this.close(wire);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, flushMs);
    });
    if (this.#wires.size > 0) await Promise.race([empty, late]);
    clearTimeout(timer);
    // RST: whoever has not read our FIN by now learns at once that it must dial again.
    for (const wire of this.#wires) this.destroy(wire);
    if (this.#wires.size > 0) await empty;
    if (this.#sweepTimer !== null) clearInterval(this.#sweepTimer);
    if (this.#certificateTimer !== null) clearInterval(this.#certificateTimer);
    if (this.#waitTimer !== null) clearInterval(this.#waitTimer);
  }

  #hasHeldAnswers(): boolean {
    for (const wire of this.#wires) {
      if (wire.stage === 'lines' && wire.session!.heldCount > 0) return true;
    }
    return false;
  }

  // ---- a connection's way in -------------------------------------------------------------------------------------

  #arrive(socket: WiredSocket, port: PortOptions): void {
    socket.on('error', ignore);
    const nowMs = performance.now();
    const address = canonical(socket.remoteAddress);
    const isFull = this.#wires.size >= this.#options.admission.connectionsMax;
    if (address === null || this.#isDraining || isFull || nowMs < this.#acceptAgainMs) {
      if (isFull) this.#admission.refusals.total++;
      socket.resetAndDestroy();
      return;
    }
    this.counters.accepted++;
    const wire = new Wire(this, socket, port, address, nowMs);
    socket[WIRE] = wire;
    socket.on('close', onClose);
    this.#wires.add(wire);
    this.#early.add(wire);
    this.counters.connections++;
    // A balancer is not a miner: the one behind it is let in or refused once the header has named him.
    if (this.#isTrusted(address)) this.#start(wire);
    else this.#admit(wire, nowMs);
  }

  #admit(wire: Wire, nowMs: number): boolean {
    const admitted = this.#admission.arrive(wire.remoteAddress, nowMs);
    if (admitted.kind === 'refuse') {
      this.destroy(wire);
      return false;
    }
    wire.ticket = admitted.ticket;
    if (!admitted.ticket.isAllowed) this.#askNeighbours(wire);
    if (admitted.delayMs < 1) {
      this.#start(wire);
      return true;
    }
    wire.stage = 'wait';
    wire.socket.pause();
    const slot = Math.ceil((nowMs + admitted.delayMs) / WAIT_SLOT_MS);
    const queue = this.#waiting.get(slot);
    if (queue === undefined) this.#waiting.set(slot, [wire]);
    else queue.push(wire);
    this.counters.waiting++;
    this.#waitTimer ??= setInterval(() => this.#startDue(), WAIT_SLOT_MS);
    return false;
  }

  /** What the other gateways know of the address may come while it is served already; who has earned a share stays. */
  #askNeighbours(wire: Wire): void {
    const { sourceArrivalsPerSecond, sourceArrivalBurst } = this.#options.admission;
    const arrivalsMax = 10 * sourceArrivalsPerSecond + sourceArrivalBurst;
    this.#neighbours?.arrive(wire.remoteAddress, arrivalsMax, (bannedUntilMs) => {
      if (wire.stage === 'gone' || wire.session?.proven === true) return;
      const nowMs = performance.now();
      const untilMs = nowMs + bannedUntilMs - this.#clock.nowMs();
      const isBan = bannedUntilMs > 0;
      if (isBan && !this.#admission.heedBan(wire.remoteAddress, untilMs, nowMs)) return;
      this.#admission.refusals[isBan ? 'banned' : 'pace'] += 1;
      this.destroy(wire);
    });
  }

  #startDue(): void {
    const nowMs = performance.now();
    for (const [slot, wires] of this.#waiting) {
      if (slot * WAIT_SLOT_MS > nowMs) continue;
      this.#waiting.delete(slot);
      this.counters.waiting -= wires.length;
      for (const wire of wires) if (wire.stage === 'wait') this.#start(wire);
    }
    if (this.#waiting.size > 0 || this.#waitTimer === null) return;
    clearInterval(this.#waitTimer);
    this.#waitTimer = null;
  }

  /** Begins (or, after a wait, goes on) to read. */
  #start(wire: Wire): void {
    const isFirst = wire.head.length === 0 && !wire.isProxied;
    wire.stage = 'sniff';
    wire.sinceMs = performance.now();
    if (isFirst && wire.socket.listenerCount('data') === 0) wire.socket.on('data', onData);
    if (wire.head.length > 0) this.#decide(wire);
    if (wire.stage === 'sniff' || wire.stage === 'lines' || wire.stage === 'http') {
      if (!wire.isHalted) wire.socket.resume();
    }
  }

  /** Bytes of a connection, whatever its stage. */
  data(wire: Wire, chunk: Buffer): void {
    if (wire.stage === 'lines') {
      wire.framer!.feed(chunk);
      this.#read(wire);
      return;
    }
    if (wire.stage === 'closing') {
      wire.lingerBytes += chunk.length;
      if (wire.lingerBytes > this.#limits.lingerBytesMax) this.destroy(wire);
      return;
    }
    if (wire.stage === 'gone') return;
    wire.head = wire.head.length === 0 ? chunk : Buffer.concat([wire.head, chunk]);
    if (wire.stage !== 'wait' && wire.stage !== 'handshake') this.#decide(wire);
  }

  /** Acts on the bytes received so far, stage by stage, until more are needed or the protocol is known. */
  #decide(wire: Wire): void {
    if (wire.stage === 'http') this.#answerHttp(wire);
    else if (wire.stage === 'proxy') this.#readProxyHeader(wire);
    else this.#sniff(wire);
  }

  #sniff(wire: Wire): void {
    const sniffed = sniff(wire.head);
    if (sniffed.kind === 'more') {
      if (wire.head.length > 0) wire.head = Uint8Array.from(wire.head);
      return;
    }
    if (sniffed.kind === 'proxy') {
      if (this.#isTrusted(wire.remoteAddress) && !wire.isProxied && !wire.isEncrypted) {
        wire.stage = 'proxy';
        this.#readProxyHeader(wire);
        return;
      }
      this.counters.spoofedProxies++;
      this.#reject(wire, BLAME_SPOOFED_PROXY);
      return;
    }
    // A balancer that does not speak PROXY is judged by its own address.
    if (wire.ticket === null && !this.#admit(wire, performance.now())) return;
    if (wire.ticket === null || wire.stage !== 'sniff' || wire.head.length === 0) return;
    if (sniffed.kind === 'foreign') {
      bump(this.counters.foreign, sniffed.protocol);
      this.#reject(wire, BLAME_WRONG_PROTOCOL);
    } else if (sniffed.kind === 'tls') {
      if (wire.port.tls === 'off' || wire.isEncrypted) this.#rejectTransport(wire);
      else this.#startTls(wire);
    } else if (wire.port.tls === 'only' && !wire.isEncrypted) {
      this.#rejectTransport(wire);
    } else if (sniffed.kind === 'http') {
      wire.stage = 'http';
      this.#answerHttp(wire);
    } else {
      this.#openSession(wire);
    }
  }

  #readProxyHeader(wire: Wire): void {
    const header = decodeProxyHeader(wire.head);
    if (header.kind === 'more') {
      wire.head = Uint8Array.from(wire.head);
      return;
    }
    if (header.kind === 'bad') {
      this.#log.warn('a balancer sent a PROXY header that can not be read', {
        remoteAddress: wire.remoteAddress,
        reason: header.reason,
      });
      this.destroy(wire);
      return;
    }
    this.counters.proxied++;
    wire.isProxied = true;
    wire.head = wire.head.subarray(header.bytes);
    if (header.source !== null) wire.remoteAddress = header.source;
    wire.stage = 'sniff';
    this.#admit(wire, performance.now());
  }

  #isTrusted(address: string): boolean {
    if (this.#options.trustedProxies.length === 0) return false;
    const bytes = decodeIp(address);
    return bytes !== null && isInRanges(bytes, this.#options.trustedProxies);
  }

  #rejectTransport(wire: Wire): void {
    this.counters.wrongTransport++;
    this.#reject(wire, BLAME_WRONG_PROTOCOL);
  }

  #reject(wire: Wire, points: number): void {
    const address = wire.remoteAddress;
    this.destroy(wire);
    this.blame(address, points);
  }

  // ---- TLS -------------------------------------------------------------------------------------------------------

  /** Starts the handshake, or lets it wait its turn while too many are under way. */
  #startTls(wire: Wire): void {
    wire.stage = 'handshake';
    wire.sinceMs = performance.now();
    wire.raw.pause();
    if (this.#mayShakeHands(wire)) this.#shakeHands(wire);
    else this.#handshakesWaiting.push(wire);
  }

  #mayShakeHands(wire: Wire): boolean {
    if (this.counters.handshakesPending >= this.#limits.handshakesMax) return false;
    if (wire.ticket?.isAllowed === true) return true;
    const mine = this.#handshakes.get(wire.remoteAddress) ?? 0;
    return mine < this.#limits.handshakesPerSourceMax;
  }

  #shakeHands(wire: Wire): void {
    const raw = wire.raw;
    raw.removeListener('data', onData);
    // The hello was read already: back into the socket it goes, TLSSocket takes what it finds there first.
    raw.unshift(Buffer.from(wire.head));
    wire.head = NO_BYTES;
    wire.sinceMs = performance.now();
    this.counters.handshakesPending++;
    bump(this.#handshakes, wire.remoteAddress);
    const socket: WiredSocket = new TLSSocket(raw, {
      isServer: true,
      secureContext: this.#certificates!.context,
    });
    socket[WIRE] = wire;
    wire.socket = socket;
    socket.on('error', ignore);
    socket.on('close', onClose);
    socket.once('secure', onSecure);
  }

  secured(wire: Wire): void {
    if (wire.stage !== 'handshake') return;
    wire.isEncrypted = true;
    wire.stage = 'sniff';
    wire.sinceMs = performance.now();
    this.counters.tlsConnections++;
    this.#handshakeOver(wire);
    wire.socket.on('data', onData);
  }

  #handshakeOver(wire: Wire): void {
    this.counters.handshakesPending--;
    const mine = (this.#handshakes.get(wire.remoteAddress) ?? 1) - 1;
    if (mine > 0) this.#handshakes.set(wire.remoteAddress, mine);
    else this.#handshakes.delete(wire.remoteAddress);
    const waiting = this.#handshakesWaiting;
    // At most 64 are looked at; those whose address has its share under way go to the end.
    for (let looks = Math.min(64, waiting.length); looks > 0; looks--) {
      const next = waiting.shift()!;
      if (next.stage !== 'handshake') continue;
      if (!this.#mayShakeHands(next)) {
        waiting.push(next);
        continue;
      }
      this.#shakeHands(next);
      return;
    }
  }

  // ---- HTTP ------------------------------------------------------------------------------------------------------

  #answerHttp(wire: Wire): void {
    const head = Buffer.from(wire.head.buffer, wire.head.byteOffset, wire.head.length);
    const isWhole = head.includes('\r\n\r\n') || head.includes('\n\n');
    if (!isWhole && head.length <= this.#limits.httpBytesMax) {
      wire.head = Uint8Array.from(wire.head);
      return;
    }
    this.counters.httpAnswers++;
    const method = head.subarray(0, 5).toString('latin1');
    wire.head = NO_BYTES;
    if (isWhole && (method.startsWith('GET ') || method === 'HEAD ')) {
      const page =
        'This is a Stratum port of a Headframe mining pool. It speaks to miners, not to browsers.\n' +
        `Point a miner at it: stratum+tcp://<this host>:${wire.raw.localPort ?? wire.port.port}\n`;
      const answer = httpHead('200 OK', page.length) + (method === 'HEAD ' ? '' : page);
      wire.socket.write(answer);
    } else {
      wire.socket.write(httpHead('400 Bad Request', 0));
    }
    this.close(wire);
    this.blame(wire.remoteAddress, BLAME_WRONG_PROTOCOL);
  }

  // ---- lines -----------------------------------------------------------------------------------------------------

  #openSession(wire: Wire): void {
    this.#early.delete(wire);
    wire.stage = 'lines';
    const head = wire.head;
    wire.head = NO_BYTES;
    const framer = new LineFramer();
    wire.framer = framer;
    wire.session = this.#gateway.open(wire, this.#clock.nowMs());
    framer.feed(head);
    this.#read(wire);
  }

  /** Hands one slice of lines to the gateway, then sees to what is left. */
  #read(wire: Wire): void {
    const framer = wire.framer!;
    const session = wire.session!;
    const gateway = this.#gateway;
    const nowMs = this.#clock.nowMs();
    let left = this.#limits.linesPerTurn;
    try {
      while (left > 0 && wire.stage === 'lines' && !session.closed) {
        const text = framer.next(session.lineBytesMax, decodeText);
        if (text === null) break;
        left--;
        gateway.line(session, text, nowMs);
      }
      gateway.flush(session);
    } catch (error) {
      this.#failed(wire, error);
      return;
    }
    const done = this.#limits.linesPerTurn - left;
    wire.lines += done;
    if (wire.stage !== 'lines') return;
    if (framer.fault !== null) {
      this.#fault(wire, framer.fault);
      return;
    }
    if (session.closed) {
      this.close(wire);
      return;
    }
    if (session.proven && wire.ticket !== null && !wire.ticket.isProven) {
      this.#admission.prove(wire.ticket);
    }
    if (framer.pending) {
      this.#halt(wire);
      return;
    }
    if (framer.partialBytes > 0) {
      // A stream whose every chunk ends inside a line is not slow: the clock starts with the line, not with the first.
      if (done > 0 || !this.#partial.has(wire)) wire.sinceMs = performance.now();
      this.#partial.add(wire);
    } else if (this.#partial.size > 0) {
      this.#partial.delete(wire);
    }
    if (wire.lines >= this.#limits.lineBurst && !this.#refill(wire)) {
      this.#halt(wire);
    } else if (wire.isHalted) {
      wire.isHalted = false;
      wire.socket.resume();
    }
  }

  /** Stops reading from the socket until the connection's turn comes again. */
  #halt(wire: Wire): void {
    if (!wire.isHalted) {
      wire.isHalted = true;
      wire.socket.pause();
    }
    if (wire.lines >= this.#limits.lineBurst && !this.#refill(wire)) {
      this.#parked.add(wire);
      return;
    }
    if (wire.isQueued) return;
    wire.isQueued = true;
    this.#backlog.push(wire);
    this.#scheduleBacklog();
  }

  /** Gives a connection back the lines that time has earned it; false while it has none to spend. */
  #refill(wire: Wire): boolean {
    if (wire.ticket?.isAllowed === true) {
      wire.lines = 0;
      return true;
    }
    const nowMs = performance.now();
    const earned = ((nowMs - wire.linesAtMs) * this.#limits.linesPerSecond) / 1_000;
    wire.linesAtMs = nowMs;
    wire.lines = Math.max(0, wire.lines - earned);
    return wire.lines < this.#limits.lineBurst;
  }

  #scheduleBacklog(): void {
    if (this.#isBacklogDue) return;
    this.#isBacklogDue = true;
    setImmediate(() => {
      this.#isBacklogDue = false;
      const due = this.#backlog.splice(0, this.#limits.backlogsPerTurn);
      for (const wire of due) {
        wire.isQueued = false;
        if (wire.stage === 'lines') this.#read(wire);
      }
      if (this.#backlog.length > 0) this.#scheduleBacklog();
    });
  }

  #fault(wire: Wire, fault: FrameFault): void {
    bump(this.counters.faults, fault);
    const session = wire.session!;
    const isAuthorized = session.authorized;
    wire.write(`{"id":null,"result":null,"error":[20,"${FAULT_TEXTS[fault]}",null]}\n`);
    const address = wire.remoteAddress;
    this.close(wire);
    // Points are for strangers: an authorized miner with a bad line loses its own connection, no more.
    if (!isAuthorized) {
      this.blame(address, fault === 'line-too-long' ? BLAME_LONG_LINE : BLAME_FAULT);
    }
  }

  /** A defect of ours met by this connection's input: it loses the connection, the others lose nothing. */
  #failed(wire: Wire, error: unknown): void {
    this.counters.exceptions++;
    this.#log.error('a line broke the gateway; its connection is closed', {
      remoteAddress: wire.remoteAddress,
      error: error instanceof Error ? (error.stack ?? error.message) : String(error),
    });
    this.destroy(wire);
  }

  // ---- the way out -----------------------------------------------------------------------------------------------

  notePending(wire: Wire, bytes: number): void {
    if (bytes > this.#limits.pendingBytesMax) {
      this.counters.slowReaders++;
      this.destroy(wire);
      return;
    }
    if (this.#pending.has(wire)) return;
    this.#pending.add(wire);
    wire.pendingSinceMs = performance.now();
  }

  /** Sends what is pending, then FIN; what the other side still sends is read and thrown away, so that no RST overtakes the answer. */
  close(wire: Wire): void {
    if (wire.stage === 'closing' || wire.stage === 'gone') return;
    this.#dropEarly(wire);
    wire.stage = 'closing';
    wire.sinceMs = performance.now();
    this.#closing.add(wire);
    wire.framer = null;
    wire.socket.end();
    wire.socket.resume();
  }

  destroy(wire: Wire): void {
    if (wire.stage === 'gone') return;
    if (wire.stage !== 'closing') this.#dropEarly(wire);
    wire.stage = 'closing';
    wire.framer = null;
    if (wire.raw.destroyed) return;
    wire.raw.resetAndDestroy();
    if (wire.socket !== wire.raw) wire.socket.destroy();
  }

  /** Leaves the tables of the stages before `lines`. */
  #dropEarly(wire: Wire): void {
    this.#early.delete(wire);
    if (wire.stage !== 'handshake') return;
    if (wire.socket === wire.raw) return;
    wire.stage = 'closing';
    this.counters.tlsFailures++;
    this.#handshakeOver(wire);
  }

  /** The socket is gone. Called for the raw socket and the TLS one over it: the first call counts. */
  gone(wire: Wire): void {
    if (wire.stage === 'gone') return;
    const isTheirs = wire.stage !== 'closing';
    if (isTheirs) this.#dropEarly(wire);
    wire.stage = 'gone';
    wire.framer = null;
    wire.head = NO_BYTES;
    this.#wires.delete(wire);
    this.#early.delete(wire);
    this.#partial.delete(wire);
    this.#pending.delete(wire);
    this.#closing.delete(wire);
    this.#parked.delete(wire);
    this.counters.connections--;
    const session = wire.session;
    if (wire.ticket !== null) {
      if (session?.proven === true) this.#admission.prove(wire.ticket);
      this.#admission.leave(wire.ticket, performance.now());
    }
    if (session !== null) this.#gateway.closed(session, this.#clock.nowMs());
    // A miner with a wrong name is told so and may try again; a connection that never said a line is a probe.
    if (isTheirs && wire.lines === 0 && !this.#isDraining && wire.ticket !== null) {
      this.blame(wire.remoteAddress, BLAME_NOTHING_SAID);
    }
    if (wire.socket !== wire.raw) {
      if (!wire.raw.destroyed) wire.raw.destroy();
      if (!wire.socket.destroyed) wire.socket.destroy();
    }
    if (this.#wires.size === 0) this.#whenEmpty?.();
  }

  /** Four times a second: the gateway's tick, then every deadline of the door. */
  #sweep(): void {
    this.#gateway.tick(this.#clock.nowMs());
    const nowMs = performance.now();
    const limits = this.#limits;
    for (const wire of this.#early) {
      if (wire.stage === 'wait') continue;
      const deadlineMs = this.#earlyDeadlineMs(wire);
      if (nowMs - wire.sinceMs > deadlineMs) this.#timedOut(wire);
    }
    for (const wire of this.#partial) {
      if (nowMs - wire.sinceMs > limits.partialLineTimeoutMs) this.#timedOut(wire);
    }
    for (const wire of this.#pending) {
      if (wire.socket.writableLength === 0) this.#pending.delete(wire);
      else if (nowMs - wire.pendingSinceMs > limits.pendingTimeoutMs) {
        this.counters.slowReaders++;
        this.destroy(wire);
      }
    }
    for (const wire of this.#closing) {
      if (nowMs - wire.sinceMs > limits.lingerMs) this.destroy(wire);
    }
    for (const wire of this.#parked) {
      if (!this.#refill(wire)) continue;
      this.#parked.delete(wire);
      if (wire.stage === 'lines') this.#halt(wire);
    }
  }

  #earlyDeadlineMs(wire: Wire): number {
    const limits = this.#limits;
    if (wire.stage === 'http') return limits.httpTimeoutMs;
    if (wire.stage !== 'handshake') return limits.firstBytesTimeoutMs;
    // Who waits for a handshake of ours waits for us: a farm coming back over TLS takes a while.
    return isWaitingForHandshake(wire) ? limits.handshakeWaitMs : limits.handshakeTimeoutMs;
  }

  #timedOut(wire: Wire): void {
    this.counters.timeouts++;
    const isStranger =
      (wire.session === null || !wire.session.authorized) && !isWaitingForHandshake(wire);
    const address = wire.remoteAddress;
    this.destroy(wire);
    if (isStranger) this.blame(address, BLAME_NOTHING_SAID);
  }

  #acceptFailed(error: Error): void {
    this.counters.acceptErrors++;
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'EMFILE' || code === 'ENFILE') {
      // Out of file handles: existing miners keep theirs, new ones wait.
      this.#acceptAgainMs = performance.now() + 100;
    }
    this.#log.warn('a connection could not be accepted', { code, reason: error.message });
  }
}

/** Its hello has come, but others are shaking hands. */
function isWaitingForHandshake(wire: Wire): boolean {
  return wire.stage === 'handshake' && wire.socket === wire.raw;
}

/** Errors of a socket are followed by its `close`, which is where they are dealt with. */
function ignore(): void {}

/** Text of a line; null when the bytes are not UTF-8. Native ASCII is the way of every real miner. */
function decodeText(bytes: Uint8Array, from: number, to: number, ascii: boolean): string | null {
  if (ascii) return Buffer.prototype.latin1Slice.call(bytes, from, to);
  try {
    return STRICT_UTF8.decode(bytes.subarray(from, to));
  } catch {
    return null;
  }
}

const STRICT_UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function canonical(address: string | undefined): string | null {
  if (address === undefined) return null;
  const zone = address.indexOf('%');
  const bytes = decodeIp(zone < 0 ? address : address.slice(0, zone));
  return bytes === null ? null : encodeIp(bytes);
}

/** Soft limit of open files of this process, or null where the system does not say. */
async function readOpenFilesMax(): Promise<number | null> {
  const text = await readFile('/proc/self/limits', 'latin1').catch(() => '');
  const match = /^Max open files\s+(\d+)/m.exec(text);
  return match === null ? null : Number(match[1]);
}

function bump<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function httpHead(status: string, length: number): string {
  return (
    `HTTP/1.1 ${status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ${length}\r\n` +
    'Cache-Control: no-store\r\nConnection: close\r\n\r\n'
  );
}
