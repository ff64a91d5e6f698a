/**
 * The settings about money, checked against each other: which pools there are and how each pays, and how payouts go out.
 *
 * Refused: addresses of another network, a fee with nobody to take it, schemes that ruin their operator, limits that could
 * never be met. What is only without effect is a warning.
 */

import type { Combining } from '../config.ts';
import { decodeAddress } from '../core/bitcoin/address.ts';
import type { Network } from '../core/bitcoin/network.ts';
import { formatSats } from '../core/ledger/amount.ts';
import type { PayoutPolicy, PoolRules, Scheme } from '../core/ledger/rules.ts';
import { show } from './grammar.ts';
import { SETTINGS, type SettingName } from './settings.ts';

/** The part of the configuration that is made here. */
export type MoneyConfig = {
  /** The first is `main`. `address` is null only on the development chain, where one of its wallet is to be taken. */
  pools: readonly PoolRules[];
  /** Null: what miners earn is booked, and nothing is paid out. */
  payouts: PayoutPolicy | null;
  shareRetentionDays: number;
  /** At least as long as shares are kept. */
  spanRetentionDays: number;
};

/** The pool that the settings beside POOLS describe, and that ports serve unless they say otherwise. */
export const MAIN_POOL = 'main';

/** What the Stratum server document’s example file says. */
const EXAMPLE_ADDRESS = 'your-pool-address-here';
const DEVNET_WALLET = 'headframe';
const DEFAULT_FEE_PPM = 10_000;
const MILLION = 1_000_000;
const BITCOIN_SATS = 100_000_000n;
/** Of the five forms of address, the one with the highest bound (Bitcoin Core’s rule at 3,000 sat/kvB): P2PKH. */
const DUST_SATS = 546n;
const POOLS_MAX = 16;

/** Schemes in which the pool holds what miners earn until it is paid out. */
const CUSTODIAL: ReadonlySet<Scheme> = new Set(['pplns', 'prop', 'pps', 'fpps']);
/** Schemes in which the coinbase itself pays the miners. */
const BY_COINBASE: ReadonlySet<Scheme> = new Set(['solo', 'direct']);

/** One pool as it was written; null is not written. `where` names a field of it for people. */
type WrittenPool = {
  id: string;
  scheme: Scheme;
  feePpm: number | null;
  feeAddress: string | null;
  address: string | null;
  windowFactorPpm: bigint | null;
  windowDays: number | null;
  ruinPpmMax: number;
  onRuin: 'refuse' | 'downgrade';
  where(field: PoolField): string;
};

const POOL_FIELDS = {
  fee: 'poolFee',
  fee_address: 'feeAddress',
  address: 'poolAddress',
  window_factor: 'windowFactor',
  window_days: 'windowDays',
} as const satisfies Record<string, SettingName>;
type PoolField = keyof typeof POOL_FIELDS;

/** Pools, payouts and retention. Faults go to `given.errors`. */
export function combineMoney(
  given: Combining,
  mode: 'node' | 'devnet',
  network: Network,
): MoneyConfig {
  const { values, errors } = given;
  const pools = combinePools(given, mode, network);
  checkPortPools(given, pools);
  const shareRetentionDays = values.shareRetention;
  const spanRetentionDays = values.spanRetention;
  if (spanRetentionDays < shareRetentionDays) {
    errors.push(
      `SPAN_RETENTION_DAYS ${spanRetentionDays} is below SHARE_RETENTION_DAYS ${shareRetentionDays}: the sums must be kept at least as long as the shares.`,
    );
  }
  return {
    pools,
    payouts: combinePayouts(given, mode, network, pools),
    shareRetentionDays,
    spanRetentionDays,
  };
}

// ── Pools ────────────────────────────────────────────────────────────────────────────────────────────────────────────

