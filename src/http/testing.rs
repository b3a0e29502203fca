//! A coordinator that keeps its books in memory, for the tests of server and client. The L402 gate is the real one.

pub(crate) mod bounties;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bitcoin::hashes::{Hash as _, sha256};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use secp256k1::{SECP256K1, SecretKey};
use tempfile::TempDir;

use crate::coordinator::handle::{AggregateFile, Challenge, CoordinatorHandle, Refusal, TicketAnswer};
use crate::coordinator::status::{ContributionStatus, RoundStatus, Status};
use crate::protocol::amount::{Msat, Ppm};
use crate::protocol::api::{
    ApiError, ChannelOffer, ContributionState, ContributionView, LightningView, Phase, RegistrationView, RoundView,
    RunView, Ticket,
};
use crate::protocol::ids::{Blake3Hash, ContributionId, Preimage, RoundNumber, UnixMs};
use crate::protocol::l402::{Credentials, Goods, Grant, Identifier, RootKey, TokenError, TokenId, mint, verify};
use crate::protocol::manifest::{
    CodecParams, HeldOutParams, JudgeParams, RewardParams, RunManifest, ShardParams, TimingParams, TrainingDataParams,
    TrainingParams,
};
use crate::protocol::sign::{IdentityKey, Signed, Statement as _};
use crate::protocol::statements::{
    Commitment, InvoiceSubmission, PeerRegistration, Receipt, RewardTerms, RoundOpening, Tranche,
};
use crate::protocol::transcript::{ContributionRecord, RevealedWindow, Transcript};
use crate::protocol::verdict::{Outcome, Rejection, Score, Verdict, VerdictRecord};
use crate::store::ledger::Totals;

/// The fake coordinator's clock, in Unix seconds.
pub(crate) const NOW_S: u64 = 1_800_000_000;
/// The round that is open.
pub(crate) const ROUND: RoundNumber = RoundNumber(1);
/// What a ticket costs.
pub(crate) const FEE: Msat = Msat::new(10_000);
const ROOT_KEY: RootKey = RootKey::from_bytes([0x11; 32]);

pub(crate) fn coordinator_key() -> IdentityKey {
    IdentityKey::from_secret_bytes(&[1; 32]).expect("a valid key")
}

pub(crate) fn peer_key() -> IdentityKey {
    IdentityKey::from_secret_bytes(&[2; 32]).expect("a valid key")
}

/// What settles the fake's fee invoices.
pub(crate) fn fee_preimage() -> Preimage {
    Preimage::from_bytes([0x42; 32])
}

pub(crate) fn payload() -> Vec<u8> {
    (0..50_000u32).flat_map(u32::to_le_bytes).collect()
}

pub(crate) fn commitment() -> Signed<Commitment> {
    peer_key().sign(Commitment {
        run: manifest().run_id(),
        round: ROUND,
        opening: opening().digest(),
        peer: peer_key().id(),
        payload: Blake3Hash::of(&payload()),
        payload_bytes: payload().len() as u64,
        claim: None,
    })
}

pub(crate) fn contribution_id() -> ContributionId {
    commitment().body.contribution_id()
}

pub(crate) fn manifest() -> RunManifest {
    RunManifest {
        version: 1,
        name: "sample".into(),
        coordinator: coordinator_key().id(),
        created_ms: UnixMs(NOW_S * 1_000),
        model_config: Blake3Hash::of(b"config"),
        initial_checkpoint: Blake3Hash::of(b"checkpoint"),
        training_data: TrainingDataParams {
            shards: vec![ShardParams { hash: Blake3Hash::of(b"data"), tokens: 4 }],
            shards_per_round: 1,
            tokenizer: None,
        },
        held_out: HeldOutParams {
            root: Blake3Hash::of(b"root"),
            windows: 64,
            block_windows: 8,
            windows_per_round: 4,
            window_tokens: 65,
        },
        training: TrainingParams {
            inner_steps: 4,
            micro_batch: 2,
            gradient_accumulation: 1,
            sequence_tokens: 64,
            learning_rate_nano: 1_000_000,
            warmup_steps: 2,
            beta1_ppm: Ppm::new(900_000).expect("valid"),
            beta2_ppm: Ppm::new(950_000).expect("valid"),
            weight_decay_ppm: Ppm::ZERO,
            clip_norm_micro: 1_000_000,
            error_feedback_decay_ppm: Ppm::new(950_000).expect("valid"),
        },
        codec: CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 },
        judge: JudgeParams {
            df32_version: 1,
            min_gain_per_token: 100,
            min_gain_of_median_ppm: Ppm::new(100_000).expect("valid"),
            copy_overlap_ppm: Ppm::new(500_000).expect("valid"),
            outer_lr_ppm: Ppm::ONE,
        },
        reward: RewardParams {
            pool_msat: Msat::new(1_000_000),
            max_share_ppm: Ppm::ONE,
            tranches: 3,
            fee_msat: FEE,
            hold_blocks: 144,
        },
        timing: TimingParams { commit_ms: 60_000, upload_ms: 90_000, close_at_contributions: 3, max_contributions: 8 },
    }
}

