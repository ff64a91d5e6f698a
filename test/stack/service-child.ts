/** One service as a process: `service-child.ts stratumd`, with settings from the environment. */
import { readLocalFile } from '../../src/config/file.ts';
import { readConfig } from '../../src/config.ts';
import { createLog } from '../../src/log.ts';
import { startJobmanagerd } from '../../src/stack/jobmanager.ts';
import { type ServiceConfig, serve } from '../../src/stack/serve.ts';
import { startStratumd } from '../../src/stack/stratumd.ts';

const service = process.argv[2] as 'stratumd' | 'jobmanager';
const answer = readConfig({
  service,
  argv: process.argv.slice(3),
  env: process.env,
  readFile: readLocalFile,
});
if (!answer.ok) {
  process.stderr.write(answer.errors.join('\n'));
  process.exit(answer.exitCode);
}
const logOptions = { level: answer.config.log.level, format: 'json', destination: 1 } as const;
const log = createLog(logOptions);
const running = await serve(
  { clock: { nowMs: () => Date.now() }, log, logOptions, version: 'test' },
  answer.config as ServiceConfig,
  service === 'stratumd' ? startStratumd : startJobmanagerd,
);
let exitCode = 0;
await Promise.race([
  new Promise<void>((resolve) => process.once('SIGTERM', () => resolve())),
  running.failed.then((failure) => {
    log.error('the service cannot go on', failure);
    exitCode = failure.exitCode;
  }),
]);
await running.stop();
log.info('stopped');
log.flush();
process.exit(exitCode);