function combinePools(given: Combining, mode: 'node' | 'devnet', network: Network): PoolRules[] {
  const { values, found, errors, warnings } = given;
  const main: WrittenPool = {
    id: MAIN_POOL,
    scheme: values.payoutMode,
    feePpm: values.poolFee,
    feeAddress: values.feeAddress,
    address: values.poolAddress,
    windowFactorPpm: values.windowFactor,
    windowDays: values.windowDays,
    ruinPpmMax: values.ruinMax,
    onRuin: values.onRuin,
    where: (field) => nameOf(given, POOL_FIELDS[field]),
  };
  const written = [main];
  const poolsName = nameOf(given, 'morePools');
  for (const fields of values.morePools ?? []) {
    const or = <T>(name: string, fallback: T): T => (fields.get(name) as T | undefined) ?? fallback;
    const id = fields.get('id') as string;
    const hasWindow = fields.has('window_factor') || fields.has('window_days');
    written.push({
      id,
      scheme: or('scheme', main.scheme),
      feePpm: or('fee', main.feePpm),
      feeAddress: or('fee_address', main.feeAddress),
      address: or('address', main.address),
      windowFactorPpm: or('window_factor', hasWindow ? null : main.windowFactorPpm),
      windowDays: or('window_days', hasWindow ? null : main.windowDays),
      ruinPpmMax: or('ruin_max', main.ruinPpmMax),
      onRuin: or('on_ruin', main.onRuin),
      where: (field) =>
        fields.has(field) ? `${poolsName}: pool ${show(id)}: ${field}` : main.where(field),
    });
  }
  const ids = written.map(({ id }) => id);
  if (ids.length > POOLS_MAX) errors.push(`More than ${POOLS_MAX} pools are configured.`);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) {
    errors.push(
      id === MAIN_POOL
        ? `${poolsName} lists ${show(MAIN_POOL)}, which is the pool that PAYOUT_MODE and the settings beside it describe: call this one something else.`
        : `${poolsName}: two pools are called ${show(id)}.`,
    );
  }
  const developer = combineDeveloper(given, network, written);
  const pools = written.map((pool) => combinePool(given, mode, network, pool, developer));
  warnUnread(
    given,
    written.every(({ scheme }) => scheme === 'pool'),
    ['poolFee', 'feeAddress'],
    'every pool is of scheme pool',
  );
  warnUnread(
    given,
    !written.some(
      ({ scheme, onRuin }) =>
        scheme === 'pplns' || scheme === 'direct' || (isPps(scheme) && onRuin === 'downgrade'),
    ),
    ['windowFactor', 'windowDays'],
    'no pool is of scheme pplns or direct',
  );
  warnUnread(
    given,
    !written.some(({ scheme }) => isPps(scheme)),
    ['ruinMax', 'onRuin'],
    'no pool is of scheme pps or fpps',
  );
  if (values.developerAddress !== null && !written.some(({ scheme }) => CUSTODIAL.has(scheme))) {
    warnings.push(
      `${found.get('developerAddress')!.where} has no effect: no pool is of scheme pplns, prop, pps or fpps.`,
    );
  }
  return pools;
}

function combinePool(
  given: Combining,
  mode: 'node' | 'devnet',
  network: Network,
  written: WrittenPool,
  developer: { feePpm: number; address: string | null },
): PoolRules {
  const { errors } = given;
  const { id, scheme } = written;
  const paysAddress = !BY_COINBASE.has(scheme);
  const address = checkAddress(given, mode, network, written.address, written.where('address'));
  const feeAddress = checkAddress(
    given,
    mode,
    network,
    written.feeAddress,
    written.where('fee_address'),
  );
  if (paysAddress && written.address === null && mode === 'node') {
    errors.push(
      id === MAIN_POOL
        ? `POOL_ADDRESS is missing: the ${network} address that blocks are to pay, or PAYOUT_MODE=solo to pay their finders.`
        : `Pool ${show(id)} of scheme ${scheme} has no address for its blocks to pay: give it one, or set POOL_ADDRESS.`,
    );
  }
  // Where the coinbase pays the miners it pays the fee too, so there must be an address.
  const feeTaker = paysAddress ? feeAddress : (feeAddress ?? address);
  const isTakerWritten = paysAddress || written.feeAddress !== null || written.address !== null;
  let feePpm = written.feePpm ?? (isTakerWritten ? DEFAULT_FEE_PPM : 0);
  if (scheme === 'pool') feePpm = 0;
  else if (feePpm > 0 && !isTakerWritten) {
    errors.push(
      `${written.where('fee')} asks for a fee, but neither FEE_ADDRESS nor POOL_ADDRESS says who gets it${id === MAIN_POOL ? '' : ` in pool ${show(id)}`}.`,
    );
  }
  const developerFeePpm = CUSTODIAL.has(scheme) ? developer.feePpm : 0;
  if (feePpm + developerFeePpm > MILLION) {
    errors.push(
      `${written.where('fee')} and DEVELOPER_FEE_PERCENT are more than 100 percent together.`,
    );
  }
  if (isPps(scheme) && feePpm === 0) {
    errors.push(
      `Pool ${show(id)} of scheme ${scheme} takes no fee: it pays for shares whether blocks are found or not, so without a fee ruin is certain. Set ${written.where('fee')}.`,
    );
  }
  if (isPps(scheme) && written.ruinPpmMax === 0) {
    errors.push(
      `Pool ${show(id)} of scheme ${scheme} allows no chance of ruin at all, which no reserve can promise: PPS_RUIN_PERCENT_MAX must be above 0.`,
    );
  }
  return {
    id,
    scheme,
    window: combineWindow(given, written),
    feePpm,
    feeAddress: feePpm === 0 && !paysAddress ? null : feeTaker,
    developerFeePpm,
    developerAddress: developer.address,
    address,
    ruinPpmMax: written.ruinPpmMax,
    onRuin: written.onRuin,
  };
}

