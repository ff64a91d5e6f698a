import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { it } from 'node:test';
import fc from 'fast-check';
import { SNIFF_BYTES_MAX, sniff } from '../../../src/core/stratum/sniff.ts';

const CASES: readonly (readonly [name: string, bytes: Buffer, answer: string])[] = [
  ['a request', Buffer.from('{"id":1}'), 'stratum'],
  ['an empty line first', Buffer.from('\r\n{"id":1}'), 'stratum'],
  ['a byte order mark', Buffer.from('\ufeff{"id":1}'), 'stratum'],
  ['text that is not JSON', Buffer.from('hello pool'), 'stratum'],
  ['almost HTTP', Buffer.from('GETX'), 'stratum'],
  ['TLS', Buffer.from('160301', 'hex'), 'tls'],
  ['GET', Buffer.from('GET / HTTP/1.1'), 'http'],
  ['POST', Buffer.from('POST / HTTP/1.1'), 'http'],
  ['HTTP/2', Buffer.from('PRI * HTTP/2.0\r\n'), 'http'],
  ['PROXY v1', Buffer.from('PROXY TCP4 '), 'proxy'],
  ['PROXY v2', Buffer.from('0d0a0d0a000d0a515549540a21', 'hex'), 'proxy'],
  ['SSH', Buffer.from('SSH-2.0-x'), 'foreign:ssh'],
  ['RDP', Buffer.from('0300002b', 'hex'), 'foreign:rdp'],
  ['SMB', Buffer.from('00000054ff534d42', 'hex'), 'foreign:smb'],
  ['Redis', Buffer.from('*1\r\n$4\r\nPING'), 'foreign:redis'],
  ['MQTT', Buffer.from('101000044d515454', 'hex'), 'foreign:mqtt'],
  ['SOCKS5', Buffer.from('050100', 'hex'), 'foreign:socks'],
  ['SOCKS4', Buffer.from('0401', 'hex'), 'foreign:socks'],
  ['other binary', Buffer.from('f0beadde', 'hex'), 'foreign:binary'],
];

function name(bytes: Uint8Array): string {
  const sniffed = sniff(bytes);
  return sniffed.kind === 'foreign' ? `foreign:${sniffed.protocol}` : sniffed.kind;
}

for (const [title, bytes, answer] of CASES) {
  it(`tells ${title}, one byte at a time too`, () => {
    assert.equal(name(bytes), answer);
    for (let size = 0; size < bytes.length; size++) {
      const early = name(bytes.subarray(0, size));
      assert.ok(early === 'more' || early === answer, `${early} after ${size} bytes`);
    }
  });
}

it('never needs more than its maximum, and never changes its mind', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      let decided = '';
      for (let size = 0; size <= bytes.length; size++) {
        const answer = name(bytes.subarray(0, size));
        if (decided !== '') assert.equal(answer, decided);
        else if (answer !== 'more') decided = answer;
        if (size >= SNIFF_BYTES_MAX) assert.notEqual(answer, 'more');
      }
    }),
  );
});
