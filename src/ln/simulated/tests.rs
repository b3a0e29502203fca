use super::*;
use crate::clock::ManualClock;
use crate::ln::{FAIL_BACK_BLOCKS, InvoiceRequest, InvoiceStatus, LnError, PayLimits, PaymentStatus, bolt11};
use crate::protocol::amount::Ppm;
use crate::protocol::ids::{Preimage, UnixMs};

const LIMITS: PayLimits = PayLimits { max_fee: Msat::new(10_000), max_cltv_blocks: 600 };

fn request(amount_msat: u64) -> InvoiceRequest {
    InvoiceRequest { amount: Msat::new(amount_msat), description: "a tranche".into(), expiry_s: 600 }
}

fn sat(sat: u64) -> Msat {
    Msat::from_sat(sat).expect("small")
}

fn two_nodes(faults: Faults) -> Network {
    let network = Network::with_clock(7, faults, Arc::new(ManualClock::new(UnixMs(1_700_000_000_000))));
    network.channel("coordinator", "peer", sat(1_000_000), sat(100_000));
    network
}

#[tokio::test]
async fn a_held_payment_moves_only_when_it_is_settled() {
    let network = two_nodes(Faults::NONE);
    let (coordinator, peer) = (network.node("coordinator"), network.node("peer"));
    let total = network.total_msat();
    let preimage = Preimage::from_bytes([1; 32]);
    let hash = preimage.payment_hash();
    let invoice = peer.create_hold_invoice(hash, &request(50_000), 144).await.expect("made");
    assert_eq!(coordinator.pay(&invoice, LIMITS).await.expect("taken"), hash);
    assert_eq!(coordinator.payment(hash).await.expect("known"), PaymentStatus::InFlight);
    let expiry_height = Some(120 + 144 - FAIL_BACK_BLOCKS);
    assert_eq!(
        peer.invoice(hash).await.expect("known"),
        InvoiceStatus::Accepted { amount: Msat::new(50_000), expiry_height }
    );
    assert_eq!(network.balance("coordinator"), Msat::new(900_000_000 - 50_000));
    assert_eq!(network.balance("peer"), sat(100_000));
    assert_eq!(network.total_msat(), total);
    peer.settle(preimage).await.expect("settled");
    peer.settle(preimage).await.expect("twice is once");
    assert_eq!(coordinator.payment(hash).await.expect("known"), PaymentStatus::Succeeded { preimage, fee: Msat::ZERO });
    assert_eq!(network.balance("peer"), Msat::new(100_050_000));
    assert_eq!(network.total_msat(), total);
}

#[tokio::test]
async fn an_invoice_says_what_was_asked_and_is_signed_by_its_node() {
    let network = two_nodes(Faults::NONE);
    let peer = network.node("peer");
    let hash = Preimage::from_bytes([2; 32]).payment_hash();
    let text = peer.create_hold_invoice(hash, &request(50_000), 200).await.expect("made");
    let invoice = bolt11::parse(&text, bolt11::Network::Regtest).expect("valid");
    assert_eq!(invoice.payment_hash, hash);
    assert_eq!(invoice.amount, Msat::new(50_000));
    assert_eq!(invoice.min_final_cltv_blocks, 200);
    assert_eq!(invoice.payee_node_id, peer.info().await.expect("up").node_id);
    assert_eq!(invoice.expires_at, UnixMs(1_700_000_600_000));
    assert_eq!(peer.create_hold_invoice(hash, &request(1), 99).await.expect("known"), text);
}

#[tokio::test]
async fn a_delayed_claim_that_was_taken_before_the_deadline_still_wins() {
    let network = two_nodes(Faults::NONE);
    let (coordinator, peer) = (network.node("coordinator"), network.node("peer"));
    let preimage = Preimage::from_bytes([3; 32]);
    let invoice = peer.create_hold_invoice(preimage.payment_hash(), &request(50_000), 144).await.expect("made");
    coordinator.pay(&invoice, LIMITS).await.expect("taken");
    network.set_faults(Faults { delay_steps_max: 1_000_000, ..Faults::NONE });
    peer.settle(preimage).await.expect("taken");
    network.mine(144);
    assert_eq!(
        peer.invoice(preimage.payment_hash()).await.expect("known"),
        InvoiceStatus::Settled { amount: Msat::new(50_000) }
    );
}

