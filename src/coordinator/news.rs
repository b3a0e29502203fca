//! What a coordinator tells as it goes: `l402t coordinate --json` prints these, one a line.

use serde::Serialize;

use super::status::ContributionStatus;
use crate::protocol::ids::{Blake3Hash, BountyId, RoundNumber, UnixMs};
use crate::protocol::verdict::Score;

/// Something that people want to hear of.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum RunEvent {
    /// A round is open.
    RoundOpened {
        /// Which.
        round: RoundNumber,
        /// What it starts from.
        checkpoint: Blake3Hash,
        /// When.
        opened_ms: UnixMs,
        /// Until when tickets are sold.
        commit_deadline_ms: UnixMs,
        /// Until when payloads are taken.
        upload_deadline_ms: UnixMs,
    },
    /// The judge is at work.
    RoundJudging {
        /// Which.
        round: RoundNumber,
        /// Payloads to judge.
        uploads: u32,
    },
    /// A round's transcript is out.
    RoundClosed {
        /// Which.
        round: RoundNumber,
        /// Summed over the held-out batch.
        loss_before: Score,
        /// Summed over the held-out batch.
        loss_after: Score,
        /// Tokens that the losses are summed over.
        predicted_tokens: u64,
        /// When.
        closed_ms: UnixMs,
        /// Digest of its body.
        transcript: Blake3Hash,
        /// The next round's.
        next_checkpoint: Blake3Hash,
        /// In the order of commitments.
        contributions: Vec<ContributionStatus>,
    },
    /// Nothing can be stored: the disk is full. Tried again for so long before the coordinator ends.
    DiskFull {
        /// Which disk, and what to do.
        problem: String,
        /// Time to free some space in.
        left_ms: u64,
    },
    /// What could not be stored is stored: there is space again.
    DiskFreed,
    /// A round of submissions has its verdicts.
    SubmissionsJudged {
        /// Which.
        round: RoundNumber,
        /// When.
        closed_ms: UnixMs,
        /// In the order of commitments.
        contributions: Vec<ContributionStatus>,
    },
    /// A bounty's budget is locked and its baseline measured: it takes submissions.
    BountyOpened {
        /// Which.
        bounty: BountyId,
    },
    /// No round is left, and no money is locked.
    RunFinished {
        /// Rounds closed.
        rounds: u32,
    },
}
