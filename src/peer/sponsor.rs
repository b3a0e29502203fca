//! A sponsor and one bounty of its own: locks the budget once, and gets back what nobody earned.
//!
//! Must never lock what its owner doesn't allow, pay a hold invoice that the signed escrow doesn't name, or pay one twice.
//! Whatever a next step needs is on disk before the step: [`record`].

pub mod record;

use std::sync::Arc;

use super::api::BountyApi;
use super::checks;
use super::error::PeerError;
use super::session::{PeerParts, Session, patiently};
use crate::ln::bolt11::{self, CheckedInvoice, Network};
use crate::ln::{InvoiceRequest, InvoiceStatus, Lightning, LnError, PayLimits, PaymentFailure, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView, PostAnswer, PostRequest};
use crate::protocol::bounty::statements::{SponsorAsk, SponsorRequest};
use crate::protocol::ids::{PaymentHash, UnixMs};
use record::{PayBack, Record};

/// How often one hold invoice is sent to, where it never arrived.
const MOST_TRIES: u32 = 5;
/// What a route may lock a payment for, beyond what the invoice asks for, in blocks.
const ROUTE_BLOCKS: u32 = 1_008;
/// How long the coordinator may take to say that a bounty is open, refused or closed, in ms: its boxes run meanwhile.
const PHASE_PATIENCE_MS: u64 = 3_600_000;
/// How long what was cancelled or paid back may take to arrive, in ms.
const MONEY_PATIENCE_MS: u64 = 120_000;
/// Looks at the bounty are this many polls apart.
const POLLS_A_LOOK: u64 = 5;
/// How long an invoice for what is left may be paid.
const PAY_BACK_EXPIRY_S: u32 = 3_600;

/// What a sponsor's owner allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SponsorLimits {
    /// The most that one bounty may lock.
    pub max_budget: Msat,
    /// The most that the route of one payment may take.
    pub max_routing_fee: Msat,
    /// The most blocks that a payment may be locked for.
    pub max_escrow_blocks: u32,
}

/// What became of a bounty's money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The bounty, as it is now.
    pub view: BountyView,
    /// Locked, and neither taken nor given back.
    pub locked_msat: Msat,
    /// Taken by the coordinator.
    pub taken_msat: Msat,
    /// Paid back of that.
    pub paid_back_msat: Msat,
}

/// A sponsor and one bounty of its own.
#[derive(Debug)]
pub struct Sponsor {
    parts: PeerParts,
    board: Arc<dyn BountyApi>,
    limits: SponsorLimits,
    record: Record,
}

impl Sponsor {
    /// `board` and the parts' API lead to the bounty of the record.
    pub fn new(parts: PeerParts, board: Arc<dyn BountyApi>, limits: SponsorLimits, record: Record) -> Self {
        Self { parts, board, limits, record }
    }

    /// Posts the bounty and locks its budget; returns once it is open, or will not be. May be repeated at any time.
    pub async fn post(self) -> Result<Posted, PeerError> {
        let request = self.record.request();
        check_budget(request, &self.limits)?;
        let answer = match self.record.answer()? {
            Some(answer) => answer,
            None => {
                let (budget_ms, doing) = (self.parts.settings.give_up_after_ms, "take the bounty");
                let post = || self.board.post(request);
                let answer = patiently(&self.parts.clock, &self.parts.events, budget_ms, doing, post).await;
                let answer = answer.map_err(|failure| PeerError::api(doing, budget_ms / 1_000, failure))?;
                check_answer(request, &answer, &self.limits)?;
                self.record.save_answer(&answer)?;
                answer
            }
        };
        let escrow = self.escrow(&answer)?;
        escrow.session.guarded(escrow.lock_unless_forgotten(answer.pay_until_ms)).await
    }

    /// Takes no more submissions, waits until what is under way is decided, and has paid back what is left.
    pub async fn close(self) -> Result<Posted, PeerError> {
        let Some(answer) = self.record.answer()? else {
            return Err(PeerError::Terms("it was never taken on: nothing is locked".into()));
        };
        let escrow = self.escrow(&answer)?;
        escrow.session.guarded(escrow.close_and_wait()).await
    }

    /// Nothing is paid that was not checked in this process, whatever the disk says.
    fn escrow(self, answer: &PostAnswer) -> Result<Escrow, PeerError> {
        let Self { parts, board, limits, record } = self;
        let invoices = check_answer(record.request(), answer, &limits)?;
        let session = Session::open_bounty(parts, &answer.view)?;
        Ok(Escrow { session, board, limits, record, invoices })
    }
}

