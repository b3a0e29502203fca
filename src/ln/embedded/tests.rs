use super::*;
use crate::ln::regtest::RegtestChain;
use crate::ln::{ChannelRequest, ChannelState, Lightning};
use crate::protocol::amount::Msat;

const WAIT: Duration = Duration::from_secs(20);

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
    let root = tempfile::tempdir().expect("a folder");
    let mut chain = RegtestChain::open(&root.path().join("chain")).expect("opens");
    let settings = Settings::regtest(chain.serve(0).expect("a port").to_string());
    let dir = root.path().join("node");
    let node = EmbeddedNode::start(&settings, &dir).await.expect("started");
    let twice = EmbeddedNode::start(&settings, &dir).await;
    assert!(matches!(twice, Err(EmbeddedError::InUse(_))), "{twice:?}");
    let (node_id, address) = (node.node_id(), node.info().await.expect("up").address);
    node.stop().await;
    assert!(matches!(node.sync().await, Err(LnError::Unavailable(_))), "it is stopped");
    let again = EmbeddedNode::start(&settings, &dir).await.expect("started again");
    assert_eq!((again.node_id(), again.info().await.expect("up").address), (node_id, address));
    again.stop().await;
    let nowhere = EmbeddedNode::start(&Settings::regtest("127.0.0.1:1"), &root.path().join("new")).await;
    assert!(nowhere.expect_err("no chain").to_string().contains("127.0.0.1:1"));
}
