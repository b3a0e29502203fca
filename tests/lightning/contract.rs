//! What every node does alike. Each scenario runs over each kind of node.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use l402t::clock::{Clock, SystemClock};
use l402t::ln::bolt11::{self, Network};
use l402t::ln::{
    ChannelRequest, ChannelState, FAIL_BACK_BLOCKS, InvoiceRequest, InvoiceStatus, Lightning, LnError, LnEvent,
    PayLimits, PaymentFailure, PaymentStatus,
};
use l402t::protocol::amount::Msat;
use l402t::protocol::ids::{PaymentHash, Preimage};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use tokio::sync::broadcast;

use crate::bench::{
    Bench, CAPACITY_SAT, FINAL_CLTV_BLOCKS, LIMITS, PUSH, accepted, hold, peer_can_send, preimage, refunded, request,
    settled, until,
};

/// Payments beyond what a channel has slots for.
const BEYOND_SLOTS: u32 = 5;
/// Payments that are started at the same time.
const AT_ONCE: usize = 20;

pub(crate) async fn an_invoice_says_what_was_asked_for(bench: &mut impl Bench) {
    let (peer, (_, hash)) = (bench.peer(), preimage(1));
    let text = peer.create_hold_invoice(hash, &request(50_000), 200).await.expect("made");
    let invoice = bolt11::parse(&text, Network::Regtest).expect("valid");
    assert_eq!((invoice.payment_hash, invoice.amount), (hash, Msat::new(50_000)));
    assert_eq!(invoice.payee_node_id, peer.info().await.expect("up").node_id);
    assert_eq!(invoice.min_final_cltv_blocks, 200);
    assert_eq!(peer.invoice(hash).await.expect("known"), InvoiceStatus::Open);
    let again = peer.create_hold_invoice(hash, &request(1), 99).await.expect("the first one");
    assert_eq!(again, text);
}

pub(crate) async fn a_request_out_of_bounds_is_refused(bench: &mut impl Bench) {
    let (peer, (_, hash)) = (bench.peer(), preimage(2));
    let long = InvoiceRequest { description: "x".repeat(101), ..request(1_000) };
    let never = InvoiceRequest { expiry_s: 0, ..request(1_000) };
    for (request, blocks) in
        [(request(0), 144), (long, 144), (never, 144), (request(1_000), 41), (request(1_000), 1_001)]
    {
        let refused = peer.create_hold_invoice(hash, &request, blocks).await;
        assert!(matches!(refused, Err(LnError::Refused(_))), "{request:?} {blocks}: {refused:?}");
    }
    assert_eq!(peer.invoice(hash).await.expect("not made"), InvoiceStatus::NotFound);
}

pub(crate) async fn a_locked_payment_is_settled_once(bench: &mut impl Bench) {
    let before = bench.peer().info().await.expect("up").outbound_msat;
    let (preimage, hash) = hold(bench, 3, 2_000_000).await;
    assert_eq!(bench.coordinator().payment(hash).await.expect("known"), PaymentStatus::InFlight);
    let Ok(InvoiceStatus::Accepted { amount, expiry_height: Some(height) }) = bench.peer().invoice(hash).await else {
        panic!("it is locked")
    };
    let now = bench.peer().info().await.expect("up").block_height;
    assert_eq!(amount, Msat::new(2_000_000));
    assert!(height >= now + FINAL_CLTV_BLOCKS - FAIL_BACK_BLOCKS, "{height} is too soon after {now}");
    bench.peer().settle(preimage).await.expect("taken");
    bench.peer().settle(preimage).await.expect("twice is once");
    settled(bench, preimage, 2_000_000).await;
    bench.peer().settle(preimage).await.expect("thrice is once");
    assert!(matches!(bench.peer().cancel(hash).await, Err(LnError::Refused(_))));
    peer_can_send(bench, Msat::new(before.msat() + 2_000_000)).await;
}

pub(crate) async fn a_canceled_payment_goes_back(bench: &mut impl Bench) {
    let before = bench.coordinator().info().await.expect("up").outbound_msat;
    let (preimage, hash) = hold(bench, 4, 2_000_000).await;
    bench.peer().cancel(hash).await.expect("taken");
    bench.peer().cancel(hash).await.expect("twice is once");
    refunded(bench, hash).await;
    assert!(matches!(bench.peer().settle(preimage).await, Err(LnError::Refused(_))));
    let coordinator = bench.coordinator();
    until("all of it is back", async || coordinator.info().await.is_ok_and(|info| info.outbound_msat == before)).await;
}

