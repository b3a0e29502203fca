//! The guardian: looks at every held tranche of every run in the journal, whatever else the peer is doing, and settles it
//! or gives it back before the node would by itself. What must be done when is [`crate::protocol::hold`]'s to say.
//!
//! It needs a journal and a node, but no coordinator: it guards before there is a session and after it, too. It writes
//! down why before it gives back, and never changes a contribution's stage: whoever carries the contribution on finds the
//! tranches ended.

use std::convert::Infallible;
use std::sync::Arc;

use serde::Serialize;

use super::api::CoordinatorApi;
use super::error::PeerError;
use super::events::{EventSink, PeerEvent};
use super::journal::Journal;
use super::stage::{Entry, Stage};
use crate::clock::Clock;
use crate::ln::{InvoiceStatus, Lightning, LnError};
use crate::protocol::amount::Msat;
use crate::protocol::hold::{Duty, GIVE_BACK_MARGIN_BLOCKS, Knowledge, duty};
use crate::protocol::ids::{ContributionId, PaymentHash, Preimage, RoundNumber};

/// Time between two looks: far less than a block takes.
const LOOK_MS: u64 = 5_000;

/// Looks between two questions for a receipt when nobody else asks for it: a minute.
const LOOKS_A_QUESTION: u32 = 12;

/// Who asks for receipts while there is still time for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receipts {
    /// Whoever carries the contribution on.
    AskedForElsewhere,
    /// The guardian.
    AskedForHere,
}

/// What the node holds of the journal's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// How many tranches.
    pub tranches: u32,
    /// Their sum.
    pub amount_msat: Msat,
    /// The node gives the first of them back at this height.
    pub first_expiry_height: Option<u32>,
    /// And the last of them at this one: payers spread them, so that nobody on the way can tell how far they go.
    pub last_expiry_height: Option<u32>,
}

impl Holding {
    /// Nothing?
    pub fn is_none(&self) -> bool {
        self.tranches == 0
    }

    fn add(&mut self, amount: Msat, expiry_height: Option<u32>) {
        self.tranches += 1;
        self.amount_msat = self.amount_msat.checked_add(amount).unwrap_or(Msat::MAX_MONEY);
        self.first_expiry_height = self.first_expiry_height.into_iter().chain(expiry_height).min();
        self.last_expiry_height = self.last_expiry_height.max(expiry_height);
    }
}

/// Guards what one node holds for one journal.
#[derive(Debug)]
pub struct Guardian {
    journal: Arc<Journal>,
    ln: Arc<dyn Lightning>,
    api: Arc<dyn CoordinatorApi>,
    clock: Arc<dyn Clock>,
    events: EventSink,
}

/// A tranche that the node may hold.
#[derive(Debug)]
struct Held {
    round: RoundNumber,
    contribution: ContributionId,
    tranche: u32,
    payment_hash: PaymentHash,
    preimage: Option<Preimage>,
    /// The payload is with the coordinator, and so there may be a receipt.
    judged_soon: bool,
}

impl Guardian {
    /// Guards what `ln` holds for what `journal` says. `api` need not answer.
    pub fn new(
        journal: Arc<Journal>,
        ln: Arc<dyn Lightning>,
        api: Arc<dyn CoordinatorApi>,
        clock: Arc<dyn Clock>,
        events: EventSink,
    ) -> Self {
        Self { journal, ln, api, clock, events }
    }

    /// Guards for as long as it is polled.
    pub async fn guard(&self) -> Infallible {
        loop {
            if let Err(error) = self.look(Receipts::AskedForElsewhere).await {
                tracing::warn!(%error, "held tranches are looked at again soon");
            }
            self.clock.sleep(LOOK_MS).await;
        }
    }

