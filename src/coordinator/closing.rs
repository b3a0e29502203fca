//! The end of a round: the held-out draw, the judge's request, and the transaction that makes the verdicts final.

use std::sync::Arc;

use super::core::Core;
use super::error::CoordinatorError;
use super::judging::{self, Due, JudgeRequest, Judgement};
use super::run::{RunTask, Training};
use crate::protocol::held_out;
use crate::protocol::ids::{Blake3Hash, ContributionId, RoundNumber};
use crate::protocol::round::{self, Event, Lapse, Progress};
use crate::protocol::sign::{Signed, Statement};
use crate::protocol::statements::Receipt;
use crate::protocol::transcript::{ContributionRecord, Transcript};
use crate::protocol::verdict::{Outcome, Rejection, Verdict};
use crate::store::StoreError;
use crate::store::blobs::write_synced;
use crate::store::coordinator::{self as tables, RoundRow};

/// Largest checkpoint that is read into memory.
const MAX_CHECKPOINT_BYTES: u64 = 64 << 30;

impl Core {
    pub(super) fn row(&self, number: RoundNumber) -> Result<RoundRow, CoordinatorError> {
        Ok(self.round_row(number)?.ok_or(StoreError::Corrupt { what: "round" })?)
    }

    /// The places of the round's held-out windows: fixed by the secret and every commitment.
    fn draw(&self, training: &Training, row: &RoundRow) -> Vec<u32> {
        let ids: Vec<ContributionId> = row.state.contributions.iter().map(|c| c.id).collect();
        let params = &training.manifest.body.held_out;
        held_out::draw(params, &self.run.id, row.state.number, &row.secret, &ids)
    }

    /// Everything that decides a round. The same after a crash.
    pub(super) fn due(&mut self, number: RoundNumber) -> Result<Due, CoordinatorError> {
        let run = Arc::clone(&self.run);
        Ok(match &run.task {
            RunTask::Training(training) => Due::Training(Box::new(self.judge_request(training, number)?)),
            RunTask::Bounty(bounty) => Due::Bounty(Box::new(self.bounty_request(bounty, number)?)),
        })
    }

    fn judge_request(&mut self, training: &Training, number: RoundNumber) -> Result<JudgeRequest, CoordinatorError> {
        let row = self.row(number)?;
        let window = |index| training.pool.tokens(index).cloned().ok_or(StoreError::Corrupt { what: "held-out pool" });
        let mut submissions = Vec::with_capacity(row.state.contributions.len());
        for (entry, documents) in row.state.contributions.iter().zip(tables::contributions(self.db.read(), number)?) {
            let payload = match entry.uploaded_ms {
                Some(_) => Some(self.blobs.get(&documents.commitment.body.payload, self.run.max_payload_bytes)?),
                None => None,
            };
            submissions.push((entry.id, payload));
        }
        Ok(JudgeRequest {
            manifest: Arc::new(training.manifest.body.clone()),
            model_config: Arc::clone(&training.model_config),
            start: self.blobs.get(&row.opening.body.checkpoint, MAX_CHECKPOINT_BYTES)?,
            held_out: self.draw(training, &row).into_iter().map(window).collect::<Result<_, _>>()?,
            submissions,
        })
    }

    /// Is the request still what decides the round? A payload counts no more once its lock is lost.
    fn is_current(row: &RoundRow, request: &JudgeRequest) -> bool {
        let counted = row.state.contributions.iter().map(|entry| (entry.id, entry.uploaded_ms.is_some()));
        counted.eq(request.submissions.iter().map(|(id, payload)| (*id, payload.is_some())))
    }

    /// The final word on a contribution, with the preimages that it earned.
    pub(super) fn receipt(
        &self,
        number: RoundNumber,
        entry: &round::Contribution,
        verdict: Blake3Hash,
        tranches_paid: u32,
    ) -> Signed<Receipt> {
        let run = &self.run;
        let preimage = |tranche: u32| {
            let earned = tranches_paid >> tranche & 1 == 1;
            earned.then(|| run.secret.preimage(&run.id, number, &entry.id, tranche))
        };
        let preimages = (0..entry.tranches.len() as u32).map(preimage).collect();
        run.key.sign(Receipt { contribution: entry.id, verdict, preimages })
    }

