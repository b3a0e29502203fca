//! The contract over LDK nodes on the in-process regtest chain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use l402t::ln::embedded::{EmbeddedNode, Settings};
use l402t::ln::regtest::RegtestChain;
use l402t::ln::{ChannelRequest, ChannelState, Lightning};

use crate::bench::{Bench, CAPACITY_SAT, PUSH, until};

pub(crate) struct Embedded {
    chain: RegtestChain,
    root: tempfile::TempDir,
    rpc: String,
    coordinator: Option<Arc<EmbeddedNode>>,
    peer: Option<Arc<EmbeddedNode>>,
}

pub(crate) async fn start() -> Embedded {
    let root = tempfile::tempdir().expect("a folder");
    let (chain, rpc) = regtest(&root);
    let coordinator = node(&rpc, root.path().join("coordinator"), &[]).await;
    let peer = node(&rpc, root.path().join("peer"), &[coordinator.node_id()]).await;
    coordinator.fund_from_regtest_faucet(20_000_000).await.expect("funded");
    peer.fund_from_regtest_faucet(200_000).await.expect("funded");
    let info = peer.info().await.expect("up");
    let address = info.address.expect("listens");
    let request = ChannelRequest { node_id: info.node_id, address, capacity_sat: CAPACITY_SAT, push: PUSH };
    coordinator.open_channel(&request).await.expect("opened");
    let embedded = Embedded { chain, root, rpc, coordinator: Some(coordinator), peer: Some(peer) };
    embedded.usable().await;
    embedded
}

pub(crate) fn regtest(root: &tempfile::TempDir) -> (RegtestChain, String) {
    let mut chain = RegtestChain::open(&root.path().join("chain")).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    chain.automine(Duration::from_millis(20)).expect("a thread");
    (chain, rpc)
}

pub(crate) async fn node(rpc: &str, dir: PathBuf, trusted: &[String]) -> Arc<EmbeddedNode> {
    let settings = Settings { trusted_peers_0conf: trusted.to_vec(), ..Settings::regtest(rpc) };
    Arc::new(EmbeddedNode::start(&settings, &dir).await.expect("started"))
}

impl Embedded {
    /// Replaces the last blocks, and returns once both nodes are on the new ones.
    pub(crate) async fn reorganise(&mut self, depth: u32) {
        self.chain.reorganise(depth).expect("other blocks");
        self.seen().await;
    }

    pub(crate) fn height(&self) -> u32 {
        self.chain.height()
    }

    async fn seen(&self) {
        let height = self.chain.height();
        for node in [self.coordinator.as_ref(), self.peer.as_ref()].into_iter().flatten() {
            until("the blocks are seen", async || {
                node.sync().await.expect("synced");
                node.info().await.is_ok_and(|info| info.block_height == height)
            })
            .await;
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    async fn usable(&self) {
        let (coordinator, peer) = (self.coordinator(), self.peer());
        let (a, b) = (coordinator.info().await.expect("up").node_id, peer.info().await.expect("up").node_id);
        until("the channel is usable", async || {
            coordinator.channel_state(&b).await.ok() == Some(ChannelState::Usable)
                && peer.channel_state(&a).await.ok() == Some(ChannelState::Usable)
        })
        .await;
    }
}

impl Bench for Embedded {
    fn coordinator(&self) -> Arc<dyn Lightning> {
        self.coordinator.clone().expect("runs")
    }

    fn peer(&self) -> Arc<dyn Lightning> {
        self.peer.clone().expect("runs")
    }

    async fn peer_down(&mut self) {
        self.peer.take().expect("runs").stop().await;
    }

    async fn peer_up(&mut self) {
        let trusted = [self.coordinator.as_ref().expect("runs").node_id()];
        self.peer = Some(node(&self.rpc, self.dir("peer"), &trusted).await);
        self.usable().await;
    }

    async fn restart_coordinator(&mut self) {
        self.coordinator.take().expect("runs").stop().await;
        self.coordinator = Some(node(&self.rpc, self.dir("coordinator"), &[]).await);
        self.usable().await;
    }

    async fn mine(&mut self, blocks: u32) {
        self.chain.mine(blocks).expect("mined");
        self.seen().await;
    }

    fn slots(&self) -> u32 {
        50
    }

    async fn stop(&mut self) {
        for node in [self.coordinator.take(), self.peer.take()].into_iter().flatten() {
            node.stop().await;
        }
    }
}

use crate::contract::contract;

crate::contract::scenarios!(contract, start);
