//! What was taken of the sponsor's money and paid to nobody: paid back, on the sponsor's invoices, each of them once.

use super::super::core::Core;
use super::super::engine::Shared;
use super::super::error::{CoordinatorError, refusal};
use super::state::{BountyState, PayBack};
use crate::ln::bolt11;
use crate::ln::{LnError, PayLimits, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::api::BountyPhase;
use crate::protocol::ids::{PaymentHash, RoundNumber};
use crate::protocol::round::Account;
use crate::store::coordinator as tables;
use crate::store::{StoreError, ledger};

/// A sponsor's invoice must be payable for so long.
const PAY_BACK_LIFE_MS: u64 = 60_000;
/// Most blocks that a payment back may be locked.
const PAY_BACK_BLOCKS: u32 = 1_008;
/// Invoices that are paid for one bounty, at most: every one is remembered.
const MOST_PAY_BACKS: usize = 64;

impl Shared {
    /// Pays back what the sponsor asked for, once.
    pub(super) async fn pay_back(&self, pay_back: PayBack) -> Result<(), CoordinatorError> {
        match self.ln.payment(pay_back.payment_hash).await? {
            PaymentStatus::NotFound => {
                let limits = PayLimits { max_fee: pay_back.max_fee_msat, max_cltv_blocks: PAY_BACK_BLOCKS };
                match self.ln.pay(&pay_back.invoice, limits).await {
                    Ok(_) => Ok(()),
                    // It was never tried and never will be, such as one that has expired: another invoice is needed.
                    Err(error @ (LnError::Refused(_) | LnError::BadInvoice(_)))
                        if self.ln.payment(pay_back.payment_hash).await? == PaymentStatus::NotFound =>
                    {
                        self.give_pay_back_up(&pay_back, &error.to_string()).await
                    }
                    Err(error) => {
                        tracing::warn!(payment = %pay_back.payment_hash, %error, "the sponsor could not be paid back yet");
                        Ok(())
                    }
                }
            }
            PaymentStatus::InFlight | PaymentStatus::Unknown => Ok(()),
            PaymentStatus::Succeeded { fee, .. } => self.with(move |core| core.note_paid_back(&pay_back, fee)).await,
            PaymentStatus::Failed { reason, .. } => self.give_pay_back_up(&pay_back, &reason).await,
        }
    }

    async fn give_pay_back_up(&self, pay_back: &PayBack, reason: &str) -> Result<(), CoordinatorError> {
        tracing::warn!(payment = %pay_back.payment_hash, reason, "the sponsor was not paid back: another invoice is needed");
        self.with(|core| core.change_escrow("pay_back_failed", |escrow| escrow.pay_back = None, |_, _| Ok(()))).await
    }
}

impl Core {
    /// Taken of the escrow, and paid to nobody.
    pub(super) fn surplus(&self) -> Result<Msat, CoordinatorError> {
        let task = self.run.bounty_task()?;
        let BountyState { escrow, book, .. } = self.bounty_state()?;
        let rewards = escrow.claimed_msat.unwrap_or(book.paid());
        let paid = rewards.checked_add(escrow.paid_back_msat).unwrap_or(Msat::MAX_MONEY);
        Ok(task.sum(escrow.taken).checked_sub(paid).unwrap_or(Msat::ZERO))
    }

    /// Takes the sponsor's invoice for the surplus. One that is being paid, or was, is known: nothing is paid twice.
    pub(super) fn take_pay_back(&mut self, invoice: &str, network: bolt11::Network) -> Result<(), CoordinatorError> {
        let fix = "Send a BOLT 11 invoice of your own for the surplus, or less where the way to it costs, with a minute to pay it";
        let bad = |what: String| refusal(422, "bad_invoice", what, fix);
        let escrow = &self.bounty_state()?.escrow;
        let surplus = self.surplus()?;
        let parsed = bolt11::parse(invoice, network);
        if parsed.as_ref().is_ok_and(|parsed| escrow.paid_back.contains(&parsed.payment_hash))
            || escrow.pay_back.as_ref().is_some_and(|pay_back| pay_back.invoice == invoice)
        {
            return Ok(());
        }
        if escrow.phase != BountyPhase::Closed || surplus == Msat::ZERO {
            return Err(
                refusal(409, "no_surplus", "there is nothing to pay back now", "Wait until it is closed").into()
            );
        }
        if escrow.pay_back.is_some() {
            let fix = "Wait until that one has been paid, or has failed";
            return Err(refusal(409, "pay_back_under_way", "another invoice is being paid", fix).into());
        }
        if escrow.paid_back.len() >= MOST_PAY_BACKS {
            let message = format!("{MOST_PAY_BACKS} invoices have been paid for this bounty, no more are taken");
            return Err(refusal(409, "too_many_pay_backs", message, "Ask the coordinator's operator").into());
        }
        let parsed = parsed.map_err(|error| bad(error.to_string()))?;
        // What the way costs is the sponsor's, too.
        let max_fee_msat = surplus
            .checked_sub(parsed.amount)
            .filter(|_| parsed.amount > Msat::ZERO)
            .ok_or_else(|| bad(format!("it asks for {}, the surplus is {surplus}", parsed.amount)))?;
        if parsed.is_expired(self.clock.now().plus_ms(PAY_BACK_LIFE_MS)) {
            return Err(bad("it expires too soon".to_owned()).into());
        }
        // The node takes a payment of the past with the same hash for this one, and some of these preimages are public.
        if self.is_of_this_bounty(&parsed.payment_hash)? {
            return Err(bad("its payment hash is one of this bounty's own".to_owned()).into());
        }
        let pay_back = PayBack {
            invoice: invoice.to_owned(),
            payment_hash: parsed.payment_hash,
            amount_msat: parsed.amount,
            max_fee_msat,
        };
        self.change_escrow("paying_back", |escrow| escrow.pay_back = Some(pay_back), |_, _| Ok(()))
    }

    /// Is it a hash of the escrow, or of a reward?
    fn is_of_this_bounty(&self, hash: &PaymentHash) -> Result<bool, CoordinatorError> {
        let task = self.run.bounty_task()?;
        let escrow = task.manifest.body.escrow.iter().any(|tranche| tranche.payment_hash == *hash);
        Ok(escrow || tables::has_payment(self.db.read(), hash)?)
    }

    fn note_paid_back(&mut self, paid: &PayBack, fee: Msat) -> Result<(), CoordinatorError> {
        let (hash, amount, round) = (paid.payment_hash, paid.amount_msat, RoundNumber(0));
        self.change_escrow(
            "paid_back",
            |escrow| {
                escrow.pay_back = None;
                escrow.paid_back.push(hash);
                let spent = amount.checked_add(fee).unwrap_or(amount);
                escrow.paid_back_msat = escrow.paid_back_msat.checked_add(spent).unwrap_or(Msat::MAX_MONEY);
            },
            |t, event| {
                ledger::post(t, event, round, (Account::Wallet, Account::Escrow), amount)?;
                if fee > Msat::ZERO {
                    ledger::post(t, event, round, (Account::Wallet, Account::Routing), fee)?;
                }
                Ok::<_, StoreError>(())
            },
        )
    }
}
