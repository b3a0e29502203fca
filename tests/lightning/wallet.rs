//! Backups, restores and old copies of a wallet, against a live node on the other side of its channel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use l402t::ln::bolt11::Network;
use l402t::ln::embedded::{
    BackupKind, ClosedBy, EmbeddedError, EmbeddedNode, Recovery, RecoveryStep, Settings, back_up, last_summary,
    restore, restore_from_words, words,
};
use l402t::ln::regtest::RegtestChain;
use l402t::ln::{ChannelRequest, ChannelState, InvoiceStatus, Lightning};
use l402t::protocol::ids::UnixMs;

use crate::bench::{CAPACITY_SAT, LIMITS, PUSH, numbered, request, until};
use crate::embedded::{node, regtest};

const NOW: UnixMs = UnixMs(1_700_000_000_000);
const PAID_MSAT: u64 = 30_000_000;
/// Its coins on chain, before any recovery.
const FUNDS_SAT: u64 = 200_000;
/// What closing and sweeping may cost of them.
const FEES_SAT: u64 = 5_000;
/// Until LDK takes a closing for final, and some.
const BURIED_BLOCKS: u32 = 8;

/// A coordinator that lives on, and a peer whose folder is copied.
struct Pair {
    chain: RegtestChain,
    root: tempfile::TempDir,
    rpc: String,
    coordinator: Arc<EmbeddedNode>,
    peer: Option<Arc<EmbeddedNode>>,
    paid: u16,
}

impl Pair {
    async fn start() -> Pair {
        let root = tempfile::tempdir().expect("a folder");
        let (chain, rpc) = regtest(&root);
        let coordinator = node(&rpc, root.path().join("coordinator"), &[]).await;
        coordinator.fund_from_regtest_faucet(20_000_000).await.expect("funded");
        let mut pair = Pair { chain, root, rpc, coordinator, peer: None, paid: 0 };
        pair.peer_up().await.expect("started");
        let peer = pair.peer();
        peer.fund_from_regtest_faucet(FUNDS_SAT).await.expect("funded");
        let address = peer.info().await.expect("up").address.expect("listens");
        let request = ChannelRequest { node_id: peer.node_id(), address, capacity_sat: CAPACITY_SAT, push: PUSH };
        pair.coordinator.open_channel(&request).await.expect("opened");
        pair.usable().await;
        pair
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("peer")
    }

    fn copy(&self) -> PathBuf {
        self.root.path().join("copy")
    }

    fn settings(&self) -> Settings {
        Settings {
            trusted_peers_0conf: vec![self.coordinator.node_id()],
            marks: Some(self.root.path().join("marks")),
            ..Settings::regtest(&self.rpc)
        }
    }

    fn peer(&self) -> Arc<EmbeddedNode> {
        Arc::clone(self.peer.as_ref().expect("runs"))
    }

    async fn peer_up(&mut self) -> Result<(), EmbeddedError> {
        self.peer = Some(Arc::new(EmbeddedNode::start(&self.settings(), &self.folder()).await?));
        Ok(())
    }

    async fn peer_down(&mut self) {
        self.peer.take().expect("runs").stop().await;
    }

    async fn usable(&self) {
        let (coordinator, peer) = (&self.coordinator, self.peer());
        until("the channel is usable", async || {
            coordinator.channel_state(&peer.node_id()).await.ok() == Some(ChannelState::Usable)
                && peer.channel_state(&coordinator.node_id()).await.ok() == Some(ChannelState::Usable)
        })
        .await;
    }