pub(crate) async fn a_withdrawn_invoice_takes_nothing(bench: &mut impl Bench) {
    let (_, hash) = preimage(5);
    let invoice = bench.peer().create_hold_invoice(hash, &request(2_000_000), 144).await.expect("made");
    bench.peer().cancel(hash).await.expect("withdrawn");
    bench.coordinator().pay(&invoice, LIMITS).await.expect("taken");
    refunded(bench, hash).await;
    let status = bench.coordinator().payment(hash).await.expect("known");
    assert!(matches!(status, PaymentStatus::Failed { why: PaymentFailure::Refused, .. }), "{status:?}");
}

pub(crate) async fn a_preimage_given_early_claims_on_arrival(bench: &mut impl Bench) {
    let (preimage, hash) = preimage(6);
    let invoice = bench.peer().create_hold_invoice(hash, &request(2_000_000), 144).await.expect("made");
    bench.peer().settle(preimage).await.expect("kept");
    assert!(matches!(bench.peer().cancel(hash).await, Err(LnError::Refused(_))));
    bench.restart_peer().await;
    bench.coordinator().pay(&invoice, LIMITS).await.expect("taken");
    settled(bench, preimage, 2_000_000).await;
}

pub(crate) async fn an_ordinary_invoice_settles_by_itself(bench: &mut impl Bench) {
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    let invoice = coordinator.create_invoice(&request(10_000)).await.expect("made");
    let hash = invoice.payment_hash;
    assert_eq!(coordinator.invoice(hash).await.expect("known"), InvoiceStatus::Open);
    assert!(matches!(coordinator.pay(&invoice.bolt11, LIMITS).await, Err(LnError::Refused(_))), "its own invoice");
    peer.pay(&invoice.bolt11, LIMITS).await.expect("taken");
    until("it is paid", async || {
        matches!(peer.payment(hash).await, Ok(PaymentStatus::Succeeded { preimage, .. }) if preimage.payment_hash() == hash)
    })
    .await;
    until("it is here", async || {
        coordinator.invoice(hash).await.ok() == Some(InvoiceStatus::Settled { amount: Msat::new(10_000) })
    })
    .await;
    let withdrawn = coordinator.create_invoice(&request(10_000)).await.expect("made");
    coordinator.cancel(withdrawn.payment_hash).await.expect("withdrawn");
    peer.pay(&withdrawn.bolt11, LIMITS).await.expect("taken");
    until("it comes back", async || {
        matches!(peer.payment(withdrawn.payment_hash).await, Ok(PaymentStatus::Failed { .. }))
    })
    .await;
}

pub(crate) async fn a_hold_that_nobody_ends_expires_by_blocks(bench: &mut impl Bench) {
    let before = bench.coordinator().info().await.expect("up").outbound_msat;
    let (preimage, hash) = hold(bench, 7, 2_000_000).await;
    let Ok(InvoiceStatus::Accepted { expiry_height: Some(height), .. }) = bench.peer().invoice(hash).await else {
        panic!("it is locked")
    };
    let now = bench.peer().info().await.expect("up").block_height;
    bench.mine(height - now - 1).await;
    assert!(matches!(bench.peer().invoice(hash).await, Ok(InvoiceStatus::Accepted { .. })), "one block before");
    bench.mine(1).await;
    refunded(bench, hash).await;
    assert!(matches!(bench.peer().settle(preimage).await, Err(LnError::Refused(_))));
    let coordinator = bench.coordinator();
    until("all of it is back", async || coordinator.info().await.is_ok_and(|info| info.outbound_msat == before)).await;
}

