//! Where a bounty stands: its book, which follows from what is stored, and the sponsor's escrow.

use serde::{Deserialize, Serialize};

use super::super::core::Core;
use super::super::error::{CoordinatorError, refusal};
use super::super::run::RunTask;
use super::posting::BountyTask;
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, Phase};
use crate::protocol::bounty::book::{Book, Finding, Refusal};
use crate::protocol::bounty::offer::Offer;
use crate::protocol::bounty::statements::VerdictRecord;
use crate::protocol::bounty::verdict::{Outcome, Rejection};
use crate::protocol::ids::{PaymentHash, UnixMs};
use crate::protocol::statements::Commitment;
use crate::protocol::verdict::Verdict;
use crate::store::StoreError;
use crate::store::coordinator::{self as tables, meta, set_meta};
use crate::store::database::{Connection, Transaction};

const META_ESCROW: &str = "bounty_escrow";

/// The sponsor has so long to lock its budget.
pub(super) const FUNDING_MS: u64 = 900_000;

/// The sponsor's money, and what it has opened. Masks have bit i for the i-th tranche.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Escrow {
    pub(super) phase: BountyPhase,
    /// Why it was refused, or is closing.
    pub(super) why: Option<String>,
    /// Until when the budget must be locked.
    pub(super) fund_until_ms: UnixMs,
    /// Tranches whose preimage the node may have been given.
    pub(super) taking: u32,
    /// Tranches whose money has arrived, and is in the books.
    pub(super) taken: u32,
    /// Tranches that went back before they were taken.
    pub(super) lost: u32,
    /// Rewards that agents have claimed, once the bounty is closed: what was earned and never claimed is the sponsor's.
    pub(super) claimed_msat: Option<Msat>,
    /// What is paid back to the sponsor.
    pub(super) pay_back: Option<PayBack>,
    /// Payments back that were made: asked for again, they are known. An escrow of before that has none.
    #[serde(default)]
    pub(super) paid_back: Vec<PaymentHash>,
    /// Paid back in full.
    pub(super) paid_back_msat: Msat,
}

/// A payment back to the sponsor that may be under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PayBack {
    pub(super) invoice: String,
    pub(super) payment_hash: PaymentHash,
    pub(super) amount_msat: Msat,
    /// Most that the way to the sponsor may cost: what its invoice leaves of the surplus. One of before that was noted
    /// pays nothing for it, and where that fails another invoice is asked for.
    #[serde(default)]
    pub(super) max_fee_msat: Msat,
}

impl Escrow {
    pub(super) fn new(now: UnixMs) -> Self {
        Self {
            phase: BountyPhase::AwaitingEscrow,
            why: None,
            fund_until_ms: now.plus_ms(FUNDING_MS),
            taking: 0,
            taken: 0,
            lost: 0,
            claimed_msat: None,
            pay_back: None,
            paid_back: Vec::new(),
            paid_back_msat: Msat::ZERO,
        }
    }

    pub(super) fn save(&self, t: &Transaction<'_>) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(self).map_err(|_| StoreError::Corrupt { what: "escrow" })?;
        set_meta(t, META_ESCROW, &bytes)
    }
}

/// May a round be opened?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Takes {
    /// Yes.
    Now,
    /// Not yet, or no more; something is still to be done.
    NotNow,
    /// No, and all is done.
    Over,
}

/// Where a bounty stands.
#[derive(Clone, Debug)]
pub(in super::super) struct BountyState {
    pub(in super::super) book: Book,
    pub(super) escrow: Escrow,
}

impl BountyState {
    /// From what is stored.
    pub(in super::super) fn load(db: &Connection, task: &BountyTask) -> Result<Self, StoreError> {
        let corrupt = |what| move || StoreError::Corrupt { what };
        let posting = task.posting();
        let mut book = Book::open(posting.rules, posting.baseline_tree).map_err(|_| corrupt("bounty's rules")())?;
        for round in tables::rounds(db)? {
            let documents = tables::contributions(db, round.state.number)?;
            for row in &documents {
                book.take(&row.commitment.body).map_err(|_| corrupt("bounty's book")())?;
            }
            if round.state.phase == Phase::Closed {
                for row in &documents {
                    let Some(Verdict::Bounty(verdict)) = &row.verdict else { return Err(corrupt("verdict")()) };
                    decide_again(db, &mut book, verdict)?;
                }
            }
        }
        let escrow = meta(db, META_ESCROW)?.ok_or_else(corrupt("escrow"))?;
        let escrow = serde_json::from_slice(&escrow).map_err(|_| corrupt("escrow")())?;
        Ok(Self { book, escrow })
    }

    /// No commitment after this.
    pub(in super::super) fn deadline_ms(&self) -> UnixMs {
        self.book.deadline_ms()
    }

    /// May a round be opened?
    pub(in super::super) fn takes_submissions(&self, now: UnixMs) -> Takes {
        match self.escrow.phase {
            BountyPhase::Open if self.book.over(now).is_none() => Takes::Now,
            BountyPhase::Open | BountyPhase::AwaitingEscrow | BountyPhase::Checking | BountyPhase::Closing => {
                Takes::NotNow
            }
            BountyPhase::Closed | BountyPhase::Refused => Takes::Over,
        }
    }

    /// Are only those submissions still taken whose fee is on its way?
    pub(in super::super) fn is_closing(&self) -> bool {
        self.escrow.phase == BountyPhase::Closing
    }
}

