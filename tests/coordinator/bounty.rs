//! Bounties: a sponsor's money from its lock to its last satoshi, whoever submits what, and whenever the coordinator dies.

mod board;
mod crash;
mod pay_back;
mod reader;
mod reruns;
mod sales;

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use l402t::bounty::data::Part;
use l402t::bounty::diff;
use l402t::bounty::lint::rules;
use l402t::bounty::load::{Bounty, Extent};
use l402t::bounty::package;
use l402t::bounty::replay::{Difference, Published, Replayed, replay};
use l402t::bounty::tree::{File, Tree};
use l402t::clock::{Clock, ManualClock};
use l402t::coordinator::bounty::{BoardSurroundings, open, start};
use l402t::coordinator::{ChannelGate, Coordinator, Options, RunEvent, SystemEntropy};
use l402t::ln::simulated::{Faults, Network};
use l402t::ln::{InvoiceRequest, Lightning, PayLimits, PaymentStatus};
use l402t::protocol::amount::Msat;
use l402t::protocol::api::{BountyPhase, BountyView, ChannelOffer, PostRequest};
use l402t::protocol::bounty::payload;
use l402t::protocol::bounty::score::Score;
use l402t::protocol::bounty::statements::{BountyTranscript, Closing, Posting, SponsorAsk, SponsorRequest};
use l402t::protocol::bounty::verdict::{Outcome, Rejection};
use l402t::protocol::ids::{Blake3Hash, BountyId, DAY_MS, RoundNumber, UnixMs};
use l402t::protocol::sign::{IdentityKey, Signed};
use l402t::protocol::statements::PeerRegistration;
use l402t::store::ledger;

use crate::fuse::{Fuse, FusedLightning};
use crate::peer::{Manner, Peer};
use crate::world::COORDINATOR;
use reader::Reader;

const START: UnixMs = UnixMs(1_800_000_000_000);
const FEE_SAT: u64 = 7;
const PACKAGE_FEE: Msat = Msat::new(2_000);
const LIMITS: PayLimits = PayLimits { max_fee: Msat::new(10_000), max_cltv_blocks: 1_100 };
const SALT: [u8; 32] = [5; 32];

/// Pays 50 sat a unit from 1,000 to 2,000.
const BOUNTY_TOML: &str = r#"
title = "Say a large number"
workspace = "workspace"
targets = ["answer.txt"]
[run]
command = ["cat", "/task/answer.txt"]
[data]
public = "public"
held_out = "held-out"
[scorer]
folder = "scorer"
command = ["cat", "/in/answers"]
[metric]
name = "number"
direction = "higher"
decimals = 0
target = 2000
min_improvement = 100
noise = 0
[reward]
budget_sat = 50_000
fee_sat = 7
[submissions]
cap = 20
deadline = 2027-01-16T00:00:00Z
max_diff_kb = 4
[limits]
cpu_s = 1
wall_s = 1
memory_mb = 64
output_kb = 4
processes = 4
[sandbox]
tier = "rlimits"
"#;

fn key(name: &str) -> IdentityKey {
    IdentityKey::from_secret_bytes(blake3::hash(name.as_bytes()).as_bytes()).expect("a key")
}

fn score(units: i64) -> Score {
    Score::from_units(units).expect("in range")
}

struct World {
    folder: tempfile::TempDir,
    network: Network,
    clock: Arc<ManualClock>,
    bounty: Bounty,
    sponsor: Arc<dyn Lightning>,
    request: PostRequest,
}

impl World {
    fn new() -> Self {
        Self::with(BOUNTY_TOML)
    }

