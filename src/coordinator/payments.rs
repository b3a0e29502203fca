//! Reward payments: from the outbox to the node, and each followed until it ends.
//!
//! A tranche is marked as being sent before the node is asked, and the node is asked again only after it has said that
//! it knows nothing of the hash, or that the attempt before is dead and never reached the payee. So a crash between any
//! two steps pays nothing twice and forgets nothing. How often, and after which pauses, is the round's rules to say.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream;

use super::core::Core;
use super::engine::Shared;
use super::error::CoordinatorError;
use super::invoices::{MAX_EXTRA_BLOCKS, MIN_LIFE_MS};
use crate::ln::bolt11::{self, Network};
use crate::ln::{ChannelState, LnError, PayLimits, PaymentFailure, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::bounty::offer::MOST_TRANCHES;
use crate::protocol::ids::{PaymentHash, UnixMs};
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
    attempt: Attempt,
}

/// What is known of the present attempt to send a tranche.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The node has taken charge of it: whatever it says is about this attempt.
    Taken,
    /// The first, and whether the node was asked for it may be open. An end is this attempt's: there is no other.
    First,
    /// Not the first. An end may still be the one of the attempt before.
    Later,
}

impl Shared {
    /// Hands the outbox to the node, as far as it has room, and brings every payment under way up to date.
    pub(super) async fn move_payments(&self) -> Result<(), CoordinatorError> {
        let mut refused = BTreeSet::new();
        let due = self.with(Core::start_payments).await?;
        self.pay(&due, &mut refused).await?;
        let tracked = self.with(Core::tracked).await?;
        let mut again = Vec::new();
        for (tracked, status) in self.look_at(tracked).await {
            match status {
                Ok(status) if must_be_sent(&tracked, &status, &refused) => {
                    if tracked.attempt == Attempt::Later && self.is_away(&tracked.payment.payee).await {
                        let reason = "its channel can't be used now".into();
                        let failed = PaymentStatus::Failed { why: PaymentFailure::NotReached, reason };
                        self.note(tracked, failed, &refused).await?;
                    } else {
                        again.push(tracked);
                    }
                }
                Ok(status) => self.note(tracked, status, &refused).await?,
                // Says nothing about the money: look again next time.
                Err(error) => tracing::warn!(payment = %tracked.payment.payment_hash, "no status: {error}"),
            }
        }
        self.pay(&again, &mut refused).await?;
        // The peer sees its reward locked at once, and wants to go on.
        for (tracked, status) in self.look_at(again).await {
            if let Ok(status @ PaymentStatus::InFlight) = status {
                self.note(tracked, status, &refused).await?;
            }
        }
        Ok(())
    }

    /// Is a payee known to be away? An attempt then would only make everybody else wait for its failure.
    async fn is_away(&self, payee: &str) -> bool {
        matches!(self.ln.channel_state(payee).await, Ok(ChannelState::Pending))
    }

    async fn look_at(&self, payments: Vec<Tracked>) -> Vec<(Tracked, Result<PaymentStatus, LnError>)> {
        let looks: Vec<_> = payments.into_iter().map(|tracked| self.look(tracked)).collect();
        stream::iter(looks).buffer_unordered(MAX_CALLS).collect().await
    }

