//! Outgoing payments. LND's own record of a hash decides: only one that it does not have, or whose end is a failure, is
//! sent. An order without an answer is open until LND shows it or enough time has gone by: it is never sent again blindly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fedimint_tonic_lnd::lnrpc::payment::PaymentStatus as LndStatus;
use fedimint_tonic_lnd::lnrpc::{Payment, PaymentFailureReason};
use fedimint_tonic_lnd::routerrpc::{SendPaymentRequest, TrackPaymentRequest};

use super::client::{Trouble, first};
use super::core::Core;
use crate::clock::Stopwatch;
use crate::ln::bolt11::CheckedInvoice;
use crate::ln::{LnError, LnEvent, PayLimits, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage};

/// How long LND looks for a route. What is locked by then stays locked.
const ATTEMPT_S: i32 = 30;
/// LND adds so many blocks to the last hop, for blocks that are found on the way.
const PADDING_BLOCKS: u32 = 3;
/// For so long an order without an answer may still reach LND.
const UNSURE_FOR: Duration = Duration::from_secs(60);

/// Orders that got no answer, and since when.
#[derive(Debug, Default)]
pub(super) struct Unsure(Mutex<HashMap<PaymentHash, Stopwatch>>);

impl Unsure {
    fn note(&self, hash: PaymentHash) {
        let mut unsure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unsure.retain(|_, since| since.elapsed() < UNSURE_FOR);
        unsure.insert(hash, Stopwatch::start());
    }

    fn is(&self, hash: PaymentHash) -> bool {
        let unsure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unsure.get(&hash).is_some_and(|since| since.elapsed() < UNSURE_FOR)
    }
}

impl Core {
    pub(super) async fn pay(self: &Arc<Self>, invoice: &CheckedInvoice, limits: PayLimits) -> Result<(), LnError> {
        let hash = invoice.payment_hash;
        match self.payment_status(hash).await? {
            PaymentStatus::InFlight | PaymentStatus::Succeeded { .. } => return Ok(()),
            PaymentStatus::Unknown => {
                return Err(LnError::Unavailable(format!("whether it pays {hash} already is not known yet")));
            }
            PaymentStatus::NotFound | PaymentStatus::Failed { .. } => {}
        }
        if invoice.payee_node_id == self.node_id {
            return Err(LnError::Refused("this is the node's own invoice".into()));
        }
        if invoice.is_expired(self.now()) {
            return Err(LnError::BadInvoice("it has expired".into()));
        }
        // LND subtracts the last hop from the limit without looking whether there is enough to subtract from.
        let least_blocks = invoice.min_final_cltv_blocks + PADDING_BLOCKS;
        if least_blocks >= limits.max_cltv_blocks {
            let reason = format!(
                "it would be locked for {least_blocks} blocks, and at most {} are allowed",
                limits.max_cltv_blocks
            );
            return self.refuse(hash, reason).await;
        }
        if self.records.refused(hash).await?.is_some() {
            self.records.allow(hash).await?;
        }
        self.wait_until_routable(&invoice.payee_node_id).await?;
        self.send(invoice, limits).await
    }

    /// A payment that never was, but has an end that can be asked for.
    async fn refuse(&self, hash: PaymentHash, reason: String) -> Result<(), LnError> {
        self.records.refuse(hash, reason).await?;
        self.tell(LnEvent::Payment(hash));
        Ok(())
    }

    async fn send(&self, invoice: &CheckedInvoice, limits: PayLimits) -> Result<(), LnError> {
        let hash = invoice.payment_hash;
        let too_large = |what: &str| LnError::Refused(format!("the {what} is more than LND takes"));
        let request = SendPaymentRequest {
            payment_request: invoice.bolt11.clone(),
            timeout_seconds: ATTEMPT_S,
            fee_limit_msat: i64::try_from(limits.max_fee.msat()).map_err(|_| too_large("fee limit"))?,
            cltv_limit: i32::try_from(limits.max_cltv_blocks).map_err(|_| too_large("block limit"))?,
            max_parts: 1,
            ..SendPaymentRequest::default()
        };
        self.watch.is_in_flight(hash);
        match first("SendPaymentV2", self.client.router().send_payment_v2(request)).await {
            Ok(_) | Err(Trouble::AlreadyExists) => Ok(()),
            Err(trouble @ Trouble::NoAnswer(_)) => {
                self.unsure.note(hash);
                Err(trouble.into())
            }
            Err(trouble @ (Trouble::NotFound | Trouble::Denied(_) | Trouble::Refused(_))) => {
                // Refused before it began, or broken off after: LND's record knows.
                match self.lnd_status(hash).await {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => Err(trouble.into()),
                    Err(unanswered) => {
                        self.unsure.note(hash);
                        Err(unanswered.into())
                    }
                }
            }
        }
    }