    /// Keeps a round's aggregate, if there is one. No money waits for it: without it peers download a whole checkpoint.
    fn keep_aggregate(&self, number: RoundNumber, judgement: &Judgement) {
        let put = judgement.aggregate.as_ref().map_or(Ok(()), |aggregate| self.aggregates.put(number, aggregate));
        if let Err(error) = put.and_then(|()| self.aggregates.tidy(judgement.next_checkpoint.len() as u64)) {
            tracing::warn!(round = %number, %error, "could not keep the aggregate: peers will download the checkpoint");
        }
    }

    /// Makes the verdicts final: receipts with the earned preimages, transcript, next checkpoint. Blobs, transcript and aggregate
    /// are on disk before the transaction that refers to them, and the receipts can't be seen before it. False if a payload
    /// that was judged doesn't count any more: nothing is changed.
    pub(super) fn close(
        &mut self,
        number: RoundNumber,
        request: &JudgeRequest,
        judgement: &Judgement,
    ) -> Result<bool, CoordinatorError> {
        let doubt = |problem| CoordinatorError::Judge { round: number.0, problem };
        let tranches_paid = judging::check(request, judgement).map_err(doubt)?;
        let row = self.row(number)?;
        if !Self::is_current(&row, request) {
            return Ok(false);
        }
        let run = Arc::clone(&self.run);
        let training = run.training().ok_or(CoordinatorError::Panicked)?;
        let next_checkpoint = self.blobs.put(&judgement.next_checkpoint)?;

        let mut contributions = Vec::with_capacity(judgement.verdicts.len());
        let documents = tables::contributions(self.db.read(), number)?;
        let results = judgement.verdicts.iter().zip(&tranches_paid);
        for ((entry, documents), (verdict, paid)) in row.state.contributions.iter().zip(documents).zip(results) {
            let mut verdict = verdict.clone();
            if entry.progress == Progress::Lapsed(Lapse::LockLost) {
                verdict.outcome = Outcome::Rejected { rejection: Rejection::LockLost };
            }
            let receipt = self.receipt(number, entry, verdict.digest(), *paid);
            contributions.push(ContributionRecord {
                commitment: documents.commitment,
                terms: documents.terms,
                invoices: documents.invoices,
                uploaded: entry.uploaded_ms.is_some(),
                verdict,
                receipt,
            });
        }
        let reveal =
            |index| training.pool.reveal(index, &run.secret).ok_or(StoreError::Corrupt { what: "held-out pool" });
        let transcript = run.key.sign(Transcript {
            version: 1,
            run: run.id,
            round: number,
            secret: row.secret,
            contributions,
            held_out: self.draw(training, &row).into_iter().map(reveal).collect::<Result<_, _>>()?,
            loss_before: judgement.loss_before,
            loss_after: judgement.loss_after,
            next_checkpoint,
            opening: row.opening,
        });
        let path = self.transcript_path(number);
        write_synced(&path, &path.with_extension("part"), &transcript.to_bytes())?;
        self.keep_aggregate(number, judgement);

        self.apply(number, &Event::Judged { tranches_paid }, |t, _| {
            let body = &transcript.body;
            tables::set_closed(t, number, &body.digest(), &next_checkpoint, (body.loss_before, body.loss_after))?;
            tables::publish(t, &next_checkpoint)?;
            for record in &body.contributions {
                tables::set_receipt(t, &Verdict::Training(record.verdict.clone()), &record.receipt)?;
                if record.uploaded {
                    tables::publish(t, &record.commitment.body.payload)?;
                }
            }
            Ok(())
        })?;
        Ok(true)
    }
}
