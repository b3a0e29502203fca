//! A coordinator just real enough to be paid and to pay: real L402 tokens, real signatures, a simulated node. It judges an
//! upload at once, as it was told to, and then opens the next round.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;

use crate::clock::{Clock, SystemClock};
use crate::ln::{InvoiceRequest, InvoiceStatus, Lightning, PayLimits, PaymentStatus};
use crate::peer::api::{ApiFailure, BountyApi, CoordinatorApi, DownloadProgress, TicketOffer, WantedAggregate};
use crate::protocol::amount::{Msat, Ppm};
use crate::protocol::api::{
    BountyPhase, BountyView, ChannelOffer, ContributionState, ContributionView, LightningView, Phase, PostAnswer,
    PostRequest, RegistrationView, RoundView, RunView, Ticket,
};
use crate::protocol::bounty::offer::Offer;
use crate::protocol::bounty::pay::Direction;
use crate::protocol::bounty::score::{Decimals, Score};
use crate::protocol::bounty::statements::{self, BountyManifest, Posting, Rules, SponsorRequest};
use crate::protocol::bounty::verdict as bounty;
use crate::protocol::held_out::secret_commitment;
use crate::protocol::ids::{Blake3Hash, ContributionId, PaymentHash, Preimage, RoundNumber, UnixMs};
use crate::protocol::l402::{
    ChallengeParams, Credentials, Goods, Grant, Identifier, RootKey, Scheme, TokenId, mint, verify,
};
use crate::protocol::manifest::{
    CodecParams, HeldOutParams, JudgeParams, RewardParams, RunManifest, ShardParams, TimingParams, TrainingDataParams,
    TrainingParams,
};
use crate::protocol::reward::tranche_amounts;
use crate::protocol::sign::{IdentityKey, Signed, Statement};
use crate::protocol::statements::{
    Commitment, InvoiceSubmission, PeerRegistration, Receipt, RewardTerms, RoundOpening, Tranche,
};
use crate::protocol::verdict::{Outcome, Rejection, Verdict, VerdictRecord};

pub(super) const FEE: Msat = Msat::new(1_000);
const ROOT: RootKey = RootKey::from_bytes([5; 32]);

/// What it does to a contribution, or fails to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Accepts and pays these tranches (bit i for the i-th).
    Pays(u32),
    /// Rejects.
    Rejects,
    /// Never pays the hold invoices, and gives up.
    NeverLocks,
    /// Takes the fee and asks for another.
    TakesFees,
    /// Reveals a wrong preimage.
    WrongPreimage,
    /// Offers less than the manifest says.
    OffersLess,
    /// Asks for more than the manifest says.
    Overcharges,
    /// Of a bounty: offers more than the claim can be worth.
    OffersMore,
    /// Of a bounty: the sponsor's scorer failed, and the fee comes back.
    Refunds,
    /// Of a bounty: the round closes before it sells a ticket.
    ClosesEarly,
}

#[derive(Debug)]
struct Known {
    round: RoundNumber,
    commitment: Signed<Commitment>,
    fee_invoices: Vec<PaymentHash>,
    terms: Signed<RewardTerms>,
    preimages: Vec<Preimage>,
    state: ContributionState,
    verdict: Option<Verdict>,
    receipt: Option<Signed<Receipt>>,
}

#[derive(Debug)]
pub(super) struct FakeCoordinator {
    key: IdentityKey,
    pub(super) node: Arc<dyn Lightning>,
    habits: Vec<Habit>,
    manifest: Signed<RunManifest>,
    bounty: Option<Signed<BountyManifest>>,
    openings: Vec<Signed<RoundOpening>>,
    known: Mutex<BTreeMap<ContributionId, Known>>,
    current: Mutex<u32>,
    node_id: String,
}

fn refused(code: &str) -> ApiFailure {
    ApiFailure::Refused { status: 409, code: code.into(), message: code.into(), fix: String::new() }
}

