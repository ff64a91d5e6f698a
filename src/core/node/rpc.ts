/**
 * What a call to a Bitcoin node can come to, as data, and the shape of the door it goes through. The door itself is
 * `adapters/node/rpc.ts`; the services that ask are handed one, so that tests and the simulation can put their own in its place.
 *
 * Nothing here throws: a node that is down, slow, overloaded or talking nonsense is an expected outcome.
 */

/** One answer of a node. Only `result` carries something of the node's; the rest says what is wrong, without any credential. */
export type RpcAnswer =
  | { kind: 'result'; result: unknown }
  /** The node understood and refused: its JSON-RPC error. */
  | { kind: 'error'; code: number; message: string }
  /** No connection: refused, reset before the request was out, name not found. */
  | { kind: 'unreachable'; detail: string }
  /** No whole answer in time. Whether the node acted is not known. */
  | { kind: 'timeout'; detail: string }
  /** 401 or 403. */
  | { kind: 'unauthorized'; detail: string }
  /** 503, "Work queue depth exceeded", 429. */
  | { kind: 'overloaded'; detail: string }
  /** JSON-RPC error −28: the node is starting. */
  | { kind: 'warming-up'; detail: string }
  /** HTML, truncated, over the size limit, wrong id, both result and error. Whether the node acted is not known. */
  | { kind: 'bad-answer'; detail: string }
  /** Not asked: the circuit breaker is open after a row of failures. */
  | { kind: 'circuit-open'; detail: string }
  /** Ended by our own side. */
  | { kind: 'aborted'; detail: string };

export type RpcFailure = Exclude<RpcAnswer, { kind: 'result' } | { kind: 'error' }>;

/** The part of AbortSignal that is used. */
export type CancelSignal = {
  readonly aborted: boolean;
  addEventListener(type: 'abort', listener: () => void): void;
  removeEventListener(type: 'abort', listener: () => void): void;
};

export type CallOptions = {
  timeoutMs?: number;
  signal?: CancelSignal;
  /**
   * True (the default) when sending the request twice is harmless: it is then repeated once, at once, when a kept connection turns
   * out to have been closed by the node. False for anything that spends money.
   */
  repeatable?: boolean;
};

/** A JSON-RPC door to one node. Never rejects. */
export type Rpc = {
  readonly name: string;
  call(method: string, params: readonly unknown[], options?: CallOptions): Promise<RpcAnswer>;
  /**
   * Sends a request whose JSON is already encoded, in pieces, `id` being the id inside it: a block of 8 MB of hex goes out without
   * being copied or escaped once more.
   */
  callEncoded(
    method: string,
    id: string,
    body: readonly Uint8Array[],
    options?: CallOptions,
  ): Promise<RpcAnswer>;
  /** Ends what is in flight and closes the connections. */
  stop(): void;
};

/** How to reach one node, as the configuration says. */
export type NodeAddress = {
  /** For logs and metrics; unique. */
  name: string;
  /** `http://host:port/` or https; credentials in it are taken out and used. */
  url: string;
  user?: string;
  password?: string;
  /** Core's `.cookie`; read again whenever the node refuses what it said last. */
  cookieFile?: string;
  /** `tcp://host:port` of hashblock, rawblock or sequence; any number. */
  zmqAddresses?: readonly string[];
};

export type RpcPurpose = {
  timeoutMs: number;
  /** False: every call is tried, however often the node failed (the block lane). */
  breaker?: boolean;
};

/** Opens a door to one node; nothing is connected before the first call. */
export type OpenRpc = (address: NodeAddress, purpose: RpcPurpose) => Rpc;

/** Something may have happened at the node: look. Never proof of anything. */
export type TipHint = {
  /** A message was lost, repeated or unreadable. */
  doubtful: boolean;
  /** Hash of the block that was connected, in display order, when the message said. */
  hashDisplay: string | null;
};

/** Listens to the node's ZMQ messages about blocks; at most one hint per few milliseconds. Returns a way to stop. */
export type OpenHints = (address: NodeAddress, onHint: (hint: TipHint) => void) => { stop(): void };
