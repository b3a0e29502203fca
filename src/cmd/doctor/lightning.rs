//! The Lightning node: can it be used, and is there enough on either side of its channels for what the run locks.

use super::Check;
use crate::cli::DoctorRole;
use crate::cmd::{Context, Failure};
use crate::config::{ChainConfig, NodeKind};
use crate::ln::NodeInfo;
use crate::protocol::amount::Msat;
use crate::protocol::api::RunView;
use crate::protocol::manifest::RewardParams;
use crate::protocol::reward::tranche_amounts;

/// The name of the checks here.
const NODE: &str = "lightning";
const LIQUIDITY: &str = "liquidity";

/// Checks the configured node.
pub(super) async fn check(role: DoctorRole, run: Option<&RunView>, context: &Context, checks: &mut Vec<Check>) {
    match context.config.lightning.node {
        NodeKind::Embedded => checks.push(embedded(role, run, context)),
        NodeKind::Lnd => match lnd(role, context).await {
            Ok(found) => {
                checks.extend(found.checks);
                let reward = run.map_or(&context.config.run.reward, |run| &run.manifest.body.reward);
                checks.extend(network(&found.info, run));
                checks.push(liquidity(role, &found.info, reward));
            }
            Err(failure) => checks.push(Check::failure(NODE, failure)),
        },
    }
}

/// An embedded node is only started by the commands that use it: it can't be looked at from beside.
fn embedded(role: DoctorRole, run: Option<&RunView>, context: &Context) -> Check {
    if cfg!(not(feature = "embedded")) {
        let message = "this l402t was built without a Lightning node of its own (feature embedded)";
        return Check::fail(NODE, message, "Build it with default features, or configure an LND");
    }
    let chain = match &context.config.lightning.chain {
        Some(ChainConfig::RegtestRpc { address }) => format!("the regtest chain at {address}"),
        Some(ChainConfig::BitcoindRpc { host, port, password_file, .. }) => {
            if let Err(error) = std::fs::metadata(password_file) {
                let message = format!("the RPC password file {} can't be read: {error}", password_file.display());
                return Check::fail(NODE, message, "Correct password_file under [lightning.chain]");
            }
            format!("bitcoind at {host}:{port}")
        }
        Some(ChainConfig::Esplora { url, .. } | ChainConfig::Electrum { url, .. }) => url.clone(),
        None => match (role, run.map(|run| run.lightning.regtest_rpc.is_some())) {
            (DoctorRole::Coordinate, _) => "a regtest chain of its own (coins worth nothing)".into(),
            (DoctorRole::Peer, Some(true) | None) => {
                "its coordinator's regtest chain, if that is on this machine".into()
            }
            (DoctorRole::Peer, Some(false)) => {
                let message = "no chain is configured, and the coordinator's is not a regtest chain of its own";
                return Check::fail(NODE, message, "Name a chain under [lightning.chain] in the configuration");
            }
        },
    };
    Check::ok(NODE, format!("embedded LDK on {chain}; its channels are seen once it runs"))
}

/// A node that answers.
struct Found {
    info: NodeInfo,
    checks: Vec<Check>,
}

#[cfg(feature = "lnd")]
async fn lnd(role: DoctorRole, context: &Context) -> Result<Found, Failure> {
    use crate::cmd::node::lnd::look;
    let folder = context.data_path(role.data_folder())?.join("lightning");
    let found = look(context, &folder).await?;
    let info = found.info;
    let mut checks = vec![Check::ok(
        NODE,
        format!(
            "{}, node {}, synced at block {}; the macaroon suffices",
            info.implementation, info.node_id, info.block_height
        ),
    )];
    if !found.synced_to_graph {
        let fix = "Wait for it unless all its payments go over its own channels";
        checks.push(Check::warn("graph", "LND does not know the network's channels yet", fix));
    }
    let channels = &context.config.coordinator.channels;
    match role {
        DoctorRole::Coordinate if found.on_chain_sat < channels.capacity_sat => {
            let message = format!(
                "{} sat on chain do not pay for one channel of {} sat",
                found.on_chain_sat, channels.capacity_sat
            );
            checks.push(Check::warn(
                "coins",
                message,
                "Send coins to an address from lncli newaddress p2tr, or open no channels",
            ));
        }
        DoctorRole::Coordinate | DoctorRole::Peer => {
            checks.push(Check::ok("coins", format!("{} sat on chain", found.on_chain_sat)));
        }
    }
    Ok(Found { info, checks })
}