impl FakeCoordinator {
    /// What it signs with.
    pub(super) fn key(&self) -> &IdentityKey {
        &self.key
    }

    /// One round for each habit.
    pub(super) async fn new(node: Arc<dyn Lightning>, habits: &[Habit]) -> Arc<Self> {
        Self::of(node, habits, None).await
    }

    /// The same for a bounty, each of whose rounds takes one submission.
    pub(super) async fn of_bounty(node: Arc<dyn Lightning>, habits: &[Habit]) -> Arc<Self> {
        Self::of(node, habits, Some(bounty_manifest())).await
    }

    async fn of(node: Arc<dyn Lightning>, habits: &[Habit], bounty: Option<BountyManifest>) -> Arc<Self> {
        let key = IdentityKey::from_secret_bytes(&[3; 32]).expect("a key");
        let blob = Blake3Hash::of(b"blob");
        let ppm = |ppm| Ppm::new(ppm).expect("valid");
        let manifest = RunManifest {
            version: 1,
            name: "test".into(),
            coordinator: key.id(),
            created_ms: UnixMs(1),
            model_config: blob,
            initial_checkpoint: blob,
            training_data: TrainingDataParams {
                shards: vec![ShardParams { hash: blob, tokens: 4 }],
                shards_per_round: 1,
                tokenizer: None,
            },
            held_out: HeldOutParams {
                root: blob,
                windows: 8,
                block_windows: 1,
                windows_per_round: 1,
                window_tokens: 8,
            },
            training: TrainingParams {
                inner_steps: 1,
                micro_batch: 1,
                gradient_accumulation: 1,
                sequence_tokens: 8,
                learning_rate_nano: 1,
                warmup_steps: 0,
                beta1_ppm: ppm(900_000),
                beta2_ppm: ppm(950_000),
                weight_decay_ppm: ppm(0),
                clip_norm_micro: 0,
                error_feedback_decay_ppm: ppm(950_000),
            },
            codec: CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 },
            judge: JudgeParams {
                df32_version: 1,
                min_gain_per_token: 0,
                min_gain_of_median_ppm: ppm(100_000),
                copy_overlap_ppm: ppm(400_000),
                outer_lr_ppm: ppm(500_000),
            },
            reward: RewardParams {
                pool_msat: Msat::new(7_000_000),
                max_share_ppm: Ppm::ONE,
                tranches: 2,
                fee_msat: FEE,
                hold_blocks: 144,
            },
            timing: TimingParams {
                commit_ms: 60_000,
                upload_ms: 90_000,
                close_at_contributions: 0,
                max_contributions: 9,
            },
        };
        let run = bounty.as_ref().map_or_else(|| manifest.run_id(), BountyManifest::run_id);
        let now = SystemClock.now();
        let openings = (0..habits.len() as u32)
            .map(|round| {
                key.sign(RoundOpening {
                    run,
                    round: RoundNumber(round),
                    previous_transcript: (round > 0).then_some(blob),
                    checkpoint: blob,
                    secret_commitment: secret_commitment(&blob),
                    opened_ms: now,
                    commit_deadline_ms: now.plus_ms(60_000),
                    upload_deadline_ms: now.plus_ms(90_000),
                })
            })
            .collect();
        let node_id = node.info().await.expect("online").node_id;
        Arc::new(Self {
            manifest: key.sign(manifest),
            bounty: bounty.map(|bounty| key.sign(bounty)),
            key,
            node,
            habits: habits.to_vec(),
            openings,
            known: Mutex::default(),
            current: Mutex::new(0),
            node_id,
        })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ContributionId, Known>> {
        self.known.lock().expect("not poisoned")
    }

    fn reward(&self) -> RewardParams {
        self.manifest.body.reward
    }

    fn habit(&self, round: RoundNumber) -> Habit {
        self.habits[round.0 as usize]
    }

