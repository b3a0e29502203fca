//! Bad input: a clear refusal each, and no money and no state wrong afterwards.

use std::sync::Arc;

use l402t::coordinator::Coordinator;
use l402t::coordinator::handle::{CoordinatorHandle, Refusal, TicketAnswer};
use l402t::ln::{InvoiceStatus, LnError};
use l402t::protocol::amount::Msat;
use l402t::protocol::api::{ContributionState, Phase, Ticket};
use l402t::protocol::ids::{Blake3Hash, Preimage, RoundNumber};
use l402t::protocol::l402::TokenError;
use l402t::protocol::sign::Signed;
use l402t::protocol::statements::{Commitment, InvoiceSubmission};
use l402t::protocol::verdict::{Outcome, Rejection, Verdict};

use crate::peer::{Manner, Peer, request};
use crate::world::{COORDINATOR, World};

const COMMIT_MS: u64 = 30_000;
const UPLOAD_MS: u64 = 60_000;
const FEE: u64 = 5_000;

/// A coordinator, and a peer with a channel.
struct Scene {
    world: World,
    coordinator: Coordinator,
    handle: Arc<dyn CoordinatorHandle>,
    peer: Peer,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new();
        let mut peer = Peer::new(&world, "alice", b"good work", Manner::Honest);
        let (coordinator, handle) = world.start().await;
        while !peer.registered {
            peer.register(&*handle).await.expect("registered");
        }
        Self { world, coordinator, handle, peer }
    }

    async fn step(&mut self) {
        self.coordinator.step().await.expect("a step");
    }

    async fn buy(&mut self) -> Ticket {
        self.peer.buy(&*self.handle).await.expect("sold")
    }

    /// Buys a ticket and has its reward locked.
    async fn lock(&mut self) -> Ticket {
        let ticket = self.buy().await;
        let submission = self.peer.invoices(&ticket).await;
        self.handle.submit_invoices(ticket.contribution, submission).await.expect("taken");
        self.step().await;
        assert_eq!(self.state(&ticket).await, ContributionState::Locked);
        ticket
    }

    async fn state(&self, ticket: &Ticket) -> ContributionState {
        self.handle.contribution(ticket.contribution).await.expect("known").state
    }

    async fn ticket(
        &self,
        commitment: Signed<Commitment>,
        credentials: Option<String>,
    ) -> Result<TicketAnswer, Refusal> {
        self.handle.ticket(commitment.body.round, commitment, credentials).await
    }

    /// The reason why credentials were not taken: a fresh challenge comes with it.
    async fn refused(&self, commitment: &Signed<Commitment>, credentials: String) -> TokenError {
        match self.ticket(commitment.clone(), Some(credentials)).await.expect("an answer") {
            TicketAnswer::PaymentRequired(challenge) => challenge.refused.expect("a reason"),
            TicketAnswer::Ticket(_) => panic!("a ticket for bad credentials"),
        }
    }
}

fn code<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> String {
    let refusal = answer.expect_err("refused");
    assert!(!refusal.error.message.is_empty() && !refusal.error.fix.is_empty());
    assert!((400..500).contains(&refusal.status), "{refusal:?}");
    refusal.error.code
}

