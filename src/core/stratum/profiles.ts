/**
 * What is known about firmware, as one table to edit. The user agent of mining.subscribe chooses the row: first row whose prefix
 * or substring matches, compared in lower case, no regular expressions. The defaults suit everything that is not listed.
 *
 * Sources: DATUM Gateway's coinbase classes by user agent; ESP-Miner #1592 (fractions cut off up to 2.13), #203; stratum #1173
 * (WhatsMiner M30S+), #1861 (extranonce2 over 8 bytes); NerdMiner #32, PR #807 (4 KB line, 512 hex digits of coinbase);
 * goPool's notes on Bitaxe and NMAxe (an unsolicited set_extranonce breaks them); bosminer asks for 16 version bits.
 */

import { coinbaseClass } from '../work/payout.ts';
import type { DifficultyForm } from '../work/vardiff.ts';

export type FirmwareProfile = {
  name: string;
  /** Lower case. */
  prefixes: readonly string[];
  substrings: readonly string[];
  /** Largest coinbase, both halves and the extranonces, that the device works with. */
  coinbaseBytesMax: number;
  /** Longest notify line it reads. */
  notifyBytesMax: number;
  difficultyForm: DifficultyForm;
  /** Start instead of the port's, still clamped by the port; 0 for the port's. */
  startDifficulty: number;
  /** Lowest difficulty it should ever be given (rental proxies), clamped by the port; 0 for none. */
  floorDifficulty: number;
  /** Version bits it may be given, ANDed with the pool's. */
  versionMaskMax: number;
  /** Usernames are cut here by the device: a longer one arrives truncated. For the status page's hint. */
  usernameCharsMax: number;
  /** mining.set_extranonce may be pushed when it asked for it. */
  extranoncePush: boolean;
  /** mining.set_version_mask is sent behind the configure reply. */
  versionMaskPush: boolean;
  /** client.get_version is answered. */
  answersVersion: boolean;
  /** client.reconnect is obeyed (Bitaxe redials its own pool whatever is asked). */
  obeysReconnect: boolean;
};

const DEFAULTS: FirmwareProfile = {
  name: 'default',
  prefixes: [],
  substrings: [],
  coinbaseBytesMax: 16_384,
  notifyBytesMax: 65_536,
  difficultyForm: 'any',
  startDifficulty: 0,
  floorDifficulty: 0,
  versionMaskMax: 0xffffffff,
  usernameCharsMax: 127,
  extranoncePush: true,
  versionMaskPush: true,
  answersVersion: false,
  obeysReconnect: true,
};

/** One row: what differs from the defaults. */
function row(difference: Partial<FirmwareProfile> & { name: string }): FirmwareProfile {
  return { ...DEFAULTS, ...difference };
}

