/**
 * The listening sockets of one Stratum port, and their failures in words that say what to do.
 */
import { createServer, type Server, type Socket } from 'node:net';
import type { PortOptions } from './options.ts';

export type Listeners = { servers: Server[]; port: number };

export type ListenerOptions = {
  /** Connections the kernel may hold until they are accepted, per queue. */
  backlog: number;
  /** Queues on the port; more than one on Linux only. */
  acceptQueues: number;
};

/**
 * Opens the accept queues of one port; `port.port` 0 takes any free one. The kernel bounds each queue at
 * `net.core.somaxconn` (4,096 here) and drops what comes above it for one, three, then seven seconds; when every miner of
 * a pool dials in the same moment, several queues on the same port hold them all. A plain socket goes first, since shared
 * ones would not notice another program there. Rejects with an error for people; nothing stays open then.
 */
export async function openListeners(
  port: PortOptions,
  options: ListenerOptions,
  handlers: { arrive(socket: Socket): void; failed(error: Error): void },
): Promise<Listeners> {
  const servers: Server[] = [];
  try {
    const first = makeServer(handlers);
    await listening(first, port, { number: port.port, backlog: options.backlog, isShared: false });
    const number = portOf(first);
    if (options.acceptQueues <= 1 || process.platform !== 'linux') {
      return { servers: [first], port: number };
    }
    await new Promise((resolve) => first.close(resolve));
    for (let count = 0; count < options.acceptQueues; count++) {
      const server = makeServer(handlers);
      await listening(server, port, { number, backlog: options.backlog, isShared: true });
      servers.push(server);
    }
    return { servers, port: number };
  } catch (error) {
    for (const server of servers) server.close();
    throw listenError(error as NodeJS.ErrnoException, port);
  }
}

function makeServer(handlers: {
  arrive(socket: Socket): void;
  failed(error: Error): void;
}): Server {
  const server = createServer({
    pauseOnConnect: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 60_000,
  });
  server.on('connection', (socket) => handlers.arrive(socket));
  server.on('error', (error) => {
    // Before it listens, an error is the answer to `listen` and is dealt with there.
    if (server.listening) handlers.failed(error);
  });
  return server;
}

function listening(
  server: Server,
  port: PortOptions,
  how: { number: number; backlog: number; isShared: boolean },
): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    const where = port.host === undefined ? {} : { host: port.host };
    const options = { port: how.number, backlog: how.backlog, reusePort: how.isShared, ...where };
    server.listen(options, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** The same failure in words that say what to do. */
function listenError(error: NodeJS.ErrnoException, port: PortOptions): Error {
  const where = port.host === undefined ? `${port.port}` : `${port.port} on ${port.host}`;
  const setting = '(setting LISTEN_PORT or LISTEN_PORTS)';
  if (error.code === 'EADDRINUSE') {
    return new Error(`Stratum port ${where} is in use by another program ${setting}`);
  }
  if (error.code === 'EACCES') {
    return new Error(`Stratum port ${where} may not be opened by this user ${setting}`);
  }
  if (error.code === 'EADDRNOTAVAIL') {
    return new Error(
      `Stratum port ${where}: this machine has no such address (setting LISTEN_ADDR)`,
    );
  }
  return new Error(`Stratum port ${where} can not be opened: ${error.message} ${setting}`);
}