pub(crate) async fn a_restart_changes_no_state(bench: &mut impl Bench) {
    let (_, open) = preimage(10);
    bench.peer().create_hold_invoice(open, &request(2_000_000), 144).await.expect("made");
    let (to_settle, held) = hold(bench, 11, 2_000_000).await;
    let (_, to_cancel) = hold(bench, 12, 2_000_000).await;
    let (done, _) = hold(bench, 13, 2_000_000).await;
    let (_, undone) = hold(bench, 14, 2_000_000).await;
    bench.peer().settle(done).await.expect("taken");
    bench.peer().cancel(undone).await.expect("taken");
    settled(bench, done, 2_000_000).await;
    refunded(bench, undone).await;
    bench.restart_peer().await;
    bench.restart_coordinator().await;
    assert_eq!(bench.peer().invoice(open).await.expect("known"), InvoiceStatus::Open);
    settled(bench, done, 2_000_000).await;
    refunded(bench, undone).await;
    for hash in [held, to_cancel] {
        assert!(matches!(bench.peer().invoice(hash).await, Ok(InvoiceStatus::Accepted { .. })));
        assert_eq!(bench.coordinator().payment(hash).await.expect("known"), PaymentStatus::InFlight);
    }
    bench.peer().settle(to_settle).await.expect("taken");
    bench.peer().cancel(to_cancel).await.expect("taken");
    settled(bench, to_settle, 2_000_000).await;
    refunded(bench, to_cancel).await;
}

pub(crate) async fn a_restart_right_after_the_order_carries_it_out(bench: &mut impl Bench) {
    let (to_settle, _) = hold(bench, 15, 2_000_000).await;
    let (_, to_cancel) = hold(bench, 16, 2_000_000).await;
    bench.peer().settle(to_settle).await.expect("taken");
    bench.peer().cancel(to_cancel).await.expect("taken");
    bench.restart_peer().await;
    settled(bench, to_settle, 2_000_000).await;
    refunded(bench, to_cancel).await;
}

pub(crate) async fn the_same_invoice_is_paid_once(bench: &mut impl Bench) {
    let before = bench.peer().info().await.expect("up").outbound_msat;
    let (preimage, hash) = preimage(17);
    let invoice = bench.peer().create_hold_invoice(hash, &request(2_000_000), 144).await.expect("made");
    let coordinator = bench.coordinator();
    let pay = || coordinator.pay(&invoice, LIMITS);
    let (first, second, third) = tokio::join!(pay(), pay(), pay());
    for paid in [first, second, third] {
        assert_eq!(paid.expect("taken"), hash);
    }
    accepted(bench, hash).await;
    coordinator.pay(&invoice, LIMITS).await.expect("in flight: nothing to do");
    bench.peer().settle(preimage).await.expect("taken");
    settled(bench, preimage, 2_000_000).await;
    coordinator.pay(&invoice, LIMITS).await.expect("done: nothing to do");
    peer_can_send(bench, Msat::new(before.msat() + 2_000_000)).await;
    drop(coordinator);
    bench.restart_coordinator().await;
    bench.coordinator().pay(&invoice, LIMITS).await.expect("done: nothing to do");
    settled(bench, preimage, 2_000_000).await;
    peer_can_send(bench, Msat::new(before.msat() + 2_000_000)).await;
}

pub(crate) async fn an_invoice_that_must_not_be_paid_is_refused(bench: &mut impl Bench) {
    let (peer, coordinator) = (bench.peer(), bench.coordinator());
    let (_, hash) = preimage(18);
    let good = peer.create_hold_invoice(hash, &request(2_000_000), 144).await.expect("made");
    // 20u is 2,000 sat.
    let more = good.replacen("lnbcrt20u", "lnbcrt90u", 1);
    assert_ne!(more, good);
    let mainnet = good.replacen("lnbcrt", "lnbc", 1);
    for bad in ["", "lnbcrt1", "hello", &good[..good.len() - 3], &more, &mainnet] {
        assert!(matches!(coordinator.pay(bad, LIMITS).await, Err(LnError::BadInvoice(_))), "{bad}");
    }
    assert_eq!(coordinator.payment(hash).await.expect("not tried"), PaymentStatus::NotFound);
    let (_, hash) = preimage(19);
    let short = InvoiceRequest { expiry_s: 1, ..request(2_000_000) };
    let expired = peer.create_hold_invoice(hash, &short, 144).await.expect("made");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(matches!(coordinator.pay(&expired, LIMITS).await, Err(LnError::BadInvoice(_))));
    assert_eq!(peer.invoice(hash).await.expect("known"), InvoiceStatus::Canceled);
}