#[tokio::test]
async fn a_forged_commitment_or_one_for_another_round_run_or_opening_buys_nothing() {
    let scene = Scene::new().await;
    let honest = scene.peer.commit(&*scene.handle).await.expect("signed");
    let mut forged = honest.clone();
    forged.body.payload_bytes += 1;
    assert_eq!(code(scene.ticket(forged, None).await), "bad_signature");

    let changed = |change: &dyn Fn(&mut Commitment)| {
        let mut body = honest.body.clone();
        change(&mut body);
        scene.peer.key.sign(body)
    };
    let next = changed(&|body| body.round = RoundNumber(1));
    assert_eq!(code(scene.ticket(next.clone(), None).await), "wrong_round");
    assert_eq!(code(scene.handle.ticket(RoundNumber(0), next, None).await), "wrong_round");
    let run = changed(&|body| body.run = l402t::protocol::ids::RunId::from_bytes([9; 32]));
    assert_eq!(code(scene.ticket(run, None).await), "wrong_run");
    let opening = changed(&|body| body.opening = Blake3Hash::of(b"other"));
    assert_eq!(code(scene.ticket(opening, None).await), "wrong_opening");
    let empty = changed(&|body| body.payload_bytes = 0);
    assert_eq!(code(scene.ticket(empty, None).await), "payload_size");

    let stranger = Peer::new(&scene.world, "stranger", b"good", Manner::Honest);
    let unknown = stranger.commit(&*scene.handle).await.expect("signed");
    assert_eq!(code(scene.ticket(unknown, None).await), "not_registered");
    assert_eq!(scene.handle.round(None).await.expect("round").tickets, 0);
}

#[tokio::test]
async fn a_token_is_good_for_its_own_contribution_its_own_preimage_and_one_ticket() {
    let mut scene = Scene::new().await;
    let commitment = scene.peer.commit(&*scene.handle).await.expect("signed");
    let TicketAnswer::PaymentRequired(challenge) = scene.ticket(commitment.clone(), None).await.expect("answered")
    else {
        panic!("a ticket for nothing")
    };
    // The same request again costs no second invoice.
    let again = scene.ticket(commitment.clone(), None).await.expect("answered");
    assert_eq!(again, TicketAnswer::PaymentRequired(challenge.clone()));

    let unpaid = format!("L402 {}:{}", challenge.macaroon, "00".repeat(32));
    assert!(matches!(scene.refused(&commitment, unpaid).await, TokenError::WrongPreimage(_)));
    assert!(matches!(scene.refused(&commitment, "L402 nonsense".into()).await, TokenError::Malformed(_)));

    let credentials = scene.peer.pay_fee(&challenge).await;
    let mut other = Peer::new(&scene.world, "other", b"good too", Manner::Honest);
    while !other.registered {
        other.register(&*scene.handle).await.expect("registered");
    }
    let theirs = other.commit(&*scene.handle).await.expect("signed");
    assert!(matches!(scene.refused(&theirs, credentials.clone()).await, TokenError::WrongGoods { .. }));

    let paid_before = scene.world.network.balance("alice");
    let first = scene.ticket(commitment.clone(), Some(credentials.clone())).await.expect("sold");
    let second = scene.ticket(commitment.clone(), Some(credentials)).await.expect("the stored one");
    let third = scene.ticket(commitment, None).await.expect("the stored one");
    assert!(matches!(first, TicketAnswer::Ticket(_)));
    assert_eq!((&first, &first), (&second, &third));
    assert_eq!(scene.world.network.balance("alice"), paid_before);

    // Another contribution of the same peer in the same round is not sold, whatever it would pay.
    scene.peer.payload = b"good, changed".to_vec();
    let changed = scene.peer.commit(&*scene.handle).await.expect("signed");
    assert_eq!(code(scene.ticket(changed, None).await), "already_committed");
    scene.step().await;
    drop((scene.coordinator, scene.handle));
    assert_eq!(scene.world.books().fees_received_msat, Msat::new(FEE));
}

#[tokio::test]
async fn tickets_end_with_the_commit_deadline_and_with_the_seats() {
    let scene = Scene::new().await;
    let commitment = scene.peer.commit(&*scene.handle).await.expect("signed");
    for name in ["b", "c", "d", "e"] {
        let mut other = Peer::new(&scene.world, name, b"good", Manner::Honest);
        other.payload.extend_from_slice(name.as_bytes());
        other.buy(&*scene.handle).await.expect("sold");
    }
    assert_eq!(code(scene.ticket(commitment, None).await), "round_full");

    let late = Scene::new().await;
    let commitment = late.peer.commit(&*late.handle).await.expect("signed");
    late.world.clock.advance_ms(COMMIT_MS - 1_000);
    assert_eq!(code(late.ticket(commitment.clone(), None).await), "round_closed");
    late.world.clock.advance_ms(1_001);
    assert_eq!(code(late.ticket(commitment, None).await), "round_closed");
}