    /// Asks the node to pay. What comes of it is seen by its status, not by the answer.
    async fn pay(&self, payments: &[Tracked], refused: &mut BTreeSet<PaymentHash>) -> Result<(), CoordinatorError> {
        let calls: Vec<_> = payments.iter().map(|tracked| self.send(tracked)).collect();
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(MAX_CALLS).collect().await;
        let mut taken = Vec::new();
        for (hash, answer) in answers {
            match answer {
                Ok(_) => taken.push(hash),
                Err(error @ (LnError::Refused(_) | LnError::BadInvoice(_))) => {
                    tracing::warn!(payment = %hash, "the node refuses to pay: {error}");
                    refused.insert(hash);
                }
                Err(error) => tracing::warn!(payment = %hash, "the node didn't answer: {error}"),
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        self.with(move |core| {
            core.taken.extend(taken);
            Ok(())
        })
        .await
    }

    async fn send(&self, tracked: &Tracked) -> (PaymentHash, Result<PaymentHash, LnError>) {
        (tracked.payment.payment_hash, self.ln.pay(&tracked.payment.bolt11, self.limits(tracked.amount)).await)
    }

    async fn look(&self, tracked: Tracked) -> (Tracked, Result<PaymentStatus, LnError>) {
        let status = self.ln.payment(tracked.payment.payment_hash).await;
        (tracked, status)
    }

    fn limits(&self, amount: Msat) -> PayLimits {
        let hold = self.run.hold_blocks;
        let share = amount.share_floor(self.options.channels.max_routing_fee_ppm);
        // A bounty's rewards are its sponsor's, but the way to whom they go is paid by this coordinator: by the submission's fee.
        let fee = self.run.bounty().map(|_| Msat::new(self.run.fee.msat() / u64::from(MOST_TRANCHES)));
        PayLimits {
            max_fee: fee.map_or(share, |fee| share.min(fee)),
            max_cltv_blocks: (hold + MAX_EXTRA_BLOCKS + ROUTE_BLOCKS).min(MAX_ROUTE_BLOCKS),
        }
    }

    /// Stores what the node says of a payment.
    async fn note(
        &self,
        tracked: Tracked,
        status: PaymentStatus,
        refused: &BTreeSet<PaymentHash>,
    ) -> Result<(), CoordinatorError> {
        let PaymentRow { round, contribution, tranche, payment_hash, bolt11, .. } = tracked.payment;
        let event = match (status, tracked.state) {
            (PaymentStatus::InFlight, TrancheState::Sending) => Event::PaymentInFlight { contribution, tranche },
            (PaymentStatus::Succeeded { fee, .. }, _) => Event::PaymentSettled { contribution, tranche, fee_msat: fee },
            (PaymentStatus::Failed { why, reason }, _) => {
                tracing::info!(payment = %payment_hash, ?why, reason, "a payment ended unpaid");
                match why {
                    PaymentFailure::NotReached if !refused.contains(&payment_hash) => {
                        let payable_until_ms = payable_until(&bolt11, self.network);
                        Event::PaymentNotReached { contribution, tranche, payable_until_ms }
                    }
                    PaymentFailure::NotReached | PaymentFailure::Refused => {
                        Event::PaymentFailed { contribution, tranche }
                    }
                }
            }
            // It was never sent, and no longer will be.
            (PaymentStatus::NotFound, TrancheState::Sending) => Event::PaymentFailed { contribution, tranche },
            (PaymentStatus::NotFound, state) => {
                tracing::error!(payment = %payment_hash, ?state, "the node has forgotten a payment: its money is counted as locked");
                return Ok(());
            }
            (PaymentStatus::InFlight | PaymentStatus::Unknown, _) => return Ok(()),
        };
        self.with(move |core| {
            core.apply_event(round, &event)?;
            if !matches!(event, Event::PaymentInFlight { .. }) {
                core.taken.remove(&payment_hash);
            }
            Ok(())
        })
        .await
    }
}

/// Until when an attempt to pay the invoice may begin.
fn payable_until(bolt11: &str, network: Network) -> UnixMs {
    let expires_at = bolt11::parse(bolt11, network).map_or(UnixMs(0), |invoice| invoice.expires_at);
    UnixMs(expires_at.0.saturating_sub(MIN_LIFE_MS))
}

/// Should a payment be sent (again)? Only one that the node knows nothing of, or whose attempt before is dead.
fn must_be_sent(tracked: &Tracked, status: &PaymentStatus, refused: &BTreeSet<PaymentHash>) -> bool {
    let wanted = tracked.state == TrancheState::Sending
        && tracked.progress == Progress::Locking
        && !refused.contains(&tracked.payment.payment_hash);
    let sendable = match status {
        PaymentStatus::NotFound => true,
        PaymentStatus::Failed { why: PaymentFailure::NotReached, .. } => tracked.attempt == Attempt::Later,
        PaymentStatus::Failed { why: PaymentFailure::Refused, .. }
        | PaymentStatus::InFlight
        | PaymentStatus::Succeeded { .. }
        | PaymentStatus::Unknown => false,
    };
    wanted && sendable
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
            let found = self.rounds.get(&round).and_then(|round| round.find(&contribution));
            let promised = found.and_then(|(_, found)| found.tranches.get(tranche as usize));
            let amount = promised.ok_or(StoreError::Corrupt { what: "list of payments" })?.amount_msat;
            self.apply_event(round, &Event::PaymentStarted { contribution, tranche, height: Some(height) })?;
            let (state, progress) = (TrancheState::Sending, Progress::Locking);
            started.push(Tracked { payment, state, progress, amount, attempt: Attempt::First });
        }
        Ok(started)
    }

    /// Every tranche whose money may be locked, but for those that wait for their next attempt.
    fn tracked(&mut self) -> Result<Vec<Tracked>, CoordinatorError> {
        let (mut all, now) = (Vec::new(), self.clock.now());
        for contribution in self.rounds.values().flat_map(|round| &round.contributions) {
            for (tranche, entry) in contribution.tranches.iter().enumerate() {
                let waits =
                    contribution.progress == Progress::Locking && entry.again_ms.is_some_and(|again| now < again);
                if !entry.state.is_locked() || waits {
                    continue;
                }
                let tranche = tranche as u32;
                let payment = tables::payment(self.db.read(), &contribution.id, tranche)?
                    .ok_or(StoreError::Corrupt { what: "list of payments" })?;
                let (state, progress) = (entry.state, contribution.progress);
                let attempt = match entry.attempts_in_vain {
                    _ if self.taken.contains(&payment.payment_hash) => Attempt::Taken,
                    0 => Attempt::First,
                    1.. => Attempt::Later,
                };
                all.push(Tracked { payment, state, progress, amount: entry.amount_msat, attempt });
            }
        }
        Ok(all)
    }
}
