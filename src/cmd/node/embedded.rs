//! The embedded node of a coordinator or a peer, wired to its chain.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::cmd::Failure;
use crate::config::{ChainConfig, LightningConfig, NetworkName};
use crate::ln::bolt11::Network;
use crate::ln::embedded::{
    ChainNetwork, ChainSource, EmbeddedError, EmbeddedNode, NodeWatch, Settings, last_regtest_chain,
};
use crate::ln::regtest::{RegtestChain, RegtestError};
use crate::protocol::api::LightningView;

/// On the regtest chain a transaction waits at most so long for its block.
const MINE_AFTER: Duration = Duration::from_millis(100);

/// A peer's coins on the regtest chain: for the reserves that its channels need on chain.
const PEER_FUNDS_SAT: u64 = 200_000;

/// A coordinator's, on top of the channels that it may open: for reserves and fees.
const COORDINATOR_EXTRA_SAT: u64 = 1_000_000;
const COORDINATOR_EXTRA_PER_CHANNEL_SAT: u64 = 50_000;

/// Beside the chain, so that peers find it again after the coordinator was restarted.
const PORT_FILE: &str = "rpc-port";

/// The regtest chain that this process runs.
pub(super) type OwnChain = RegtestChain;

/// Tells when the node can't go on.
pub(super) type OwnWatch = NodeWatch;

/// What the node noted last.
#[cfg(feature = "mcp")]
pub(super) fn last_summary(folder: &Path) -> Result<Option<serde_json::Value>, Failure> {
    if !folder.exists() {
        return Ok(None);
    }
    let Some(summary) = crate::ln::embedded::last_summary(folder)? else { return Ok(None) };
    serde_json::to_value(summary).map(Some).map_err(|error| Failure::bug(format_args!("a summary: {error}")))
}

/// A coordinator's: with a regtest chain of its own where no other chain is configured.
pub(super) async fn of_coordinator(
    config: &LightningConfig,
    data: &Path,
    channels: u32,
    capacity_sat: u64,
) -> Result<Node, Failure> {
    let (chain, own) = match &config.chain {
        Some(chain) => (source(chain), None),
        None => {
            let (chain, address) = own_chain(config.regtest_port, &data.join("regtest"))?;
            (ChainSource::RegtestRpc { address: address.to_string() }, Some((chain, address)))
        }
    };
    let node = EmbeddedNode::start(&settings(config, chain.clone(), &[]), &data.join("lightning")).await?;
    let each_sat = capacity_sat.saturating_add(COORDINATOR_EXTRA_PER_CHANNEL_SAT);
    let funds_sat = each_sat.saturating_mul(u64::from(channels)).saturating_add(COORDINATOR_EXTRA_SAT);
    fund(&node, &chain, funds_sat).await?;
    let regtest_rpc = own.as_ref().map(|(_, address)| address.to_string());
    let watch = Some(node.watch());
    Ok(Node { ln: Arc::new(node), regtest_rpc, chain: own.map(|(chain, _)| chain), watch })
}

/// A peer's: on the configured chain, or on the coordinator's regtest chain on the same machine.
pub(super) async fn of_peer(config: &LightningConfig, view: &LightningView, folder: &Path) -> Result<Node, Failure> {
    let chain = match (&config.chain, &view.regtest_rpc) {
        (Some(chain), _) => source(chain),
        (None, Some(address)) => ChainSource::RegtestRpc { address: on_this_machine(address)?.to_string() },
        (None, None) => {
            let message =
                format!("the coordinator's Lightning network is {}, and no chain is configured", view.network);
            return Err(Failure::usage(
                "no_chain",
                message,
                "Name a chain under [lightning.chain] in the configuration",
            ));
        }
    };
    // Coins of the regtest chain are worth nothing, so its coordinator may be trusted not to double-spend them.
    let trusted = match chain {
        ChainSource::RegtestRpc { .. } => std::slice::from_ref(&view.node_id),
        ChainSource::BitcoindRpc { .. } | ChainSource::Esplora { .. } | ChainSource::Electrum { .. } => &[],
    };
    let node = EmbeddedNode::start(&settings(config, chain.clone(), trusted), folder).await?;
    fund(&node, &chain, PEER_FUNDS_SAT).await?;
    if let Some(address) = &view.address {
        // From here: a coordinator can't reach a node behind a home router.
        if let Err(error) = node.connect(&view.node_id, address).await {
            tracing::info!(%error, "not connected to the coordinator's node yet");
        }
    }
    let watch = Some(node.watch());
    Ok(Node { ln: Arc::new(node), regtest_rpc: None, chain: None, watch })
}

