import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  decodeProxyHeader,
  PROXY_HEADER_BYTES_MAX,
} from '../../../src/core/stratum/proxy-header.ts';

const SIGNATURE = '0d0a0d0a000d0a515549540a';
const v1 = (text: string) => decodeProxyHeader(Buffer.from(text));
const v2 = (hex: string) => decodeProxyHeader(Buffer.from(SIGNATURE + hex, 'hex'));

describe('version 1', () => {
  it('reads the examples of the specification', () => {
    const v4 = 'PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n';
    assert.deepEqual(v1(`${v4}GET`), { kind: 'ok', bytes: v4.length, source: '192.168.0.1' });
    const mapped = 'PROXY TCP6 ::ffff:1.2.3.4 ::1 65535 65535\r\n';
    assert.deepEqual(v1(mapped), { kind: 'ok', bytes: mapped.length, source: '1.2.3.4' });
    const plain6 = 'PROXY TCP6 2001:DB8::1 2001:db8::2 65535 65535\r\n';
    assert.deepEqual(v1(plain6), { kind: 'ok', bytes: plain6.length, source: '2001:db8::1' });
    assert.deepEqual(v1('PROXY UNKNOWN\r\n'), { kind: 'ok', bytes: 15, source: null });
  });

  it('waits for the end, not for ever', () => {
    assert.deepEqual(v1('PROXY TCP4 1.2'), { kind: 'more' });
    assert.equal(v1(`PROXY UNKNOWN ${'f'.repeat(120)}`).kind, 'bad');
  });

  for (const bad of [
    'PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n',
    'PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n',
    'PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n',
    'PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n',
    'PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n',
    'PROXY TCP4 ::1 ::2 1 2\r\n',
    'PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n',
    'PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n',
    'PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n',
    'PROXY TCP4 1.2.3.4 5.6.7.8 1 \u00b2\r\n',
    'PROXYTCP4 1.2.3.4 5.6.7.8 1 2\r\n',
  ]) {
    it(`refuses ${JSON.stringify(bad)}`, () => assert.equal(v1(bad).kind, 'bad'));
  }
});

describe('version 2', () => {
  it('reads IPv4, IPv6, LOCAL and UNSPEC, and steps over TLVs', () => {
    const v4 = v2('2111000ccb007107c0000201c3500d05');
    assert.deepEqual(v4, { kind: 'ok', bytes: 28, source: '203.0.113.7' });
    const tlv = v2('21110010cb007107c0000201c3500d0504000100');
    assert.deepEqual(tlv, { kind: 'ok', bytes: 32, source: '203.0.113.7' });
    const v6 = v2(`21210024${'20010db8'.padEnd(32, '0')}${'00'.repeat(16)}c3500d05`);
    assert.deepEqual(v6, { kind: 'ok', bytes: 52, source: '2001:db8::' });
    const mapped = v2(`21210024${'0'.repeat(20)}ffff01020304${'00'.repeat(16)}c3500d05`);
    assert.deepEqual(mapped, { kind: 'ok', bytes: 52, source: '1.2.3.4' });
    assert.deepEqual(v2('20000000'), { kind: 'ok', bytes: 16, source: null });
    assert.deepEqual(v2('21000000'), { kind: 'ok', bytes: 16, source: null });
  });

  it('refuses other versions, commands, families, short and huge headers', () => {
    for (const bad of ['3111000c', '2211000c', '21120000', '21110004cb007107', '2111ffff']) {
      assert.equal(v2(bad).kind, 'bad', bad);
    }
    assert.deepEqual(v2('2111000ccb0071'), { kind: 'more' });
  });
});

it('has an answer for any bytes', () => {
  const start = fc.constantFrom(SIGNATURE, Buffer.from('PROXY TCP4 ').toString('hex'), '');
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 200 }), (prefix, rest) => {
      const bytes = Buffer.concat([Buffer.from(prefix, 'hex'), rest]);
      const header = decodeProxyHeader(bytes);
      if (header.kind === 'ok') assert.ok(header.bytes <= bytes.length);
      if (header.kind === 'more') assert.ok(bytes.length < PROXY_HEADER_BYTES_MAX);
    }),
  );
});
