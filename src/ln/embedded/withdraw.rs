//! Getting money out: closing channels and sending coins on chain.

use std::str::FromStr;
use std::time::Duration;

use bitcoin::address::NetworkUnchecked;
use bitcoin::hashes::Hash as _;
use bitcoin::{Address, Txid};
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::{ChannelDetails, Node, NodeError};

use super::EmbeddedNode;
use super::htlcs::ldk_error;
use crate::ln::LnError;

/// Polls of the chain until the wallet has seen what it sent, and the pause between them.
const SEEN_POLLS: u32 = 150;
const SEEN_PAUSE: Duration = Duration::from_millis(200);

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChainAmount {
    /// So many sat, and the fee on top.
    Sat(u64),
    /// All but what open channels need as a reserve, and less the fee.
    All,
}

/// How a channel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// With the other node, which must be there. The money is in the wallet once that confirms.
    Together,
    /// Without it: dearer, and this side's money is locked for some hundred blocks.
    Force,
}

impl EmbeddedNode {
    /// Sends coins to an address on chain and returns the transaction's id. What may be refused is refused before
    /// anything is sent.
    ///
    /// # Errors
    /// Another network's address, too few coins, or a node that does not answer.
    pub async fn send_on_chain(&self, to: &str, amount: OnChainAmount) -> Result<String, LnError> {
        let network = self.parts().settings.network();
        let address = Address::<NetworkUnchecked>::from_str(to)
            .map_err(|_| LnError::Refused(format!("{to:?} is not an address")))?
            .require_network(network)
            .map_err(|_| LnError::Refused(format!("{to} is not an address on {network}")))?;
        self.slow_call(move |parts| {
            let node = &parts.htlcs.node;
            node.sync_wallets().map_err(|error| ldk_error("read the chain", error))?;
            let before = node.list_balances();
            let (sent, leaves_sat) = match amount {
                OnChainAmount::Sat(sat) => (node.onchain_payment().send_to_address(&address, sat, None), sat),
                OnChainAmount::All => {
                    let all = node.onchain_payment().send_all_to_address(&address, true, None);
                    (all, before.spendable_onchain_balance_sats)
                }
            };
            let txid = sent.map_err(|error| match error {
                NodeError::InsufficientFunds => LnError::Refused(format!(
                    "its wallet can send {} sat, fee included; open channels need a reserve on top",
                    before.spendable_onchain_balance_sats
                )),
                error => ldk_error("send coins", error),
            })?;
            wait_until_seen(node, before.total_onchain_balance_sats.saturating_sub(leaves_sat), &txid)?;
            Ok(txid.to_string())
        })
        .await
    }

    /// Begins to close a channel, named as in the wallet's summary.
    ///
    /// # Errors
    /// No such channel; the other node is not there (for a closing together).
    pub async fn close_channel(&self, id: &str, how: Closing) -> Result<(), LnError> {
        let id = id.to_owned();
        self.slow_call(move |parts| {
            let node = &parts.htlcs.node;
            let channel = find(node, &id).ok_or_else(|| LnError::Refused(format!("there is no open channel {id}")))?;
            let (name, peer) = (channel.user_channel_id, channel.counterparty_node_id);
            let closed = match how {
                Closing::Together if !channel.is_usable => {
                    return Err(LnError::Unavailable(format!("node {peer} is not there to close the channel with")));
                }
                Closing::Together => node.close_channel(&name, peer),
                Closing::Force => node.force_close_channel(&name, peer, Some("closed by its owner".into())),
            };
            closed.map_err(|error| ldk_error("close the channel", error))
        })
        .await
    }
}

/// The transaction is only queued when LDK says that it was sent, and its wallet forgets it unless the chain source shows
/// it. So a node must not be stopped before. The balance shows it at once, unless other coins come in meanwhile (a closed
/// channel's); LDK's list of payments then has it with the next block, and sooner with an esplora or electrum.
fn wait_until_seen(node: &Node, left_sat: u64, txid: &Txid) -> Result<(), LnError> {
    for _ in 0..SEEN_POLLS {
        let spent = node.list_balances().total_onchain_balance_sats <= left_sat;
        if spent || node.payment(&PaymentId(txid.to_byte_array())).is_some() {
            return Ok(());
        }
        std::thread::sleep(SEEN_PAUSE);
        node.sync_wallets().map_err(|error| ldk_error("read the chain", error))?;
    }
    Err(LnError::Unavailable(format!(
        "transaction {txid} was sent, but the chain source does not show it; look for it"
    )))
}

fn find(node: &Node, id: &str) -> Option<ChannelDetails> {
    node.list_channels().into_iter().find(|channel| super::summary::channel_id(channel) == id)
}