#[tokio::test]
async fn an_invoice_that_differs_from_the_terms_in_anything_is_refused_and_locks_nothing() {
    let mut scene = Scene::new().await;
    let ticket = scene.buy().await;
    let terms = ticket.terms.body.clone();
    let good = scene.peer.invoices(&ticket).await;
    let owned = scene.world.network.balance(COORDINATOR);
    let submit = |submission| scene.handle.submit_invoices(ticket.contribution, submission);
    let with_first = |invoice: String| {
        let mut invoices = good.body.invoices.clone();
        invoices[0] = invoice;
        scene.peer.submit(&ticket, invoices)
    };

    // A node of its own for each, since a node has one invoice a hash.
    let (hash, amount) = (terms.tranches[0].payment_hash, terms.tranches[0].amount_msat);
    let other = scene.world.network.node("other");
    let elsewhere = other.create_hold_invoice(hash, &request(amount), terms.hold_blocks).await.expect("made");
    assert_eq!(code(submit(with_first(elsewhere)).await), "invoice_payee");

    let another_hash = Preimage::from_bytes([3; 32]).payment_hash();
    let own = &scene.peer.ln;
    let stolen = own.create_hold_invoice(another_hash, &request(amount), terms.hold_blocks).await.expect("made");
    assert_eq!(code(submit(with_first(stolen)).await), "invoice_hash");
    assert_eq!(code(submit(with_first(good.body.invoices[1].clone())).await), "invoice_hash");

    let made = |msat: u64, blocks: u32, expiry_s: u32, name: &'static str| {
        let node = scene.world.network.node(name);
        async move {
            let mut asked = request(Msat::new(msat));
            asked.expiry_s = expiry_s;
            node.create_hold_invoice(hash, &asked, blocks).await.expect("made")
        }
    };
    let msat = amount.msat();
    assert_eq!(code(submit(with_first(made(msat + 1, 144, 3_600, "n1").await)).await), "invoice_amount");
    assert_eq!(code(submit(with_first("lnbcrt1nonsense".into())).await), "invoice_unreadable");
    let mainnet = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";
    assert_eq!(code(submit(with_first(mainnet.into())).await), "invoice_unreadable");
    assert_eq!(code(submit(scene.peer.submit(&ticket, good.body.invoices[..1].to_vec())).await), "invoice_count");

    let mut forged = good.clone();
    forged.body.invoices.pop();
    assert_eq!(code(submit(forged).await), "bad_signature");
    let other_terms = InvoiceSubmission { terms: Blake3Hash::of(b"other"), ..good.body.clone() };
    assert_eq!(code(submit(scene.peer.key.sign(other_terms)).await), "wrong_terms");

    scene.coordinator.step().await.expect("a step");
    assert_eq!(scene.world.network.balance(COORDINATOR), owned, "something was paid");
    assert_eq!(scene.state(&ticket).await, ContributionState::Ticketed);
    // After all that the right ones are still taken, once, and again without effect.
    scene.handle.submit_invoices(ticket.contribution, good.clone()).await.expect("taken");
    scene.handle.submit_invoices(ticket.contribution, good.clone()).await.expect("taken before");
    scene.coordinator.step().await.expect("a step");
    assert_eq!(scene.state(&ticket).await, ContributionState::Locked);
}

