//! What this node does about HTLCs: the rules between our records and LDK.
//!
//! Every rule writes its record before LDK acts on it, and may run again after a crash. It must never claim without a
//! preimage on disk, nor report money back that LDK still holds.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use ldk_node::lightning_types::payment::{PaymentHash as LdkHash, PaymentPreimage as LdkPreimage};
use ldk_node::payment::{PaymentDirection, PaymentKind, PaymentStatus as LdkStatus};
use ldk_node::{LightningBalance, Node, NodeError};
use secp256k1::SecretKey;
use tokio::sync::broadcast;

use super::invoice::with_final_cltv;
use super::records::{InvoiceKind, InvoiceRecord, InvoiceState, PaymentRecord, PaymentState, Records};
use super::store::{Store, Trouble};
use crate::clock::{Clock, SystemClock};
use crate::ln::bolt11::{self, CheckedInvoice, Network};
use crate::ln::limits::FAIL_BACK_BLOCKS;
use crate::ln::{InvoiceRequest, InvoiceStatus, LnError, LnEvent, PayLimits, PaymentFailure, PaymentStatus};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage, UnixMs};

/// HTLCs below this are dust on every channel type: LDK's books don't list them one by one.
const DUST_BELOW: Msat = Msat::new(1_000_000);

/// The node, its records and its key.
pub(super) struct Htlcs {
    pub(super) node: Node,
    pub(super) records: Records,
    pub(super) store: std::sync::Arc<Store>,
    pub(super) network: Network,
    pub(super) secret: SecretKey,
    pub(super) events: broadcast::Sender<LnEvent>,
    /// Held while an invoice is made, a payment is started or a record is changed: one of these at a time.
    pub(super) turn: Mutex<()>,
}

