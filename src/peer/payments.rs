//! The peer's money: pays the fee once, sees the reward locked, and settles or cancels it.

use crate::clock::Timer;
use crate::ln::{InvoiceStatus, LnError, PayLimits, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::bounty;
use crate::protocol::hold::may_upload;
use crate::protocol::ids::{PaymentHash, Preimage};
use crate::protocol::statements::{RewardTerms, RoundOpening};
use crate::protocol::verdict::{Outcome, Verdict};

use super::contribution::{FeePayment, Patience, Progress};
use super::error::PeerError;
use super::events::PeerEvent;
use super::journal::{Line, LineKind};
use super::session::Session;
use super::spending::routing_cap;
use super::stage::{Ending, Entry, Fee, Judged, Offer, PaidFee};

/// Most blocks that a fee's route may lock.
const FEE_CLTV_BLOCKS: u32 = 1_008;

/// How often a failed fee payment is tried again.
const FEE_ATTEMPTS: u32 = 3;

/// How long a settlement may take before it is left for later, in the round and after it.
const SETTLE_PATIENCE_MS: u64 = 120_000;
const SETTLE_LOOK_MS: u64 = 5_000;

/// A claim is repeated this often while its HTLC does not move: after a restart the node may not have seen it yet.
const CLAIM_AGAIN_MS: u64 = 1_000;

/// The node's proof of payment is for this fee: what is shown to the coordinator must be worth what was paid.
pub(super) fn check_proof(fee: &Fee, preimage: &Preimage) -> Result<(), LnError> {
    if preimage.payment_hash() == fee.payment_hash { Ok(()) } else { Err(LnError::WrongPreimage(fee.payment_hash)) }
}

impl Session {
    /// Pays a challenge's invoice, or finds that it is paid. Ends only when that is certain.
    pub(super) async fn pay_once(&self, fee: &Fee, opening: &RoundOpening) -> Result<FeePayment, PeerError> {
        let mut hints = self.parts.ln.events();
        let mut attempts = 0;
        let limits = PayLimits { max_fee: routing_cap(fee.amount_msat), max_cltv_blocks: FEE_CLTV_BLOCKS };
        loop {
            let failed = match self.parts.ln.payment(fee.payment_hash).await {
                Ok(PaymentStatus::Succeeded { preimage, fee: routing_msat }) => {
                    check_proof(fee, &preimage)?;
                    return Ok(FeePayment::Paid(PaidFee { fee: fee.clone(), preimage, routing_msat }));
                }
                Ok(PaymentStatus::NotFound) => None,
                Ok(PaymentStatus::Failed { reason, .. }) => Some(reason),
                // Under way, or nobody knows: look again, never send again.
                Ok(PaymentStatus::InFlight | PaymentStatus::Unknown) | Err(LnError::Unavailable(_)) => {
                    self.hint(&mut hints).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if self.coordinator_now() > opening.commit_deadline_ms {
                return Ok(FeePayment::TooLate);
            }
            if let Some(reason) = failed {
                if attempts >= FEE_ATTEMPTS {
                    return Ok(FeePayment::Failed(reason));
                }
                self.pause().await;
            }
            attempts += 1;
            match self.parts.ln.pay(&fee.invoice, limits).await {
                // Unavailable says nothing about the payment: the next look does.
                Ok(_) | Err(LnError::Unavailable(_)) => self.hint(&mut hints).await,
                Err(LnError::Refused(reason) | LnError::BadInvoice(reason)) => {
                    if attempts >= FEE_ATTEMPTS {
                        return self.refused_for_good(fee, reason).await;
                    }
                    self.pause().await;
                }
                Err(error @ (LnError::UnknownHash(_) | LnError::WrongPreimage(_))) => return Err(error.into()),
            }
        }
    }

    /// The node won't pay. Only if it also knows of no payment is the money certainly still here.
    async fn refused_for_good(&self, fee: &Fee, reason: String) -> Result<FeePayment, PeerError> {
        match self.ask_node(|| self.parts.ln.payment(fee.payment_hash)).await? {
            PaymentStatus::NotFound | PaymentStatus::Failed { .. } => Ok(FeePayment::Failed(reason)),
            PaymentStatus::InFlight | PaymentStatus::Succeeded { .. } | PaymentStatus::Unknown => {
                Err(PeerError::FeeNotPaid { reason })
            }
        }
    }

    /// Does this peer's own node hold every tranche, in full and for long enough?
    pub(super) async fn all_locked(&self, offer: &Offer) -> Result<bool, PeerError> {
        let height = self.ask_node(|| self.parts.ln.info()).await?.block_height;
        for tranche in &offer.ticket.terms.body.tranches {
            let locked = match self.ask_node(|| self.parts.ln.invoice(tranche.payment_hash)).await? {
                InvoiceStatus::Accepted { amount, expiry_height } => {
                    amount >= tranche.amount_msat && expiry_height.is_none_or(|expiry| may_upload(height, expiry))
                }
                InvoiceStatus::NotFound
                | InvoiceStatus::Open
                | InvoiceStatus::Settled { .. }
                | InvoiceStatus::Canceled => false,
            };
            if !locked {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives everything back and ends the contribution. Only before the payload has left this machine.
    pub(super) async fn withdraw(
        &self,
        entry: Entry,
        terms: &RewardTerms,
        reason: impl Into<String> + Send,
    ) -> Result<Progress, PeerError> {
        for tranche in &terms.tranches {
            match self.ask_node(|| self.parts.ln.cancel(tranche.payment_hash)).await {
                // One that was never made needs no cancelling.
                Ok(()) | Err(LnError::UnknownHash(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.end(entry, Ending::Missed { reason: reason.into() }, &[])
    }

    /// Claims the tranches whose preimages are there and gives the others back, until each has ended.
    pub(super) async fn settle(&self, entry: Entry, judged: Judged, patience: Patience) -> Result<Progress, PeerError> {
        let tranches = &judged.offer.ticket.terms.body.tranches;
        let mut legs: Vec<Leg> = tranches
            .iter()
            .zip(&judged.receipt.body.preimages)
            .map(|(tranche, preimage)| Leg {
                payment_hash: tranche.payment_hash,
                amount: tranche.amount_msat,
                preimage: *preimage,
                claimed_at_ms: None,
                end: None,
            })
            .collect();
        let mut hints = self.parts.ln.events();
        let watch = self.timer();
        loop {
            for leg in legs.iter_mut().filter(|leg| leg.end.is_none()) {
                self.advance_leg(leg, &watch).await?;
            }
            if legs.iter().all(|leg| leg.end.is_some()) {
                return self.account(entry, &judged, &legs);
            }
            let patience_ms = match patience {
                Patience::ThisRound => SETTLE_PATIENCE_MS,
                Patience::OneLook => SETTLE_LOOK_MS,
            };
            if watch.elapsed_ms() > patience_ms {
                tracing::warn!(contribution = %entry.contribution, "not every tranche has ended yet; looking again later");
                return Ok(Progress::Parked);
            }
            self.hint(&mut hints).await;
        }
    }

    async fn advance_leg(&self, leg: &mut Leg, watch: &Timer) -> Result<(), PeerError> {
        let status = self.ask_node(|| self.parts.ln.invoice(leg.payment_hash)).await?;
        let asked = match (status, leg.preimage) {
            (InvoiceStatus::Settled { amount }, _) => {
                leg.end = Some(LegEnd::Received { amount, settle_ms: watch.elapsed_ms() });
                Ok(())
            }
            (InvoiceStatus::Canceled | InvoiceStatus::NotFound, _) => {
                leg.end = Some(LegEnd::GivenBack);
                Ok(())
            }
            (InvoiceStatus::Open | InvoiceStatus::Accepted { .. }, Some(preimage)) => {
                let now_ms = watch.elapsed_ms();
                if leg.claimed_at_ms.is_none_or(|at| now_ms.saturating_sub(at) >= CLAIM_AGAIN_MS) {
                    leg.claimed_at_ms = Some(now_ms);
                    self.parts.ln.settle(preimage).await
                } else {
                    Ok(())
                }
            }
            (InvoiceStatus::Open | InvoiceStatus::Accepted { .. }, None) => {
                self.parts.ln.cancel(leg.payment_hash).await
            }
        };
        match asked {
            Ok(()) | Err(LnError::Unavailable(_) | LnError::UnknownHash(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Every tranche has ended: writes what came in.
    fn account(&self, entry: Entry, judged: &Judged, legs: &[Leg]) -> Result<Progress, PeerError> {
        let mut lines = Vec::new();
        let (mut received, mut lost) = (Vec::new(), Vec::new());
        let mut settle_ms = Vec::new();
        for (place, leg) in (0u32..).zip(legs) {
            match leg.end {
                Some(LegEnd::Received { amount, settle_ms: took_ms }) => {
                    lines.push(Line { kind: LineKind::Reward, tranche: place, amount });
                    received.push(amount);
                    settle_ms.push(took_ms);
                }
                Some(LegEnd::GivenBack) | None if leg.preimage.is_some() => lost.push(leg.amount),
                Some(LegEnd::GivenBack) | None => {}
            }
        }
        let sum = |amounts: Vec<Msat>| Msat::checked_sum(amounts).unwrap_or(Msat::MAX_MONEY);
        let (received_msat, lost_msat) = (sum(received), sum(lost));
        if lost_msat > Msat::ZERO {
            tracing::error!(%lost_msat, "a reward expired before it could be claimed");
        }
        let ending = match &judged.verdict {
            Verdict::Training(verdict) => match &verdict.outcome {
                Outcome::Accepted { .. } => Ending::Accepted { received_msat, lost_msat },
                Outcome::Rejected { rejection } => Ending::Rejected { rejection: rejection.clone() },
            },
            Verdict::Bounty(verdict) => match verdict.outcome {
                bounty::verdict::Outcome::Reached { .. } => Ending::Accepted { received_msat, lost_msat },
                bounty::verdict::Outcome::Rejected { reason } => Ending::NotReached { reason, received_msat },
            },
        };
        let fee = judged.offer.ticket.fee.as_ref();
        let fee_msat = fee.map_or(Msat::ZERO, |paid| sum(vec![paid.fee.amount_msat, paid.routing_msat]));
        let settled = PeerEvent::Settled {
            round: entry.round(),
            reward_msat: received_msat,
            lost_msat,
            fee_msat,
            settle_ms,
            train_ms: entry.train_ms,
            lock_ms: entry.lock_ms,
            round_ms: self.round_ms(entry.round()),
        };
        let progress = self.end(entry, ending, &lines)?;
        self.emit(&settled);
        Ok(progress)
    }

    /// Claims whatever a receipt that can't be trusted pays all the same.
    pub(super) async fn claim_what_fits(&self, offer: &Offer, preimages: &[Option<Preimage>]) {
        for preimage in preimages.iter().flatten() {
            let hash = preimage.payment_hash();
            if offer.ticket.terms.body.tranches.iter().any(|tranche| tranche.payment_hash == hash)
                && let Err(error) = self.parts.ln.settle(*preimage).await
            {
                tracing::warn!(%hash, %error, "a tranche could not be claimed");
            }
        }
    }
}

/// A tranche on its way to its end.
#[derive(Debug)]
struct Leg {
    payment_hash: PaymentHash,
    amount: Msat,
    preimage: Option<Preimage>,
    claimed_at_ms: Option<u64>,
    end: Option<LegEnd>,
}

#[derive(Clone, Copy, Debug)]
enum LegEnd {
    Received { amount: Msat, settle_ms: u64 },
    GivenBack,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fees_own_preimage_proves_its_payment() {
        let preimage = Preimage::from_bytes([7; 32]);
        let fee = Fee {
            macaroon: String::new(),
            invoice: String::new(),
            payment_hash: preimage.payment_hash(),
            amount_msat: Msat::new(1_000),
        };
        assert!(check_proof(&fee, &preimage).is_ok());
        assert!(matches!(check_proof(&fee, &Preimage::from_bytes([8; 32])), Err(LnError::WrongPreimage(_))));
    }
}