#[tokio::test]
async fn the_cltv_delta_and_the_life_of_an_invoice_are_bounded() {
    for (blocks, expiry_s, expected) in
        [(143, 3_600, "invoice_cltv"), (163, 3_600, "invoice_cltv"), (144, 10, "invoice_expired")]
    {
        let mut scene = Scene::new().await;
        let ticket = scene.buy().await;
        let mut invoices = Vec::new();
        for tranche in &ticket.terms.body.tranches {
            let mut asked = request(tranche.amount_msat);
            asked.expiry_s = expiry_s;
            invoices.push(scene.peer.ln.create_hold_invoice(tranche.payment_hash, &asked, blocks).await.expect("made"));
        }
        let submission = scene.peer.submit(&ticket, invoices);
        assert_eq!(code(scene.handle.submit_invoices(ticket.contribution, submission).await), expected);
    }
}

#[tokio::test]
async fn invoices_after_their_deadline_are_refused() {
    let mut scene = Scene::new().await;
    let ticket = scene.buy().await;
    let submission = scene.peer.invoices(&ticket).await;
    scene.world.clock.advance_ms(ticket.terms.body.invoices_deadline_ms.0 + 1 - 1_800_000_000_000);
    assert_eq!(code(scene.handle.submit_invoices(ticket.contribution, submission).await), "invoices_late");
}

#[tokio::test]
async fn a_payload_is_taken_once_in_time_whole_and_locked() {
    let mut scene = Scene::new().await;
    let ticket = scene.buy().await;
    let (id, payload) = (ticket.contribution, scene.peer.payload.clone());
    assert_eq!(code(scene.handle.upload_allowance(id).await), "not_locked");
    assert_eq!(code(scene.handle.upload(id, payload.clone()).await), "not_locked");
    let submission = scene.peer.invoices(&ticket).await;
    scene.handle.submit_invoices(id, submission).await.expect("taken");
    scene.step().await;
    assert_eq!(scene.handle.upload_allowance(id).await.expect("locked"), payload.len() as u64);
    assert_eq!(code(scene.handle.upload(id, b"good w0rk".to_vec()).await), "payload_mismatch");
    assert_eq!(code(scene.handle.upload(id, b"good".to_vec()).await), "payload_mismatch");
    let unknown = l402t::protocol::ids::ContributionId::from_bytes([1; 32]);
    assert_eq!(code(scene.handle.upload(unknown, payload.clone()).await), "unknown_contribution");

    // Nobody else can read it before the round has closed.
    scene.handle.upload(id, payload.clone()).await.expect("taken");
    scene.handle.upload(id, payload.clone()).await.expect("the same again");
    assert_eq!(code(scene.handle.upload(id, b"good w0rk".to_vec()).await), "payload_mismatch");
    assert_eq!(code(scene.handle.blob(Blake3Hash::of(&payload)).await), "unknown_blob");
    assert_eq!(code(scene.handle.transcript(RoundNumber(0)).await), "no_transcript");
    assert_eq!(scene.handle.round(None).await.expect("round").uploads, 1);
}

#[tokio::test]
async fn a_late_upload_is_refused_even_before_the_engine_has_looked_and_its_money_comes_back() {
    let mut scene = Scene::new().await;
    let ticket = scene.lock().await;
    let payload = scene.peer.payload.clone();
    scene.world.clock.advance_ms(UPLOAD_MS);
    assert!(scene.handle.upload_allowance(ticket.contribution).await.is_ok(), "the last millisecond");
    scene.world.clock.advance_ms(1);
    assert_eq!(code(scene.handle.upload(ticket.contribution, payload.clone()).await), "upload_late");
    for _ in 0..200 {
        scene.step().await;
        scene.world.pass_time(true).await;
    }
    assert_eq!(code(scene.handle.upload(ticket.contribution, payload).await), "upload_late");
    let view = scene.handle.contribution(ticket.contribution).await.expect("known");
    let receipt = view.receipt.expect("judged");
    assert!(receipt.body.preimages.iter().all(Option::is_none), "a preimage for nothing");
    let Some(Verdict::Training(verdict)) = view.verdict else { panic!("judged") };
    assert_eq!(verdict.outcome, Outcome::Rejected { rejection: Rejection::NotUploaded });
    for tranche in &ticket.terms.body.tranches {
        scene.peer.ln.cancel(tranche.payment_hash).await.expect("cancelled");
    }
    scene.step().await;
    assert_eq!(scene.state(&ticket).await, ContributionState::Finished);
    drop((scene.coordinator, scene.handle));
    let books = scene.world.books();
    assert_eq!((books.rewards_locked_msat, books.rewards_settled_msat), (Msat::ZERO, Msat::ZERO));
}

