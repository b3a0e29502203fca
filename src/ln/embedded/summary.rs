//! What a wallet holds, for people: written down by the running node, so that it can be shown without starting one.

use std::path::Path;

use ldk_node::lightning::chain::channelmonitor::BalanceSource;
use ldk_node::{ChannelDetails, LightningBalance, Node, PendingSweepBalance};
use serde::{Deserialize, Serialize};

use super::store::{FILE_NAME, Store};
use super::{EmbeddedError, facts, seed};
use crate::protocol::amount::Msat;
use crate::protocol::ids::UnixMs;

/// What a wallet holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletSummary {
    /// The node's public key, 66 hex digits.
    pub node_id: String,
    /// `regtest`, `signet`, `testnet`, `bitcoin`.
    pub network: String,
    /// Height of the best block it knew.
    pub block_height: u32,
    /// On chain, in sat.
    pub on_chain_sat: u64,
    /// Of that, what can be sent now: not the reserve for force-closes, and nothing unconfirmed of others.
    pub spendable_sat: u64,
    /// This side's of its open channels, in sat, held HTLCs aside.
    pub in_channels_sat: u64,
    /// On its way from closed channels to the wallet, in sat.
    pub closing_sat: u64,
    /// Open channels.
    pub channels: Vec<ChannelSummary>,
    /// Each part of `closing_sat`.
    pub closing: Vec<ClosingSummary>,
    /// When all this was true.
    pub as_of: UnixMs,
}

/// An open channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelSummary {
    /// Names it for `l402t wallet close`; 32 hex digits.
    pub id: String,
    /// The other node, 66 hex digits.
    pub peer: String,
    /// In sat.
    pub capacity_sat: u64,
    /// What this side can send, in msat.
    pub can_send_msat: Msat,
    /// What it can receive, in msat.
    pub can_receive_msat: Msat,
    /// Where it stands.
    pub state: OpenState,
}

/// Where an open channel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenState {
    /// Its funding is not confirmed.
    Opening,
    /// The other side is not there.
    Away,
    /// In use.
    Usable,
}

/// Money of a closed channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingSummary {
    /// In sat.
    pub amount_sat: u64,
    /// What it waits for.
    pub waits_for: String,
    /// The block height at which it can go on, if it waits for one.
    pub until_height: Option<u32>,
}

