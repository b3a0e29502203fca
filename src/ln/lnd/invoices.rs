//! Incoming payments: invoices, ordinary and held, and how they end.
//!
//! LND keeps the state. Only a preimage that comes before its HTLC is kept here, because LND refuses it then; it is
//! claimed with when the HTLC arrives. An invoice that is being claimed is never canceled.

use std::sync::Arc;

use fedimint_tonic_lnd::invoicesrpc::lookup_invoice_msg::InvoiceRef;
use fedimint_tonic_lnd::invoicesrpc::{AddHoldInvoiceRequest, CancelInvoiceMsg, LookupInvoiceMsg, SettleInvoiceMsg};
use fedimint_tonic_lnd::lnrpc::invoice::InvoiceState;
use fedimint_tonic_lnd::lnrpc::{Invoice as LndInvoice, InvoiceHtlcState};

use super::client::{CALL_LIMIT, Trouble, call};
use super::core::Core;
use super::watch;
use crate::ln::{Invoice, InvoiceRequest, InvoiceStatus, LnError, LnEvent, MIN_FINAL_CLTV_BLOCKS, bolt11};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage};

/// LND gives an accepted hold invoice back so many blocks before its HTLC could be timed out (`holdexpirydelta`, the
/// default of 0.21).
const HOLD_EXPIRY_BLOCKS: u32 = 18;

impl Core {
    pub(super) async fn add_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LnError> {
        let asked = LndInvoice {
            memo: request.description.clone(),
            value_msat: msat(request.amount)?,
            expiry: i64::from(request.expiry_s),
            cltv_expiry: u64::from(MIN_FINAL_CLTV_BLOCKS),
            private: true,
            ..LndInvoice::default()
        };
        let made = call("AddInvoice", CALL_LIMIT, self.client.lightning().add_invoice(asked)).await?;
        let checked = bolt11::parse(&made.payment_request, self.network)?;
        Ok(Invoice { bolt11: checked.bolt11, payment_hash: checked.payment_hash })
    }

    pub(super) async fn add_hold_invoice(
        self: &Arc<Self>,
        hash: PaymentHash,
        request: &InvoiceRequest,
        final_cltv_blocks: u32,
    ) -> Result<String, LnError> {
        let asked = AddHoldInvoiceRequest {
            memo: request.description.clone(),
            hash: hash.as_bytes().to_vec(),
            value_msat: msat(request.amount)?,
            expiry: i64::from(request.expiry_s),
            cltv_expiry: u64::from(final_cltv_blocks),
            private: true,
            ..AddHoldInvoiceRequest::default()
        };
        let text = match call("AddHoldInvoice", CALL_LIMIT, self.client.invoices().add_hold_invoice(asked)).await {
            Ok(made) => made.payment_request,
            Err(trouble @ Trouble::NoAnswer(_)) => return Err(trouble.into()),
            // Whatever it says: one that is there already is the answer.
            Err(trouble) => match self.find(hash).await? {
                Some(known) if is_ordinary(&known) => {
                    return Err(LnError::Refused(format!("{hash} is an ordinary invoice's")));
                }
                Some(known) => known.payment_request,
                None => return Err(trouble.into()),
            },
        };
        let checked = bolt11::parse(&text, self.network)?;
        if checked.payment_hash != hash {
            return Err(LnError::Unavailable(format!(
                "it made an invoice for {} instead of {hash}",
                checked.payment_hash
            )));
        }
        watch::invoice(self, hash);
        Ok(checked.bolt11)
    }

