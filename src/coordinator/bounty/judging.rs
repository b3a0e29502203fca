//! A round of submissions: what decides it, and the transaction that makes the verdicts final.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::core::Core;
use super::super::engine::Coordinator;
use super::super::error::CoordinatorError;
use super::super::judging::{Bench, Decided};
use super::super::news::RunEvent;
use super::super::status;
use super::escrow::Covered;
use super::posting::BountyTask;
use crate::bounty::data::Exam;
use crate::bounty::judge::{Evaluate, Judged, Submission, Submitted, judge};
use crate::bounty::load::Bounty;
use crate::protocol::amount::Msat;
use crate::protocol::bounty::book::Book;
use crate::protocol::bounty::statements::{BountyTranscript, VerdictRecord};
use crate::protocol::bounty::verdict::FeeFate;
use crate::protocol::ids::{ContributionId, RoundNumber};
use crate::protocol::round::{Contribution, Event, Lapse, Progress};
use crate::protocol::sign::Statement as _;
use crate::protocol::transcript::ContributionRecord;
use crate::protocol::verdict::Verdict;
use crate::store::blobs::write_synced;
use crate::store::coordinator::{self as tables};

/// Everything that decides a round of submissions.
#[derive(Clone, Debug)]
pub(in super::super) struct BountyRequest {
    book: Book,
    bounty: Arc<Bounty>,
    exam: Arc<Exam>,
    submissions: Vec<Submission>,
}

impl BountyRequest {
    /// Evaluates what was submitted. Takes as long as it takes.
    pub(in super::super) fn judge(&self, evaluator: &dyn Evaluate) -> Result<Judged, String> {
        // Checked at the posting, but this machine may have been changed since.
        let (tier, least) = (evaluator.tier(), self.bounty.manifest.tier);
        if tier < least {
            return Err(format!("its boxes must be held by {least} at least, and by now this machine has {tier}"));
        }
        let judged = judge(&self.book, (&self.bounty, &self.exam), &self.submissions, (evaluator, tier.name()));
        judged.map_err(|error| error.to_string())
    }

    /// The same round, when the sponsor's money for its rewards is gone: nothing of it is evaluated or paid.
    fn unfunded(&self) -> Self {
        let without = |submission: &Submission| Submission {
            submitted: match &submission.submitted {
                Submitted::Payload(_) => Submitted::Unfunded,
                other => other.clone(),
            },
            ..submission.clone()
        };
        Self { submissions: self.submissions.iter().map(without).collect(), ..self.clone() }
    }
}

impl Coordinator {
    /// Takes the sponsor's money for what was earned, and then makes the verdicts final. What was decided comes back while that
    /// money is on its way: to be brought again, since it took long to find out.
    pub(in super::super) async fn judged_submissions(
        &mut self,
        round: RoundNumber,
        request: Box<BountyRequest>,
        judged: Box<Judged>,
    ) -> Result<Option<Decided>, CoordinatorError> {
        let judged = match self.shared.cover(judged.book.paid()).await? {
            Covered::Yes => *judged,
            Covered::NotYet => return Ok(Some(Decided::Bounty(request, judged))),
            Covered::Never => {
                tracing::error!(%round, "the sponsor's money is gone: nothing of this round is paid");
                self.shared.with(|core| core.stop_taking("the sponsor's money is gone")).await?;
                let Bench::Bounty(evaluator) = &self.bench else { return Err(CoordinatorError::Panicked) };
                let problem = |problem| CoordinatorError::Judge { round: round.0, problem };
                request.unfunded().judge(&**evaluator).map_err(problem)?
            }
        };
        let closed = move |core: &mut Core| {
            if !core.close_submissions(round, &request, judged)? {
                tracing::warn!(%round, "a lock was lost while the round was being judged: it is judged again without it");
                return Ok(());
            }
            let row = core.row(round)?;
            let documents = tables::contributions(core.db.read(), round)?;
            core.tell(RunEvent::SubmissionsJudged {
                round,
                closed_ms: row.state.closed_ms.unwrap_or_default(),
                contributions: status::contributions(&row.state, &documents),
            });
            Ok(())
        };
        self.shared.with(closed).await.map(|()| None)
    }
}

