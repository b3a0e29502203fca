//! Money on its way: fees that come too late, and rewards whose peer's node is away when they are to be locked.

use std::sync::Arc;

use l402t::clock::{Clock, ManualClock};
use l402t::coordinator::Coordinator;
use l402t::coordinator::handle::TicketAnswer;
use l402t::ln::simulated::{Faults, Network};
use l402t::ln::{InvoiceStatus, PayLimits, PaymentStatus, bolt11};
use l402t::protocol::amount::Msat;
use l402t::protocol::api::{ContributionState, Ticket};
use l402t::protocol::round::LOCK_PAUSES_MS;
use l402t::protocol::sign::Signed;
use l402t::protocol::statements::InvoiceSubmission;

use crate::peer::{Manner, Peer};
use crate::world::{COORDINATOR, World};

const REWARD: Msat = Msat::new(600_000);
/// Past the life of any fee invoice, and what is added for clocks that disagree.
const FEE_OVER_MS: u64 = 151_000;

#[tokio::test]
async fn a_fee_invoice_is_withdrawn_at_the_node_before_its_challenge_is_given_up() {
    let mut world = World::new();
    world.settings.timing.commit_ms = 300_000;
    world.settings.timing.upload_ms = 400_000;
    // The node's clock stands still: its invoice does not expire by itself.
    let still: Arc<dyn Clock> = Arc::new(ManualClock::new(world.clock.now()));
    world.network = Network::with_clock(7, Faults::NONE, still);
    world.network.fund(COORDINATOR, Msat::new(10_000_000_000));
    let (mut coordinator, handle) = world.start().await;
    let mut peer = Peer::new(&world, "alice", b"good work", Manner::Honest);
    while !peer.registered {
        peer.register(&*handle).await.expect("registered");
    }
    let commitment = peer.commit(&*handle).await.expect("a round is open");
    let answer = handle.ticket(commitment.body.round, commitment, None).await.expect("answered");
    let TicketAnswer::PaymentRequired(challenge) = answer else { panic!("a ticket for nothing") };
    let hash = bolt11::parse(&challenge.invoice, bolt11::Network::Regtest).expect("valid").payment_hash;
    let node = world.network.node(COORDINATOR);
    world.clock.advance_ms(FEE_OVER_MS);
    assert_eq!(node.invoice(hash).await.expect("known"), InvoiceStatus::Open, "the node would still take it");
    coordinator.step().await.expect("a step");
    assert_eq!(node.invoice(hash).await.expect("known"), InvoiceStatus::Canceled);

    let before = world.network.balance("alice");
    let limits = PayLimits { max_fee: Msat::ZERO, max_cltv_blocks: 1_008 };
    peer.ln.pay(&challenge.invoice, limits).await.expect("taken");
    assert!(matches!(peer.ln.payment(hash).await, Ok(PaymentStatus::Failed { .. })));
    coordinator.step().await.expect("a step");
    drop((coordinator, handle));
    assert_eq!(world.network.balance("alice"), before, "a fee that buys nothing stays with the peer");
    assert_eq!(world.books().fees_received_msat, Msat::ZERO);
}

/// A world with long rounds, and a peer that has bought a ticket and made its invoices.
async fn with_invoices() -> (World, Coordinator, Peer, Ticket, Signed<InvoiceSubmission>) {
    let mut world = World::new();
    world.settings.timing.commit_ms = 300_000;
    world.settings.timing.upload_ms = 400_000;
    let (coordinator, handle) = world.start().await;
    let mut peer = Peer::new(&world, "alice", b"good work", Manner::Honest);
    let ticket = peer.buy(&*handle).await.expect("sold");
    let submission = peer.invoices(&ticket).await;
    drop(handle);
    (world, coordinator, peer, ticket, submission)
}

/// The same, with the invoices handed in while the peer's node is down.
async fn locking_while_down() -> (World, Coordinator, Peer, Ticket) {
    let (world, mut coordinator, peer, ticket, submission) = with_invoices().await;
    let handle = coordinator.handle();
    world.network.crash("alice");
    handle.submit_invoices(ticket.contribution, submission).await.expect("taken");
    coordinator.step().await.expect("a step");
    (world, coordinator, peer, ticket)
}

/// Does the peer's node hold every tranche?
fn is_locked(world: &World) -> bool {
    world.network.invoices("alice").iter().all(|(_, _, status)| matches!(status, InvoiceStatus::Accepted { .. }))
}

#[tokio::test]
async fn a_reward_whose_peer_is_away_for_a_moment_is_locked_when_it_is_back() {
    let (world, mut coordinator, _peer, ticket) = locking_while_down().await;
    let handle = coordinator.handle();
    // However often it looks, it does not ask again before the pause is over.
    for _ in 0..20 {
        coordinator.step().await.expect("a step");
    }
    world.network.restart("alice");
    coordinator.step().await.expect("a step");
    assert!(!is_locked(&world), "sent again before the pause was over");
    world.clock.advance_ms(LOCK_PAUSES_MS[0]);
    coordinator.step().await.expect("a step");
    coordinator.step().await.expect("a step");
    assert!(is_locked(&world));
    let view = handle.contribution(ticket.contribution).await.expect("known");
    assert_eq!(view.state, ContributionState::Locked);
    assert_eq!(world.network.balance(COORDINATOR).msat(), 10_000_000_000 - 100_000_000 + 5_000 - REWARD.msat());
    drop((coordinator, handle));
    let books = world.books();
    assert_eq!((books.rewards_locked_msat, books.rewards_refunded_msat), (REWARD, Msat::ZERO));
}

#[tokio::test]
async fn a_reward_whose_peer_stays_away_is_given_up_after_the_last_pause() {
    let (world, mut coordinator, _peer, ticket) = locking_while_down().await;
    let handle = coordinator.handle();
    let state = async || handle.contribution(ticket.contribution).await.expect("known").state;
    for pause_ms in LOCK_PAUSES_MS {
        assert_eq!(state().await, ContributionState::Locking);
        let status = handle.status().await.expect("told").to_string();
        assert!(!status.contains("not_locked"), "given up before its time: {status}");
        world.clock.advance_ms(pause_ms);
        for _ in 0..3 {
            coordinator.step().await.expect("a step");
        }
    }
    drop((coordinator, handle));
    let books = world.books();
    assert_eq!((books.rewards_locked_msat, books.rewards_refunded_msat), (Msat::ZERO, REWARD));
}

#[tokio::test]
async fn a_reward_that_the_peer_refuses_is_given_up_at_once() {
    let (world, mut coordinator, peer, ticket, submission) = with_invoices().await;
    let handle = coordinator.handle();
    for tranche in &ticket.terms.body.tranches {
        peer.ln.cancel(tranche.payment_hash).await.expect("withdrawn");
    }
    handle.submit_invoices(ticket.contribution, submission).await.expect("taken");
    for _ in 0..3 {
        coordinator.step().await.expect("a step");
    }
    drop((coordinator, handle));
    let books = world.books();
    assert_eq!(books.rewards_locked_msat, Msat::ZERO);
    assert_eq!(books.rewards_refunded_msat, REWARD);
    let tried = world.network.payments(COORDINATOR);
    assert!(tried.iter().all(|(_, _, status)| matches!(status, PaymentStatus::Failed { .. })), "{tried:?}");
}
