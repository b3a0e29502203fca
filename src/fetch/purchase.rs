//! One payment, once: asked for, followed to its end, and found again after a crash.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::error::FetchError;
use crate::clock::{Clock, Stopwatch};
use crate::ln::bolt11::{self, CheckedInvoice};
use crate::ln::{Lightning, LnError, PayLimits, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::ids::Preimage;

/// Most blocks that a route may lock the money.
const MAX_CLTV_BLOCKS: u32 = 1_008;
/// How often a payment that failed for good is tried again.
const ATTEMPTS: u32 = 3;
/// How long a payment may be under way before it is left to a later run.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// How long between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What may be done about an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Pay it.
    Pay,
    /// Find out what became of it, and start nothing.
    LookUp,
}

/// How a purchase ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purchase {
    /// Paid.
    Paid { preimage: Preimage, routing_fee: Msat },
    /// Certainly not paid.
    Unpaid { reason: String },
}

/// Pays an invoice, or finds how that has ended. Whatever happened before, it is paid once: the node is asked first, and
/// asked to pay only where it says that there is no payment.
pub(super) async fn pay_once(
    ln: &dyn Lightning,
    clock: &dyn Clock,
    bolt11: &str,
    errand: Errand,
    (max_fee, patience): (Msat, Duration),
) -> Result<Purchase, FetchError> {
    let invoice = bolt11::parse_any_network(bolt11)?;
    let limits = PayLimits { max_fee, max_cltv_blocks: MAX_CLTV_BLOCKS };
    let mut hints = ln.events();
    let watch = Stopwatch::start();
    let mut attempts = 0;
    let mut last_words = String::from("the node does not know it");
    loop {
        let may_pay = match ln.payment(invoice.payment_hash).await {
            Ok(PaymentStatus::Succeeded { preimage, fee }) => return proven(&invoice, preimage, fee),
            Ok(PaymentStatus::Failed { reason, .. }) => {
                last_words = reason;
                true
            }
            Ok(PaymentStatus::NotFound) => true,
            // Under way, or nobody knows: look again, never send again.
            Ok(PaymentStatus::InFlight | PaymentStatus::Unknown) | Err(LnError::Unavailable(_)) => false,
            Err(error) => return Err(error.into()),
        };
        if may_pay {
            if errand == Errand::LookUp || attempts >= ATTEMPTS {
                return Ok(Purchase::Unpaid { reason: last_words });
            }
            if invoice.is_expired(clock.now()) {
                return Ok(Purchase::Unpaid { reason: format!("{last_words}, and the invoice has expired") });
            }
            attempts += 1;
            match ln.pay(bolt11, limits).await {
                // Unavailable says nothing about the payment: the next look does.
                Ok(_) | Err(LnError::Unavailable(_)) => {}
                Err(LnError::Refused(reason) | LnError::BadInvoice(reason)) => last_words = reason,
                Err(error @ (LnError::UnknownHash(_) | LnError::WrongPreimage(_))) => return Err(error.into()),
            }
        }
        if watch.elapsed() >= patience {
            return Err(FetchError::UnderWay(invoice.payment_hash));
        }
        // A hint may be lost: looking again at intervals is what counts.
        if let Ok(Err(_)) = timeout(LOOK_EVERY, hints.recv()).await {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The node's proof of payment must be this invoice's: what is shown to the server has to be worth what was paid.
fn proven(invoice: &CheckedInvoice, preimage: Preimage, routing_fee: Msat) -> Result<Purchase, FetchError> {
    if preimage.payment_hash() != invoice.payment_hash {
        return Err(LnError::WrongPreimage(invoice.payment_hash).into());
    }
    Ok(Purchase::Paid { preimage, routing_fee })
}
