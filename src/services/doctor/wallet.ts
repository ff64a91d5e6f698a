/**
 * The doctor's look at the wallet that payouts leave from: is it there, can it sign as configured, and is it the one that blocks pay.
 * Asks only; creates and unlocks nothing.
 */
import type { Rpc, RpcAnswer } from '../../core/node/rpc.ts';

/** As in `doctor.ts`. */
type Finding = { state: 'ok' | 'note' | 'bad'; what: string; says: string; advice?: string };

/** What the doctor needs of the configuration of payouts and pools. */
export type WalletConfig = {
  pools: readonly { id: string; scheme: string; address: string | null }[];
  payouts: { wallet: string; signing: 'hot' | 'cold' } | null;
};

/** Schemes whose blocks are held by the pool until they are paid out. */
const CUSTODIAL: ReadonlySet<string> = new Set(['pplns', 'prop', 'pps', 'fpps']);

/** Checks the wallet behind `rpc`, whose address ends in `/wallet/<name>`. */
export async function checkWallet(rpc: Rpc, config: WalletConfig): Promise<Finding[]> {
  const { payouts, pools } = config;
  const custodial = pools.filter(({ scheme }) => CUSTODIAL.has(scheme));
  if (payouts === null) {
    if (custodial.length === 0) return [];
    return [
      {
        state: 'note',
        what: 'payouts',
        says: 'are off: what miners earn is booked, and nothing is paid',
        advice: 'name a wallet of the node in PAYOUT_WALLET to pay it out',
      },
    ];
  }
  const what = `wallet ${payouts.wallet}`;
  const answer = await rpc.call('getwalletinfo', []);
  if (answer.kind !== 'result') {
    const isMissing = answer.kind === 'error' && answer.code === -18;
    return [
      {
        state: 'bad',
        what,
        says: isMissing ? 'is not loaded at the first node' : `does not answer: ${wordsOf(answer)}`,
        ...(isMissing
          ? { advice: `bitcoin-cli loadwallet "${payouts.wallet}", or createwallet the first time` }
          : {}),
      },
    ];
  }
  const info = (answer.result ?? {}) as Record<string, unknown>;
  const findings: Finding[] = [];
  if (payouts.signing === 'hot' && info.private_keys_enabled === false) {
    findings.push({
      state: 'bad',
      what,
      says: 'has no private keys, and PAYOUT_SIGNING is hot',
      advice: 'set PAYOUT_SIGNING=cold to export what is to be signed, or use a wallet with keys',
    });
  } else if (payouts.signing === 'hot' && info.unlocked_until === 0) {
    findings.push({
      state: 'note',
      what,
      says: 'is locked; payouts wait until it is unlocked',
      advice: 'bitcoin-cli walletpassphrase; a cold wallet (PAYOUT_SIGNING=cold) needs no key here',
    });
  } else {
    findings.push({ state: 'ok', what, says: `answers, for ${payouts.signing} signing` });
  }
  for (const pool of custodial) {
    if (pool.address === null) continue;
    const owner = await rpc.call('getaddressinfo', [pool.address]);
    if (owner.kind !== 'result') continue;
    const { ismine } = (owner.result ?? {}) as Record<string, unknown>;
    findings.push(
      ismine === true
        ? { state: 'ok', what, says: `owns ${pool.address}, which blocks of pool ${pool.id} pay` }
        : {
            state: 'bad',
            what,
            says: `does not own ${pool.address}, which blocks of pool ${pool.id} pay`,
            advice:
              'take POOL_ADDRESS from this wallet (bitcoin-cli getnewaddress), or move rewards into it by hand and know that payouts stop whenever it holds less than is owed',
          },
    );
  }
  return findings;
}

function wordsOf(answer: Exclude<RpcAnswer, { kind: 'result' }>): string {
  return (answer.kind === 'error' ? answer.message : answer.detail).slice(0, 200);
}
