/**
 * What the tests of the deployment share: files of the repository, the metrics that the program makes, and programs that may be on
 * this machine or not.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { SETTINGS } from '../../src/config/settings.ts';
import { createMetrics } from '../../src/metrics.ts';

export const root = dirname(dirname(import.meta.dirname));

/** What a YAML or JSON file holds: anything, until an assertion says what it is. */
export type Json = ReturnType<JSON['parse']>;

export const readText = (path: string): string => readFileSync(join(root, path), 'utf8');

/** Every document of a YAML file, with merge keys resolved as compose and Kubernetes do. Throws for what is not YAML. */
export function readYaml(text: string): Json[] {
  return parseAllDocuments(text, { merge: true }).map((document) => {
    if (document.errors.length > 0) throw document.errors[0]!;
    return document.toJS({ maxAliasCount: 1_000 }) as Json;
  });
}

/** Every name by which the environment sets something. */
export function settingNames(): Set<string> {
  const names = new Set(['CONFIG_FILE']);
  for (const setting of Object.values(SETTINGS)) {
    names.add(setting.env);
    if ('also' in setting && setting.also !== undefined) names.add(setting.also);
  }
  return names;
}

/** Every metric that the program can show, with the labels that are given to any. */
export async function knownMetrics(): Promise<{ names: Set<string>; labels: Set<string> }> {
  const names = new Set<string>(['up', 'ALERTS']);
  const labels = new Set(['instance', 'job', 'service', 'le', 'version', 'node', 'worker']);
  const page = await createMetrics({}, { workersMax: 0, version: '0' }).scrape();
  for (const [, name] of page.matchAll(/^# TYPE (\S+)/gm)) addFamily(name!);
  function addFamily(name: string): void {
    for (const suffix of ['', '_bucket', '_sum', '_count']) names.add(`${name}${suffix}`);
  }
  for (const file of globSync('src/**/*.ts', { cwd: root })) {
    const text = readText(file);
    for (const [, name] of text.matchAll(/'((?:headframe|stratum)_[a-z0-9_]+)'/g)) addFamily(name!);
    for (const [, name] of text.matchAll(/\bfigure\(\s*'([a-z0-9_]+)'/g))
      names.add(`headframe_${name}`);
    const calls = text.matchAll(
      /meter\s*\.(count|set|observe)\(\s*'([a-z0-9_]+)'([^;]*?(\{[^{}]*\}))?[^;]*?\);/g,
    );
    for (const [, verb, name, , given] of calls) {
      if (verb === 'count') names.add(`headframe_${name}_total`);
      else if (verb === 'set') names.add(`headframe_${name}`);
      else
        for (const end of ['count_total', 'sum_total', 'max'])
          names.add(`headframe_${name}_${end}`);
      for (const [, label] of (given ?? '').matchAll(/(?:^\{|,)\s*([a-z_]+)/g)) labels.add(label!);
    }
    for (const [, given] of text.matchAll(/labels: \{([^{}]*)\}/g))
      for (const [, label] of given!.matchAll(/(?:^|,)\s*([a-z_]+)/g)) labels.add(label!);
  }
  return { names, labels };
}

const WORDS = new Set(
  'and or unless on ignoring group_left group_right by without offset bool inf nan'.split(' '),
);

/** The metrics and the labels that a query asks for. */
export function namesInQuery(query: string): { metrics: string[]; labels: string[] } {
  const labels: string[] = [];
  const rest = query
    .replace(/"[^"]*"/g, '""')
    .replace(/\{([^}]*)\}/g, (_, matchers: string) => {
      for (const [, label] of matchers.matchAll(/([a-z_]+)\s*(?:=|!|~)/g)) labels.push(label!);
      return '';
    })
    .replace(/\b(?:by|without|on|ignoring)\s*\(([^)]*)\)/g, (_, list: string) => {
      labels.push(...list.split(',').map((label) => label.trim()));
      return '';
    })
    .replace(/\[[^\]]*\]/g, '')
    .replace(/\boffset\s+\S+/g, '');
  const metrics = Array.from(
    rest.matchAll(/\b([a-zA-Z_:][a-zA-Z0-9_:]*)\b(?!\s*\()/g),
    ([, name]) => name!,
  ).filter((name) => !WORDS.has(name));
  return { metrics, labels };
}

/** The path of a program: the variable's, else the first in PATH, else null. */
export function findProgram(name: string, variable: string): string | null {
  const given = process.env[variable];
  if (given !== undefined && given !== '') return given;
  for (const folder of (process.env.PATH ?? '').split(delimiter))
    if (folder !== '' && existsSync(join(folder, name))) return join(folder, name);
  return null;
}

/** Runs a program to its end; what it said when it failed is the error. */
export function runProgram(program: string, args: readonly string[], cwd = root): string {
  try {
    return execFileSync(program, args, { cwd, encoding: 'utf8', timeout: 60_000, stdio: 'pipe' });
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    throw new Error(`${program} ${args.join(' ')}: ${stderr ?? ''}${stdout ?? ''}`.slice(0, 4_000));
  }
}

/** The anchors of a page's headings, as GitHub makes them. */
export function anchorsOf(page: string): Set<string> {
  return new Set(
    Array.from(page.matchAll(/^#{1,6} (.+)$/gm), ([, heading]) =>
      heading!
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .trim()
        .replaceAll(' ', '-'),
    ),
  );
}

/** Whether a service of the stack opens the cache that processes share. */
export function usesCache(service: string): boolean {
  return /\bopenCache\(/.test(readText(`src/stack/${service}.ts`));
}
