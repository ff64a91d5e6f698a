/**
 * What a process of the stack says of itself on `service.status`: types, and the way to and from Protobuf. The decoder is total and
 * bounded: any bytes give a value or a reason, and nothing in a value is longer or more than the tables below say.
 */
import $protobuf from 'protobufjs/minimal.js';
import type { Decoded } from './codec.ts';
import { headframe } from './generated/pool.js';

export type WorkerReport = {
  pool: string;
  account: string;
  worker: string;
  agent: string;
  sessions: number;
  accepted: number;
  workAccepted: number;
  rejected: Record<string, number>;
  bestDifficulty: number;
  blocks: number;
  lastShareAtMs: number;
  difficulty: number;
  rates: { fiveMinutesHps: number; hourHps: number; dayHps: number };
};

export type NodeReport = { name: string; health: string; detail: string; blocks: number };

export type StratumPortReport = {
  port: number;
  tls: 'auto' | 'off' | 'only';
  startDifficulty: number;
};

export type ServiceReport = {
  service: string;
  /** No two processes at a time have the same. */
  instance: string;
  version: string;
  startedAtMs: number;
  atMs: number;
  /** It ends in order. */
  ended: boolean;
  /** Empty: it is ready. */
  reasons: readonly string[];
  figures: ReadonlyMap<string, number>;
  words: ReadonlyMap<string, string>;
  alarms: readonly string[];
  nodes: readonly NodeReport[];
  ports: readonly StratumPortReport[];
  workers: readonly WorkerReport[];
};

export const REPORT_LIMITS = {
  reasons: 20,
  figures: 64,
  words: 64,
  alarms: 50,
  nodes: 16,
  ports: 64,
  workers: 1_000,
  rejected: 32,
  /** Of a name; an account may be a split of several addresses. */
  nameChars: 512,
  textChars: 1_024,
} as const;

const v1 = headframe.v1.ServiceStatus;

/** Encodes a report, cut to the limits. Never fails. */
export function encodeServiceReport(report: ServiceReport): Uint8Array {
  const { reasons, figures, words, alarms, nodes, ports, workers } = report;
  return v1
    .encode(
      v1.create({
        service: name(report.service),
        instance: name(report.instance),
        version: name(report.version),
        startedAtMs: whole(report.startedAtMs),
        atMs: whole(report.atMs),
        ended: report.ended,
        reasons: reasons.slice(0, REPORT_LIMITS.reasons).map(text),
        figures: pairs(figures, REPORT_LIMITS.figures),
        words: Array.from(words, ([key, value]) => ({ name: name(key), value: text(value) })).slice(
          0,
          REPORT_LIMITS.words,
        ),
        alarms: alarms.slice(0, REPORT_LIMITS.alarms).map(text),
        nodes: nodes.slice(0, REPORT_LIMITS.nodes).map((node) => ({
          name: name(node.name),
          health: name(node.health),
          detail: text(node.detail),
          blocks: whole(node.blocks),
        })),
        ports: ports.slice(0, REPORT_LIMITS.ports),
        workers: workers.slice(0, REPORT_LIMITS.workers).map((worker) => ({
          pool: name(worker.pool),
          account: name(worker.account),
          worker: name(worker.worker),
          agent: name(worker.agent),
          sessions: whole(worker.sessions),
          accepted: whole(worker.accepted),
          workAccepted: finite(worker.workAccepted),
          rejected: pairs(Object.entries(worker.rejected), REPORT_LIMITS.rejected),
          bestDifficulty: finite(worker.bestDifficulty),
          blocks: whole(worker.blocks),
          lastShareAtMs: whole(worker.lastShareAtMs),
          difficulty: finite(worker.difficulty),
          fiveMinutesHps: finite(worker.rates.fiveMinutesHps),
          hourHps: finite(worker.rates.hourHps),
          dayHps: finite(worker.rates.dayHps),
        })),
      }),
    )
    .finish();
}