    /// A sponsor that has written this bounty.toml.
    fn with(bounty_toml: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join("sponsor").join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("bounty.toml", bounty_toml);
        write("workspace/answer.txt", "1000\n");
        write("scorer/README", "cat\n");
        write("public/inputs", "a\nb\n");
        write("held-out/inputs", "c\nd\ne\n");
        let bounty = Bounty::load(&folder.path().join("sponsor"), SALT, Extent::Whole).expect("a bounty");
        let clock = Arc::new(ManualClock::new(START));
        let network = Network::with_clock(7, Faults::NONE, Arc::clone(&clock) as Arc<dyn Clock>);
        network.fund(COORDINATOR, Msat::new(10_000_000_000));
        let sponsor = network.node("sponsor");
        let request = Self::request(&bounty, bounty_toml, score(1_000));
        Self { folder, network, clock, bounty, sponsor, request }
    }

    fn request(bounty: &Bounty, bounty_toml: &str, baseline: Score) -> PostRequest {
        let package = package::encode(&package::of_bounty(bounty, bounty_toml.as_bytes()));
        let part: &Part = bounty.held_out.as_ref().expect("the sponsor's own");
        let posting = Posting {
            sponsor: key("sponsor").id(),
            coordinator: key(COORDINATOR).id(),
            title: bounty.manifest.title.clone(),
            rules: rules(&bounty.manifest, baseline, 3),
            package: Blake3Hash::of(&package),
            baseline_tree: bounty.workspace.digest(),
            held_out: part.commitment(&SALT).expect("two names"),
        };
        PostRequest {
            posting: key("sponsor").sign(posting),
            package: STANDARD.encode(package),
            held_out: STANDARD.encode(package::encode(&package::of_part(part))),
            held_out_salt: SALT,
        }
    }

