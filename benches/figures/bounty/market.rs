//! A bounty at a coordinator in this process: on disk, with its rounds, tickets, locks and escrow, and an agent that waits for
//! nothing but the coordinator. The Lightning network is in memory, and takes no time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use l402t::bounty::diff;
use l402t::bounty::judge::{BoxedEvaluator, Evaluate};
use l402t::bounty::lint::rules;
use l402t::bounty::load::Bounty;
use l402t::bounty::package;
use l402t::bounty::sandbox::Sandbox;
use l402t::bounty::tree::{File, Tree};
use l402t::clock::{Clock as _, SystemClock};
use l402t::coordinator::bounty::{BoardSurroundings, start};
use l402t::coordinator::handle::{BountyHandle, TicketAnswer};
use l402t::coordinator::{ChannelGate, Coordinator, Options, SystemEntropy};
use l402t::ln::simulated::{Faults, Network};
use l402t::ln::{InvoiceRequest, Lightning, PayLimits, PaymentStatus};
use l402t::protocol::amount::Msat;
use l402t::protocol::api::{BountyPhase, ContributionState, Ticket};
use l402t::protocol::bounty::payload;
use l402t::protocol::bounty::statements::Posting;
use l402t::protocol::ids::{Blake3Hash, DAY_MS, Preimage, RunId};
use l402t::protocol::l402::{Credentials, Macaroon};
use l402t::protocol::sign::{IdentityKey, Statement as _};
use l402t::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};
use l402t::store::database::Unwatched;

use super::timed::TimedBoxes;

const COORDINATOR: &str = "coordinator";
const SPONSOR: &str = "sponsor";
const AGENT: &str = "agent";
/// More than anybody pays here, in each channel.
const CAPACITY: Msat = Msat::new(1_000_000_000);
const LIMITS: PayLimits = PayLimits { max_fee: Msat::new(10_000), max_cltv_blocks: 1_100 };
/// Between two looks at an evaluation that is under way.
const LOOK: Duration = Duration::from_millis(1);

/// An open bounty.
#[derive(Debug)]
pub(super) struct Market {
    pub(super) evaluator: Arc<BoxedEvaluator<TimedBoxes>>,
    coordinator: Coordinator,
    handle: Arc<dyn BountyHandle>,
    bounty: Bounty,
    agent: Arc<dyn Lightning>,
    run: RunId,
    _folder: tempfile::TempDir,
}

impl Market {
    /// Posts the example and locks its budget.
    pub(super) async fn open(sandbox: Arc<Sandbox>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let network = Network::new(1, Faults::NONE);
        network.channel(SPONSOR, COORDINATOR, CAPACITY, Msat::ZERO);
        network.channel(COORDINATOR, AGENT, CAPACITY, Msat::new(10_000_000));
        let evaluator = Arc::new(BoxedEvaluator::new(TimedBoxes::new(sandbox), folder.path()));
        let bounty = super::example();
        let around = BoardSurroundings {
            key: key(COORDINATOR),
            ln: network.node(COORDINATOR),
            channel_gate: ChannelGate::default(),
            evaluator: Arc::clone(&evaluator) as _,
            clock: Arc::new(SystemClock),
            observer: Arc::new(Unwatched),
            entropy: Arc::new(SystemEntropy),
        };
        let request = posting(&bounty, &*evaluator);
        let data = folder.path().join("data");
        let coordinator = start(&data, request, &Options::default(), &around).await.expect("taken on");
        let handle = coordinator.bounty_handle();
        let run = handle.bounty().await.expect("a view").run;
        let agent = network.node(AGENT);
        let mut market = Self { evaluator, coordinator, handle, bounty, agent, run, _folder: folder };
        market.coordinator.reconcile().await.expect("a node");
        market.register(SPONSOR, &network.node(SPONSOR)).await;
        market.register(AGENT, &network.node(AGENT)).await;
        market.fund(&network.node(SPONSOR)).await;
        market
    }

    async fn register(&self, name: &str, node: &Arc<dyn Lightning>) {
        let info = node.info().await.expect("up");
        let (key, run) = (key(name), self.run);
        let registration = PeerRegistration { run, peer: key.id(), node_id: info.node_id, address: info.address };
        self.handle.register(key.sign(registration)).await.expect("registered");
    }

    async fn fund(&mut self, sponsor: &Arc<dyn Lightning>) {
        let mut is_paid = false;
        loop {
            self.coordinator.step().await.expect("a step");
            match self.handle.bounty().await.expect("a view").phase {
                BountyPhase::AwaitingEscrow if !is_paid => {
                    for invoice in self.coordinator.escrow_invoices().await.expect("made") {
                        sponsor.pay(&invoice, LIMITS).await.expect("locked");
                        is_paid = true;
                    }
                }
                BountyPhase::AwaitingEscrow | BountyPhase::Checking => tokio::time::sleep(LOOK).await,
                BountyPhase::Open => return,
                phase @ (BountyPhase::Closing | BountyPhase::Closed | BountyPhase::Refused) => panic!("{phase:?}"),
            }
        }
    }

