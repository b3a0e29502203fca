//! What a peer tells about itself as it goes: `l402t peer --json` prints these, one a line.
//!
//! Amounts are integers in msat, times integers in ms.

use std::sync::Arc;

use serde::Serialize;

use super::guard::Holding;
use crate::protocol::amount::Msat;
use crate::protocol::bounty;
use crate::protocol::ids::{Blake3Hash, ContributionId, PeerId, RoundNumber, RunId};
use crate::protocol::verdict::{Outcome, Score};

/// Something happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum PeerEvent {
    /// The coordinator knows this peer, and a channel can be used.
    Registered {
        /// The run.
        run: RunId,
        /// This peer.
        peer: PeerId,
        /// Its Lightning node.
        node_id: String,
        /// `regtest`, `signet`, `testnet`, `bitcoin`.
        network: String,
        /// From the registration until a channel could be used.
        channel_ms: u64,
        /// What can be sent.
        outbound_msat: Msat,
        /// What can be received.
        inbound_msat: Msat,
    },
    /// A blob is being downloaded.
    Download {
        /// `download the training data` …
        doing: &'static str,
        /// So far.
        bytes: u64,
        /// In all.
        total_bytes: u64,
    },
    /// Work on a round begins.
    RoundStarted {
        /// Which.
        round: RoundNumber,
        /// From where.
        checkpoint: Blake3Hash,
        /// Time left to commit.
        commit_in_ms: u64,
    },
    /// The round's checkpoint was made out of an earlier one instead of being downloaded.
    CaughtUp {
        /// Which round.
        round: RoundNumber,
        /// The round whose checkpoint was still here.
        from_round: RoundNumber,
        /// Aggregates that lead from there to here.
        aggregates: usize,
        /// Their length, all together.
        aggregate_bytes: u64,
        /// A checkpoint's length.
        checkpoint_bytes: u64,
    },
    /// An earlier checkpoint was here, but didn't lead to the round's: that is downloaded whole.
    NotCaughtUp {
        /// Which round.
        round: RoundNumber,
        /// Why.
        reason: String,
    },
    /// An inner step is done.
    Step {
        /// Of which round.
        round: RoundNumber,
        /// From 1.
        step: u32,
        /// Of how many.
        steps: u32,
        /// Mean training loss of the step, in nats a token.
        loss_nats: f64,
        /// Speed since the round's first step.
        tokens_per_s: u64,
    },
    /// The update is there.
    Trained {
        /// Which round.
        round: RoundNumber,
        /// How long training and compressing took.
        train_ms: u64,
        /// Encoded.
        payload_bytes: u64,
        /// The same in fp32.
        dense_bytes: u64,
    },
    /// The ticket is bought.
    Ticket {
        /// Which round.
        round: RoundNumber,
        /// The contribution.
        contribution: ContributionId,
        /// The fee.
        fee_msat: Msat,
        /// What its route took on top.
        routing_msat: Msat,
        /// Place in the order of commitments.
        sequence: u32,
        /// What will be locked.
        reward_max_msat: Msat,
        /// From the commitment to the ticket.
        ticket_ms: u64,
    },
    /// Every tranche is locked on this peer's own node.
    Locked {
        /// Which round.
        round: RoundNumber,
        /// How much.
        locked_msat: Msat,
        /// In how many tranches.
        tranches: u32,
        /// From the submission of the invoices.
        lock_ms: u64,
    },
    /// The coordinator has the payload.
    Uploaded {
        /// Which round.
        round: RoundNumber,
        /// Encoded.
        payload_bytes: u64,
        /// The same in fp32.
        dense_bytes: u64,
        /// How long it took.
        upload_ms: u64,
    },
    /// The receipt is here.
    Verdict {
        /// Which round.
        round: RoundNumber,
        /// The contribution.
        contribution: ContributionId,
        /// Accepted or not, and why.
        #[serde(flatten)]
        outcome: Outcome,
        /// What the update gained, in 2⁻³² nats over the held-out batch.
        gain: Option<Score>,
    },
    /// The receipt of a submission to a bounty is here.
    BountyVerdict {
        /// Which round of the bounty's run.
        round: RoundNumber,
        /// The submission.
        contribution: ContributionId,
        /// The claim was reached, or not, and why.
        #[serde(flatten)]
        outcome: bounty::verdict::Outcome,
    },
    /// Every tranche has ended.
    Settled {
        /// Which round.
        round: RoundNumber,
        /// What was received.
        reward_msat: Msat,
        /// What the receipt paid but could not be claimed in time.
        lost_msat: Msat,
        /// What the ticket cost, routing included.
        fee_msat: Msat,
        /// Per settled tranche, from the preimage to the money.
        settle_ms: Vec<u64>,
        /// How long training and compressing took.
        train_ms: u64,
        /// From the submission of the invoices to the locks.
        lock_ms: Option<u64>,
        /// From the start of work on the round; `None` after a restart.
        round_ms: Option<u64>,
    },
    /// A tranche was about to expire and had no preimage: it was given back.
    GivenBack {
        /// Which round.
        round: RoundNumber,
        /// The contribution.
        contribution: ContributionId,
        /// Place in the terms.
        tranche: u32,
        /// What was locked.
        amount_msat: Msat,
        /// At which height.
        height: u32,
        /// The height at which the node would have given it back by itself.
        expiry_height: Option<u32>,
    },
    /// This process does nothing else any more, but its node still holds tranches, and it guards them.
    Guarding(Holding),
    /// A round without a verdict on a contribution of this peer.
    RoundMissed {
        /// Which round.
        round: RoundNumber,
        /// Why.
        reason: String,
    },
    /// The coordinator can't be reached; the peer keeps trying.
    Waiting {
        /// What was tried.
        doing: &'static str,
        /// How it failed.
        reason: String,
        /// Until the peer gives up.
        left_ms: u64,
    },
    /// The end.
    Finished {
        /// What was done.
        #[serde(flatten)]
        summary: Summary,
        /// What can be sent now; `None` if the node doesn't say.
        outbound_msat: Option<Msat>,
    },
}

/// What a peer did since it was started, and what it ever earned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Contributions that came to a verdict.
    pub contributions: u32,
    /// Of these, paid.
    pub accepted: u32,
    /// Of these, not paid.
    pub rejected: u32,
    /// Rounds without a verdict.
    pub missed: u32,
    /// Rewards received since the start.
    pub reward_msat: Msat,
    /// Fees paid since the start, routing included.
    pub fee_msat: Msat,
    /// Rewards ever received.
    pub reward_ever_msat: Msat,
    /// Fees ever paid, routing included.
    pub fee_ever_msat: Msat,
    /// Contributions that still wait for their receipt or their money.
    pub unfinished: u32,
}

/// Where events go.
#[derive(Clone)]
pub struct EventSink(Arc<dyn Fn(&PeerEvent) + Send + Sync>);

impl EventSink {
    /// Calls `sink` for each event.
    pub fn new(sink: impl Fn(&PeerEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Tells of an event.
    pub fn emit(&self, event: &PeerEvent) {
        (self.0)(event);
    }
}

impl std::fmt::Debug for EventSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventSink")
    }
}