/// A wallet's, where no coordinator says which chain it follows.
pub(super) async fn of_wallet(config: &LightningConfig, folder: &Path) -> Result<Node, Failure> {
    let Some(chain) = &config.chain else {
        let fix = "Name a chain under [lightning.chain], or the peer's coordinator under [peer], in the configuration";
        return Err(Failure::usage("no_chain", "the wallet has no chain to follow", fix));
    };
    let node = EmbeddedNode::start(&settings(config, source(chain), &[]), folder).await?;
    let watch = Some(node.watch());
    Ok(Node { ln: Arc::new(node), regtest_rpc: None, chain: None, watch })
}

/// A peer's that was used before: on the configured chain or the one that it followed last.
pub(super) async fn of_peer_alone(config: &LightningConfig, data: &Path, folder: &Path) -> Result<Node, Failure> {
    let (settings, _) = for_owner(config, data, folder)?;
    let node = EmbeddedNode::start(&settings, folder).await?;
    let watch = Some(node.watch());
    Ok(Node { ln: Arc::new(node), regtest_rpc: None, chain: None, watch })
}

/// Waits until the node can't go on.
pub(super) async fn broken(watch: &mut OwnWatch) -> Failure {
    watch.broken().await.into()
}

/// Stops the chain.
pub(super) fn stop(mut chain: OwnChain) {
    chain.stop();
}

/// What a wallet is started with by its owner alone: no coordinator says which chain it is on.
pub(in crate::cmd) fn for_owner(
    config: &LightningConfig,
    data: &Path,
    wallet: &Path,
) -> Result<(Settings, Option<RegtestChain>), Failure> {
    let regtest = data.join("regtest");
    let (chain, own) = match (&config.chain, last_regtest_chain(wallet)?) {
        (Some(chain), _) => (source(chain), None),
        // A coordinator's: nobody else runs its chain.
        (None, _) if regtest.exists() => {
            let (chain, address) = own_chain(config.regtest_port, &regtest)?;
            (ChainSource::RegtestRpc { address: address.to_string() }, Some(chain))
        }
        (None, Some(address)) => (ChainSource::RegtestRpc { address: on_this_machine(&address)?.to_string() }, None),
        (None, None) => {
            let fix = "Name a chain under [lightning.chain] in the configuration";
            return Err(Failure::usage("no_chain", "the wallet has no chain to follow", fix));
        }
    };
    Ok((settings(config, chain, &[]), own))
}

/// The network of the configured chain.
pub(in crate::cmd) fn network(config: &LightningConfig) -> Network {
    let chain = config.chain.as_ref().map_or_else(|| ChainSource::RegtestRpc { address: String::new() }, source);
    settings(config, chain, &[]).network()
}

/// A regtest chain in this process, on the port that it had before if that is free.
fn own_chain(port: u16, folder: &Path) -> Result<(RegtestChain, SocketAddr), Failure> {
    let mut chain = RegtestChain::open(folder)?;
    let port_file = folder.join(PORT_FILE);
    let before = std::fs::read_to_string(&port_file).ok().and_then(|text| text.trim().parse().ok());
    let address = match (port, before) {
        (0, Some(before)) => chain.serve(before).or_else(|_| chain.serve(0))?,
        (port, _) => chain.serve(port)?,
    };
    std::fs::write(&port_file, address.port().to_string()).map_err(|error| Failure::io("write", &port_file, &error))?;
    chain.automine(MINE_AFTER)?;
    Ok((chain, address))
}

async fn fund(node: &EmbeddedNode, chain: &ChainSource, amount_sat: u64) -> Result<(), Failure> {
    match chain {
        ChainSource::RegtestRpc { .. } => node.fund_from_regtest_faucet(amount_sat).await.map_err(|error| {
            let fix = "Check that the process that runs the regtest chain is up, then start again";
            node.watch().now().map_or_else(|| Failure::payment("faucet", error, fix), Failure::from)
        }),
        ChainSource::BitcoindRpc { .. } | ChainSource::Esplora { .. } | ChainSource::Electrum { .. } => Ok(()),
    }
}

/// A coordinator may only point at a port of this machine, never at some other host.
fn on_this_machine(address: &str) -> Result<SocketAddr, Failure> {
    address.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback()).ok_or_else(|| {
        let message = format!("the coordinator offers a regtest chain at {address:?}, which is not on this machine");
        Failure::remote("regtest_elsewhere", message, "Name a chain under [lightning.chain] in the configuration")
    })
}