function combineWindow({ values, errors }: Combining, written: WrittenPool): PoolRules['window'] {
  const { windowDays: days, windowFactorPpm } = written;
  if (days === null) return { kind: 'work', factorPpm: windowFactorPpm ?? 2_000_000n };
  if (windowFactorPpm !== null) {
    errors.push(
      `${written.where('window_factor')} and ${written.where('window_days')} both say how large the window is: keep one of them.`,
    );
  }
  if (days > values.shareRetention) {
    errors.push(
      `${written.where('window_days')} asks for ${days} days, but shares are kept for ${values.shareRetention}: raise SHARE_RETENTION_DAYS.`,
    );
  }
  return { kind: 'days', days };
}

function combineDeveloper(
  given: Combining,
  network: Network,
  written: readonly WrittenPool[],
): { feePpm: number; address: string | null } {
  const { values, errors } = given;
  const feePpm = values.developerFee;
  const where = nameOf(given, 'developerFee');
  const address = checkAddress(
    given,
    'node',
    network,
    values.developerAddress,
    nameOf(given, 'developerAddress'),
  );
  if (feePpm > 0 && values.developerAddress === null) {
    errors.push(`${where} asks for a fee, but DEVELOPER_ADDRESS does not say who gets it.`);
  }
  if (feePpm > 0 && !written.some(({ scheme }) => CUSTODIAL.has(scheme))) {
    errors.push(
      `${where} asks for a fee, but it can be taken in the schemes pplns, prop, pps and fpps only, and no pool is of one of them.`,
    );
  }
  return { feePpm, address };
}

/** The canonical spelling; null when there is none, or a faulty one that has been reported. */
function checkAddress(
  { errors, warnings }: Combining,
  mode: 'node' | 'devnet',
  network: Network,
  text: string | null,
  where: string,
): string | null {
  if (text === null) return null;
  if (text === EXAMPLE_ADDRESS) {
    errors.push(`${where} still is the example: set an address of yours.`);
    return null;
  }
  const answer = decodeAddress(text, network);
  if (answer.ok) {
    if (answer.unusual)
      pushOnce(warnings, `${where} is an address whose coins nobody is known to be able to spend.`);
    return answer.canonical;
  }
  errors.push(
    mode === 'devnet'
      ? `${where} is not an address of the development chain (${answer.reason}). If you want to mine for it, configure a node: BITCOIN_RPC_HOST and user and password or cookie file.`
      : `${where} is not an address of ${network}: ${answer.reason}.`,
  );
  return null;
}

/** Every port names a pool that there is; a pool without a port is a warning. */
function checkPortPools(given: Combining, pools: readonly PoolRules[]): void {
  const { values, errors, warnings } = given;
  const ids = new Set(pools.map(({ id }) => id));
  const served = new Set([MAIN_POOL]);
  for (const fields of values.morePorts ?? []) {
    const pool = fields.get('pool') as string | undefined;
    if (pool === undefined) continue;
    served.add(pool);
    if (!ids.has(pool)) {
      errors.push(
        `${nameOf(given, 'morePorts')}: port ${fields.get('port')} names the pool ${show(pool)}, which there is not; there are ${[...ids].map(show).join(', ')}.`,
      );
    }
  }
  for (const id of ids) {
    if (!served.has(id)) {
      warnings.push(`No port serves the pool ${show(id)}: give one of LISTEN_PORTS pool=${id}.`);
    }
  }
}

// ── Payouts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const payoutSettings: readonly SettingName[] = [
  'payoutSigning',
  'payoutMinimum',
  'payoutSchedule',
  'payoutFeePolicy',
  'payoutFeeRateMax',
  'payoutFeeMax',
  'payoutConfirmTarget',
  'payoutOutputsMax',
  'payoutTransactionMax',
  'payoutDailyMax',
  'payoutConfirmations',
  'payoutMaturity',
  'payoutBumpAfter',
];

