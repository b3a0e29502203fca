//! A payment over a hop that takes a fee: paid within the limit, not sent above it. Three LNDs: coordinator, peer, far.

use fedimint_tonic_lnd::lnrpc;
use l402t::ln::Lightning;
use l402t::protocol::amount::Msat;

use crate::bench::{Bench, until};
use crate::lnd::{Lnd, Side, start, tools};

const AMOUNT_MSAT: u64 = 2_000_000;
/// LND's defaults: 1,000 msat, and one millionth of the amount.
const FEE: Msat = Msat::new(1_000 + AMOUNT_MSAT / 1_000_000);
/// After so many blocks a channel is announced, and only announced ones are routed over.
const ANNOUNCED_AFTER_BLOCKS: u32 = 6;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs btcd and lnd: ./x regtest test"]
async fn a_route_that_costs_more_than_the_limit_is_not_taken() {
    let mut bench = start().await;
    let mut far = beyond_the_peer(&bench).await;
    let (payer, payee) = (bench.coordinator(), far.node());

    crate::contract::a_route_that_costs_more_than_the_limit_is_not_taken(&*payer, &*payee, FEE).await;

    far.node.take().expect("runs").stop().await;
    far.process.stop();
    bench.stop().await;
}

/// Another LND, with an announced channel from the peer.
async fn beyond_the_peer(bench: &Lnd) -> Side {
    let far = Side::start(&tools(), bench.root(), "far", &bench.btcd).await;
    let files = bench.peer.process.files();
    let url = format!("https://{}", files.rpc);
    let client = fedimint_tonic_lnd::connect(url, &files.tls_cert, &files.admin_macaroon).await;
    let mut peer = client.expect("readable");
    let mut wallet = bench.peer.process.wallet().await.expect("readable");
    bench.btcd.pay(&wallet.new_address().await.expect("an address"), 10_000_000).expect("paid");
    until("the coins are there", async || wallet.balance_sat().await.is_ok_and(|sat| sat >= 10_000_000)).await;
    wallet.connect_to(far.node().node_id(), &far.process.files().p2p.to_string()).await.expect("connected");
    let open = lnrpc::OpenChannelRequest {
        node_pubkey: hex::decode(far.node().node_id()).expect("hex"),
        local_funding_amount: 5_000_000,
        ..Default::default()
    };
    // LND says that it is connected a moment before it can open a channel.
    until("the channel is opened", async || peer.lightning().open_channel_sync(open.clone()).await.is_ok()).await;
    bench.btcd.generate(ANNOUNCED_AFTER_BLOCKS).expect("mined");
    let node = far.node();
    until("the far channel is usable", async || node.info().await.is_ok_and(|info| info.usable_channels == 1)).await;
    far
}