/** Decodes a report. Refuses one that does not say who it is from, or is larger than a report can be. */
export function decodeServiceReport(bytes: Uint8Array): Decoded<ServiceReport> {
  let message: headframe.v1.ServiceStatus;
  try {
    message = v1.decode($protobuf.Reader.create(bytes)) as headframe.v1.ServiceStatus;
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : String(error) };
  }
  if (message.service === '' || message.instance === '')
    return { ok: false, reason: 'a report does not say who it is from' };
  for (const list of [
    'reasons',
    'figures',
    'words',
    'alarms',
    'nodes',
    'ports',
    'workers',
  ] as const) {
    if (message[list].length > REPORT_LIMITS[list])
      return { ok: false, reason: `a report lists too many ${list}` };
  }
  return {
    ok: true,
    value: {
      service: name(message.service),
      instance: name(message.instance),
      version: name(message.version),
      startedAtMs: count(message.startedAtMs),
      atMs: count(message.atMs),
      ended: message.ended,
      reasons: message.reasons.map(text),
      figures: mapOf(message.figures, finite),
      words: mapOf(message.words, text),
      alarms: message.alarms.map(text),
      nodes: message.nodes.map((node) => ({
        name: name(node.name ?? ''),
        health: name(node.health ?? ''),
        detail: text(node.detail ?? ''),
        blocks: node.blocks ?? 0,
      })),
      ports: message.ports.map((port) => ({
        port: port.port ?? 0,
        tls: port.tls === 'off' || port.tls === 'only' ? port.tls : 'auto',
        startDifficulty: finite(port.startDifficulty),
      })),
      workers: message.workers.map((worker) => ({
        pool: name(worker.pool ?? ''),
        account: name(worker.account ?? ''),
        worker: name(worker.worker ?? ''),
        agent: name(worker.agent ?? ''),
        sessions: worker.sessions ?? 0,
        accepted: count(worker.accepted),
        workAccepted: finite(worker.workAccepted),
        rejected: Object.fromEntries(
          mapOf((worker.rejected ?? []).slice(0, REPORT_LIMITS.rejected), finite),
        ),
        bestDifficulty: finite(worker.bestDifficulty),
        blocks: worker.blocks ?? 0,
        lastShareAtMs: count(worker.lastShareAtMs),
        difficulty: finite(worker.difficulty),
        rates: {
          fiveMinutesHps: finite(worker.fiveMinutesHps),
          hourHps: finite(worker.hourHps),
          dayHps: finite(worker.dayHps),
        },
      })),
    },
  };
}

function pairs(
  entries: Iterable<readonly [string, number]>,
  entriesMax: number,
): { name: string; value: number }[] {
  const found: { name: string; value: number }[] = [];
  for (const [key, value] of entries) {
    if (found.length >= entriesMax) break;
    found.push({ name: name(key), value: finite(value) });
  }
  return found;
}

function mapOf<Value, Kept>(
  entries: readonly { name?: string | null; value?: Value | null }[],
  keep: (value: Value | null | undefined) => Kept,
): Map<string, Kept> {
  return new Map(entries.map((entry) => [name(entry.name ?? ''), keep(entry.value)]));
}

function name(value: string): string {
  return value.toWellFormed().slice(0, REPORT_LIMITS.nameChars);
}

function text(value: string | null | undefined): string {
  return (value ?? '').toWellFormed().slice(0, REPORT_LIMITS.textChars);
}

function finite(value: number | null | undefined): number {
  return Number.isFinite(value) ? (value as number) : 0;
}

function whole(value: number): number {
  return Math.max(0, Math.trunc(finite(value)));
}

/** A varint of 64 bits as a number; people read it, so the last bit does not matter. */
function count(value: number | { low: number; high: number } | null | undefined): number {
  if (value === null || value === undefined) return 0;
  return typeof value === 'number' ? value : (value.high >>> 0) * 2 ** 32 + (value.low >>> 0);
}