    fn view(&self, id: ContributionId) -> Result<ContributionView, ApiFailure> {
        let known = self.known();
        let known = known.get(&id).ok_or_else(|| refused("unknown_contribution"))?;
        Ok(ContributionView {
            contribution: id,
            round: known.round,
            state: known.state,
            verdict: known.verdict.clone(),
            receipt: known.receipt.clone(),
        })
    }

    fn next_round(&self, after: RoundNumber) {
        let mut current = self.current.lock().expect("not poisoned");
        *current = (*current).max(after.0 + 1);
    }

    /// What is locked for a contribution.
    fn amounts(&self, habit: Habit, commitment: &Commitment) -> Vec<Msat> {
        let Some(bounty) = &self.bounty else {
            let mut amounts = tranche_amounts(&self.reward());
            if habit == Habit::OffersLess {
                amounts[0] = Msat::new(amounts[0].msat() - 1);
            }
            return amounts;
        };
        let rules = bounty.body.posting.body.rules;
        let claim = commitment.claim.expect("a bounty's");
        let worth = rules.scale().expect("kept").payout(rules.budget_msat, claim, rules.baseline);
        let offered = match habit {
            Habit::OffersLess => Msat::new(worth.msat() / 2),
            Habit::OffersMore => Msat::new(worth.msat() + 1),
            _ => worth,
        };
        Offer::new(offered, FEE).expect("a satoshi or more").tranches()
    }

    /// Judges as it was told to.
    fn judge(&self, id: ContributionId) {
        if self.bounty.is_some() {
            return self.evaluate(id);
        }
        let mut known = self.known();
        let known = known.get_mut(&id).expect("known");
        let habit = self.habits[known.round.0 as usize];
        let mask = match habit {
            Habit::Pays(mask) => mask,
            Habit::WrongPreimage => 3,
            _ => 0,
        };
        let paid = |place: usize| mask >> place & 1 == 1;
        let amounts = tranche_amounts(&self.reward());
        let reward_msat =
            Msat::checked_sum((0..amounts.len()).filter(|place| paid(*place)).map(|place| amounts[place]));
        let reward_msat = reward_msat.expect("small");
        let outcome = if mask == 0 {
            Outcome::Rejected { rejection: Rejection::GainTooSmall }
        } else {
            Outcome::Accepted { share_ppm: Ppm::ONE, reward_msat, tranches_paid: mask }
        };
        let verdict = VerdictRecord { contribution: id, loss_after: None, gain: None, clip: None, outcome };
        let mut preimages: Vec<Option<Preimage>> =
            known.preimages.iter().enumerate().map(|(place, preimage)| paid(place).then_some(*preimage)).collect();
        if habit == Habit::WrongPreimage {
            preimages[1] = Some(Preimage::from_bytes([0xee; 32]));
        }
        let receipt = Receipt { contribution: id, verdict: verdict.digest(), preimages };
        known.receipt = Some(self.key.sign(receipt));
        known.verdict = Some(Verdict::Training(verdict));
        known.state = ContributionState::Settling;
    }

    fn evaluate(&self, id: ContributionId) {
        let mut known = self.known();
        let known = known.get_mut(&id).expect("known");
        let amounts: Vec<Msat> = known.terms.body.tranches.iter().map(|tranche| tranche.amount_msat).collect();
        let most = Msat::checked_sum(amounts[1..].iter().copied()).expect("small");
        let outcome = match self.habits[known.round.0 as usize] {
            Habit::Rejects => bounty::Outcome::Rejected { reason: bounty::Rejection::BelowClaim },
            Habit::Refunds => bounty::Outcome::Rejected { reason: bounty::Rejection::ScorerFailed },
            _ => bounty::Outcome::Reached { reward_msat: most },
        };
        let (tranches_paid, _) = Offer::new(most, FEE).expect("a satoshi or more").paid(&outcome);
        let verdict = statements::VerdictRecord {
            contribution: id,
            sequence: known.terms.body.sequence,
            evaluation: None,
            outcome,
            tranches_paid,
        };
        let paid = |place: usize| tranches_paid >> place & 1 == 1;
        let preimages = known.preimages.iter().enumerate();
        let preimages = preimages.map(|(place, preimage)| paid(place).then_some(*preimage)).collect();
        known.receipt = Some(self.key.sign(Receipt { contribution: id, verdict: verdict.digest(), preimages }));
        known.verdict = Some(Verdict::Bounty(verdict));
        known.state = ContributionState::Settling;
    }

