/**
 * The one exception RPC methods throw, with Core's own codes (`src/rpc/protocol.h`). The HTTP server is its only
 * catcher. A closed list: a method that needs another code adds it here.
 */

export const rpcCode = {
  misc: -1,
  type: -3,
  wallet: -4,
  invalidAddressOrKey: -5,
  insufficientFunds: -6,
  invalidParameter: -8,
  notConnected: -9,
  walletNotFound: -18,
  walletNotSpecified: -19,
  deserialization: -22,
  verify: -25,
  verifyRejected: -26,
  alreadyInUtxoSet: -27,
  warmup: -28,
  walletAlreadyLoaded: -35,
  walletAlreadyExists: -36,
  invalidRequest: -32600,
  methodNotFound: -32601,
  internal: -32603,
  parse: -32700,
} as const;

/** An answer with an error in it. `code` is one of `rpcCode`, `message` is Core's text where Core has one. */
export class RpcError extends Error {
  readonly code: number;
  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}
