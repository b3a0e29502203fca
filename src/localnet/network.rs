//! A whole network: one chain, a coordinator's LND and its peers' LNDs, with coins and, if wanted, channels.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::{Btcd, BtcdAccess, LndFiles, LndProcess, LocalnetError, Tools};

/// A transaction waits at most so long for its block.
const MINE_AFTER: Duration = Duration::from_millis(100);

/// How long coins and channels may take to appear.
const SETUP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// On top of a channel's capacity, for its funding transaction and what LND keeps back for each anchor channel.
const MARGIN_SAT: u64 = 200_000;

/// A peer's own coins, for its anchor channels.
const PEER_SAT: u64 = 1_000_000;

/// What the nodes get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Funding {
    /// Channels that the coordinator's coins suffice for, of this many sat each. Each has a coin of its own: LND doesn't
    /// spend the change of a channel whose block hasn't come.
    pub channels: u32,
    /// Of each channel, in sat.
    pub capacity_sat: u64,
}

/// One of the network's LNDs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAccess {
    /// `coordinator`, or a peer's name.
    pub name: String,
    /// Its public key, 66 hex digits.
    pub node_id: String,
    /// How to reach it.
    pub files: LndFiles,
}

/// A running network. Dropping it kills it.
#[derive(Debug)]
pub struct Network {
    /// First, so that LND is gone before its chain is.
    nodes: Vec<(NodeAccess, LndProcess)>,
    #[cfg(feature = "embedded")]
    bridge: super::Bridge,
    btcd: Btcd,
}

impl Network {
    /// Starts btcd and one LND for each name in `folder`, the first being the coordinator's, and gives them coins.
    ///
    /// # Errors
    /// When a program is missing or doesn't come up.
    pub async fn start(tools: &Tools, folder: &Path, names: &[&str], funding: Funding) -> Result<Self, LocalnetError> {
        let mut btcd = Btcd::start(tools, &folder.join("btcd"))?;
        btcd.automine(MINE_AFTER)?;
        let starting = names.iter().map(|name| start_node(tools, folder, name, &btcd));
        let nodes = try_join_all(starting).await?;
        let network = Self {
            nodes,
            #[cfg(feature = "embedded")]
            bridge: btcd.bridge()?,
            btcd,
        };
        network.fund(funding).await?;
        Ok(network)
    }

    async fn fund(&self, funding: Funding) -> Result<(), LocalnetError> {
        let mut payments = BTreeMap::new();
        let mut wanted = Vec::new();
        for (place, (_, process)) in self.nodes.iter().enumerate() {
            let mut wallet = process.wallet().await?;
            let (coins, each_sat) = match place {
                0 => (funding.channels, funding.capacity_sat.saturating_add(MARGIN_SAT)),
                _ => (1, PEER_SAT),
            };
            for _ in 0..coins {
                payments.insert(wallet.new_address().await?, each_sat);
            }
            wanted.push((process, each_sat.saturating_mul(u64::from(coins))));
        }
        self.btcd.pay_all(&payments)?;
        for (process, sat) in wanted {
            let mut wallet = process.wallet().await?;
            until(&format!("{}'s coins", process.name()), &process.files().log, async || {
                Ok(wallet.balance_sat().await? >= sat)
            })
            .await?;
        }
        Ok(())
    }

    /// Opens a channel from the coordinator's node to each peer's, with half of it on either side.
    ///
    /// # Errors
    /// When LND refuses, or a channel doesn't become usable.
    pub async fn open_balanced_channels(&self, capacity_sat: u64) -> Result<(), LocalnetError> {
        let Some(((_, coordinator), peers)) = self.nodes.split_first() else { return Ok(()) };
        let mut wallet = coordinator.wallet().await?;
        for (peer, _) in peers {
            wallet.connect_to(&peer.node_id, &peer.files.p2p.to_string()).await?;
            wallet.open_channel(&peer.node_id, capacity_sat, capacity_sat / 2).await?;
        }
        for (_, process) in &self.nodes {
            let count = if process.name() == coordinator.name() { peers.len() } else { 1 };
            let mut wallet = process.wallet().await?;
            until(&format!("{}'s channels", process.name()), &process.files().log, async || {
                Ok(wallet.channels().await?.iter().filter(|channel| channel.active).count() >= count)
            })
            .await?;
        }
        Ok(())
    }

    /// Starts the LNDs that have ended by themselves again, on the same folders and ports. (A btcd that has ended takes its
    /// chain with it.)
    ///
    /// # Errors
    /// When one doesn't come up; the others are tried all the same.
    pub async fn revive(&mut self) -> Result<(), LocalnetError> {
        let mut revived = Ok(());
        for (_, process) in &mut self.nodes {
            if process.has_ended() {
                revived = revived.and(process.restart().await);
            }
        }
        revived
    }

    /// Its LNDs, the coordinator's first.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeAccess> {
        self.nodes.iter().map(|(access, _)| access)
    }

    /// How to reach its chain.
    pub fn btcd(&self) -> BtcdAccess {
        self.btcd.access()
    }

    /// Where embedded nodes find its chain, `host:port`; `None` where this program was built without them.
    pub fn bridge(&self) -> Option<String> {
        #[cfg(feature = "embedded")]
        return Some(self.bridge.address().to_string());
        #[cfg(not(feature = "embedded"))]
        return None;
    }

    /// The ids of its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|(_, process)| process.pid()).chain([self.btcd.pid()]).collect()
    }

    /// Stops all of it in order, the nodes at the same time. Blocks for some seconds.
    pub fn stop(mut self) {
        std::thread::scope(|scope| {
            for (_, process) in &mut self.nodes {
                scope.spawn(|| process.stop());
            }
        });
        self.btcd.stop();
    }
}

async fn start_node(
    tools: &Tools,
    folder: &Path,
    name: &str,
    btcd: &Btcd,
) -> Result<(NodeAccess, LndProcess), LocalnetError> {
    let process = LndProcess::start(tools, &folder.join(name), name, btcd, &[]).await?;
    let node_id = process.wallet().await?.node_id().await?;
    Ok((NodeAccess { name: name.to_owned(), node_id, files: process.files().clone() }, process))
}

/// Asks again and again until the answer is yes.
async fn until(
    what: &str,
    log: &Path,
    mut ask: impl AsyncFnMut() -> Result<bool, LocalnetError>,
) -> Result<(), LocalnetError> {
    for _ in 0..SETUP_LIMIT.as_millis() / POLL.as_millis() {
        if ask().await? {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(LocalnetError::TooLate { what: what.to_owned(), limit_s: SETUP_LIMIT.as_secs(), log: log.to_owned() })
}
