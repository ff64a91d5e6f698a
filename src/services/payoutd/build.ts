/**
 * From a reserved batch to signed bytes: the wallet chooses coins and change, and what it made is checked output by output before it
 * is stored, and again when it is signed. Refused: an output that is not the payout it should be, change to an address that is not the
 * wallet's, an input of unknown worth, a fee above the caps, a signed transaction that differs from the one that was made.
 *
 * Only coins as deep as a settled payout are chosen (`minconf`), never change that a reorganisation or a fee bump could take back. A
 * further generation spends all inputs of the one before it, and by that of each, so that the chain takes one of them at most.
 */
import { encodeAddress } from '../../core/bitcoin/address.ts';
import { decodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { dustSats } from '../../core/bitcoin/dust.ts';
import { readPsbt, sameSkeleton } from '../../core/bitcoin/psbt.ts';
import { decodeTx, type Tx, txid, txWeight } from '../../core/bitcoin/tx.ts';
import { encodeAmount, encodeFeeRate } from '../../core/node/wallet.ts';
import {
  type BatchDetail,
  type BatchGeneration,
  type BuiltGeneration,
  dropGeneration,
  markBroadcast,
  markSent,
  noteReason,
  quarantineAccount,
  refuseImport,
  releaseBatch,
  storeBuilt,
  storeSigned,
} from '../../store/payouts.ts';
import type { Walk } from './payer.ts';
import {
  askBalances,
  askFeeRate,
  askIsMine,
  askIsValid,
  type Failure,
  finishPsbt,
  fundPsbt,
  lockCoins,
  sendTransaction,
  signPsbt,
  testTransaction,
} from './wallet.ts';

/** BIP125: an input with this sequence or a lower one lets its transaction be replaced. */
const REPLACEABLE = 0xffff_fffd;
/** Nodes relay nothing cheaper (satoshis per 1,000 virtual bytes). */
const RELAY_SATS_PER_KVB = 1_000n;
/** Heavier transactions are not relayed. */
const WEIGHT_MAX = 400_000;
/** Change that would be dust goes to the fee; so much above the rate is no mistake. */
const DUST_SLACK_SATS = 1_000n;
/** Virtual bytes of an input while its signature is not there: P2PKH, the largest of the common ones. */
const INPUT_VSIZE = 148;
const GENERATIONS_MAX = 20;
const PPM = 1_000_000n;

/** The rate to pay now: the node's estimate within the policy's bound; the lowest that is relayed when it has none. Null: not known. */
export async function chooseFeeRate(walk: Walk): Promise<bigint | null> {
  const answer = await askFeeRate(walk, walk.policy.confirmTarget);
  if (!answer.ok) {
    walk.raise(answer.alarm, answer.text);
    return null;
  }
  const estimate = answer.value.satsPerKvb ?? RELAY_SATS_PER_KVB;
  const most = feeRateMax(walk);
  const atLeast = estimate < RELAY_SATS_PER_KVB ? RELAY_SATS_PER_KVB : estimate;
  return atLeast > most ? most : atLeast;
}

function feeRateMax(walk: Walk): bigint {
  const most = BigInt(Math.floor(walk.policy.feeRateMaxSatsPerVb * 1000));
  return most < RELAY_SATS_PER_KVB ? RELAY_SATS_PER_KVB : most;
}

/** reserved → built. True when the batch went on. */
export async function buildBatch(walk: Walk, batch: BatchDetail): Promise<boolean> {
  const rate = await chooseFeeRate(walk);
  if (rate === null) return false;
  const outputs = batch.items.map((item) => ({ [item.address]: encodeAmount(item.amountSats) }));
  const minerPays = batch.feePolicy === 'miner';
  const answer = await fundPsbt(walk, [], outputs, {
    ...fundOptions(walk, rate, outputs.length),
    ...(minerPays ? { subtractFeeFromOutputs: outputs.map((_, at) => at) } : {}),
  });
  walk.fault('payout.funded');
  if (!answer.ok) {
    await explainFunding(walk, batch, answer);
    return false;
  }
  const read = await readFunded(walk, batch, answer.value);
  if (!read.ok) return refuseBuild(walk, batch, read.reason);
  const { tx, feeSats } = read;
  const itemFees = new Map<bigint, bigint>();
  for (const [at, item] of batch.items.entries()) {
    const valueSats = tx.outputs[at]?.valueSats ?? 0n;
    const itemFeeSats = item.amountSats - valueSats;
    if (itemFeeSats < 0n || (itemFeeSats > 0n && !minerPays) || valueSats < dustSats(item.script))
      return refuseBuild(walk, batch, `output ${at} pays ${valueSats} sat`);
    itemFees.set(item.accountId, itemFeeSats);
  }
  if (feeSats > feeMax(walk, batch)) {
    // Given back, so that it can be part of a larger batch, for which the fee is small.
    const reason = `the fee of ${feeSats} sat is above the cap of ${feeMax(walk, batch)} sat`;
    walk.raise('fee-too-high', `batch ${batch.batchId}: ${reason}`);
    await release(walk, batch, reason);
    return false;
  }
  if (!minerPays && feeSats > walk.headroomSats()) {
    const text = `the fee of ${feeSats} sat is more than the pool's own money in the wallet (${walk.headroomSats()} sat)`;
    walk.raise('insufficient-funds', text);
    await noteReason(walk.db, batch.batchId, text, walk.clock.nowMs());
    return false;
  }
  return store(walk, batch, { ...read, generation: 1, itemFees });
}

/** A further generation at a higher fee, for a batch that has waited too long. True when one was stored. */
export async function bumpBatch(walk: Walk, batch: BatchDetail): Promise<boolean> {
  const newest = batch.generations.at(-1);
  if (newest === undefined || newest.generation >= GENERATIONS_MAX) return false;
  const nowMs = walk.clock.nowMs();
  const rate = await chooseFeeRate(walk);
  if (rate === null) return false;
  const oldRate = (newest.feeSats * 1000n) / BigInt(newest.vsize);
  // A replacement must pay for its own relay besides all that it replaces (BIP125, rules 3 and 4).
  const raised = (oldRate * 5n) / 4n + RELAY_SATS_PER_KVB;
  let newRate = raised > rate ? raised : rate;
  if (newRate > feeRateMax(walk)) newRate = feeRateMax(walk);
  if (newRate < oldRate + RELAY_SATS_PER_KVB) {
    walk.raise('fee-too-high', `batch ${batch.batchId} waits at the highest fee rate allowed`);
    return false;
  }
  const old = readPsbt(newest.psbt);
  if (!old.ok) throw new Error(`the stored PSBT of batch ${batch.batchId} is unreadable`);
  const change = old.tx.outputs[batch.items.length];
  const changeAddress = change ? encodeAddress(change.script, walk.network) : null;
  const answer = await fundPsbt(
    walk,
    old.tx.inputs.map((input) => ({
      txid: encodeHexReversed(input.previousTxid),
      vout: input.previousIndex,
      sequence: REPLACEABLE,
    })),
    batch.items.map((item) => ({ [item.address]: encodeAmount(item.amountSats - item.feeSats) })),
    {
      ...fundOptions(walk, newRate, batch.items.length),
      ...(changeAddress === null ? {} : { changeAddress }),
    },
  );
  walk.fault('payout.bumpFunded');
  const refuse = async (text: string): Promise<false> => {
    walk.raise('fee-too-high', `batch ${batch.batchId}: the fee cannot be raised: ${text}`);
    await noteReason(walk.db, batch.batchId, `the fee cannot be raised: ${text}`, nowMs);
    return false;
  };
  if (!answer.ok) return refuse(answer.text);
  const read = await readFunded(walk, batch, answer.value);
  if (!read.ok) return refuse(read.reason);
  const outputsKept = batch.items.every(
    (item, at) => read.tx.outputs[at]?.valueSats === item.amountSats - item.feeSats,
  );
  const inputsKept = old.tx.inputs.every((input) =>
    read.tx.inputs.some(
      (other) =>
        other.previousIndex === input.previousIndex &&
        encodeHexReversed(other.previousTxid) === encodeHexReversed(input.previousTxid),
    ),
  );
  if (!outputsKept || !inputsKept) return refuse('the wallet changed outputs or inputs');
  const extraSats = read.feeSats - newest.feeSats;
  if (extraSats < BigInt(newest.vsize)) return refuse('the new fee is too small for a replacement');
  if (read.feeSats > feeMax(walk, batch))
    return refuse(`${read.feeSats} sat is above the cap of ${feeMax(walk, batch)} sat`);
  if (extraSats > walk.headroomSats()) return refuse("the pool's own money does not cover it");
  return store(walk, batch, {
    ...read,
    generation: newest.generation + 1,
    itemFees: new Map(),
  });
}

function fundOptions(walk: Walk, rate: bigint, changePosition: number): Record<string, unknown> {
  return {
    add_inputs: true,
    fee_rate: encodeFeeRate(rate),
    changePosition,
    replaceable: true,
    minconf: Math.max(1, walk.policy.confirmations),
    lockUnspents: false,
  };
}

function feeMax(walk: Walk, batch: BatchDetail): bigint {
  return (batch.totalSats * BigInt(walk.policy.feePpmMax)) / PPM;
}

type Funded = {
  psbt: string;
  tx: Tx;
  feeSats: bigint;
  vsize: number;
  inputs: BuiltGeneration['inputs'];
};

/** Reads what the wallet made, and checks all that does not depend on who pays the fee. */
async function readFunded(
  walk: Walk,
  batch: BatchDetail,
  psbt: string,
): Promise<({ ok: true } & Funded) | { ok: false; reason: string }> {
  const refuse = (reason: string) => ({ ok: false as const, reason });
  const read = readPsbt(psbt);
  if (!read.ok) return refuse(read.reason);
  const { tx, spent } = read;
  const extra = tx.outputs.length - batch.items.length;
  if (extra !== 0 && extra !== 1) return refuse(`it has ${tx.outputs.length} outputs`);
  for (const [at, item] of batch.items.entries())
    if (
      encodeHexReversed(tx.outputs[at]?.script ?? new Uint8Array(0)) !==
      encodeHexReversed(item.script)
    )
      return refuse(`output ${at} pays somebody else`);
  const change = tx.outputs[batch.items.length];
  if (change !== undefined) {
    const address = encodeAddress(change.script, walk.network);
    const mine = address === null ? null : await askIsMine(walk, address);
    if (mine === null || !mine.ok || !mine.value) return refuse('its change is not the wallet’s');
  }
  let inSats = 0n;
  const inputs: { txid: Uint8Array; vout: number; valueSats: bigint }[] = [];
  for (const [at, input] of tx.inputs.entries()) {
    const output = spent[at];
    if (!output) return refuse(`input ${at} is of unknown worth`);
    if (input.sequence > REPLACEABLE) return refuse(`input ${at} cannot be replaced`);
    inSats += output.valueSats;
    inputs.push({
      txid: input.previousTxid,
      vout: input.previousIndex,
      valueSats: output.valueSats,
    });
  }
  const feeSats = inSats - tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
  if (feeSats <= 0n) return refuse(`its fee is ${feeSats} sat`);
  const vsize = Math.ceil(txWeight(tx) / 4) + tx.inputs.length * (INPUT_VSIZE - 41);
  return { ok: true, psbt, tx, feeSats, vsize, inputs };
}

async function store(
  walk: Walk,
  batch: BatchDetail,
  built: BuiltGeneration & { tx: Tx },
): Promise<boolean> {
  const stored = await storeBuilt(walk.db, batch.batchId, built, walk.clock.nowMs());
  if (stored === null) return false;
  walk.spendHeadroom(built.feeSats);
  walk.fault(built.generation === 1 ? 'payout.built' : 'payout.bumpBuilt');
  await lockCoins(walk, built.inputs, false);
  walk.fault('payout.locked');
  return true;
}

async function refuseBuild(walk: Walk, batch: BatchDetail, reason: string): Promise<false> {
  const text = `batch ${batch.batchId}: what the wallet made is refused: ${reason}`;
  walk.raise('refused', text);
  walk.log.error('A payout made by the wallet is refused.', { batch: batch.batchId, reason });
  await noteReason(walk.db, batch.batchId, text, walk.clock.nowMs());
  return false;
}

async function release(walk: Walk, batch: BatchDetail, reason: string): Promise<void> {
  await releaseBatch(walk.db, batch.batchId, {
    actor: 'payer',
    reason,
    atMs: walk.clock.nowMs(),
  });
}

/** Why the wallet made nothing: no money, money that is not deep enough, an address it does not know. */
async function explainFunding(walk: Walk, batch: BatchDetail, failure: Failure): Promise<void> {
  const atMs = walk.clock.nowMs();
  if (failure.alarm === 'insufficient-funds') {
    const balances = await askBalances(walk);
    const total = batch.totalSats;
    if (balances.ok && balances.value.trustedSats + balances.value.pendingSats > total) {
      // Change and rewards that are still shallow: a matter of blocks, not of money.
      await noteReason(walk.db, batch.batchId, 'its coins are not deep enough yet', atMs);
      return;
    }
  }
  if (failure.rpcCode === -5) {
    let found = false;
    for (const item of batch.items) {
      const valid = await askIsValid(walk, item.address);
      if (!valid.ok || valid.value.valid) continue;
      found = true;
      const reason = 'the wallet refuses the address';
      await quarantineAccount(walk.db, item.accountId, { actor: 'payer', reason, atMs });
      walk.raise('quarantine', `${item.address}: ${reason}`);
    }
    if (found) {
      await release(walk, batch, 'the wallet refuses one of its addresses');
      walk.askForRun();
      return;
    }
  }
  walk.raise(failure.alarm, `batch ${batch.batchId}: ${failure.text}`);
  await noteReason(walk.db, batch.batchId, failure.text, atMs);
}

/** built → signed by the wallet, or exported → signed by what was imported. True when the generation went on. */
export async function signGeneration(
  walk: Walk,
  batch: BatchDetail,
  generation: BatchGeneration,
): Promise<boolean> {
  const cold = batch.signing === 'cold';
  if (cold && generation.signedPsbt === null) {
    const text = `batch ${batch.batchId} waits to be ${generation.state === 'built' ? 'exported' : 'imported'}`;
    walk.raise('awaiting-signature', text);
    return false;
  }
  let hex: string | null = generation.signedPsbt;
  if (!cold || decodeHex(hex ?? '') === null) {
    const answer = cold
      ? await finishPsbt(walk, generation.signedPsbt ?? '')
      : await signPsbt(walk, generation.psbt);
    if (!answer.ok) {
      if (cold && answer.rpcCode !== null)
        return refuseSigned(walk, batch, generation, answer.text);
      walk.raise(answer.alarm, `batch ${batch.batchId}: ${answer.text}`);
      return false;
    }
    hex = answer.value.hex;
    if (hex === null) {
      const text = 'signatures are missing';
      if (cold) return refuseSigned(walk, batch, generation, text);
      walk.raise('wallet-without-keys', `batch ${batch.batchId}: ${text}`);
      return false;
    }
  }
  walk.fault(generation.generation === 1 ? 'payout.signedInMemory' : 'payout.bumpSignedInMemory');
  const raw = decodeHex(hex ?? '');
  const decoded = raw === null ? null : decodeTx(raw);
  const made = readPsbt(generation.psbt);
  if (raw === null || decoded === null || !decoded.ok || !made.ok)
    return refuseSigned(walk, batch, generation, 'it is no transaction');
  const { tx } = decoded;
  const weight = txWeight(tx);
  const vsize = Math.ceil(weight / 4);
  const feeMost = (feeRateMax(walk) * BigInt(vsize)) / 1000n + DUST_SLACK_SATS;
  const trouble = !sameSkeleton(made.tx, tx)
    ? 'it is not the transaction that was made'
    : tx.inputs.some((input) => input.script.length === 0 && input.witness.length === 0)
      ? 'an input is not signed'
      : weight > WEIGHT_MAX
        ? `it weighs ${weight}`
        : generation.feeSats > feeMost
          ? `its fee of ${generation.feeSats} sat is above the highest rate`
          : null;
  if (trouble !== null) return refuseSigned(walk, batch, generation, trouble);
  if (!cold) {
    const verdict = await testTransaction(walk, raw);
    if (!verdict.ok) {
      walk.raise(verdict.alarm, verdict.text);
      return false;
    }
    const { reason } = verdict.value;
    if (reason !== null && !/txn-already-(known|in-mempool)/.test(reason))
      return refuseSigned(walk, batch, generation, `the node refuses it: ${reason}`);
  }
  const signed = { generation: generation.generation, raw, txid: txid(tx), vsize };
  if ((await storeSigned(walk.db, batch.batchId, signed, walk.clock.nowMs())) === null)
    return false;
  walk.fault(generation.generation === 1 ? 'payout.signed' : 'payout.bumpSigned');
  return true;
}

/** Signed badly, or refused by the node, and never sent: given up. A cold one may be imported again. */
async function refuseSigned(
  walk: Walk,
  batch: BatchDetail,
  generation: BatchGeneration,
  reason: string,
): Promise<false> {
  const atMs = walk.clock.nowMs();
  walk.raise('refused', `batch ${batch.batchId}: ${reason}`);
  walk.log.warn('A signed payout is refused.', { batch: batch.batchId, reason });
  if (batch.signing === 'cold')
    await refuseImport(walk.db, batch.batchId, generation.generation, reason, atMs);
  else if (generation.generation > 1)
    await dropGeneration(walk.db, batch.batchId, generation.generation, reason, atMs);
  else await release(walk, batch, reason);
  return false;
}

/** signed → broadcast: first the mark, then the bytes. True when the generation went on. */
export async function broadcastGeneration(
  walk: Walk,
  batch: BatchDetail,
  generation: BatchGeneration,
): Promise<boolean> {
  const { batchId } = batch;
  const marked = await markBroadcast(walk.db, batchId, generation.generation, walk.clock.nowMs());
  if (marked === null || generation.raw === null) return false;
  const first = generation.generation === 1;
  walk.fault(first ? 'payout.marked' : 'payout.bumpMarked');
  const verdict = await sendTransaction(walk, generation.raw);
  walk.fault(first ? 'payout.sent' : 'payout.bumpSent');
  if (verdict.kind === 'taken')
    await markSent(walk.db, batchId, generation.generation, walk.clock.nowMs());
  else if (verdict.kind === 'refused') walk.raise('refused', `batch ${batchId}: ${verdict.detail}`);
  walk.log.info('A payout was sent.', {
    batch: batchId,
    generation: generation.generation,
    totalSats: batch.totalSats,
    feeSats: generation.feeSats,
    answer: verdict.kind,
  });
  return true;
}
