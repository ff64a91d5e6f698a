/**
 * The hash of a share in plain TypeScript: coinbase → txid, txid and branch → merkle root, header → header hash, all double
 * SHA-256, in one pass without allocation.
 *
 * 45 compressions for a coinbase of 250 bytes and 12 merkle steps. The compression is unrolled (`sha256.ts`); the padding
 * block of a merkle step has a constant schedule, and whole blocks of the coinbase before the extranonce are in the
 * midstate. `npm run bench` prints what that gives against node:crypto on your machine.
 */

import { compress, compressPaddingOf64, resetState } from '../bitcoin/sha256.ts';
import type { HashWork, Work } from './share.ts';

// Scratch of the one synchronous call in progress on this thread; carries nothing from one call to the next.
const state = new Int32Array(8);
const block = new Int32Array(16);

/** See `HashWork`. The default, and the reference an accelerator is tested against when it is loaded. */
export const foldInTypescript: HashWork = (work: Work): void => {
  const { view, headerOffset, branchOffset, branchLength } = work;

  state.set(work.midstate);
  for (let offset = work.midstateOffset; offset < headerOffset; offset += 64) {
    loadBlock(view, offset);
    compress(state, block);
  }
  hashAgain();

  const branchEnd = branchOffset + 32 * branchLength;
  for (let offset = branchOffset; offset < branchEnd; offset += 32) {
    for (let i = 0; i < 8; i++) {
      block[i] = state[i]!;
      block[i + 8] = view.getInt32(offset + 4 * i);
    }
    resetState(state);
    compress(state, block);
    compressPaddingOf64(state);
    hashAgain();
  }

  for (let i = 0; i < 8; i++) view.setInt32(headerOffset + 36 + 4 * i, state[i]!);
  resetState(state);
  loadBlock(view, headerOffset);
  compress(state, block);
  loadBlock(view, headerOffset + 64);
  compress(state, block);
  hashAgain();
  for (let i = 0; i < 8; i++) view.setInt32(branchEnd + 4 * i, state[i]!);
};

function loadBlock(view: DataView, offset: number): void {
  for (let i = 0; i < 16; i++) block[i] = view.getInt32(offset + 4 * i);
}

/** Second half of a double SHA-256: `state` becomes the hash of the 32 bytes it holds. */
function hashAgain(): void {
  for (let i = 0; i < 8; i++) block[i] = state[i]!;
  block[8] = 0x80000000 | 0;
  for (let i = 9; i < 15; i++) block[i] = 0;
  block[15] = 256;
  resetState(state);
  compress(state, block);
}