    /// How many commitments it has heard of.
    pub(super) fn commitments(&self) -> usize {
        self.known().len()
    }

    /// How many of a contribution's fee invoices were paid; for each contribution.
    pub(super) async fn fees_paid(&self) -> Vec<usize> {
        let invoices: Vec<Vec<PaymentHash>> = self.known().values().map(|known| known.fee_invoices.clone()).collect();
        let mut counts = Vec::new();
        for hashes in invoices {
            let mut paid = 0;
            for hash in hashes {
                match self.node.invoice(hash).await.expect("online") {
                    InvoiceStatus::Settled { .. } => paid += 1,
                    InvoiceStatus::NotFound
                    | InvoiceStatus::Open
                    | InvoiceStatus::Accepted { .. }
                    | InvoiceStatus::Canceled => {}
                }
            }
            counts.push(paid);
        }
        counts
    }

    /// What it has paid, and how many payments are still locked.
    pub(super) async fn rewards(&self) -> (Msat, usize) {
        let tranches: Vec<Tranche> =
            self.known().values().flat_map(|known| known.terms.body.tranches.clone()).collect();
        let (mut paid, mut locked) = (Msat::ZERO, 0);
        for tranche in tranches {
            match self.node.payment(tranche.payment_hash).await.expect("online") {
                PaymentStatus::Succeeded { .. } => paid = paid.checked_add(tranche.amount_msat).expect("small"),
                PaymentStatus::InFlight | PaymentStatus::Unknown => locked += 1,
                PaymentStatus::NotFound | PaymentStatus::Failed { .. } => {}
            }
        }
        (paid, locked)
    }
}

#[async_trait]
impl CoordinatorApi for FakeCoordinator {
    async fn run(&self) -> Result<RunView, ApiFailure> {
        let current = *self.current.lock().expect("not poisoned");
        Ok(RunView {
            run: self.manifest.body.run_id(),
            manifest: self.manifest.clone(),
            lightning: LightningView {
                node_id: self.node_id.clone(),
                address: None,
                network: "regtest".into(),
                regtest_rpc: None,
                opens_channels: true,
            },
            current_round: (current < self.habits.len() as u32).then_some(RoundNumber(current)),
            closed_rounds: current,
        })
    }

    async fn round(&self, round: RoundNumber) -> Result<RoundView, ApiFailure> {
        let current = *self.current.lock().expect("not poisoned");
        let opening = self.openings.get(round.0 as usize).ok_or_else(|| refused("unknown_round"))?.clone();
        Ok(RoundView {
            opening,
            phase: if round.0 < current { Phase::Closed } else { Phase::Committing },
            tickets: 0,
            uploads: 0,
            transcript: None,
            next_checkpoint: None,
            now_ms: SystemClock.now(),
        })
    }

    async fn register(&self, registration: &Signed<PeerRegistration>) -> Result<RegistrationView, ApiFailure> {
        registration.verify(&registration.body.peer).expect("signed");
        Ok(RegistrationView { channel: ChannelOffer::Usable })
    }

