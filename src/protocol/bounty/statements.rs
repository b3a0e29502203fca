//! What sponsor and coordinator say to each other under their signatures in the course of a bounty.
//!
//! In order: posting, manifest, one transcript a round, closing. A submission is a contribution to a round of the bounty's run
//! and goes the way of every other one: commitment, reward terms, invoices, payload, receipt
//! ([`crate::protocol::statements`]); its payload is [`super::payload`]. Until the closing nobody but the coordinator sees a
//! diff or a score; then both are opened, and everything can be recomputed.

use serde::{Deserialize, Serialize};

use super::offer::LEAST_TRANCHE;
use super::pay::{Direction, Scale};
use super::score::{Decimals, Score};
use super::verdict::Outcome;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, BountyId, ContributionId, DAY_MS, PeerId, RoundNumber, RunId, UnixMs};
use crate::protocol::manifest::TimingParams;
use crate::protocol::sign::{Signed, Statement};
use crate::protocol::statements::{RoundOpening, Tranche};
use crate::protocol::transcript::ContributionRecord;

/// Most submissions that a bounty may take: each answers one bit about the held-out part.
pub const MOST_SUBMISSIONS: u32 = 100_000;

/// A bounty is posted for so long at most. One whose bounty.toml has a later deadline is posted again after that.
pub const LONGEST_MS: u64 = 5 * DAY_MS;

/// What a bounty pays for, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Of every score.
    pub decimals: Decimals,
    /// Which way is better.
    pub direction: Direction,
    /// What the sponsor's own files score: pays nothing.
    pub baseline: Score,
    /// Pays all.
    pub target: Score,
    /// All.
    pub budget_msat: Msat,
    /// Smallest improvement over the best so far that is paid, in units.
    pub min_improvement: u64,
    /// A smaller one could be chance, in units.
    pub noise_bound: u64,
    /// Submissions altogether, whoever sends them.
    pub submission_cap: u32,
    /// What a submission costs.
    pub fee_msat: Msat,
    /// No commitment is taken after this.
    pub deadline_ms: UnixMs,
}

/// Rules that no bounty can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// Nothing to pay for.
    #[error("the target {target} is not better than the baseline {baseline} (in units, {direction:?} is better)")]
    TargetNotBetter {
        /// The direction.
        direction: Direction,
        /// Baseline, in units.
        baseline: i64,
        /// Target, in units.
        target: i64,
    },
    /// One step would pass the target.
    #[error("the smallest paid improvement, {step} units, is more than the {span} units from baseline to target")]
    StepTooLarge {
        /// The step.
        step: u64,
        /// From baseline to target.
        span: u64,
    },
    /// Less than a node can carry.
    #[error("the smallest paid improvement, {step} units, pays less than 1 sat")]
    StepPaysNothing {
        /// The step.
        step: u64,
    },
    /// Nothing to pay with, or more than there is.
    #[error("a budget of {0} can't be paid")]
    Budget(Msat),
    /// No submission, or too many.
    #[error("a cap of {0} submissions is not within 1 ..= {MOST_SUBMISSIONS}")]
    SubmissionCap(u32),
}

impl Rules {
    /// Checks that they can be kept, and returns their scale.
    pub fn scale(&self) -> Result<Scale, RulesError> {
        let target_not_better = RulesError::TargetNotBetter {
            direction: self.direction,
            baseline: self.baseline.units(),
            target: self.target.units(),
        };
        let scale = Scale::new(self.direction, self.baseline, self.target).ok_or(target_not_better)?;
        let span = self.direction.improvement(self.baseline, self.target).unsigned_abs();
        if self.step() > span {
            return Err(RulesError::StepTooLarge { step: self.step(), span });
        }
        if self.budget_msat == Msat::ZERO || self.budget_msat > Msat::MAX_MONEY {
            return Err(RulesError::Budget(self.budget_msat));
        }
        let one_step = u128::from(self.budget_msat.msat()) * u128::from(self.step()) / u128::from(span.max(1));
        if one_step < u128::from(LEAST_TRANCHE.msat()) {
            return Err(RulesError::StepPaysNothing { step: self.step() });
        }
        if !(1..=MOST_SUBMISSIONS).contains(&self.submission_cap) {
            return Err(RulesError::SubmissionCap(self.submission_cap));
        }
        Ok(scale)
    }

