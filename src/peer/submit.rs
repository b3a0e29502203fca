//! An agent at one bounty: a submission is a contribution to a round of the bounty's run, and goes the way of every other one.
//!
//! What was begun is carried on before anything new is begun, and a change that was decided, or has cost a fee, is not submitted with
//! the same claim again unless that is asked for: so nothing is submitted, or paid for, twice.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;

use super::api::{ApiFailure, BountyApi};
use super::checks::{self, NotWorthIt, check_bounty_limits};
use super::contribution::{Patience, Progress};
use super::error::PeerError;
use super::folder;
use super::journal::Totals;
use super::payments::check_proof;
use super::session::{PeerParts, Session};
use super::stage::{Ending, Entry, PaidFee, Stage};
use crate::ln::PaymentStatus;
use crate::protocol::api::{BountyPhase, BountyView, ContributionState, Phase, RoundView};
use crate::protocol::bounty::payload;
use crate::protocol::bounty::score::Score;
use crate::protocol::ids::{Blake3Hash, ContributionId, RoundNumber};
use crate::protocol::sign::Statement;
use crate::protocol::statements::Commitment;

/// A round that closes sooner than this is left to others, in ms.
const COMMIT_MARGIN_MS: u64 = 1_000;
/// Looks at the newest round are this many polls apart: it changes when an evaluation ends.
const POLLS_A_LOOK: u64 = 5;
/// So many rounds may close under a submission before it is given up.
const MOST_ROUNDS: u32 = 10;
/// What the coordinator calls it that no round is open yet.
const NO_ROUND: &str = "no_round";

/// A change, and what it is said to score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The change.
    pub diff: Vec<u8>,
    /// What it scores at least.
    pub claim: Score,
}

/// What to do about a submission that was decided, or has cost a fee, before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Tell what became of it: that costs nothing.
    Told,
    /// Submit it again, for another fee.
    Again,
}

/// Whoever is asked before anything is paid for. A submission that was begun, or is told again, costs nothing more.
#[async_trait]
pub trait Consent: Send + Sync {
    /// An error is a no.
    async fn ask(&self) -> Result<(), PeerError>;
}

/// Somebody who asked for a submission has said yes by that.
#[derive(Clone, Copy, Debug)]
pub struct Asked;

#[async_trait]
impl Consent for Asked {
    async fn ask(&self) -> Result<(), PeerError> {
        Ok(())
    }
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Which.
    pub contribution: ContributionId,
    /// In which round of the bounty.
    pub round: RoundNumber,
    /// What was claimed.
    pub claim: Option<Score>,
    /// `None` while the receipt is awaited.
    pub ending: Option<Ending>,
    /// What it cost and brought.
    pub totals: Totals,
    /// It had ended before it was asked about, and nothing was paid now.
    pub earlier: bool,
}

/// What became of a submission that was to be withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// It is given up; its fee is spent if it was paid.
    Done(Submitted),
    /// It goes on.
    Refused {
        /// Which.
        contribution: ContributionId,
        /// Why it can't be given up.
        why: &'static str,
    },
}

/// What the journal says of a submission.
#[derive(Debug)]
struct Attempts {
    /// The last time that it was decided, has cost something, or is under way.
    last: Option<Entry>,
    /// The payload of another attempt.
    next: Vec<u8>,
}

/// An agent at one bounty.
#[derive(Debug)]
pub struct Submitter {
    session: Session,
    board: Arc<dyn BountyApi>,
}

impl Submitter {
    /// Opens the journal and checks the bounty's statements. `board` and the parts' API lead to the same bounty.
    pub fn open(parts: PeerParts, board: Arc<dyn BountyApi>, view: &BountyView) -> Result<Self, PeerError> {
        Ok(Self { session: Session::open_bounty(parts, view)?, board })
    }

    /// The journal, and what guards it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The bounty as it is now.
    pub(super) async fn look(&self) -> Result<BountyView, PeerError> {
        self.session.bounty(&*self.board).await
    }

    /// Submits, and waits for the verdict and the money. Where an unfinished submission is the same, that is carried on instead.
    pub async fn submit(
        &self,
        submission: &Submission,
        repeat: Repeat,
        consent: &dyn Consent,
    ) -> Result<Submitted, PeerError> {
        self.session.guarded(self.submit_unguarded(submission, repeat, consent)).await
    }

    /// Carries on what was begun at this bounty.
    pub async fn go_on(&self) -> Result<Vec<Submitted>, PeerError> {
        self.session.guarded(self.finish()).await
    }

    /// Gives up what was begun at this bounty, as far as that is safe.
    pub async fn withdraw(&self) -> Result<Vec<Withdrawal>, PeerError> {
        self.session.guarded(self.withdraw_all()).await
    }