    async fn ticket(
        &self,
        commitment: &Signed<Commitment>,
        credentials: Option<&Credentials>,
    ) -> Result<TicketOffer, ApiFailure> {
        commitment.verify(&commitment.body.peer).expect("signed");
        let id = commitment.body.contribution_id();
        let habit = self.habit(commitment.body.round);
        if let Some(credentials) = credentials {
            let hash = verify(credentials, &ROOT, 0, Goods::Ticket(id)).expect("good credentials");
            let settled = matches!(self.node.invoice(hash).await.expect("online"), InvoiceStatus::Settled { .. });
            if settled && habit != Habit::TakesFees {
                let known = self.known();
                let terms = known[&id].terms.clone();
                return Ok(TicketOffer::Sold(Box::new(Ticket { contribution: id, terms })));
            }
        }
        if commitment.body.round.0 < *self.current.lock().expect("not poisoned") {
            return Err(refused("round_closed"));
        }
        if habit == Habit::ClosesEarly {
            self.next_round(commitment.body.round);
            return Err(refused("round_closed"));
        }
        let amount = if habit == Habit::Overcharges { Msat::new(FEE.msat() + 1) } else { FEE };
        let request = InvoiceRequest { amount, description: "fee".into(), expiry_s: 600 };
        let invoice = self.node.create_invoice(&request).await.expect("online");
        let identifier = Identifier { payment_hash: invoice.payment_hash, token_id: TokenId::from_bytes([1; 32]) };
        let macaroon = mint(&ROOT, &identifier, &Grant { goods: Goods::Ticket(id), valid_until_s: 600 });
        let mut known = self.known();
        let sequence = known.len() as u32;
        let amounts = self.amounts(habit, &commitment.body);
        let preimages: Vec<Preimage> = (0u8..)
            .take(amounts.len())
            .map(|place| {
                Preimage::from_bytes(Blake3Hash::of(&[&id.as_bytes()[..], &[place]].concat()).as_bytes().to_owned())
            })
            .collect();
        let tranches = preimages
            .iter()
            .zip(amounts)
            .map(|(preimage, amount_msat)| Tranche { payment_hash: preimage.payment_hash(), amount_msat })
            .collect();
        let terms = RewardTerms {
            contribution: id,
            sequence,
            tranches,
            hold_blocks: self.reward().hold_blocks,
            invoices_deadline_ms: UnixMs(u64::MAX),
        };
        let entry = known.entry(id).or_insert_with(|| Known {
            round: commitment.body.round,
            commitment: commitment.clone(),
            fee_invoices: Vec::new(),
            terms: self.key.sign(terms),
            preimages,
            state: ContributionState::Ticketed,
            verdict: None,
            receipt: None,
        });
        entry.fee_invoices.push(invoice.payment_hash);
        drop(known);
        if habit == Habit::TakesFees && credentials.is_some() {
            self.next_round(commitment.body.round);
        }
        let (scheme, macaroon) = (Scheme::L402, macaroon.to_base64());
        Ok(TicketOffer::PaymentRequired(ChallengeParams { scheme, macaroon, invoice: invoice.bolt11 }))
    }

    async fn submit_invoices(&self, submission: &Signed<InvoiceSubmission>) -> Result<ContributionView, ApiFailure> {
        let id = submission.body.contribution;
        let round = self.view(id)?.round;
        if self.habit(round) == Habit::NeverLocks {
            self.known().get_mut(&id).expect("known").state = ContributionState::Finished;
            self.next_round(round);
            return self.view(id);
        }
        for invoice in &submission.body.invoices {
            let limits = PayLimits { max_fee: Msat::ZERO, max_cltv_blocks: 1_000 };
            self.node.pay(invoice, limits).await.expect("payable");
        }
        let mut known = self.known();
        let entry = known.get_mut(&id).expect("known");
        if entry.state == ContributionState::Ticketed {
            entry.state = ContributionState::Locked;
        }
        drop(known);
        self.view(id)
    }

    async fn upload(&self, id: ContributionId, payload: &[u8]) -> Result<ContributionView, ApiFailure> {
        let view = self.view(id)?;
        if view.state == ContributionState::Settling {
            return Err(refused("already_uploaded"));
        }
        assert_eq!(view.state, ContributionState::Locked, "no payload before the reward is locked");
        assert_eq!(Blake3Hash::of(payload), self.known()[&id].commitment.body.payload);
        self.judge(id);
        self.next_round(view.round);
        self.view(id)
    }

