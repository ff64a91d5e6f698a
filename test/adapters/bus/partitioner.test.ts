import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compatibilityPartitioner, murmur2 as murmur2OfClient } from '@platformatic/kafka';
import fc from 'fast-check';
import { murmur2, partitionOf } from '../../../src/adapters/bus/partitioner.ts';

test('murmur2: what the Java clients compute', () => {
  // From UtilsTest of Apache Kafka.
  const vectors: [string, number][] = [
    ['21', -973932308],
    ['foobar', -790332482],
    ['a-little-bit-long-string', -985981536],
    ['a-little-bit-longer-string', -1486304829],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
  ];
  for (const [text, hash] of vectors) assert.equal(murmur2(Buffer.from(text)) | 0, hash, text);
});

test('murmur2 and partitions: the same as another implementation, for any key', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), fc.integer({ min: 1, max: 64 }), (key, count) => {
      assert.equal(murmur2(key) | 0, murmur2OfClient(Buffer.from(key)) | 0);
      assert.equal(
        partitionOf(key, count),
        compatibilityPartitioner({} as never, Buffer.from(key)) % count,
      );
    }),
    { numRuns: 500 },
  );
});