pub(crate) fn opening() -> RoundOpening {
    RoundOpening {
        run: manifest().run_id(),
        round: ROUND,
        previous_transcript: Some(Blake3Hash::of(b"transcript 0")),
        checkpoint: Blake3Hash::of(b"checkpoint"),
        secret_commitment: Blake3Hash::of(b"secret"),
        opened_ms: UnixMs(NOW_S * 1_000),
        commit_deadline_ms: UnixMs(NOW_S * 1_000 + 60_000),
        upload_deadline_ms: UnixMs(NOW_S * 1_000 + 90_000),
    }
}

pub(crate) fn run_view() -> RunView {
    RunView {
        run: manifest().run_id(),
        manifest: coordinator_key().sign(manifest()),
        lightning: LightningView {
            node_id: "02".repeat(33),
            address: Some("127.0.0.1:9735".into()),
            network: "regtest".into(),
            regtest_rpc: None,
            opens_channels: true,
        },
        current_round: Some(ROUND),
        closed_rounds: 1,
    }
}

pub(crate) fn round_view() -> RoundView {
    RoundView {
        opening: coordinator_key().sign(opening()),
        phase: Phase::Committing,
        tickets: 1,
        uploads: 0,
        transcript: None,
        next_checkpoint: None,
        now_ms: UnixMs(NOW_S * 1_000),
    }
}

pub(crate) fn ticket() -> Ticket {
    let tranche = Tranche { payment_hash: Preimage::from_bytes([3; 32]).payment_hash(), amount_msat: Msat::new(1_000) };
    let terms = RewardTerms {
        contribution: contribution_id(),
        sequence: 0,
        tranches: vec![tranche],
        hold_blocks: 144,
        invoices_deadline_ms: UnixMs(NOW_S * 1_000 + 60_000),
    };
    Ticket { contribution: contribution_id(), terms: coordinator_key().sign(terms) }
}

pub(crate) fn submission() -> Signed<InvoiceSubmission> {
    let body = InvoiceSubmission {
        contribution: contribution_id(),
        terms: ticket().terms.body.digest(),
        invoices: vec!["lnbcrt1sample".into()],
    };
    peer_key().sign(body)
}

pub(crate) fn registration() -> Signed<PeerRegistration> {
    let body =
        PeerRegistration { run: manifest().run_id(), peer: peer_key().id(), node_id: "03".repeat(33), address: None };
    peer_key().sign(body)
}

pub(crate) fn verdict(outcome: Outcome) -> VerdictRecord {
    VerdictRecord {
        contribution: contribution_id(),
        loss_after: Some(Score(5)),
        gain: Some(Score(-1)),
        clip: Some(Blake3Hash::of(b"clip")),
        outcome,
    }
}

/// Every outcome there is.
pub(crate) fn outcomes() -> Vec<Outcome> {
    let rejections = [
        Rejection::NotUploaded,
        Rejection::Malformed { code: "truncated".into() },
        Rejection::NotFinite,
        Rejection::Copy { of: contribution_id(), overlap_ppm: Ppm::ONE },
        Rejection::GainTooSmall,
        Rejection::LockLost,
    ];
    let accepted = Outcome::Accepted { share_ppm: Ppm::ONE, reward_msat: Msat::new(1_000), tranches_paid: 1 };
    let rejected = rejections.into_iter().map(|rejection| Outcome::Rejected { rejection });
    std::iter::once(accepted).chain(rejected).collect()
}

pub(crate) fn receipt() -> Signed<Receipt> {
    let verdict = verdict(outcomes().remove(0)).digest();
    let preimages = vec![Some(Preimage::from_bytes([3; 32])), None];
    coordinator_key().sign(Receipt { contribution: contribution_id(), verdict, preimages })
}

pub(crate) fn contribution_view(state: ContributionState) -> ContributionView {
    ContributionView { contribution: contribution_id(), round: ROUND, state, verdict: None, receipt: None }
}

pub(crate) fn transcript() -> Signed<Transcript> {
    let window = RevealedWindow {
        index: 3,
        salt: Blake3Hash::of(b"salt"),
        tokens_hex: "00000000".into(),
        proof: vec![Blake3Hash::of(b"sibling")],
    };
    let record = ContributionRecord {
        commitment: commitment(),
        terms: ticket().terms,
        invoices: Some(submission()),
        uploaded: true,
        verdict: verdict(outcomes().remove(0)),
        receipt: receipt(),
    };
    coordinator_key().sign(Transcript {
        version: 1,
        run: manifest().run_id(),
        round: ROUND,
        opening: coordinator_key().sign(opening()),
        secret: Blake3Hash::of(b"the secret"),
        contributions: vec![record],
        held_out: vec![window],
        loss_before: Score(10),
        loss_after: Score(9),
        next_checkpoint: next_checkpoint(),
    })
}

