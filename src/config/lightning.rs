//! The settings of `[lightning]`: which node, on which chain.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The Lightning node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LightningConfig {
    /// Which node.
    pub node: NodeKind,
    /// The LND node, where `node` is that.
    pub lnd: LndConfig,
    /// Where blocks come from. None: a coordinator runs a regtest chain of its own, and a peer uses that one.
    pub chain: Option<ChainConfig>,
    /// Where other nodes may connect.
    pub listen: String,
    /// What others are told to connect to, if not `listen`.
    pub advertise: Option<String>,
    /// Nodes whose channels are used before their funding confirms.
    pub trusted_peers_0conf: Vec<String>,
    /// Kept on chain for each channel, in sat.
    pub anchor_reserve_sat: Option<u64>,
    /// Most that may be locked in HTLCs too small to be enforced on chain, per channel, in sat.
    pub max_dust_exposure_sat: u64,
    /// Port of the regtest chain that a coordinator runs; 0 picks a free one.
    pub regtest_port: u16,
    /// Where the newest state of each wallet is noted, outside of the data folders. None only where there is no home.
    pub state_folder: Option<PathBuf>,
}

impl Default for LightningConfig {
    fn default() -> Self {
        Self {
            node: NodeKind::Embedded,
            lnd: LndConfig::default(),
            chain: None,
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
            trusted_peers_0conf: Vec::new(),
            anchor_reserve_sat: None,
            max_dust_exposure_sat: 5_000_000,
            regtest_port: 0,
            state_folder: None,
        }
    }
}

/// Which Lightning node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// In this process.
    #[default]
    Embedded,
    /// An LND that runs already.
    Lnd,
}

/// An LND node. Certificate and macaroon are named by path, `file:PATH` or `env:NAME`; `~/` is the user's home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LndConfig {
    /// `host:port` of its gRPC.
    pub address: String,
    /// Its certificate, PEM.
    pub tls_cert: String,
    /// What allows this program to use it. Needed.
    pub macaroon: Option<String>,
}

impl Default for LndConfig {
    fn default() -> Self {
        Self { address: "127.0.0.1:10009".to_owned(), tls_cert: "~/.lnd/tls.cert".to_owned(), macaroon: None }
    }
}

/// Where blocks come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ChainConfig {
    /// A regtest chain that another l402t on this machine serves.
    RegtestRpc {
        /// `host:port`.
        address: String,
    },
    /// A Bitcoin Core node.
    BitcoindRpc {
        /// Which network it is on.
        network: NetworkName,
        /// Its host.
        host: String,
        /// Its RPC port.
        port: u16,
        /// The RPC user.
        user: String,
        /// A file that holds the RPC password, and nothing else.
        password_file: PathBuf,
    },
    /// An Esplora server.
    Esplora {
        /// Which network it is on.
        network: NetworkName,
        /// Its URL.
        url: String,
    },
    /// An Electrum server.
    Electrum {
        /// Which network it is on.
        network: NetworkName,
        /// Its URL.
        url: String,
    },
}

/// A network of coins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkName {
    /// Worth nothing, on this machine.
    Regtest,
    /// Worth nothing, public.
    Signet,
    /// Worth nothing, public.
    Testnet,
    /// Real money.
    Bitcoin,
}
