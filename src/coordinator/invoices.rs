//! The peer's hold invoices: every field checked before anything is paid.

use super::core::Core;
use super::engine::Shared;
use super::error::{CoordinatorError, refusal};
use super::handle::Refusal;
use crate::ln::bolt11::{self, CheckedInvoice, Network};
use crate::protocol::ids::{ContributionId, UnixMs};
use crate::protocol::round::Event;
use crate::protocol::sign::{Signed, Statement};
use crate::protocol::statements::{InvoiceSubmission, RewardTerms};
use crate::store::coordinator::{self as tables, PaymentRow};

/// What an invoice may ask for beyond the terms' CLTV delta: room for what wallets add by themselves. Anything more
/// would let the payee lock the coordinator's money for as long as it likes.
pub(super) const MAX_EXTRA_BLOCKS: u32 = 18;
/// An invoice must still be payable for this long, at each attempt to pay it.
pub(super) const MIN_LIFE_MS: u64 = 20_000;

impl Shared {
    /// See [`super::handle::CoordinatorHandle::submit_invoices`].
    pub(super) async fn take_invoices(
        &self,
        contribution: ContributionId,
        submission: Signed<InvoiceSubmission>,
    ) -> Result<(), CoordinatorError> {
        let network = self.network;
        self.with(move |core| core.accept_invoices(contribution, &submission, network)).await?;
        self.wake();
        Ok(())
    }
}

impl Core {
    fn accept_invoices(
        &mut self,
        id: ContributionId,
        submission: &Signed<InvoiceSubmission>,
        network: Network,
    ) -> Result<(), CoordinatorError> {
        let Some(row) = tables::contribution(self.db.read(), &id)? else {
            return Err(
                refusal(404, "unknown_contribution", format!("no contribution {id}"), "Buy a ticket first").into()
            );
        };
        let peer = row.commitment.body.peer;
        if submission.body.contribution != id || submission.verify(&peer).is_err() {
            let message = format!("the invoices are not signed for contribution {id} by peer {peer}");
            return Err(refusal(400, "bad_signature", message, "Sign the submission with the peer's own key").into());
        }
        if row.invoices.as_ref() == Some(submission) {
            return Ok(());
        }
        if submission.body.terms != row.terms.body.digest() {
            let message = format!("the invoices are for other terms than those of contribution {id}");
            return Err(refusal(409, "wrong_terms", message, "Use the terms in the ticket").into());
        }
        let event = Event::InvoicesAccepted { contribution: id };
        self.preview(row.round, &event)?;
        let registered = tables::peer(self.db.read(), &peer)?.map(|peer| peer.node_id).unwrap_or_default();
        let invoices = check(&row.terms.body, &submission.body.invoices, &registered, network, self.clock.now())?;
        self.apply(row.round, &event, |t, _| {
            tables::set_invoices(t, &id, submission)?;
            for (tranche, invoice) in invoices.into_iter().enumerate() {
                tables::insert_payment(
                    t,
                    &PaymentRow {
                        payment_hash: invoice.payment_hash,
                        round: row.round,
                        contribution: id,
                        tranche: tranche as u32,
                        payee: invoice.payee_node_id,
                        bolt11: invoice.bolt11,
                    },
                )?;
            }
            Ok(())
        })
    }
}

/// One invoice a tranche, in the terms' order, for exactly what the terms say.
fn check(
    terms: &RewardTerms,
    invoices: &[String],
    payee: &str,
    network: Network,
    now: UnixMs,
) -> Result<Vec<CheckedInvoice>, Refusal> {
    if invoices.len() != terms.tranches.len() {
        let message = format!("{} invoices for {} tranches", invoices.len(), terms.tranches.len());
        return Err(refusal(422, "invoice_count", message, "Send one invoice a tranche, in the terms' order"));
    }
    let mut checked = Vec::with_capacity(invoices.len());
    for (number, (text, tranche)) in invoices.iter().zip(&terms.tranches).enumerate() {
        let refuse = |code, what: String, fix: &str| Err(refusal(422, code, format!("invoice {number}: {what}"), fix));
        let invoice = match bolt11::parse(text, network) {
            Ok(invoice) => invoice,
            Err(error) => {
                return refuse(
                    "invoice_unreadable",
                    error.to_string(),
                    "Make it with a node on the coordinator's network",
                );
            }
        };
        if invoice.payment_hash != tranche.payment_hash {
            let what =
                format!("its payment hash is {}, the tranche's is {}", invoice.payment_hash, tranche.payment_hash);
            return refuse("invoice_hash", what, "Make a hold invoice on the tranche's own hash");
        }
        if invoice.amount != tranche.amount_msat {
            let what = format!("it asks for {}, the tranche is {}", invoice.amount, tranche.amount_msat);
            return refuse("invoice_amount", what, "Ask for the tranche's amount, to the msat");
        }
        if invoice.payee_node_id != payee {
            let what = format!("it pays node {}, the peer registered {payee}", invoice.payee_node_id);
            return refuse("invoice_payee", what, "Make it with the registered node, or register that one first");
        }
        let (least, most) = (terms.hold_blocks, terms.hold_blocks.saturating_add(MAX_EXTRA_BLOCKS));
        if !(least..=most).contains(&invoice.min_final_cltv_blocks) {
            let what = format!("its CLTV delta is {} blocks, not {least} ..= {most}", invoice.min_final_cltv_blocks);
            return refuse("invoice_cltv", what, "Ask for the terms' hold_blocks");
        }
        if invoice.is_expired(now.plus_ms(MIN_LIFE_MS)) {
            let what = format!("it expires at {} ms, and it is {} ms now", invoice.expires_at.0, now.0);
            return refuse("invoice_expired", what, "Give it a life of at least the rest of the round");
        }
        checked.push(invoice);
    }
    Ok(checked)
}
