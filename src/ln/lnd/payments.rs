//! Outgoing payments. LND's own record of a hash decides: only one that it does not have, or whose end is a failure, is
//! sent. An order without an answer is open until LND shows it or enough time has gone by: it is never sent again blindly.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fedimint_tonic_lnd::lnrpc::payment::PaymentStatus as LndStatus;
use fedimint_tonic_lnd::lnrpc::{Payment, PaymentFailureReason};
use fedimint_tonic_lnd::routerrpc::{SendPaymentRequest, TrackPaymentRequest};

use super::client::{Trouble, first};
use super::core::Core;
use crate::clock::Stopwatch;
use crate::ln::bolt11::{self, CheckedInvoice};
use crate::ln::{LnError, LnEvent, PayLimits, PaymentFailure, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage, UnixMs};

/// How long LND looks for a route. What is locked by then stays locked.
const ATTEMPT_S: i32 = 30;
/// LND adds so many blocks to the last hop, for blocks that are found on the way.
const PADDING_BLOCKS: u32 = 3;
/// For so long an order without an answer may still reach LND.
const UNSURE_FOR: Duration = Duration::from_secs(60);

/// From a payment's start until LND certainly makes no further attempt.
const LAST_ATTEMPT: Duration = Duration::from_secs(60);
/// Why a lost payment ended.
const LOST: &str = "LND was killed before it left this node, and its invoice has expired";
/// Most payments that are known to have left.
const MAX_LEFT: usize = 65_536;

/// What LND's own records don't say.
#[derive(Debug, Default)]
pub(super) struct Unsure {
    /// Orders that got no answer, and since when.
    unanswered: Mutex<HashMap<PaymentHash, Stopwatch>>,
    /// Payments that were seen in a channel: what becomes of them LND knows.
    left: Mutex<HashSet<PaymentHash>>,
}

impl Unsure {
    fn has_left(&self, hash: PaymentHash) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    fn note_left(&self, hashes: HashSet<PaymentHash>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() + hashes.len() > MAX_LEFT {
            left.clear();
        }
        left.extend(hashes);
    }

    fn note(&self, hash: PaymentHash) {
        let mut unsure = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        unsure.retain(|_, since| since.elapsed() < UNSURE_FOR);
        unsure.insert(hash, Stopwatch::start());
    }

    fn is(&self, hash: PaymentHash) -> bool {
        let unsure = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
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
            Some(payment) => match status_of(&payment) {
                PaymentStatus::InFlight if self.is_lost(hash, &payment).await? => {
                    PaymentStatus::Failed { why: PaymentFailure::Refused, reason: LOST.into() }
                }
                status => status,
            },
            None => match self.records.refused(hash).await? {
                Some(reason) => PaymentStatus::Failed { why: PaymentFailure::Refused, reason },
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

    /// An LND that is killed between noting an HTLC and adding it to its channel calls it in flight for ever, though it
    /// never left. That is so where no channel has it, none is being closed, LND looks for routes no more, and the
    /// payee takes it no more.
    async fn is_lost(&self, hash: PaymentHash, payment: &Payment) -> Result<bool, LnError> {
        let now = self.now();
        let expired =
            bolt11::parse(&payment.payment_request, self.network).is_ok_and(|invoice| invoice.is_expired(now));
        if !expired || !is_old(payment, now) || self.unsure.has_left(hash) {
            return Ok(false);
        }
        let locked = self.outgoing_htlcs().await?;
        let is_locked = locked.contains(&hash);
        self.unsure.note_left(locked);
        Ok(!is_locked && !self.is_closing_channels().await?)
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
        LndStatus::Failed => {
            let reason = payment.failure_reason();
            PaymentStatus::Failed { why: failure(reason), reason: words(reason).into() }
        }
        #[allow(deprecated, reason = "LND may still say it")]
        LndStatus::Unknown => PaymentStatus::Unknown,
    }
}

/// Whether it was started so long ago that LND makes no further attempt.
fn is_old(payment: &Payment, now: UnixMs) -> bool {
    let started_ms = u64::try_from(payment.creation_time_ns / 1_000_000).unwrap_or(u64::MAX);
    now.0 >= started_ms.saturating_add(LAST_ATTEMPT.as_millis() as u64)
}

/// LND says that there is too little balance where the channel to the payee is only down.
fn failure(reason: PaymentFailureReason) -> PaymentFailure {
    match reason {
        PaymentFailureReason::FailureReasonTimeout
        | PaymentFailureReason::FailureReasonNoRoute
        | PaymentFailureReason::FailureReasonInsufficientBalance => PaymentFailure::NotReached,
        PaymentFailureReason::FailureReasonIncorrectPaymentDetails
        | PaymentFailureReason::FailureReasonCanceled
        | PaymentFailureReason::FailureReasonNone
        | PaymentFailureReason::FailureReasonError => PaymentFailure::Refused,
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
    fn a_payment_is_old_once_lnd_tries_no_more() {
        let started = Payment { creation_time_ns: 1_000_000_000_000, ..Payment::default() };
        assert!(!is_old(&started, UnixMs(1_059_999)));
        assert!(is_old(&started, UnixMs(1_060_000)));
        assert!(!is_old(&Payment { creation_time_ns: -1_000_000, ..started }, UnixMs(u64::MAX - 1)));
    }

    #[test]
    fn an_order_without_an_answer_stays_open() {
        let (unsure, hash) = (Unsure::default(), Preimage::from_bytes([1; 32]).payment_hash());
        assert!(!unsure.is(hash));
        unsure.note(hash);
        assert!(unsure.is(hash));
    }
}
