//! The Lightning node: can it be used, and is there enough on either side of its channels for what the run locks.

use super::Check;
use crate::cli::DoctorRole;
use crate::cmd::liquidity::{Channels, Shortage, Side, check as check_liquidity};
use crate::cmd::{Context, Failure};
use crate::config::NodeKind;
use crate::ln::NodeInfo;
use crate::protocol::api::RunView;
use crate::protocol::manifest::RewardParams;

/// The name of the checks here.
pub(super) const NODE: &str = "lightning";
const LIQUIDITY: &str = "liquidity";

/// Checks the configured node.
pub(super) async fn check(role: DoctorRole, run: Option<&RunView>, context: &Context, checks: &mut Vec<Check>) {
    match context.config.lightning.node {
        NodeKind::Embedded => embedded(role, run, context, checks).await,
        NodeKind::Lnd => match lnd(role, context).await {
            Ok(found) => {
                checks.extend(found.checks);
                let reward = run.map_or(&context.config.run.reward, |run| &run.manifest.body.reward);
                checks.extend(network(&found.info, run));
                let channels = Channels {
                    count: found.info.usable_channels,
                    outbound: found.info.outbound_msat,
                    inbound: found.info.inbound_msat,
                };
                checks.push(liquidity(role, &channels, reward));
            }
            Err(failure) => checks.push(Check::failure(NODE, failure)),
        },
    }
}

#[cfg(feature = "embedded")]
async fn embedded(role: DoctorRole, run: Option<&RunView>, context: &Context, checks: &mut Vec<Check>) {
    super::embedded::check(role, run, context, checks).await;
}

#[cfg(not(feature = "embedded"))]
async fn embedded(_: DoctorRole, _: Option<&RunView>, _: &Context, checks: &mut Vec<Check>) {
    checks.push(Check::failure(NODE, crate::cmd::node::missing()));
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

/// What is short is told, but rarely in the way: channels come and are refilled while the run goes on.
pub(super) fn liquidity(role: DoctorRole, channels: &Channels, reward: &RewardParams) -> Check {
    let side = match role {
        DoctorRole::Coordinate => Side::Coordinator,
        DoctorRole::Peer => Side::Peer,
    };
    match check_liquidity(side, channels, reward) {
        Ok(message) => Check::ok(LIQUIDITY, message),
        Err(Shortage { code, message, fix }) => Check::warn(LIQUIDITY, message, fix).coded(code),
    }
}
