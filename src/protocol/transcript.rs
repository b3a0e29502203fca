//! A round's transcript: all that an auditor needs, besides the blobs it names, to recompute the round.

use serde::{Deserialize, Serialize};

use super::ids::{Blake3Hash, RoundNumber, RunId};
use super::sign::{Signed, Statement};
use super::statements::{Commitment, InvoiceSubmission, Receipt, RewardTerms, RoundOpening};
use super::verdict::{Score, VerdictRecord};

/// One held-out window, revealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevealedWindow {
    /// Its place in the pool.
    pub index: u32,
    /// Keeps the leaf from being guessed from public text.
    pub salt: Blake3Hash,
    /// Its tokens, each u32 little-endian, as one hex string.
    pub tokens_hex: String,
    /// Merkle path from the leaf to the root, leaf's sibling first.
    pub proof: Vec<Blake3Hash>,
}

/// One contribution from commitment to receipt, with its run's kind of verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContributionRecord<V = VerdictRecord> {
    /// By the peer.
    pub commitment: Signed<Commitment>,
    /// By the coordinator.
    pub terms: Signed<RewardTerms>,
    /// By the peer; `None` if it never accepted the terms.
    pub invoices: Option<Signed<InvoiceSubmission>>,
    /// Did the payload arrive in time, with the reward locked?
    pub uploaded: bool,
    /// The judge's.
    pub verdict: V,
    /// By the coordinator.
    pub receipt: Signed<Receipt>,
}

/// A closed round. Signed by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// 1.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// Which round.
    pub round: RoundNumber,
    /// As it was opened.
    pub opening: Signed<RoundOpening>,
    /// The secret committed to in the opening.
    pub secret: Blake3Hash,
    /// In the order of commitments.
    pub contributions: Vec<ContributionRecord>,
    /// The held-out batch, in the order in which it was drawn.
    pub held_out: Vec<RevealedWindow>,
    /// The loss of the round's checkpoint on it.
    pub loss_before: Score,
    /// The loss of the next checkpoint on it.
    pub loss_after: Score,
    /// The next round's checkpoint (blob).
    pub next_checkpoint: Blake3Hash,
}

impl Statement for Transcript {
    const CONTEXT: &'static str = "l402t transcript v1";
}
