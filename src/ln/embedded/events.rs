//! The thread that takes LDK's events, one after another, and hands each to the records before it is marked handled.
//!
//! An event whose record can't be written stays in LDK's queue. It must never be marked handled first.

use std::sync::Arc;
use std::time::Duration;

use ldk_node::Event;
use ldk_node::lightning::events::PaymentFailureReason;
use tokio::sync::watch;

use super::channels::Channels;
use super::htlcs::Htlcs;
use crate::ln::{LnError, LnEvent, PaymentFailure};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage};

/// Between two attempts to write down the same event.
const RETRY: Duration = Duration::from_millis(500);

/// Takes events until `stop` changes. Blocks its thread.
pub(super) fn run(htlcs: &Arc<Htlcs>, channels: &Channels, mut stop: watch::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the Lightning node's events can't be taken");
            return;
        }
    };
    loop {
        let next = runtime.block_on(async {
            tokio::select! {
                event = htlcs.node.next_event_async() => Some(event),
                _ = stop.changed() => None,
            }
        });
        let Some(event) = next else { return };
        // Outside of the runtime: LDK blocks in its own.
        let handled = handle(htlcs, channels, &event).and_then(|()| {
            htlcs.node.event_handled().map_err(|error| LnError::Unavailable(format!("an event is not saved: {error}")))
        });
        if let Err(error) = handled {
            tracing::error!(%error, "a Lightning event waits");
            if stop.has_changed().unwrap_or(true) {
                return;
            }
            std::thread::sleep(RETRY);
        }
    }
}

fn handle(htlcs: &Htlcs, channels: &Channels, event: &Event) -> Result<(), LnError> {
    match event {
        Event::PaymentClaimable { payment_hash, claimable_amount_msat, claim_deadline, .. } => htlcs.on_claimable(
            PaymentHash::from_bytes(payment_hash.0),
            Msat::new(*claimable_amount_msat),
            *claim_deadline,
        ),
        Event::PaymentReceived { payment_hash, amount_msat, .. } => {
            htlcs.on_received(PaymentHash::from_bytes(payment_hash.0), Msat::new(*amount_msat))
        }
        Event::PaymentSuccessful { payment_hash, payment_preimage: Some(preimage), fee_paid_msat, .. } => htlcs
            .on_paid(
                PaymentHash::from_bytes(payment_hash.0),
                Preimage::from_bytes(preimage.0),
                Msat::new(fee_paid_msat.unwrap_or_default()),
            ),
        Event::PaymentFailed { payment_hash: Some(hash), reason, .. } => {
            let text = reason.map_or("no reason given".to_string(), |reason| format!("{reason:?}"));
            htlcs.on_failed(PaymentHash::from_bytes(hash.0), failure(*reason), &text)
        }
        Event::ChannelPending { user_channel_id, .. } => {
            channels.note_pending(*user_channel_id);
            htlcs.tell(LnEvent::Channels);
            Ok(())
        }
        Event::ChannelReady { user_channel_id, counterparty_node_id, .. } => {
            if let Some(node_id) = counterparty_node_id {
                channels.raise_dust_limit(&htlcs.node, user_channel_id, *node_id);
            }
            htlcs.tell(LnEvent::Channels);
            Ok(())
        }
        Event::ChannelClosed { user_channel_id, counterparty_node_id, reason, .. } => {
            let reason = reason.as_ref().map_or("no reason given".to_string(), ToString::to_string);
            tracing::warn!(peer = ?counterparty_node_id.map(|id| id.to_string()), reason, "a channel closed");
            channels.note_closed(*user_channel_id, reason);
            htlcs.tell(LnEvent::Channels);
            Ok(())
        }
        // Bolt 12 and forwarding aren't used; nor are payments without a hash.
        Event::PaymentSuccessful { .. }
        | Event::PaymentFailed { .. }
        | Event::PaymentForwarded { .. }
        | Event::SplicePending { .. }
        | Event::SpliceFailed { .. } => Ok(()),
    }
}

fn failure(reason: Option<PaymentFailureReason>) -> PaymentFailure {
    match reason {
        Some(PaymentFailureReason::RetriesExhausted | PaymentFailureReason::RouteNotFound) => {
            PaymentFailure::NotReached
        }
        Some(
            PaymentFailureReason::RecipientRejected
            | PaymentFailureReason::UserAbandoned
            | PaymentFailureReason::PaymentExpired
            | PaymentFailureReason::UnexpectedError
            | PaymentFailureReason::UnknownRequiredFeatures
            | PaymentFailureReason::InvoiceRequestExpired
            | PaymentFailureReason::InvoiceRequestRejected
            | PaymentFailureReason::BlindedPathCreationFailed,
        )
        | None => PaymentFailure::Refused,
    }
}