    fn id(&self) -> BountyId {
        self.request.posting.body.bounty_id()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn around(&self, fuse: &Arc<Fuse>) -> BoardSurroundings {
        BoardSurroundings {
            key: key(COORDINATOR),
            ln: Arc::new(FusedLightning { node: self.network.node(COORDINATOR), fuse: Arc::clone(fuse) }),
            channel_gate: ChannelGate::default(),
            evaluator: Arc::new(Reader),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            observer: Arc::clone(fuse) as _,
            entropy: Arc::new(SystemEntropy),
        }
    }

    /// The bounty's coordinator, posted to if it isn't yet. `None` if it dies on the way.
    async fn coordinator(&self, fuse: &Arc<Fuse>) -> Option<Coordinator> {
        let options = Options { package_fee: PACKAGE_FEE, ..Options::default() };
        let around = self.around(fuse);
        let mut coordinator = match open(&self.data(), &options, &around).await {
            Ok(Some(coordinator)) => coordinator,
            Ok(None) => start(&self.data(), self.request.clone(), &options, &around).await.ok()?,
            Err(_) => return None,
        };
        coordinator.reconcile().await.ok()?;
        Some(coordinator)
    }

    /// A submission's payload: the workspace with another number in it.
    fn payload(&self, author: &str, answer: &str) -> Vec<u8> {
        let mut changed = Tree::default();
        changed.insert("answer.txt", File::plain(format!("{answer}\n")));
        let diff = diff::make(&self.bounty.workspace, &changed, &self.bounty.manifest.targets).expect("a change");
        payload::encode(blake3::hash(author.as_bytes()).as_bytes(), diff.as_bytes())
    }

    fn agent(&self, view: &BountyView, name: &'static str, claim: i64, payload: Vec<u8>) -> Peer {
        Peer {
            name,
            ln: self.network.node(name),
            key: key(name),
            payload,
            claim: Some((view.run, score(claim))),
            manner: Manner::Honest,
            registered: false,
            work: None,
            receipts: Vec::new(),
        }
    }

    /// One turn of the sponsor: its channel, its escrow, and what it gets back.
    async fn sponsor_acts(&self, coordinator: &Coordinator, close: bool) -> bool {
        let handle = coordinator.bounty_handle();
        let Ok(view) = handle.bounty().await else { return false };
        let ask = |ask| key("sponsor").sign(SponsorRequest { bounty: self.id(), ask });
        match view.phase {
            BountyPhase::AwaitingEscrow => self.lock_escrow(coordinator, &view).await,
            BountyPhase::Open if close => handle.sponsor(ask(SponsorAsk::Close)).await.is_ok(),
            BountyPhase::Closed if view.surplus_msat > Msat::ZERO => {
                let request = InvoiceRequest { amount: view.surplus_msat, description: "rest".into(), expiry_s: 3_600 };
                let invoice = self.sponsor.create_invoice(&request).await.expect("made").bolt11;
                handle.sponsor(ask(SponsorAsk::PayBack { invoice })).await.is_ok()
            }
            BountyPhase::Open
            | BountyPhase::Checking
            | BountyPhase::Closing
            | BountyPhase::Closed
            | BountyPhase::Refused => false,
        }
    }

    async fn lock_escrow(&self, coordinator: &Coordinator, view: &BountyView) -> bool {
        let info = self.sponsor.info().await.expect("up");
        let registration = key("sponsor").sign(PeerRegistration {
            run: view.run,
            peer: key("sponsor").id(),
            node_id: info.node_id,
            address: info.address,
        });
        let Ok(registered) = coordinator.handle().register(registration).await else { return false };
        if registered.channel != ChannelOffer::Usable {
            return true;
        }
        let Ok(invoices) = coordinator.escrow_invoices().await else { return false };
        assert!(invoices.is_empty() || invoices.len() == view.manifest.body.escrow.len());
        for (invoice, part) in invoices.iter().zip(&view.manifest.body.escrow) {
            if self.sponsor.payment(part.payment_hash).await.expect("known") == PaymentStatus::NotFound {
                self.sponsor.pay(invoice, LIMITS).await.expect("taken");
            }
        }
        true
    }

    /// Turns of everybody until `done`.
    async fn play(
        &self,
        coordinator: &mut Coordinator,
        agents: &mut [Peer],
        close: bool,
        done: impl Fn(&BountyView) -> bool,
    ) {
        for _ in 0..2_000 {
            coordinator.step().await.expect("a step");
            let view = coordinator.bounty_handle().bounty().await.expect("a view");
            if done(&view) && agents.iter().all(|agent| agent.work.is_none()) {
                return;
            }
            let mut moved = self.sponsor_acts(coordinator, close).await;
            let handle = coordinator.handle();
            for agent in agents.iter_mut().filter(|agent| agent.receipts.is_empty() || agent.work.is_some()) {
                if view.phase == BountyPhase::Open || agent.work.is_some() {
                    moved |= agent.act(&*handle).await.expect("an honest request");
                }
            }
            self.pass_time(moved).await;
        }
        panic!("stuck: {:#?}", coordinator.bounty_handle().bounty().await);
    }

    async fn pass_time(&self, moved: bool) {
        self.clock.advance_ms(if moved { 1 } else { 4_000 });
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }

    /// One agent's submission from start to end, and its verdict.
    async fn submit(&self, coordinator: &mut Coordinator, name: &'static str, claim: i64, answer: &str) -> Outcome {
        let view = coordinator.bounty_handle().bounty().await.expect("a view");
        let mut agents = [self.agent(&view, name, claim, self.payload(name, answer))];
        self.play(coordinator, &mut agents, false, |_| true).await;
        // The first turn may be done before anything began.
        while agents[0].receipts.is_empty() {
            let handle = coordinator.handle();
            agents[0].act(&*handle).await.expect("an honest request");
            self.play(coordinator, &mut agents, false, |_| true).await;
        }
        let transcript = std::fs::read_dir(self.data().join("transcripts")).expect("a folder");
        let found = transcript.filter_map(|entry| {
            let bytes = std::fs::read(entry.expect("an entry").path()).expect("read");
            let transcript = Signed::<BountyTranscript>::from_bytes(&bytes).ok()?;
            let of = |record: &&l402t::protocol::transcript::ContributionRecord<_>| {
                record.commitment.body.peer == key(name).id()
            };
            transcript.body.contributions.iter().find(of).map(|record| record.verdict.outcome)
        });
        found.into_iter().next().expect("a verdict")
    }

    fn books(&self) -> ledger::Totals {
        let db = l402t::store::coordinator::look(&self.data()).expect("a database");
        ledger::totals(&db, None).expect("summed")
    }

    /// An auditor's word on the bounty, from what is in its folder, with a closing of any origin.
    fn replay(&self, closing: &Signed<Closing>) -> Result<Replayed, Difference> {
        let unpacked = tempfile::tempdir().expect("a folder");
        let manifest = std::fs::read(self.data().join("manifest.json")).expect("a manifest");
        let documents = (manifest.as_slice(), &*closing.to_bytes());
        let mut seen = 0;
        let found = replay(documents, self, &Reader, unpacked.path(), &mut |done, _| seen = done);
        assert!(seen <= 5);
        found.expect("everything is published")
    }

    /// What a name has more or less than at first, when all its channels are at rest; it was given 100,000 sat with its channel.
    fn gained(&self, name: &str) -> i64 {
        self.network.balance(name).msat() as i64 - 100_000_000
    }
}

impl Published for World {
    fn transcript(&self, round: RoundNumber) -> Result<Vec<u8>, String> {
        std::fs::read(self.data().join(format!("transcripts/{round}.json"))).map_err(|error| error.to_string())
    }

