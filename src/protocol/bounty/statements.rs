//! What sponsor, agent and coordinator say to each other under their signatures in the course of a bounty.
//!
//! In order: posting, commitment, reveal, verdict and receipt of each submission, closing. Between commitment and closing
//! nobody but the coordinator sees a diff or a score; at the closing both are opened, and everything can be recomputed.

use serde::{Deserialize, Serialize};

use super::pay::{Direction, Scale};
use super::score::{Decimals, Score};
use super::verdict::Outcome;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, BountyId, PeerId, Preimage, SubmissionId, UnixMs};
use crate::protocol::sign::Statement;

const DIFF: &str = "l402t bounty diff v1";

/// Most submissions that a bounty may take: each answers one bit about the held-out part.
pub const MOST_SUBMISSIONS: u32 = 100_000;

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
        if !(1..=MOST_SUBMISSIONS).contains(&self.submission_cap) {
            return Err(RulesError::SubmissionCap(self.submission_cap));
        }
        Ok(scale)
    }

    /// The smallest improvement over the best so far that is paid, in units: at least one.
    pub fn step(&self) -> u64 {
        self.min_improvement.max(self.noise_bound).max(1)
    }
}

/// A sponsor posts a bounty. Signed by `sponsor`; its digest is the bounty's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Posting {
    /// Who pays.
    pub sponsor: PeerId,
    /// For people.
    pub title: String,
    /// In numbers.
    pub rules: Rules,
    /// Digest of the sponsor's bounty.toml, byte for byte.
    pub manifest: Blake3Hash,
    /// Digest of the tree that agents start from.
    pub baseline_tree: Blake3Hash,
    /// Digest of the public part and the scorer.
    pub public: Blake3Hash,
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

/// An agent commits to a diff and to what it scores, before anyone can see it. Signed by `agent`; its digest is the
/// submission's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// To which bounty.
    pub bounty: BountyId,
    /// Who commits.
    pub agent: PeerId,
    /// [`diff_commitment`].
    pub diff: Blake3Hash,
    /// The diff's length in bytes.
    pub diff_bytes: u64,
    /// What it scores at least: fixes what it is paid, and pays nothing where it is too much.
    pub claim: Score,
}

impl Statement for Commitment {
    const CONTEXT: &'static str = "l402t bounty commitment v1";
}

impl Commitment {
    /// The submission's id.
    pub fn submission_id(&self) -> SubmissionId {
        SubmissionId::from_bytes(*self.digest().as_bytes())
    }

    /// Does this diff open it?
    pub fn opens(&self, nonce: &[u8; 32], diff: &[u8]) -> bool {
        self.diff_bytes == diff.len() as u64 && self.diff == diff_commitment(&self.agent, nonce, diff)
    }
}

/// What commits to a diff: hides it behind 32 random bytes, and binds it to its author, so that nobody can send in another's
/// commitment as his own.
pub fn diff_commitment(agent: &PeerId, nonce: &[u8; 32], diff: &[u8]) -> Blake3Hash {
    Blake3Hash::derive(DIFF, &[agent.as_bytes().as_slice(), nonce, diff].concat())
}

/// The agent opens its commitment to the coordinator; the diff itself travels as a blob. Signed by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reveal {
    /// Which submission.
    pub submission: SubmissionId,
    /// The commitment's random bytes.
    #[serde(with = "hex")]
    pub nonce: [u8; 32],
    /// BLAKE3 of the diff.
    pub diff: Blake3Hash,
}

impl Statement for Reveal {
    const CONTEXT: &'static str = "l402t bounty reveal v1";
}

/// What an evaluation measured. Sealed until the bounty closes; the verdict holds its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecord {
    /// Which submission.
    pub submission: SubmissionId,
    /// Random: without it the digest in the verdict would tell the score to whoever tries them all.
    pub seal: Blake3Hash,
    /// The verified score; `None` where it came to none.
    pub score: Option<Score>,
    /// Digest of the changed tree; `None` where the diff didn't apply.
    pub tree: Option<Blake3Hash>,
    /// How strong the boxes were.
    pub tier: String,
}

impl Statement for EvaluationRecord {
    const CONTEXT: &'static str = "l402t bounty evaluation v1";
}

/// The verdict on a submission, in one bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictRecord {
    /// Which submission.
    pub submission: SubmissionId,
    /// Its place in the order of commitments, from 0.
    pub sequence: u32,
    /// Digest of the sealed [`EvaluationRecord`].
    pub evaluation: Blake3Hash,
    /// What follows.
    pub outcome: Outcome,
}

impl Statement for VerdictRecord {
    const CONTEXT: &'static str = "l402t bounty verdict v1";
}

/// The coordinator's final word on a submission. Signed by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Its verdict.
    pub verdict: VerdictRecord,
    /// One entry a tranche, in the terms' order: the preimage where the tranche was earned; the agent cancels the others.
    pub preimages: Vec<Option<Preimage>>,
}

impl Statement for Receipt {
    const CONTEXT: &'static str = "l402t bounty receipt v1";
}

