/**
 * Refused submissions on their way to `share.stale` and `share.rejected`, where other services read them. Nobody's money hangs on
 * these: so many wait until they are fetched, and what is above is counted and let go.
 */
import { encodeRejectedShare } from '../../messages/codec.ts';
import type { ShareRecord } from '../../messages/share.ts';
import type { BusRecord } from '../../ports.ts';

/** A second of a flood; encoding so many takes some ten milliseconds. */
const WAITING_MAX = 2_000;
const RAW_BYTES_MAX = 1_024;
const NO_BYTES = new Uint8Array(0);

export class RefusalBook {
  #stale: BusRecord[] = [];
  #rejected: BusRecord[] = [];
  /** Refusals that nobody will read of. */
  dropped = 0;

  /** `share` when a header could be put together for a known worker; it is encoded now and may be used again. */
  note(refusal: {
    share: ShareRecord | null;
    sessionId: string;
    text: string;
    reason: string;
    detail: string;
    atMs: number;
  }): void {
    const { share, sessionId, text, reason, detail, atMs } = refusal;
    if (this.#stale.length + this.#rejected.length >= WAITING_MAX) {
      this.dropped += 1;
      return;
    }
    const raw = share === null ? Buffer.from(text.slice(0, RAW_BYTES_MAX)) : NO_BYTES;
    const value = encodeRejectedShare({ share, raw, reason, detail, atMs });
    (reason === 'stale' ? this.#stale : this.#rejected).push({ key: sessionId, value });
  }

  /** What has come since the last call, by topic. */
  take(): { topic: 'share.stale' | 'share.rejected'; records: BusRecord[] }[] {
    const taken = [
      { topic: 'share.stale', records: this.#stale } as const,
      { topic: 'share.rejected', records: this.#rejected } as const,
    ].filter(({ records }) => records.length > 0);
    this.#stale = [];
    this.#rejected = [];
    return taken;
  }
}