    async fn contribution(&self, id: ContributionId) -> Result<ContributionView, ApiFailure> {
        let mut view = self.view(id)?;
        if view.state == ContributionState::Settling && self.rewards().await.1 == 0 {
            view.state = ContributionState::Finished;
        }
        Ok(view)
    }

    async fn aggregate(&self, _: &WantedAggregate, _: &Path, _: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        Err(refused("no_aggregate"))
    }

    async fn download(
        &self,
        _blob: Blake3Hash,
        path: &Path,
        _progress: DownloadProgress<'_>,
    ) -> Result<(), ApiFailure> {
        std::fs::write(path, b"blob").map_err(|source| ApiFailure::Disk { path: path.to_path_buf(), source })
    }
}

/// 100 sat for each ten-thousandth from 0.8720 to 0.9860.
pub(super) fn rules() -> Rules {
    let score = |units| Score::from_units(units).expect("in range");
    Rules {
        decimals: Decimals::new(4).expect("few"),
        direction: Direction::Higher,
        baseline: score(8_720),
        target: score(9_860),
        budget_msat: Msat::new(114_000_000),
        min_improvement: 50,
        noise_bound: 0,
        submission_cap: 9,
        fee_msat: FEE,
        deadline_ms: UnixMs(u64::MAX / 2),
    }
}

pub(super) fn posting() -> Posting {
    let key = |byte| IdentityKey::from_secret_bytes(&[byte; 32]).expect("a key");
    Posting {
        sponsor: key(7).id(),
        coordinator: key(3).id(),
        title: "better".into(),
        rules: rules(),
        package: Blake3Hash::of(b"package"),
        baseline_tree: Blake3Hash::of(b"tree"),
        held_out: [4; 32],
    }
}

/// Taken on by the coordinator whose key is made of threes.
pub(super) fn bounty_manifest() -> BountyManifest {
    let posting = posting();
    let tranche = |byte, msat| Tranche {
        payment_hash: Preimage::from_bytes([byte; 32]).payment_hash(),
        amount_msat: Msat::new(msat),
    };
    BountyManifest {
        version: 1,
        posting: IdentityKey::from_secret_bytes(&[7; 32]).expect("a key").sign(posting),
        created_ms: UnixMs(1),
        escrow: vec![tranche(0x51, 100_000_000), tranche(0x52, 14_000_000)],
        hold_blocks: 144,
        timing: TimingParams { commit_ms: 60_000, upload_ms: 90_000, close_at_contributions: 1, max_contributions: 9 },
        max_payload_bytes: 65_568,
    }
}

#[async_trait]
impl BountyApi for FakeCoordinator {
    async fn bounty(&self) -> Result<BountyView, ApiFailure> {
        let run = CoordinatorApi::run(self).await?;
        let manifest = self.bounty.clone().expect("a bounty");
        let rules = manifest.body.posting.body.rules;
        Ok(BountyView {
            bounty: manifest.body.posting.body.bounty_id(),
            run: manifest.body.run_id(),
            manifest,
            phase: if run.current_round.is_some() { BountyPhase::Open } else { BountyPhase::Closed },
            why: None,
            best: rules.baseline,
            least_claim: rules.direction.better_by(rules.baseline, rules.step()),
            submissions: 0,
            paid_msat: Msat::ZERO,
            package_fee_msat: Msat::ZERO,
            demo_only: false,
            surplus_msat: Msat::ZERO,
            current_round: run.current_round,
            closed_rounds: run.closed_rounds,
            lightning: run.lightning,
            now_ms: SystemClock.now(),
        })
    }

    async fn current_round(&self) -> Result<RoundView, ApiFailure> {
        let current = *self.current.lock().expect("not poisoned");
        self.round(RoundNumber(current)).await
    }

    async fn post(&self, _: &PostRequest) -> Result<PostAnswer, ApiFailure> {
        Err(refused("posted_already"))
    }

    async fn ask(&self, _: &Signed<SponsorRequest>) -> Result<BountyView, ApiFailure> {
        Err(refused("not_the_sponsor"))
    }
}