pub(crate) async fn unknown_hashes_are_named_as_such(bench: &mut impl Bench) {
    let (preimage, hash) = preimage(20);
    let peer = bench.peer();
    assert_eq!(peer.invoice(hash).await.expect("answers"), InvoiceStatus::NotFound);
    assert_eq!(peer.payment(hash).await.expect("answers"), PaymentStatus::NotFound);
    assert!(matches!(peer.settle(preimage).await, Err(LnError::UnknownHash(unknown)) if unknown == hash));
    assert!(matches!(peer.cancel(hash).await, Err(LnError::UnknownHash(unknown)) if unknown == hash));
}

pub(crate) async fn a_payment_that_failed_can_be_tried_again(bench: &mut impl Bench) {
    let (preimage, hash) = preimage(21);
    let invoice = bench.peer().create_hold_invoice(hash, &request(2_000_000), 300).await.expect("made");
    let coordinator = bench.coordinator();
    let failed = async |what: &str| {
        let mut last = None;
        until(what, async || {
            last = coordinator.payment(hash).await.ok();
            matches!(last, Some(PaymentStatus::Failed { .. }))
        })
        .await;
        match last {
            Some(PaymentStatus::Failed { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    };
    let tight = PayLimits { max_cltv_blocks: 250, ..LIMITS };
    coordinator.pay(&invoice, tight).await.expect("taken");
    failed("the lock would be too long").await;
    bench.peer_down().await;
    coordinator.pay(&invoice, LIMITS).await.expect("taken");
    assert_eq!(failed("the payee is offline").await, PaymentFailure::NotReached, "worth another try");
    bench.peer_up().await;
    coordinator.pay(&invoice, LIMITS).await.expect("taken");
    accepted(bench, hash).await;
    bench.peer().settle(preimage).await.expect("taken");
    settled(bench, preimage, 2_000_000).await;
}

pub(crate) async fn a_preimage_of_another_hash_claims_nothing(bench: &mut impl Bench) {
    let (_, hash) = hold(bench, 23, 2_000_000).await;
    let (other, unknown) = preimage(24);
    assert!(matches!(bench.peer().settle(other).await, Err(LnError::UnknownHash(named)) if named == unknown));
    assert!(matches!(bench.peer().invoice(hash).await, Ok(InvoiceStatus::Accepted { .. })));
    assert_eq!(bench.coordinator().payment(hash).await.expect("known"), PaymentStatus::InFlight);
    bench.peer().cancel(hash).await.expect("taken");
    refunded(bench, hash).await;
}

pub(crate) async fn an_invoice_with_another_amount_is_not_paid(bench: &mut impl Bench) {
    let (coordinator, peer, (preimage, hash)) = (bench.coordinator(), bench.peer(), preimage(25));
    let invoice = peer.create_hold_invoice(hash, &request(2_000_000), 144).await.expect("made");
    // 20u is 2,000 sat.
    for other in ["lnbcrt1u", "lnbcrt19990n", "lnbcrt20001n", "lnbcrt20m"] {
        let changed = invoice.replacen("lnbcrt20u", other, 1);
        assert!(matches!(coordinator.pay(&changed, LIMITS).await, Err(LnError::BadInvoice(_))), "{other}");
    }
    assert_eq!(peer.invoice(hash).await.expect("known"), InvoiceStatus::Open);
    coordinator.pay(&invoice, LIMITS).await.expect("taken");
    until("all that was asked for is locked", async || {
        matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Accepted { amount, .. }) if amount == Msat::new(2_000_000))
    })
    .await;
    peer.settle(preimage).await.expect("taken");
    settled(bench, preimage, 2_000_000).await;
}

pub(crate) async fn a_payee_that_nobody_knows_is_not_paid(bench: &mut impl Bench) {
    let before = bench.coordinator().info().await.expect("up").outbound_msat;
    let (_, hash) = preimage(26);
    let invoice = invoice_of_a_stranger(hash);
    let coordinator = bench.coordinator();
    assert_eq!(coordinator.pay(&invoice, LIMITS).await.expect("taken"), hash);
    until("there is no route", async || matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Failed { .. })))
        .await;
    assert_eq!(coordinator.info().await.expect("up").outbound_msat, before);
}