    /// The invoice with this hash.
    async fn find(&self, hash: PaymentHash) -> Result<Option<LndInvoice>, Trouble> {
        let request = LookupInvoiceMsg {
            invoice_ref: Some(InvoiceRef::PaymentHash(hash.as_bytes().to_vec())),
            ..LookupInvoiceMsg::default()
        };
        match call("LookupInvoiceV2", CALL_LIMIT, self.client.invoices().lookup_invoice_v2(request)).await {
            Ok(invoice) => Ok(Some(invoice)),
            Err(Trouble::NotFound) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    pub(super) async fn invoice_status(self: &Arc<Self>, hash: PaymentHash) -> Result<InvoiceStatus, LnError> {
        let Some(mut invoice) = self.find(hash).await? else { return Ok(InvoiceStatus::NotFound) };
        if invoice.state() == InvoiceState::Open && self.has_expired(&invoice) {
            // LND does it within a second or so; until then it would still take the money.
            invoice = self.withdraw(hash).await?;
        }
        Ok(match invoice.state() {
            InvoiceState::Open => {
                self.listen_to(hash, &invoice);
                InvoiceStatus::Open
            }
            InvoiceState::Accepted => {
                self.listen_to(hash, &invoice);
                let (amount, expiry_height) = locked(&invoice);
                InvoiceStatus::Accepted { amount, expiry_height }
            }
            InvoiceState::Settled => InvoiceStatus::Settled { amount: paid(&invoice) },
            InvoiceState::Canceled => InvoiceStatus::Canceled,
        })
    }

    /// After a restart nobody listens yet to what somebody asks about.
    fn listen_to(self: &Arc<Self>, hash: PaymentHash, invoice: &LndInvoice) {
        if !is_ordinary(invoice) {
            watch::invoice(self, hash);
        }
    }

    fn has_expired(&self, invoice: &LndInvoice) -> bool {
        let end_s = invoice.creation_date.saturating_add(invoice.expiry);
        u64::try_from(end_s).is_ok_and(|end_s| self.now().0 >= end_s.saturating_mul(1_000))
    }

    /// Cancels an open invoice that has expired, and looks again: an HTLC may have been faster.
    async fn withdraw(&self, hash: PaymentHash) -> Result<LndInvoice, LnError> {
        let request = CancelInvoiceMsg { payment_hash: hash.as_bytes().to_vec() };
        call("CancelInvoice", CALL_LIMIT, self.client.invoices().cancel_invoice(request)).await?;
        self.find(hash).await?.ok_or(LnError::UnknownHash(hash))
    }

    pub(super) async fn settle(self: &Arc<Self>, preimage: Preimage) -> Result<(), LnError> {
        let hash = preimage.payment_hash();
        let Err(trouble) = self.try_to_settle(preimage).await else { return Ok(()) };
        if let Trouble::NoAnswer(_) | Trouble::Denied(_) = trouble {
            return Err(trouble.into());
        }
        let _ending = self.ending.lock().await;
        let invoice = self.find(hash).await?.ok_or(LnError::UnknownHash(hash))?;
        match invoice.state() {
            InvoiceState::Settled => return Ok(()),
            InvoiceState::Canceled => return Err(LnError::Refused(format!("the invoice for {hash} is canceled"))),
            InvoiceState::Open if is_ordinary(&invoice) => {
                return Err(LnError::Refused(format!("{hash} is not a hold invoice")));
            }
            InvoiceState::Open if self.has_expired(&invoice) => {
                return Err(LnError::Refused(format!("the invoice for {hash} has expired")));
            }
            InvoiceState::Open | InvoiceState::Accepted => {}
        }
        self.records.keep(preimage).await?;
        watch::invoice(self, hash);
        // The HTLC may have arrived before the preimage was on disk for the listener to find.
        match self.try_to_settle(preimage).await {
            Ok(()) | Err(Trouble::Refused(_)) => Ok(()),
            Err(trouble) => Err(trouble.into()),
        }
    }

    async fn try_to_settle(&self, preimage: Preimage) -> Result<(), Trouble> {
        let request = SettleInvoiceMsg { preimage: preimage.as_bytes().to_vec() };
        call("SettleInvoice", CALL_LIMIT, self.client.invoices().settle_invoice(request)).await.map(drop)
    }

    /// Claims with a preimage that was kept for this. What does not work now is tried again.
    pub(super) async fn settle_kept(&self, hash: PaymentHash) {
        let preimage = match self.records.kept(hash).await {
            Ok(None) => return,
            Ok(Some(preimage)) => preimage,
            Err(error) => return tracing::warn!(payment_hash = %hash, %error, "could not claim yet"),
        };
        match self.try_to_settle(preimage).await {
            Ok(()) => {}
            Err(Trouble::Refused(reason)) => tracing::debug!(payment_hash = %hash, reason, "nothing to claim yet"),
            Err(trouble) => tracing::warn!(payment_hash = %hash, ?trouble, "could not claim yet"),
        }
    }

    pub(super) async fn cancel(&self, hash: PaymentHash) -> Result<(), LnError> {
        let _ending = self.ending.lock().await;
        if self.records.kept(hash).await?.is_some() {
            let invoice = self.find(hash).await?.ok_or(LnError::UnknownHash(hash))?;
            match invoice.state() {
                InvoiceState::Canceled => return Ok(()),
                InvoiceState::Open | InvoiceState::Accepted | InvoiceState::Settled => {
                    return Err(LnError::Refused(format!("the invoice for {hash} is being settled")));
                }
            }
        }
        let request = CancelInvoiceMsg { payment_hash: hash.as_bytes().to_vec() };
        match call("CancelInvoice", CALL_LIMIT, self.client.invoices().cancel_invoice(request)).await {
            Ok(_) => {
                self.tell(LnEvent::Invoice(hash));
                Ok(())
            }
            Err(Trouble::NotFound) => Err(LnError::UnknownHash(hash)),
            Err(trouble @ (Trouble::NoAnswer(_) | Trouble::Denied(_))) => Err(trouble.into()),
            Err(trouble @ (Trouble::AlreadyExists | Trouble::Refused(_))) => match self.find(hash).await? {
                None => Err(LnError::UnknownHash(hash)),
                Some(invoice) if invoice.state() == InvoiceState::Settled => {
                    Err(LnError::Refused(format!("the invoice for {hash} is settled")))
                }
                Some(_) => Err(trouble.into()),
            },
        }
    }
}

fn msat(amount: Msat) -> Result<i64, LnError> {
    i64::try_from(amount.msat()).map_err(|_| LnError::Refused(format!("can't ask for {amount}")))
}

/// LND has the preimage of an invoice that is not held from the beginning.
fn is_ordinary(invoice: &LndInvoice) -> bool {
    let preimage_is_known = invoice.r_preimage.iter().any(|byte| *byte != 0);
    match invoice.state() {
        InvoiceState::Open | InvoiceState::Accepted | InvoiceState::Canceled => preimage_is_known,
        InvoiceState::Settled => false,
    }
}

/// What is locked, and the height at which LND gives it back.
fn locked(invoice: &LndInvoice) -> (Msat, Option<u32>) {
    let held = || invoice.htlcs.iter().filter(|htlc| htlc.state() == InvoiceHtlcState::Accepted);
    let amount = Msat::new(held().fold(0_u64, |sum, htlc| sum.saturating_add(htlc.amt_msat)));
    let first = held().map(|htlc| htlc.expiry_height).min();
    let expiry =
        first.and_then(|height| u32::try_from(height).ok()).map(|height| height.saturating_sub(HOLD_EXPIRY_BLOCKS));
    (amount, expiry)
}

fn paid(invoice: &LndInvoice) -> Msat {
    Msat::new(u64::try_from(invoice.amt_paid_msat).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use fedimint_tonic_lnd::lnrpc::InvoiceHtlc;

    use super::*;

    fn htlc(amt_msat: u64, expiry_height: i32, state: InvoiceHtlcState) -> InvoiceHtlc {
        InvoiceHtlc { amt_msat, expiry_height, state: state.into(), ..InvoiceHtlc::default() }
    }

    #[test]
    fn the_first_of_the_locked_htlcs_decides_when_the_money_goes_back() {
        let htlcs = vec![
            htlc(1_000, 700, InvoiceHtlcState::Accepted),
            htlc(2_000, 650, InvoiceHtlcState::Accepted),
            htlc(4_000, 10, InvoiceHtlcState::Canceled),
        ];
        let invoice = LndInvoice { htlcs, ..LndInvoice::default() };
        assert_eq!(locked(&invoice), (Msat::new(3_000), Some(632)));
        assert_eq!(locked(&LndInvoice::default()), (Msat::ZERO, None));
    }

    #[test]
    fn an_invoice_whose_preimage_lnd_has_is_an_ordinary_one() {
        let with = |r_preimage: Vec<u8>| LndInvoice { r_preimage, ..LndInvoice::default() };
        assert!(is_ordinary(&with(vec![7; 32])));
        assert!(!is_ordinary(&with(Vec::new())));
        assert!(!is_ordinary(&with(vec![0; 32])));
    }
}
