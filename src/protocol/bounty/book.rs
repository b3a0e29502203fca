//! A bounty's book: which submissions were taken, in which order, what each was offered and what it got.
//!
//! A function of its history: feeding a new book the same commitments and findings gives the same verdicts, which is how a
//! closed bounty is replayed. It decides in the order of commitments, whatever the order in which evaluations end.

use super::offer::{LEAST_TRANCHE, Offer};
use super::pay::Scale;
use super::score::Score;
use super::statements::{Rules, RulesError};
use super::verdict::{Outcome, Rejection};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, ContributionId, UnixMs};
use crate::protocol::statements::Commitment;

/// Why a submission is not taken: nothing was paid, and it doesn't count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too late.
    #[error("the bounty takes no submission since {0:?} ms")]
    Closed(UnixMs),
    /// The cap is reached.
    #[error("the bounty has taken all of its {0} submissions")]
    CapReached(u32),
    /// The same commitment, or one to the same diff, was taken already.
    #[error("this was committed already, as {0}")]
    Duplicate(ContributionId),
    /// Not better than the best so far by a step.
    #[error("a claim must be at least {least} units", least = .0.units())]
    ClaimTooSmall(Score),
    /// The target is reached: there is nothing left.
    #[error("the whole budget is paid")]
    NothingLeft,
    /// A commitment to a round of training.
    #[error("a submission needs a claim: the score that it reaches at least")]
    NoClaim,
}

/// Why no more submissions are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// In time.
    #[error("the deadline is over")]
    Deadline,
    /// There is nothing left to pay for.
    #[error("the target is reached")]
    Target,
    /// As many as there may be.
    #[error("every submission has been taken")]
    Cap,
}

/// A finding that fits no open submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// Never taken.
    #[error("submission {0} was never taken")]
    Unknown(ContributionId),
    /// Has its verdict.
    #[error("submission {0} has its verdict")]
    Decided(ContributionId),
    /// An earlier one has to be decided first.
    #[error("submission {0} has to be decided first")]
    Waits(ContributionId),
}

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It ran, twice, and scored.
    Scored {
        /// What it scored, with the same answers both times.
        score: Score,
        /// Digest of the changed tree.
        tree: Blake3Hash,
    },
    /// Its tree needed no evaluation: [`Book::is_known`].
    Copy {
        /// Digest of the changed tree.
        tree: Blake3Hash,
    },
    /// It came to no score.
    Failed(Rejection),
}

/// A submission that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub submission: ContributionId,
    /// The payload that it committed to.
    pub payload: Blake3Hash,
    /// What it claims.
    pub claim: Score,
    /// The most that it can be paid, and its fee: this is locked.
    pub offer: Offer,
    /// The tree that it came to, where it did.
    pub tree: Option<Blake3Hash>,
    /// `None` while it is open.
    pub outcome: Option<Outcome>,
}

/// The book of one bounty.
#[derive(Clone, Debug)]
pub struct Book {
    rules: Rules,
    scale: Scale,
    baseline_tree: Blake3Hash,
    best: Score,
    paid: Msat,
    entries: Vec<Entry>,
}

impl Book {
    /// An empty book.
    pub fn open(rules: Rules, baseline_tree: Blake3Hash) -> Result<Self, RulesError> {
        let scale = rules.scale()?;
        Ok(Self { rules, scale, baseline_tree, best: rules.baseline, paid: Msat::ZERO, entries: Vec::new() })
    }

    /// The best claim that was reached so far; the baseline at first. Never a verified score: those stay sealed.
    pub fn best(&self) -> Score {
        self.best
    }

    /// What was earned so far.
    pub fn paid(&self) -> Msat {
        self.paid
    }

    /// Every submission, in the order of commitments.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many more submissions the cap allows.
    pub fn submissions_left(&self) -> u32 {
        let taken = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.rules.submission_cap.saturating_sub(taken)
    }

    /// What must be claimed at least; `None` where nothing is left.
    pub fn least_claim(&self) -> Option<Score> {
        let left = self.scale.payout(self.rules.budget_msat, self.rules.target, self.best);
        let least = self.rules.direction.better_by(self.best, self.rules.step())?;
        (left >= LEAST_TRANCHE).then_some(least)
    }

    /// No commitment after this.
    pub fn deadline_ms(&self) -> UnixMs {
        self.rules.deadline_ms
    }

    /// Why no more submissions are taken, where that is so.
    pub fn over(&self, now: UnixMs) -> Option<Over> {
        if now > self.rules.deadline_ms {
            Some(Over::Deadline)
        } else if self.least_claim().is_none() {
            Some(Over::Target)
        } else {
            (self.submissions_left() == 0).then_some(Over::Cap)
        }
    }

