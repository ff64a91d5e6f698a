/**
 * `headframe doctor`: looks at everything a pool needs before it is started, and says in plain words what is wrong and what to do.
 * What `start` would make is made here too (the data folder and the database's files in it); nothing else is changed: a test file is
 * removed again, ports are opened for a moment, the node is only asked.
 *
 * Every check is bounded in time and never throws; one that can not be made says so.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, open, rm, statfs } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { NETWORKS, type Network } from '../../core/bitcoin/network.ts';
import { decodeChainState } from '../../core/node/answers.ts';
import type { NodeAddress, OpenRpc, RpcAnswer } from '../../core/node/rpc.ts';
import { walletAddress } from '../../core/node/wallet.ts';
import { decodeTemplate } from '../../core/work/template.ts';
import type { Clock } from '../../ports.ts';
import { checkWallet, type WalletConfig } from './wallet.ts';

export type DoctorTools = {
  clock: Clock;
  openRpc: OpenRpc;
  /** One line of the report, without newline. */
  print(line: string): void;
  /** Starts or reaches the database and asks it something; resolves with its version, rejects with what is wrong. */
  tryDatabase(): Promise<string>;
  /** Files this process may have open; null when not known. */
  openFilesMax: number | null;
};

/** What the doctor needs of the configuration; the whole `Config` fits. */
export type DoctorConfig = WalletConfig & {
  mode: 'node' | 'devnet';
  network: Network;
  dataDir: string;
  nodes: readonly NodeAddress[];
  stratum: {
    ports: readonly { port: number; host?: string }[];
    admission: { connectionsMax: number };
  };
  journal: { directory: string; mode: 'disk' | 'memory'; unshippedBytesMax: number };
  database: { url: string | null };
  api: { host: string; port: number } | null;
  metrics: { host: string; port: number } | null;
};

/** The answer of `readConfig`. */
export type DoctorSubject =
  | { ok: true; config: DoctorConfig; warnings: readonly string[] }
  | { ok: false; errors: readonly string[]; warnings: readonly string[] };

/** `note` is worth knowing; only `bad` makes the doctor end with 1. */
type Finding = { state: 'ok' | 'note' | 'bad'; what: string; says: string; advice?: string };

const CALL_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 3_000;
const DATABASE_TIMEOUT_MS = 60_000;
const FREE_BYTES_MIN = 2 * 1024 ** 3;
const SYNC_TRIES = 20;
/** Above this, every share waits noticeably for its answer. */
const SYNC_SLOW_MS = 20;
const CLOCK_OFF_SECONDS = 10;
/** A node without a block for so long is more likely cut off than unlucky (0.0006 % by chance). */
const SILENT_SECONDS = 7_200;

/** Makes all checks, prints the report, and answers the exit code: 0 when nothing is bad, else 1. */
export async function runDoctor(tools: DoctorTools, subject: DoctorSubject): Promise<0 | 1> {
  const findings: Finding[] = [];
  const add = (finding: Finding) => {
    findings.push(finding);
    printFinding(tools, finding);
  };
  for (const warning of subject.warnings)
    add({ state: 'note', what: 'configuration', says: warning });
  if (!subject.ok) {
    for (const error of subject.errors) add({ state: 'bad', what: 'configuration', says: error });
  } else {
    const { config } = subject;
    add({ state: 'ok', what: 'configuration', says: describe(config) });
    for (const node of config.nodes)
      for (const finding of await checkNode(tools, config, node)) add(finding);
    for (const finding of await checkPayouts(tools, config)) add(finding);
    if (config.mode === 'devnet') {
      add({
        state: 'note',
        what: 'node',
        says: 'none is configured, so a development chain would be started',
        advice:
          'to mine real coins, set BITCOIN_RPC_HOST, BITCOIN_RPC_USER, BITCOIN_RPC_PASSWORD and POOL_ADDRESS',
      });
    }
    for (const finding of await checkPorts(config)) add(finding);
    for (const finding of await checkDisk(config)) add(finding);
    add(checkFiles(tools, config));
    add(await checkDatabase(tools, config));
  }
  const bad = findings.filter((finding) => finding.state === 'bad').length;
  tools.print('');
  tools.print(
    bad === 0
      ? 'Nothing is in the way of "headframe start".'
      : `${bad === 1 ? 'One thing is' : `${bad} things are`} wrong.`,
  );
  return bad === 0 ? 0 : 1;
}

