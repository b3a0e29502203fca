//! What becomes of a submission, in words that never change: their snake_case names are what agents program against.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::protocol::amount::Msat;

/// Why a submission earned nothing. What the machine that evaluates is to blame for is none of these: it decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The diff was not revealed in time, or was withdrawn.
    NotRevealed,
    /// The diff may not be applied, or changes what it may not.
    RejectedStatic,
    /// The build failed.
    BuildFailed,
    /// What was built ended with an error or a signal.
    Crashed,
    /// Out of memory.
    MemoryLimit,
    /// Out of time.
    TimeLimit,
    /// More output than allowed.
    OutputLimit,
    /// Not one line of UTF-8 an item.
    MalformedOutput,
    /// Other answers in another box, or in another order.
    Nondeterministic,
    /// It knew labels that mean nothing.
    CanaryTripped,
    /// No better than the best so far by the bounty's step, or the same files as an earlier submission.
    NoImprovement,
    /// Scored less than it claimed.
    BelowClaim,
    /// The scorer failed, or its score is no number.
    ScorerFailed,
    /// The held-out part is not the one that the sponsor committed to.
    HeldoutMismatch,
    /// The sponsor's money was gone before the verdict.
    EscrowLost,
    /// The diff was here, but the reward came back, or was about to expire, before the verdict: nothing could be paid.
    LockLost,
}

/// Whose doing a rejection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Whoever submitted it: the fee is spent.
    Agent,
    /// Whoever posted the bounty: the agent gets its fee back.
    Sponsor,
}

/// What becomes of a submission's fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeeFate {
    /// It paid for the evaluation.
    Kept,
    /// There was no evaluation to pay for.
    Refunded,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Rejection; 16] = [
        Rejection::NotRevealed,
        Rejection::RejectedStatic,
        Rejection::BuildFailed,
        Rejection::Crashed,
        Rejection::MemoryLimit,
        Rejection::TimeLimit,
        Rejection::OutputLimit,
        Rejection::MalformedOutput,
        Rejection::Nondeterministic,
        Rejection::CanaryTripped,
        Rejection::NoImprovement,
        Rejection::BelowClaim,
        Rejection::ScorerFailed,
        Rejection::HeldoutMismatch,
        Rejection::EscrowLost,
        Rejection::LockLost,
    ];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Rejection::NotRevealed => "not_revealed",
            Rejection::RejectedStatic => "rejected_static",
            Rejection::BuildFailed => "build_failed",
            Rejection::Crashed => "crashed",
            Rejection::MemoryLimit => "memory_limit",
            Rejection::TimeLimit => "time_limit",
            Rejection::OutputLimit => "output_limit",
            Rejection::MalformedOutput => "malformed_output",
            Rejection::Nondeterministic => "nondeterministic",
            Rejection::CanaryTripped => "canary_tripped",
            Rejection::NoImprovement => "no_improvement",
            Rejection::BelowClaim => "below_claim",
            Rejection::ScorerFailed => "scorer_failed",
            Rejection::HeldoutMismatch => "heldout_mismatch",
            Rejection::EscrowLost => "escrow_lost",
            Rejection::LockLost => "lock_lost",
        }
    }

    /// Whose doing it is.
    pub const fn fault(self) -> Fault {
        match self {
            Rejection::NotRevealed
            | Rejection::RejectedStatic
            | Rejection::BuildFailed
            | Rejection::Crashed
            | Rejection::MemoryLimit
            | Rejection::TimeLimit
            | Rejection::OutputLimit
            | Rejection::MalformedOutput
            | Rejection::Nondeterministic
            | Rejection::CanaryTripped
            | Rejection::NoImprovement
            | Rejection::BelowClaim
            | Rejection::LockLost => Fault::Agent,
            Rejection::ScorerFailed | Rejection::HeldoutMismatch | Rejection::EscrowLost => Fault::Sponsor,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an agent is told: one bit, and where the answer is no, at which step. Never a score: exact scores of a few hundred
/// submissions are enough to fit the held-out part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", deny_unknown_fields)]
pub enum Outcome {
    /// The claim was reached.
    Reached {
        /// What it pays.
        reward_msat: Msat,
    },
    /// It wasn't.
    Rejected {
        /// Why.
        reason: Rejection,
    },
}

impl Outcome {
    /// What it pays.
    pub const fn reward(&self) -> Msat {
        match self {
            Outcome::Reached { reward_msat } => *reward_msat,
            Outcome::Rejected { .. } => Msat::ZERO,
        }
    }

    /// What becomes of the fee.
    pub const fn fee(&self) -> FeeFate {
        match self {
            Outcome::Reached { .. } => FeeFate::Kept,
            Outcome::Rejected { reason } => match reason.fault() {
                Fault::Agent => FeeFate::Kept,
                Fault::Sponsor => FeeFate::Refunded,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_on_the_wire() {
        for rejection in Rejection::ALL {
            let json = serde_json::to_string(&rejection).expect("a string");
            assert_eq!(json, format!("\"{rejection}\""));
            assert_eq!(serde_json::from_str::<Rejection>(&json).expect("read back"), rejection);
        }
    }

    #[test]
    fn an_agent_pays_for_its_own_faults_and_for_nobody_elses() {
        let fee = |reason| Outcome::Rejected { reason }.fee();
        let refunded: Vec<&str> = Rejection::ALL
            .into_iter()
            .filter(|reason| fee(*reason) == FeeFate::Refunded)
            .map(Rejection::name)
            .collect();
        assert_eq!(refunded, ["scorer_failed", "heldout_mismatch", "escrow_lost"]);
        assert_eq!(fee(Rejection::BuildFailed), FeeFate::Kept);
        assert_eq!(Outcome::Reached { reward_msat: Msat::new(5) }.fee(), FeeFate::Kept);
    }

    #[test]
    fn an_outcome_carries_no_score() {
        let json = |outcome| serde_json::to_string(&outcome).expect("JSON");
        assert_eq!(
            json(Outcome::Rejected { reason: Rejection::BelowClaim }),
            r#"{"outcome":"rejected","reason":"below_claim"}"#
        );
        assert_eq!(json(Outcome::Reached { reward_msat: Msat::new(9) }), r#"{"outcome":"reached","reward_msat":9}"#);
    }
}