pub(crate) fn status() -> serde_json::Value {
    let contribution = ContributionStatus {
        contribution: contribution_id(),
        peer: peer_key().id(),
        state: ContributionState::Finished,
        payload_bytes: 200_000,
        outcome: Some("accepted"),
        reason: None,
        gain: Some(Score(1 << 32)),
        reward_msat: Msat::new(1_000),
        settled_msat: Msat::new(1_000),
        lock_ms: Some(20),
        settle_ms: vec![30],
    };
    let waiting = ContributionStatus { outcome: None, gain: None, lock_ms: None, ..contribution.clone() };
    let round = RoundStatus {
        round: RoundNumber(0),
        phase: Phase::Closed,
        opened_ms: UnixMs(NOW_S * 1_000),
        closed_ms: Some(UnixMs(NOW_S * 1_000)),
        loss_before: Some(Score(6 << 40)),
        loss_after: Some(Score(5 << 40)),
        transcript: Some(Blake3Hash::of(b"transcript 0")),
        contributions: vec![contribution, waiting],
    };
    let status = Status {
        run: manifest().run_id(),
        name: "sample".into(),
        now_ms: UnixMs(NOW_S * 1_000),
        lightning: run_view().lightning,
        current_round: Some(ROUND),
        peers: 2,
        predicted_tokens: 256,
        ledger: Totals::default(),
        rounds: vec![round],
    };
    serde_json::to_value(status).expect("JSON")
}

/// An invoice of the fake coordinator, on regtest.
pub(crate) fn fee_invoice() -> String {
    let key = SecretKey::from_slice(&[7; 32]).expect("a valid key");
    let payment_hash = sha256::Hash::from_byte_array(*fee_preimage().payment_hash().as_bytes());
    let invoice = InvoiceBuilder::new(Currency::Regtest)
        .description("submission fee".into())
        .payment_hash(payment_hash)
        .payment_secret(PaymentSecret([5; 32]))
        .duration_since_epoch(Duration::from_secs(NOW_S))
        .expiry_time(Duration::from_secs(600))
        .min_final_cltv_expiry_delta(18)
        .amount_milli_satoshis(FEE.msat());
    invoice.build_signed(|hash| SECP256K1.sign_ecdsa_recoverable(hash, &key)).expect("a whole invoice").to_string()
}

/// What the round ends with.
pub(crate) fn next_checkpoint() -> Blake3Hash {
    Blake3Hash::of(b"next")
}

/// The fake. Knows one round, one contribution and the blobs that a test puts there.
#[derive(Debug)]
pub(crate) struct FakeCoordinator {
    blobs: TempDir,
    /// How long [`CoordinatorHandle::run`] takes.
    pub(crate) run_takes: Mutex<Duration>,
    /// Calls of `run` that came to their end.
    pub(crate) runs_finished: AtomicU64,
    /// Challenges made so far.
    pub(crate) challenges: AtomicU64,
    /// Unix seconds.
    pub(crate) now_s: AtomicU64,
    uploaded: Mutex<Option<Vec<u8>>>,
}

impl FakeCoordinator {
    pub(crate) fn new() -> Self {
        Self {
            blobs: TempDir::new().expect("a temporary folder"),
            run_takes: Mutex::new(Duration::ZERO),
            runs_finished: AtomicU64::new(0),
            challenges: AtomicU64::new(0),
            now_s: AtomicU64::new(NOW_S),
            uploaded: Mutex::new(None),
        }
    }

    /// Publishes a blob.
    pub(crate) fn publish(&self, bytes: &[u8]) -> Blake3Hash {
        let hash = Blake3Hash::of(bytes);
        self.publish_as(hash, bytes);
        hash
    }

    /// Publishes bytes under a hash that may not be theirs.
    pub(crate) fn publish_as(&self, hash: Blake3Hash, bytes: &[u8]) {
        std::fs::write(self.blob_path(hash), bytes).expect("written");
    }

    /// Keeps an aggregate of the round.
    pub(crate) fn keep_aggregate(&self, bytes: &[u8]) {
        std::fs::write(self.blobs.path().join("aggregate"), bytes).expect("written");
    }

    pub(crate) fn uploaded(&self) -> Option<Vec<u8>> {
        self.uploaded.lock().expect("unpoisoned").clone()
    }

    fn blob_path(&self, hash: Blake3Hash) -> PathBuf {
        self.blobs.path().join(hash.to_string())
    }