function printFinding({ print }: DoctorTools, { state, what, says, advice }: Finding): void {
  print(`${{ ok: 'ok   ', note: 'note ', bad: 'WRONG' }[state]}  ${what.padEnd(14)} ${says}`);
  if (advice !== undefined) print(`${' '.repeat(22)}→ ${advice}`);
}

function describe(config: DoctorConfig): string {
  const pools = config.pools.map(({ id, scheme, address }) => {
    const payee =
      scheme === 'solo'
        ? 'the finder'
        : scheme === 'direct'
          ? 'its miners'
          : (address ?? 'its own wallet');
    return `pool ${id} (${scheme}) pays blocks to ${payee}`;
  });
  return `${config.mode === 'devnet' ? 'a development chain' : config.network}, ${pools.join(', ')}, data in ${config.dataDir}`;
}

// ── Node ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function checkNode(
  tools: DoctorTools,
  config: DoctorConfig,
  node: NodeAddress,
): Promise<Finding[]> {
  const what = `node ${node.name}`;
  const rpc = tools.openRpc(node, { timeoutMs: CALL_TIMEOUT_MS, breaker: false });
  const findings: Finding[] = [];
  const ask = (method: string, params: readonly unknown[] = []) =>
    rpc.call(method, params, { timeoutMs: CALL_TIMEOUT_MS });
  try {
    const answer = await ask('getblockchaininfo');
    const state = answer.kind === 'result' ? decodeChainState(answer.result) : null;
    if (state === null) return [{ state: 'bad', what, ...explain(answer, node) }];
    const expected = NETWORKS[config.network];
    const genesis = await ask('getblockhash', [0]);
    if (genesis.kind === 'result' && genesis.result !== expected.genesisHashDisplay) {
      return [
        {
          state: 'bad',
          what,
          says: `is on chain "${state.chain}", not on ${config.network}`,
          advice: 'set NETWORK to the chain of the node, or point to another node',
        },
      ];
    }
    if (state.initialBlockDownload && config.network !== 'regtest') {
      findings.push({
        state: 'bad',
        what,
        says: `is still loading the chain: block ${state.blocks} of ${state.headers}`,
        advice: 'wait until it is done; no work can be handed out before',
      });
    } else {
      findings.push({
        state: 'ok',
        what,
        says: `answers, on ${config.network}, at block ${state.blocks}`,
      });
    }
    findings.push(...(await checkTemplate(tools, config, what, ask)));
    findings.push(...(await checkZmq(what, node, ask)));
    const version = await ask('getnetworkinfo');
    const number =
      version.kind === 'result'
        ? (version.result as { version?: unknown } | null)?.version
        : undefined;
    if (typeof number === 'number' && number >= 10_000 && number < 220_000) {
      findings.push({
        state: 'note',
        what,
        says: `is Bitcoin Core ${Math.floor(number / 10_000)}, which is old`,
        advice: 'run 22 or later: taproot blocks need it',
      });
    }
    return findings;
  } catch (error) {
    return [...findings, { state: 'bad', what, says: `could not be asked: ${reasonOf(error)}` }];
  } finally {
    rpc.stop();
  }
}

/** The wallet of the first node, through a door of its own. */
async function checkPayouts(tools: DoctorTools, config: DoctorConfig): Promise<Finding[]> {
  const [node] = config.nodes;
  if (node === undefined) return [];
  const wallet = config.payouts?.wallet ?? '';
  const purpose = { timeoutMs: CALL_TIMEOUT_MS, breaker: false };
  const rpc = tools.openRpc(walletAddress(node, wallet), purpose);
  try {
    return await checkWallet(rpc, config);
  } finally {
    rpc.stop();
  }
}

type Ask = (method: string, params?: readonly unknown[]) => Promise<RpcAnswer>;

