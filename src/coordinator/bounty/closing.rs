//! The end of a bounty: what was sealed is opened.

use super::super::core::Core;
use super::super::engine::Coordinator;
use super::super::error::CoordinatorError;
use super::super::judging::Bench;
use crate::bounty::judge::score_again;
use crate::offload::Task;
use crate::protocol::amount::Msat;
use crate::protocol::api::BountyPhase;
use crate::protocol::bounty::offer::fee_tranche;
use crate::protocol::bounty::statements::{Closing, Rerun};
use crate::protocol::bounty::verdict::Outcome;
use crate::protocol::ids::{Blake3Hash, ContributionId};
use crate::protocol::round::{Contribution, TrancheState};
use crate::protocol::verdict::Verdict;
use crate::store::StoreError;
use crate::store::blobs::write_synced;
use crate::store::coordinator as tables;

/// The signed closing, in the data folder.
pub const CLOSING_FILE: &str = "closing.json";
/// Largest held-out part.
const MAX_HELD_OUT_BYTES: u64 = crate::bounty::package::MOST_BYTES;

impl Core {
    /// The claims that were reached, in the order of their commitments, with what was submitted.
    pub(super) fn reached(&mut self) -> Result<Vec<(ContributionId, Vec<u8>)>, CoordinatorError> {
        let mut reached = Vec::new();
        for round in tables::rounds(self.db.read())? {
            for row in tables::contributions(self.db.read(), round.state.number)? {
                let Some(Verdict::Bounty(verdict)) = &row.verdict else { continue };
                if let Outcome::Reached { .. } = verdict.outcome {
                    let bytes = self.blobs.get(&row.commitment.body.payload, self.run.max_payload_bytes)?;
                    reached.push((verdict.contribution, bytes));
                }
            }
        }
        Ok(reached)
    }

    /// Publishes the package, the held-out part, every diff and every score. Files and blobs are there before the transaction
    /// that lets anyone see them.
    pub(super) fn open_seals(&mut self, reruns: Vec<Rerun>) -> Result<(), CoordinatorError> {
        let run = std::sync::Arc::clone(&self.run);
        let task = run.bounty_task()?;
        let (mut evaluations, mut payloads, mut transcripts) = (Vec::new(), Vec::new(), Vec::new());
        let mut claimed = Vec::new();
        for round in tables::rounds(self.db.read())? {
            claimed.extend(round.state.contributions.iter().flat_map(|entry| claimed_rewards(entry, run.fee)));
            transcripts.push(round.transcript.ok_or(StoreError::Corrupt { what: "round" })?);
            for row in tables::contributions(self.db.read(), round.state.number)? {
                if let Some(evaluation) = tables::evaluation(self.db.read(), &row.commitment.body.contribution_id())? {
                    evaluations.push(evaluation);
                    payloads.push(row.commitment.body.payload);
                }
            }
        }
        let bytes = self.private.get(&task.held_out, MAX_HELD_OUT_BYTES)?;
        let package = task.posting().package;
        let held_out: Blake3Hash = self.blobs.put(&bytes)?;
        let closing = run.key.sign(Closing {
            bounty: task.posting().bounty_id(),
            closed_ms: self.clock.now(),
            transcripts,
            held_out,
            held_out_salt: task.salt,
            evaluations,
            reruns,
        });
        let claimed = Msat::checked_sum(claimed).ok_or(StoreError::Corrupt { what: "round" })?;
        let path = self.folder().join(CLOSING_FILE);
        write_synced(&path, &path.with_extension("part"), &closing.to_bytes())?;
        self.change_escrow(
            "closed",
            |escrow| {
                escrow.phase = BountyPhase::Closed;
                escrow.claimed_msat = Some(claimed);
            },
            |t, _| {
                tables::publish(t, &package)?;
                tables::publish(t, &held_out)?;
                payloads.iter().try_for_each(|payload| tables::publish(t, payload))
            },
        )
    }
}

impl Coordinator {
    /// Scores what was paid for once more, hours or days later; `None` while that takes its time. After a crash it begins anew.
    pub(super) async fn run_again(&mut self) -> Result<Option<Vec<Rerun>>, CoordinatorError> {
        let Bench::Bounty(evaluator) = &self.bench else { return Err(CoordinatorError::NoBounty) };
        let work = match self.funding.reruns.take() {
            Some(work) => work,
            None => {
                let task = self.shared.run.bounty_task()?;
                let (bounty, exam, evaluator) = (task.bounty.clone(), task.exam.clone(), evaluator.clone());
                let reached = self.shared.with(Core::reached).await?;
                Task::start(move || {
                    let again = |(contribution, bytes): &(ContributionId, Vec<u8>)| {
                        let score = score_again((&bounty, &exam), bytes, &*evaluator);
                        // Nobody's money waits for this machine to be mended.
                        let failed = |error: &_| tracing::error!(%contribution, %error, "could not be scored again");
                        Some(Rerun { contribution: *contribution, score: score.inspect_err(failed).ok()? })
                    };
                    reached.iter().filter_map(again).collect()
                })
            }
        };
        if work.is_finished() {
            return Ok(Some(work.join().await.map_err(|_| CoordinatorError::Panicked)?));
        }
        self.funding.reruns = Some(work);
        Ok(None)
    }
}

/// What a submission's author has claimed of its reward.
fn claimed_rewards(entry: &Contribution, fee: Msat) -> impl Iterator<Item = Msat> {
    let rewards = entry.tranches.iter().skip(usize::from(fee_tranche(fee).is_some()));
    rewards.filter(|tranche| tranche.state == TrancheState::Settled).map(|tranche| tranche.amount_msat)
}
