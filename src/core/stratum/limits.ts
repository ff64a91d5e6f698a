/**
 * Every limit a Stratum V1 session lives under, in one table. An operator may edit the values; nothing else in the program
 * repeats them. The comments name what other pools use, so that a change can be weighed.
 */

export type SessionLimits = {
  /** Bytes of one line before and after authorize. ckpool 1,024; Miningcore 32,768; DATUM 50,176; below 16 KiB on purpose: deep JSON. */
  lineBytesBeforeAuthorize: number;
  lineBytesMax: number;
  /** Nesting, parameters and keys of one request. Others have none of the three. */
  jsonDepthMax: number;
  paramsMax: number;
  keysMax: number;
  methodCharsMax: number;
  idBytesMax: number;
  /** goPool 256/256/128; p2poolv2 128; public-pool 64/64/128. */
  usernameCharsMax: number;
  /** A username that splits its work over several addresses. */
  splitCharsMax: number;
  workerCharsMax: number;
  passwordCharsMax: number;
  agentCharsMax: number;
  jobIdCharsMax: number;
  workersPerSessionMax: number;
  subscribesPerSessionMax: number;
  /** subscribe and authorize together. DATUM and MoneroOcean 15 s; ckpool 60 s; goPool 90 s. */
  authorizeTimeoutMs: number;
  /** From authorize to the first valid share. MoneroOcean 600 s; p2poolv2 900 s; DATUM 7,200 s. */
  firstShareTimeoutMs: number;
  /** The same for a session that has fixed its difficulty or stands at the lowest one of its port. */
  firstShareTimeoutMsMax: number;
  /** No line at all. public-pool 300 s; goPool 180 s; MoneroOcean and p2poolv2 900 s. */
  idleTimeoutMs: number;
  /** Shares over this rate are answered "rate" and not credited; they are still tested against the network target. */
  submitsPerSecond: number;
  submitBurst: number;
  /** Authorize requests of one session. */
  authorizesPerSecond: number;
  authorizeBurst: number;
  unknownMethodsPerMinute: number;
  /** Unknown job ids that cost nothing while the session has no share yet (MoneroOcean: 4). */
  freeUnknownJobs: number;
  emptyLinesFree: number;
  /** A suggest_difficulty that differs from the last has effect once in this time. */
  suggestIntervalMs: number;
  /** The session's ban score: closed at the maximum, forgotten at this pace, one point back for each accepted share. */
  scoreMax: number;
  scoreDecayPerMinute: number;
  /** Changes of difficulty that a session remembers for shares in flight. */
  termsKept: number;
  /** Answers that wait for the journal, per session; more and the session is refused further shares. */
  heldAnswersMax: number;
  /** Last rejections kept per worker, and how much of the raw line. */
  rejectionsKept: number;
  rejectionLineChars: number;
  /** Worker records in memory, least recently used out first. */
  workersMax: number;
  /** Sessions that are gone but may be resumed with their extranonce1. */
  resumableSessionsMax: number;
  resumeTimeMs: number;
  /** Subscriptions per extranonce lease: one synced write of some milliseconds in so many. */
  extranonceLeaseSize: number;
  /** Jobs: kept for block assembly for this many tips, but never more than the maximum. */
  tipsKept: number;
  jobsMin: number;
  jobsMax: number;
  jobCreditMs: number;
  /** Coinbases that pay their finder (job × account), kept compiled, about 4 KiB each. */
  compiledCoinbasesMax: number;
  /** ntime may run ahead of the template by this. ckpool and goPool 7,000 s; DATUM 7,200 s. */
  ntimeAheadSeconds: number;
  rebroadcastMs: number;
  templateDegradedMs: number;
  templateDeadMs: number;
  /** Sessions told of a job in one turn of the event loop. */
  broadcastChunk: number;
};

export const SESSION_LIMITS: SessionLimits = {
  lineBytesBeforeAuthorize: 2_048,
  lineBytesMax: 8_192,
  jsonDepthMax: 8,
  paramsMax: 16,
  keysMax: 16,
  methodCharsMax: 64,
  idBytesMax: 64,
  usernameCharsMax: 160,
  splitCharsMax: 400,
  workerCharsMax: 64,
  passwordCharsMax: 128,
  agentCharsMax: 128,
  jobIdCharsMax: 32,
  workersPerSessionMax: 32,
  subscribesPerSessionMax: 10,
  authorizeTimeoutMs: 15_000,
  firstShareTimeoutMs: 600_000,
  firstShareTimeoutMsMax: 7_200_000,
  idleTimeoutMs: 900_000,
  submitsPerSecond: 20,
  submitBurst: 200,
  authorizesPerSecond: 5,
  authorizeBurst: 40,
  unknownMethodsPerMinute: 20,
  freeUnknownJobs: 4,
  emptyLinesFree: 100,
  suggestIntervalMs: 60_000,
  scoreMax: 100,
  scoreDecayPerMinute: 10,
  termsKept: 16,
  heldAnswersMax: 1_024,
  rejectionsKept: 16,
  rejectionLineChars: 512,
  workersMax: 50_000,
  resumableSessionsMax: 20_000,
  resumeTimeMs: 600_000,
  extranonceLeaseSize: 65_536,
  tipsKept: 3,
  jobsMin: 16,
  jobsMax: 1_024,
  jobCreditMs: 300_000,
  compiledCoinbasesMax: 10_000,
  ntimeAheadSeconds: 7_000,
  rebroadcastMs: 30_000,
  templateDegradedMs: 120_000,
  templateDeadMs: 600_000,
  broadcastChunk: 250,
};
