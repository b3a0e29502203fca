//! Coins for a node on the in-process regtest chain. There is no faucet anywhere else.

use std::time::Duration;

use ldk_node::Node;

use super::htlcs::ldk_error;
use super::settings::ChainSource;
use crate::ln::LnError;
use crate::ln::regtest::client;

/// A smaller coin would cost more to spend than it is worth.
const LEAST_SAT: u64 = 20_000;
/// Polls of the chain until the coins are there, and the pause between them.
const POLLS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// The faucet of a regtest chain that an l402t process serves.
#[derive(Debug)]
pub(super) struct Faucet {
    /// `host:port`.
    address: String,
}

impl Faucet {
    /// The chain source's faucet, if it has one.
    pub(super) fn of(chain: &ChainSource) -> Option<Self> {
        match chain {
            ChainSource::RegtestRpc { address } => Some(Self { address: address.clone() }),
            ChainSource::BitcoindRpc { .. } | ChainSource::Esplora { .. } | ChainSource::Electrum { .. } => None,
        }
    }

    /// Makes sure that the wallet can spend `amount_sat`. Blocks until the coins are in a block.
    pub(super) fn fund(&self, node: &Node, amount_sat: u64) -> Result<(), LnError> {
        let missing_sat = || amount_sat.saturating_sub(node.list_balances().spendable_onchain_balance_sats);
        let sync = || node.sync_wallets().map_err(|error| ldk_error("read the chain", error));
        if missing_sat() == 0 {
            return Ok(());
        }
        sync()?;
        if missing_sat() == 0 {
            return Ok(());
        }
        self.pay(node, missing_sat())?;
        for _ in 0..POLLS {
            sync()?;
            if missing_sat() == 0 {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        Err(LnError::Unavailable("no block with the faucet's coins came within ten seconds".into()))
    }

    /// Has the wallet paid this much, or the least that the faucet pays; it confirms with the next block.
    pub(super) fn pay(&self, node: &Node, amount_sat: u64) -> Result<(), LnError> {
        let address = node.onchain_payment().new_address().map_err(|error| ldk_error("make an address", error))?;
        client::faucet(&self.address, &address.to_string(), amount_sat.max(LEAST_SAT))
            .map_err(|error| LnError::Unavailable(error.to_string()))
    }
}