    fn blob(&self, hash: &Blake3Hash) -> Result<Vec<u8>, String> {
        std::fs::read(self.data().join("blobs").join(hash.to_string())).map_err(|error| error.to_string())
    }
}

fn reached(sat: u64) -> Outcome {
    Outcome::Reached { reward_msat: Msat::from_sat(sat).expect("in range") }
}

fn rejected(reason: Rejection) -> Outcome {
    Outcome::Rejected { reason }
}

#[tokio::test]
async fn a_bounty_pays_for_improvements_and_its_sponsor_gets_the_rest_back_to_the_satoshi() {
    let world = World::new();
    let total = world.network.total_msat();
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Open).await;

    assert_eq!(world.submit(&mut coordinator, "alice", 1_300, "1350").await, reached(15_000));
    assert_eq!(world.submit(&mut coordinator, "bob", 1_600, "1500").await, rejected(Rejection::BelowClaim));
    assert_eq!(world.submit(&mut coordinator, "carol", 1_500, "1350").await, rejected(Rejection::NoImprovement));
    assert_eq!(world.submit(&mut coordinator, "dave", 1_500, "much").await, rejected(Rejection::ScorerFailed));
    assert_eq!(world.submit(&mut coordinator, "erin", 1_401, "1401").await, reached(5_050));
    assert_eq!(coordinator.bounty_handle().closing().await.expect_err("sealed").error.code, "not_closed");

    let paid_back = |view: &BountyView| view.phase == BountyPhase::Closed && view.surplus_msat == Msat::ZERO;
    world.play(&mut coordinator, &mut [], true, paid_back).await;
    let (fee, sat) = (FEE_SAT as i64 * 1_000, 1_000);
    assert_eq!(world.gained("alice"), 15_000 * sat - fee);
    assert_eq!(world.gained("bob"), -fee);
    assert_eq!(world.gained("carol"), -fee);
    assert_eq!(world.gained("dave"), 0, "its fee came back: the scorer failed");
    assert_eq!(world.gained("erin"), 5_050 * sat - fee);
    assert_eq!(world.gained("sponsor"), -(15_000 + 5_050) * sat);
    assert_eq!(world.network.total_msat(), total);
    let books = world.books();
    // Seven of sixteen parts of 3,125 sat cover 20,050.
    assert_eq!(books.escrow_taken_msat, Msat::new(21_875_000));
    assert_eq!(books.escrow_paid_back_msat, Msat::new(1_825_000));
    assert_eq!(books.rewards_settled_msat, Msat::new((20_050 + FEE_SAT) * 1_000));
    assert_eq!(books.fees_received_msat, Msat::new(5 * FEE_SAT * 1_000));
    assert_eq!(books.rewards_locked_msat, Msat::ZERO);

