/** A log that keeps its lines, so that a test can ask for them and the terminal stays clean. */
import type { Log } from '../../src/ports.ts';

export type LogLine = {
  level: 'debug' | 'info' | 'warn' | 'error';
  message: string;
  fields: Record<string, unknown>;
};

export function createSilentLog(): Log & { lines: LogLine[] } {
  const lines: LogLine[] = [];
  const bound = (base: Record<string, unknown>): Log => {
    const at = (level: LogLine['level']) => (message: string, fields?: Record<string, unknown>) => {
      lines.push({ level, message, fields: { ...base, ...fields } });
      if (lines.length > 10_000) lines.splice(0, 5_000);
    };
    return {
      debug: at('debug'),
      info: at('info'),
      warn: at('warn'),
      error: at('error'),
      child: (fields) => bound({ ...base, ...fields }),
    };
  };
  return Object.assign(bound({}), { lines });
}