/// A flawless invoice of a node that has no channel.
fn invoice_of_a_stranger(hash: PaymentHash) -> String {
    let secret = secp256k1::SecretKey::from_slice(&[9; 32]).expect("a key");
    let hash = bitcoin::hashes::Hash::from_byte_array(*hash.as_bytes());
    let invoice = InvoiceBuilder::new(Currency::Regtest)
        .description("from nobody".into())
        .payment_hash(hash)
        .payment_secret(PaymentSecret([7; 32]))
        .duration_since_epoch(Duration::from_millis(SystemClock.now().0))
        .min_final_cltv_expiry_delta(144)
        .amount_milli_satoshis(2_000_000)
        .basic_mpp()
        .build_signed(|message| secp256k1::SECP256K1.sign_ecdsa_recoverable(message, &secret));
    invoice.expect("complete").to_string()
}

/// More holds than any channel has slots for (483 a direction): what does not fit fails, or waits without being lost,
/// and what fits is settled.
pub(crate) async fn what_a_full_channel_can_not_hold_fails_or_waits(bench: &mut impl Bench) {
    let before = bench.peer().info().await.expect("up").outbound_msat;
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    let preimages = (0..bench.slots() + BEYOND_SLOTS).map(|number| {
        let mut bytes = [100; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        Preimage::from_bytes(bytes)
    });
    let lock = async |preimage: Preimage| {
        let hash = preimage.payment_hash();
        let invoice = peer.create_hold_invoice(hash, &request(1_000_000), 144).await.expect("made");
        coordinator.pay(&invoice, LIMITS).await.expect("taken");
        until("it is locked or has failed", async || {
            matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Accepted { .. }))
                || matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Failed { .. }))
        })
        .await;
        match peer.invoice(hash).await.expect("known") {
            InvoiceStatus::Accepted { .. } => Some(preimage),
            status => {
                assert_eq!(status, InvoiceStatus::Open);
                None
            }
        }
    };
    let tried: Vec<Option<Preimage>> = stream::iter(preimages.map(lock)).buffer_unordered(AT_ONCE).collect().await;
    let held: Vec<Preimage> = tried.iter().flatten().copied().collect();
    let refused = tried.len() - held.len();
    assert!(refused > 0, "all {} fitted", held.len());
    assert!(held.len() >= 20, "only {} fitted", held.len());
    for preimage in &held {
        peer.settle(*preimage).await.expect("taken");
    }
    for preimage in &held {
        settled(bench, *preimage, 1_000_000).await;
    }
    peer_can_send(bench, Msat::new(before.msat() + 1_000_000 * held.len() as u64)).await;
}

pub(crate) async fn more_than_the_channel_holds_is_not_sent(bench: &mut impl Bench) {
    let (_, hash) = preimage(22);
    let invoice = bench.peer().create_hold_invoice(hash, &request(CAPACITY_SAT * 1_000), 144).await.expect("made");
    bench.coordinator().pay(&invoice, LIMITS).await.expect("taken");
    let coordinator = bench.coordinator();
    until("it has failed", async || matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Failed { .. }))).await;
}

pub(crate) async fn twenty_small_holds_fit_at_once(bench: &mut impl Bench) {
    let before = bench.peer().info().await.expect("up").outbound_msat;
    let mut held = Vec::new();
    for tag in 30..50 {
        held.push(preimage(tag));
        let (_, hash) = preimage(tag);
        // 100 sat: below what could be enforced on chain.
        let invoice = bench.peer().create_hold_invoice(hash, &request(100_000), 144).await.expect("made");
        bench.coordinator().pay(&invoice, LIMITS).await.expect("taken");
    }
    for (_, hash) in &held {
        accepted(bench, *hash).await;
    }
    for (number, (preimage, hash)) in held.iter().enumerate() {
        match number % 2 {
            0 => bench.peer().settle(*preimage).await.expect("taken"),
            _ => bench.peer().cancel(*hash).await.expect("taken"),
        }
    }
    for (number, (preimage, hash)) in held.iter().enumerate() {
        match number % 2 {
            0 => settled(bench, *preimage, 100_000).await,
            _ => refunded(bench, *hash).await,
        }
    }
    peer_can_send(bench, Msat::new(before.msat() + 10 * 100_000)).await;
}

