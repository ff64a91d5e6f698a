/**
 * A wire between `pg` and PostgreSQL that can be cut at the worst moment: when COMMIT has been said. Either the server never hears it, or
 * it has committed and its answer is lost; the caller cannot tell the two apart.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import type { Db } from '../../src/ports.ts';
import { createSilentLog } from './silent-log.ts';

export type CommitCut = {
  /** Goes through the wire. */
  db: Db;
  /** The next COMMIT that is said cuts the connection: before the server hears it, or once it has answered. */
  cutNext(when: 'before' | 'after'): void;
  /** Commits that were cut. */
  cuts(): number;
  stop(): Promise<void>;
};

/** `Q`, length 11, "COMMIT", 0: the simple query as the driver sends it. */
const COMMIT = Buffer.concat([
  Buffer.from('Q'),
  Buffer.from([0, 0, 0, 11]),
  Buffer.from('COMMIT\0'),
]);

/** A second way to the database of `direct`: by the socket of a server on this machine, else by the URL of the environment. */
export async function openCommitCut(direct: Db): Promise<CommitCut> {
  const [server] = await direct.query<{
    remote: boolean;
    sockets: string;
    port: string;
    user: string;
    database: string;
  }>(
    `SELECT inet_server_addr() IS NOT NULL AS remote, current_setting('unix_socket_directories') AS sockets,
            current_setting('port') AS port, current_user::text AS user, current_database()::text AS database`,
  );
  if (!server) throw new Error('the server does not say where it is');
  const url = server.remote ? new URL(process.env.DATABASE_URL_TEST as string) : null;
  const connectUpstream = (): Socket =>
    url === null
      ? createConnection(`${server.sockets.split(',')[0]?.trim()}/.s.PGSQL.${server.port}`)
      : createConnection(Number(url.port || 5432), url.hostname);
  const directory = mkdtempSync(join(tmpdir(), 'headframe-cut-'));
  let armed: 'before' | 'after' | null = null;
  let cuts = 0;
  const sockets = new Set<Socket>();
  const wire = createServer((client) => {
    const upstream = connectUpstream();
    let cutting = false;
    const end = (): void => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', end);
      socket.on('close', () => {
        sockets.delete(socket);
        end();
      });
    }
    client.on('data', (bytes: Buffer) => {
      if (armed !== null && bytes.includes(COMMIT)) {
        const when = armed;
        armed = null;
        cuts++;
        if (when === 'before') {
          end();
          return;
        }
        cutting = true;
      }
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      if (cutting) end();
      else client.write(bytes);
    });
  });
  await new Promise<void>((resolve, reject) => {
    wire.once('error', reject);
    if (url === null) wire.listen(join(directory, '.s.PGSQL.5432'), resolve);
    else wire.listen(0, '127.0.0.1', resolve);
  });
  const log = createSilentLog();
  const { user, database } = server;
  let db: Db;
  if (url === null) {
    db = await connectPostgres({ socketDirectory: directory, port: 5432, user, database, log });
  } else {
    const through = new URL(url);
    through.pathname = `/${database}`;
    through.hostname = '127.0.0.1';
    through.port = String((wire.address() as AddressInfo).port);
    db = await connectPostgres({ connectionString: through.href, log });
  }
  return {
    db,
    cutNext(when) {
      armed = when;
    },
    cuts: () => cuts,
    async stop() {
      await db.stop();
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => wire.close(resolve));
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