    /// Would a submission be taken, and for how much?
    pub fn offer(&self, commitment: &Commitment, now: UnixMs) -> Result<Offer, Refusal> {
        match self.over(now) {
            Some(Over::Deadline) => Err(Refusal::Closed(self.rules.deadline_ms)),
            Some(Over::Target | Over::Cap) | None => self.offer_in_time(commitment),
        }
    }

    fn offer_in_time(&self, commitment: &Commitment) -> Result<Offer, Refusal> {
        let submission = commitment.contribution_id();
        let same = |entry: &&Entry| entry.submission == submission || entry.payload == commitment.payload;
        if let Some(entry) = self.entries.iter().find(same) {
            return Err(Refusal::Duplicate(entry.submission));
        }
        // Each submission answers one bit about the held-out part, whoever sends it and whatever becomes of it.
        if self.submissions_left() == 0 {
            return Err(Refusal::CapReached(self.rules.submission_cap));
        }
        let claim = commitment.claim.ok_or(Refusal::NoClaim)?;
        let least = self.least_claim().ok_or(Refusal::NothingLeft)?;
        if !self.rules.is_step(self.best, claim) {
            return Err(Refusal::ClaimTooSmall(least));
        }
        let offer = self.scale.payout(self.rules.budget_msat, claim, self.best);
        Offer::new(offer, self.rules.fee_msat).ok_or(Refusal::ClaimTooSmall(least))
    }

    /// Takes a submission that was in time, and returns the most that it can be paid. Its place in the order is its place in
    /// [`Book::entries`].
    pub fn take(&mut self, commitment: &Commitment) -> Result<Offer, Refusal> {
        let offer = self.offer_in_time(commitment)?;
        self.entries.push(Entry {
            submission: commitment.contribution_id(),
            payload: commitment.payload,
            claim: commitment.claim.ok_or(Refusal::NoClaim)?,
            offer: offer.clone(),
            tree: None,
            outcome: None,
        });
        Ok(offer)
    }

    /// The submission that has to be decided next.
    pub fn next(&self) -> Option<ContributionId> {
        self.entries.iter().find(|entry| entry.outcome.is_none()).map(|entry| entry.submission)
    }

    /// Is a tree the baseline, or that of an earlier submission? Then it can't be an improvement, whatever it scores.
    pub fn is_known(&self, submission: &ContributionId, tree: &Blake3Hash) -> bool {
        let earlier = self.entries.iter().take_while(|entry| entry.submission != *submission);
        *tree == self.baseline_tree || earlier.into_iter().any(|entry| entry.tree == Some(*tree))
    }

    /// Decides the next submission: its place in the order, its outcome, and the mask of the tranches that this pays.
    pub fn decide(&mut self, submission: ContributionId, finding: Finding) -> Result<(u32, Outcome, u32), OutOfOrder> {
        let place = self.entries.iter().position(|entry| entry.submission == submission);
        let place = place.ok_or(OutOfOrder::Unknown(submission))?;
        if self.entries[place].outcome.is_some() {
            return Err(OutOfOrder::Decided(submission));
        }
        match self.next() {
            Some(next) if next != submission => return Err(OutOfOrder::Waits(next)),
            Some(_) | None => {}
        }
        let outcome = match finding {
            Finding::Failed(reason) => Outcome::Rejected { reason },
            Finding::Copy { .. } => Outcome::Rejected { reason: Rejection::NoImprovement },
            Finding::Scored { score, tree } => self.judge(place, score, tree),
        };
        if let Outcome::Reached { reward_msat } = outcome {
            self.best = self.entries[place].claim;
            // The rewards telescope to at most the budget, so the sum exists.
            self.paid = self.paid.checked_add(reward_msat).unwrap_or(self.rules.budget_msat);
        }
        let entry = &mut self.entries[place];
        entry.outcome = Some(outcome);
        entry.tree = match finding {
            Finding::Scored { tree, .. } | Finding::Copy { tree } => Some(tree),
            Finding::Failed(_) => None,
        };
        // A bounty takes at most 100,000 submissions.
        Ok((place as u32, outcome, entry.offer.paid(&outcome).0))
    }

    fn judge(&self, place: usize, score: Score, tree: Blake3Hash) -> Outcome {
        let claim = self.entries[place].claim;
        let rejected = |reason| Outcome::Rejected { reason };
        // What is public is asked first: so `no_improvement` says nothing about the held-out part.
        if self.is_known(&self.entries[place].submission, &tree) || !self.rules.is_step(self.best, claim) {
            return rejected(Rejection::NoImprovement);
        }
        if self.rules.direction.improvement(claim, score) < 0 {
            return rejected(Rejection::BelowClaim);
        }
        let left = self.scale.payout(self.rules.budget_msat, claim, self.best);
        let (_, reward_msat) = self.entries[place].offer.covered(left);
        if reward_msat == Msat::ZERO { rejected(Rejection::NoImprovement) } else { Outcome::Reached { reward_msat } }
    }
}

#[cfg(test)]
mod tests;
