//! What an embedded node can be told.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use bitcoin::Network;
use serde::{Deserialize, Serialize};

use super::EmbeddedError;

/// An embedded node's settings. Everything but `chain` has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where blocks come from; also decides the network.
    pub chain: ChainSource,
    /// Where other nodes may connect, `host:port`. Port 0 takes a free one and keeps it over restarts. Default: 127.0.0.1:0.
    #[serde(default = "default_listen")]
    pub listen: String,
    /// What others are told to connect to, if not `listen`.
    #[serde(default)]
    pub advertise: Option<String>,
    /// Nodes (66 hex digits) whose channels are used before their funding confirms. They could double-spend it: name
    /// only nodes that you trust not to.
    #[serde(default)]
    pub trusted_peers_0conf: Vec<String>,
    /// Kept on chain for each channel, to pay for a force-close, in sat. A channel is refused while there is less.
    /// Default: 25,000; on regtest 10,000.
    #[serde(default)]
    pub anchor_reserve_sat: Option<u64>,
    /// Most that may be locked in HTLCs too small to be enforced on chain, per channel, in sat. Default: 5,000,000.
    #[serde(default = "default_dust_exposure_sat")]
    pub max_dust_exposure_sat: u64,
    /// Outside of the wallet's own folder: where the newest channel state of every wallet is noted, so that an old copy
    /// is refused. Without it, only another node's proof stops an old copy.
    #[serde(default)]
    pub marks: Option<PathBuf>,
}

/// Where blocks come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ChainSource {
    /// A regtest chain that an l402t process on this machine serves.
    RegtestRpc {
        /// `host:port`.
        address: String,
    },
    /// A Bitcoin Core node.
    BitcoindRpc {
        /// Which network it is on.
        network: ChainNetwork,
        /// Its host.
        host: String,
        /// Its RPC port.
        port: u16,
        /// The RPC user.
        user: String,
        /// A file that holds the RPC password, and nothing else.
        password_file: PathBuf,
    },
    /// An Esplora server. It learns this node's addresses.
    Esplora {
        /// Which network it is on.
        network: ChainNetwork,
        /// For example `https://mempool.space/signet/api`.
        url: String,
    },
    /// An Electrum server. It learns this node's addresses.
    Electrum {
        /// Which network it is on.
        network: ChainNetwork,
        /// For example `ssl://electrum.blockstream.info:60002`.
        url: String,
    },
}

/// A network of coins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainNetwork {
    /// Worth nothing, on this machine.
    Regtest,
    /// Worth nothing, public.
    Signet,
    /// Worth nothing, public.
    Testnet,
    /// Real money.
    Bitcoin,
}

fn default_listen() -> String {
    "127.0.0.1:0".into()
}

fn default_dust_exposure_sat() -> u64 {
    5_000_000
}

impl Settings {
    /// The defaults on a regtest chain served at `address` (`host:port`).
    pub fn regtest(address: impl Into<String>) -> Self {
        Self {
            chain: ChainSource::RegtestRpc { address: address.into() },
            listen: default_listen(),
            advertise: None,
            trusted_peers_0conf: Vec::new(),
            anchor_reserve_sat: None,
            max_dust_exposure_sat: default_dust_exposure_sat(),
            marks: None,
        }
    }

    /// The network that the chain source is on.
    pub fn network(&self) -> Network {
        match &self.chain {
            ChainSource::RegtestRpc { .. } => Network::Regtest,
            ChainSource::BitcoindRpc { network, .. }
            | ChainSource::Esplora { network, .. }
            | ChainSource::Electrum { network, .. } => match network {
                ChainNetwork::Regtest => Network::Regtest,
                ChainNetwork::Signet => Network::Signet,
                ChainNetwork::Testnet => Network::Testnet,
                ChainNetwork::Bitcoin => Network::Bitcoin,
            },
        }
    }

    pub(super) fn anchor_reserve_sat(&self) -> u64 {
        let default = if self.network() == Network::Regtest { 10_000 } else { 25_000 };
        self.anchor_reserve_sat.unwrap_or(default)
    }

    pub(super) fn listen_address(&self) -> Result<SocketAddr, EmbeddedError> {
        socket_address("listen", &self.listen)
    }
}

/// Resolves `host:port`.
pub(super) fn socket_address(name: &'static str, text: &str) -> Result<SocketAddr, EmbeddedError> {
    let unusable = |reason: String| EmbeddedError::Setting { name, reason };
    let mut found = text.to_socket_addrs().map_err(|error| unusable(format!("{text:?} is not host:port ({error})")))?;
    found.next().ok_or_else(|| unusable(format!("{text:?} has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_source_is_enough_and_an_unknown_key_is_an_error() {
        let text = r#"{"chain": {"kind": "regtest_rpc", "address": "127.0.0.1:18443"}}"#;
        assert_eq!(serde_json::from_str::<Settings>(text).expect("valid"), Settings::regtest("127.0.0.1:18443"));
        for wrong in [
            r#"{"chain": {"kind": "regtest_rpc", "address": "127.0.0.1:18443"}, "lisen": "x"}"#,
            r#"{"chain": {"kind": "regtest_rpc", "address": "127.0.0.1:18443", "network": "bitcoin"}}"#,
            r#"{"chain": {"kind": "simulated"}}"#,
            r#"{}"#,
        ] {
            assert!(serde_json::from_str::<Settings>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_reserve_is_larger_where_coins_are_worth_something() {
        let mut settings = Settings::regtest("127.0.0.1:18443");
        assert_eq!(settings.anchor_reserve_sat(), 10_000);
        settings.chain = ChainSource::Esplora { network: ChainNetwork::Signet, url: "https://example.org".into() };
        assert_eq!((settings.network(), settings.anchor_reserve_sat()), (Network::Signet, 25_000));
    }
}