impl Htlcs {
    fn turn(&self) -> MutexGuard<'_, ()> {
        // It guards no data: the records are consistent at every write.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> UnixMs {
        SystemClock.now()
    }

    pub(super) fn height(&self) -> u32 {
        self.node.status().current_best_block.height
    }

    pub(super) fn tell(&self, event: LnEvent) {
        // Nobody may be listening.
        self.events.send(event).ok();
    }

    /// Refuses to go on after a failed write, or when LDK must not.
    pub(super) fn check_store(&self) -> Result<(), LnError> {
        match self.store.trouble() {
            None => Ok(()),
            Some(Trouble::WriteFailed) => Err(LnError::Unavailable(
                "it could not write its state: free disk space, then restart this process".into(),
            )),
            Some(Trouble::Behind) => Err(LnError::Refused(
                "another node proved that its channel state is old. Stop this process; its next start says what to do"
                    .into(),
            )),
            Some(Trouble::Broken) => Err(LnError::Refused(
                "it broke off, as it does when its channel state is old. Stop this process and look at its log".into(),
            )),
        }
    }

    /// Makes an invoice, or returns the one that a hold invoice's hash has already.
    pub(super) fn make_invoice(
        &self,
        (hash, preimage, kind): (PaymentHash, Option<Preimage>, InvoiceKind),
        request: &InvoiceRequest,
        final_cltv_blocks: u32,
    ) -> Result<String, LnError> {
        let _turn = self.turn();
        if let Some(known) = self.records.invoice(hash)? {
            return match known.kind {
                InvoiceKind::Hold => Ok(known.bolt11),
                InvoiceKind::Ordinary => Err(LnError::Refused(format!("{hash} is an ordinary invoice's"))),
            };
        }
        if self.records.payment(hash)?.is_some() {
            return Err(LnError::Refused(format!("this node pays {hash} itself")));
        }
        let description = Description::new(request.description.clone())
            .map_err(|_| LnError::Refused("the description is too long".into()))?;
        let description = Bolt11InvoiceDescription::Direct(description);
        let ldk_hash = LdkHash(*hash.as_bytes());
        let made = self
            .node
            .bolt11_payment()
            .receive_for_hash(request.amount.msat(), &description, request.expiry_s, ldk_hash)
            .map_err(|error| ldk_error("make an invoice", error))?;
        let invoice = with_final_cltv(made, final_cltv_blocks, &self.secret)?;
        let checked = bolt11::parse(&invoice.to_string(), self.network)?;
        self.records.add_invoice(&InvoiceRecord {
            payment_hash: hash,
            bolt11: checked.bolt11.clone(),
            kind,
            amount: request.amount,
            expires_at: checked.expires_at,
            preimage,
            state: InvoiceState::Open,
            locked: None,
            deadline_height: None,
        })?;
        Ok(checked.bolt11)
    }

    pub(super) fn invoice_status(&self, hash: PaymentHash) -> Result<InvoiceStatus, LnError> {
        let Some(invoice) = self.records.invoice(hash)? else { return Ok(InvoiceStatus::NotFound) };
        let amount = invoice.locked.unwrap_or_default();
        Ok(match invoice.state {
            InvoiceState::Open if self.now() >= invoice.expires_at => InvoiceStatus::Canceled,
            InvoiceState::Open => InvoiceStatus::Open,
            InvoiceState::Accepted if self.given_back(&invoice) => InvoiceStatus::Canceled,
            InvoiceState::Accepted => InvoiceStatus::Accepted { amount, expiry_height: invoice.deadline_height },
            InvoiceState::Settled => InvoiceStatus::Settled { amount },
            InvoiceState::Canceled => InvoiceStatus::Canceled,
        })
    }

    /// Whether LDK has failed the HTLC back because of its height. One that is being claimed gets until the timeout.
    fn given_back(&self, invoice: &InvoiceRecord) -> bool {
        let grace = if invoice.preimage.is_some() { FAIL_BACK_BLOCKS } else { 0 };
        invoice.deadline_height.is_some_and(|deadline| self.height() >= deadline.saturating_add(grace))
    }

    pub(super) fn settle(&self, preimage: Preimage) -> Result<(), LnError> {
        let hash = preimage.payment_hash();
        let _turn = self.turn();
        let invoice = self.records.invoice(hash)?.ok_or(LnError::UnknownHash(hash))?;
        match (invoice.kind, invoice.state) {
            (_, InvoiceState::Settled) => Ok(()),
            (InvoiceKind::Ordinary, _) => Err(LnError::Refused(format!("{hash} is not a hold invoice"))),
            (InvoiceKind::Hold, InvoiceState::Canceled) => {
                Err(LnError::Refused(format!("the invoice for {hash} is canceled")))
            }
            (InvoiceKind::Hold, InvoiceState::Open) if self.now() >= invoice.expires_at => {
                Err(LnError::Refused(format!("the invoice for {hash} has expired")))
            }
            (InvoiceKind::Hold, InvoiceState::Open) => self.records.keep_preimage(hash, preimage),
            (InvoiceKind::Hold, InvoiceState::Accepted) if self.given_back(&invoice) => {
                self.give_back(hash)?;
                Err(LnError::Refused(format!("the HTLC for {hash} has expired")))
            }
            (InvoiceKind::Hold, InvoiceState::Accepted) => {
                self.records.keep_preimage(hash, preimage)?;
                self.claim(&invoice, preimage);
                Ok(())
            }
        }
    }

    /// Tells LDK to claim. It may not be ready to (after a restart, say): the keeper repeats it until the money is here.
    fn claim(&self, invoice: &InvoiceRecord, preimage: Preimage) {
        let (hash, amount) = (LdkHash(*invoice.payment_hash.as_bytes()), invoice.locked.unwrap_or(invoice.amount));
        let claimed = self.node.bolt11_payment().claim_for_hash(hash, amount.msat(), LdkPreimage(*preimage.as_bytes()));
        if let Err(error) = claimed {
            tracing::warn!(payment_hash = %invoice.payment_hash, %error, "could not claim yet");
        }
    }

    pub(super) fn cancel(&self, hash: PaymentHash) -> Result<(), LnError> {
        let _turn = self.turn();
        let invoice = self.records.invoice(hash)?.ok_or(LnError::UnknownHash(hash))?;
        let claiming = invoice.preimage.is_some() && !(invoice.kind == InvoiceKind::Ordinary && is_open(&invoice));
        match invoice.state {
            InvoiceState::Canceled => Ok(()),
            InvoiceState::Settled => Err(LnError::Refused(format!("the invoice for {hash} is settled"))),
            InvoiceState::Open | InvoiceState::Accepted if claiming => {
                Err(LnError::Refused(format!("the invoice for {hash} is being settled")))
            }
            InvoiceState::Open | InvoiceState::Accepted => self.give_back(hash),
        }
    }

    /// Notes the end of an invoice and fails whatever HTLC is locked to it.
    fn give_back(&self, hash: PaymentHash) -> Result<(), LnError> {
        self.records.cancel(hash)?;
        self.fail_back(hash);
        self.tell(LnEvent::Invoice(hash));
        Ok(())
    }

    fn fail_back(&self, hash: PaymentHash) {
        if let Err(error) = self.node.bolt11_payment().fail_for_hash(LdkHash(*hash.as_bytes())) {
            tracing::warn!(payment_hash = %hash, %error, "could not give an HTLC back; it expires by itself");
        }
    }

    /// LDK says that an HTLC is locked to us.
    pub(super) fn on_claimable(
        &self,
        hash: PaymentHash,
        amount: Msat,
        deadline_height: Option<u32>,
    ) -> Result<(), LnError> {
        let _turn = self.turn();
        let Some(invoice) = self.records.invoice(hash)? else {
            self.fail_back(hash);
            return Ok(());
        };
        let takes = match invoice.state {
            InvoiceState::Open => self.now() < invoice.expires_at && amount >= invoice.amount,
            // LDK repeats itself after a restart.
            InvoiceState::Accepted => amount >= invoice.amount,
            InvoiceState::Settled | InvoiceState::Canceled => false,
        };
        if !takes {
            return self.give_back(hash);
        }
        self.records.accept(hash, amount, deadline_height)?;
        self.tell(LnEvent::Invoice(hash));
        if let Some(preimage) = invoice.preimage {
            self.claim(&InvoiceRecord { locked: Some(amount), ..invoice }, preimage);
        }
        Ok(())
    }

    /// LDK says that the money is ours.
    pub(super) fn on_received(&self, hash: PaymentHash, amount: Msat) -> Result<(), LnError> {
        self.records.received(hash, amount)?;
        self.tell(LnEvent::Invoice(hash));
        Ok(())
    }

    /// Starts a payment, unless it was started and has not failed.
    pub(super) fn pay(&self, invoice: &CheckedInvoice, limits: PayLimits) -> Result<(), LnError> {
        let hash = invoice.payment_hash;
        let _turn = self.turn();
        if let Some(payment) = self.records.payment(hash)? {
            match payment.state {
                PaymentState::Sending | PaymentState::InFlight | PaymentState::Succeeded => return Ok(()),
                PaymentState::Refused | PaymentState::NotReached => {}
            }
        }
        if self.records.invoice(hash)?.is_some() || invoice.payee_node_id == self.node.node_id().to_string() {
            return Err(LnError::Refused("this is the node's own invoice".into()));
        }
        if invoice.is_expired(self.now()) {
            return Err(LnError::BadInvoice("it has expired".into()));
        }
        self.records.sending(hash, &invoice.bolt11, invoice.amount, limits)?;
        self.send(hash, &invoice.bolt11, limits)
    }

    /// Tells LDK to pay what is noted as `Sending`, and notes what it said.
    fn send(&self, hash: PaymentHash, bolt11: &str, limits: PayLimits) -> Result<(), LnError> {
        let invoice =
            Bolt11Invoice::from_str(bolt11).map_err(|_| LnError::BadInvoice("it can't be read any more".into()))?;
        let route = RouteParametersConfig {
            max_total_routing_fee_msat: Some(limits.max_fee.msat()),
            max_total_cltv_expiry_delta: limits.max_cltv_blocks,
            max_path_count: 1,
            max_channel_saturation_power_of_half: 0,
        };
        let failed = |why: PaymentFailure, reason: &str| {
            self.records.failed(hash, why, reason)?;
            self.tell(LnEvent::Payment(hash));
            Ok(())
        };
        match self.node.bolt11_payment().send(&invoice, Some(route)) {
            Ok(_) | Err(NodeError::DuplicatePayment) => self.records.in_flight(hash),
            Err(NodeError::PaymentSendingFailed) => {
                failed(PaymentFailure::NotReached, "no route within the limits, or the payee is offline")
            }
            Err(NodeError::InvalidInvoice) => failed(PaymentFailure::Refused, "the invoice can't be paid by this node"),
            Err(NodeError::NotRunning) => failed(PaymentFailure::NotReached, "the node was stopped before it was sent"),
            // Whether it was sent is open: its record stays `Sending`, which is answered as `Unknown`.
            Err(error) => Err(ldk_error("send the payment", error)),
        }
    }

    pub(super) fn payment_status(&self, hash: PaymentHash) -> Result<PaymentStatus, LnError> {
        let Some(payment) = self.records.payment(hash)? else { return Ok(PaymentStatus::NotFound) };
        let failed = |why| PaymentStatus::Failed {
            why,
            reason: payment.reason.clone().unwrap_or_else(|| "no reason given".into()),
        };
        Ok(match (payment.state, payment.preimage) {
            (PaymentState::Sending, _) | (PaymentState::Succeeded, None) => PaymentStatus::Unknown,
            (PaymentState::InFlight, _) => PaymentStatus::InFlight,
            (PaymentState::Succeeded, Some(preimage)) => PaymentStatus::Succeeded { preimage, fee: payment.fee },
            (PaymentState::Refused, _) => failed(PaymentFailure::Refused),
            (PaymentState::NotReached, _) => failed(PaymentFailure::NotReached),
        })
    }

    /// LDK says that a payment of ours was claimed.
    pub(super) fn on_paid(&self, hash: PaymentHash, preimage: Preimage, fee: Msat) -> Result<(), LnError> {
        self.records.succeeded(hash, preimage, fee)?;
        self.tell(LnEvent::Payment(hash));
        Ok(())
    }

    /// LDK says that a payment of ours came back. After a crash it may say so again of an attempt before the last one: an
    /// HTLC that is locked, or LDK's own record of the last one, knows better.
    pub(super) fn on_failed(&self, hash: PaymentHash, why: PaymentFailure, reason: &str) -> Result<(), LnError> {
        let _turn = self.turn();
        if self.is_locked(hash) || matches!(ldk_payment(&self.node, hash), Some((LdkStatus::Pending, ..))) {
            return Ok(());
        }
        self.records.failed(hash, why, reason)?;
        self.tell(LnEvent::Payment(hash));
        Ok(())
    }

    fn is_locked(&self, hash: PaymentHash) -> bool {
        locked_payments(&self.node).any(|locked| locked == hash)
    }

    /// Sends again what a crash interrupted and LDK's books can't decide: LDK refuses what it has already. Not while a
    /// channel is down, when LDK would find no route before it looks whether it has it.
    pub(super) fn resolve_interrupted(&self) -> Result<(), LnError> {
        for payment in self.records.payments(PaymentState::Sending)? {
            let _turn = self.turn();
            let still = self.records.payment(payment.payment_hash)?.map(|now| now.state) == Some(PaymentState::Sending);
            if still && self.node.list_channels().iter().all(|channel| channel.is_usable) {
                self.send(payment.payment_hash, &payment.bolt11, payment.limits)?;
            }
        }
        Ok(())
    }

    /// Claims again what should be claimed and has not arrived, and notes what has expired.
    pub(super) fn look_after_accepted(&self) -> Result<(), LnError> {
        for invoice in self.records.invoices(InvoiceState::Accepted)? {
            let _turn = self.turn();
            // It may have ended since it was read.
            let Some(invoice) = self.records.invoice(invoice.payment_hash)?.filter(is_accepted) else { continue };
            match invoice.preimage {
                _ if self.given_back(&invoice) => self.give_back(invoice.payment_hash)?,
                Some(preimage) => self.claim(&invoice, preimage),
                None => {}
            }
        }
        Ok(())
    }

    /// After a start: fails HTLCs back again that a crash may have kept LDK from failing. LDK ignores the rest.
    pub(super) fn repeat_cancellations(&self) -> Result<(), LnError> {
        let height = self.height();
        for invoice in self.records.invoices(InvoiceState::Canceled)? {
            if invoice.deadline_height.is_some_and(|deadline| height < deadline) {
                self.fail_back(invoice.payment_hash);
            }
        }
        Ok(())
    }
}

