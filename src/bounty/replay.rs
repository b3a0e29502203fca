//! An auditor's view of a closed bounty: every verdict and every payment recomputed from what was published, in the auditor's own
//! boxes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::data::Exam;
use super::evaluate::EvaluateError;
use super::judge::{Evaluate, JudgeError, Submission, Submitted, judge};
use super::lint::{Level, Lint};
use super::load::Bounty;
use super::package::{self, OpenError};
use crate::protocol::amount::Msat;
use crate::protocol::bounty::book::Book;
use crate::protocol::bounty::statements::{
    BountyManifest, BountyTranscript, Closing, EvaluationRecord, Posting, Rerun, VerdictRecord,
};
use crate::protocol::bounty::verdict::{Outcome, Rejection};
use crate::protocol::ids::{Blake3Hash, BountyId, ContributionId, RoundNumber, UnixMs};
use crate::protocol::sign::{Signed, Statement as _};
use crate::protocol::transcript::ContributionRecord;

/// What was published of a closed bounty.
pub trait Published {
    /// A closed round's signed transcript.
    ///
    /// # Errors
    /// Says for people why it can't be had.
    fn transcript(&self, round: RoundNumber) -> Result<Vec<u8>, String>;

    /// A blob; whoever asks checks its hash.
    ///
    /// # Errors
    /// Says for people why it can't be had.
    fn blob(&self, hash: &Blake3Hash) -> Result<Vec<u8>, String>;
}

/// Why a bounty can't be replayed here: says nothing about it.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Something that was published can't be had.
    #[error("{what} can't be had: {problem}")]
    Missing {
        /// What.
        what: String,
        /// Why.
        problem: String,
    },
    /// This machine.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// What was said and what is so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Difference {
    /// What of the bounty: `baseline`, `rounds[2].contributions[0].verdict` …
    pub field: String,
    /// What was said, and what is found here.
    pub problem: String,
}

impl Difference {
    /// A change whose score is not always the same has no one true verdict.
    fn of_an_unstable_change(self) -> Self {
        let problem =
            format!("{}; it came to another score when the bounty closed, too: the change is not stable", self.problem);
        Self { problem, ..self }
    }
}

/// A bounty that is what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Which.
    pub bounty: BountyId,
    /// Submissions.
    pub submissions: u32,
    /// Claims that were reached.
    pub reached: u32,
    /// Of these, by the coordinator's own word: scored otherwise when the bounty closed.
    pub unstable: u32,
    /// What they earned.
    pub paid_msat: Msat,
}

/// Why a replay ends before its end.
enum Stop {
    Different(Difference),
    Error(ReplayError),
}

impl<E: Into<ReplayError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(error.into())
    }
}

fn differ<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Different(Difference { field: field.into(), problem: problem.into() }))
}

/// Recomputes a closed bounty. `folder` is where its files are unpacked; `progress` is told of every submission.
pub fn replay(
    (manifest, closing): (&[u8], &[u8]),
    published: &dyn Published,
    evaluator: &dyn Evaluate,
    folder: &Path,
    progress: &mut dyn FnMut(u32, u32),
) -> Result<Result<Replayed, Difference>, ReplayError> {
    match (Audit { published, evaluator, folder }).run(manifest, closing, progress) {
        Ok(replayed) => Ok(Ok(replayed)),
        Err(Stop::Different(difference)) => Ok(Err(difference)),
        Err(Stop::Error(error)) => Err(error),
    }
}

struct Audit<'a> {
    published: &'a dyn Published,
    evaluator: &'a dyn Evaluate,
    folder: &'a Path,
}