async function checkTemplate(
  tools: DoctorTools,
  config: DoctorConfig,
  what: string,
  ask: Ask,
): Promise<Finding[]> {
  const rules = config.network === 'signet' ? ['segwit', 'signet'] : ['segwit'];
  const answer = await ask('getblocktemplate', [{ rules }]);
  const nowSeconds = tools.clock.nowMs() / 1000;
  if (answer.kind !== 'result') {
    const text = answer.kind === 'error' ? answer.message : answer.detail;
    const alone = /not connected/i.test(text);
    return [
      {
        state: 'bad',
        what,
        says: `gives no block template: ${text.slice(0, 200)}`,
        advice: alone
          ? 'the node has no peers; give it a network connection'
          : 'see the log of the node',
      },
    ];
  }
  const decoded = decodeTemplate(answer.result, config.network);
  if (!decoded.ok)
    return [
      { state: 'bad', what, says: `gives a template that can not be mined: ${decoded.reason}` },
    ];
  const { template } = decoded;
  const findings: Finding[] = [
    {
      state: 'ok',
      what,
      says: `gives work for block ${template.height} with ${template.transactions.length} transactions`,
    },
  ];
  const offSeconds = template.curtime - nowSeconds;
  // A template may be ahead of the clock when blocks came fast; behind it is always a clock.
  if (offSeconds < -CLOCK_OFF_SECONDS || offSeconds > 7_200) {
    findings.push({
      state: 'bad',
      what: 'clock',
      says: `this machine and ${what} differ by ${Math.round(Math.abs(offSeconds))} s`,
      advice: 'set both clocks by NTP (timedatectl set-ntp true)',
    });
  } else {
    findings.push({ state: 'ok', what: 'clock', says: `agrees with ${what}` });
  }
  const sinceMintimeSeconds = nowSeconds - template.mintime;
  if (config.network === 'mainnet' && sinceMintimeSeconds > SILENT_SECONDS * 2) {
    findings.push({
      state: 'note',
      what,
      says: `the last blocks are ${Math.round(sinceMintimeSeconds / 3_600)} hours old`,
      advice: 'see whether the node has peers (bitcoin-cli -getinfo)',
    });
  }
  return findings;
}

/** What the node publishes, by its own word, and whether a publisher answers where we would listen. */
async function checkZmq(what: string, node: NodeAddress, ask: Ask): Promise<Finding[]> {
  const wanted = node.zmqAddresses ?? [];
  if (wanted.length === 0) {
    return [
      {
        state: 'note',
        what,
        says: 'ZMQ is off; new blocks are noticed by long-poll and by asking',
        advice: 'set BITCOIN_ZMQ_ADDR to be quicker',
      },
    ];
  }
  const answer = await ask('getzmqnotifications');
  const published = answer.kind === 'result' && Array.isArray(answer.result) ? answer.result : null;
  const topics = new Set(
    (published ?? []).map((entry: { type?: unknown }) => String(entry?.type).replace(/^pub/, '')),
  );
  const useful = ['hashblock', 'rawblock', 'sequence'].filter((topic) => topics.has(topic));
  if (published !== null && useful.length === 0) {
    return [
      {
        state: 'note',
        what,
        says: 'publishes no blocks over ZMQ; new blocks are noticed by long-poll and by asking',
        advice: `start it with zmqpubhashblock=${wanted[0]} in bitcoin.conf to be quicker, or set BITCOIN_ZMQ_ADDR=off`,
      },
    ];
  }
  const findings: Finding[] = [];
  for (const address of wanted) {
    const trouble = await greetZmq(address);
    findings.push(
      trouble === null
        ? { state: 'ok', what, says: `publishes ${useful.join(', ') || 'over ZMQ'} at ${address}` }
        : {
            state: 'note',
            what,
            says: `nothing publishes at ${address}: ${trouble}`,
            advice:
              'set BITCOIN_ZMQ_ADDR to an address of bitcoin.conf’s zmqpubhashblock that can be reached from here',
          },
    );
  }
  return findings;
}

