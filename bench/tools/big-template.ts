/** A getblocktemplate answer of 3.99 MWU, nearly all of it witness, so that the block has almost 4 MB: the worst there can be. */
import { createHash } from 'node:crypto';

export type BigTemplate = {
  json: string;
  blockBytes: number;
  weight: number;
  transactions: number;
};

const twice = (bytes: Uint8Array): Buffer =>
  createHash('sha256').update(createHash('sha256').update(bytes).digest()).digest();

/**
 * @param options.weight about how much all transactions together weigh
 * @param options.bits compact bits of the template, so that the benchmark can find blocks
 * @param options.time seconds since 1970
 */
export function makeBigTemplate(options: {
  weight: number;
  bits: number;
  time: number;
}): BigTemplate {
  const count = 1000;
  const stripped = 82;
  const witnessBytes = Math.floor(options.weight / count) - stripped * 4 - 8;
  const transactions: Record<string, unknown>[] = [];
  const wtxids: Buffer[] = [Buffer.alloc(32)];
  let blockBytes = 0;
  let weight = 0;
  for (let index = 0; index < count; index++) {
    const seed = Buffer.alloc(4);
    seed.writeUInt32LE(index);
    const outpoint = Buffer.concat([twice(seed), Buffer.alloc(4)]);
    const input = Buffer.concat([Buffer.from([1]), outpoint, Buffer.from('00fdffffff', 'hex')]);
    const output = Buffer.concat([
      Buffer.from([1]),
      Buffer.from('e803000000000000', 'hex'),
      Buffer.from([22, 0, 20]),
      twice(outpoint).subarray(0, 20),
    ]);
    const head = Buffer.from([2, 0, 0, 0]);
    const tail = Buffer.alloc(4);
    const item = Buffer.alloc(witnessBytes, index & 255);
    const length = Buffer.alloc(3);
    length[0] = 0xfd;
    length.writeUInt16LE(witnessBytes, 1);
    const raw = Buffer.concat([
      head,
      Buffer.from([0, 1]),
      input,
      output,
      Buffer.from([1]),
      length,
      item,
      tail,
    ]);
    const plain = Buffer.concat([head, input, output, tail]);
    const txWeight = plain.length * 3 + raw.length;
    const wtxid = twice(raw);
    wtxids.push(wtxid);
    blockBytes += raw.length;
    weight += txWeight;
    transactions.push({
      data: raw.toString('hex'),
      txid: twice(plain).reverse().toString('hex'),
      hash: Buffer.from(wtxid).reverse().toString('hex'),
      depends: [],
      fee: 2000,
      sigops: 1,
      weight: txWeight,
    });
  }
  const commitment = twice(Buffer.concat([merkle(wtxids), Buffer.alloc(32)])).toString('hex');
  const mantissa = BigInt(options.bits & 0x7fffff) << BigInt(8 * ((options.bits >>> 24) - 3));
  const json = JSON.stringify({
    capabilities: ['proposal'],
    version: 0x20000000,
    rules: ['csv', '!segwit', 'taproot'],
    vbavailable: {},
    vbrequired: 0,
    previousblockhash: 'ab'.repeat(28).padStart(64, '0'),
    transactions,
    coinbaseaux: {},
    coinbasevalue: 312_500_000 + count * 2000,
    longpollid: `${'ab'.repeat(28).padStart(64, '0')}1`,
    target: mantissa.toString(16).padStart(64, '0'),
    mintime: options.time - 3600,
    mutable: ['time', 'transactions', 'prevblock'],
    noncerange: '00000000ffffffff',
    sigoplimit: 80_000,
    sizelimit: 4_000_000,
    weightlimit: 4_000_000,
    curtime: options.time,
    bits: options.bits.toString(16).padStart(8, '0'),
    height: 201,
    default_witness_commitment: `6a24aa21a9ed${commitment}`,
  });
  return { json, blockBytes, weight, transactions: count };
}

function merkle(leaves: Buffer[]): Buffer {
  let row = leaves;
  while (row.length > 1) {
    if (row.length % 2 === 1) row.push(row[row.length - 1]!);
    const next: Buffer[] = [];
    for (let i = 0; i < row.length; i += 2) next.push(twice(Buffer.concat([row[i]!, row[i + 1]!])));
    row = next;
  }
  return row[0]!;
}