impl Audit<'_> {
    fn run(&self, manifest: &[u8], closing: &[u8], progress: &mut dyn FnMut(u32, u32)) -> Result<Replayed, Stop> {
        let Ok(manifest) = Signed::<BountyManifest>::from_bytes(manifest) else {
            return differ("manifest", "it is not a signed manifest of a bounty");
        };
        let posting = check_manifest(&manifest)?;
        let Ok(closing) = Signed::<Closing>::from_bytes(closing) else {
            return differ("closing", "it is not a signed closing of a bounty");
        };
        if closing.verify(&posting.coordinator).is_err() || closing.body.bounty != posting.bounty_id() {
            return differ("closing", "it is not signed by the bounty's coordinator for this bounty");
        }
        let closing = &closing.body;
        let (bounty, exam) = self.unpack(posting, closing)?;
        self.baseline(posting, &bounty, &exam)?;
        let Ok(mut book) = Book::open(posting.rules, posting.baseline_tree) else {
            return differ("rules", "they can't be kept");
        };
        let sealed: BTreeMap<ContributionId, &EvaluationRecord> =
            closing.evaluations.iter().map(|record| (record.contribution, record)).collect();
        let unstable = unstable(closing)?;
        let all = u32::try_from(closing.evaluations.len()).unwrap_or(u32::MAX);
        let (mut submissions, mut reached, mut evaluated, mut previous) = (0, 0, 0, None);
        for (number, digest) in (0..).map(RoundNumber).zip(&closing.transcripts) {
            let transcript = self.transcript(number, digest, &manifest.body, previous)?;
            for (place, record) in transcript.contributions.iter().enumerate() {
                let field = format!("rounds[{number}].contributions[{place}]");
                check_record(&field, record, &transcript, posting, &mut book)?;
            }
            for (place, record) in transcript.contributions.iter().enumerate() {
                let field = format!("rounds[{number}].contributions[{place}]");
                let sealed = sealed.get(&record.verdict.contribution).copied();
                book = self.decide(&field, record, sealed, &book, (&bounty, &exam)).map_err(|stop| match stop {
                    Stop::Different(difference) if unstable.contains(&record.verdict.contribution) => {
                        Stop::Different(difference.of_an_unstable_change())
                    }
                    other => other,
                })?;
                submissions += 1;
                reached += u32::from(matches!(record.verdict.outcome, Outcome::Reached { .. }));
                if sealed.is_some() {
                    evaluated += 1;
                    progress(evaluated, all);
                }
            }
            previous = Some(*digest);
        }
        if evaluated != all {
            return differ("closing.evaluations", format!("{all} evaluations of {evaluated} submissions"));
        }
        let unstable = u32::try_from(unstable.len()).unwrap_or(u32::MAX);
        Ok(Replayed { bounty: posting.bounty_id(), submissions, reached, unstable, paid_msat: book.paid() })
    }

    fn blob(&self, what: &str, hash: &Blake3Hash) -> Result<Vec<u8>, Stop> {
        let missing = |problem| ReplayError::Missing { what: what.to_owned(), problem };
        let bytes = self.published.blob(hash).map_err(missing)?;
        if Blake3Hash::of(&bytes) != *hash {
            return Err(missing(format!("its hash is not {hash}")).into());
        }
        Ok(bytes)
    }

    /// The bounty as it was posted, with the part that was held out.
    fn unpack(&self, posting: &Posting, closing: &Closing) -> Result<(Bounty, Exam), Stop> {
        let (public, private) = (self.blob("package", &posting.package)?, self.blob("held_out", &closing.held_out)?);
        let opened = package::open(posting, (&public, &private), closing.held_out_salt, self.folder);
        opened.or_else(|error| match error {
            OpenError::Write { source, .. } => Err(ReplayError::from(EvaluateError::from(source)).into()),
            OpenError::Package(_) | OpenError::Bounty(_) | OpenError::OtherWorkspace => {
                differ("package", error.to_string())
            }
            OpenError::HeldOutPackage(_) | OpenError::HeldOut(_) | OpenError::OtherHeldOut => {
                differ("held_out", error.to_string())
            }
        })
    }

    fn baseline(&self, posting: &Posting, bounty: &Bounty, exam: &Exam) -> Result<(), Stop> {
        // Before its deadline, whenever it is replayed.
        let Lint { findings, rules: measured, .. } = self.evaluator.lint(bounty, exam, UnixMs(0))?;
        if let Some(finding) = findings.iter().find(|finding| finding.level == Level::Error) {
            return differ("baseline", format!("{}: {}", finding.code, finding.message));
        }
        if !measured.is_some_and(|measured| measured.allow(&posting.rules)) {
            return differ("rules", format!("they are {:?}, and {measured:?} is found here", posting.rules));
        }
        Ok(())
    }

    fn transcript(
        &self,
        number: RoundNumber,
        digest: &Blake3Hash,
        manifest: &BountyManifest,
        previous: Option<Blake3Hash>,
    ) -> Result<BountyTranscript, Stop> {
        let field = format!("rounds[{number}]");
        let bytes = self.published.transcript(number);
        let bytes = bytes.map_err(|problem| ReplayError::Missing { what: format!("transcript {number}"), problem })?;
        let coordinator = manifest.posting.body.coordinator;
        let Ok(transcript) = Signed::<BountyTranscript>::from_bytes(&bytes) else {
            return differ(field, "it is not a signed transcript of a bounty");
        };
        let (body, opening) = (&transcript.body, &transcript.body.opening);
        if transcript.verify(&coordinator).is_err() || opening.verify(&coordinator).is_err() {
            return differ(field, "it is not signed by the bounty's coordinator");
        }
        if body.digest() != *digest {
            return differ(field, format!("the closing names transcript {digest}, this one is {}", body.digest()));
        }
        let is_next = opening.body.previous_transcript == previous && opening.body.round == number;
        if !is_next || body.round != number || body.run != manifest.run_id() || opening.body.run != body.run {
            return differ(field, "its opening does not follow the round before");
        }
        Ok(transcript.body)
    }

    /// Evaluates a submission again, and puts its verdict into the book.
    fn decide(
        &self,
        field: &str,
        record: &ContributionRecord<VerdictRecord>,
        sealed: Option<&EvaluationRecord>,
        book: &Book,
        (bounty, exam): (&Bounty, &Exam),
    ) -> Result<Book, Stop> {
        let said = &record.verdict;
        let submitted = match (record.uploaded, said.outcome) {
            (false, Outcome::Rejected { reason: Rejection::LockLost }) => Submitted::LockLost,
            (false, _) => Submitted::Nothing,
            (true, Outcome::Rejected { reason: Rejection::EscrowLost }) => Submitted::Unfunded,
            (true, _) => Submitted::Payload(self.blob(field, &record.commitment.body.payload)?),
        };
        // Whose boxes, and how strong, is the record's own word.
        let (seal, tier) =
            sealed.map_or((Blake3Hash::from_bytes([0; 32]), ""), |sealed| (sealed.seal, sealed.tier.as_str()));
        let submission = Submission { contribution: said.contribution, submitted, seal };
        let judged = match judge(book, (bounty, exam), &[submission], (self.evaluator, tier)) {
            Ok(judged) => judged,
            Err(JudgeError::Evaluate(error)) => return Err(ReplayError::from(error).into()),
            Err(JudgeError::OutOfOrder(error)) => return differ(field, error.to_string()),
        };
        if judged.evaluations.first() != sealed {
            return differ(
                format!("{field}.evaluation"),
                format!("it was sealed as {sealed:?}, and {:?} is found here", judged.evaluations.first()),
            );
        }
        if judged.verdicts.first() != Some(said) {
            return differ(
                format!("{field}.verdict"),
                format!("it is {said:?}, and {:?} is found here", judged.verdicts.first()),
            );
        }
        Ok(judged.book)
    }
}