    pub(super) async fn payment_status(&self, hash: PaymentHash) -> Result<PaymentStatus, LnError> {
        let status = match self.lnd_status(hash).await? {
            Some(payment) => status_of(&payment),
            None => match self.records.refused(hash).await? {
                Some(reason) => PaymentStatus::Failed { reason },
                None => PaymentStatus::NotFound,
            },
        };
        let status = match status {
            // What is known is an earlier attempt's end, and there may be a later one.
            PaymentStatus::NotFound | PaymentStatus::Failed { .. } if self.unsure.is(hash) => PaymentStatus::Unknown,
            known => known,
        };
        if status == PaymentStatus::InFlight {
            // After a restart nobody waits yet for what somebody asks about.
            self.watch.is_in_flight(hash);
        }
        Ok(status)
    }

    /// LND's record.
    async fn lnd_status(&self, hash: PaymentHash) -> Result<Option<Payment>, Trouble> {
        let request = TrackPaymentRequest { payment_hash: hash.as_bytes().to_vec(), no_inflight_updates: false };
        match first("TrackPaymentV2", self.client.router().track_payment_v2(request)).await {
            Ok(payment) => Ok(Some(payment)),
            Err(Trouble::NotFound) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }
}

fn status_of(payment: &Payment) -> PaymentStatus {
    match payment.status() {
        LndStatus::InFlight | LndStatus::Initiated => PaymentStatus::InFlight,
        LndStatus::Succeeded => {
            let preimage = payment.payment_preimage.parse::<Preimage>();
            let fee = u64::try_from(payment.fee_msat);
            match (preimage, fee) {
                (Ok(preimage), Ok(fee)) => PaymentStatus::Succeeded { preimage, fee: Msat::new(fee) },
                _ => PaymentStatus::Unknown,
            }
        }
        LndStatus::Failed => PaymentStatus::Failed { reason: words(payment.failure_reason()).into() },
        #[allow(deprecated, reason = "LND may still say it")]
        LndStatus::Unknown => PaymentStatus::Unknown,
    }
}

fn words(reason: PaymentFailureReason) -> &'static str {
    match reason {
        PaymentFailureReason::FailureReasonTimeout => "no route took it in time",
        PaymentFailureReason::FailureReasonNoRoute => {
            "no route within the limits, or the payee is offline, or no channel has a free slot"
        }
        PaymentFailureReason::FailureReasonIncorrectPaymentDetails => {
            "the payee did not take it: its invoice is unknown there, canceled, or asks for something else"
        }
        PaymentFailureReason::FailureReasonInsufficientBalance => {
            "this node's channels can't send that much: open one or wait until more comes in"
        }
        PaymentFailureReason::FailureReasonCanceled => "it was canceled at the node",
        PaymentFailureReason::FailureReasonNone | PaymentFailureReason::FailureReasonError => {
            "the node failed to send it; its log says why"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment(status: LndStatus) -> Payment {
        Payment { status: status.into(), ..Payment::default() }
    }

    #[test]
    fn a_success_without_its_proof_is_not_believed() {
        assert_eq!(status_of(&payment(LndStatus::Succeeded)), PaymentStatus::Unknown);
        let preimage = Preimage::from_bytes([3; 32]);
        let proven = Payment {
            payment_preimage: hex::encode(preimage.as_bytes()),
            fee_msat: 5,
            ..payment(LndStatus::Succeeded)
        };
        assert_eq!(status_of(&proven), PaymentStatus::Succeeded { preimage, fee: Msat::new(5) });
    }

    #[test]
    fn a_payment_that_lnd_has_only_noted_is_in_flight() {
        assert_eq!(status_of(&payment(LndStatus::Initiated)), PaymentStatus::InFlight);
        assert_eq!(status_of(&payment(LndStatus::InFlight)), PaymentStatus::InFlight);
    }

    #[test]
    fn an_order_without_an_answer_stays_open() {
        let (unsure, hash) = (Unsure::default(), Preimage::from_bytes([1; 32]).payment_hash());
        assert!(!unsure.is(hash));
        unsure.note(hash);
        assert!(unsure.is(hash));
    }
}