#[tokio::test]
async fn an_htlc_that_never_arrives_ends_the_contribution_and_gives_the_others_back() {
    let mut scene = Scene::new().await;
    let ticket = scene.buy().await;
    let submission = scene.peer.invoices(&ticket).await;
    // The peer withdraws one tranche before it is paid.
    scene.peer.ln.cancel(ticket.terms.body.tranches[0].payment_hash).await.expect("withdrawn");
    scene.handle.submit_invoices(ticket.contribution, submission).await.expect("taken");
    for _ in 0..3 {
        scene.step().await;
    }
    assert_eq!(scene.state(&ticket).await, ContributionState::Locking);
    assert_eq!(code(scene.handle.upload(ticket.contribution, scene.peer.payload.clone()).await), "not_locked");
    let other = ticket.terms.body.tranches[1].payment_hash;
    assert!(matches!(scene.peer.ln.invoice(other).await.expect("known"), InvoiceStatus::Accepted { .. }));
    scene.peer.ln.cancel(other).await.expect("given back");
    scene.world.clock.advance_ms(UPLOAD_MS + 1);
    for _ in 0..100 {
        scene.step().await;
        scene.world.pass_time(true).await;
    }
    assert_eq!(scene.state(&ticket).await, ContributionState::Finished);
    assert_eq!(scene.handle.round(Some(RoundNumber(0))).await.expect("round").phase, Phase::Closed);
    drop((scene.coordinator, scene.handle));
    let books = scene.world.books();
    assert_eq!((books.rewards_locked_msat, books.rewards_settled_msat), (Msat::ZERO, Msat::ZERO));
}

#[tokio::test]
async fn a_preimage_of_another_invoice_settles_nothing() {
    let mut scene = Scene::new().await;
    let ticket = scene.lock().await;
    let error = scene.peer.ln.settle(Preimage::from_bytes([5; 32])).await.expect_err("no such invoice");
    assert!(matches!(error, LnError::UnknownHash(_) | LnError::WrongPreimage(_)));
    scene.step().await;
    assert_eq!(scene.state(&ticket).await, ContributionState::Locked);
}

#[tokio::test]
async fn registration_checks_the_key_the_node_and_the_run() {
    let scene = Scene::new().await;
    let other = Peer::new(&scene.world, "other", b"good", Manner::Honest);
    let run = scene.handle.run().await.expect("run").run;
    let register = |node_id: &str, run| {
        let body = l402t::protocol::statements::PeerRegistration {
            run,
            peer: other.key.id(),
            node_id: node_id.to_owned(),
            address: None,
        };
        scene.handle.register(other.key.sign(body))
    };
    assert_eq!(code(register("02ab", run).await), "bad_node_id");
    assert_eq!(code(register(&"ff".repeat(33), run).await), "bad_node_id");
    let node_id = other.ln.info().await.expect("up").node_id;
    let elsewhere = l402t::protocol::ids::RunId::from_bytes([9; 32]);
    assert_eq!(code(register(&node_id, elsewhere).await), "wrong_run");
    // Without an address no channel can be opened to it.
    let view = register(&node_id, run).await.expect("registered");
    assert_eq!(view.channel, l402t::protocol::api::ChannelOffer::BringYourOwn);
}