pub(crate) async fn a_channel_is_opened_once_and_events_tell_of_payments(bench: &mut impl Bench) {
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    let other = peer.info().await.expect("up");
    assert_eq!(coordinator.channel_state(&other.node_id).await.expect("known"), ChannelState::Usable);
    let again = ChannelRequest {
        node_id: other.node_id.clone(),
        address: other.address.expect("listens"),
        capacity_sat: CAPACITY_SAT,
        push: PUSH,
    };
    coordinator.open_channel(&again).await.expect("there is one");
    assert_eq!(coordinator.info().await.expect("up").usable_channels, 1);
    let (mut payments, mut invoices) = (coordinator.events(), peer.events());
    let (preimage, hash) = hold(bench, 60, 2_000_000).await;
    told(&mut invoices, LnEvent::Invoice(hash)).await;
    peer.settle(preimage).await.expect("taken");
    told(&mut payments, LnEvent::Payment(hash)).await;
}

/// Other hints may come before: they are only hints.
async fn told(events: &mut broadcast::Receiver<LnEvent>, wanted: LnEvent) {
    let heard = async { while events.recv().await.expect("not closed") != wanted {} };
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("told in time");
}

/// A payment over a hop that takes a fee: paid within the limit, not sent above it. `payee` is one channel beyond the
/// payer's own. Not for embedded nodes: they have unannounced channels only, and so none but direct routes, which cost
/// nothing.
pub(crate) async fn a_route_that_costs_more_than_the_limit_is_not_taken(
    payer: &dyn Lightning,
    payee: &dyn Lightning,
    fee: Msat,
) {
    let (preimage_taken, taken) = preimage(1);
    let invoice = payee.create_hold_invoice(taken, &request(2_000_000), FINAL_CLTV_BLOCKS).await.expect("made");
    let enough = PayLimits { max_fee: fee, ..LIMITS };
    until("it is locked two hops away", async || {
        // Until the payer has heard of the far channel there is no route, and the payment fails.
        payer.pay(&invoice, enough).await.expect("taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
        matches!(payee.invoice(taken).await, Ok(InvoiceStatus::Accepted { .. }))
    })
    .await;
    payee.settle(preimage_taken).await.expect("taken");
    let paid = PaymentStatus::Succeeded { preimage: preimage_taken, fee };
    until("it is paid, and the fee is told", async || payer.payment(taken).await.ok().as_ref() == Some(&paid)).await;

    let (_, refused) = preimage(2);
    let invoice = payee.create_hold_invoice(refused, &request(2_000_000), FINAL_CLTV_BLOCKS).await.expect("made");
    let too_little = PayLimits { max_fee: Msat::new(fee.msat() - 1), ..LIMITS };
    payer.pay(&invoice, too_little).await.expect("taken");
    until("it has failed", async || matches!(payer.payment(refused).await, Ok(PaymentStatus::Failed { .. }))).await;
    assert_eq!(payee.invoice(refused).await.expect("known"), InvoiceStatus::Open);
}

/// One test for each scenario over one kind of node, which the `start` of the module makes.
macro_rules! contract {
    ($start:ident: $($scenario:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $scenario() {
                let mut bench = $start().await;
                crate::contract::$scenario(&mut bench).await;
                crate::bench::Bench::stop(&mut bench).await;
            }
        )+
    };
}

/// All of them, by the macro `$run`.
macro_rules! scenarios {
    ($run:ident, $bench:tt) => {
        $run! { $bench:
            an_invoice_says_what_was_asked_for,
            a_request_out_of_bounds_is_refused,
            a_locked_payment_is_settled_once,
            a_canceled_payment_goes_back,
            a_withdrawn_invoice_takes_nothing,
            a_preimage_given_early_claims_on_arrival,
            a_preimage_of_another_hash_claims_nothing,
            an_ordinary_invoice_settles_by_itself,
            a_hold_that_nobody_ends_expires_by_blocks,
            a_restart_changes_no_state,
            a_restart_right_after_the_order_carries_it_out,
            the_same_invoice_is_paid_once,
            an_invoice_that_must_not_be_paid_is_refused,
            an_invoice_with_another_amount_is_not_paid,
            unknown_hashes_are_named_as_such,
            a_payment_that_failed_can_be_tried_again,
            a_payee_that_nobody_knows_is_not_paid,
            more_than_the_channel_holds_is_not_sent,
            twenty_small_holds_fit_at_once,
            a_channel_is_opened_once_and_events_tell_of_payments,
            what_a_full_channel_can_not_hold_fails_or_waits,
        }
    };
}

pub(crate) use {contract, scenarios};