/// What the wallet in `dir` held when its node last ran; `None` for one that never did.
///
/// # Errors
/// No wallet, or a database that can't be read.
pub fn last_summary(dir: &Path) -> Result<Option<WalletSummary>, EmbeddedError> {
    if !seed::path(dir).exists() || !dir.join(FILE_NAME).exists() {
        return Err(EmbeddedError::NoWallet(dir.to_path_buf()));
    }
    let store = Store::open(dir)?;
    let text = store.fact(facts::SUMMARY).map_err(|error| facts::unusable(&store, &error))?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// `host:port` of the regtest chain that the wallet in `dir` was last on.
///
/// # Errors
/// No wallet, or a database that can't be read.
pub fn last_regtest_chain(dir: &Path) -> Result<Option<String>, EmbeddedError> {
    if !dir.join(FILE_NAME).exists() {
        return Err(EmbeddedError::NoWallet(dir.to_path_buf()));
    }
    let store = Store::open(dir)?;
    store.fact(facts::REGTEST_RPC).map_err(|error| facts::unusable(&store, &error))
}

/// Writes down what the node holds, if that has changed.
pub(super) fn keep(node: &Node, store: &Store, network: &str, now: UnixMs, last: &mut Option<WalletSummary>) {
    let mut summary = of(node, network, now);
    if let Some(last) = last {
        summary.as_of = last.as_of;
        if summary == *last {
            return;
        }
        summary.as_of = now;
    }
    if let Ok(text) = serde_json::to_string(&summary)
        && store.set_fact(facts::SUMMARY, &text).is_ok()
    {
        *last = Some(summary);
    }
}

/// What the node holds now.
pub(super) fn of(node: &Node, network: &str, now: UnixMs) -> WalletSummary {
    let balances = node.list_balances();
    let mut channels: Vec<ChannelSummary> = node.list_channels().into_iter().map(channel).collect();
    channels.sort_by(|a, b| (&a.peer, &a.id).cmp(&(&b.peer, &b.id)));
    let (mut in_channels_sat, mut closing) = (0, Vec::new());
    for balance in &balances.lightning_balances {
        match waiting(balance) {
            Some(waiting) => closing.push(waiting),
            None => in_channels_sat += open_amount_sat(balance),
        }
    }
    closing.extend(balances.pending_balances_from_channel_closures.iter().filter_map(sweeping));
    WalletSummary {
        node_id: node.node_id().to_string(),
        network: network.into(),
        block_height: node.status().current_best_block.height,
        on_chain_sat: balances.total_onchain_balance_sats,
        spendable_sat: balances.spendable_onchain_balance_sats,
        in_channels_sat,
        closing_sat: closing.iter().map(|part| part.amount_sat).sum(),
        channels,
        closing,
        as_of: now,
    }
}

/// What a channel is called by its owner.
pub(super) fn channel_id(details: &ChannelDetails) -> String {
    format!("{:032x}", details.user_channel_id.0)
}

fn channel(details: ChannelDetails) -> ChannelSummary {
    ChannelSummary {
        id: channel_id(&details),
        peer: details.counterparty_node_id.to_string(),
        capacity_sat: details.channel_value_sats,
        can_send_msat: Msat::new(details.outbound_capacity_msat),
        can_receive_msat: Msat::new(details.inbound_capacity_msat),
        state: match (details.is_channel_ready, details.is_usable) {
            (_, true) => OpenState::Usable,
            (true, false) => OpenState::Away,
            (false, false) => OpenState::Opening,
        },
    }
}

fn open_amount_sat(balance: &LightningBalance) -> u64 {
    match balance {
        LightningBalance::ClaimableOnChannelClose { amount_satoshis, .. } => *amount_satoshis,
        // HTLCs of open channels: whose they become is not decided.
        LightningBalance::ClaimableAwaitingConfirmations { .. }
        | LightningBalance::ContentiousClaimable { .. }
        | LightningBalance::MaybeTimeoutClaimableHTLC { .. }
        | LightningBalance::MaybePreimageClaimableHTLC { .. }
        | LightningBalance::CounterpartyRevokedOutputClaimable { .. } => 0,
    }
}

/// Money of a channel whose closing is in a block.
fn waiting(balance: &LightningBalance) -> Option<ClosingSummary> {
    let (amount_sat, waits_for, until_height) = match balance {
        // It was paid to the wallet's own address, which counts it already.
        LightningBalance::ClaimableAwaitingConfirmations { source: BalanceSource::CoopClose, .. } => return None,
        LightningBalance::ClaimableAwaitingConfirmations { amount_satoshis, confirmation_height, .. } => {
            (*amount_satoshis, "blocks", Some(*confirmation_height))
        }
        LightningBalance::ContentiousClaimable { amount_satoshis, timeout_height, .. } => {
            (*amount_satoshis, "its claim on chain", Some(*timeout_height))
        }
        LightningBalance::CounterpartyRevokedOutputClaimable { amount_satoshis, .. } => {
            (*amount_satoshis, "its penalty on chain", None)
        }
        LightningBalance::ClaimableOnChannelClose { .. }
        | LightningBalance::MaybeTimeoutClaimableHTLC { .. }
        | LightningBalance::MaybePreimageClaimableHTLC { .. } => return None,
    };
    Some(ClosingSummary { amount_sat, waits_for: waits_for.into(), until_height })
}

fn sweeping(sweep: &PendingSweepBalance) -> Option<ClosingSummary> {
    match sweep {
        PendingSweepBalance::PendingBroadcast { amount_satoshis, .. }
        | PendingSweepBalance::BroadcastAwaitingConfirmation { amount_satoshis, .. } => {
            Some(ClosingSummary { amount_sat: *amount_satoshis, waits_for: "a block".into(), until_height: None })
        }
        // The wallet counts it already.
        PendingSweepBalance::AwaitingThresholdConfirmations { .. } => None,
    }
}