    /// Are `posted` these rules? Its deadline may be earlier: no node locks a budget for longer than some days.
    pub fn allow(&self, posted: &Rules) -> bool {
        posted.deadline_ms <= self.deadline_ms && Rules { deadline_ms: posted.deadline_ms, ..*self } == *posted
    }

    /// The smallest improvement over the best so far that is paid, in units: at least one.
    pub fn step(&self) -> u64 {
        self.min_improvement.max(self.noise_bound).max(1)
    }

    /// The step as a difference of scores; `None` where no two scores are so far apart.
    pub fn least_improvement(&self) -> Option<Score> {
        Score::from_units(i64::try_from(self.step()).ok()?)
    }

    /// Is one score better than another by a step or more?
    pub fn is_step(&self, from: Score, to: Score) -> bool {
        u64::try_from(self.direction.improvement(from, to)).is_ok_and(|improvement| improvement >= self.step())
    }
}

/// A sponsor posts a bounty. Signed by `sponsor`; its digest is the bounty's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Posting {
    /// Who pays.
    pub sponsor: PeerId,
    /// Who evaluates, and holds the money meanwhile.
    pub coordinator: PeerId,
    /// For people.
    pub title: String,
    /// In numbers.
    pub rules: Rules,
    /// The blob with everything that agents get: bounty.toml, workspace, scorer, public part.
    pub package: Blake3Hash,
    /// Digest of the tree that agents start from.
    pub baseline_tree: Blake3Hash,
    /// `held_out::commitment`: opened by the closing.
    #[serde(with = "hex")]
    pub held_out: [u8; 32],
}

impl Statement for Posting {
    const CONTEXT: &'static str = "l402t bounty posting v1";
}

impl Posting {
    /// The bounty's id.
    pub fn bounty_id(&self) -> BountyId {
        BountyId::from_bytes(*self.digest().as_bytes())
    }
}

/// The coordinator takes a posting on: what a bounty has in common with a training run. Signed by the coordinator; its digest
/// is the id of the bounty's run, in whose rounds submissions are contributions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BountyManifest {
    /// 1.
    pub version: u32,
    /// By the sponsor; its `coordinator` signs this.
    pub posting: Signed<Posting>,
    /// When it was taken on.
    pub created_ms: UnixMs,
    /// The sponsor locks the budget in these hold invoices before the bounty opens. Together they are the budget.
    pub escrow: Vec<Tranche>,
    /// CLTV delta that agents' hold invoices ask for, in blocks.
    pub hold_blocks: u32,
    /// A round's deadlines: one takes submissions until the first is in, and those that are on the way.
    pub timing: TimingParams,
    /// Largest payload: [`super::payload`].
    pub max_payload_bytes: u64,
}

impl Statement for BountyManifest {
    const CONTEXT: &'static str = "l402t bounty manifest v1";
}

impl BountyManifest {
    /// The id of the bounty's run.
    pub fn run_id(&self) -> RunId {
        RunId::from_bytes(*self.digest().as_bytes())
    }
}

/// What an evaluation measured. Sealed until the bounty closes; the verdict holds its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecord {
    /// Which submission.
    pub contribution: ContributionId,
    /// Random: without it the digest in the verdict would tell the score to whoever tries them all.
    pub seal: Blake3Hash,
    /// The verified score; `None` where it came to none.
    pub score: Option<Score>,
    /// Digest of the changed tree; `None` where it came to no score.
    pub tree: Option<Blake3Hash>,
    /// How strong the boxes were.
    pub tier: String,
    /// What counted fuel, and its version, where a module of WebAssembly was scored: another one may count otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel_meter: Option<String>,
}

