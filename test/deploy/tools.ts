/**
 * Checkers of other worlds that come from a registry by name and version: fetched once into the folder where Kafka's jars are, with pip or
 * Go where those are on this machine.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { findProgram } from './files.ts';

type Tool = {
  /** Names a program to take in its place. */
  variable: string;
  version: string;
  /** Below its folder. */
  program: string;
  needs: string;
  install: (needed: string, folder: string, version: string) => string[][];
  env?: (folder: string) => Record<string, string>;
};

const TOOLS = {
  // Carries the schemas of all versions of Kubernetes from 1.25.
  'kubernetes-validate': {
    variable: 'KUBERNETES_VALIDATE',
    version: '1.37.0',
    program: 'bin/kubernetes-validate',
    needs: 'python3',
    install: (python, folder, version) => [
      [python, '-m', 'venv', folder],
      [
        join(folder, 'bin/pip'),
        ...['install', '--quiet', '--disable-pip-version-check'],
        `kubernetes-validate==${version}`,
      ],
    ],
  },
  // The loader of `docker compose config`, with the schema of the Compose Specification.
  'compose-go': {
    variable: 'COMPOSE_GO',
    version: '2.9.1',
    program: 'cmd',
    needs: 'go',
    install: (go, _, version) => [
      [go, 'install', `github.com/compose-spec/compose-go/v2/cmd@v${version}`],
    ],
    env: (folder) => ({ GOBIN: folder }),
  },
} as const satisfies Record<string, Tool>;

const TIMEOUT_MS = 300_000;

export type Found = { program: string } | { program: null; why: string };

/** The program, fetched if it has to be; or why there is none. */
export function findTool(name: keyof typeof TOOLS): Found {
  const tool: Tool = TOOLS[name];
  const given = process.env[tool.variable];
  if (given !== undefined && given !== '') return { program: given };
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'headframe');
  const folder = join(cache, `${name}-${tool.version}`);
  const program = join(folder, tool.program);
  if (existsSync(program)) return { program };
  const needed = findProgram(tool.needs, '');
  if (needed === null) return { program: null, why: `there is no ${tool.needs} to fetch it` };
  mkdirSync(folder, { recursive: true });
  for (const [command, ...args] of tool.install(needed, folder, tool.version)) {
    const { status, stdout, stderr, error } = spawnSync(command!, args, {
      encoding: 'utf8',
      timeout: TIMEOUT_MS,
      env: { ...process.env, ...tool.env?.(folder) },
    });
    if (status === 0) continue;
    const said = error?.message ?? `${stderr}${stdout}`.trim().split('\n').at(-1) ?? '';
    return { program: null, why: `${tool.needs} could not fetch it: ${said.slice(0, 200)}` };
  }
  return existsSync(program) ? { program } : { program: null, why: `no ${program} was made` };
}

/** For the name of a test: empty when the tool is there. */
export function sayMissing(found: Found | null): string {
  return found === null || found.program !== null ? '' : ` (NOT FOUND: ${found.why})`;
}
