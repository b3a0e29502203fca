//! Verdicts: what the judge found, as integers and hashes only.

use serde::{Deserialize, Serialize};

use super::amount::{Msat, Ppm};
use super::bounty;
use super::ids::{Blake3Hash, ContributionId};
use super::sign::Statement;

/// A summed cross-entropy, or a difference of two, in 2⁻³² nats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Score(pub i64);

/// Why a contribution earned nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason", deny_unknown_fields)]
pub enum Rejection {
    /// No payload arrived in time (or the reward could not be locked).
    NotUploaded,
    /// The payload is not a canonical sparse update for this model.
    Malformed {
        /// The decoder's stable error code.
        code: String,
    },
    /// The loss with the update is not a finite number.
    NotFinite,
    /// An earlier contribution of the round has (nearly) the same indices.
    Copy {
        /// The earliest such contribution.
        of: ContributionId,
        /// Shared indices ÷ its own index count.
        overlap_ppm: Ppm,
    },
    /// The update does not lower the held-out loss enough.
    GainTooSmall,
    /// The payload was here, but its reward came back, or was about to expire, before the verdict: nothing could be paid.
    LockLost,
}

/// Accepted or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", deny_unknown_fields)]
pub enum Outcome {
    /// Paid, and part of the outer step.
    Accepted {
        /// Its share of the round's pool, before rounding to whole tranches.
        share_ppm: Ppm,
        /// What it is paid: a sum of tranches.
        reward_msat: Msat,
        /// Which tranches: bit i for the i-th.
        tranches_paid: u32,
    },
    /// Unpaid, and left out.
    Rejected {
        /// Why.
        rejection: Rejection,
    },
}

/// One contribution's verdict. Its digest is in the receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictRecord {
    /// The contribution.
    pub contribution: ContributionId,
    /// The loss with the update applied; `None` where it was not scored.
    pub loss_after: Option<Score>,
    /// Loss before − loss after; `None` where it was not scored.
    pub gain: Option<Score>,
    /// BLAKE3 (`"l402t clip factors v1"`) over the clip factors' f32 bits, little-endian, one a tensor in layout order; `None` where it was not decoded.
    pub clip: Option<Blake3Hash>,
    /// What follows.
    pub outcome: Outcome,
}

impl Statement for VerdictRecord {
    const CONTEXT: &'static str = "l402t verdict v1";
}

/// A verdict on a contribution to a run of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Verdict {
    /// On a sparse update.
    Training(VerdictRecord),
    /// On a submission to a bounty.
    Bounty(bounty::statements::VerdictRecord),
}

impl Verdict {
    /// On which contribution.
    pub fn contribution(&self) -> ContributionId {
        match self {
            Verdict::Training(verdict) => verdict.contribution,
            Verdict::Bounty(verdict) => verdict.contribution,
        }
    }

    /// What receipts refer to.
    pub fn digest(&self) -> Blake3Hash {
        match self {
            Verdict::Training(verdict) => verdict.digest(),
            Verdict::Bounty(verdict) => verdict.digest(),
        }
    }

    /// Which tranches it pays: bit i for the i-th.
    pub fn tranches_paid(&self) -> u32 {
        match self {
            Verdict::Training(VerdictRecord { outcome: Outcome::Accepted { tranches_paid, .. }, .. }) => *tranches_paid,
            Verdict::Training(VerdictRecord { outcome: Outcome::Rejected { .. }, .. }) => 0,
            Verdict::Bounty(verdict) => verdict.tranches_paid,
        }
    }

    /// Does it give the fee back?
    pub fn returns_fee(&self) -> bool {
        match self {
            Verdict::Training(_) => false,
            Verdict::Bounty(verdict) => verdict.outcome.fee() == bounty::verdict::FeeFate::Refunded,
        }
    }

    /// What it says that it is worth.
    pub fn reward(&self) -> Msat {
        match self {
            Verdict::Training(VerdictRecord { outcome: Outcome::Accepted { reward_msat, .. }, .. }) => *reward_msat,
            Verdict::Training(VerdictRecord { outcome: Outcome::Rejected { .. }, .. }) => Msat::ZERO,
            Verdict::Bounty(verdict) => verdict.outcome.reward(),
        }
    }
}
