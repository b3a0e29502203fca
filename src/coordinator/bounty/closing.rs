//! The end of a bounty: what was sealed is opened.

use super::super::core::Core;
use super::super::error::CoordinatorError;
use crate::protocol::amount::Msat;
use crate::protocol::api::BountyPhase;
use crate::protocol::bounty::offer::fee_tranche;
use crate::protocol::bounty::statements::Closing;
use crate::protocol::ids::Blake3Hash;
use crate::protocol::round::{Contribution, TrancheState};
use crate::store::StoreError;
use crate::store::blobs::write_synced;
use crate::store::coordinator as tables;

/// The signed closing, in the data folder.
pub const CLOSING_FILE: &str = "closing.json";
/// Largest held-out part.
const MAX_HELD_OUT_BYTES: u64 = crate::bounty::package::MOST_BYTES;

impl Core {
    /// Publishes the held-out part, every diff and every score. Files and blobs are there before the transaction that lets
    /// anyone see them.
    pub(super) fn open_seals(&mut self) -> Result<(), CoordinatorError> {
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
        let held_out: Blake3Hash = self.blobs.put(&bytes)?;
        let closing = run.key.sign(Closing {
            bounty: task.posting().bounty_id(),
            closed_ms: self.clock.now(),
            transcripts,
            held_out,
            held_out_salt: task.salt,
            evaluations,
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
                tables::publish(t, &held_out)?;
                payloads.iter().try_for_each(|payload| tables::publish(t, payload))
            },
        )
    }
}

/// What a submission's author has claimed of its reward.
fn claimed_rewards(entry: &Contribution, fee: Msat) -> impl Iterator<Item = Msat> {
    let rewards = entry.tranches.iter().skip(usize::from(fee_tranche(fee).is_some()));
    rewards.filter(|tranche| tranche.state == TrancheState::Settled).map(|tranche| tranche.amount_msat)
}
