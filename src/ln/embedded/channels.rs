//! Opening channels, one at a time, and keeping their peers connected.
//!
//! ldk-node's wallet doesn't know what it has spent until it sees the transaction in the mempool: two channels opened at
//! once could be funded with the same coins. So the next opening waits until the wallet has seen the last one.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use ldk_node::config::{ChannelConfig, MaxDustHTLCExposure};
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::{Node, NodeError, UserChannelId};
use secp256k1::PublicKey;

use super::faucet::Faucet;
use super::htlcs::ldk_error;
use crate::ln::{ChannelRequest, ChannelState, LnError};

/// For the other side to accept a channel.
const NEGOTIATION: Duration = Duration::from_secs(15);
/// Polls of the chain until the wallet has seen a funding transaction, and the pause between them.
const FUNDING_POLLS: u32 = 100;
const FUNDING_PAUSE: Duration = Duration::from_millis(50);

/// On regtest: kept beside a channel's capacity for its reserve and fees.
const FUNDING_MARGIN_SAT: u64 = 50_000;

/// What became of an opening.
#[derive(Clone, Debug)]
enum Opening {
    Pending,
    Closed(String),
}

/// Channels' settings, and the openings under way.
#[derive(Debug)]
pub(super) struct Channels {
    max_dust_exposure_msat: u64,
    /// One opening at a time.
    turn: Mutex<()>,
    openings: Mutex<HashMap<u128, Opening>>,
    changed: Condvar,
}

impl Channels {
    pub(super) fn new(max_dust_exposure_sat: u64) -> Self {
        Self {
            max_dust_exposure_msat: max_dust_exposure_sat.saturating_mul(1_000),
            turn: Mutex::default(),
            openings: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn config(&self) -> ChannelConfig {
        ChannelConfig {
            max_dust_htlc_exposure: MaxDustHTLCExposure::FixedLimit { limit_msat: self.max_dust_exposure_msat },
            ..ChannelConfig::default()
        }
    }

    /// Lets small HTLCs into a channel that the other side opened, too.
    pub(super) fn raise_dust_limit(&self, node: &Node, channel: &UserChannelId, peer: PublicKey) {
        if let Err(error) = node.update_channel_config(channel, peer, self.config()) {
            tracing::warn!(%peer, %error, "a channel keeps the default limit on small HTLCs");
        }
    }

    pub(super) fn raise_all_dust_limits(&self, node: &Node) {
        for channel in node.list_channels() {
            self.raise_dust_limit(node, &channel.user_channel_id, channel.counterparty_node_id);
        }
    }

    pub(super) fn note_pending(&self, channel: UserChannelId) {
        self.note(channel, Opening::Pending);
    }

    pub(super) fn note_closed(&self, channel: UserChannelId, reason: String) {
        self.note(channel, Opening::Closed(reason));
    }

    fn note(&self, channel: UserChannelId, opening: Opening) {
        self.openings.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.0, opening);
        self.changed.notify_all();
    }

    /// Opens a channel unless there is one with that node. Blocks until the other side has accepted it and the wallet
    /// has seen its funding.
    pub(super) fn open(&self, node: &Node, faucet: Option<&Faucet>, request: &ChannelRequest) -> Result<(), LnError> {
        let peer = node_id(&request.node_id)?;
        let address = SocketAddress::from_str(&request.address)
            .map_err(|_| LnError::Refused(format!("{:?} is not host:port", request.address)))?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if state(node, &peer) != ChannelState::None {
            return Ok(());
        }
        self.openings.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(faucet) = faucet {
            // A channel that was closed keeps its coins for many blocks, and regtest has no blocks to wait for.
            faucet.fund(node, request.capacity_sat.saturating_add(FUNDING_MARGIN_SAT))?;
        }
        let before_sat = node.list_balances().total_onchain_balance_sats;
        let push_msat = Some(request.push.msat()).filter(|push| *push > 0);
        let try_open =
            || node.open_channel(peer, address.clone(), request.capacity_sat, push_msat, Some(self.config()));
        let opened = match try_open() {
            // The wallet may not have seen its coins yet.
            Err(NodeError::InsufficientFunds) => {
                node.sync_wallets().map_err(|error| ldk_error("read the chain", error))?;
                try_open()
            }
            other => other,
        };
        let channel = opened.map_err(|error| match error {
            NodeError::InsufficientFunds => LnError::Refused(format!(
                "its wallet has {} sat to spend, too few for a channel of {} sat and the reserve",
                node.list_balances().spendable_onchain_balance_sats,
                request.capacity_sat
            )),
            NodeError::ConnectionFailed => {
                LnError::Unavailable(format!("can't reach node {peer} at {}", request.address))
            }
            other => ldk_error("open a channel", other),
        })?;
        self.wait_for_acceptance(channel)?;
        wait_for_funding(node, before_sat, request.capacity_sat)
    }

    fn wait_for_acceptance(&self, channel: UserChannelId) -> Result<(), LnError> {
        let openings = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |openings: &mut HashMap<u128, Opening>| !openings.contains_key(&channel.0);
        let (openings, _) =
            self.changed.wait_timeout_while(openings, NEGOTIATION, waits).unwrap_or_else(PoisonError::into_inner);
        match openings.get(&channel.0) {
            Some(Opening::Pending) => Ok(()),
            Some(Opening::Closed(reason)) => Err(LnError::Refused(format!("the other node: {reason}"))),
            None => Err(LnError::Unavailable("the other node has not accepted the channel yet".into())),
        }
    }
}

fn wait_for_funding(node: &Node, before_sat: u64, capacity_sat: u64) -> Result<(), LnError> {
    for _ in 0..FUNDING_POLLS {
        if node.list_balances().total_onchain_balance_sats <= before_sat.saturating_sub(capacity_sat) {
            return Ok(());
        }
        node.sync_wallets().map_err(|error| ldk_error("read the chain", error))?;
        std::thread::sleep(FUNDING_PAUSE);
    }
    // The channel is under way all the same.
    tracing::warn!("the wallet has not seen a channel's funding transaction yet");
    Ok(())
}

/// The best channel with a node.
pub(super) fn state(node: &Node, peer: &PublicKey) -> ChannelState {
    let mut channels = node.list_channels();
    channels.retain(|channel| channel.counterparty_node_id == *peer);
    match channels.iter().any(|channel| channel.is_usable) {
        true => ChannelState::Usable,
        false if channels.is_empty() => ChannelState::None,
        false => ChannelState::Pending,
    }
}

pub(super) fn node_id(text: &str) -> Result<PublicKey, LnError> {
    PublicKey::from_str(text).map_err(|_| LnError::Refused(format!("{text:?} is not a node id of 66 hex digits")))
}

/// Who is connected to again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// Peers that have a channel with this node.
    WithChannels,
    /// Every peer that is remembered.
    Everybody,
}

/// Connects to the peers that are away. Blocks for as long as that takes.
pub(super) fn reconnect(node: &Node, whom: Whom) {
    let with_channel: HashSet<PublicKey> =
        node.list_channels().iter().map(|channel| channel.counterparty_node_id).collect();
    for peer in node.list_peers() {
        let wanted = match whom {
            Whom::WithChannels => with_channel.contains(&peer.node_id),
            Whom::Everybody => true,
        };
        if wanted
            && peer.is_persisted
            && !peer.is_connected
            && let Err(error) = node.connect(peer.node_id, peer.address.clone(), true)
        {
            tracing::debug!(peer = %peer.node_id, %error, "not reachable yet");
        }
    }
}
