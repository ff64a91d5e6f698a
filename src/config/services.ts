/**
 * The services that run as processes of their own over Kafka: what each is for, and which settings it cannot do without. The
 * configuration is checked against this before anything starts, so that a service that lacks one says so in a line.
 */

/** What a service may need. `pools`: whom blocks pay. */
export type Need = 'pools' | 'node' | 'database' | 'influx';

export type Service = {
  /** For the help text. */
  what: string;
  needs: readonly Need[];
};

/** In the order in which a share passes through them. All of them need Kafka. */
export const SERVICES = {
  stratumd: {
    what: 'over Kafka: miners; judges shares, keeps them, hands found blocks to the nodes',
    needs: ['pools', 'node'],
  },
  jobmanager: { what: 'over Kafka: the node side; makes jobs', needs: ['pools', 'node'] },
  shareproc: { what: 'over Kafka: judges shares a second time', needs: ['pools'] },
  blocksubmit: { what: 'over Kafka: found blocks, until they are final', needs: ['node'] },
  statsd: { what: 'over Kafka: shares to InfluxDB', needs: ['influx'] },
  payoutd: {
    what: 'over Kafka: the share log, the ledger and payouts',
    needs: ['pools', 'node', 'database'],
  },
  apiserver: { what: 'over Kafka: status page, JSON, health of all', needs: ['pools', 'database'] },
} as const satisfies Record<string, Service>;

export type ServiceName = keyof typeof SERVICES;

/** Whether a command is one of the services. */
export function isServiceName(name: string): name is ServiceName {
  return Object.hasOwn(SERVICES, name);
}
