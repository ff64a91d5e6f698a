/** What a gateway says of itself to the other processes: its workers, and sums over all of them. */
import type { StratumPortReport } from '../messages/service.ts';
import { REJECTED } from '../services/apiserver/fleet.ts';
import type { GatewaySnapshot } from '../services/stratumd/gateway.ts';
import type { GatewayMetrics } from '../services/stratumd/options.ts';
import type { ReportDetail } from './report.ts';

/** Puts the report together. Pure. */
export function describeGateway(gateway: {
  snapshot: GatewaySnapshot;
  metrics: Pick<GatewayMetrics, 'sharesAccepted' | 'sharesRejected'>;
  journalState: string;
  unshippedBytes: number;
  ports: readonly StratumPortReport[];
}): ReportDetail {
  const { snapshot, metrics, journalState, unshippedBytes, ports } = gateway;
  const { workers, height, networkDifficulty, sessions, workState } = snapshot;
  const hashrate = { fiveMinutesHps: 0, hourHps: 0, dayHps: 0 };
  for (const { rates } of workers) {
    hashrate.fiveMinutesHps += rates.fiveMinutesHps;
    hashrate.hourHps += rates.hourHps;
    hashrate.dayHps += rates.dayHps;
  }
  const { sharesAccepted, sharesRejected } = metrics;
  const figures = {
    height,
    networkDifficulty,
    sessions,
    sharesAccepted,
    unshippedBytes,
    ...hashrate,
  };
  return {
    figures: new Map([
      ...Object.entries(figures),
      ...Array.from(sharesRejected, ([reason, count]) => [REJECTED + reason, count] as const),
    ]),
    words: new Map([
      ['work', workState],
      ['journal', journalState],
    ]),
    ports,
    workers,
  };
}
