//! Reward payments: from the outbox to the node, and each followed until it ends.
//!
//! A tranche is marked as being sent before the node is asked, and the node is asked again only after it has said that
//! it knows nothing of the hash. So a crash between any two steps pays nothing twice and forgets nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream;

use super::core::Core;
use super::engine::Shared;
use super::error::CoordinatorError;
use super::invoices::MAX_EXTRA_BLOCKS;
use crate::ln::{LnError, PayLimits, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::ids::PaymentHash;
use crate::protocol::round::{Event, Progress, TrancheState};
use crate::store::StoreError;
use crate::store::coordinator::{self as tables, PaymentRow};

/// Most tranches under way to one node: well below the 50 HTLCs that a channel of LDK's takes in a direction.
const MAX_IN_FLIGHT_PER_PAYEE: usize = 20;
/// Most calls to the node at a time.
const MAX_CALLS: usize = 8;
/// What a route may add to the last hop's delta, and the most that any route may have.
const ROUTE_BLOCKS: u32 = 288;
const MAX_ROUTE_BLOCKS: u32 = 1_008;

/// A tranche whose money may be locked.
#[derive(Clone, Debug)]
struct Tracked {
    payment: PaymentRow,
    state: TrancheState,
    progress: Progress,
    amount: Msat,
}

impl Shared {
    /// Hands the outbox to the node, as far as it has room, and brings every payment under way up to date.
    pub(super) async fn move_payments(&self) -> Result<(), CoordinatorError> {
        let mut refused = BTreeSet::new();
        let due = self.with(Core::start_payments).await?;
        self.pay(&due, &mut refused).await;
        let tracked = self.with(Core::tracked).await?;
        let looks: Vec<_> = tracked.into_iter().map(|tracked| self.look(tracked)).collect();
        let statuses: Vec<_> = stream::iter(looks).buffer_unordered(MAX_CALLS).collect().await;
        let mut again = Vec::new();
        for (tracked, status) in statuses {
            match status {
                Ok(PaymentStatus::NotFound) if is_wanted(&tracked, &refused) => again.push(tracked),
                Ok(status) => self.note(tracked, status).await?,
                // Says nothing about the money: look again next time.
                Err(error) => tracing::warn!(payment = %tracked.payment.payment_hash, "no status: {error}"),
            }
        }
        self.pay(&again, &mut refused).await;
        Ok(())
    }

    /// Asks the node to pay. What comes of it is seen by its status, not by the answer.
    async fn pay(&self, payments: &[Tracked], refused: &mut BTreeSet<PaymentHash>) {
        let calls: Vec<_> = payments.iter().map(|tracked| self.send(tracked)).collect();
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(MAX_CALLS).collect().await;
        for (hash, answer) in answers {
            match answer {
                Ok(_) => {}
                Err(error @ (LnError::Refused(_) | LnError::BadInvoice(_))) => {
                    tracing::warn!(payment = %hash, "the node refuses to pay: {error}");
                    refused.insert(hash);
                }
                Err(error) => tracing::warn!(payment = %hash, "the node didn't answer: {error}"),
            }
        }
    }

    async fn send(&self, tracked: &Tracked) -> (PaymentHash, Result<PaymentHash, LnError>) {
        (tracked.payment.payment_hash, self.ln.pay(&tracked.payment.bolt11, self.limits(tracked.amount)).await)
    }

    async fn look(&self, tracked: Tracked) -> (Tracked, Result<PaymentStatus, LnError>) {
        let status = self.ln.payment(tracked.payment.payment_hash).await;
        (tracked, status)
    }

    fn limits(&self, amount: Msat) -> PayLimits {
        let hold = self.run.manifest.body.reward.hold_blocks;
        PayLimits {
            max_fee: amount.share_floor(self.options.channels.max_routing_fee_ppm),
            max_cltv_blocks: (hold + MAX_EXTRA_BLOCKS + ROUTE_BLOCKS).min(MAX_ROUTE_BLOCKS),
        }
    }

    /// Stores what the node says of a payment.
    async fn note(&self, tracked: Tracked, status: PaymentStatus) -> Result<(), CoordinatorError> {
        let PaymentRow { round, contribution, tranche, payment_hash, .. } = tracked.payment;
        let event = match (status, tracked.state) {
            (PaymentStatus::InFlight, TrancheState::Sending) => Event::PaymentInFlight { contribution, tranche },
            (PaymentStatus::Succeeded { fee, .. }, _) => Event::PaymentSettled { contribution, tranche, fee_msat: fee },
            (PaymentStatus::Failed { reason }, _) => {
                tracing::info!(payment = %payment_hash, reason, "a payment ended unpaid");
                Event::PaymentFailed { contribution, tranche }
            }
            // It was never sent, and no longer will be.
            (PaymentStatus::NotFound, TrancheState::Sending) => Event::PaymentFailed { contribution, tranche },
            (PaymentStatus::NotFound, state) => {
                tracing::error!(payment = %payment_hash, ?state, "the node has forgotten a payment: its money is counted as locked");
                return Ok(());
            }
            (PaymentStatus::InFlight | PaymentStatus::Unknown, _) => return Ok(()),
        };
        self.with(move |core| core.apply_event(round, &event)).await
    }
}

/// Should a payment that the node knows nothing of be sent (again)?
fn is_wanted(tracked: &Tracked, refused: &BTreeSet<PaymentHash>) -> bool {
    tracked.state == TrancheState::Sending
        && tracked.progress == Progress::Locking
        && !refused.contains(&tracked.payment.payment_hash)
}

impl Core {
    /// Marks payments of the outbox as being sent, and returns them.
    fn start_payments(&mut self) -> Result<Vec<Tracked>, CoordinatorError> {
        let waiting = tables::outbox(self.db.read())?;
        // Without a height nobody knows how long a lock would last; and the node that doesn't tell it would not pay.
        let Some(height) = self.height.filter(|_| !waiting.is_empty()) else { return Ok(Vec::new()) };
        let mut in_flight: BTreeMap<String, usize> = BTreeMap::new();
        for tracked in self.tracked()? {
            *in_flight.entry(tracked.payment.payee).or_default() += 1;
        }
        let mut started = Vec::new();
        for payment in waiting {
            let count = in_flight.entry(payment.payee.clone()).or_default();
            if *count >= MAX_IN_FLIGHT_PER_PAYEE {
                continue;
            }
            *count += 1;
            let PaymentRow { round, contribution, tranche, .. } = payment;
            self.apply_event(round, &Event::PaymentStarted { contribution, tranche, height: Some(height) })?;
            let amount = self.amount(payment.tranche);
            let (state, progress) = (TrancheState::Sending, Progress::Locking);
            started.push(Tracked { payment, state, progress, amount });
        }
        Ok(started)
    }

    fn amount(&self, tranche: u32) -> Msat {
        self.run.rules.tranche_amounts.get(tranche as usize).copied().unwrap_or(Msat::ZERO)
    }

    /// Every tranche whose money may be locked.
    fn tracked(&mut self) -> Result<Vec<Tracked>, CoordinatorError> {
        let mut all = Vec::new();
        for contribution in self.rounds.values().flat_map(|round| &round.contributions) {
            for (tranche, entry) in contribution.tranches.iter().enumerate() {
                if !entry.state.is_locked() {
                    continue;
                }
                let tranche = tranche as u32;
                let payment = tables::payment(self.db.read(), &contribution.id, tranche)?
                    .ok_or(StoreError::Corrupt { what: "list of payments" })?;
                let (state, progress) = (entry.state, contribution.progress);
                all.push(Tracked { payment, state, progress, amount: self.amount(tranche) });
            }
        }
        Ok(all)
    }
}
