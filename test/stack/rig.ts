/** Services as processes over a real broker, on one node; for tests of gateways and job managers. */
import { join } from 'node:path';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { freePorts, PoolProcess, type ProgramPorts } from '../tools/pool-process.ts';
import type { RegtestNode } from '../tools/regtest-node.ts';

export const POOL_ADDRESS = encodeAddress(
  Uint8Array.of(0, 20, ...new Array<number>(20).fill(3)),
  'regtest',
)!;

export type ServiceOptions = {
  dataDir: string;
  brokers: readonly string[];
  node: Pick<RegtestNode, 'settings'>;
  instance?: number;
  env?: Record<string, string>;
  ports?: ProgramPorts;
};

/** Starts a service; it may take its time to be ready. */
export async function startService(
  service: 'stratumd' | 'jobmanager',
  options: ServiceOptions,
): Promise<PoolProcess> {
  const ports = options.ports ?? (await freePorts());
  const env = {
    NETWORK: 'regtest',
    POOL_ADDRESS,
    DATA_DIR: join(options.dataDir, `${service}-${options.instance ?? 'own'}`),
    LISTEN_ADDR: '127.0.0.1',
    LISTEN_PORT: String(ports.stratum),
    METRICS_PORT: String(ports.metrics),
    METRICS_ADDR: '127.0.0.1',
    KAFKA_BROKERS: options.brokers.join(','),
    // Every share of this difficulty is a block of regtest: some ten milliseconds of search.
    MIN_DIFFICULTY: '0.00001',
    INITIAL_DIFFICULTY: '0.00001',
    ...(options.instance === undefined ? {} : { INSTANCE_ID: String(options.instance) }),
    ...options.node.settings,
    ...options.env,
  };
  return new PoolProcess([service], env, ports);
}

/** Asks `/ready` until it is as wanted, and gives the reasons it names. */
export async function untilReady(
  service: PoolProcess,
  isWanted = true,
  limitMs = 120_000,
): Promise<string[]> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    let last = 'no answer';
    try {
      const response = await service.get('metrics', '/ready');
      const { reasons } = (await response.json()) as { reasons: string[] };
      if (response.ok === isWanted) return reasons;
      last = `${response.status} ${reasons.join('; ')}`;
    } catch (error) {
      last = String(error);
    }
    if (service.hasExited) throw new Error(`ended with ${service.exitCode}\n${service.tail()}`);
    if (performance.now() > endMs) throw new Error(`/ready: ${last}\n${service.tail()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
