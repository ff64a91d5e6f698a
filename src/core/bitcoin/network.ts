/**
 * The five Bitcoin networks a pool can mine on, as Bitcoin Core's `kernel/chainparams.cpp` and `chainparamsbase.cpp` define
 * them. Adding a network means adding a row here.
 */

export type Network = 'mainnet' | 'testnet3' | 'testnet4' | 'signet' | 'regtest';

export type NetworkFacts = {
  /** Block 0, in the byte-reversed hex of explorers and `getblockhash 0`. */
  genesisHashDisplay: string;
  /** Human-readable part of segwit addresses (BIP173). */
  bech32Prefix: string;
  /** Version byte of base58 P2PKH addresses. */
  p2pkhVersion: number;
  /** Version byte of base58 P2SH addresses. */
  p2shVersion: number;
  /** Where a node listens for JSON-RPC unless told otherwise. */
  rpcPort: number;
  /** The `chain` of `getblockchaininfo`. */
  chainName: string;
  /** Compact bits of the easiest allowed target. A signet with its own challenge keeps signet's. */
  powLimitBits: number;
};

export const NETWORKS: Readonly<Record<Network, Readonly<NetworkFacts>>> = {
  mainnet: {
    genesisHashDisplay: '000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f',
    bech32Prefix: 'bc',
    p2pkhVersion: 0x00,
    p2shVersion: 0x05,
    rpcPort: 8332,
    chainName: 'main',
    powLimitBits: 0x1d00ffff,
  },
  testnet3: {
    genesisHashDisplay: '000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943',
    bech32Prefix: 'tb',
    p2pkhVersion: 0x6f,
    p2shVersion: 0xc4,
    rpcPort: 18332,
    chainName: 'test',
    powLimitBits: 0x1d00ffff,
  },
  testnet4: {
    genesisHashDisplay: '00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043',
    bech32Prefix: 'tb',
    p2pkhVersion: 0x6f,
    p2shVersion: 0xc4,
    rpcPort: 48332,
    chainName: 'testnet4',
    powLimitBits: 0x1d00ffff,
  },
  signet: {
    genesisHashDisplay: '00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6',
    bech32Prefix: 'tb',
    p2pkhVersion: 0x6f,
    p2shVersion: 0xc4,
    rpcPort: 38332,
    chainName: 'signet',
    powLimitBits: 0x1e0377ae,
  },
  regtest: {
    genesisHashDisplay: '0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206',
    bech32Prefix: 'bcrt',
    p2pkhVersion: 0x6f,
    p2shVersion: 0xc4,
    rpcPort: 18443,
    chainName: 'regtest',
    powLimitBits: 0x207fffff,
  },
};
