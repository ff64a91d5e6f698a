/** The status page: tables of what runs, of workers, blocks, accounts and payouts. Plain HTML without scripts; everything is escaped. */

import { formatSats } from '../../core/ledger/amount.ts';
import type { AccountView, PayoutView } from './money.ts';
import type { BlockView, PoolStatus, ServiceView, WorkerStatus } from './views.ts';

const WORKERS_SHOWN = 100;
const BLOCKS_SHOWN = 20;

/**
 * Renders the page. `host` is the name the reader used, for the addresses to give to miners. `hasRejections`: the last rejections of each
 * worker have an address of their own; elsewhere their reasons are counted here.
 */
export function renderPage(
  shown: {
    pool: PoolStatus;
    workers: readonly WorkerStatus[];
    blocks: readonly BlockView[];
    accounts: readonly AccountView[];
    payouts: readonly PayoutView[];
    /** Empty where everything is one process. */
    services: readonly ServiceView[];
  },
  at: { host: string; nowMs: number; hasRejections: boolean },
): string {
  const { pool, workers, blocks, accounts, payouts, services } = shown;
  const ports = pool.stratumPorts.flatMap(({ port, tls, startDifficulty }) => {
    const from = `from difficulty ${formatNumber(startDifficulty)}`;
    const plain =
      tls === 'only' ? [] : [`<code>stratum+tcp://${escapeHtml(at.host)}:${port}</code> (${from})`];
    return tls === 'off'
      ? plain
      : [...plain, `<code>stratum+ssl://${escapeHtml(at.host)}:${port}</code>`];
  });
  const rows: [string, string][] = [
    [
      'Network',
      `${escapeHtml(pool.network)}${pool.isDevelopment ? ' (development chain: no node is configured)' : ''}`,
    ],
    ['Height', `${pool.height}, difficulty ${formatNumber(pool.networkDifficulty)}`],
    [
      'Work',
      { fine: 'fresh', degraded: 'older than two minutes', none: 'none: see the log' }[pool.work],
    ],
    ['Pays', pool.pools.map(describePool).join('<br>')],
    ['Payouts', describePayouts(pool.payouts)],
    ['Point a miner at', ports.join('<br>')],
    [
      'Hashrate',
      `${formatHashrate(pool.hashrate.fiveMinutesHps)} now, ${formatHashrate(pool.hashrate.hourHps)} over an hour`,
    ],
    [
      'Shares',
      `${pool.sharesAccepted} accepted, ${sum(pool.sharesRejected)} rejected since ${formatAgo(at.nowMs - pool.startedAtMs)}`,
    ],
    [
      'In the database',
      pool.totals === null
        ? 'it does not answer'
        : `${pool.totals.shares} shares, ${pool.totals.blocksFound} blocks`,
    ],
    [
      'Nodes',
      pool.nodes
        .map(
          (node) =>
            `${escapeHtml(node.name)}: ${escapeHtml(node.health)}, ${escapeHtml(node.detail)}`,
        )
        .join('<br>'),
    ],
  ];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10"><meta name="viewport" content="width=device-width">
<title>Headframe</title><style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;width:100%;margin-bottom:2rem}td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}
th{font-weight:600}code{font-size:.9em;word-break:break-all}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td,th{border-color:#444}a{color:#8bf}}
</style></head><body>
<h1>Headframe</h1>
<table>${rows.map(([name, value]) => `<tr><th>${name}</th><td>${value}</td></tr>`).join('\n')}</table>
${serviceTable(services, at.nowMs)}
<h2>Workers</h2>
<table><tr><th>Worker</th><th>Hashrate</th><th>Difficulty</th><th>Accepted</th><th>Rejected</th><th>Best</th><th>Last share</th></tr>
${[...workers]
  .sort((a, b) => b.rates.fiveMinutesHps - a.rates.fiveMinutesHps)
  .slice(0, WORKERS_SHOWN)
  .map((worker) => workerRow(worker, at))
  .join('\n')}</table>
${workers.length > WORKERS_SHOWN ? `<p>${workers.length - WORKERS_SHOWN} more at <a href="/api/v1/workers">/api/v1/workers</a>.</p>` : ''}
<h2>Blocks</h2>
<table><tr><th>Height</th><th>Hash</th><th>State</th><th>Found</th><th>By</th></tr>
${blocks
  .slice(0, BLOCKS_SHOWN)
  .map((block) => blockRow(block, at.nowMs))
  .join('\n')}</table>
${accountTable(accounts)}
${payoutTable(payouts, at.nowMs)}
<p>As JSON: <a href="/api/v1/pool">pool</a>, <a href="/api/v1/workers">workers</a>, <a href="/api/v1/blocks">blocks</a>,
<a href="/api/v1/accounts">accounts</a>, <a href="/api/v1/rounds">rounds</a>, <a href="/api/v1/payouts">payouts</a>${services.length > 0 ? ', <a href="/api/v1/services">services</a>' : ''}. Version ${escapeHtml(pool.version)}.</p>
</body></html>
`;
}

const SCHEMES: Readonly<Record<string, string>> = {
  pplns: 'by PPLNS, out of',
  prop: 'by the round (PROP), out of',
  pps: 'by the share (PPS), out of',
  fpps: 'by the share with fees (FPPS), out of',
  solo: 'the finder of each block',
  direct: 'its miners in the coinbase itself, by PPLNS',
  pool: '',
};

function describePool(pool: PoolStatus['pools'][number]): string {
  const how = SCHEMES[pool.scheme] ?? escapeHtml(pool.scheme);
  const address = pool.address === null ? '' : ` <code>${escapeHtml(pool.address)}</code>`;
  const fee = pool.feePpm > 0 && pool.scheme !== 'pool' ? `, fee ${pool.feePpm / 10_000} %` : '';
  const note = pool.note === '' ? '' : ` (${escapeHtml(pool.note)})`;
  return `${pool.id === 'main' ? '' : `<code>${escapeHtml(pool.id)}</code>: `}${how}${address}${fee}${note}`;
}

function describePayouts(payouts: PoolStatus['payouts']): string {
  if (payouts === null) return 'not known yet';
  return [payouts.state, ...payouts.alarms].map(escapeHtml).join('<br>');
}

function accountTable(accounts: readonly AccountView[]): string {
  if (accounts.length === 0) return '';
  const hasCarry = accounts.some(({ carrySats }) => carrySats !== 0n);
  const rows = accounts.map((account) => {
    const sats = [account.immatureSats, account.matureSats, account.transitSats, account.paidSats];
    if (hasCarry) sats.push(account.carrySats);
    const link = `/api/v1/accounts/${encodeURIComponent(account.address)}`;
    return `<tr><td><a href="${escapeHtml(link)}"><code>${escapeHtml(account.address)}</code></a></td>${sats
      .map((amount) => `<td>${formatSats(amount)}</td>`)
      .join('')}</tr>`;
  });
  return `<h2>Accounts</h2>
<table><tr><th>Account</th><th>Maturing</th><th>To be paid</th><th>On its way</th><th>Paid</th>${hasCarry ? '<th>Carried</th>' : ''}</tr>
${rows.join('\n')}</table>`;
}

function payoutTable(payouts: readonly PayoutView[], nowMs: number): string {
  if (payouts.length === 0) return '';
  const rows = payouts.map(
    (payout) =>
      `<tr><td>${payout.batchId}</td><td>${formatSats(payout.totalSats)}</td><td>${payout.payments}</td><td>${escapeHtml(payout.state)}</td><td>${formatAgo(nowMs - payout.createdAtMs)} ago</td><td><code>${escapeHtml(payout.txidDisplay ?? '')}</code></td></tr>`,
  );
  return `<h2>Payouts</h2>
<table><tr><th>Batch</th><th>Amount</th><th>Accounts</th><th>State</th><th>Made</th><th>Transaction</th></tr>
${rows.join('\n')}</table>`;
}

function serviceTable(services: readonly ServiceView[], nowMs: number): string {
  if (services.length === 0) return '';
  const rows = services.map((one) => {
    const said = [...one.reasons, ...one.alarms].map(escapeHtml).join('<br>');
    const cells = [
      escapeHtml(one.service),
      `<code>${escapeHtml(one.instance)}</code>`,
      escapeHtml(one.state),
      formatAgo(nowMs - one.startedAtMs),
      escapeHtml(one.version),
      said,
    ];
    return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`;
  });
  return `<h2>Services</h2>
<table><tr><th>Service</th><th>Process</th><th>State</th><th>Runs for</th><th>Version</th><th></th></tr>
${rows.join('\n')}</table>`;
}