/// Feeds a verdict back into the book: it has to come out as it did.
fn decide_again(db: &Connection, book: &mut Book, verdict: &VerdictRecord) -> Result<(), StoreError> {
    let corrupt = StoreError::Corrupt { what: "bounty's book" };
    let evaluation = tables::evaluation(db, &verdict.contribution)?;
    let scored = evaluation.as_ref().and_then(|evaluation| evaluation.score.zip(evaluation.tree));
    let copied = evaluation.as_ref().and_then(|evaluation| evaluation.tree);
    let finding = match (verdict.outcome, scored, copied) {
        (_, Some((score, tree)), _) => Finding::Scored { score, tree },
        (Outcome::Rejected { reason: Rejection::NoImprovement }, None, Some(tree)) => Finding::Copy { tree },
        (Outcome::Rejected { reason }, None, _) => Finding::Failed(reason),
        (Outcome::Reached { .. }, None, _) => return Err(corrupt),
    };
    match book.decide(verdict.contribution, finding) {
        Ok((_, outcome, tranches)) if (outcome, tranches) == (verdict.outcome, verdict.tranches_paid) => Ok(()),
        Ok(_) | Err(_) => Err(corrupt),
    }
}

impl Core {
    pub(super) fn bounty_state(&self) -> Result<&BountyState, CoordinatorError> {
        self.bounty.as_ref().ok_or(CoordinatorError::NoBounty)
    }

    /// Changes the escrow, on disk and then in memory.
    pub(super) fn change_escrow(
        &mut self,
        news: &str,
        change: impl FnOnce(&mut Escrow),
        also: impl FnOnce(&Transaction<'_>, crate::store::events::EventSequence) -> Result<(), StoreError>,
    ) -> Result<(), CoordinatorError> {
        let mut escrow = self.bounty_state()?.escrow.clone();
        change(&mut escrow);
        if escrow == self.bounty_state()?.escrow {
            return Ok(());
        }
        let now = self.clock.now();
        self.db.write(|t| {
            let event = super::super::core::Record::Bounty { news }.append(t, now)?;
            escrow.save(t)?;
            also(t, event)
        })?;
        tracing::info!(news, "stored");
        if let Some(state) = &mut self.bounty {
            state.escrow = escrow;
        }
        Ok(())
    }

    /// What would be locked for a submission.
    pub(in super::super) fn offer(&self, commitment: &Commitment) -> Result<Offer, CoordinatorError> {
        let state = self.bounty_state()?;
        match state.escrow.phase {
            // Whoever has paid its fee gets its ticket: the round that is open is the last one.
            BountyPhase::Open | BountyPhase::Closing => {}
            BountyPhase::AwaitingEscrow | BountyPhase::Checking | BountyPhase::Closed | BountyPhase::Refused => {
                let message = "the bounty is not open";
                return Err(refusal(409, "bounty_not_open", message, "Look for another: l402t bounty list").into());
            }
        }
        state.book.offer(commitment, self.clock.now()).map_err(|refused| self.refuse(&refused).into())
    }

    fn refuse(&self, refused: &Refusal) -> super::super::handle::Refusal {
        let decimals = self.run.bounty().map(|task| task.posting().rules.decimals).unwrap_or_default();
        let (status, code, fix) = match refused {
            Refusal::Closed(_) => (409, "bounty_closed", "Look for another: l402t bounty list".to_owned()),
            Refusal::CapReached(_) => (409, "cap_reached", "Look for another: l402t bounty list".to_owned()),
            Refusal::Duplicate(_) => (409, "duplicate", "Go on with that one: l402t bounty status".to_owned()),
            Refusal::ClaimTooSmall(least) => {
                (409, "claim_too_small", format!("Claim {} or better", least.shown(decimals)))
            }
            Refusal::NothingLeft => (409, "nothing_left", "Look for another: l402t bounty list".to_owned()),
            Refusal::NoClaim => (422, "claim", "Commit to a score with the payload".to_owned()),
        };
        refusal(status, code, refused.to_string(), fix)
    }

    /// Writes a sold ticket into the book; nothing in a run of training.
    pub(in super::super) fn note_submission(&mut self, commitment: &Commitment) -> Result<(), CoordinatorError> {
        let RunTask::Bounty(_) = &self.run.task else { return Ok(()) };
        let state = self.bounty.as_mut().ok_or(CoordinatorError::NoBounty)?;
        // The ticket's transaction has just asked the same.
        state.book.take(commitment).map_err(|_| CoordinatorError::Panicked)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escrow_that_an_earlier_build_stored_still_loads() {
        let pay_back = PayBack {
            invoice: "lnbcrt1".into(),
            payment_hash: PaymentHash::from_bytes([1; 32]),
            amount_msat: Msat::new(5_000),
            max_fee_msat: Msat::ZERO,
        };
        let escrow = Escrow { pay_back: Some(pay_back), ..Escrow::new(UnixMs(7)) };
        let mut earlier = serde_json::to_value(&escrow).expect("JSON");
        earlier.as_object_mut().expect("an object").remove("paid_back").expect("noted");
        earlier["pay_back"].as_object_mut().expect("an object").remove("max_fee_msat").expect("noted");
        assert_eq!(serde_json::from_value::<Escrow>(earlier).expect("an escrow"), escrow);
    }
}
