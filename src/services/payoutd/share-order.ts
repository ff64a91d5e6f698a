/**
 * In which order shares of several gateways are numbered: by the moment they were accepted at and then by header hash, whatever road each
 * of them took. A share is held until every gateway that is alive has said, in every partition, that nothing from before that moment
 * is still to come (a mark). Pure: holds shares, marks and offsets, and touches nothing.
 *
 * What comes although a mark said that it would not (a gateway's clock went back, its marks were given up) goes to the front of what is
 * ripe next: late, and never lost. Of each partition it is known from which offset on it must be read again should all this be
 * forgotten.
 */
import type { CheckedShare, ShareMark } from '../../messages/share.ts';

export type HeldShare = CheckedShare & { partition: number; offset: bigint };

type Gateway = {
  /** By partition: everything accepted up to here has come. */
  marks: Float64Array;
  /** When it was last heard, on the caller's clock. */
  heardAtMs: number;
};

type Partition = {
  /** Behind the last record that came. */
  position: bigint;
  held: Map<bigint, HeldShare>;
  /** The oldest held is the first one. Not so after records came again. */
  isSorted: boolean;
};

/** A gateway marks twice a second: when none does for so long, it is not the gateways. Less than after which one is given up. */
const BUS_SILENT_MS = 15_000;
/** Far more than anybody runs; each costs a number per partition. */
const GATEWAYS_MAX = 1_000;

export class ShareOrder {
  readonly #count: number;
  readonly #gateways = new Map<string, Gateway>();
  /** Not waited for until they mark again. */
  readonly #gone = new Set<string>();
  readonly #partitions = new Map<number, Partition>();
  #held = 0;
  /** When any gateway was last heard. */
  #heardAtMs = Number.NEGATIVE_INFINITY;
  /** What was last asked for, and whether more of it came since. */
  #askedThroughMs = Number.NEGATIVE_INFINITY;
  #isLate = false;

  /** `partitions`: how many there are; marks are wanted of each. */
  constructor(partitions: number) {
    this.#count = partitions;
  }

  get held(): number {
    return this.#held;
  }