    /// One submission, from asking for a ticket until its reward is settled. It claims one step more than the last.
    pub(super) async fn submit(&mut self, number: u32) {
        let changed = improved(&self.bounty, number);
        let diff = diff::make(&self.bounty.workspace, &changed, &self.bounty.manifest.targets).expect("a change");
        let payload = payload::encode(Blake3Hash::of(&number.to_le_bytes()).as_bytes(), diff.as_bytes());
        let ticket = self.buy(&payload).await;
        let (id, terms) = (ticket.contribution, &ticket.terms.body);
        let mut invoices = Vec::new();
        for tranche in &terms.tranches {
            let request = invoice_of(tranche.amount_msat);
            let made = self.agent.create_hold_invoice(tranche.payment_hash, &request, terms.hold_blocks).await;
            invoices.push(made.expect("made"));
        }
        let submission = InvoiceSubmission { contribution: id, terms: terms.digest(), invoices };
        self.handle.submit_invoices(id, key(AGENT).sign(submission)).await.expect("taken");
        while self.handle.contribution(id).await.expect("known").state != ContributionState::Locked {
            self.coordinator.step().await.expect("a step");
        }
        self.handle.upload(id, payload).await.expect("taken");
        let receipt = loop {
            self.coordinator.step().await.expect("a step");
            match self.handle.contribution(id).await.expect("known").receipt {
                Some(receipt) => break receipt,
                None => tokio::time::sleep(LOOK).await,
            }
        };
        let mut settled = 0;
        for (tranche, preimage) in terms.tranches.iter().zip(&receipt.body.preimages) {
            match preimage {
                Some(preimage) => {
                    self.agent.settle(*preimage).await.expect("settled");
                    settled += 1;
                }
                None => self.agent.cancel(tranche.payment_hash).await.expect("cancelled"),
            }
        }
        assert!(settled > 0, "submission {number} is not paid");
    }

    /// A ticket, paid for.
    async fn buy(&mut self, payload: &[u8]) -> Ticket {
        let round = loop {
            // Asking for a round has one opened.
            let asked = self.handle.round(None).await;
            self.coordinator.step().await.expect("a step");
            match asked {
                Ok(view) if view.phase == l402t::protocol::api::Phase::Committing => break view.opening.body,
                Ok(_) | Err(_) => {}
            }
        };
        let claim = self.handle.bounty().await.expect("a view").least_claim;
        let commitment = key(AGENT).sign(Commitment {
            run: round.run,
            round: round.round,
            opening: round.digest(),
            peer: key(AGENT).id(),
            payload: Blake3Hash::of(payload),
            payload_bytes: payload.len() as u64,
            claim,
        });
        let mut credentials = None;
        loop {
            match self.handle.ticket(round.round, commitment.clone(), credentials).await.expect("an offer") {
                TicketAnswer::Ticket(ticket) => return *ticket,
                TicketAnswer::PaymentRequired(challenge) => {
                    let macaroon = Macaroon::from_base64(&challenge.macaroon).expect("a macaroon");
                    let preimage = self.pay(&challenge.invoice).await;
                    credentials = Some(Credentials::new(macaroon, preimage).expect("ours").to_header());
                }
            }
        }
    }

    async fn pay(&self, bolt11: &str) -> Preimage {
        let hash = self.agent.pay(bolt11, LIMITS).await.expect("paid");
        match self.agent.payment(hash).await.expect("known") {
            PaymentStatus::Succeeded { preimage, .. } => preimage,
            other => panic!("the fee is {other:?}"),
        }
    }
}

/// The workspace with better.diff in it, and a line that makes it another tree for each number.
pub(super) fn improved(bounty: &Bounty, number: u32) -> Tree {
    let better = std::fs::read(Path::new(super::EXAMPLE).join("better.diff")).expect("the example's");
    let targets = &bounty.manifest.targets;
    let mut tree = diff::apply(&bounty.workspace, &better, targets, bounty.manifest.max_diff_bytes).expect("it fits");
    let target = &targets[0];
    let mut content = tree.get(target).expect("a target").content.clone();
    content.extend_from_slice(format!("# {number}\n").as_bytes());
    tree.insert(target.clone(), File::plain(content));
    tree
}

fn posting(bounty: &Bounty, evaluator: &dyn Evaluate) -> l402t::protocol::api::PostRequest {
    let exam = bounty.held_out_exam().expect("the whole folder");
    let baseline = evaluator.evaluate(bounty, &bounty.workspace, &exam).expect("a sandbox").score.expect("a score");
    let toml = std::fs::read(Path::new(super::EXAMPLE).join("bounty.toml")).expect("the example's");
    let package = package::encode(&package::of_bounty(bounty, &toml));
    let part = bounty.held_out.as_ref().expect("the whole folder");
    let mut rules = rules(&bounty.manifest, baseline, exam.scored().len());
    rules.deadline_ms = SystemClock.now().plus_ms(DAY_MS);
    let posting = Posting {
        sponsor: key(SPONSOR).id(),
        coordinator: key(COORDINATOR).id(),
        title: bounty.manifest.title.clone(),
        rules,
        package: Blake3Hash::of(&package),
        baseline_tree: bounty.workspace.digest(),
        held_out: part.commitment(&super::SALT).expect("two names"),
    };
    l402t::protocol::api::PostRequest {
        posting: key(SPONSOR).sign(posting),
        package: STANDARD.encode(package),
        held_out: STANDARD.encode(package::encode(&package::of_part(part))),
        held_out_salt: super::SALT,
    }
}

fn key(name: &str) -> IdentityKey {
    IdentityKey::from_secret_bytes(Blake3Hash::of(name.as_bytes()).as_bytes()).expect("a key")
}

fn invoice_of(amount: Msat) -> InvoiceRequest {
    InvoiceRequest { amount, description: "reward".into(), expiry_s: 3_600 }
}