#[cfg(not(feature = "lnd"))]
async fn lnd(_: DoctorRole, _: &Context) -> Result<Found, Failure> {
    let message = "this l402t was built without LND (feature lnd)";
    Err(Failure::usage("no_lnd", message, "Build it with default features, or set [lightning] node = \"embedded\""))
}

fn network(info: &NodeInfo, run: Option<&RunView>) -> Option<Check> {
    let theirs = &run?.lightning.network;
    (*theirs != info.network).then(|| {
        let message = format!("the node is on {}, the coordinator's on {theirs}", info.network);
        Check::fail("network", message, "Configure a node on the coordinator's network")
    })
}

/// Rewards flow from the coordinator to its peers, fees the other way.
fn liquidity(role: DoctorRole, info: &NodeInfo, reward: &RewardParams) -> Check {
    let locked = Msat::checked_sum(tranche_amounts(reward)).unwrap_or(Msat::MAX_MONEY);
    let fee = reward.fee_msat;
    let has = format!(
        "{} usable channels, can send {} and receive {}",
        info.usable_channels, info.outbound_msat, info.inbound_msat
    );
    let needs = format!("one contribution locks {locked}, its fee is {fee}");
    let (rewards, fees) = match role {
        DoctorRole::Coordinate => (info.outbound_msat, info.inbound_msat),
        DoctorRole::Peer => (info.inbound_msat, info.outbound_msat),
    };
    let short = |fix: &str| Check::warn(LIQUIDITY, format!("{has}; {needs}"), fix);
    match role {
        _ if rewards >= locked && fees >= fee => {
            let fit = rewards.msat().checked_div(locked.msat()).unwrap_or(u64::MAX);
            Check::ok(LIQUIDITY, format!("{has}; {needs}, so {fit} fit at once"))
        }
        DoctorRole::Coordinate if rewards < locked => {
            short("Open channels to the peers (l402t does where [coordinator.channels] says so), or refill them")
        }
        DoctorRole::Coordinate => {
            short("Push a little to the peers when opening channels, so that they can pay their fee")
        }
        DoctorRole::Peer if rewards < locked => short(
            "Ask the coordinator to open a channel to this node (many do by themselves at the first registration): a \
             channel that this node opened gives it no inbound capacity",
        ),
        DoctorRole::Peer => short("Open a channel, or ask the coordinator to push enough for the first fees"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::Level;

    fn info(outbound_msat: u64, inbound_msat: u64) -> NodeInfo {
        NodeInfo {
            implementation: "LND".into(),
            node_id: "02".into(),
            address: None,
            network: "regtest".into(),
            block_height: 1,
            outbound_msat: Msat::new(outbound_msat),
            inbound_msat: Msat::new(inbound_msat),
            usable_channels: 1,
        }
    }

    #[test]
    fn who_can_not_move_a_reward_or_a_fee_is_told_in_which_direction() {
        let reward = RewardParams::default();
        let locked = Msat::checked_sum(tranche_amounts(&reward)).expect("small").msat();
        let fee = reward.fee_msat.msat();
        let level = |role, outbound, inbound| liquidity(role, &info(outbound, inbound), &reward);
        assert_eq!(level(DoctorRole::Coordinate, locked, fee).level, Level::Ok);
        assert_eq!(level(DoctorRole::Coordinate, locked - 1, fee).level, Level::Warn);
        assert_eq!(level(DoctorRole::Peer, fee, locked).level, Level::Ok);
        let none = level(DoctorRole::Peer, locked, 0);
        assert!(none.level == Level::Warn && none.fix.is_some_and(|fix| fix.contains("no inbound capacity")));
        let poor = level(DoctorRole::Peer, 0, locked);
        assert!(poor.fix.is_some_and(|fix| fix.contains("first fees")));
    }
}
