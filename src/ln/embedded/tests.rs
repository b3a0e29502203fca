use std::path::PathBuf;

use super::*;
use crate::ln::regtest::RegtestChain;
use crate::ln::{
    ChannelRequest, ChannelState, FAIL_BACK_BLOCKS, InvoiceRequest, InvoiceStatus, Lightning, PayLimits, PaymentStatus,
    bolt11,
};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage};

const LIMITS: PayLimits = PayLimits { max_fee: Msat::new(10_000), max_cltv_blocks: 900 };
const WAIT: Duration = Duration::from_secs(20);

/// A chain and two nodes with a channel: the coordinator opened it and pushed some to the peer.
struct Pair {
    chain: RegtestChain,
    root: tempfile::TempDir,
    rpc: String,
    coordinator: Option<EmbeddedNode>,
    peer: Option<EmbeddedNode>,
}

impl Pair {
    async fn start() -> Pair {
        let root = tempfile::tempdir().expect("a folder");
        let mut chain = RegtestChain::open(&root.path().join("chain")).expect("opens");
        let rpc = chain.serve(0).expect("a port").to_string();
        chain.automine(Duration::from_millis(20)).expect("a thread");
        let mut pair = Pair { chain, root, rpc, coordinator: None, peer: None };
        let coordinator = pair.node("coordinator", &[]).await;
        let peer = pair.node("peer", &[coordinator.node_id()]).await;
        coordinator.fund_from_regtest_faucet(20_000_000).await.expect("funded");
        peer.fund_from_regtest_faucet(200_000).await.expect("funded");
        let info = peer.info().await.expect("up");
        let request = ChannelRequest {
            node_id: info.node_id.clone(),
            address: info.address.expect("listens"),
            capacity_sat: 10_000_000,
            push: Msat::new(1_000_000_000),
        };
        coordinator.open_channel(&request).await.expect("opened");
        coordinator.open_channel(&request).await.expect("there is one");
        usable(&coordinator, &peer).await;
        pair.coordinator = Some(coordinator);
        pair.peer = Some(peer);
        pair
    }

    async fn node(&self, name: &str, trusted: &[String]) -> EmbeddedNode {
        let settings = Settings { trusted_peers_0conf: trusted.to_vec(), ..Settings::regtest(&self.rpc) };
        EmbeddedNode::start(&settings, &self.dir(name)).await.expect("started")
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn coordinator(&self) -> &EmbeddedNode {
        self.coordinator.as_ref().expect("runs")
    }

    fn peer(&self) -> &EmbeddedNode {
        self.peer.as_ref().expect("runs")
    }

    async fn restart_peer(&mut self) {
        let old = self.peer.take().expect("runs");
        old.stop().await;
        drop(old);
        self.peer = Some(self.node("peer", &[self.coordinator().node_id()]).await);
        usable(self.coordinator(), self.peer()).await;
    }

    async fn restart_coordinator(&mut self) {
        let old = self.coordinator.take().expect("runs");
        old.stop().await;
        drop(old);
        self.coordinator = Some(self.node("coordinator", &[]).await);
        usable(self.coordinator(), self.peer()).await;
    }

    async fn hold(&self, tag: u8, amount_msat: u64) -> (Preimage, PaymentHash) {
        let preimage = Preimage::from_bytes([tag; 32]);
        let hash = preimage.payment_hash();
        let invoice = self.peer().create_hold_invoice(hash, &request(amount_msat), 144).await.expect("made");
        assert_eq!(self.coordinator().pay(&invoice, LIMITS).await.expect("taken"), hash);
        until("the HTLC is locked", async || {
            matches!(self.peer().invoice(hash).await, Ok(InvoiceStatus::Accepted { .. }))
        })
        .await;
        (preimage, hash)
    }

    async fn paid(&self, hash: PaymentHash, preimage: Preimage) {
        until("the payer sees it paid", async || {
            self.coordinator().payment(hash).await.ok() == Some(PaymentStatus::Succeeded { preimage, fee: Msat::ZERO })
        })
        .await;
        until("the payee has it", async || {
            matches!(self.peer().invoice(hash).await, Ok(InvoiceStatus::Settled { .. }))
        })
        .await;
    }

    async fn refunded(&self, hash: PaymentHash) {
        until("the payer has it back", async || {
            matches!(self.coordinator().payment(hash).await, Ok(PaymentStatus::Failed { .. }))
        })
        .await;
        assert_eq!(self.peer().invoice(hash).await.expect("known"), InvoiceStatus::Canceled);
    }

    async fn stop(mut self) {
        for node in [self.coordinator.take(), self.peer.take()].into_iter().flatten() {
            node.stop().await;
        }
    }
}

fn request(amount_msat: u64) -> InvoiceRequest {
    InvoiceRequest { amount: Msat::new(amount_msat), description: "a tranche".into(), expiry_s: 600 }
}

async fn usable(a: &EmbeddedNode, b: &EmbeddedNode) {
    until("the channel is usable", async || {
        a.channel_state(&b.node_id()).await.ok() == Some(ChannelState::Usable)
            && b.channel_state(&a.node_id()).await.ok() == Some(ChannelState::Usable)
    })
    .await;
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, wait).await.unwrap_or_else(|_| panic!("waited too long until {what}"));
}

