#!/usr/bin/env node
/**
 * The front door of every npm command: does the set-up that is missing, says so, and hands over to the pinned Node.
 * Plain JavaScript for Node 18 and later, because it is what runs before anything newer is there.
 *
 *   node scripts/run.mjs [command …]     the program: start, doctor, devnet …
 *   node scripts/run.mjs --test [file …] the tests        --sim [money]  the simulations     --check   types, lint, schema
 *   node scripts/run.mjs --bench         the benchmarks   --stack up|down  real servers for the services, on loopback
 *
 * Set-up is `npm ci` into node_modules when that is missing or older than package-lock.json; nothing global, no network once
 * it is done. Two commands at once wait for one set-up.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { constants } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, 'node_modules');
const bin = join(modules, '.bin');
const stampFile = join(modules, '.headframe-setup');
const lock = join(root, '.headframe-setup.lock');
const pinned = join(bin, process.platform === 'win32' ? 'node.exe' : 'node');
const MAJOR_MIN = 24;
const LOCK_STALE_MS = 60_000;

const say = (text) => process.stderr.write(`headframe: ${text}\n`);

await main(process.argv.slice(2));

async function main(argv) {
  await setUp();
  const [first, ...rest] = argv;
  // Its flag must be there when V8 starts.
  if (first === '--bench')
    return spawnNode(chooseNode(), ['--expose-gc', join(root, 'bench', 'main.ts'), ...rest]);
  if (Number(process.versions.node.split('.')[0]) < MAJOR_MIN) {
    return spawnNode(chooseNode(), [fileURLToPath(import.meta.url), ...argv]);
  }
  endWithParent();
  process.env.PATH = `${bin}${delimiter}${process.env.PATH ?? ''}`;
  if (first === '--test') return runHere('scripts/test.ts', rest);
  if (first === '--sim')
    return runHere(
      rest[0] === 'money' ? 'test/sim/money/run.ts' : 'test/sim/run.ts',
      rest[0] === 'money' ? rest.slice(1) : rest,
    );
  if (first === '--stack') return runHere('scripts/stack.ts', rest);
  if (first === '--check') return runHere('scripts/check.ts', rest);
  return runHere('src/main.ts', argv);
}

/** The program in this very process: nothing between it and who started it. */
async function runHere(file, argv) {
  const path = join(root, file);
  process.argv = [process.argv[0], path, ...argv];
  await import(pathToFileURL(path).href);
}

/**
 * The Node or npm that started us may be killed in a way that tells us nothing. A pool that nobody can stop by stopping its
 * command, and that holds the ports against the next one, is worse than one that ends in order.
 */
function endWithParent() {
  const end = () => process.kill(process.pid, 'SIGTERM');
  if (process.channel) {
    process.channel.unref();
    process.once('disconnect', end);
  } else if (process.env.npm_lifecycle_event !== undefined) {
    const startedBy = ancestors();
    const timer = setInterval(() => {
      if (ancestors() === startedBy) return;
      clearInterval(timer);
      end();
    }, 250);
    timer.unref();
  }
}

/** Our parent, and above it npm where npm has put a shell between. What started npm may end as it likes. */
function ancestors() {
  const parent = process.ppid;
  try {
    // pid (name) state ppid …
    const [, name, above] =
      /^\d+ \((.*)\) \S (\d+)/s.exec(readFileSync(`/proc/${parent}/stat`, 'utf8')) ?? [];
    return /^(sh|dash|bash|ash|zsh)$/.test(name) ? `${parent} ${above}` : String(parent);
  } catch {
    // Not Linux, or gone this moment.
    return String(parent);
  }
}

/** What the lock file asks for, and for which machine: node_modules of another machine would not do. */
function wantedStamp() {
  const hash = createHash('sha256').update(readFileSync(join(root, 'package-lock.json')));
  return `${hash.digest('hex')} ${process.platform} ${process.arch}\n`;
}

function isSetUp() {
  try {
    return readFileSync(stampFile, 'utf8') === wantedStamp() && existsSync(pinned);
  } catch {
    return false;
  }
}

