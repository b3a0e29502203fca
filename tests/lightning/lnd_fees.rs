//! A payment over a hop that takes a fee: paid within the limit, not sent above it. Three LNDs: coordinator, peer, far.

use fedimint_tonic_lnd::lnrpc;
use l402t::ln::{InvoiceStatus, Lightning, PayLimits, PaymentStatus};
use l402t::protocol::amount::Msat;

use crate::bench::{Bench, FINAL_CLTV_BLOCKS, LIMITS, preimage, request, until};
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

    let (preimage_taken, taken) = preimage(1);
    let invoice = payee.create_hold_invoice(taken, &request(AMOUNT_MSAT), FINAL_CLTV_BLOCKS).await.expect("made");
    let enough = PayLimits { max_fee: FEE, ..LIMITS };
    until("it is locked two hops away", async || {
        // Until the payer has heard of the far channel there is no route, and the payment fails.
        payer.pay(&invoice, enough).await.expect("taken");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        matches!(payee.invoice(taken).await, Ok(InvoiceStatus::Accepted { .. }))
    })
    .await;
    payee.settle(preimage_taken).await.expect("taken");
    let paid = PaymentStatus::Succeeded { preimage: preimage_taken, fee: FEE };
    until("it is paid, and the fee is told", async || payer.payment(taken).await.ok().as_ref() == Some(&paid)).await;

    let (_, refused) = preimage(2);
    let invoice = payee.create_hold_invoice(refused, &request(AMOUNT_MSAT), FINAL_CLTV_BLOCKS).await.expect("made");
    let too_little = PayLimits { max_fee: Msat::new(FEE.msat() - 1), ..LIMITS };
    payer.pay(&invoice, too_little).await.expect("taken");
    until("it has failed", async || matches!(payer.payment(refused).await, Ok(PaymentStatus::Failed { .. }))).await;
    assert_eq!(payee.invoice(refused).await.expect("known"), InvoiceStatus::Open);

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