    /// Guards until nothing is held any more, for a peer that does nothing else: it asks for receipts, too.
    pub async fn until_nothing_is_held(&self) {
        for look in 0u32.. {
            let receipts = match look % LOOKS_A_QUESTION {
                0 => Receipts::AskedForHere,
                1.. => Receipts::AskedForElsewhere,
            };
            match self.look(receipts).await {
                Ok(holding) if holding.is_none() => return,
                Ok(holding) if look == 0 => self.events.emit(&PeerEvent::Guarding(holding)),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "held tranches are looked at again soon"),
            }
            self.clock.sleep(LOOK_MS).await;
        }
    }

    /// What is held.
    ///
    /// # Errors
    /// When the journal can't be read or the node does not answer.
    pub async fn holding(&self) -> Result<Holding, PeerError> {
        let mut holding = Holding::default();
        for one in self.may_be_held()? {
            if let InvoiceStatus::Accepted { amount, expiry_height } = self.ln.invoice(one.payment_hash).await? {
                holding.add(amount, expiry_height);
            }
        }
        Ok(holding)
    }

    fn may_be_held(&self) -> Result<Vec<Held>, PeerError> {
        Ok(self.journal.unfinished(None)?.iter().flat_map(tranches).collect())
    }

    /// One look, and what was held when it began. What nobody else can do in time comes first.
    pub(super) async fn look(&self, receipts: Receipts) -> Result<Holding, PeerError> {
        let (mut holding, held) = (Holding::default(), self.may_be_held()?);
        if held.is_empty() {
            return Ok(holding);
        }
        let height = self.ln.info().await?.block_height;
        let mut ask = Vec::new();
        for one in &held {
            let InvoiceStatus::Accepted { amount, expiry_height } = self.ln.invoice(one.payment_hash).await? else {
                continue;
            };
            holding.add(amount, expiry_height);
            let knows = if one.preimage.is_some() { Knowledge::Preimage } else { Knowledge::Nothing };
            match (duty(height, expiry_height, knows), one.preimage) {
                (Duty::Wait, _) if receipts == Receipts::AskedForElsewhere => {}
                (Duty::Claim, Some(preimage)) => self.again(self.ln.settle(preimage).await),
                // Only who knows it can claim.
                (Duty::Claim, None) => {}
                (Duty::Wait | Duty::LookForReceipt, _) => {
                    if one.judged_soon && !ask.contains(&one.contribution) {
                        ask.push(one.contribution);
                    }
                }
                (Duty::GiveBack, _) => self.give_back(one, amount, height, expiry_height).await?,
            }
        }
        for contribution in ask {
            self.look_for_receipt(contribution, &held).await;
        }
        Ok(holding)
    }

    /// What a repeated call may answer is no reason to stop looking after the others.
    fn again(&self, answer: Result<(), LnError>) {
        if let Err(error) = answer {
            tracing::warn!(%error, "tried again soon");
        }
    }

    /// A receipt may be there while the peer is busy with something else. Its preimages are taken at once; the rest of it
    /// waits for whoever carries the contribution on. A coordinator of another run knows nothing of it.
    async fn look_for_receipt(&self, contribution: ContributionId, held: &[Held]) {
        let Ok(view) = self.api.contribution(contribution).await else { return };
        for preimage in view.receipt.iter().flat_map(|receipt| receipt.body.preimages.iter().flatten()) {
            if held.iter().any(|one| one.payment_hash == preimage.payment_hash()) {
                self.again(self.ln.settle(*preimage).await);
            }
        }
    }

    async fn give_back(
        &self,
        one: &Held,
        amount: Msat,
        height: u32,
        expiry_height: Option<u32>,
    ) -> Result<(), PeerError> {
        let text = format!(
            "{amount} given back at block {height}: no preimage had come, and the node would have given it back at block {}, \
             {GIVE_BACK_MARGIN_BLOCKS} blocks or less away",
            expiry_height.unwrap_or_default()
        );
        let first = self.journal.note(one.contribution, one.tranche, &text, self.clock.now())?;
        match self.ln.cancel(one.payment_hash).await {
            Ok(()) if first => self.events.emit(&PeerEvent::GivenBack {
                round: one.round,
                contribution: one.contribution,
                tranche: one.tranche,
                amount_msat: amount,
                height,
                expiry_height,
            }),
            answer => self.again(answer),
        }
        Ok(())
    }
}

fn tranches(entry: &Entry) -> Vec<Held> {
    let Some((terms, receipt)) = entry.stage.held() else { return Vec::new() };
    let judged_soon = matches!(entry.stage, Stage::Locked(_) | Stage::Uploaded(_));
    let preimage = |place: usize| receipt.and_then(|receipt| receipt.preimages.get(place).copied().flatten());
    let held = |(place, tranche): (usize, &crate::protocol::statements::Tranche)| Held {
        round: entry.round(),
        contribution: entry.contribution,
        tranche: place as u32,
        payment_hash: tranche.payment_hash,
        preimage: preimage(place),
        judged_soon,
    };
    terms.tranches.iter().enumerate().map(held).collect()
}