/// A bounty that was taken on, and the hold invoices that lock its budget.
#[derive(Debug)]
struct Escrow {
    session: Session,
    board: Arc<dyn BountyApi>,
    limits: SponsorLimits,
    record: Record,
    invoices: Vec<CheckedInvoice>,
}

impl Escrow {
    async fn lock_and_wait(&self, pay_until: UnixMs) -> Result<Posted, PeerError> {
        let session = &self.session;
        let mut view = self.view().await?;
        if view.phase == BountyPhase::AwaitingEscrow {
            session.ready_to_be_paid(&view.lightning).await?;
            self.can_pay().await?;
        }
        let mut tries = vec![0; self.invoices.len()];
        let watch = session.timer();
        loop {
            match view.phase {
                BountyPhase::AwaitingEscrow => {
                    for (invoice, tries) in self.invoices.iter().zip(&mut tries) {
                        self.lock(invoice, tries, pay_until).await?;
                    }
                }
                BountyPhase::Checking => {}
                BountyPhase::Open | BountyPhase::Closing | BountyPhase::Closed => {
                    return self.count(view).await;
                }
                BountyPhase::Refused => {
                    self.until_released().await?;
                    return self.count(view).await;
                }
            }
            if watch.elapsed_ms() > PHASE_PATIENCE_MS {
                return self.count(view).await;
            }
            self.look_pause().await;
            view = self.view().await?;
        }
    }

    /// A coordinator forgets what was never locked in time. Then this is over, too.
    async fn lock_unless_forgotten(&self, pay_until: UnixMs) -> Result<Posted, PeerError> {
        let ended = self.lock_and_wait(pay_until).await;
        if let Err(PeerError::Refused { .. }) = &ended
            && self.session.coordinator_now() > pay_until
            && self.nothing_is_locked().await?
        {
            self.record.save_over()?;
        }
        ended
    }