/** Connects and waits for a ZMTP greeting (ff, 8 bytes, 7f). Null when it comes. */
function greetZmq(address: string): Promise<string | null> {
  const match = /^tcp:\/\/(.+):(\d+)$/.exec(address);
  if (match === null) return Promise.resolve('not an address');
  return new Promise((resolve) => {
    const socket = connect({ host: match[1]!.replace(/^\[(.*)\]$/, '$1'), port: Number(match[2]) });
    let bytes: Buffer = Buffer.alloc(0);
    const end = (trouble: string | null) => {
      socket.destroy();
      resolve(trouble);
    };
    socket.setTimeout(CONNECT_TIMEOUT_MS, () => end('no answer'));
    socket.on('error', (error) => end(wordsOf(error)));
    socket.on('close', () => end('it hung up'));
    // Old publishers wait for our greeting first.
    socket.on('connect', () => socket.write(Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f])));
    socket.on('data', (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      if (bytes.length < 10 && bytes[0] === 0xff) return;
      end(bytes[0] === 0xff && bytes[9] === 0x7f ? null : 'it does not speak ZMQ');
    });
  });
}

/** A failed first call in words, with what to do. */
function explain(answer: RpcAnswer, node: NodeAddress): { says: string; advice: string } {
  const at = `at ${node.url}`;
  switch (answer.kind) {
    case 'unreachable':
      return {
        says: `can not be reached ${at}: ${answer.detail}`,
        advice: 'is it running, with server=1, and does rpcallowip/rpcbind let this machine in?',
      };
    case 'unauthorized':
      return {
        says: `refuses user and password ${at}`,
        advice:
          node.cookieFile === undefined
            ? 'compare BITCOIN_RPC_USER and BITCOIN_RPC_PASSWORD with bitcoin.conf'
            : `is ${node.cookieFile} the cookie of this node, and readable?`,
      };
    case 'warming-up':
      return { says: `is starting: ${answer.detail}`, advice: 'wait a minute and look again' };
    case 'overloaded':
      return {
        says: 'has too much to do',
        advice: 'raise rpcworkqueue and rpcthreads in bitcoin.conf',
      };
    case 'timeout':
      return {
        says: `did not answer ${at} within ${CALL_TIMEOUT_MS / 1000} s`,
        advice: 'is a firewall between it and this machine?',
      };
    case 'error':
      return {
        says: `answered with error ${answer.code}: ${answer.message.slice(0, 200)}`,
        advice: 'see the log of the node',
      };
    case 'result':
      return {
        says: `answers ${at}, but not like a Bitcoin node`,
        advice: 'is this the RPC port?',
      };
    default:
      return {
        says: `answers ${at}, but not like a Bitcoin node: ${answer.detail}`,
        advice: 'is this the RPC port?',
      };
  }
}

// ── This machine ─────────────────────────────────────────────────────────────────────────────────────────────────────

async function checkPorts(config: DoctorConfig): Promise<Finding[]> {
  const wanted = config.stratum.ports.map(({ port, host }) => ({
    what: 'Stratum',
    host: host ?? '0.0.0.0',
    port,
  }));
  if (config.api !== null) wanted.push({ what: 'status page', ...config.api });
  if (config.metrics !== null) wanted.push({ what: 'metrics', ...config.metrics });
  const findings: Finding[] = [];
  for (const { what, host, port } of wanted) {
    const trouble = await tryPort(host, port);
    findings.push(
      trouble === null
        ? { state: 'ok', what: `port ${port}`, says: `is free for ${what}` }
        : {
            state: 'bad',
            what: `port ${port}`,
            says: `can not be used for ${what}: ${trouble}`,
            advice: `stop what uses it (ss -ltnp 'sport = :${port}'), or choose another port`,
          },
    );
  }
  return findings;
}

function tryPort(host: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.on('error', (error) => resolve(wordsOf(error)));
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(null)));
  });
}