/// The coordinator closes a bounty and opens what was sealed. Signed by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closing {
    /// Which bounty.
    pub bounty: BountyId,
    /// Opens the held-out commitment, together with the part itself.
    #[serde(with = "hex")]
    pub held_out_salt: [u8; 32],
    /// The submissions in the order of commitments.
    pub evaluations: Vec<EvaluationRecord>,
}

impl Statement for Closing {
    const CONTEXT: &'static str = "l402t bounty closing v1";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::bounty::verdict::Rejection;
    use crate::protocol::sign::{IdentityKey, Signed};

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

    fn commitment(agent: &IdentityKey, diff: &[u8]) -> Commitment {
        Commitment {
            bounty: BountyId::from_bytes([1; 32]),
            agent: agent.id(),
            diff: diff_commitment(&agent.id(), &[9; 32], diff),
            diff_bytes: diff.len() as u64,
            claim: score(9_000),
        }
    }

    #[test]
    fn the_larger_of_step_and_noise_counts() {
        assert_eq!(rules().step(), 224);
        assert_eq!(Rules { min_improvement: 300, ..rules() }.step(), 300);
        assert_eq!(Rules { min_improvement: 0, noise_bound: 0, ..rules() }.step(), 1);
    }

    #[test]
    fn rules_that_cannot_be_kept_are_refused() {
        assert!(rules().scale().is_ok());
        let wrong_way = Rules { direction: Direction::Lower, ..rules() };
        assert!(matches!(wrong_way.scale(), Err(RulesError::TargetNotBetter { .. })));
        let coarse = Rules { noise_bound: 1_141, ..rules() };
        assert_eq!(coarse.scale(), Err(RulesError::StepTooLarge { step: 1_141, span: 1_140 }));
        for budget_msat in [Msat::ZERO, Msat::new(u64::MAX)] {
            assert_eq!(Rules { budget_msat, ..rules() }.scale(), Err(RulesError::Budget(budget_msat)));
        }
        for cap in [0, MOST_SUBMISSIONS + 1] {
            assert_eq!(Rules { submission_cap: cap, ..rules() }.scale(), Err(RulesError::SubmissionCap(cap)));
        }
    }

    #[test]
    fn a_commitment_opens_to_its_own_diff_nonce_and_author_only() {
        let made = commitment(&key(1), b"diff");
        assert!(made.opens(&[9; 32], b"diff"));
        assert!(!made.opens(&[9; 32], b"Diff"));
        assert!(!made.opens(&[8; 32], b"diff"));
        let stolen = Commitment { agent: key(2).id(), ..made.clone() };
        assert!(!stolen.opens(&[9; 32], b"diff"));
        assert!(!Commitment { diff_bytes: 5, ..made }.opens(&[9; 32], b"diff"));
    }

    #[test]
    fn another_claim_is_another_submission() {
        let made = commitment(&key(1), b"diff");
        let bolder = Commitment { claim: score(9_001), ..made.clone() };
        assert_ne!(made.submission_id(), bolder.submission_id());
    }

    #[test]
    fn the_same_score_under_another_seal_has_another_digest() {
        let record = |seal| EvaluationRecord {
            submission: SubmissionId::from_bytes([1; 32]),
            seal: Blake3Hash::from_bytes([seal; 32]),
            score: Some(score(9_000)),
            tree: None,
            tier: "rlimits".into(),
        };
        assert_ne!(record(1).digest(), record(2).digest());
    }

    #[test]
    fn a_receipt_is_signed_and_read_back_as_it_was() {
        let verdict = VerdictRecord {
            submission: commitment(&key(1), b"diff").submission_id(),
            sequence: 3,
            evaluation: Blake3Hash::of(b"sealed"),
            outcome: Outcome::Rejected { reason: Rejection::BelowClaim },
        };
        let signed = key(7).sign(Receipt { verdict, preimages: vec![None, Some(Preimage::from_bytes([1; 32]))] });
        let read = Signed::<Receipt>::from_bytes(&signed.to_bytes()).expect("canonical");
        assert_eq!(read, signed);
        assert!(read.verify(&key(7).id()).is_ok());
        assert!(read.verify(&key(1).id()).is_err());
    }

    #[test]
    fn the_bytes_of_statements_stay_what_they_were() {
        let posting = Posting {
            sponsor: key(3).id(),
            title: "t".into(),
            rules: rules(),
            manifest: Blake3Hash::of(b"m"),
            baseline_tree: Blake3Hash::of(b"b"),
            public: Blake3Hash::of(b"p"),
            held_out: [4; 32],
        };
        let json = String::from_utf8(crate::protocol::sign::canonical_json(&posting.rules)).expect("text");
        assert_eq!(
            json,
            r#"{"decimals":4,"direction":"higher","baseline":8720,"target":9860,"budget_msat":100000000,"min_improvement":50,"noise_bound":224,"submission_cap":100,"fee_msat":1000,"deadline_ms":1000}"#
        );
        let pinned = |digest: Blake3Hash| digest.to_string()[..16].to_owned();
        let digests =
            [posting.digest(), commitment(&key(1), b"diff").digest(), diff_commitment(&key(1).id(), &[9; 32], b"diff")];
        assert_eq!(digests.map(pinned), ["b6284b5b186c9173", "21eb0fb6d5cf4a60", "607ff0c1da49d59a"]);
    }
}