impl Statement for EvaluationRecord {
    const CONTEXT: &'static str = "l402t bounty evaluation v1";
}

/// The verdict on a submission, in one bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictRecord {
    /// Which submission.
    pub contribution: ContributionId,
    /// Its place in the order of the bounty's commitments, from 0.
    pub sequence: u32,
    /// Digest of the sealed [`EvaluationRecord`]; `None` where there was nothing to evaluate.
    pub evaluation: Option<Blake3Hash>,
    /// What follows.
    pub outcome: Outcome,
    /// Which of its tranches that pays: bit i for the i-th ([`super::offer::Offer::paid`]).
    pub tranches_paid: u32,
}

impl Statement for VerdictRecord {
    const CONTEXT: &'static str = "l402t bounty verdict v1";
}

/// A closed round of a bounty. Signed by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BountyTranscript {
    /// 1.
    pub version: u32,
    /// The bounty's run.
    pub run: RunId,
    /// Which round.
    pub round: RoundNumber,
    /// As it was opened.
    pub opening: Signed<RoundOpening>,
    /// In the order of commitments.
    pub contributions: Vec<ContributionRecord<VerdictRecord>>,
}

impl Statement for BountyTranscript {
    const CONTEXT: &'static str = "l402t bounty transcript v1";
}

/// The coordinator closes a bounty and opens what was sealed. Signed by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closing {
    /// Which bounty.
    pub bounty: BountyId,
    /// When.
    pub closed_ms: UnixMs,
    /// Digests of the bodies of its rounds' transcripts, in order.
    pub transcripts: Vec<Blake3Hash>,
    /// The blob of the held-out part.
    pub held_out: Blake3Hash,
    /// Opens the held-out commitment, together with the part itself.
    #[serde(with = "hex")]
    pub held_out_salt: [u8; 32],
    /// Of every submission whose diff was there, in the order of commitments.
    pub evaluations: Vec<EvaluationRecord>,
    /// Of the claims that were reached, in the same order; without those that the coordinator's machine could not score again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reruns: Vec<Rerun>,
}

/// A change that was paid for, scored once more as the bounty closed. Nothing hangs on it: it tells of a change that goes by the
/// clock, or by anything else that two runs at the same time don't show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rerun {
    /// Which submission.
    pub contribution: ContributionId,
    /// What it came to then; `None`: no score.
    pub score: Option<Score>,
}

impl Statement for Closing {
    const CONTEXT: &'static str = "l402t bounty closing v1";
}

/// What a sponsor may ask for once the bounty has been posted. Signed by the sponsor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SponsorRequest {
    /// Which bounty.
    pub bounty: BountyId,
    /// What.
    pub ask: SponsorAsk,
}

/// What a sponsor may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SponsorAsk {
    /// Take no more submissions: those that are under way are decided, then the bounty closes.
    Close,
    /// Pay back what was taken of the escrow and paid to nobody.
    PayBack {
        /// A BOLT 11 invoice for that, or for less where the way to the sponsor costs.
        invoice: String,
    },
}

impl Statement for SponsorRequest {
    const CONTEXT: &'static str = "l402t bounty sponsor request v1";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sign::IdentityKey;

    fn score(units: i64) -> Score {
        Score::from_units(units).expect("in range")
    }

    fn key(byte: u8) -> IdentityKey {
        IdentityKey::from_secret_bytes(&[byte; 32]).expect("a key")
    }

    fn rules() -> Rules {
        Rules {
            decimals: Decimals::new(4).expect("few"),
            direction: Direction::Higher,
            baseline: score(8_720),
            target: score(9_860),
            budget_msat: Msat::new(100_000_000),
            min_improvement: 50,
            noise_bound: 224,
            submission_cap: 100,
            fee_msat: Msat::new(1_000),
            deadline_ms: UnixMs(1_000),
        }
    }

