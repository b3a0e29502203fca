//! Judging submissions: a round's, in the order of their commitments. The same for whoever evaluates first and whoever checks it
//! later.

use std::fmt;
use std::path::{Path, PathBuf};

use super::data::Exam;
use super::diff;
use super::evaluate::{Boxes, EvaluateError, Evaluation, Evaluator};
use super::lint::{self, Lint};
use super::load::Bounty;
use super::sandbox::Tier;
use super::tree::Tree;
use crate::protocol::bounty::book::{Book, Finding, OutOfOrder};
use crate::protocol::bounty::payload;
use crate::protocol::bounty::score::Score;
use crate::protocol::bounty::statements::{EvaluationRecord, VerdictRecord};
use crate::protocol::bounty::verdict::Rejection;
use crate::protocol::ids::{Blake3Hash, ContributionId, UnixMs};
use crate::protocol::sign::Statement as _;

/// Runs candidates. Blocks until the last box is gone.
pub trait Evaluate: Send + Sync + fmt::Debug {
    /// Scores a tree.
    fn evaluate(&self, bounty: &Bounty, tree: &Tree, exam: &Exam) -> Result<Evaluation, EvaluateError>;

    /// What a sponsor should know before the bounty opens, and its baseline.
    fn lint(&self, bounty: &Bounty, exam: &Exam, now: UnixMs) -> Result<Lint, EvaluateError>;

    /// How strong the boxes are.
    fn tier(&self) -> Tier;
}

/// Evaluates in boxes: this machine's sandbox, mostly.
#[derive(Debug)]
pub struct BoxedEvaluator<B> {
    boxes: B,
    scratch: PathBuf,
}

impl<B: Boxes> BoxedEvaluator<B> {
    /// Scratch folders are made in `scratch`.
    pub fn new(boxes: B, scratch: &Path) -> Self {
        Self { boxes, scratch: scratch.to_owned() }
    }

    /// Where it evaluates.
    pub fn boxes(&self) -> &B {
        &self.boxes
    }

    fn evaluator<'a>(&'a self, bounty: &'a Bounty) -> Evaluator<'a> {
        Evaluator { boxes: &self.boxes, manifest: &bounty.manifest, scorer: &bounty.scorer, scratch: &self.scratch }
    }
}

impl<B: Boxes + Send + Sync + fmt::Debug> Evaluate for BoxedEvaluator<B> {
    fn evaluate(&self, bounty: &Bounty, tree: &Tree, exam: &Exam) -> Result<Evaluation, EvaluateError> {
        self.evaluator(bounty).evaluate(tree, exam)
    }

    fn lint(&self, bounty: &Bounty, exam: &Exam, now: UnixMs) -> Result<Lint, EvaluateError> {
        lint::lint(bounty, exam, &self.evaluator(bounty), now)
    }

    fn tier(&self) -> Tier {
        self.boxes.tier()
    }
}

/// What became of a submission until the judge is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// Its payload, with its reward locked.
    Payload(Vec<u8>),
    /// None came in time, or it was withdrawn.
    Nothing,
    /// It was here, but its lock was lost.
    LockLost,
    /// It was here, but the sponsor's money is gone.
    Unfunded,
}

/// A submission, as the judge gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Which.
    pub contribution: ContributionId,
    /// What there is of it.
    pub submitted: Submitted,
    /// What its evaluation is sealed with.
    pub seal: Blake3Hash,
}

/// A round's verdicts.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The book with them in it.
    pub book: Book,
    /// In the order of commitments.
    pub verdicts: Vec<VerdictRecord>,
    /// Of those whose payload was here. Sealed until the bounty closes.
    pub evaluations: Vec<EvaluationRecord>,
}

/// Judges a round's submissions, which are the open ones of the book. The records name the boxes as `tier`.
pub fn judge(
    book: &Book,
    (bounty, exam): (&Bounty, &Exam),
    submissions: &[Submission],
    (evaluator, tier): (&dyn Evaluate, &str),
) -> Result<Judged, JudgeError> {
    let mut judged = Judged { book: book.clone(), verdicts: Vec::new(), evaluations: Vec::new() };
    for submission in submissions {
        let finding = match &submission.submitted {
            Submitted::Nothing => Finding::Failed(Rejection::NotRevealed),
            Submitted::LockLost => Finding::Failed(Rejection::LockLost),
            Submitted::Unfunded => Finding::Failed(Rejection::EscrowLost),
            Submitted::Payload(bytes) => find(&judged.book, (bounty, exam), submission, bytes, evaluator)?,
        };
        let evaluation = match &submission.submitted {
            Submitted::Payload(_) => {
                let (score, tree) = match finding {
                    Finding::Scored { score, tree } => (Some(score), Some(tree)),
                    Finding::Copy { tree } => (None, Some(tree)),
                    Finding::Failed(_) => (None, None),
                };
                let (contribution, seal) = (submission.contribution, submission.seal);
                let fuel_meter = bounty.manifest.run.fuel_meter().map(str::to_owned);
                Some(EvaluationRecord { contribution, seal, score, tree, tier: tier.to_owned(), fuel_meter })
            }
            Submitted::Nothing | Submitted::LockLost | Submitted::Unfunded => None,
        };
        let (sequence, outcome, tranches_paid) = judged.book.decide(submission.contribution, finding)?;
        judged.verdicts.push(VerdictRecord {
            contribution: submission.contribution,
            sequence,
            evaluation: evaluation.as_ref().map(EvaluationRecord::digest),
            outcome,
            tranches_paid,
        });
        judged.evaluations.extend(evaluation);
    }
    Ok(judged)
}

/// Why a round can't be judged now. None of it is a submission's doing.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// This machine.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// The round is not the book's.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
}

/// Scores what was submitted once more; `None`: it came to no score.
pub fn score_again(
    (bounty, exam): (&Bounty, &Exam),
    bytes: &[u8],
    evaluator: &dyn Evaluate,
) -> Result<Option<Score>, EvaluateError> {
    let Some(tree) = changed(bounty, bytes) else { return Ok(None) };
    Ok(evaluator.evaluate(bounty, &tree, exam)?.score.ok())
}

/// The workspace with a payload's diff in it, if that may be applied.
fn changed(bounty: &Bounty, bytes: &[u8]) -> Option<Tree> {
    let manifest = &bounty.manifest;
    diff::apply(&bounty.workspace, payload::diff(bytes)?, &manifest.targets, manifest.max_diff_bytes).ok()
}

fn find(
    book: &Book,
    (bounty, exam): (&Bounty, &Exam),
    submission: &Submission,
    bytes: &[u8],
    evaluator: &dyn Evaluate,
) -> Result<Finding, EvaluateError> {
    let Some(tree) = changed(bounty, bytes) else { return Ok(Finding::Failed(Rejection::RejectedStatic)) };
    let digest = tree.digest();
    if book.is_known(&submission.contribution, &digest) {
        return Ok(Finding::Copy { tree: digest });
    }
    let evaluation = evaluator.evaluate(bounty, &tree, exam)?;
    // Not what it scored: that is sealed.
    tracing::info!(contribution = %submission.contribution, "evaluated");
    Ok(match evaluation.score {
        Ok(score) => Finding::Scored { score, tree: digest },
        Err(rejection) => Finding::Failed(rejection),
    })
}