fn check_manifest(manifest: &Signed<BountyManifest>) -> Result<&Posting, Stop> {
    let posting = &manifest.body.posting;
    if posting.verify(&posting.body.sponsor).is_err() {
        return differ("manifest.posting", "it is not signed by its sponsor");
    }
    if manifest.verify(&posting.body.coordinator).is_err() {
        return differ("manifest", "it is not signed by the coordinator that the posting names");
    }
    let escrow = Msat::checked_sum(manifest.body.escrow.iter().map(|tranche| tranche.amount_msat));
    if escrow != Some(posting.body.rules.budget_msat) {
        return differ("manifest.escrow", format!("it is {escrow:?}, the budget {}", posting.body.rules.budget_msat));
    }
    Ok(&posting.body)
}

/// The claims that were reached and scored otherwise when the bounty closed.
fn unstable(closing: &Closing) -> Result<BTreeSet<ContributionId>, Stop> {
    let mut evaluations = closing.evaluations.iter();
    let mut unstable = BTreeSet::new();
    for Rerun { contribution, score } in &closing.reruns {
        match evaluations.find(|evaluation| evaluation.contribution == *contribution) {
            Some(evaluation) if evaluation.score == *score => {}
            Some(_) => drop(unstable.insert(*contribution)),
            None => {
                return differ("closing.reruns", format!("{contribution} is not in its place among the evaluations"));
            }
        }
    }
    Ok(unstable)
}

/// Signatures, the offer, and the receipt's preimages.
fn check_record(
    field: &str,
    record: &ContributionRecord<VerdictRecord>,
    transcript: &BountyTranscript,
    posting: &Posting,
    book: &mut Book,
) -> Result<(), Stop> {
    let commitment = &record.commitment.body;
    let id = commitment.contribution_id();
    let of_round = commitment.opening == transcript.opening.body.digest() && commitment.round == transcript.round;
    if record.commitment.verify(&commitment.peer).is_err() || !of_round || commitment.run != transcript.run {
        return differ(format!("{field}.commitment"), "it is not its author's, for this round");
    }
    // It was in time when its ticket was sold: nobody can say when that was.
    let offer = match book.take(commitment) {
        Ok(offer) => offer,
        Err(refused) => return differ(format!("{field}.commitment"), refused.to_string()),
    };
    let terms = &record.terms.body;
    let amounts: Vec<Msat> = terms.tranches.iter().map(|tranche| tranche.amount_msat).collect();
    let is_signed = record.terms.verify(&posting.coordinator).is_ok() && terms.contribution == id;
    if !is_signed || amounts != offer.tranches() {
        return differ(
            format!("{field}.terms"),
            format!("they lock {amounts:?}, the rules say {:?}", offer.tranches()),
        );
    }
    let receipt = &record.receipt.body;
    let said = &record.verdict;
    let is_signed = record.receipt.verify(&posting.coordinator).is_ok();
    if !is_signed || receipt.contribution != id || said.contribution != id || receipt.verdict != said.digest() {
        return differ(format!("{field}.receipt"), "it is not the coordinator's, for this verdict");
    }
    let pays = receipt.preimages.iter().zip(&terms.tranches).enumerate().all(|(bit, (preimage, tranche))| {
        let earned = said.tranches_paid >> bit & 1 == 1;
        match preimage {
            Some(preimage) => earned && preimage.payment_hash() == tranche.payment_hash,
            None => !earned,
        }
    });
    if !pays || receipt.preimages.len() != terms.tranches.len() {
        return differ(format!("{field}.receipt"), "its preimages are not those of the tranches that the verdict pays");
    }
    Ok(())
}