    fn check(&self, credentials: &str, goods: Goods) -> Result<(), TokenError> {
        let credentials = Credentials::parse(credentials)?;
        let now_s = self.now_s.load(Ordering::SeqCst);
        verify(&credentials, &ROOT_KEY, now_s, goods).map(|_| ())
    }

    /// Nothing where the credentials are good, a challenge where they aren't.
    fn sold(&self, credentials: Option<String>, goods: Goods) -> Result<(), Challenge> {
        let refused = match credentials.map(|credentials| self.check(&credentials, goods)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => Some(error),
            None => None,
        };
        let number = self.challenges.fetch_add(1, Ordering::SeqCst);
        let mut token_id = [0; 32];
        token_id[..8].copy_from_slice(&number.to_le_bytes());
        let identifier =
            Identifier { payment_hash: fee_preimage().payment_hash(), token_id: TokenId::from_bytes(token_id) };
        let macaroon = mint(&ROOT_KEY, &identifier, &Grant { goods, valid_until_s: NOW_S + 600 }).to_base64();
        Err(Challenge { macaroon, invoice: fee_invoice(), refused })
    }
}

fn refuse(status: u16, code: &str) -> Refusal {
    Refusal { status, error: ApiError { code: code.into(), message: code.into(), fix: "none".into() } }
}

#[async_trait]
impl CoordinatorHandle for FakeCoordinator {
    async fn run(&self) -> Result<RunView, Refusal> {
        let takes = *self.run_takes.lock().expect("unpoisoned");
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.runs_finished.fetch_add(1, Ordering::SeqCst);
        Ok(run_view())
    }

    async fn round(&self, round: Option<RoundNumber>) -> Result<RoundView, Refusal> {
        match round {
            None | Some(ROUND) => Ok(round_view()),
            Some(_) => Err(refuse(404, "no_such_round")),
        }
    }

    async fn transcript(&self, round: RoundNumber) -> Result<Vec<u8>, Refusal> {
        if round == ROUND { Ok(transcript().to_bytes()) } else { Err(refuse(404, "not_closed")) }
    }

    async fn aggregate(&self, round: RoundNumber) -> Result<AggregateFile, Refusal> {
        let path = self.blobs.path().join("aggregate");
        if round == ROUND && path.exists() {
            Ok(AggregateFile { path, next_checkpoint: next_checkpoint() })
        } else {
            Err(refuse(404, "no_aggregate"))
        }
    }

    async fn blob(&self, hash: Blake3Hash) -> Result<PathBuf, Refusal> {
        let path = self.blob_path(hash);
        if path.exists() { Ok(path) } else { Err(refuse(404, "no_such_blob")) }
    }

    async fn register(&self, registration: Signed<PeerRegistration>) -> Result<RegistrationView, Refusal> {
        let peer = registration.body.peer;
        registration.verify(&peer).map_err(|_| refuse(403, "wrong_signature"))?;
        Ok(RegistrationView { channel: ChannelOffer::Opening })
    }

    async fn ticket(
        &self,
        round: RoundNumber,
        commitment: Signed<Commitment>,
        credentials: Option<String>,
    ) -> Result<TicketAnswer, Refusal> {
        if round != commitment.body.round {
            return Err(refuse(409, "wrong_round"));
        }
        let contribution = commitment.body.contribution_id();
        Ok(match self.sold(credentials, Goods::Ticket(contribution)) {
            Ok(()) => TicketAnswer::Ticket(Box::new(ticket())),
            Err(challenge) => TicketAnswer::PaymentRequired(challenge),
        })
    }

    async fn submit_invoices(
        &self,
        contribution: ContributionId,
        submission: Signed<InvoiceSubmission>,
    ) -> Result<ContributionView, Refusal> {
        if contribution != submission.body.contribution {
            return Err(refuse(409, "wrong_contribution"));
        }
        Ok(contribution_view(ContributionState::Locking))
    }

    async fn upload_allowance(&self, contribution: ContributionId) -> Result<u64, Refusal> {
        if contribution == contribution_id() { Ok(payload().len() as u64) } else { Err(refuse(404, "no_such_ticket")) }
    }

    async fn upload(&self, _contribution: ContributionId, bytes: Vec<u8>) -> Result<ContributionView, Refusal> {
        if bytes != payload() {
            return Err(refuse(400, "payload_mismatch"));
        }
        *self.uploaded.lock().expect("unpoisoned") = Some(bytes);
        Ok(contribution_view(ContributionState::Uploaded))
    }

    async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, Refusal> {
        if contribution != contribution_id() {
            return Err(refuse(404, "no_such_contribution"));
        }
        let mut view = contribution_view(ContributionState::Finished);
        view.verdict = Some(Verdict::Training(verdict(outcomes().remove(0))));
        view.receipt = Some(receipt());
        Ok(view)
    }

    async fn status(&self) -> Result<serde_json::Value, Refusal> {
        Ok(status())
    }
}
