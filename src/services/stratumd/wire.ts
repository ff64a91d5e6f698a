/**
 * One connection of the door: the socket, where it stands on its way in, and what the gateway sees of it. Kept small on
 * purpose, there are ten thousand: no timer, no closure, no buffer while it is idle.
 */
import type { Buffer } from 'node:buffer';
import type { Socket } from 'node:net';
import type { LineFramer } from '../../core/stratum/framing.ts';
import type { Ticket } from './admission.ts';
import type { Connection, PortOptions } from './options.ts';
import type { Session } from './session.ts';

/** Where a connection stands. `wait`: let in, but its turn has not come; `closing`: nothing it sends is handled any more. */
export type Stage =
  | 'wait'
  | 'sniff'
  | 'proxy'
  | 'handshake'
  | 'http'
  | 'lines'
  | 'closing'
  | 'gone';

/** The property of a socket that leads to its connection. */
export const WIRE = Symbol('wire');
/** A socket of the door: plain, or the TLS socket over it. */
export type WiredSocket = Socket & { [WIRE]?: Wire };

/** What a connection asks of the door that keeps it. */
export type WireKeeper = {
  notePending(wire: Wire, bytes: number): void;
  close(wire: Wire): void;
  destroy(wire: Wire): void;
  /** The socket's events, for all connections the same three functions. */
  data(wire: Wire, chunk: Buffer): void;
  secured(wire: Wire): void;
  gone(wire: Wire): void;
};

/** What a connection holds while it holds nothing. */
export const NO_BYTES: Uint8Array = new Uint8Array(0);

/** One socket. Implements what the gateway sees of it. */
export class Wire implements Connection {
  remoteAddress: string;
  readonly port: PortOptions;
  readonly hall: WireKeeper;
  readonly raw: WiredSocket;
  socket: WiredSocket;
  stage: Stage = 'wait';
  /** When the stage began; in stage `lines`, when the unfinished line began. Monotonic. */
  sinceMs: number;
  pendingSinceMs = 0;
  /** Bytes received before the protocol is known. */
  head: Uint8Array = NO_BYTES;
  framer: LineFramer | null = null;
  session: Session | null = null;
  ticket: Ticket | null = null;
  isEncrypted = false;
  isProxied = false;
  isQueued = false;
  isHalted = false;
  lingerBytes = 0;
  lines = 0;
  linesAtMs = 0;

  constructor(
    hall: WireKeeper,
    socket: WiredSocket,
    port: PortOptions,
    address: string,
    nowMs: number,
  ) {
    this.hall = hall;
    this.raw = socket;
    this.socket = socket;
    this.port = port;
    this.remoteAddress = address;
    this.sinceMs = nowMs;
    this.linesAtMs = nowMs;
  }

  /** True while earlier writes have not reached the kernel: a newer job may replace an older one. */
  get congested(): boolean {
    return this.socket.writableLength > 0;
  }

  write(data: string | Uint8Array): void {
    if (this.stage !== 'lines') return;
    // Lines are plain ASCII (`core/stratum/reply.ts`), so this is the encoding without a conversion.
    if (typeof data === 'string') this.socket.write(data, 'latin1');
    else this.socket.write(data);
    const pending = this.socket.writableLength;
    if (pending > 0) this.hall.notePending(this, pending);
  }

  close(_reason: string): void {
    this.hall.close(this);
  }

  destroy(_reason: string): void {
    this.hall.destroy(this);
  }
}

/** Listener for `data`: bytes, decrypted where there is TLS. */
export function onData(this: WiredSocket, chunk: Buffer): void {
  const wire = this[WIRE]!;
  wire.hall.data(wire, chunk);
}

/** Listener for `secure`: the handshake is done. */
export function onSecure(this: WiredSocket): void {
  const wire = this[WIRE]!;
  wire.hall.secured(wire);
}

/** Listener for `close`: the socket is gone. */
export function onClose(this: WiredSocket): void {
  const wire = this[WIRE]!;
  wire.hall.gone(wire);
}
