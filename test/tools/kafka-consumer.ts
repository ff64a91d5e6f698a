/**
 * A consumer in a process of its own, to be killed: `kafka-consumer.ts <brokers> <group prefix> <topic> <hold> [<session ms> <member>]`. Tells its parent what it was
 * handed; with `hold` it never finishes a batch, without it takes a few milliseconds for each.
 */
import { createKafkaBus } from '../../src/adapters/bus/kafka.ts';
import { createSilentLog } from './silent-log.ts';

const [brokers = '', groupPrefix = '', topic = '', hold = '', sessionMs = '3000', member] =
  process.argv.slice(2);
const bus = createKafkaBus({
  log: createSilentLog(),
  brokers: brokers.split(','),
  groupPrefix,
  clientId: `child-${process.pid}`,
  sessionMs: Number(sessionMs),
  ...(member === undefined ? {} : { member }),
  heartbeatMs: 200,
  batchRecordsMax: 20,
});
await bus.subscribe(topic, 'g', async (records) => {
  process.send?.({
    records: records.map(({ key, value, offset }) => [key, String(value), String(offset)]),
  });
  await new Promise((resolve) => setTimeout(resolve, hold === 'hold' ? 600_000 : 3));
});
process.send?.({ subscribed: true });
process.on('message', () => {
  void bus.stop().then(() => process.exit(0));
});
process.on('disconnect', () => process.exit(0));
