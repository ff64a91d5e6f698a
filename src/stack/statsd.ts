/**
 * `headframe statsd`: shares to InfluxDB, for charts. Several may run. While InfluxDB is away shares wait in Kafka; nothing of money
 * passes through here.
 */
import { type InfluxOptions, type InfluxSeries, openInflux } from '../adapters/series/influx.ts';
import { StartError } from '../compose.ts';
import { startStatsd as start } from '../services/statsd/statsd.ts';
import { EX_CONFIG, type Frame, openBus, type Service, type ServiceConfig } from './serve.ts';

/** Writes until the frame ends it. */
export async function startStatsd(frame: Frame, config: ServiceConfig): Promise<Service> {
  const { clock, log, meter } = frame;
  const series = openSeries(frame, config);
  if (series === null) throw new StartError('INFLUX_URL is not set', EX_CONFIG);
  const bus = openBus(frame, config, config.instance.gateway);
  frame.watch(() => (series.counts().away === 1 ? ['InfluxDB does not answer'] : []));
  const statsd = await start({ clock, log, bus, series, meter });
  frame.keep('statsd', () => statsd.stop());
  frame.report(() => {
    const { behind, ...counts } = statsd.status();
    return {
      figures: new Map(Object.entries(counts)),
      alarms: behind ? ['InfluxDB does not take what it is given; charts are late'] : [],
    };
  });
  log.info('shares are written to InfluxDB', { url: config.stack.influx?.url ?? '' });
  return {};
}

/** InfluxDB as configured, its counts among the metrics; null without INFLUX_URL. */
export function openSeries(frame: Frame, config: ServiceConfig): InfluxSeries | null {
  const { influx } = config.stack;
  if (influx === null) return null;
  const options: InfluxOptions = {
    url: influx.url,
    org: influx.org,
    bucket: influx.bucket,
    dialect: influx.dialect,
    log: frame.log,
  };
  if (influx.token !== null) options.token = influx.token;
  const series = openInflux(options);
  frame.keep('series', () => series.stop());
  frame.show({
    figures: () => {
      const { dialect: _, bufferedLines, bufferedBytes, away, ...totals } = series.counts();
      return [
        ...Object.entries(totals).map(([what, value]) => ({
          name: 'headframe_series_total',
          help: 'Points for InfluxDB, by what became of them, and requests that failed.',
          kind: 'counter' as const,
          value,
          labels: { what },
        })),
        ...Object.entries({ bufferedLines, bufferedBytes, away }).map(([what, value]) => ({
          name: 'headframe_series',
          help: 'Points that wait for InfluxDB, and whether it is away.',
          kind: 'gauge' as const,
          value,
          labels: { what },
        })),
      ];
    },
  });
  return series;
}
