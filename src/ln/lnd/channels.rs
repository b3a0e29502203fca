//! Channels: what they hold, whether there is one with a node, and opening one.

use std::collections::HashSet;
use std::time::Duration;

use fedimint_tonic_lnd::lnrpc::{
    ChanInfoRequest, Channel, ConnectPeerRequest, GetInfoRequest, LightningAddress, ListChannelsRequest,
    OpenChannelRequest, PendingChannelsRequest, WalletBalanceRequest,
};

use super::client::{CALL_LIMIT, SLOW_CALL_LIMIT, Trouble, call};
use super::core::Core;
use crate::ln::{ChannelRequest, ChannelState, LnError, NodeInfo};
use crate::protocol::amount::Msat;
use crate::protocol::ids::PaymentHash;

/// How long LND may take to reach another node, in seconds.
const CONNECT_S: u64 = 20;

/// How often a channel that can't be used yet is looked at before a payment, and the pause between.
const ROUTABLE_POLLS: u32 = 40;
const ROUTABLE_PAUSE: Duration = Duration::from_millis(50);

/// How often a channel is asked for while LND still calls the node that it has just connected to offline, and the pause
/// between.
const OPEN_TRIES: u32 = 20;
const OPEN_PAUSE: Duration = Duration::from_millis(100);

impl Core {
    pub(super) async fn info(&self) -> Result<NodeInfo, LnError> {
        let info = call("GetInfo", CALL_LIMIT, self.client.lightning().get_info(GetInfoRequest {})).await?;
        let usable: Vec<Channel> =
            self.channels(Vec::new()).await?.into_iter().filter(|channel| channel.active).collect();
        // `node_id@host:port`
        let announced = info.uris.first().and_then(|uri| uri.split_once('@')).map(|(_, address)| address.to_owned());
        Ok(NodeInfo {
            implementation: format!("LND {} ({})", self.version, self.network),
            node_id: self.node_id.clone(),
            address: self.advertise.clone().or(announced),
            network: self.network.to_string(),
            block_height: info.block_height,
            outbound_msat: sum(usable.iter().map(outbound_sat)),
            inbound_msat: sum(usable.iter().map(inbound_sat)),
            usable_channels: u32::try_from(usable.len()).unwrap_or(u32::MAX),
        })
    }

    /// What the on-chain wallet can spend, in sat.
    pub(super) async fn on_chain_sat(&self) -> Result<u64, LnError> {
        let request = WalletBalanceRequest::default();
        let balance = call("WalletBalance", CALL_LIMIT, self.client.lightning().wallet_balance(request)).await?;
        Ok(u64::try_from(balance.confirmed_balance).unwrap_or_default())
    }

    /// Every open channel, or those with one node.
    async fn channels(&self, peer: Vec<u8>) -> Result<Vec<Channel>, Trouble> {
        let request = ListChannelsRequest { peer, ..ListChannelsRequest::default() };
        let listed = call("ListChannels", CALL_LIMIT, self.client.lightning().list_channels(request)).await?;
        Ok(listed.channels)
    }

    /// What is locked in this node's channels on its way to others.
    pub(super) async fn outgoing_htlcs(&self) -> Result<HashSet<PaymentHash>, Trouble> {
        let channels = self.channels(Vec::new()).await?;
        let htlcs = channels.iter().flat_map(|channel| &channel.pending_htlcs).filter(|htlc| !htlc.incoming);
        let hashes = htlcs.filter_map(|htlc| htlc.hash_lock.as_slice().try_into().ok());
        Ok(hashes.map(PaymentHash::from_bytes).collect())
    }

    /// Whether HTLCs may be on their way through the chain.
    pub(super) async fn is_closing_channels(&self) -> Result<bool, Trouble> {
        let request = PendingChannelsRequest::default();
        let pending = call("PendingChannels", CALL_LIMIT, self.client.lightning().pending_channels(request)).await?;
        Ok(!pending.pending_force_closing_channels.is_empty() || !pending.waiting_close_channels.is_empty())
    }

    pub(super) async fn channel_state(&self, node_id: &str) -> Result<ChannelState, LnError> {
        let open = self.channels(key(node_id)?).await?;
        for channel in open.iter().filter(|channel| channel.active) {
            if self.is_routable(channel.chan_id).await? {
                return Ok(ChannelState::Usable);
            }
        }
        if !open.is_empty() {
            return Ok(ChannelState::Pending);
        }
        let request = PendingChannelsRequest::default();
        let pending = call("PendingChannels", CALL_LIMIT, self.client.lightning().pending_channels(request)).await?;
        let opening = pending.pending_open_channels.iter().filter_map(|pending| pending.channel.as_ref());
        let is_opening = opening.into_iter().any(|channel| channel.remote_node_pub.eq_ignore_ascii_case(node_id));
        Ok(if is_opening { ChannelState::Pending } else { ChannelState::None })
    }

    /// Gives LND's router time to learn of a new channel with this node. The other side may call it usable earlier, and ask
    /// to be paid at once.
    pub(super) async fn wait_until_routable(&self, node_id: &str) -> Result<(), LnError> {
        for _ in 0..ROUTABLE_POLLS {
            match self.channel_state(node_id).await? {
                ChannelState::Pending => tokio::time::sleep(ROUTABLE_PAUSE).await,
                ChannelState::None | ChannelState::Usable => break,
            }
        }
        Ok(())
    }