fn is_open(invoice: &InvoiceRecord) -> bool {
    invoice.state == InvoiceState::Open
}

fn is_accepted(invoice: &InvoiceRecord) -> bool {
    invoice.state == InvoiceState::Accepted
}

/// Compares the records of a stopped node with LDK's, before anything is sent: what a crash left open is decided, where
/// it can be.
pub(super) fn reconcile(node: &Node, records: &Records) -> Result<(), LnError> {
    let mut open = records.payments(PaymentState::Sending)?;
    open.extend(records.payments(PaymentState::InFlight)?);
    let locked: Vec<PaymentHash> = locked_payments(node).collect();
    for payment in open {
        let hash = payment.payment_hash;
        if locked.contains(&hash) {
            records.in_flight(hash)?;
            continue;
        }
        match ldk_payment(node, hash) {
            Some((LdkStatus::Succeeded, Some(preimage), fee)) => records.succeeded(hash, preimage, fee)?,
            Some((LdkStatus::Failed, _, _)) => {
                // Why is in an event that is still to come, if at all: an attempt too many is refused by the payee.
                records.failed(hash, PaymentFailure::NotReached, "it came back while the node was down")?;
            }
            Some(_) => records.in_flight(hash)?,
            None if never_sent(&payment) => {
                records.failed(hash, PaymentFailure::NotReached, "a restart came before it was sent")?;
            }
            None => {}
        }
    }
    Ok(())
}