async function checkDisk({ dataDir, journal }: DoctorConfig): Promise<Finding[]> {
  const what = 'disk';
  const findings: Finding[] = [];
  const existing = await nearestFolder(dataDir);
  const wasThere = existing === dataDir;
  const path = join(existing, `.doctor-${randomBytes(6).toString('hex')}`);
  try {
    await access(existing, constants.W_OK | constants.X_OK);
    const { bavail, bsize } = await statfs(existing);
    const freeBytes = bavail * bsize;
    const needBytes = FREE_BYTES_MIN + journal.unshippedBytesMax;
    findings.push({
      state: freeBytes < needBytes ? 'bad' : 'ok',
      what,
      says: `${(freeBytes / 1024 ** 3).toFixed(1)} GiB free at ${existing}${wasThere ? '' : ` (${dataDir} will be made)`}`,
      ...(freeBytes < needBytes
        ? {
            advice: `at least ${(needBytes / 1024 ** 3).toFixed(1)} GiB are needed for journal and database`,
          }
        : {}),
    });
    const medianMs = await timeSyncs(path);
    findings.push({
      state: medianMs > SYNC_SLOW_MS ? 'note' : 'ok',
      what,
      says: `a write is safe on it after ${medianMs.toFixed(1)} ms`,
      ...(medianMs > SYNC_SLOW_MS && journal.mode === 'disk'
        ? {
            advice:
              'every share is answered after that; an SSD is quicker, ACK_MODE=memory is weaker',
          }
        : {}),
    });
  } catch (error) {
    findings.push({
      state: 'bad',
      what,
      says: `${existing} can not be written: ${wordsOf(error as NodeJS.ErrnoException)}`,
      advice: 'give the folder to the user that runs the pool, or set DATA_DIR',
    });
  } finally {
    await rm(path, { force: true }).catch(() => {});
  }
  return findings;
}

/** Median duration of an append with fdatasync, in milliseconds. */
async function timeSyncs(path: string): Promise<number> {
  const file = await open(path, 'wx', 0o600);
  try {
    const record = randomBytes(4_096);
    const times: number[] = [];
    for (let at = 0; at < SYNC_TRIES; at++) {
      const startMs = performance.now();
      await file.write(record);
      await file.datasync();
      times.push(performance.now() - startMs);
    }
    return times.sort((a, b) => a - b)[SYNC_TRIES / 2]!;
  } finally {
    await file.close();
  }
}

/** The folder itself, or the nearest one above it that exists. */
async function nearestFolder(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    const isThere = await access(at).then(
      () => true,
      (error: NodeJS.ErrnoException) => error.code !== 'ENOENT',
    );
    if (isThere || dirname(at) === at) return at;
  }
}

function checkFiles({ openFilesMax }: DoctorTools, config: DoctorConfig): Finding {
  const { connectionsMax } = config.stratum.admission;
  if (openFilesMax === null)
    return { state: 'note', what: 'open files', says: 'the limit of this system is not known' };
  const says = `${openFilesMax} allowed (ulimit -n), room for ${connectionsMax} miners`;
  return connectionsMax < 1_000
    ? {
        state: 'note',
        what: 'open files',
        says,
        advice: 'raise it with ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit',
      }
    : { state: 'ok', what: 'open files', says };
}

async function checkDatabase({ tryDatabase }: DoctorTools, config: DoctorConfig): Promise<Finding> {
  const what = 'database';
  const which =
    config.database.url === null ? 'the private PostgreSQL' : 'the PostgreSQL of DATABASE_URL';
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no answer within ${DATABASE_TIMEOUT_MS / 1000} s`)),
      DATABASE_TIMEOUT_MS,
    );
  });
  try {
    const version = await Promise.race([tryDatabase(), late]);
    return { state: 'ok', what, says: `${which} works (${version})` };
  } catch (error) {
    return {
      state: 'bad',
      what,
      says: `${which} does not work: ${reasonOf(error)}`,
      advice: 'see docs/operating.md, "The database does not start"',
    };
  } finally {
    clearTimeout(timer);
  }
}

/** Operating system errors in words; never with a credential. */
function wordsOf(error: NodeJS.ErrnoException): string {
  const words: Record<string, string> = {
    EADDRINUSE: 'another program has it',
    EADDRNOTAVAIL: 'this machine has no such address',
    EACCES: 'no permission',
    EPERM: 'no permission',
    EROFS: 'the file system is read-only',
    ENOSPC: 'the disk is full',
    ECONNREFUSED: 'nothing listens there',
    ENOTFOUND: 'the name is not known',
    ETIMEDOUT: 'no answer',
    ENOTDIR: 'a part of the path is a file',
  };
  return words[error.code ?? ''] ?? error.code ?? 'unknown error';
}

function reasonOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error))
    .replace(/:\/\/[^/@\s]*@/g, '://***@')
    .slice(0, 300);
}