    let closing = coordinator.bounty_handle().closing().await.expect("opened");
    let closing = Signed::<Closing>::from_bytes(&closing).expect("canonical");
    closing.verify(&key(COORDINATOR).id()).expect("signed");
    let scores: Vec<Option<i64>> =
        closing.body.evaluations.iter().map(|evaluation| evaluation.score.map(Score::units)).collect();
    assert_eq!(scores, [Some(1_350), Some(1_500), None, None, Some(1_401)]);
    let held_out = coordinator.handle().blob(closing.body.held_out).await.expect("published");
    let part = package::decode(&std::fs::read(held_out).expect("read")).expect("a package");
    assert_eq!(part, package::of_part(world.bounty.held_out.as_ref().expect("whole")));

    let expected =
        Replayed { bounty: world.id(), submissions: 5, reached: 2, unstable: 0, paid_msat: Msat::new(20_050_000) };
    assert_eq!(world.replay(&closing), Ok(expected));
    let kinder = |change: &dyn Fn(&mut Closing)| {
        let mut body = closing.body.clone();
        change(&mut body);
        world.replay(&key(COORDINATOR).sign(body)).expect_err("another closing").field
    };
    let again: Vec<_> = closing.body.reruns.iter().map(|rerun| (rerun.contribution, rerun.score)).collect();
    let first = [&closing.body.evaluations[0], &closing.body.evaluations[4]];
    assert_eq!(
        again,
        first.map(|evaluation| (evaluation.contribution, evaluation.score)),
        "what was reached, once more"
    );
    let bob = "rounds[1].contributions[0].evaluation";
    assert_eq!(kinder(&|closing| closing.evaluations[1].score = Some(score(1_600))), bob);
    assert_eq!(kinder(&|closing| drop(closing.evaluations.remove(1))), bob);
    assert_eq!(kinder(&|closing| closing.held_out_salt = [6; 32]), "held_out");
    assert_eq!(kinder(&|closing| closing.transcripts.swap(0, 1)), "rounds[0]");
    assert_eq!(kinder(&|closing| closing.transcripts.truncate(4)), "closing.evaluations");
    assert_eq!(kinder(&|closing| closing.reruns.swap(0, 1)), "closing.reruns");
    assert_eq!(world.replay(&key("mallory").sign(closing.body.clone())).expect_err("forged").field, "closing");
}

#[tokio::test]
async fn a_claim_of_the_sponsors_money_that_takes_long_fails_no_step_and_has_nothing_evaluated_again() {
    let (world, fuse) = (World::new(), Fuse::never());
    let mut coordinator = world.coordinator(&fuse).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Open).await;
    let mut events = coordinator.events();
    fuse.make_claims_late(25);
    assert_eq!(world.submit(&mut coordinator, "alice", 1_100, "1350").await, reached(5_000));
    let events = std::iter::from_fn(|| events.try_recv().ok());
    assert_eq!(events.filter(|event| matches!(event, RunEvent::RoundJudging { .. })).count(), 1);
    let paid_back = |view: &BountyView| view.phase == BountyPhase::Closed && view.surplus_msat == Msat::ZERO;
    world.play(&mut coordinator, &mut [], true, paid_back).await;
    assert_eq!(world.gained("sponsor"), -5_000_000);
}