#[tokio::test]
async fn a_hold_is_settled_canceled_and_paid_once() {
    let pair = Pair::start().await;
    let before = pair.peer().info().await.expect("up").outbound_msat;
    let (preimage, hash) = pair.hold(1, 2_000_000).await;
    assert_eq!(pair.coordinator().payment(hash).await.expect("known"), PaymentStatus::InFlight);
    assert!(matches!(pair.peer().settle(Preimage::from_bytes([99; 32])).await, Err(LnError::UnknownHash(_))));
    pair.peer().settle(preimage).await.expect("taken");
    pair.paid(hash, preimage).await;
    pair.peer().settle(preimage).await.expect("twice is once");
    assert!(matches!(pair.peer().cancel(hash).await, Err(LnError::Refused(_))));
    // The same invoice again: paid once.
    let invoice = pair.peer().create_hold_invoice(hash, &request(2_000_000), 144).await.expect("the first");
    pair.coordinator().pay(&invoice, LIMITS).await.expect("nothing to do");
    until("the peer has 2,000 sat more", async || {
        pair.peer().info().await.expect("up").outbound_msat == Msat::new(before.msat() + 2_000_000)
    })
    .await;

    let (_, hash) = pair.hold(2, 3_000_000).await;
    pair.peer().cancel(hash).await.expect("taken");
    pair.peer().cancel(hash).await.expect("twice is once");
    pair.refunded(hash).await;
    assert!(matches!(pair.peer().settle(Preimage::from_bytes([2; 32])).await, Err(LnError::Refused(_))));
    pair.stop().await;
}

#[tokio::test]
async fn a_fee_is_paid_by_an_ordinary_invoice() {
    let pair = Pair::start().await;
    let invoice = pair.coordinator().create_invoice(&request(10_000)).await.expect("made");
    assert_eq!(pair.coordinator().invoice(invoice.payment_hash).await.expect("known"), InvoiceStatus::Open);
    assert!(matches!(pair.coordinator().pay(&invoice.bolt11, LIMITS).await, Err(LnError::Refused(_))));
    pair.peer().pay(&invoice.bolt11, LIMITS).await.expect("taken");
    until("it is paid", async || {
        matches!(pair.peer().payment(invoice.payment_hash).await, Ok(PaymentStatus::Succeeded { preimage, .. })
            if preimage.payment_hash() == invoice.payment_hash)
    })
    .await;
    until("it is here", async || {
        pair.coordinator().invoice(invoice.payment_hash).await.ok()
            == Some(InvoiceStatus::Settled { amount: Msat::new(10_000) })
    })
    .await;
    let withdrawn = pair.coordinator().create_invoice(&request(10_000)).await.expect("made");
    pair.coordinator().cancel(withdrawn.payment_hash).await.expect("withdrawn");
    pair.peer().pay(&withdrawn.bolt11, LIMITS).await.expect("taken");
    until("it comes back", async || {
        matches!(pair.peer().payment(withdrawn.payment_hash).await, Ok(PaymentStatus::Failed { .. }))
    })
    .await;
    pair.stop().await;
}

#[tokio::test]
async fn a_restart_of_either_side_while_money_is_held_changes_nothing() {
    let mut pair = Pair::start().await;
    let (preimage, hash) = pair.hold(3, 2_000_000).await;
    let (_, canceled) = pair.hold(4, 2_000_000).await;
    pair.restart_peer().await;
    assert!(matches!(pair.peer().invoice(hash).await, Ok(InvoiceStatus::Accepted { .. })));
    pair.restart_coordinator().await;
    assert_eq!(pair.coordinator().payment(hash).await.expect("known"), PaymentStatus::InFlight);
    pair.peer().settle(preimage).await.expect("taken");
    pair.peer().cancel(canceled).await.expect("taken");
    pair.paid(hash, preimage).await;
    pair.refunded(canceled).await;
    pair.stop().await;
}