/// LDK's books list every HTLC above dust: one that isn't there was never sent.
fn never_sent(payment: &PaymentRecord) -> bool {
    payment.state == PaymentState::Sending && payment.amount >= DUST_BELOW
}

fn locked_payments(node: &Node) -> impl Iterator<Item = PaymentHash> + use<> {
    node.list_balances().lightning_balances.into_iter().filter_map(|balance| match balance {
        LightningBalance::MaybeTimeoutClaimableHTLC { payment_hash, outbound_payment: true, .. } => {
            Some(PaymentHash::from_bytes(payment_hash.0))
        }
        _ => None,
    })
}

fn ldk_payment(node: &Node, hash: PaymentHash) -> Option<(LdkStatus, Option<Preimage>, Msat)> {
    let details = node.payment(&PaymentId(*hash.as_bytes()))?;
    if details.direction != PaymentDirection::Outbound {
        return None;
    }
    let preimage = match details.kind {
        PaymentKind::Bolt11 { preimage, .. } => preimage.map(|preimage| Preimage::from_bytes(preimage.0)),
        _ => None,
    };
    Some((details.status, preimage, Msat::new(details.fee_paid_msat.unwrap_or_default())))
}

/// An LDK error as ours.
pub(super) fn ldk_error(action: &str, error: NodeError) -> LnError {
    LnError::Unavailable(format!("it could not {action} ({error})"))
}