#[tokio::test]
async fn nobody_pays_a_fee_for_the_last_submission_that_somebody_else_is_paying_for() {
    let world = World::with(&BOUNTY_TOML.replace("cap = 20", "cap = 1"));
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Open).await;
    let view = coordinator.bounty_handle().bounty().await.expect("a view");
    let mut answers = Vec::new();
    for name in ["alice", "bob"] {
        let mut agent = world.agent(&view, name, 1_300, world.payload(name, "1350"));
        let handle = coordinator.handle();
        while agent.register(&*handle).await.expect("taken") != ChannelOffer::Usable {
            world.pass_time(true).await;
        }
        coordinator.step().await.expect("a step");
        let commitment = agent.commit(&*handle).await.expect("a round is open");
        let answer = handle.ticket(commitment.body.round, commitment, None).await;
        answers.push(answer.map(|_| "to be paid for").map_err(|refused| refused.error.code));
    }
    assert_eq!(answers, [Ok("to be paid for"), Err("round_full".to_owned())]);
}

#[tokio::test]
async fn two_submissions_of_one_round_share_an_improvement_in_the_order_of_their_commitments() {
    let world = World::new();
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Open).await;
    let view = coordinator.bounty_handle().bounty().await.expect("a view");
    let mut agents = [
        world.agent(&view, "alice", 1_400, world.payload("alice", "1400")),
        world.agent(&view, "bob", 1_600, world.payload("bob", "1600")),
    ];
    let paid = |view: &BountyView| view.closed_rounds > 0 && view.paid_msat > Msat::ZERO;
    world.play(&mut coordinator, &mut agents, false, paid).await;
    assert_eq!(world.gained("alice"), 20_000_000 - 7_000);
    // 30,000 sat were offered and 10,000 are left: ten units of 967 and a bit.
    assert_eq!(world.gained("bob"), 10 * (30_000_000 / 31) - 7_000);
}

#[tokio::test]
async fn a_bounty_whose_budget_is_not_locked_in_time_never_opens_and_locks_nothing() {
    let world = World::new();
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    let invoices = coordinator.escrow_invoices().await.expect("made");
    for _ in 0..400 {
        coordinator.step().await.expect("a step");
        world.pass_time(false).await;
    }
    let view = coordinator.bounty_handle().bounty().await.expect("a view");
    assert_eq!((view.phase, view.why.as_deref()), (BountyPhase::Refused, Some("the budget was not locked in time")));
    // Whoever pays now gets it back at once.
    assert_eq!(coordinator.escrow_invoices().await.expect("an answer"), Vec::<String>::new());
    for turn in 0..20 {
        world.lock_escrow(&coordinator, &view).await;
        if turn == 10 {
            for invoice in &invoices {
                let _ = world.sponsor.pay(invoice, LIMITS).await;
            }
        }
        coordinator.step().await.expect("a step");
        world.pass_time(false).await;
    }
    assert_eq!(world.gained("sponsor"), 0);
}

#[tokio::test]
async fn no_submission_is_taken_that_could_still_be_evaluated_when_the_sponsors_money_goes_back() {
    let world = World::new();
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Checking).await;
    // Locked for the 16 hours until the deadline and 180 blocks more: 96 and 180.
    world.network.mine(96 + 180 - 90);
    // The coordinator looks at the chain once a second.
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Closed).await;
    let view = coordinator.bounty_handle().bounty().await.expect("a view");
    assert_eq!((view.submissions, view.why.as_deref()), (0, Some("the sponsor's money goes back")));
    assert_eq!(world.gained("sponsor"), 0);
}

#[tokio::test]
async fn a_baseline_that_is_not_what_was_posted_sends_the_budget_back() {
    let mut world = World::new();
    world.request = World::request(&world.bounty, BOUNTY_TOML, score(900));
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Refused).await;
    let view = coordinator.bounty_handle().bounty().await.expect("a view");
    assert_eq!(view.why.as_deref(), Some("baseline_differs: the posting says 900, and 1000 is measured here"));
    assert_eq!(world.gained("sponsor"), 0);
}

