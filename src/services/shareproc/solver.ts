/**
 * Whole blocks of found headers: the record of the find, which is small, and the transactions of its template, which came before. A
 * record that is no block is refused; one whose job or template does not come within some seconds stays a record, and the gateway's own
 * lane is all it has.
 */
import { assembleBlock } from '../../core/bitcoin/block.ts';
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { addCoinbaseWitness } from '../../core/bitcoin/coinbase.ts';
import { findFault } from '../../core/work/candidate.ts';
import type { BlockCandidate, TemplateBody } from '../../messages/block.ts';
import { decodeTemplateBody, encodeSolvedBlock } from '../../messages/codec.ts';
import type { Log } from '../../ports.ts';
import type { Auditor, KnownJob } from './audit.ts';

export type Solver = {
  addTemplate(value: Uint8Array): void;
  /** A job came: who waits for it looks again. */
  look(): void;
  /** An encoded `SolvedBlock`; null when there is none to be had. Rejects when the solver is stopped meanwhile. */
  solve(candidate: BlockCandidate): Promise<Uint8Array | null>;
  stop(): void;
};

const PATIENCE_MS = 3_000;
/** Full blocks of Bitcoin for some minutes, small ones for as long as their jobs live. */
const TEMPLATES_BYTES_MAX = 96 * 1024 * 1024;
const TEMPLATES_MAX = 512;

export function createSolver(
  tools: { log: Log },
  options: { auditor: Pick<Auditor, 'jobOf'>; patienceMs?: number | undefined },
): Solver {
  const { log } = tools;
  const { auditor, patienceMs = PATIENCE_MS } = options;
  const templates = new Map<string, TemplateBody>();
  /** Who waits for a job or a template. */
  const waiting = new Set<() => void>();
  let bytes = 0;
  let stopped = false;

  function look(): void {
    for (const wake of [...waiting]) wake();
  }

  function keep(template: TemplateBody): void {
    if (templates.has(template.jobId)) return;
    // Copies: a view would keep everything alive that came with it.
    const { previousHash, body } = template;
    templates.set(template.jobId, {
      ...template,
      previousHash: new Uint8Array(previousHash),
      body: new Uint8Array(body),
    });
    bytes += body.length;
    for (const [jobId, old] of templates) {
      if (bytes <= TEMPLATES_BYTES_MAX && templates.size <= TEMPLATES_MAX) break;
      if (jobId === template.jobId) break;
      templates.delete(jobId);
      bytes -= old.body.length;
    }
  }

  function parts(jobId: string): { known: KnownJob; template: TemplateBody } | null {
    const known = auditor.jobOf(jobId);
    const template = templates.get(jobId);
    return known === null || template === undefined ? null : { known, template };
  }

  /** Resolves with job and template as soon as both are there, with null when that takes too long. */
  async function whenKnown(jobId: string): Promise<ReturnType<typeof parts>> {
    const giveUp = new AbortController();
    const timer = setTimeout(() => {
      giveUp.abort();
      look();
    }, patienceMs);
    try {
      for (;;) {
        if (stopped) throw new Error('shareproc is stopped');
        const found = parts(jobId);
        if (found !== null || giveUp.signal.aborted) return found;
        await new Promise<void>((resolve) => {
          const wake = (): void => {
            waiting.delete(wake);
            resolve();
          };
          waiting.add(wake);
        });
      }
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    addTemplate(value) {
      const decoded = decodeTemplateBody(value);
      if (decoded.ok) keep(decoded.value);
      else log.error('A template could not be read.', { reason: decoded.reason });
      look();
    },
    look,
    async solve(candidate) {
      const hash = encodeHexReversed(candidate.headerHash);
      const fields = { hash, jobId: candidate.jobId, height: candidate.height };
      const found = await whenKnown(candidate.jobId);
      if (found === null) {
        log.warn('A found block stays a record: its template did not come.', fields);
        return null;
      }
      const { known, template } = found;
      const fault = findFault(candidate, known.job);
      if (fault !== null) {
        log.error(`A found block is none: ${fault}.`, fields);
        return null;
      }
      const block = assembleBlock({
        header: candidate.header,
        coinbase: template.witness ? addCoinbaseWitness(candidate.coinbase) : candidate.coinbase,
        transactionCount: template.transactionCount,
        body: template.body,
      });
      const { headerHash, height } = candidate;
      return encodeSolvedBlock({ headerHash, height, block });
    },
    stop() {
      stopped = true;
      look();
    },
  };
}