    async fn submit_unguarded(
        &self,
        submission: &Submission,
        repeat: Repeat,
        consent: &dyn Consent,
    ) -> Result<Submitted, PeerError> {
        let begun = self.attempts(submission)?.last.filter(|entry| !entry.stage.is_closed());
        let begun = begun.map(|entry| entry.contribution);
        self.finish().await?;
        let Attempts { last, next } = self.attempts(submission)?;
        if let Some(last) = last {
            let carried_on = begun == Some(last.contribution);
            if carried_on || repeat == Repeat::Told {
                let told = self.told(&last, last.stage.ending().cloned())?;
                return Ok(Submitted { earlier: !carried_on, ..told });
            }
        }
        check_bounty_limits(self.session.terms.bounty()?, &self.session.parts.settings.limits)?;
        let view = self.look().await?;
        checks::worth(&view, submission.claim, &self.session.parts.settings.limits)?;
        self.session.may_pay_fee()?;
        consent.ask().await?;
        self.session.ready_to_be_paid(&view.lightning).await?;
        for _ in 0..MOST_ROUNDS {
            let round = self.open_round().await?;
            let entry = self.commit(&round, submission.claim, &next)?;
            let submitted = self.carry_on(entry, &round).await?;
            if !self.came_too_late(&submitted).await? {
                return Ok(submitted);
            }
        }
        Err(PeerError::NoRound(format!("{MOST_ROUNDS} rounds closed before it was taken")))
    }

    /// A round that takes commitments, and none of this agent's yet. Asking about the bounty has one opened.
    async fn open_round(&self) -> Result<RoundView, PeerError> {
        let (session, doing) = (&self.session, "open a round");
        let waiting = session.timer();
        loop {
            let phase = self.look().await?.phase;
            if phase != BountyPhase::Open {
                return Err(NotWorthIt::NotOpen(phase).into());
            }
            let wait_ms = match session.patiently(doing, || self.board.current_round()).await {
                Ok(view) => {
                    let opening = &view.opening.body;
                    checks::check_opening(&view.opening, &session.terms, opening.round)?;
                    session.go_by(view.now_ms);
                    let is_taken = session.journal.entry(session.terms.run, opening.round)?.is_some();
                    let in_time = view.now_ms.plus_ms(COMMIT_MARGIN_MS) <= opening.commit_deadline_ms;
                    if view.phase == Phase::Committing && in_time && !is_taken {
                        return Ok(view);
                    }
                    opening.upload_deadline_ms.0.saturating_sub(opening.opened_ms.0)
                }
                Err(ApiFailure::Refused { code, .. }) if code == NO_ROUND => 0,
                Err(failure) => return Err(session.failed(doing, failure)),
            };
            if waiting.elapsed_ms() > wait_ms.saturating_add(session.parts.settings.receipt_wait_ms) {
                return Err(PeerError::NoRound("none was opened in time".into()));
            }
            session.parts.clock.sleep(session.parts.settings.poll_ms * POLLS_A_LOOK).await;
        }
    }

    /// The payload is on disk before it is committed to, and the commitment before anybody hears of it.
    fn commit(&self, round: &RoundView, claim: Score, bytes: &[u8]) -> Result<Entry, PeerError> {
        let session = &self.session;
        let opening = &round.opening.body;
        let payload = Blake3Hash::of(bytes);
        folder::write_durably(&session.parts.folder.payload(&payload), bytes)?;
        let commitment = Commitment {
            run: session.terms.run,
            round: opening.round,
            opening: opening.digest(),
            peer: session.parts.key.id(),
            payload,
            payload_bytes: bytes.len() as u64,
            claim: Some(claim),
        };
        let entry = Entry {
            contribution: commitment.contribution_id(),
            commitment: session.parts.key.sign(commitment),
            dense_bytes: 0,
            train_ms: 0,
            lock_ms: None,
            stage: Stage::Committed,
        };
        session.begin_round(opening.round);
        session.save(&entry, &[])?;
        Ok(entry)
    }

    async fn carry_on(&self, entry: Entry, round: &RoundView) -> Result<Submitted, PeerError> {
        let waiting = entry.clone();
        match self.session.carry_on(entry, &round.opening.body, Patience::ThisRound).await? {
            Progress::Ended(entry, ending) => {
                self.forget_payload(&entry)?;
                self.session.see_off(&VecDeque::from([entry.contribution])).await;
                self.told(&entry, Some(ending))
            }
            Progress::Parked | Progress::Moved(_) => self.told(&waiting, None),
        }
    }

    fn told(&self, entry: &Entry, ending: Option<Ending>) -> Result<Submitted, PeerError> {
        Ok(Submitted {
            contribution: entry.contribution,
            round: entry.round(),
            claim: entry.commitment.body.claim,
            ending,
            totals: self.session.journal.totals_of(entry.contribution)?,
            earlier: false,
        })
    }

    /// Did its round close before anything was paid? Then another round may take it.
    async fn came_too_late(&self, submitted: &Submitted) -> Result<bool, PeerError> {
        if !matches!(submitted.ending, Some(Ending::Missed { .. })) || submitted.totals != Totals::default() {
            return Ok(false);
        }
        let view = self.session.round(submitted.round).await?;
        Ok(view.phase != Phase::Committing || view.now_ms > view.opening.body.commit_deadline_ms)
    }