#[tokio::test]
async fn a_posting_that_is_not_what_it_says_is_refused_before_it_costs_anything() {
    let world = World::new();
    let refused = |request: PostRequest| {
        let (around, data) = (world.around(&Fuse::never()), world.folder.path().join("refused"));
        async move {
            let _ = std::fs::remove_dir_all(&data);
            let error = start(&data, request, &Options::default(), &around).await.expect_err("refused");
            l402t::coordinator::handle::Refusal::from(error).error.code
        }
    };
    let good = || world.request.clone();
    let signed = |change: &dyn Fn(&mut Posting)| {
        let mut posting = good().posting.body;
        change(&mut posting);
        PostRequest { posting: key("sponsor").sign(posting), ..good() }
    };
    assert_eq!(refused(PostRequest { package: "!".into(), ..good() }).await, "bad_package");
    assert_eq!(refused(PostRequest { package: STANDARD.encode("x"), ..good() }).await, "bad_package");
    assert_eq!(refused(PostRequest { held_out: STANDARD.encode("x"), ..good() }).await, "bad_package");
    assert_eq!(refused(PostRequest { held_out_salt: [6; 32], ..good() }).await, "heldout_mismatch");
    assert_eq!(refused(signed(&|posting| posting.title.push('!'))).await, "rules");
    assert_eq!(refused(signed(&|posting| posting.rules.budget_msat = Msat::new(60_000_000))).await, "rules");
    assert_eq!(refused(signed(&|posting| posting.rules.deadline_ms = START)).await, "deadline");
    assert_eq!(refused(signed(&|posting| posting.rules.deadline_ms = START.plus_ms(6 * DAY_MS))).await, "deadline");
    assert_eq!(refused(signed(&|posting| posting.coordinator = key("other").id())).await, "wrong_coordinator");
    assert_eq!(refused(signed(&|posting| posting.baseline_tree = posting.package)).await, "bad_package");
    let strong = World::with(&BOUNTY_TOML.replace("\"rlimits\"", "\"cgroup_v1\""));
    assert_eq!(refused(strong.request.clone()).await, "tier");
    let forged = PostRequest { posting: key("other").sign(good().posting.body), ..good() };
    assert_eq!(refused(forged).await, "bad_signature");
}

#[tokio::test]
async fn only_the_sponsor_closes_a_bounty_or_is_paid_back() {
    let world = World::new();
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    world.play(&mut coordinator, &mut [], false, |view| view.phase == BountyPhase::Open).await;
    let handle = coordinator.bounty_handle();
    let ask = |name: &str, ask| key(name).sign(SponsorRequest { bounty: world.id(), ask });
    let refused = handle.sponsor(ask("mallory", SponsorAsk::Close)).await.expect_err("refused");
    assert_eq!(refused.error.code, "bad_signature");
    let request = InvoiceRequest { amount: Msat::new(5_000), description: "rest".into(), expiry_s: 3_600 };
    let invoice = world.sponsor.create_invoice(&request).await.expect("made").bolt11;
    let early = handle.sponsor(ask("sponsor", SponsorAsk::PayBack { invoice })).await.expect_err("refused");
    assert_eq!(early.error.code, "no_surplus");
}

#[tokio::test]
async fn a_sponsor_who_closes_a_bounty_before_it_is_open_has_its_money_back_and_learns_that_it_was_refused() {
    let world = World::new();
    let mut coordinator = world.coordinator(&Fuse::never()).await.expect("taken on");
    let handle = coordinator.bounty_handle();
    while !matches!(handle.bounty().await.expect("a view").phase, BountyPhase::Checking) {
        world.sponsor_acts(&coordinator, false).await;
        coordinator.step().await.expect("a step");
        world.pass_time(true).await;
    }
    let request = SponsorRequest { bounty: world.id(), ask: SponsorAsk::Close };
    handle.sponsor(key("sponsor").sign(request)).await.expect("taken");
    for _ in 0..5 {
        coordinator.step().await.expect("a step");
        world.pass_time(true).await;
    }
    let view = handle.bounty().await.expect("a view");
    assert_eq!((view.phase, view.why.as_deref()), (BountyPhase::Refused, Some("the sponsor has closed it")));
    assert_eq!(world.gained("sponsor"), 0);
}
