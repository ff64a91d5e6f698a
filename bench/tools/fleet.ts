/**
 * Thousands of client sockets cheaply. On Linux the sockets are driven straight through libc (`epoll_wait`, `read`, `write`
 * by way of koffi), so that the measuring side costs about 2 us per message instead of the 10 us of a node:net stream and does
 * not drown the server it measures on a two-core machine. Elsewhere the same interface stands on node:net.
 * Loopback only; refuses any other host by construction (it takes no host name, only a port).
 */
import { connect as netConnect, type Socket } from 'node:net';
import koffi from 'koffi';

/**
 * What a fleet tells its owner. `bytes` is only valid during the call; `length` bytes of it are filled. `readyMs` is the monotonic time
 * at which the kernel had said that they were there: with a thousand sockets ready at once, reading them all takes longer than that.
 */
export type FleetEvents = {
  open(id: number): void;
  data(id: number, bytes: Buffer, length: number, readyMs: number): void;
  closed(id: number, reason: string): void;
  /** Once per turn of the loop, for pacing; the loop runs at least once per millisecond. */
  turn?(): void;
  /** Never to sleep: a receiver that sleeps makes the sender pay for waking it, which no remote miner does. */
  isUrgent?(): boolean;
};

/** A set of client sockets to loopback. Ids are small integers that may be used again after `closed`. */
export type Fleet = {
  readonly kind: 'epoll' | 'node';
  /** Starts connecting; `sourceAddress` is an address in 127.0.0.0/8 so that per-address limits see many miners. */
  connect(port: number, sourceAddress: string): number;
  /** Hands `length` bytes to the kernel at once. False when the socket is gone or its buffer is full (then nothing is kept). */
  write(id: number, bytes: Buffer, length: number): boolean;
  /** Closes with FIN. */
  close(id: number): void;
  stop(): void;
};

const READ_BYTES = 1 << 18;
const EVENTS_MAX = 1024;

/** CLOCK_MONOTONIC in milliseconds with nanosecond digits; comparable between processes of one machine. */
export function monotonicMs(): number {
  const [seconds, nanos] = process.hrtime();
  return seconds * 1000 + nanos / 1e6;
}

/** The fast fleet where libc has epoll, else the portable one. `force` picks one for tests. */
export function openFleet(events: FleetEvents, force?: 'epoll' | 'node'): Fleet {
  if (force !== 'node') {
    const fleet = openEpollFleet(events);
    if (fleet !== null) return fleet;
    if (force === 'epoll') throw new Error('epoll is not available here');
  }
  return openNodeFleet(events);
}

function openEpollFleet(events: FleetEvents): Fleet | null {
  if (process.platform !== 'linux') return null;
  let libc: ReturnType<typeof bindLibc>;
  try {
    libc = bindLibc();
  } catch {
    return null;
  }
  const { socket, bindTo, connectTo, epollCreate, epollCtl, epollWait, read, send, closeFd } = libc;
  // struct epoll_event is packed on x86-64 (12 bytes) and naturally aligned elsewhere (16 bytes).
  const eventBytes = process.arch === 'x64' ? 12 : 16;
  const dataAt = process.arch === 'x64' ? 4 : 8;
  const eventList = Buffer.alloc(EVENTS_MAX * eventBytes);
  const eventWords = new DataView(eventList.buffer, eventList.byteOffset, eventList.length);
  const oneEvent = Buffer.alloc(eventBytes);
  const input = Buffer.allocUnsafeSlow(READ_BYTES);
  const epoll = epollCreate(0);
  if (epoll < 0) return null;
  const EPOLLIN = 1;
  const EPOLLOUT = 4;
  const EPOLLERR = 8;
  const EPOLLHUP = 16;
  const ADD = 1;
  const DEL = 2;
  const MOD = 3;
  /** 0 unused, 1 connecting, 2 open. */
  const state = new Uint8Array(65_536);
  let stopped = false;

  function control(op: number, fd: number, mask: number): void {
    oneEvent.fill(0);
    oneEvent.writeUInt32LE(mask, 0);
    oneEvent.writeUInt32LE(fd, dataAt);
    epollCtl(epoll, op, fd, oneEvent);
  }
  function drop(fd: number, reason: string): void {
    if (state[fd] === 0) return;
    state[fd] = 0;
    control(DEL, fd, 0);
    closeFd(fd);
    events.closed(fd, reason);
  }
  function addressOf(address: string, port: number): Buffer {
    const out = Buffer.alloc(16);
    out.writeUInt16LE(2, 0);
    out.writeUInt16BE(port, 2);
    address.split('.').forEach((part, index) => {
      out[4 + index] = Number(part);
    });
    return out;
  }
  function loop(): void {
    if (stopped) return;
    events.turn?.();
    const ready = epollWait(epoll, eventList, EVENTS_MAX, events.isUrgent?.() === true ? 0 : 1);
    const readyMs = ready > 0 ? monotonicMs() : 0;
    for (let i = 0; i < ready; i++) {
      const mask = eventWords.getUint32(i * eventBytes, true);
      const fd = eventWords.getUint32(i * eventBytes + dataAt, true);
      if (state[fd] === 1) {
        if ((mask & (EPOLLERR | EPOLLHUP)) !== 0) {
          drop(fd, 'connect failed');
          continue;
        }
        if ((mask & EPOLLOUT) !== 0) {
          state[fd] = 2;
          control(MOD, fd, EPOLLIN);
          events.open(fd);
        }
        continue;
      }
      if (state[fd] !== 2) continue;
      const count = read(fd, input, READ_BYTES);
      if (count > 0) events.data(fd, input, count, readyMs);
      else if (count === 0) drop(fd, 'closed by server');
      else if ((mask & (EPOLLERR | EPOLLHUP)) !== 0) drop(fd, 'reset by server');
    }
    setImmediate(loop);
  }
  setImmediate(loop);
  return {
    kind: 'epoll',
    connect(port, sourceAddress) {
      // AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
      const fd = socket(2, 1 | 0o4000 | 0o2000000, 0);
      if (fd < 0) throw new Error('socket() failed: raise ulimit -n');
      if (fd >= state.length) throw new Error('more descriptors than the fleet can hold');
      if (sourceAddress !== '127.0.0.1') bindTo(fd, addressOf(sourceAddress, 0), 16);
      state[fd] = 1;
      connectTo(fd, addressOf('127.0.0.1', port), 16);
      control(ADD, fd, EPOLLOUT);
      return fd;
    },
    write(id, bytes, length) {
      if (state[id] !== 2) return false;
      // MSG_NOSIGNAL: a reset peer must not kill the process.
      return send(id, bytes, length, 0x4000) === length;
    },
    close(id) {
      drop(id, 'closed by client');
    },
    stop() {
      stopped = true;
      for (let fd = 0; fd < state.length; fd++) if (state[fd] !== 0) closeFd(fd);
      closeFd(epoll);
    },
  };
}