    /// The coordinator pays the peer.
    async fn pay(&mut self) {
        self.paid += 1;
        let (coordinator, peer, preimage) = (&self.coordinator, self.peer(), numbered(40, self.paid));
        let hash = preimage.payment_hash();
        let invoice = peer.create_hold_invoice(hash, &request(PAID_MSAT), 144).await.expect("made");
        coordinator.pay(&invoice, LIMITS).await.expect("taken");
        until("it is locked", async || matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Accepted { .. }))).await;
        peer.settle(preimage).await.expect("taken");
        until("it is paid", async || matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Settled { .. }))).await;
    }

    /// What the peer has in its channel after what it was paid.
    fn channel_sat(&self) -> u64 {
        (PUSH.msat() + u64::from(self.paid) * PAID_MSAT) / 1_000
    }

    /// Brings a copy of the peer's folder back in its place.
    fn put_back(&self) {
        std::fs::remove_dir_all(self.folder()).expect("removed");
        copy_folder(&self.copy(), &self.folder());
    }

    /// Goes through a recovery, mining as time would.
    async fn recover(&self) -> Result<(), EmbeddedError> {
        let mut recovery = Recovery::start(&self.settings(), &self.folder(), ClosedBy::ChainSource).await?;
        let mut closing = false;
        for _ in 0..200 {
            match recovery.step().await? {
                RecoveryStep::Closing(open) => closing |= !open.is_empty(),
                RecoveryStep::Claiming { .. } => self.chain.mine(1).expect("mined"),
                RecoveryStep::Done => {
                    assert!(closing, "it saw the channel open");
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the recovery takes too long");
    }

    async fn peer_on_chain_sat(&self) -> u64 {
        let peer = self.peer();
        peer.sync().await.expect("synced");
        peer.on_chain_balance_sat().await.expect("known")
    }

    async fn stop(mut self) {
        if let Some(peer) = self.peer.take() {
            peer.stop().await;
        }
        self.coordinator.stop().await;
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

#[tokio::test]
async fn an_old_copy_is_refused_and_its_coins_and_channel_come_back_by_the_seed() {
    let mut pair = Pair::start().await;
    pair.pay().await;
    pair.peer_down().await;
    copy_folder(&pair.folder(), &pair.copy());
    pair.peer_up().await.expect("started");
    pair.usable().await;
    pair.pay().await;
    pair.peer_down().await;
    pair.put_back();
    let height = pair.chain.height();
    for _ in 0..2 {
        let refused = pair.peer_up().await.expect_err("it is old");
        assert!(matches!(refused, EmbeddedError::Stale { held, newest, .. } if held < newest), "{refused}");
    }
    assert_eq!((pair.chain.waiting(), pair.chain.height()), (0, height), "nothing was broadcast");
    let node_id = last_summary(&pair.folder()).expect("readable").expect("it ran").node_id;
    assert_eq!(pair.coordinator.channel_state(&node_id).await.expect("known"), ChannelState::Pending);
    pair.recover().await.expect("recovered");
    assert_eq!(pair.coordinator.channel_state(&node_id).await.expect("known"), ChannelState::None);
    pair.chain.mine(BURIED_BLOCKS).expect("mined");
    pair.peer_up().await.expect("it is a wallet without channels now");
    let (has, expected) = (pair.peer_on_chain_sat().await, FUNDS_SAT + pair.channel_sat());
    assert!((expected - FEES_SAT..=expected).contains(&has), "{has} of {expected}, the newest balance");
    // The old copy is old for good.
    pair.peer_down().await;
    pair.put_back();
    assert!(matches!(pair.peer_up().await, Err(EmbeddedError::Stale { .. })));
    pair.stop().await;
}

#[tokio::test]
async fn an_old_copy_elsewhere_is_stopped_by_the_other_node_before_it_sends_anything() {
    let mut pair = Pair::start().await;
    pair.peer_down().await;
    copy_folder(&pair.folder(), &pair.copy());
    pair.peer_up().await.expect("started");
    pair.usable().await;
    pair.pay().await;
    let node_id = pair.peer().node_id();
    pair.peer_down().await;
    pair.put_back();
    // Another machine knows nothing of this wallet.
    std::fs::remove_dir_all(pair.root.path().join("marks")).expect("removed");
    let height = pair.chain.height();
    pair.peer_up().await.expect("nothing shows that it is old, yet");
    let peer = pair.peer();
    until("the coordinator's node proves it", async || {
        peer.info().await.is_err_and(|error| error.to_string().contains("channel state is old"))
    })
    .await;
    pair.peer_down().await;
    let refused = pair.peer_up().await.expect_err("it knows now");
    assert!(matches!(refused, EmbeddedError::Behind(_)), "{refused}");
    assert_eq!((pair.chain.waiting(), pair.chain.height()), (0, height), "nothing was broadcast");
    assert_ne!(pair.coordinator.channel_state(&node_id).await.expect("known"), ChannelState::None);
    pair.stop().await;
}

#[tokio::test]
async fn a_backup_of_a_running_node_starts_again_until_a_payment_makes_it_old() {
    let mut pair = Pair::start().await;
    pair.pay().await;
    let file = pair.root.path().join("backup");
    let made = back_up(&pair.folder(), &file, BackupKind::Copy, Network::Regtest, NOW).expect("made while it runs");
    assert_eq!((made.node_id, made.network.as_str()), (pair.peer().node_id(), "regtest"));
    let refused = restore(&file, &pair.folder(), Network::Regtest).expect_err("there is a wallet");
    assert!(matches!(refused, EmbeddedError::NotEmpty(_)), "{refused}");
    pair.pay().await;
    pair.peer_down().await;
    let summary = last_summary(&pair.folder()).expect("readable").expect("it ran");
    assert_eq!(summary.in_channels_sat, pair.channel_sat(), "{summary:?}");
    std::fs::remove_dir_all(pair.folder()).expect("removed");
    restore(&file, &pair.folder(), Network::Regtest).expect("restored");
    assert!(matches!(pair.peer_up().await, Err(EmbeddedError::Stale { .. })));
    // On a machine that can't know, it is not believed either.
    std::fs::remove_dir_all(pair.root.path().join("marks")).expect("removed");
    assert!(matches!(pair.peer_up().await, Err(EmbeddedError::Restored(_))));
    pair.recover().await.expect("recovered");
    pair.chain.mine(BURIED_BLOCKS).expect("mined");
    pair.peer_up().await.expect("started");
    let (has, expected) = (pair.peer_on_chain_sat().await, FUNDS_SAT + pair.channel_sat());
    assert!((expected - FEES_SAT..=expected).contains(&has), "{has} of {expected}");
    pair.stop().await;
}

#[tokio::test]
async fn a_wallet_that_was_moved_goes_on_where_it_is_restored_and_nowhere_else() {
    let mut pair = Pair::start().await;
    pair.pay().await;
    let file = pair.root.path().join("backup");
    let running = back_up(&pair.folder(), &file, BackupKind::Move, Network::Regtest, NOW);
    assert!(matches!(running, Err(EmbeddedError::InUse(_))), "{running:?}");
    pair.peer_down().await;
    back_up(&pair.folder(), &file, BackupKind::Move, Network::Regtest, NOW).expect("made");
    assert!(matches!(pair.peer_up().await, Err(EmbeddedError::Moved(_))));
    std::fs::rename(pair.folder(), pair.copy()).expect("out of the way");
    // Another machine.
    std::fs::remove_dir_all(pair.root.path().join("marks")).expect("removed");
    restore(&file, &pair.folder(), Network::Regtest).expect("restored");
    pair.peer_up().await.expect("it is the wallet now");
    pair.usable().await;
    pair.pay().await;
    pair.stop().await;
}

#[tokio::test]
async fn the_words_alone_bring_back_the_coins_on_chain() {
    let mut pair = Pair::start().await;
    let node_id = pair.peer().node_id();
    pair.peer_down().await;
    let words = words(&pair.folder()).expect("readable").expect("it has some");
    std::fs::remove_dir_all(pair.folder()).expect("removed");
    let restored = restore_from_words(&words, &pair.folder(), Network::Regtest).expect("restored");
    assert_eq!(restored, node_id);
    pair.peer_up().await.expect("it has no channel state that could be old");
    let peer = pair.peer();
    until("the coins are found", async || {
        peer.sync().await.expect("synced");
        peer.on_chain_balance_sat().await.expect("known") == FUNDS_SAT
    })
    .await;
    pair.stop().await;
}