    /// Whether LND would send over it: it calls a new channel active a moment before its own router knows it, and fails
    /// what is paid in between.
    async fn is_routable(&self, chan_id: u64) -> Result<bool, Trouble> {
        let request = ChanInfoRequest { chan_id, ..ChanInfoRequest::default() };
        let edge = match call("GetChanInfo", CALL_LIMIT, self.client.lightning().get_chan_info(request)).await {
            Ok(edge) => edge,
            Err(Trouble::NotFound | Trouble::Refused(_)) => return Ok(false),
            Err(trouble) => return Err(trouble),
        };
        let ours = if edge.node1_pub == self.node_id { edge.node1_policy } else { edge.node2_policy };
        Ok(ours.is_some())
    }

    pub(super) async fn open_channel(&self, request: &ChannelRequest) -> Result<(), LnError> {
        let node_pubkey = key(&request.node_id)?;
        let _opening = self.opening.lock().await;
        if self.channel_state(&request.node_id).await? != ChannelState::None {
            return Ok(());
        }
        self.connect(&request.node_id, &request.address).await?;
        let sat =
            |amount: u64| i64::try_from(amount).map_err(|_| LnError::Refused(format!("{amount} sat is too much")));
        let asked = OpenChannelRequest {
            node_pubkey,
            local_funding_amount: sat(request.capacity_sat)?,
            push_sat: sat(request.push.msat() / 1_000)?,
            // Nobody routes through a home computer.
            private: true,
            // The change of one channel's funding pays for the next, so that peers need not wait for each other.
            spend_unconfirmed: true,
            min_confs: 0,
            ..OpenChannelRequest::default()
        };
        let mut tries = 1;
        loop {
            let mut lightning = self.client.lightning();
            match call("OpenChannelSync", SLOW_CALL_LIMIT, lightning.open_channel_sync(asked.clone())).await {
                Ok(_) => return Ok(()),
                // Nothing was begun.
                Err(Trouble::Refused(reason)) if reason.contains("is not online") && tries < OPEN_TRIES => {
                    tries += 1;
                    tokio::time::sleep(OPEN_PAUSE).await;
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    /// Connects to a node, unless it is connected already (from its side, where a router hides it from ours).
    pub(super) async fn connect(&self, node_id: &str, address: &str) -> Result<(), LnError> {
        let asked = ConnectPeerRequest {
            addr: Some(LightningAddress { pubkey: node_id.to_owned(), host: address.to_owned() }),
            perm: false,
            timeout: CONNECT_S,
        };
        match call("ConnectPeer", SLOW_CALL_LIMIT, self.client.lightning().connect_peer(asked)).await {
            Ok(_) | Err(Trouble::AlreadyExists) => Ok(()),
            Err(Trouble::Refused(reason)) if reason.contains("already connected") => Ok(()),
            Err(Trouble::Refused(reason)) => {
                Err(LnError::Unavailable(format!("can't reach node {node_id} at {address} ({reason})")))
            }
            Err(trouble) => Err(trouble.into()),
        }
    }
}

fn key(node_id: &str) -> Result<Vec<u8>, LnError> {
    let key = hex::decode(node_id).ok().filter(|key| key.len() == 33);
    key.ok_or_else(|| LnError::Refused(format!("{node_id:?} is not a node id of 66 hex digits")))
}

/// What this side can send: its balance above the reserve that the other side asks of it.
fn outbound_sat(channel: &Channel) -> u64 {
    let reserve = channel.local_constraints.as_ref().map(|constraints| constraints.chan_reserve_sat);
    above(channel.local_balance, reserve)
}

fn inbound_sat(channel: &Channel) -> u64 {
    let reserve = channel.remote_constraints.as_ref().map(|constraints| constraints.chan_reserve_sat);
    above(channel.remote_balance, reserve)
}

fn above(balance_sat: i64, reserve_sat: Option<u64>) -> u64 {
    u64::try_from(balance_sat).unwrap_or_default().saturating_sub(reserve_sat.unwrap_or_default())
}

fn sum(sats: impl Iterator<Item = u64>) -> Msat {
    Msat::from_sat(sats.fold(0, u64::saturating_add)).unwrap_or(Msat::MAX_MONEY)
}

#[cfg(test)]
mod tests {
    use fedimint_tonic_lnd::lnrpc::ChannelConstraints;

    use super::*;

    #[test]
    fn a_reserve_can_be_neither_sent_nor_received() {
        let reserve = |chan_reserve_sat| Some(ChannelConstraints { chan_reserve_sat, ..ChannelConstraints::default() });
        let channel = Channel {
            local_balance: 5_000,
            remote_balance: 900,
            local_constraints: reserve(1_000),
            remote_constraints: reserve(1_000),
            ..Channel::default()
        };
        assert_eq!((outbound_sat(&channel), inbound_sat(&channel)), (4_000, 0));
    }

    #[test]
    fn a_node_id_is_66_hex_digits() {
        assert!(key(&"02".repeat(33)).is_ok());
        for wrong in ["", "02", "zz", &"02".repeat(32)] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }
}
