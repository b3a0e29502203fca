//! A board with one bounty, for the tests of server and client. The bounty's rounds are a [`FakeCoordinator`]'s.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::{FakeCoordinator, NOW_S, coordinator_key, peer_key, refuse, run_view};
use crate::coordinator::handle::{BountyBoard, BountyHandle, PackageAnswer, PackageFile, Refusal};
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyList, BountyPhase, BountyView, PostAnswer, PostRequest};
use crate::protocol::bounty::pay::Direction;
use crate::protocol::bounty::score::{Decimals, Score};
use crate::protocol::bounty::statements::{
    BountyManifest, BountyTranscript, Closing, EvaluationRecord, Posting, Rerun, Rules, SponsorAsk, SponsorRequest,
    VerdictRecord,
};
use crate::protocol::bounty::verdict::{Outcome, Rejection};
use crate::protocol::ids::{Blake3Hash, BountyId, Preimage, RoundNumber, UnixMs};
use crate::protocol::l402::Goods;
use crate::protocol::manifest::TimingParams;
use crate::protocol::sign::{IdentityKey, Signed, Statement as _};
use crate::protocol::statements::{Commitment, Tranche};
use crate::protocol::transcript::ContributionRecord;

/// What the bounty gives its agents.
pub(crate) const PACKAGE: &[u8] = b"package";

pub(crate) fn sponsor_key() -> IdentityKey {
    IdentityKey::from_secret_bytes(&[3; 32]).expect("a valid key")
}

pub(crate) fn score(units: i64) -> Score {
    Score::from_units(units).expect("in range")
}

pub(crate) fn posting() -> Signed<Posting> {
    sponsor_key().sign(Posting {
        sponsor: sponsor_key().id(),
        coordinator: coordinator_key().id(),
        title: "Shrink the logs".into(),
        rules: Rules {
            decimals: Decimals::new(4).expect("few"),
            direction: Direction::Lower,
            baseline: score(9_860),
            target: score(8_720),
            budget_msat: Msat::new(100_000_000),
            min_improvement: 50,
            noise_bound: 0,
            submission_cap: 100,
            fee_msat: Msat::new(1_000),
            deadline_ms: UnixMs((NOW_S + 86_400) * 1_000),
        },
        package: Blake3Hash::of(PACKAGE),
        baseline_tree: Blake3Hash::of(b"tree"),
        held_out: [4; 32],
    })
}

pub(crate) fn bounty_id() -> BountyId {
    posting().body.bounty_id()
}

pub(crate) fn bounty_view() -> BountyView {
    view_of(posting())
}

/// As the coordinator takes it on.
fn view_of(posting: Signed<Posting>) -> BountyView {
    let (bounty, best) = (posting.body.bounty_id(), posting.body.rules.baseline);
    let escrow =
        Tranche { payment_hash: Preimage::from_bytes([6; 32]).payment_hash(), amount_msat: Msat::new(100_000_000) };
    let timing = TimingParams { commit_ms: 60_000, upload_ms: 90_000, close_at_contributions: 1, max_contributions: 8 };
    let manifest = BountyManifest {
        version: 1,
        posting,
        created_ms: UnixMs(NOW_S * 1_000),
        escrow: vec![escrow],
        hold_blocks: 144,
        timing,
        max_payload_bytes: 1 << 20,
    };
    BountyView {
        bounty,
        run: manifest.run_id(),
        manifest: coordinator_key().sign(manifest),
        phase: BountyPhase::Open,
        why: None,
        best,
        least_claim: Some(score(9_810)),
        submissions: 2,
        paid_msat: Msat::new(25_000_000),
        package_fee_msat: Msat::new(1_000),
        demo_only: false,
        surplus_msat: Msat::ZERO,
        current_round: Some(RoundNumber(1)),
        closed_rounds: 1,
        lightning: run_view().lightning,
        now_ms: UnixMs(NOW_S * 1_000),
    }
}

/// Another bounty than the board's own, with these packages.
pub(crate) fn post_request(package: String, held_out: String) -> PostRequest {
    let another = Posting { title: "Sort faster".into(), ..posting().body };
    PostRequest { posting: sponsor_key().sign(another), package, held_out, held_out_salt: [5; 32] }
}

pub(crate) fn post_answer(request: &PostRequest) -> PostAnswer {
    let view = BountyView { phase: BountyPhase::AwaitingEscrow, ..view_of(request.posting.clone()) };
    PostAnswer { view, invoices: vec!["lnbcrt1escrow".into()], pay_until_ms: UnixMs((NOW_S + 600) * 1_000) }
}

pub(crate) fn sponsor_request(ask: SponsorAsk) -> Signed<SponsorRequest> {
    sponsor_key().sign(SponsorRequest { bounty: bounty_id(), ask })
}

/// A claim of a better score.
pub(crate) fn submission_commitment() -> Signed<Commitment> {
    let commitment = Commitment { claim: Some(score(9_000)), ..super::commitment().body };
    peer_key().sign(commitment)
}

