/**
 * PostgreSQL by the binaries of the machine (Debian: package `postgresql`), on the loopback, with a password. It refuses to run as root:
 * where we are root it runs as an unprivileged user, from a folder that user can reach.
 */
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import {
  findFreePort,
  findProgram,
  NotFoundError,
  runToEnd,
  type Started,
  startServer,
  waitFor,
} from './server.ts';

const USERS = ['postgres', 'nobody'];
const NAME = 'headframe';

export async function startPostgres(directory: string, port?: number): Promise<Started> {
  const folders = globSync('/usr/lib/postgresql/*/bin').sort(
    (a, b) => Number(b.split('/').at(-2)) - Number(a.split('/').at(-2)),
  );
  const initdb = findProgram('initdb', folders);
  if (initdb === null) throw new NotFoundError('PostgreSQL was not found: there is no initdb');
  const bin = dirname(initdb);
  const owner = process.getuid?.() === 0 ? findOwner() : null;
  const home = owner === null || isReachable(directory) ? directory : elsewhere(directory);
  const data = join(home, 'data');
  const logFile = join(home, 'postgres.log');
  const passwordFile = join(home, 'password');
  mkdirSync(home, { recursive: true });
  if (!existsSync(passwordFile)) {
    writeFileSync(passwordFile, randomBytes(16).toString('hex'), { mode: 0o600 });
    writeFileSync(logFile, '');
  }
  if (owner !== null) {
    chmodSync(home, 0o755);
    for (const path of [home, passwordFile, logFile]) chownSync(path, owner.uid, owner.gid);
  }
  const run = (file: string, args: readonly string[]) => ({
    file,
    args,
    logFile,
    directory: home,
    environment: { LC_ALL: 'C' },
    ...(owner ?? {}),
  });
  if (!existsSync(join(data, 'PG_VERSION'))) {
    // What is left of a creation that was cut short.
    rmSync(data, { recursive: true, force: true });
    await runToEnd(
      run(initdb, [
        '--pgdata',
        data,
        '--username',
        NAME,
        '--auth=scram-sha-256',
        `--pwfile=${passwordFile}`,
        '--encoding=UTF8',
        '--locale=C',
      ]),
    );
  }
  const chosen = port ?? (await findFreePort());
  const child = startServer(
    run(join(bin, 'postgres'), [
      '-D',
      data,
      '-p',
      String(chosen),
      '-k',
      home,
      '-c',
      'listen_addresses=127.0.0.1',
    ]),
  );
  const isReady = async (): Promise<boolean> =>
    spawnSync(join(bin, 'pg_isready'), ['-q', '-h', '127.0.0.1', '-p', String(chosen)]).status ===
    0;
  await waitFor('PostgreSQL', child, logFile, isReady);
  const password = readFileSync(passwordFile, 'utf8').trim();
  return {
    name: 'postgres',
    pid: child.pid as number,
    // Fast shutdown: sessions are ended, everything is written.
    signal: 'SIGINT',
    logFile,
    folders: [home],
    environment: {
      DATABASE_URL: `postgres://${NAME}:${password}@127.0.0.1:${chosen}/postgres`,
    },
  };
}

function findOwner(): { uid: number; gid: number } {
  for (const user of USERS) {
    const [uid, gid] = ['-u', '-g'].map((flag) =>
      Number.parseInt(spawnSync('id', [flag, user], { encoding: 'utf8' }).stdout, 10),
    );
    if (uid !== undefined && gid !== undefined && uid > 0) return { uid, gid };
  }
  throw new NotFoundError('PostgreSQL does not run as root, and there is no other user');
}

/** Everybody may pass through every folder above it. */
function isReachable(directory: string): boolean {
  for (let at = dirname(directory); ; at = dirname(at)) {
    if (existsSync(at) && (statSync(at).mode & 0o001) === 0) return false;
    if (at === dirname(at)) return true;
  }
}

function elsewhere(directory: string): string {
  const name = createHash('sha256').update(directory).digest('hex').slice(0, 12);
  return join(tmpdir(), `headframe-stack-${name}`);
}
