/** A door in a process of its own, for limits that hold for a whole process. Prints its port, then its counters on request. */
import { openRig } from './door-rig.ts';

const rig = await openRig();
console.log(JSON.stringify({ port: rig.port }));
process.stdin.on('data', () => {
  const { connections, refused, exceptions } = rig.door.counters;
  console.log(JSON.stringify({ connections, refused: refused.total, exceptions }));
});
process.stdin.on('end', () => process.exit(0));