    #[test]
    fn the_larger_of_step_and_noise_counts() {
        assert_eq!(rules().step(), 224);
        assert_eq!(Rules { min_improvement: 300, ..rules() }.step(), 300);
        assert_eq!(Rules { min_improvement: 0, noise_bound: 0, ..rules() }.step(), 1);
    }

    #[test]
    fn an_improvement_is_a_step_in_the_right_direction_only() {
        let lower = Rules { direction: Direction::Lower, ..rules() };
        for (rules, to, expected) in [
            (rules(), 9_224, true),
            (rules(), 9_223, false),
            (rules(), 8_000, false),
            (lower, 8_776, true),
            (lower, 8_777, false),
            (lower, 9_500, false),
        ] {
            assert_eq!(rules.is_step(score(9_000), score(to)), expected, "{to}");
        }
        assert_eq!(rules().least_improvement(), Some(score(224)));
        assert_eq!(Rules { noise_bound: u64::MAX, ..rules() }.least_improvement(), None);
    }

    #[test]
    fn only_the_deadline_may_be_earlier_than_what_is_allowed() {
        let with = |deadline_ms| Rules { deadline_ms: UnixMs(deadline_ms), ..rules() };
        assert!(rules().allow(&rules()) && rules().allow(&with(999)));
        assert!(!rules().allow(&with(1_001)));
        assert!(!rules().allow(&Rules { fee_msat: Msat::new(1_001), ..with(999) }));
    }

    #[test]
    fn rules_that_cannot_be_kept_are_refused() {
        assert!(rules().scale().is_ok());
        let wrong_way = Rules { direction: Direction::Lower, ..rules() };
        assert!(matches!(wrong_way.scale(), Err(RulesError::TargetNotBetter { .. })));
        let coarse = Rules { noise_bound: 1_141, ..rules() };
        assert_eq!(coarse.scale(), Err(RulesError::StepTooLarge { step: 1_141, span: 1_140 }));
        // 224 of 1,140 units: 5,089 msat are the least budget of which they are 1 sat.
        let poor = |msat| Rules { budget_msat: Msat::new(msat), ..rules() }.scale().map(drop);
        assert_eq!((poor(5_089), poor(5_090)), (Err(RulesError::StepPaysNothing { step: 224 }), Ok(())));
        for budget_msat in [Msat::ZERO, Msat::new(u64::MAX)] {
            assert_eq!(Rules { budget_msat, ..rules() }.scale(), Err(RulesError::Budget(budget_msat)));
        }
        for cap in [0, MOST_SUBMISSIONS + 1] {
            assert_eq!(Rules { submission_cap: cap, ..rules() }.scale(), Err(RulesError::SubmissionCap(cap)));
        }
    }

    #[test]
    fn the_same_score_under_another_seal_has_another_digest() {
        let record = |seal| EvaluationRecord {
            contribution: ContributionId::from_bytes([1; 32]),
            seal: Blake3Hash::from_bytes([seal; 32]),
            score: Some(score(9_000)),
            tree: None,
            tier: "rlimits".into(),
            fuel_meter: None,
        };
        assert_ne!(record(1).digest(), record(2).digest());
    }

    #[test]
    fn the_bytes_of_statements_stay_what_they_were() {
        let posting = Posting {
            sponsor: key(3).id(),
            coordinator: key(4).id(),
            title: "t".into(),
            rules: rules(),
            package: Blake3Hash::of(b"p"),
            baseline_tree: Blake3Hash::of(b"b"),
            held_out: [4; 32],
        };
        let json = String::from_utf8(crate::protocol::sign::canonical_json(&posting.rules)).expect("text");
        assert_eq!(
            json,
            r#"{"decimals":4,"direction":"higher","baseline":8720,"target":9860,"budget_msat":100000000,"min_improvement":50,"noise_bound":224,"submission_cap":100,"fee_msat":1000,"deadline_ms":1000}"#
        );
        assert_eq!(posting.digest().to_string()[..16], *"cc8ae7a28e092a4b");
    }
}
