//! What the status page shows: one object, from what is stored.

use serde::Serialize;

use super::core::Core;
use super::error::CoordinatorError;
use crate::protocol::amount::Msat;
use crate::protocol::api::{ContributionState, LightningView, Phase};
use crate::protocol::bounty;
use crate::protocol::ids::{Blake3Hash, ContributionId, PeerId, RoundNumber, RunId, UnixMs};
use crate::protocol::manifest::RunManifest;
use crate::protocol::round::{Round, TrancheState};
use crate::protocol::verdict::{Outcome, Rejection, Score, Verdict};
use crate::store::coordinator::{self as tables, ContributionRow, RoundRow};
use crate::store::ledger::{self, Totals};

/// Most rounds shown: the newest.
const MAX_ROUNDS: u32 = 200;

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The run.
    pub run: RunId,
    /// For people.
    pub name: String,
    /// The coordinator's clock.
    pub now_ms: UnixMs,
    /// The coordinator's node.
    pub lightning: LightningView,
    /// The round that isn't closed.
    pub current_round: Option<RoundNumber>,
    /// Registered peers.
    pub peers: u32,
    /// Tokens that every round's losses are summed over.
    pub predicted_tokens: u64,
    /// The books.
    pub ledger: Totals,
    /// Oldest first.
    pub rounds: Vec<RoundStatus>,
}

/// A round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundStatus {
    /// Which.
    pub round: RoundNumber,
    /// Where it stands.
    pub phase: Phase,
    /// When it opened.
    pub opened_ms: UnixMs,
    /// When its receipts came out.
    pub closed_ms: Option<UnixMs>,
    /// Summed over the held-out batch, in 2⁻³² nats.
    pub loss_before: Option<Score>,
    /// Summed over the held-out batch, in 2⁻³² nats.
    pub loss_after: Option<Score>,
    /// Digest of the transcript's body.
    pub transcript: Option<Blake3Hash>,
    /// In the order of commitments.
    pub contributions: Vec<ContributionStatus>,
}

/// A contribution.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContributionStatus {
    /// Which.
    pub contribution: ContributionId,
    /// Whose.
    pub peer: PeerId,
    /// Where it stands.
    pub state: ContributionState,
    /// Its committed length.
    pub payload_bytes: u64,
    /// `accepted` or `rejected`, once judged.
    pub outcome: Option<&'static str>,
    /// Why it was rejected: `not_uploaded`, `malformed`, `not_finite`, `copy`, `gain_too_small`, `lock_lost`.
    pub reason: Option<&'static str>,
    /// Loss before − loss after, in 2⁻³² nats, where it was scored.
    pub gain: Option<Score>,
    /// What it earned.
    pub reward_msat: Msat,
    /// What of it has been claimed so far.
    pub settled_msat: Msat,
    /// From its invoices to the last lock.
    pub lock_ms: Option<u64>,
    /// From the receipt to the claim, one entry a claimed tranche.
    pub settle_ms: Vec<u64>,
}

/// Tokens that a round's losses are summed over.
pub fn predicted_tokens(manifest: &RunManifest) -> u64 {
    let held_out = &manifest.held_out;
    u64::from(held_out.windows_per_round) * u64::from(held_out.window_tokens.saturating_sub(1))
}

fn reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::NotUploaded => "not_uploaded",
        Rejection::Malformed { .. } => "malformed",
        Rejection::NotFinite => "not_finite",
        Rejection::Copy { .. } => "copy",
        Rejection::GainTooSmall => "gain_too_small",
        Rejection::LockLost => "lock_lost",
    }
}

/// A verdict in a word, and why where it pays nothing.
fn outcome(verdict: &Verdict) -> (&'static str, Option<&'static str>) {
    match verdict {
        Verdict::Training(verdict) => match &verdict.outcome {
            Outcome::Accepted { .. } => ("accepted", None),
            Outcome::Rejected { rejection } => ("rejected", Some(reason(rejection))),
        },
        Verdict::Bounty(verdict) => match verdict.outcome {
            bounty::verdict::Outcome::Reached { .. } => ("accepted", None),
            bounty::verdict::Outcome::Rejected { reason } => ("rejected", Some(reason.name())),
        },
    }
}

/// A round's contributions.
pub(super) fn contributions(round: &Round, documents: &[ContributionRow]) -> Vec<ContributionStatus> {
    let since = |from: Option<UnixMs>, to: Option<UnixMs>| Some(to?.0.saturating_sub(from?.0));
    let entries = round.contributions.iter().zip(documents);
    entries
        .map(|(entry, documents)| {
            let (outcome, reason) = documents.verdict.as_ref().map(outcome).unzip();
            let gain = match &documents.verdict {
                Some(Verdict::Training(verdict)) => verdict.gain,
                Some(Verdict::Bounty(_)) | None => None,
            };
            let settled = || {
                entry
                    .tranches
                    .iter()
                    .zip(&documents.terms.body.tranches)
                    .filter(|(t, _)| t.state == TrancheState::Settled)
            };
            ContributionStatus {
                contribution: entry.id,
                peer: entry.peer,
                state: entry.api_state(),
                payload_bytes: entry.payload_bytes,
                outcome,
                reason: reason.flatten(),
                gain,
                reward_msat: documents.verdict.as_ref().map_or(Msat::ZERO, Verdict::reward),
                settled_msat: Msat::checked_sum(settled().map(|(_, terms)| terms.amount_msat)).unwrap_or(Msat::ZERO),
                lock_ms: since(entry.invoices_ms, entry.locked_ms),
                settle_ms: settled().filter_map(|(t, _)| since(round.closed_ms, t.ended_ms)).collect(),
            }
        })
        .collect()
}

impl Core {
    fn round_status(&self, row: RoundRow) -> Result<RoundStatus, CoordinatorError> {
        let documents = tables::contributions(self.db.read(), row.state.number)?;
        Ok(RoundStatus {
            round: row.state.number,
            phase: row.state.phase,
            opened_ms: row.state.opened_ms,
            closed_ms: row.state.closed_ms,
            loss_before: row.losses.map(|(before, _)| before),
            loss_after: row.losses.map(|(_, after)| after),
            transcript: row.transcript,
            contributions: contributions(&row.state, &documents),
        })
    }

    pub(super) fn status(&mut self, lightning: LightningView) -> Result<Status, CoordinatorError> {
        let rows = tables::newest_rounds(self.db.read(), MAX_ROUNDS)?;
        let manifest = self.run.training().map(|training| &training.manifest.body);
        Ok(Status {
            run: self.run.id,
            name: manifest.map_or_else(String::new, |manifest| manifest.name.clone()),
            now_ms: self.clock.now(),
            lightning,
            current_round: self.open_round().map(|round| round.number),
            peers: tables::count_peers(self.db.read())?,
            predicted_tokens: manifest.map_or(0, predicted_tokens),
            ledger: ledger::totals(self.db.read(), None)?,
            rounds: rows.into_iter().map(|row| self.round_status(row)).collect::<Result<_, _>>()?,
        })
    }
}