export const PROFILES: readonly FirmwareProfile[] = [
  row({
    name: 'bitaxe',
    prefixes: ['bitaxe', 'esp-miner', 'nerdaxe', 'nerdqaxe', 'nerdoctaxe'],
    substrings: ['/bm1366', '/bm1368', '/bm1370', '/bm1397'],
    coinbaseBytesMax: 6_500,
    difficultyForm: 'integer',
    extranoncePush: false,
    obeysReconnect: false,
  }),
  row({
    name: 'nmaxe',
    prefixes: ['nmaxe', 'nmqaxe', 'nmminer'],
    coinbaseBytesMax: 2_250,
    notifyBytesMax: 4_096,
    extranoncePush: false,
    obeysReconnect: false,
  }),
  row({
    name: 'nerdminer',
    prefixes: [
      'nerdminer',
      'nerd_miner',
      'leafminer',
      'han-solominer',
      'sparkminer',
      'bitsybminer',
    ],
    coinbaseBytesMax: 256,
    notifyBytesMax: 4_096,
    startDifficulty: 0.001,
    extranoncePush: false,
    versionMaskPush: false,
    obeysReconnect: false,
  }),
  row({
    name: 'cpuminer',
    prefixes: ['cpuminer', 'minerd', 'ccminer', 'headframe-miner'],
    answersVersion: true,
    startDifficulty: 0.01,
  }),
  row({
    name: 'nicehash',
    prefixes: ['nicehash', 'excavator'],
    coinbaseBytesMax: 500,
    difficultyForm: 'integer',
    // NiceHash closes a SHA-256 order below this.
    startDifficulty: 524_288,
    floorDifficulty: 524_288,
  }),
  row({
    name: 'rental',
    prefixes: ['miningrigrentals', 'mrr', 'braiins-hashpower', 'bos-hashpower', 'hashpower'],
    substrings: ['rental'],
    coinbaseBytesMax: 2_250,
    difficultyForm: 'integer',
    startDifficulty: 524_288,
    floorDifficulty: 65_536,
  }),
  row({
    name: 'braiins-os',
    prefixes: ['bosminer', 'bos+', 'braiins', 'farm-proxy', 'boser'],
    coinbaseBytesMax: 2_250,
    difficultyForm: 'integer',
  }),
  row({
    name: 'whatsminer',
    prefixes: ['whatsminer', 'btminer'],
    substrings: ['whatsminer'],
    coinbaseBytesMax: 6_500,
    difficultyForm: 'power-of-two',
    versionMaskPush: false,
    usernameCharsMax: 127,
  }),
  row({
    name: 'avalon',
    prefixes: ['cgminer/4.11.1', 'avalon', 'canaan'],
    substrings: ['avalon'],
    coinbaseBytesMax: 750,
    difficultyForm: 'integer',
    usernameCharsMax: 63,
  }),
  row({
    name: 'antminer-new',
    prefixes: ['antminer s21', 'antminer s19', 'antminer t21', 'antminer s23'],
    coinbaseBytesMax: 2_250,
    difficultyForm: 'integer',
  }),
  row({
    name: 'antminer',
    prefixes: ['bmminer', 'antminer', 'powerplay-bm', 'xminer'],
    coinbaseBytesMax: 750,
    difficultyForm: 'integer',
  }),
  row({
    name: 'aftermarket',
    prefixes: ['luxminer', 'luxos', 'vnish', 'epic', 'powerplay', 'mskminer'],
    difficultyForm: 'integer',
  }),
  row({
    name: 'cgminer',
    prefixes: ['cgminer', 'sgminer', 'bfgminer'],
    coinbaseBytesMax: 2_250,
    difficultyForm: 'integer',
  }),
  row({
    name: 'proxy',
    prefixes: ['ckproxy', 'stratum-proxy', 'btcagent', 'translator', 'gopool'],
    difficultyForm: 'integer',
  }),
];

export const DEFAULT_PROFILE: FirmwareProfile = row({ name: 'default' });

/** A notify line beside the hex of its coinbase: 190 characters, and 67 for each of up to 15 hashes of the branch. */
const NOTIFY_FRAME_BYTES = 1_200;

/**
 * How large a coinbase with a choice of outputs may be for a device: the largest of the classes that it works with, and whose
 * notify line it reads.
 */
export function coinbaseClassOf(profile: FirmwareProfile): number {
  const { coinbaseBytesMax, notifyBytesMax } = profile;
  const inNotifyBytes = Math.floor((notifyBytesMax - NOTIFY_FRAME_BYTES) / 2);
  return coinbaseClass(Math.min(coinbaseBytesMax, inNotifyBytes));
}

/** The row for a user agent (already cut to a bounded length). */
export function findProfile(
  agent: string,
  profiles: readonly FirmwareProfile[] = PROFILES,
): FirmwareProfile {
  const text = agent.trim().toLowerCase();
  if (text === '') return DEFAULT_PROFILE;
  for (const profile of profiles) {
    for (const prefix of profile.prefixes) if (text.startsWith(prefix)) return profile;
    for (const part of profile.substrings) if (text.includes(part)) return profile;
  }
  return DEFAULT_PROFILE;
}