#[tokio::test]
async fn a_crashed_node_answers_nothing_and_comes_back_with_its_state() {
    let network = two_nodes(Faults::NONE);
    let (coordinator, peer) = (network.node("coordinator"), network.node("peer"));
    let preimage = Preimage::from_bytes([4; 32]);
    let hash = preimage.payment_hash();
    let invoice = peer.create_hold_invoice(hash, &request(50_000), 144).await.expect("made");
    coordinator.pay(&invoice, LIMITS).await.expect("taken");
    network.crash("peer");
    assert!(matches!(peer.invoice(hash).await, Err(LnError::Unavailable(_))));
    network.restart("peer");
    assert!(matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Accepted { .. })));
    peer.settle(preimage).await.expect("settled");
    assert!(matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Succeeded { .. })));
}

#[tokio::test]
async fn an_htlc_of_a_node_that_stays_away_times_out() {
    let network = two_nodes(Faults::NONE);
    let (coordinator, peer) = (network.node("coordinator"), network.node("peer"));
    let hash = Preimage::from_bytes([5; 32]).payment_hash();
    let invoice = peer.create_hold_invoice(hash, &request(50_000), 144).await.expect("made");
    coordinator.pay(&invoice, LIMITS).await.expect("taken");
    network.crash("peer");
    network.mine(143);
    assert_eq!(coordinator.payment(hash).await.expect("known"), PaymentStatus::InFlight);
    network.mine(1);
    assert!(matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Failed { .. })));
    network.restart("peer");
    assert_eq!(peer.invoice(hash).await.expect("known"), InvoiceStatus::Canceled);
}

/// The same calls with the same seed; returns everything that could be seen.
async fn storm(seed: u64) -> Vec<String> {
    let tenth = Ppm::new(100_000).expect("valid");
    let faults = Faults {
        delay_steps_max: 6,
        events_dropped: tenth,
        events_duplicated: tenth,
        answers_lost: tenth,
        calls_lost: tenth,
        ..Faults::NONE
    };
    let network = Network::with_clock(seed, faults, Arc::new(ManualClock::new(UnixMs(1_700_000_000_000))));
    network.channel("coordinator", "peer", sat(1_000_000), sat(100_000));
    let total = network.total_msat();
    let (coordinator, peer) = (network.node("coordinator"), network.node("peer"));
    let mut events = coordinator.events();
    let mut seen = Vec::new();
    for n in 0..40_u8 {
        let preimage = Preimage::from_bytes([n; 32]);
        let hash = preimage.payment_hash();
        let invoice = loop {
            if let Ok(invoice) = peer.create_hold_invoice(hash, &request(1_000), 144).await {
                break invoice;
            }
        };
        while coordinator.pay(&invoice, LIMITS).await.is_err() {}
        if n % 5 == 0 {
            network.crash("peer");
            network.advance(3);
            network.restart("peer");
        }
        while !matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Accepted { .. })) {}
        if n % 3 == 0 {
            while peer.cancel(hash).await.is_err() {}
        } else {
            while peer.settle(preimage).await.is_err() {}
        }
        let end = loop {
            match coordinator.payment(hash).await {
                Ok(end @ (PaymentStatus::Succeeded { .. } | PaymentStatus::Failed { .. })) => break end,
                Ok(PaymentStatus::NotFound | PaymentStatus::InFlight | PaymentStatus::Unknown) | Err(_) => {}
            }
        };
        assert_eq!(matches!(end, PaymentStatus::Succeeded { .. }), n % 3 != 0);
        assert_eq!(network.total_msat(), total, "payment {n}");
        seen.push(format!("{end:?}"));
    }
    while let Ok(event) = events.try_recv() {
        seen.push(format!("{event:?}"));
    }
    // 26 of 40 were settled, each once.
    assert_eq!(network.balance("peer"), Msat::new(100_000_000 + 26_000));
    seen
}

#[tokio::test]
async fn under_every_fault_each_payment_ends_once_and_the_seed_decides_how() {
    let first = storm(11).await;
    assert_eq!(first, storm(11).await);
    assert_ne!(first, storm(12).await);
}