function bindLibc() {
  const libc = koffi.load(null);
  return {
    socket: libc.func('int socket(int, int, int)') as (a: number, b: number, c: number) => number,
    bindTo: libc.func('int bind(int, void *, uint32_t)') as (
      fd: number,
      address: Buffer,
      length: number,
    ) => number,
    connectTo: libc.func('int connect(int, void *, uint32_t)') as (
      fd: number,
      address: Buffer,
      length: number,
    ) => number,
    epollCreate: libc.func('int epoll_create1(int)') as (flags: number) => number,
    epollCtl: libc.func('int epoll_ctl(int, int, int, void *)') as (
      epoll: number,
      op: number,
      fd: number,
      event: Buffer,
    ) => number,
    epollWait: libc.func('int epoll_wait(int, void *, int, int)') as (
      epoll: number,
      list: Buffer,
      max: number,
      timeoutMs: number,
    ) => number,
    read: libc.func('int64_t read(int, void *, size_t)') as (
      fd: number,
      into: Buffer,
      length: number,
    ) => number,
    send: libc.func('int64_t send(int, void *, size_t, int)') as (
      fd: number,
      from: Buffer,
      length: number,
      flags: number,
    ) => number,
    closeFd: libc.func('int close(int)') as (fd: number) => number,
  };
}

function openNodeFleet(events: FleetEvents): Fleet {
  const sockets = new Map<number, Socket>();
  let nextId = 1;
  const timer = setInterval(() => events.turn?.(), 1);
  return {
    kind: 'node',
    connect(port, sourceAddress) {
      const id = nextId++;
      // Only Linux routes all of 127.0.0.0/8 to loopback without set-up.
      const localAddress = process.platform === 'linux' ? sourceAddress : '127.0.0.1';
      const socket = netConnect({ port, host: '127.0.0.1', localAddress });
      socket.setNoDelay(true);
      sockets.set(id, socket);
      let reason = 'closed by server';
      socket.on('connect', () => events.open(id));
      socket.on('data', (bytes: Buffer) => events.data(id, bytes, bytes.length, monotonicMs()));
      socket.on('error', (error) => {
        reason = error.message;
      });
      socket.on('close', () => {
        if (sockets.delete(id)) events.closed(id, reason);
      });
      return id;
    },
    write(id, bytes, length) {
      const socket = sockets.get(id);
      if (socket === undefined || socket.destroyed) return false;
      // The caller reuses its buffer, a node stream may keep it: copy.
      socket.write(Buffer.from(bytes.subarray(0, length)));
      return true;
    },
    close(id) {
      const socket = sockets.get(id);
      if (socket === undefined) return;
      sockets.delete(id);
      socket.destroy();
      events.closed(id, 'closed by client');
    },
    stop() {
      clearInterval(timer);
      for (const socket of sockets.values()) socket.destroy();
      sockets.clear();
    },
  };
}
