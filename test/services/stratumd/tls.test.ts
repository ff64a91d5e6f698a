import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, it } from 'node:test';
import { type ConnectionOptions, connect } from 'node:tls';
import type { Log } from '../../../src/ports.ts';
import { loadCertificates } from '../../../src/services/stratumd/tls.ts';
import { eventually, openRig, quiet, stopRigs } from './door-rig.ts';

after(stopRigs);
const fresh = () => {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-tls-'));
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  return directory;
};

function peerOf(port: number, options: ConnectionOptions = {}): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options });
    socket.once('secureConnect', () => {
      resolve(`${socket.getProtocol()} ${socket.getPeerX509Certificate()?.fingerprint256}`);
      socket.destroy();
    });
    socket.once('error', (error) => resolve(`error ${(error as NodeJS.ErrnoException).code}`));
    socket.once('close', () => resolve('closed'));
  });
}

it('makes a pair once, for the owner only, and uses it again', async () => {
  const directory = join(fresh(), 'tls');
  const first = await loadCertificates({ log: quiet }, { files: null, directory });
  const again = await loadCertificates({ log: quiet }, { files: null, directory });
  assert.equal(again.fingerprint, first.fingerprint);
  assert.equal(statSync(join(directory, 'stratum-key.pem')).mode & 0o777, 0o600);
  const years = (first.notAfter.getTime() - Date.now()) / (365 * 86_400_000);
  assert.ok(years > 9.9 && years < 10.1);
  writeFileSync(join(directory, 'stratum-key.pem'), 'damaged');
  const healed = await loadCertificates({ log: quiet }, { files: null, directory });
  assert.notEqual(healed.fingerprint, first.fingerprint);
});

it('can be trusted by file, as cpuminer does it with --cert', async () => {
  const directory = fresh();
  const rig = await openRig({ tls: { files: null, directory } });
  const ca = readFileSync(join(directory, 'stratum-cert.pem'));
  assert.match(await peerOf(rig.port, { ca, rejectUnauthorized: true }), /^TLSv1\.3 /);
  assert.match(await peerOf(rig.port, { rejectUnauthorized: true }), /^error/);
  await rig.stop();
});

it('names file and setting when configured files can not be used', async () => {
  const directory = fresh();
  const files = { certificate: join(directory, 'none.pem'), key: join(directory, 'none.key') };
  await assert.rejects(
    loadCertificates({ log: quiet }, { files, directory }),
    /TLS_CERT_FILE = .*none\.pem.*ENOENT/,
  );
});

it('serves a new pair to new connections, keeps old sessions, and keeps the old pair when the new is bad', async () => {
  const [one, two, live] = [fresh(), fresh(), fresh()];
  await loadCertificates({ log: quiet }, { files: null, directory: one });
  await loadCertificates({ log: quiet }, { files: null, directory: two });
  const files = { certificate: join(live, 'cert.pem'), key: join(live, 'key.pem') };
  const use = (directory: string) => {
    copyFileSync(join(directory, 'stratum-cert.pem'), files.certificate);
    copyFileSync(join(directory, 'stratum-key.pem'), files.key);
  };
  use(one);
  const warnings: string[] = [];
  const log: Log = {
    ...quiet,
    warn: (message) => void (message.includes('certificate') && warnings.push(message)),
  };
  const rig = await openRig({ tls: { files, directory: live }, log });
  const old = connect({ host: '127.0.0.1', port: rig.port, rejectUnauthorized: false });
  old.on('error', () => undefined);
  await new Promise((resolve) => old.once('secureConnect', resolve));
  const before = await peerOf(rig.port);
  use(two);
  await rig.door.reloadCertificates();
  const changed = await peerOf(rig.port);
  assert.notEqual(changed, before);
  writeFileSync(files.certificate, 'not a certificate');
  await rig.door.reloadCertificates();
  assert.equal(await peerOf(rig.port), changed);
  assert.equal(warnings.length, 1);
  let answer = '';
  old.on('data', (chunk: Buffer) => {
    answer += chunk.toString();
  });
  old.write('{"id":9}\n');
  assert.ok(await eventually(() => answer.includes('"id":9')));
  old.destroy();
  await rig.stop();
});

it('speaks TLS 1.2 and 1.3 and nothing older; a huge or unknown server name is harmless', async () => {
  const rig = await openRig();
  assert.match(await peerOf(rig.port, { maxVersion: 'TLSv1.2' }), /^TLSv1\.2 /);
  assert.match(await peerOf(rig.port, { minVersion: 'TLSv1.3' }), /^TLSv1\.3 /);
  const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' } as const;
  assert.match(await peerOf(rig.port, old), /^(error|closed)/);
  assert.match(
    await peerOf(rig.port, { servername: 'x.'.repeat(120) }),
    /^(TLSv1\.3|error|closed)/,
  );
  assert.match(await peerOf(rig.port, { servername: '__proto__' }), /^TLSv1\.3/);
  const renegotiated = await new Promise<string>((resolve) => {
    const socket = connect({
      host: '127.0.0.1',
      port: rig.port,
      rejectUnauthorized: false,
      maxVersion: 'TLSv1.2',
    });
    socket.on('error', () => resolve('refused'));
    socket.on('close', () => resolve('closed'));
    socket.once('secureConnect', () => {
      socket.renegotiate({ rejectUnauthorized: false }, (error) =>
        resolve(error === null ? 'renegotiated' : 'refused'),
      );
    });
  });
  assert.notEqual(renegotiated, 'renegotiated');
  assert.match(await peerOf(rig.port), /^TLSv1\.3/);
  await rig.stop();
});