    async fn nothing_is_locked(&self) -> Result<bool, PeerError> {
        for invoice in &self.invoices {
            match self.session.ask_node(|| self.ln().payment(invoice.payment_hash)).await? {
                PaymentStatus::NotFound | PaymentStatus::Failed { .. } => {}
                PaymentStatus::InFlight | PaymentStatus::Unknown | PaymentStatus::Succeeded { .. } => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Is there enough to lock what isn't yet?
    async fn can_pay(&self) -> Result<(), PeerError> {
        let session = &self.session;
        let mut missing = Vec::new();
        for invoice in &self.invoices {
            match session.ask_node(|| self.ln().payment(invoice.payment_hash)).await? {
                PaymentStatus::NotFound | PaymentStatus::Failed { .. } => missing.push(invoice.amount),
                PaymentStatus::InFlight | PaymentStatus::Succeeded { .. } | PaymentStatus::Unknown => {}
            }
        }
        let needed = Msat::checked_sum(missing).unwrap_or(Msat::MAX_MONEY);
        let found = session.ask_node(|| self.ln().info()).await?.outbound_msat;
        if found < needed { Err(PeerError::TooLittleOutbound { needed, found }) } else { Ok(()) }
    }

    /// Sends to a hold invoice, unless the node knows of a payment that may still be locked.
    async fn lock(&self, invoice: &CheckedInvoice, tries: &mut u32, pay_until: UnixMs) -> Result<(), PeerError> {
        let session = &self.session;
        let hash = invoice.payment_hash;
        match session.ask_node(|| self.ln().payment(hash)).await? {
            PaymentStatus::InFlight | PaymentStatus::Succeeded { .. } | PaymentStatus::Unknown => return Ok(()),
            PaymentStatus::NotFound => {}
            PaymentStatus::Failed { why: PaymentFailure::NotReached, .. } if *tries < MOST_TRIES => {}
            PaymentStatus::Failed { reason, .. } => return Err(PeerError::EscrowNotLocked { reason }),
        }
        if session.coordinator_now() > pay_until {
            // The coordinator gives back what is locked, and says so in its phase.
            return Ok(());
        }
        *tries += 1;
        let most = self.limits.max_escrow_blocks.saturating_add(ROUTE_BLOCKS);
        let max_cltv_blocks = most.min(bolt11::MAX_FINAL_CLTV_BLOCKS);
        let limits = PayLimits { max_fee: self.limits.max_routing_fee, max_cltv_blocks };
        match self.ln().pay(&invoice.bolt11, limits).await {
            // Unavailable says nothing about the payment: the next look does.
            Ok(_) | Err(LnError::Unavailable(_)) => Ok(()),
            Err(LnError::Refused(_) | LnError::BadInvoice(_)) if *tries < MOST_TRIES => Ok(()),
            Err(LnError::Refused(reason) | LnError::BadInvoice(reason)) => Err(PeerError::EscrowNotLocked { reason }),
            Err(error @ (LnError::UnknownHash(_) | LnError::WrongPreimage(_))) => Err(error.into()),
        }
    }

    async fn close_and_wait(&self) -> Result<Posted, PeerError> {
        let session = &self.session;
        let mut view = self.view().await?;
        let watch = session.timer();
        while !is_over(view.phase) {
            if watch.elapsed_ms() > PHASE_PATIENCE_MS {
                return self.count(view).await;
            }
            // One that isn't open yet can't be closed: it is asked again once it is.
            if view.phase == BountyPhase::Open {
                self.ask(SponsorAsk::Close).await?;
            }
            self.look_pause().await;
            view = self.view().await?;
        }
        self.until_released().await?;
        if view.surplus_msat > Msat::ZERO {
            session.ready_to_be_paid(&view.lightning).await?;
            self.have_paid_back(&view).await?;
            view = self.view().await?;
        }
        self.count(view).await
    }

    /// Asks for what was taken and paid to nobody, by one invoice however often this is repeated.
    async fn have_paid_back(&self, view: &BountyView) -> Result<(), PeerError> {
        let session = &self.session;
        let amount = view.surplus_msat;
        // More than was ever locked is nobody's to send.
        if amount > self.record.request().posting.body.rules.budget_msat {
            return Err(PeerError::Untrusted(format!("it has {amount} left of a smaller budget")));
        }
        let invoice = match self.record.pay_back()? {
            Some(known) if known.amount_msat == amount && self.is_payable(known.payment_hash).await? => known,
            _ => {
                let description = format!("l402t bounty {} surplus", view.bounty.short());
                let request = InvoiceRequest { amount, description, expiry_s: PAY_BACK_EXPIRY_S };
                let made = session.ask_node(|| self.ln().create_invoice(&request)).await?;
                let known = PayBack { invoice: made.bolt11, payment_hash: made.payment_hash, amount_msat: amount };
                self.record.save_pay_back(&known)?;
                known
            }
        };
        if self.is_settled(invoice.payment_hash).await?.is_none() {
            self.ask(SponsorAsk::PayBack { invoice: invoice.invoice }).await?;
        }
        let watch = session.timer();
        let mut hints = self.ln().events();
        while self.is_settled(invoice.payment_hash).await?.is_none() {
            if watch.elapsed_ms() > MONEY_PATIENCE_MS {
                return Ok(());
            }
            session.hint(&mut hints).await;
        }
        Ok(())
    }

    /// Open or paid: there is no need of another.
    async fn is_payable(&self, hash: PaymentHash) -> Result<bool, PeerError> {
        Ok(match self.session.ask_node(|| self.ln().invoice(hash)).await? {
            InvoiceStatus::Open | InvoiceStatus::Accepted { .. } | InvoiceStatus::Settled { .. } => true,
            InvoiceStatus::NotFound | InvoiceStatus::Canceled => false,
        })
    }

    async fn is_settled(&self, hash: PaymentHash) -> Result<Option<Msat>, PeerError> {
        Ok(match self.session.ask_node(|| self.ln().invoice(hash)).await? {
            InvoiceStatus::Settled { amount } => Some(amount),
            InvoiceStatus::NotFound
            | InvoiceStatus::Open
            | InvoiceStatus::Accepted { .. }
            | InvoiceStatus::Canceled => None,
        })
    }

    /// Waits a while for what the coordinator has cancelled to come back.
    async fn until_released(&self) -> Result<(), PeerError> {
        let session = &self.session;
        let watch = session.timer();
        let mut hints = self.ln().events();
        for invoice in &self.invoices {
            while session.ask_node(|| self.ln().payment(invoice.payment_hash)).await? == PaymentStatus::InFlight {
                if watch.elapsed_ms() > MONEY_PATIENCE_MS {
                    return Ok(());
                }
                session.hint(&mut hints).await;
            }
        }
        Ok(())
    }

    /// Where the money is, by this sponsor's own node.
    async fn count(&self, view: BountyView) -> Result<Posted, PeerError> {
        let (mut locked, mut taken) = (Vec::new(), Vec::new());
        for invoice in &self.invoices {
            match self.session.ask_node(|| self.ln().payment(invoice.payment_hash)).await? {
                PaymentStatus::InFlight | PaymentStatus::Unknown => locked.push(invoice.amount),
                PaymentStatus::Succeeded { .. } => taken.push(invoice.amount),
                PaymentStatus::NotFound | PaymentStatus::Failed { .. } => {}
            }
        }
        let sum = |amounts| Msat::checked_sum(amounts).unwrap_or(Msat::MAX_MONEY);
        let paid_back_msat = match self.record.pay_back()? {
            Some(known) => self.is_settled(known.payment_hash).await?.unwrap_or(Msat::ZERO),
            None => Msat::ZERO,
        };
        let posted = Posted { view, locked_msat: sum(locked), taken_msat: sum(taken), paid_back_msat };
        if is_over(posted.view.phase) && posted.locked_msat == Msat::ZERO && posted.view.surplus_msat <= paid_back_msat
        {
            self.record.save_over()?;
        }
        Ok(posted)
    }

    async fn ask(&self, ask: SponsorAsk) -> Result<BountyView, PeerError> {
        let bounty = self.record.request().posting.body.bounty_id();
        let request = self.session.parts.key.sign(SponsorRequest { bounty, ask });
        let doing = "take the sponsor's request";
        let view = self.session.patiently(doing, || self.board.ask(&request)).await;
        self.session.is_ours(view.map_err(|failure| self.session.failed(doing, failure))?)
    }

    async fn view(&self) -> Result<BountyView, PeerError> {
        self.session.bounty(&*self.board).await
    }

    async fn look_pause(&self) {
        let parts = &self.session.parts;
        parts.clock.sleep(parts.settings.poll_ms * POLLS_A_LOOK).await;
    }

    fn ln(&self) -> &Arc<dyn Lightning> {
        &self.session.parts.ln
    }
}

fn is_over(phase: BountyPhase) -> bool {
    match phase {
        BountyPhase::Closed | BountyPhase::Refused => true,
        BountyPhase::AwaitingEscrow | BountyPhase::Checking | BountyPhase::Open | BountyPhase::Closing => false,
    }
}

fn check_budget(request: &PostRequest, limits: &SponsorLimits) -> Result<(), PeerError> {
    let budget = request.posting.body.rules.budget_msat;
    if budget > limits.max_budget {
        return Err(PeerError::Terms(format!("its budget of {budget} is more than {}", limits.max_budget)));
    }
    Ok(())
}

/// The coordinator's answer to a posting: this very posting, taken on, and a hold invoice for each entry of the signed escrow,
/// payable to its own node. Returns the invoices.
pub(super) fn check_answer(
    request: &PostRequest,
    answer: &PostAnswer,
    limits: &SponsorLimits,
) -> Result<Vec<CheckedInvoice>, PeerError> {
    let untrusted = |what: String| PeerError::Untrusted(what);
    check_budget(request, limits)?;
    let manifest = checks::check_bounty(&answer.view)?;
    if manifest.posting != request.posting {
        return Err(untrusted("it has taken on another posting than the one that was sent".into()));
    }
    let network: Network = answer.view.lightning.network.parse().map_err(|_| {
        untrusted(format!("its Lightning network {:?} is none that is known", answer.view.lightning.network))
    })?;
    if answer.invoices.is_empty() && answer.view.phase != BountyPhase::AwaitingEscrow {
        // An earlier answer was lost, and nothing was paid for it: by now nothing can be.
        return Ok(Vec::new());
    }
    if answer.invoices.len() != manifest.escrow.len() {
        let (invoices, escrow) = (answer.invoices.len(), manifest.escrow.len());
        return Err(untrusted(format!("it sent {invoices} invoices for an escrow of {escrow}")));
    }
    let mut checked = Vec::with_capacity(answer.invoices.len());
    for (place, (text, tranche)) in answer.invoices.iter().zip(&manifest.escrow).enumerate() {
        let bad = |what: &str| untrusted(format!("escrow invoice {place} {what}"));
        let invoice = bolt11::parse(text, network).map_err(|error| bad(&error.to_string()))?;
        if invoice.payment_hash != tranche.payment_hash || invoice.amount != tranche.amount_msat {
            return Err(bad("is not for the hash and amount that the signed escrow names"));
        }
        if invoice.payee_node_id != answer.view.lightning.node_id {
            return Err(bad("is another node's"));
        }
        if invoice.min_final_cltv_blocks > limits.max_escrow_blocks {
            return Err(bad("would be locked for too long"));
        }
        checked.push(invoice);
    }
    Ok(checked)
}
