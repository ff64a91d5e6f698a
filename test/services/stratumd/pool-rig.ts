/** The real gateway behind the real door on loopback, with a journal in memory and a job no miner of ours solves. */
import { decodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { decodeBits } from '../../../src/core/bitcoin/target.ts';
import { SESSION_LIMITS, type SessionLimits } from '../../../src/core/stratum/limits.ts';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import type { Job } from '../../../src/core/work/job.ts';
import { VARDIFF_POLICY } from '../../../src/core/work/vardiff.ts';
import type { BlockCandidate } from '../../../src/messages/block.ts';
import { Gateway } from '../../../src/services/stratumd/gateway.ts';
import {
  createGatewayMetrics,
  type GatewayMetrics,
  type PortOptions,
} from '../../../src/services/stratumd/options.ts';
import { openRig, PORT, quiet, type Rig } from './door-rig.ts';

const SCRIPT = decodeHex('0014751e76e8199196d454941c45d1b3a323f1433bd6')!;
export const ADDRESS = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';

export type Pool = {
  rig: Rig;
  port: number;
  gateway: Gateway;
  metrics: GatewayMetrics;
  records: Uint8Array[];
  candidates: BlockCandidate[];
  newJob(changes?: Partial<Job>): void;
  stop(): Promise<void>;
};

export function makeJob(jobId: string, changes: Partial<Job> = {}): Job {
  const bits = changes.bits ?? 0x1d00ffff;
  const nowSeconds = Math.floor(Date.now() / 1_000);
  return {
    jobId,
    height: 200,
    version: 0x20000000,
    previousHash: Uint8Array.from({ length: 32 }, (_, i) => (i < 24 ? i + 1 : 0)),
    bits,
    networkTarget: decodeBits(bits)!,
    curtime: nowSeconds,
    mintime: nowSeconds - 3_600,
    branch: [new Uint8Array(32).fill(7), new Uint8Array(32).fill(9)],
    coinbaseValueSats: 5_000_000_000n,
    coinbaseAux: new Uint8Array(0),
    witnessCommitment: decodeHex(`6a24aa21a9ed${'5a'.repeat(32)}`),
    coinbaseWeightMax: 4_000,
    feesSats: 0n,
    transactionCount: 2,
    clean: true,
    createdAtMs: Date.now(),
    ...changes,
  };
}

export async function openPool(
  changes: {
    port?: Partial<PortOptions>;
    limits?: Partial<SessionLimits>;
    door?: Parameters<typeof openRig>[0];
  } = {},
): Promise<Pool> {
  const metrics = createGatewayMetrics();
  const records: Uint8Array[] = [];
  const candidates: BlockCandidate[] = [];
  let rig: Rig | null = null;
  const gateway = new Gateway(
    {
      log: quiet,
      metrics,
      hash: foldInTypescript,
      journal: {
        append(record) {
          records.push(record);
          return records.length;
        },
        state: () => 'ok',
      },
      lane: {
        submit: (candidate, onKept) => {
          candidates.push(candidate);
          onKept();
        },
      },
      defer: (work) => void setImmediate(work),
      persistLease() {},
      randomBytes: (count) => crypto.getRandomValues(new Uint8Array(count)),
      blame: (address, points) => rig?.door.blame(address, points),
    },
    {
      network: 'regtest',
      pools: [{ id: 'main', coinbase: { mode: 'pool', script: SCRIPT, address: ADDRESS } }],
      coinbaseTag: '/test/',
      gateway: 'test',
      versionMask: 0x1fffe000,
      instancePrefix: 0,
      instancePrefixBits: 0,
      extranonceHighWater: 0,
      ack: 'memory',
      vardiff: VARDIFF_POLICY,
      limits: { ...SESSION_LIMITS, ...changes.limits },
    },
  );
  let jobs = 0;
  function newJob(jobChanges: Partial<Job> = {}): void {
    jobs++;
    gateway.setJob(makeJob((0x100 + jobs).toString(16).padStart(8, '0'), jobChanges), Date.now());
  }
  newJob();
  rig = await openRig({
    ports: [{ ...PORT, ...changes.port }],
    ...changes.door,
    gateway,
  });
  return { rig, port: rig.port, gateway, metrics, records, candidates, newJob, stop: rig.stop };
}