function combinePayouts(
  given: Combining,
  mode: 'node' | 'devnet',
  network: Network,
  pools: readonly PoolRules[],
): PayoutPolicy | null {
  const { values, found, errors, warnings } = given;
  const isCustodial = pools.some(({ scheme }) => CUSTODIAL.has(scheme));
  if (!isCustodial) {
    if (found.has('payoutWallet')) {
      errors.push(
        `${nameOf(given, 'payoutWallet')} names a wallet to pay miners from, but there is nothing to pay: no pool is of scheme pplns, prop, pps or fpps.`,
      );
    }
    warnUnread(given, true, payoutSettings, 'no pool holds money for miners');
    return null;
  }
  let wallet = values.payoutWallet;
  if (wallet === null && mode === 'devnet') {
    if (values.poolAddress === null) wallet = DEVNET_WALLET;
    else {
      warnings.push(
        `${nameOf(given, 'poolAddress')} is set, so blocks of the development chain do not pay its own wallet, and nothing is paid out. PAYOUT_WALLET=${DEVNET_WALLET} pays from that wallet all the same.`,
      );
    }
  } else if (wallet === null) {
    warnings.push(
      'PAYOUT_WALLET is not set: what miners earn is booked in the ledger, and nothing is paid out.',
    );
  }
  if (wallet === null) {
    warnUnread(given, true, payoutSettings, 'PAYOUT_WALLET is not set');
    return null;
  }
  const isDevnet = mode === 'devnet';
  const minimumSats = values.payoutMinimum ?? (isDevnet ? BITCOIN_SATS / 100n : 100_000n);
  const boundSats = network === 'regtest' ? 21_000_000n * BITCOIN_SATS : null;
  const transactionMaxSats =
    values.payoutTransactionMax ??
    boundSats ??
    lesser(10n * BITCOIN_SATS, values.payoutDailyMax ?? 10n * BITCOIN_SATS);
  const dailyMaxSats =
    values.payoutDailyMax ?? boundSats ?? greater(50n * BITCOIN_SATS, transactionMaxSats);
  if (minimumSats < DUST_SATS) {
    errors.push(
      `${nameOf(given, 'payoutMinimum')} is ${formatSats(minimumSats)}, below ${formatSats(DUST_SATS)}: the network does not take outputs that small.`,
    );
  }
  if (dailyMaxSats < minimumSats) {
    errors.push(
      `PAYOUT_DAILY_MAX is ${formatSats(dailyMaxSats)}, below PAYOUT_MINIMUM, ${formatSats(minimumSats)}: nothing could ever be paid.`,
    );
  } else if (transactionMaxSats < minimumSats) {
    errors.push(
      `PAYOUT_TRANSACTION_MAX is ${formatSats(transactionMaxSats)}, below PAYOUT_MINIMUM, ${formatSats(minimumSats)}: nothing could ever be paid.`,
    );
  } else if (dailyMaxSats < transactionMaxSats && found.has('payoutTransactionMax')) {
    errors.push(
      `PAYOUT_DAILY_MAX is ${formatSats(dailyMaxSats)}, below PAYOUT_TRANSACTION_MAX, ${formatSats(transactionMaxSats)}: such a transaction could never be sent.`,
    );
  }
  return {
    wallet,
    signing: values.payoutSigning,
    minimumSats,
    schedule: values.payoutSchedule ?? {
      kind: 'every',
      intervalMs: isDevnet ? 60_000 : 3_600_000,
    },
    feePolicy: values.payoutFeePolicy,
    feeRateMaxSatsPerVb: values.payoutFeeRateMax,
    feePpmMax: values.payoutFeeMax,
    confirmTarget: values.payoutConfirmTarget,
    outputsMax: values.payoutOutputsMax,
    transactionMaxSats: lesser(transactionMaxSats, dailyMaxSats),
    dailyMaxSats,
    confirmations: values.payoutConfirmations,
    maturity: values.payoutMaturity,
    bumpAfterMs: values.payoutBumpAfter ?? (isDevnet ? 600_000 : 21_600_000),
  };
}

// ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How the operator wrote the setting, or its name. */
function nameOf({ found }: Combining, name: SettingName): string {
  return found.get(name)?.where ?? SETTINGS[name].env;
}

function warnUnread(
  { found, warnings }: Combining,
  isUnread: boolean,
  names: readonly SettingName[],
  why: string,
): void {
  if (!isUnread) return;
  for (const name of names) {
    const source = found.get(name);
    if (source !== undefined) warnings.push(`${source.where} has no effect: ${why}.`);
  }
}

function pushOnce(lines: string[], line: string): void {
  if (!lines.includes(line)) lines.push(line);
}

function isPps(scheme: Scheme): boolean {
  return scheme === 'pps' || scheme === 'fpps';
}

function lesser(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function greater(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