fn settings(config: &LightningConfig, chain: ChainSource, trusted: &[String]) -> Settings {
    Settings {
        chain,
        listen: config.listen.clone(),
        advertise: config.advertise.clone(),
        trusted_peers_0conf: config.trusted_peers_0conf.iter().chain(trusted).cloned().collect(),
        anchor_reserve_sat: config.anchor_reserve_sat,
        max_dust_exposure_sat: config.max_dust_exposure_sat,
        marks: config.state_folder.as_ref().map(|folder| folder.join("wallets")),
    }
}

fn source(chain: &ChainConfig) -> ChainSource {
    let network = |network: &NetworkName| match network {
        NetworkName::Regtest => ChainNetwork::Regtest,
        NetworkName::Signet => ChainNetwork::Signet,
        NetworkName::Testnet => ChainNetwork::Testnet,
        NetworkName::Bitcoin => ChainNetwork::Bitcoin,
    };
    match chain {
        ChainConfig::RegtestRpc { address } => ChainSource::RegtestRpc { address: address.clone() },
        ChainConfig::BitcoindRpc { network: name, host, port, user, password_file } => ChainSource::BitcoindRpc {
            network: network(name),
            host: host.clone(),
            port: *port,
            user: user.clone(),
            password_file: password_file.clone(),
        },
        ChainConfig::Esplora { network: name, url } => {
            ChainSource::Esplora { network: network(name), url: url.clone() }
        }
        ChainConfig::Electrum { network: name, url } => {
            ChainSource::Electrum { network: network(name), url: url.clone() }
        }
    }
}

impl From<EmbeddedError> for Failure {
    fn from(error: EmbeddedError) -> Self {
        Self::of_embedded(&error)
    }
}

impl Failure {
    /// What an embedded node that can't be used means for a command.
    pub(in crate::cmd) fn of_embedded(error: &EmbeddedError) -> Self {
        let recover = "Put the newest copy of the folder back. If it is lost: `l402t wallet restore --seed-only` gets back the \
                       coins on chain and, once the other nodes have closed them, your part of the channels; payments \
                       that were under way may be lost";
        match error {
            EmbeddedError::Stale { .. } | EmbeddedError::Behind(_) => Failure::usage("wallet_is_old", error, recover),
            EmbeddedError::Restored(_) => Failure::usage("wallet_may_be_old", error, recover),
            EmbeddedError::Moved(_) => {
                Failure::usage("wallet_moved", error, "Restore the backup that it was moved into, once, and use that")
            }
            EmbeddedError::Recovering(_) => {
                Failure::usage("wallet_recovering", error, "Go on with `l402t wallet restore --seed-only`")
            }
            EmbeddedError::NoWallet(_) => Failure::usage("no_wallet", error, "Name its folder with --data DIR"),
            EmbeddedError::NotEmpty(_) => Failure::usage("not_empty", error, "Name another folder with --data DIR"),
            EmbeddedError::BackupDamaged { .. } => Failure::usage("backup_damaged", error, "Use another backup"),
            EmbeddedError::BackupInTheWay { .. } => Failure::usage("in_the_way", error, "Choose another file"),
            EmbeddedError::WrongNetwork { .. } => {
                Failure::usage("wrong_network", error, "Name a chain of the wallet's network under [lightning.chain]")
            }
            EmbeddedError::BadWords(_) => Failure::usage("bad_words", error, "Write all 24 words, in their order"),
            EmbeddedError::NotWritten(_) => {
                Failure::usage("wallet_not_written", error, "Free some disk space, then start again")
            }
            EmbeddedError::BrokenOff(_) => {
                Failure::usage("wallet_broke_off", error, "Look at its log, then start again")
            }
            EmbeddedError::MarkerDamaged(_) => {
                Failure::usage("marker_damaged", error, "Make sure that this is the newest copy, then start again")
            }
            EmbeddedError::Disk { .. }
            | EmbeddedError::InUse(_)
            | EmbeddedError::SeedMissing(_)
            | EmbeddedError::SeedDamaged { .. }
            | EmbeddedError::Setting { .. }
            | EmbeddedError::Store { .. }
            | EmbeddedError::Node { .. } => {
                Failure::payment("lightning", error, "Mend what the message names, then start again: nothing is lost")
            }
        }
    }
}

impl From<RegtestError> for Failure {
    fn from(error: RegtestError) -> Self {
        Failure::usage(
            "regtest_chain",
            error,
            "Mend what the message names, or choose another [lightning] regtest_port",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_can_only_point_at_this_machine() {
        assert!(on_this_machine("127.0.0.1:18443").is_ok());
        assert!(on_this_machine("[::1]:18443").is_ok());
        for elsewhere in ["10.0.0.1:80", "example.org:80", "127.0.0.1", ""] {
            assert!(on_this_machine(elsewhere).is_err(), "{elsewhere}");
        }
    }
}