    fn unfinished(&self) -> Result<Vec<Entry>, PeerError> {
        Ok(self.session.journal.unfinished(Some(self.session.terms.run))?)
    }

    /// How often this change was submitted with this claim, by the journal.
    fn attempts(&self, submission: &Submission) -> Result<Attempts, PeerError> {
        let Session { parts, journal, terms, .. } = &self.session;
        let Submission { diff, claim } = submission;
        let entries = journal.entries_of(terms.run)?;
        let mut last = None;
        for attempt in 0.. {
            let nonce = payload::nonce(&parts.key, terms.run, diff, *claim, attempt);
            let next = payload::encode(&nonce, diff);
            let payload = Blake3Hash::of(&next);
            let mut counts = None;
            // A round that took neither it nor its fee is none of its attempts.
            for entry in entries.iter().filter(|entry| entry.commitment.body.payload == payload) {
                let is_free = journal.totals_of(entry.contribution)? == Totals::default();
                if !is_free || entry.stage.ending().is_none_or(Ending::is_verdict) {
                    counts = Some(entry.clone());
                }
            }
            match counts {
                Some(entry) => last = Some(entry),
                None => return Ok(Attempts { last, next }),
            }
        }
        Err(PeerError::NoRound("it was submitted far too often".into()))
    }

    async fn finish(&self) -> Result<Vec<Submitted>, PeerError> {
        let mut finished = Vec::new();
        for entry in self.unfinished()? {
            let round = self.session.round(entry.round()).await?;
            finished.push(self.carry_on(entry, &round).await?);
        }
        Ok(finished)
    }

    /// An ended submission needs its diff no more.
    fn forget_payload(&self, entry: &Entry) -> Result<(), PeerError> {
        let payload = entry.commitment.body.payload;
        let unfinished = self.session.journal.unfinished(None)?;
        if unfinished.iter().all(|other| other.commitment.body.payload != payload) {
            folder::remove_if_there(&self.session.parts.folder.payload(&payload))?;
        }
        Ok(())
    }

    async fn withdraw_all(&self) -> Result<Vec<Withdrawal>, PeerError> {
        let mut withdrawn = Vec::new();
        for entry in self.unfinished()? {
            let contribution = entry.contribution;
            withdrawn.push(match self.give_up(entry).await? {
                Ok(Progress::Ended(entry, ending)) => {
                    self.forget_payload(&entry)?;
                    Withdrawal::Done(self.told(&entry, Some(ending))?)
                }
                Ok(Progress::Moved(_) | Progress::Parked) => {
                    Withdrawal::Refused { contribution, why: "it is about to end by itself" }
                }
                Err(why) => Withdrawal::Refused { contribution, why },
            });
        }
        Ok(withdrawn)
    }

    /// Gives a submission up, unless its payload may be with the coordinator or its fee on the way.
    async fn give_up(&self, entry: Entry) -> Result<Result<Progress, &'static str>, PeerError> {
        const REASON: &str = "withdrawn";
        let session = &self.session;
        let spent = || Ending::NoTicket { reason: REASON.into() };
        match entry.stage.clone() {
            Stage::Committed => session.end_missed(entry, REASON).map(Ok),
            Stage::Paying(fee) => match session.ask_node(|| session.parts.ln.payment(fee.payment_hash)).await? {
                PaymentStatus::NotFound | PaymentStatus::Failed { .. } => session.end_missed(entry, REASON).map(Ok),
                PaymentStatus::Succeeded { preimage, fee: routing_msat } => {
                    check_proof(&fee, &preimage)?;
                    let lines = PaidFee { fee, preimage, routing_msat }.lines();
                    session.end(entry, spent(), &lines).map(Ok)
                }
                PaymentStatus::InFlight | PaymentStatus::Unknown => {
                    Ok(Err("its fee is on the way: try again once that has arrived or failed"))
                }
            },
            Stage::Paid(_) => session.end(entry, spent(), &[]).map(Ok),
            Stage::Ticketed(ticket) => session.withdraw(entry, &ticket.terms.body, REASON).await.map(Ok),
            Stage::Invoiced(offer) => session.withdraw(entry, &offer.ticket.terms.body, REASON).await.map(Ok),
            Stage::Locked(offer) => {
                let doing = "read the contribution";
                let view = session.patiently(doing, || session.parts.api.contribution(entry.contribution)).await;
                match view.map_err(|failure| session.failed(doing, failure))?.state {
                    ContributionState::Ticketed | ContributionState::Locking | ContributionState::Locked => {
                        session.withdraw(entry, &offer.ticket.terms.body, REASON).await.map(Ok)
                    }
                    ContributionState::Uploaded | ContributionState::Settling | ContributionState::Finished => {
                        Ok(Err("the coordinator has it: only its verdict ends it"))
                    }
                }
            }
            Stage::Uploaded(_) => Ok(Err("the coordinator has it: only its verdict ends it")),
            Stage::Judged(_) => Ok(Err("it has its verdict")),
            Stage::Closed(ending) => Ok(Ok(Progress::Ended(entry, ending))),
        }
    }
}