function workerRow(
  worker: WorkerStatus,
  { nowMs, hasRejections }: { nowMs: number; hasRejections: boolean },
): string {
  const name = worker.worker === '' ? worker.account : `${worker.account}.${worker.worker}`;
  const cells = [
    `<code>${escapeHtml(name)}</code>${worker.sessions === 0 ? ' (away)' : ''}`,
    formatHashrate(worker.rates.fiveMinutesHps),
    formatNumber(worker.difficulty),
    String(worker.accepted),
    rejectedCell(worker, hasRejections),
    formatNumber(worker.bestDifficulty),
    worker.lastShareAtMs === 0 ? 'none' : `${formatAgo(nowMs - worker.lastShareAtMs)} ago`,
  ];
  return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`;
}

function rejectedCell({ account, worker, rejected }: WorkerStatus, isLinked: boolean): string {
  const count = sum(rejected);
  if (count === 0) return '0';
  if (isLinked) {
    const link = `/api/v1/workers/${encodeURIComponent(`${account}.${worker}`)}/rejections`;
    return `<a href="${escapeHtml(link)}">${count}</a>`;
  }
  const reasons = Object.entries(rejected)
    .filter(([, times]) => times > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, times]) => `${reason} ${times}`);
  return `${count}: ${escapeHtml(reasons.join(', '))}`;
}

function blockRow(block: BlockView, nowMs: number): string {
  const cells = [
    String(block.height),
    `<code>${escapeHtml(block.hashDisplay)}</code>`,
    `${escapeHtml(block.state)}${block.confirmations > 0 ? `, ${block.confirmations} deep` : ''}`,
    block.foundAtMs === null ? '' : `${formatAgo(nowMs - block.foundAtMs)} ago`,
    `<code>${escapeHtml(block.worker ?? '')}</code>`,
  ];
  return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`;
}

/** Hashes per second for people: `1.21 TH/s`. */
export function formatHashrate(hashesPerSecond: number): string {
  const units = ['H/s', 'kH/s', 'MH/s', 'GH/s', 'TH/s', 'PH/s', 'EH/s', 'ZH/s'];
  if (!(hashesPerSecond > 0)) return '0 H/s';
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(hashesPerSecond) / 3)));
  return `${Number((hashesPerSecond / 1000 ** step).toPrecision(3))} ${units[step]}`;
}

function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return '';
  return value !== 0 && (value < 0.001 || value >= 1e12)
    ? value.toExponential(2)
    : String(Number(value.toPrecision(6)));
}

function formatAgo(elapsedMs: number): string {
  const seconds = Math.max(0, Math.round(elapsedMs / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800
    ? `${Math.round(seconds / 3_600)} h`
    : `${Math.round(seconds / 86_400)} days`;
}

function sum(counts: Record<string, number>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
