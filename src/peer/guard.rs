//! The guardian: looks at every held tranche of every run in the journal, whatever else the peer is doing, and settles it
//! or gives it back before the node would by itself. What must be done when is [`crate::protocol::hold`]'s to say.
//!
//! It writes down why before it gives back, and never changes a contribution's stage: whoever carries the contribution on
//! finds the tranches ended.

use std::convert::Infallible;

use super::error::PeerError;
use super::events::PeerEvent;
use super::session::Session;
use super::stage::{Entry, Stage};
use crate::ln::{InvoiceStatus, LnError};
use crate::protocol::amount::Msat;
use crate::protocol::hold::{Duty, GIVE_BACK_MARGIN_BLOCKS, Knowledge, duty};
use crate::protocol::ids::{ContributionId, PaymentHash, Preimage, RoundNumber, RunId};

/// Time between two looks: far less than a block takes.
const LOOK_MS: u64 = 5_000;

/// A tranche that the node may hold.
#[derive(Debug)]
struct Held {
    run: RunId,
    round: RoundNumber,
    contribution: ContributionId,
    tranche: u32,
    payment_hash: PaymentHash,
    preimage: Option<Preimage>,
    /// The payload is with the coordinator, and so there may be a receipt.
    judged_soon: bool,
}

impl Session {
    /// Guards for as long as it is polled.
    pub(super) async fn guard(&self) -> Infallible {
        loop {
            if let Err(error) = self.look_after_held().await {
                tracing::warn!(%error, "held tranches are looked at again soon");
            }
            self.parts.clock.sleep(LOOK_MS).await;
        }
    }

    /// One look.
    pub(super) async fn look_after_held(&self) -> Result<(), PeerError> {
        let held: Vec<Held> = self.journal.unfinished(None)?.iter().flat_map(tranches).collect();
        if held.is_empty() {
            return Ok(());
        }
        let height = self.parts.ln.info().await?.block_height;
        let mut asked = Vec::new();
        for one in &held {
            let InvoiceStatus::Accepted { amount, expiry_height } = self.parts.ln.invoice(one.payment_hash).await?
            else {
                continue;
            };
            let knows = if one.preimage.is_some() { Knowledge::Preimage } else { Knowledge::Nothing };
            match (duty(height, expiry_height, knows), one.preimage) {
                (Duty::Wait, _) => {}
                (Duty::Claim, Some(preimage)) => self.again(self.parts.ln.settle(preimage).await),
                // Only who knows it can claim.
                (Duty::Claim, None) => {}
                (Duty::LookForReceipt, _) => {
                    if one.run == self.run && one.judged_soon && !asked.contains(&one.contribution) {
                        asked.push(one.contribution);
                        self.look_for_receipt(one.contribution, &held).await;
                    }
                }
                (Duty::GiveBack, _) => self.give_back(one, amount, height, expiry_height).await?,
            }
        }
        Ok(())
    }

    /// What a repeated call may answer is no reason to stop looking after the others.
    fn again(&self, answer: Result<(), LnError>) {
        if let Err(error) = answer {
            tracing::warn!(%error, "tried again soon");
        }
    }

    /// A receipt may be there while the peer is busy with something else. Its preimages are taken at once; the rest of it
    /// waits for whoever carries the contribution on.
    async fn look_for_receipt(&self, contribution: ContributionId, held: &[Held]) {
        let Ok(view) = self.parts.api.contribution(contribution).await else { return };
        for preimage in view.receipt.iter().flat_map(|receipt| receipt.body.preimages.iter().flatten()) {
            if held.iter().any(|one| one.payment_hash == preimage.payment_hash()) {
                self.again(self.parts.ln.settle(*preimage).await);
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
        let first = self.journal.note(one.contribution, one.tranche, &text, self.parts.clock.now())?;
        match self.parts.ln.cancel(one.payment_hash).await {
            Ok(()) if first => self.emit(&PeerEvent::GivenBack {
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
        run: entry.run(),
        round: entry.round(),
        contribution: entry.contribution,
        tranche: place as u32,
        payment_hash: tranche.payment_hash,
        preimage: preimage(place),
        judged_soon,
    };
    terms.tranches.iter().enumerate().map(held).collect()
}
