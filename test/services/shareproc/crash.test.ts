/** Promise P01, for real: kill −9 at random moments, then every acknowledged share is in the database, once. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const CHILD = fileURLToPath(new URL('../../tools/store-child.ts', import.meta.url));

/** Runs the child to its end; with `killAfterMs`, kills it that long after it runs, and its server on every other life. */
async function runChild(
  dataDir: string,
  options: { drain?: boolean; killAfterMs?: number; killServer?: boolean },
): Promise<string[]> {
  const child = spawn(process.execPath, [CHILD, dataDir, options.drain ? 'drain' : 'run'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  let armed = false;
  child.stdout.setEncoding('utf8');
  child.stdout.on('data', (text: string) => {
    output += text;
    if (options.killAfterMs === undefined || armed || !/^running$/m.test(output)) return;
    armed = true;
    setTimeout(() => {
      child.kill('SIGKILL');
      if (!options.killServer) return;
      const note = readFileSync(join(dataDir, 'postgres/cluster/postmaster.pid'), 'utf8');
      try {
        process.kill(Number(note.split('\n')[0]), 'SIGKILL');
      } catch {}
    }, options.killAfterMs);
  });
  await new Promise((resolve) => child.once('close', resolve));
  if (options.drain) assert.equal(child.exitCode, 0);
  // A line cut by the kill was not heard.
  return output
    .slice(0, output.lastIndexOf('\n') + 1)
    .split('\n')
    .filter(Boolean);
}

test('no acknowledged share is lost by kill −9, none is stored twice', async (t) => {
  const seed = Math.floor(Math.random() * 1_000);
  t.diagnostic(`seed ${seed}`);
  const dataDir = mkdtempSync(join(tmpdir(), 'headframe-crash-'));
  try {
    const acknowledged = new Set<string>();
    for (let life = 0; life < 3; life++) {
      const lines = await runChild(dataDir, {
        killAfterMs: 100 + ((seed * 7 + life * 131) % 250),
        killServer: life % 2 === 1,
      });
      for (const line of lines) if (line !== 'running') acknowledged.add(line);
    }
    assert.ok(acknowledged.size > 100, `only ${acknowledged.size} acknowledged`);
    const stored = await runChild(dataDir, { drain: true });
    assert.equal(stored.shift(), 'running');
    const [, last, letters] = /^last (\d+) letters (\d+)$/.exec(stored.pop() as string) ?? [];
    assert.equal(letters, '0');
    assert.equal(new Set(stored).size, stored.length, 'stored twice');
    assert.equal(Number(last), stored.length, 'the sequence has a gap');
    const kept = new Set(stored);
    for (const hash of acknowledged) assert.ok(kept.has(hash), `lost ${hash}`);
    t.diagnostic(`${acknowledged.size} acknowledged, ${stored.length} stored`);
  } finally {
    rmSync(dataDir, { recursive: true, force: true });
  }
});