#[tokio::test]
async fn a_hold_lasts_as_long_as_was_asked_and_then_goes_back() {
    let pair = Pair::start().await;
    let height = pair.chain.height();
    let (_, hash) = pair.hold(5, 2_000_000).await;
    let Ok(InvoiceStatus::Accepted { expiry_height: Some(deadline), .. }) = pair.peer().invoice(hash).await else {
        panic!("it is locked");
    };
    assert!(deadline >= height + 144 - FAIL_BACK_BLOCKS, "{deadline} is too soon after {height}");
    let text = pair.peer().create_hold_invoice(hash, &request(1), 500).await.expect("the first");
    assert_eq!(bolt11::parse(&text, bitcoin::Network::Regtest).expect("valid").min_final_cltv_blocks, 144);
    pair.chain.mine(deadline - pair.chain.height()).expect("mined");
    until("both have seen the blocks", async || {
        pair.peer().sync().await.expect("synced");
        pair.coordinator().sync().await.expect("synced");
        pair.peer().info().await.expect("up").block_height >= deadline
    })
    .await;
    pair.refunded(hash).await;
    pair.stop().await;
}

#[tokio::test]
async fn a_payment_without_a_route_has_failed_and_can_be_tried_again() {
    let mut pair = Pair::start().await;
    let preimage = Preimage::from_bytes([6; 32]);
    let hash = preimage.payment_hash();
    let invoice = pair.peer().create_hold_invoice(hash, &request(2_000_000), 300).await.expect("made");
    let tight = PayLimits { max_cltv_blocks: 200, ..LIMITS };
    pair.coordinator().pay(&invoice, tight).await.expect("taken");
    assert!(matches!(pair.coordinator().payment(hash).await, Ok(PaymentStatus::Failed { .. })));
    let peer = pair.peer.take().expect("runs");
    peer.stop().await;
    drop(peer);
    pair.coordinator().pay(&invoice, LIMITS).await.expect("taken");
    until("it has failed", async || matches!(pair.coordinator().payment(hash).await, Ok(PaymentStatus::Failed { .. })))
        .await;
    pair.peer = Some(pair.node("peer", &[pair.coordinator().node_id()]).await);
    usable(pair.coordinator(), pair.peer()).await;
    pair.peer().settle(preimage).await.expect("claims when it arrives");
    pair.coordinator().pay(&invoice, LIMITS).await.expect("taken");
    pair.paid(hash, preimage).await;
    pair.stop().await;
}

#[tokio::test]
async fn five_peers_get_a_channel_at_once_each_with_its_own_coins() {
    let root = tempfile::tempdir().expect("a folder");
    let mut chain = RegtestChain::open(&root.path().join("chain")).expect("opens");
    let rpc = chain.serve(0).expect("a port").to_string();
    chain.automine(Duration::from_millis(20)).expect("a thread");
    let start = async |name: String, trusted: Vec<String>| {
        let settings = Settings { trusted_peers_0conf: trusted, ..Settings::regtest(&rpc) };
        EmbeddedNode::start(&settings, &root.path().join(name)).await.expect("started")
    };
    let hub = start("hub".into(), vec![]).await;
    hub.fund_from_regtest_faucet(100_000_000).await.expect("funded");
    let join = async |number: u32| {
        let peer = start(format!("peer{number}"), vec![hub.node_id()]).await;
        peer.fund_from_regtest_faucet(200_000).await.expect("funded");
        let info = peer.info().await.expect("up");
        let address = info.address.expect("listens");
        let request =
            ChannelRequest { node_id: info.node_id, address, capacity_sat: 5_000_000, push: Msat::new(500_000_000) };
        hub.open_channel(&request).await.expect("opened");
        usable(&hub, &peer).await;
        peer
    };
    let peers = futures_util::future::join_all((0..5).map(join)).await;
    until("every funding transaction is mined", async || chain.waiting() == 0).await;
    hub.sync().await.expect("synced");
    // Five times 5,000,000 sat and little more: no coin was used twice.
    let left = hub.on_chain_balance_sat().await.expect("known");
    assert!((74_900_000..75_000_000).contains(&left), "{left}");
    for node in peers.iter().chain([&hub]) {
        node.stop().await;
    }
}

#[tokio::test]
async fn one_folder_runs_one_node_and_a_dead_chain_is_named() {
    let pair = Pair::start().await;
    let settings = Settings::regtest(&pair.rpc);
    let twice = EmbeddedNode::start(&settings, &pair.dir("peer")).await;
    assert!(matches!(twice, Err(EmbeddedError::InUse(_))), "{twice:?}");
    let nowhere = EmbeddedNode::start(&Settings::regtest("127.0.0.1:1"), &pair.dir("new")).await;
    assert!(nowhere.expect_err("no chain").to_string().contains("127.0.0.1:1"));
    pair.stop().await;
}
