/** A door on loopback with a small gateway behind it, and a client that writes bytes and keeps what comes back. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { decodeIpRange } from '../../../src/core/stratum/ip.ts';
import type { Log } from '../../../src/ports.ts';
import { ADMISSION_OPTIONS } from '../../../src/services/stratumd/admission.ts';
import {
  DOOR_LIMITS,
  type Door,
  type DoorLimits,
  type DoorOptions,
  type DoorTools,
  startDoor,
} from '../../../src/services/stratumd/door.ts';
import type { Connection, PortOptions } from '../../../src/services/stratumd/options.ts';
import type { Session } from '../../../src/services/stratumd/session.ts';

export const TLS_DIRECTORY = mkdtempSync(join(tmpdir(), 'headframe-door-'));
process.on('exit', () => rmSync(TLS_DIRECTORY, { recursive: true, force: true }));

export const PORT: PortOptions = {
  port: 0,
  host: '127.0.0.1',
  startDifficulty: 1,
  minDifficulty: 1,
  maxDifficulty: 1,
  tls: 'auto',
};

export const quiet: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child() {
    return quiet;
  },
};

type Used = 'closed' | 'authorized' | 'lineBytesMax' | 'connection' | 'proven' | 'heldCount';
type FakeSession = { -readonly [Key in Used]: Session[Key] };

/** Answers every request with true; authorize raises the line limit; what is not JSON closes. */
export class FakeGateway {
  readonly lines: string[] = [];
  readonly sessions: FakeSession[] = [];
  closedCount = 0;
  drained = 0;

  open(connection: Connection): Session {
    const session: FakeSession = {
      connection,
      closed: false,
      authorized: false,
      proven: false,
      heldCount: 0,
      lineBytesMax: 2_048,
    };
    this.sessions.push(session);
    return session as Session;
  }
  line(session: Session, text: string): void {
    this.lines.push(text);
    let request: { id?: unknown; method?: unknown };
    try {
      request = JSON.parse(text);
    } catch {
      session.connection.write('{"id":null,"result":null,"error":[20,"Parse error",null]}\n');
      session.closed = true;
      session.connection.close('parse error');
      return;
    }
    if (request.method === 'test.throw') throw new Error('asked for');
    if (request.method === 'mining.authorize') {
      session.authorized = true;
      session.lineBytesMax = 8_192;
    }
    session.connection.write(`${JSON.stringify({ id: request.id, result: true, error: null })}\n`);
  }
  flush(): void {}
  closed(session: Session): void {
    session.closed = true;
    this.closedCount++;
  }
  tick(): void {}
  drain(): void {
    this.drained++;
  }
}

export type Rig = { door: Door; gateway: FakeGateway; port: number; stop(): Promise<void> };

const openRigs = new Set<Rig>();

/** Stops what a failed test left open. */
export async function stopRigs(): Promise<void> {
  for (const rig of openRigs) await rig.stop();
}

export async function openRig(
  changes: Partial<Omit<DoorOptions, 'limits' | 'trustedProxies'>> & {
    limits?: Partial<DoorLimits>;
    trustedProxies?: string[];
    gateway?: DoorTools['gateway'];
    log?: Log;
  } = {},
): Promise<Rig> {
  const gateway = new FakeGateway();
  const { trustedProxies = [], limits = {}, log = quiet, gateway: other, ...rest } = changes;
  const door = await startDoor(
    { clock: { nowMs: () => Date.now() }, log, gateway: other ?? gateway },
    {
      ports: [PORT],
      admission: ADMISSION_OPTIONS,
      tls: { files: null, directory: TLS_DIRECTORY },
      ...rest,
      trustedProxies: trustedProxies.map((text) => decodeIpRange(text)!),
      limits: { ...DOOR_LIMITS, ...limits },
    },
  );
  const rig: Rig = {
    door,
    gateway,
    port: door.ports[0]!,
    stop() {
      openRigs.delete(rig);
      return door.stop({ flushMs: 200 });
    },
  };
  openRigs.add(rig);
  return rig;
}

/** A client that remembers. `ended` resolves with how the server hung up. */
export class Client {
  readonly socket: Socket;
  text = '';
  end: 'fin' | 'rst' | null = null;
  readonly ended: Promise<'fin' | 'rst'>;
  #wake: (() => void) | null = null;

  constructor(socket: Socket) {
    this.socket = socket;
    let isFin = false;
    socket.on('data', (chunk) => {
      this.text += chunk.toString('utf8');
      this.#wake?.();
    });
    socket.on('end', () => {
      isFin = true;
    });
    let isError = false;
    socket.on('error', () => {
      isError = true;
    });
    this.ended = new Promise((resolve) => {
      socket.on('close', () => {
        this.end = isFin && !isError ? 'fin' : 'rst';
        this.#wake?.();
        resolve(this.end);
      });
    });
  }

  /** Plain TCP, or TLS when asked; resolves when bytes can be sent. */
  static async open(port: number, tls = false): Promise<Client> {
    const socket = tls
      ? connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false })
      : connect({ host: '127.0.0.1', port });
    socket.setNoDelay(true);
    const client = new Client(socket);
    await new Promise<void>((resolve) => {
      socket.once(tls ? 'secureConnect' : 'connect', () => resolve());
      socket.once('close', () => resolve());
    });
    return client;
  }

  send(data: string | Uint8Array): void {
    if (!this.socket.destroyed) this.socket.write(data);
  }

  /** Waits until what came satisfies the test, the server hung up, or the deadline passes. */
  async until(test: (text: string) => boolean, deadlineMs = 10_000): Promise<boolean> {
    const atMs = Date.now() + deadlineMs;
    while (!test(this.text) && this.end === null && Date.now() < atMs) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.max(1, atMs - Date.now()));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return test(this.text);
  }

  /** Waits for a number of whole lines. */
  lines(count: number, deadlineMs?: number): Promise<boolean> {
    return this.until((text) => text.split('\n').length > count, deadlineMs);
  }

  destroy(): void {
    this.socket.destroy();
  }
}

/** Lets the event loop turn until the test holds or the deadline has passed. */
export async function eventually(test: () => boolean, deadlineMs = 10_000): Promise<boolean> {
  const atMs = Date.now() + deadlineMs;
  while (!test() && Date.now() < atMs) await new Promise((resolve) => setTimeout(resolve, 5));
  return test();
}