  /** The gateways that are waited for. */
  gateways(): string[] {
    return [...this.#gateways.keys()];
  }

  /** Waits for this gateway from now on, as if it had just been heard. */
  expect(gateway: string, nowMs: number): void {
    if (this.#gateways.has(gateway) || this.#gateways.size >= GATEWAYS_MAX) return;
    this.#gone.delete(gateway);
    const marks = new Float64Array(this.#count).fill(Number.NEGATIVE_INFINITY);
    this.#gateways.set(gateway, { marks, heardAtMs: nowMs });
  }

  /** A record came that holds no share, or whose share is taken care of. */
  pass(partition: number, offset: bigint): void {
    this.#partition(partition).position = offset + 1n;
  }

  /** Takes a share; the same record again changes nothing. */
  take(share: HeldShare, nowMs: number): void {
    const { gateway } = share.share;
    if (!this.#gone.has(gateway)) this.expect(gateway, nowMs);
    const partition = this.#partition(share.partition);
    if (share.offset < partition.position) partition.isSorted = false;
    partition.position = share.offset + 1n;
    if (partition.held.has(share.offset)) return;
    partition.held.set(share.offset, share);
    this.#held++;
    if (share.share.acceptedAtMs <= this.#askedThroughMs) this.#isLate = true;
  }

  mark(partition: number, mark: ShareMark, nowMs: number): void {
    this.expect(mark.gateway, nowMs);
    const gateway = this.#gateways.get(mark.gateway);
    if (gateway === undefined || partition >= this.#count) return;
    this.#excuse(nowMs - this.#heardAtMs);
    this.#heardAtMs = nowMs;
    gateway.heardAtMs = nowMs;
    // An older mark that comes again takes nothing back.
    if (mark.throughMs > (gateway.marks[partition] as number)) {
      gateway.marks[partition] = mark.throughMs;
    }
  }

  /** While the bus was silent nobody could be heard: that time counts against no gateway, whoever is the first to be heard again. */
  #excuse(quietMs: number): void {
    if (quietMs <= BUS_SILENT_MS || quietMs === Number.POSITIVE_INFINITY) return;
    for (const gateway of this.#gateways.values()) gateway.heardAtMs += quietMs;
  }

  /** Shares accepted up to this moment are ripe: infinite while nobody is waited for, minus infinite while somebody has yet to mark. */
  throughMs(): number {
    let throughMs = Number.POSITIVE_INFINITY;
    for (const { marks } of this.#gateways.values()) {
      for (const mark of marks) if (mark < throughMs) throughMs = mark;
    }
    return throughMs;
  }

  /** Whether more of this partition could make shares ripe: it is one of those that are furthest behind. */
  isLagging(partition: number): boolean {
    const throughMs = this.throughMs();
    for (const { marks } of this.#gateways.values()) {
      if (marks[partition] === throughMs) return true;
    }
    return false;
  }

  /** All that is ripe, in order; nothing when that is the same as the last time. */
  ripe(): HeldShare[] {
    const throughMs = this.throughMs();
    if (throughMs === this.#askedThroughMs && !this.#isLate) return [];
    this.#askedThroughMs = throughMs;
    this.#isLate = false;
    return this.#sorted((share) => share.share.acceptedAtMs <= throughMs);
  }

  /** What was ripe could not be stored: the next question is answered in full. */
  askAgain(): void {
    this.#askedThroughMs = Number.NEGATIVE_INFINITY;
  }

  /** The oldest half of all, ripe or not, in order. */
  oldestHalf(): HeldShare[] {
    const all = this.#sorted(() => true);
    return all.slice(0, (all.length + 1) >> 1);
  }

  /** These are stored. */
  settle(shares: readonly HeldShare[]): void {
    for (const { partition, offset } of shares) {
      const own = this.#partition(partition);
      if (own.held.delete(offset)) this.#held--;
      if (own.held.size === 0) own.isSorted = true;
    }
  }

  /** From where each partition has to be read again once these are settled too. */
  offsetsAfter(shares: readonly HeldShare[]): Map<number, bigint> {
    const settled = new Set(shares);
    const offsets = new Map<number, bigint>();
    for (const [number, { position, held, isSorted }] of this.#partitions) {
      let lowest = position;
      for (const [offset, share] of held) {
        if (settled.has(share)) continue;
        if (offset < lowest) lowest = offset;
        if (isSorted) break;
      }
      offsets.set(number, lowest);
    }
    return offsets;
  }

  /**
   * Gives up gateways that fell silent while others were heard for `goneMs` more, and answers which. When nobody is heard it is the bus
   * that is silent, and that is borne for `allGoneMs`.
   */
  dropSilent(nowMs: number, limits: { goneMs: number; allGoneMs: number }): string[] {
    const heard = [...this.#gateways.values()].map(({ heardAtMs }) => heardAtMs);
    const lastMs = Math.max(...heard);
    const silent = [...this.#gateways.entries()].filter(
      ([, { heardAtMs }]) =>
        lastMs - heardAtMs > limits.goneMs || nowMs - heardAtMs > limits.allGoneMs,
    );
    for (const [name] of silent) this.#drop(name);
    return silent.map(([name]) => name);
  }

  /** Gives up the gateway that all are waiting for, and answers which. */
  dropSlowest(): string | null {
    const throughMs = this.throughMs();
    for (const [name, { marks }] of this.#gateways) {
      if (!marks.includes(throughMs)) continue;
      this.#drop(name);
      return name;
    }
    return null;
  }

  #drop(name: string): void {
    this.#gateways.delete(name);
    this.#gone.add(name);
    if (this.#gone.size > GATEWAYS_MAX) this.#gone.delete(this.#gone.values().next().value!);
  }

  #partition(number: number): Partition {
    const known = this.#partitions.get(number);
    if (known !== undefined) return known;
    const partition = { position: 0n, held: new Map(), isSorted: true };
    this.#partitions.set(number, partition);
    return partition;
  }

  #sorted(wanted: (share: HeldShare) => boolean): HeldShare[] {
    const found: HeldShare[] = [];
    for (const { held } of this.#partitions.values()) {
      for (const share of held.values()) if (wanted(share)) found.push(share);
    }
    return found.sort(compareShares);
  }
}

/** By the moment of acceptance, then by header hash. */
function compareShares(a: HeldShare, b: HeldShare): number {
  return (
    a.share.acceptedAtMs - b.share.acceptedAtMs ||
    Buffer.compare(a.share.headerHash, b.share.headerHash)
  );
}