impl Core {
    /// Everything that decides a round. The same after a crash.
    pub(in super::super) fn bounty_request(
        &mut self,
        task: &BountyTask,
        number: RoundNumber,
    ) -> Result<BountyRequest, CoordinatorError> {
        let row = self.row(number)?;
        let mut submissions = Vec::with_capacity(row.state.contributions.len());
        for (entry, documents) in row.state.contributions.iter().zip(tables::contributions(self.db.read(), number)?) {
            let submitted = match entry.uploaded_ms {
                Some(_) => {
                    let payload = &documents.commitment.body.payload;
                    Submitted::Payload(self.blobs.get(payload, self.run.max_payload_bytes)?)
                }
                None if entry.progress == Progress::Lapsed(Lapse::LockLost) => Submitted::LockLost,
                None => Submitted::Nothing,
            };
            submissions.push(Submission { contribution: entry.id, submitted, seal: self.run.secret.seal(&entry.id) });
        }
        Ok(BountyRequest {
            book: self.bounty_state()?.book.clone(),
            bounty: Arc::clone(&task.bounty),
            exam: Arc::clone(&task.exam),
            submissions,
        })
    }

    /// Makes the verdicts final. False if a submission that was judged doesn't count any more: nothing is changed.
    fn close_submissions(
        &mut self,
        number: RoundNumber,
        request: &BountyRequest,
        judged: Judged,
    ) -> Result<bool, CoordinatorError> {
        let doubt = |problem: &str| CoordinatorError::Judge { round: number.0, problem: problem.to_owned() };
        let row = self.row(number)?;
        if !is_current(&row.state.contributions, &request.submissions) {
            return Ok(false);
        }
        let verdicts = check(&row.state.contributions, &judged.verdicts, self.run.fee)
            .ok_or_else(|| doubt("a verdict is wrong"))?;
        let mut contributions = Vec::with_capacity(verdicts.len());
        for (entry, documents) in row.state.contributions.iter().zip(tables::contributions(self.db.read(), number)?) {
            let verdict = verdicts.get(&entry.id).copied().ok_or_else(|| doubt("a verdict is missing"))?;
            contributions.push(ContributionRecord {
                commitment: documents.commitment,
                terms: documents.terms,
                invoices: documents.invoices,
                uploaded: entry.uploaded_ms.is_some(),
                receipt: self.receipt(number, entry, verdict.digest(), verdict.tranches_paid),
                verdict: verdict.clone(),
            });
        }
        let (run, opening) = (self.run.id, row.opening);
        let checkpoint = opening.body.checkpoint;
        let transcript = BountyTranscript { version: 1, run, round: number, opening, contributions };
        let transcript = self.run.key.sign(transcript);
        let path = self.transcript_path(number);
        write_synced(&path, &path.with_extension("part"), &transcript.to_bytes())?;
        let tranches_paid = judged.verdicts.iter().map(|verdict| verdict.tranches_paid).collect();
        self.apply(number, &Event::Judged { tranches_paid }, |t, _| {
            tables::set_transcript(t, number, &transcript.body.digest(), &checkpoint)?;
            for evaluation in &judged.evaluations {
                tables::seal_evaluation(t, evaluation)?;
            }
            for record in &transcript.body.contributions {
                tables::set_receipt(t, &Verdict::Bounty(record.verdict.clone()), &record.receipt)?;
            }
            Ok(())
        })?;
        if let Some(state) = &mut self.bounty {
            state.book = judged.book;
        }
        Ok(true)
    }
}

/// Is the request still what decides the round? A payload counts no more once its lock is lost.
fn is_current(entries: &[Contribution], submissions: &[Submission]) -> bool {
    let counted = entries.iter().map(|entry| (entry.id, entry.uploaded_ms.is_some()));
    let is_here = |submitted: &Submitted| matches!(submitted, Submitted::Payload(_));
    counted.eq(submissions.iter().map(|submission| (submission.contribution, is_here(&submission.submitted))))
}

/// The verdicts by contribution, once every rule about money has been seen to hold.
fn check<'v>(
    entries: &[Contribution],
    verdicts: &'v [VerdictRecord],
    fee: Msat,
) -> Option<BTreeMap<ContributionId, &'v VerdictRecord>> {
    let fits = |(entry, verdict): (&Contribution, &VerdictRecord)| {
        let paid = entry.tranches.iter().enumerate().filter(|(bit, _)| verdict.tranches_paid >> bit & 1 == 1);
        let paid = Msat::checked_sum(paid.map(|(_, tranche)| tranche.amount_msat));
        let reward = verdict.outcome.reward();
        let is_worth = match verdict.outcome.fee() {
            FeeFate::Kept => paid == Some(reward),
            FeeFate::Refunded => verdict.tranches_paid == 0 || (verdict.tranches_paid == 1 && paid == Some(fee)),
        };
        let unpaid = entry.uploaded_ms.is_some() || verdict.tranches_paid == 0;
        verdict.contribution == entry.id && is_worth && unpaid
    };
    let whole = entries.len() == verdicts.len() && entries.iter().zip(verdicts).all(fits);
    whole.then(|| verdicts.iter().map(|verdict| (verdict.contribution, verdict)).collect())
}