async function setUp() {
  if (isSetUp() || adopt()) return;
  let said = false;
  while (!takeLock()) {
    if (!said) say('another command is setting up; waiting for it');
    said = true;
    await new Promise((resolve) => setTimeout(resolve, 500));
    if (isSetUp()) return;
  }
  const alive = setInterval(() => {
    try {
      utimesSync(lock, new Date(), new Date());
    } catch {
      // Gone: whoever took it away will find the stamp or set up again.
    }
  }, 5_000);
  const letGo = () => rmSync(lock, { recursive: true, force: true });
  try {
    if (isSetUp()) return;
    say(
      existsSync(modules)
        ? 'dependencies have changed: installing what package-lock.json names (about a minute)'
        : 'first run: installing dependencies from package-lock.json into node_modules (about a minute)',
    );
    const startedMs = Date.now();
    const code = await install();
    if (code !== 0) {
      say(
        `npm ci ended with code ${code}; nothing was started. Without network, set up once where there is one.`,
      );
      letGo();
      process.exit(1);
    }
    writeFileSync(stampFile, wantedStamp());
    say(`set-up done in ${Math.round((Date.now() - startedMs) / 1000)} s; it is not needed again`);
  } finally {
    clearInterval(alive);
    letGo();
  }
}

/** node_modules that somebody made with `npm ci` or `npm install` themselves, newer than the lock file and with our Node. */
function adopt() {
  try {
    const made = statSync(join(modules, '.package-lock.json')).mtimeMs;
    if (made < statSync(join(root, 'package-lock.json')).mtimeMs) return false;
    if (!existsSync(pinned) || spawnSync(pinned, ['--version']).status !== 0) return false;
    writeFileSync(stampFile, wantedStamp());
    return true;
  } catch {
    return false;
  }
}

/** A folder is made by one only. A lock that nobody has touched for a minute was left behind. */
function takeLock() {
  try {
    mkdirSync(lock);
    return true;
  } catch {
    try {
      if (Date.now() - statSync(lock).mtimeMs > LOCK_STALE_MS)
        rmSync(lock, { recursive: true, force: true });
    } catch {
      // Another was quicker.
    }
    return false;
  }
}

/** `npm ci`, by the npm that called us where one did. Its own output goes to standard error. */
function install() {
  const npm = process.env.npm_execpath;
  const args = ['ci', '--no-audit', '--no-fund', '--loglevel=error'];
  const env = { ...process.env };
  // Set by npm for its scripts; a nested npm takes them for its own settings.
  for (const name of Object.keys(env)) {
    if (/^npm_(package|lifecycle|command)/i.test(name)) delete env[name];
  }
  const isScript = npm !== undefined && /\.c?js$/.test(npm);
  const child = isScript
    ? spawn(process.execPath, [npm, ...args], { cwd: root, env, stdio: ['ignore', 2, 2] })
    : spawn('npm', args, {
        cwd: root,
        env,
        stdio: ['ignore', 2, 2],
        shell: process.platform === 'win32',
      });
  return new Promise((resolve) => {
    child.on('error', (error) => {
      say(`npm could not be started: ${error.message}`);
      resolve(127);
    });
    child.on('exit', (code) => resolve(code ?? 1));
  });
}

/** The pinned Node; the machine's own only where npm has none for it and it is new enough. */
function chooseNode() {
  if (existsSync(pinned)) return pinned;
  if (Number(process.versions.node.split('.')[0]) >= MAJOR_MIN) return process.execPath;
  say(
    `there is no Node for ${process.platform} ${process.arch} among the dependencies, and this one is ${process.version}: install Node ${MAJOR_MIN} or later`,
  );
  process.exit(1);
}

/** Runs a newer Node in our place: same terminal, signals handed on, its exit code ours, and it ends when we do. */
function spawnNode(node, args) {
  const child = spawn(node, args, { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] });
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGUSR2'])
    process.on(signal, () => child.kill(signal));
  // ^C at a terminal reaches the whole group, and so the child as well. Without a terminal it does not.
  process.on('SIGINT', () => {
    if (!process.stdin.isTTY) child.kill('SIGINT');
  });
  child.on('error', (error) => {
    say(`${node} could not be started: ${error.message}`);
    process.exit(126);
  });
  child.on('exit', (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
}