/// Every outcome of a submission there is.
pub(crate) fn bounty_outcomes() -> Vec<Outcome> {
    let rejected = Rejection::ALL.into_iter().map(|reason| Outcome::Rejected { reason });
    std::iter::once(Outcome::Reached { reward_msat: Msat::new(1_000) }).chain(rejected).collect()
}

pub(crate) fn bounty_verdict(outcome: Outcome) -> VerdictRecord {
    let evaluation = Some(evaluation().digest());
    let contribution = submission_commitment().body.contribution_id();
    VerdictRecord { contribution, sequence: 0, evaluation, outcome, tranches_paid: 1 }
}

fn evaluation() -> EvaluationRecord {
    EvaluationRecord {
        contribution: submission_commitment().body.contribution_id(),
        seal: Blake3Hash::of(b"seal"),
        score: Some(score(8_999)),
        tree: None,
        tier: "cgroup".into(),
        fuel_meter: None,
    }
}

pub(crate) fn bounty_transcript() -> Signed<BountyTranscript> {
    let record: ContributionRecord = super::transcript().body.contributions.remove(0);
    let record = ContributionRecord {
        commitment: submission_commitment(),
        terms: record.terms,
        invoices: record.invoices,
        uploaded: record.uploaded,
        verdict: bounty_verdict(bounty_outcomes().remove(0)),
        receipt: record.receipt,
    };
    coordinator_key().sign(BountyTranscript {
        version: 1,
        run: bounty_view().run,
        round: RoundNumber(0),
        opening: super::round_view().opening,
        contributions: vec![record],
    })
}

pub(crate) fn closing() -> Signed<Closing> {
    coordinator_key().sign(Closing {
        bounty: bounty_id(),
        closed_ms: UnixMs(NOW_S * 1_000),
        transcripts: vec![bounty_transcript().body.digest()],
        held_out: Blake3Hash::of(b"held out"),
        held_out_salt: [5; 32],
        evaluations: vec![evaluation()],
        reruns: vec![Rerun { contribution: evaluation().contribution, score: evaluation().score }],
    })
}

#[async_trait]
impl BountyHandle for FakeCoordinator {
    async fn bounty(&self) -> Result<BountyView, Refusal> {
        Ok(bounty_view())
    }

    async fn package(&self, credentials: Option<String>) -> Result<PackageAnswer, Refusal> {
        let goods = Goods::Package(bounty_id());
        Ok(match self.sold(credentials, goods) {
            Ok(()) => {
                let hash = self.publish(PACKAGE);
                PackageAnswer::File(PackageFile { path: self.blob_path(hash), hash })
            }
            Err(challenge) => PackageAnswer::PaymentRequired(challenge),
        })
    }

    async fn closing(&self) -> Result<Vec<u8>, Refusal> {
        Ok(closing().to_bytes())
    }

    async fn sponsor(&self, request: Signed<SponsorRequest>) -> Result<BountyView, Refusal> {
        request.verify(&sponsor_key().id()).map_err(|_| refuse(403, "wrong_signature"))?;
        let phase = match request.body.ask {
            SponsorAsk::Close => BountyPhase::Closing,
            SponsorAsk::PayBack { .. } => return Err(refuse(409, "not_closed")),
        };
        Ok(BountyView { phase, ..bounty_view() })
    }
}

/// Knows one bounty, and what has been posted since.
#[derive(Debug)]
pub(crate) struct FakeBoard {
    /// The rounds of its bounty.
    pub(crate) run: Arc<FakeCoordinator>,
    posted: Mutex<Vec<PostRequest>>,
    /// Was anything ever posted?
    is_new: bool,
}

pub(crate) fn bounty_list(bounties: Vec<BountyView>) -> BountyList {
    BountyList { coordinator: super::coordinator_key().id(), lightning: super::run_view().lightning, bounties }
}

impl FakeBoard {
    pub(crate) fn new() -> Self {
        Self { run: Arc::new(FakeCoordinator::new()), posted: Mutex::default(), is_new: false }
    }

    /// Without any bounty.
    pub(crate) fn empty() -> Self {
        Self { is_new: true, ..Self::new() }
    }

    /// What has been posted, without what was posted again.
    pub(crate) fn posted(&self) -> Vec<PostRequest> {
        self.posted.lock().expect("unpoisoned").clone()
    }
}

#[async_trait]
impl BountyBoard for FakeBoard {
    async fn list(&self) -> Result<BountyList, Refusal> {
        let posted = self.posted().into_iter().rev().map(|request| post_answer(&request).view);
        let own = (!self.is_new).then(bounty_view);
        Ok(bounty_list(posted.chain(own).collect()))
    }

    async fn post(&self, request: PostRequest) -> Result<PostAnswer, Refusal> {
        let sponsor = request.posting.body.sponsor;
        request.posting.verify(&sponsor).map_err(|_| refuse(403, "wrong_signature"))?;
        let mut posted = self.posted.lock().expect("unpoisoned");
        if !posted.contains(&request) {
            posted.push(request.clone());
        }
        Ok(post_answer(&request))
    }

    fn find(&self, bounty: &BountyId) -> Option<Arc<dyn BountyHandle>> {
        (*bounty == bounty_id()).then(|| Arc::clone(&self.run) as Arc<dyn BountyHandle>)
    }
}
