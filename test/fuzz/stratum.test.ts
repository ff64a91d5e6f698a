import { test } from 'node:test';
import { fuzzLines } from './line.ts';
import { fuzzSessions } from './session.ts';

const seed = Math.floor(Math.random() * 2 ** 31);

test(`fuzz: lines, seed ${seed}`, () => {
  fuzzLines(5_000, seed);
});

test(`fuzz: sessions, seed ${seed}`, () => {
  fuzzSessions(60, seed);
});
