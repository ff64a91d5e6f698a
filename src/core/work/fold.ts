/**
 * The hash of a share in plain TypeScript: coinbase → txid, txid and branch → merkle root, header → header hash, all double
 * SHA-256, in one pass without allocation.
 *
 * 45 compressions for a coinbase of 250 bytes and 12 merkle steps: 6.4 µs on the machine of the README. Whole blocks of the
 * coinbase before the extranonce are in the midstate. `npm run bench` prints what it gives against node:crypto on yours.
 */

import { compress, compressPaddingOf64, hashStateAgain, resetState } from '../bitcoin/sha256.ts';
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
  hashStateAgain(state, block);

  const branchEnd = branchOffset + 32 * branchLength;
  for (let offset = branchOffset; offset < branchEnd; offset += 32) {
    for (let i = 0; i < 8; i++) {
      block[i] = state[i]!;
      block[i + 8] = view.getInt32(offset + 4 * i);
    }
    resetState(state);
    compress(state, block);
    compressPaddingOf64(state, block);
    hashStateAgain(state, block);
  }

  for (let i = 0; i < 8; i++) view.setInt32(headerOffset + 36 + 4 * i, state[i]!);
  resetState(state);
  loadBlock(view, headerOffset);
  compress(state, block);
  loadBlock(view, headerOffset + 64);
  compress(state, block);
  hashStateAgain(state, block);
  for (let i = 0; i < 8; i++) view.setInt32(branchEnd + 4 * i, state[i]!);
};

function loadBlock(view: DataView, offset: number): void {
  for (let i = 0; i < 16; i++) block[i] = view.getInt32(offset + 4 * i);
}
