/** A worker thread for the test of `keepThread`: ready each time, then dead as often as it is told. */
import { parentPort, workerData } from 'node:worker_threads';

const { lives, deaths } = workerData as { lives: SharedArrayBuffer; deaths: number };
const life = Atomics.add(new Int32Array(lives), 0, 1) + 1;
parentPort!.postMessage({ kind: 'ready', facts: life });
parentPort!.on('message', ({ kind }) => {
  if (kind === 'stop') process.exit(0);
});
if (life <= deaths) throw new Error('this life ends');
