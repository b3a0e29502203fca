//! What happens in a simulated network, and in which order: calls, the steps they set off, blocks, crashes.
//!
//! One lock holds the whole world. A call to any node is one tick; a step waits for its tick. It must never act on
//! anything but the ledger, the dice and the clock it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::hashes::{Hash, sha256};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use secp256k1::{SECP256K1, SecretKey};
use tokio::sync::broadcast;

use super::faults::{Dice, Faults};
use super::ledger::{
    InvoiceKind, InvoiceRecord, InvoiceState, Ledger, Node, NodeIndex, Order, PaymentRecord, PaymentState,
    fail_back_height,
};
use crate::clock::Clock;
use crate::ln::{InvoiceRequest, LnError, LnEvent, PaymentFailure};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage, UnixMs};

/// Events that a slow listener may fall behind by.
const EVENT_BUFFER: usize = 1_024;

/// Something under way.
#[derive(Clone, Debug)]
enum Step {
    /// An HTLC reaches the payee.
    Arrive { payer: NodeIndex, hash: PaymentHash },
    /// The payee claims.
    Claim { payee: NodeIndex, hash: PaymentHash },
    /// The payer hears that it was claimed.
    HearClaim { payer: NodeIndex, hash: PaymentHash },
    /// The payer has its money back.
    Refund { payer: NodeIndex, hash: PaymentHash, reason: &'static str },
    /// A node tells its listeners.
    Tell { node: NodeIndex, event: LnEvent },
}

/// What a node keeps outside of the ledger.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) name: String,
    key: SecretKey,
    pub(super) events: broadcast::Sender<LnEvent>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) ledger: Ledger,
    pub(super) identities: Vec<Identity>,
    pub(super) faults: Faults,
    pub(super) dice: Dice,
    /// Payments whose payer was last told that their state is unknown.
    pub(super) doubtful: BTreeSet<(NodeIndex, PaymentHash)>,
    /// Orders to pay one of those.
    pub(super) blind_resends: u64,
    clock: Arc<dyn Clock>,
    tick: u64,
    /// By the tick they are due at, then by the order they were set off in.
    steps: BTreeMap<(u64, u64), Step>,
    steps_made: u64,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults, clock: Arc<dyn Clock>) -> Self {
        Self {
            ledger: Ledger::new(),
            identities: Vec::new(),
            faults,
            dice: Dice::new(seed),
            doubtful: BTreeSet::new(),
            blind_resends: 0,
            clock,
            tick: 0,
            steps: BTreeMap::new(),
            steps_made: 0,
        }
    }

    pub(super) fn now(&self) -> UnixMs {
        self.clock.now()
    }

    /// The node's place, which is made on the first use of the name.
    pub(super) fn node(&mut self, name: &str) -> NodeIndex {
        if let Some(index) = self.identities.iter().position(|identity| identity.name == name) {
            return index;
        }
        let key = loop {
            if let Ok(key) = SecretKey::from_slice(&self.dice.bytes32()) {
                break key;
            }
        };
        self.identities.push(Identity { name: name.into(), key, events: broadcast::channel(EVENT_BUFFER).0 });
        self.ledger.nodes.push(Node {
            node_id: key.public_key(SECP256K1).to_string(),
            online: true,
            on_chain: Msat::ZERO,
            invoices: BTreeMap::new(),
            payments: BTreeMap::new(),
        });
        self.identities.len() - 1
    }

    pub(super) fn node_by_id(&self, node_id: &str) -> Option<NodeIndex> {
        self.ledger.nodes.iter().position(|node| node.node_id == node_id)
    }

    /// Lets `ticks` pass and does what has come due.
    pub(super) fn advance(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick += 1;
            self.run_due();
        }
    }

    /// Does everything that is due now, what that sets off included.
    pub(super) fn run_due(&mut self) {
        while let Some(entry) = self.steps.first_entry() {
            if entry.key().0 > self.tick {
                break;
            }
            let step = entry.remove();
            if self.must_wait(&step) {
                self.put(self.tick + 1, step);
            } else {
                self.perform(step);
            }
        }
    }

    /// A step of a node that is down happens once it is back.
    fn must_wait(&self, step: &Step) -> bool {
        let node = match step {
            Step::Arrive { payer, hash } => match self.ledger.nodes[*payer].payments.get(hash) {
                Some(payment) => payment.payee,
                None => return false,
            },
            Step::Claim { payee: node, .. }
            | Step::HearClaim { payer: node, .. }
            | Step::Refund { payer: node, .. }
            | Step::Tell { node, .. } => *node,
        };
        !self.ledger.nodes[node].online
    }

    fn put(&mut self, due: u64, step: Step) {
        self.steps_made += 1;
        self.steps.insert((due, self.steps_made), step);
    }

    fn soon(&mut self, step: Step) {
        let delay = if self.faults.delay_steps_max == 0 { 0 } else { self.dice.up_to(self.faults.delay_steps_max) };
        self.put(self.tick + delay, step);
    }

    pub(super) fn tell(&mut self, node: NodeIndex, event: LnEvent) {
        if self.dice.happens(self.faults.events_dropped) {
            return;
        }
        self.soon(Step::Tell { node, event });
        if self.dice.happens(self.faults.events_duplicated) {
            self.soon(Step::Tell { node, event });
        }
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Arrive { payer, hash } => self.arrive(payer, hash),
            Step::Claim { payee, hash } => self.claim(payee, hash),
            Step::HearClaim { payer, hash } => {
                self.ledger.hear_claim(payer, hash);
                self.tell(payer, LnEvent::Payment(hash));
            }
            Step::Refund { payer, hash, reason } => {
                self.ledger.refund(payer, hash, reason);
                self.tell(payer, LnEvent::Payment(hash));
            }
            // Nobody may be listening.
            Step::Tell { node, event } => drop(self.identities[node].events.send(event)),
        }
    }

    fn arrive(&mut self, payer: NodeIndex, hash: PaymentHash) {
        let (now, height) = (self.now(), self.ledger.height);
        let Some(payment) = self.ledger.nodes[payer].payments.get(&hash) else { return };
        if payment.state != PaymentState::Locked {
            return;
        }
        let (payee, amount, expiry_height) = (payment.payee, payment.amount, fail_back_height(payment.cltv_height));
        let open = |invoice: &&mut InvoiceRecord| {
            invoice.state == InvoiceState::Open && now < invoice.expires_at && amount >= invoice.amount
        };
        match self.ledger.nodes[payee].invoices.get_mut(&hash).filter(open) {
            Some(invoice) if height < expiry_height => {
                invoice.state = InvoiceState::Accepted { payer, amount, expiry_height };
                let claims = invoice.preimage.is_some();
                self.tell(payee, LnEvent::Invoice(hash));
                if claims {
                    self.soon(Step::Claim { payee, hash });
                }
            }
            _ => self.soon(Step::Refund { payer, hash, reason: "the payee refused it" }),
        }
    }

    fn claim(&mut self, payee: NodeIndex, hash: PaymentHash) {
        let Some(invoice) = self.ledger.nodes[payee].invoices.get_mut(&hash) else { return };
        if let (InvoiceState::Accepted { payer, amount, .. }, Some(preimage)) = (invoice.state, invoice.preimage) {
            invoice.state = InvoiceState::Settled { amount };
            self.ledger.claim(payer, hash, preimage);
            self.tell(payee, LnEvent::Invoice(hash));
            self.soon(Step::HearClaim { payer, hash });
        }
    }

    /// One block, and what it makes expire.
    pub(super) fn mine_block(&mut self) {
        self.ledger.height += 1;
        let locked: Vec<_> = self
            .ledger
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(payer, node)| node.payments.iter().map(move |(hash, payment)| (payer, *hash, payment)))
            .filter(|(_, _, payment)| payment.state == PaymentState::Locked)
            .map(|(payer, hash, payment)| (payer, hash, payment.payee, payment.cltv_height))
            .collect();
        for (payer, hash, payee, cltv_height) in locked {
            self.expire(payer, hash, payee, cltv_height);
        }
        self.run_due();
    }

    fn expire(&mut self, payer: NodeIndex, hash: PaymentHash, payee: NodeIndex, cltv_height: u32) {
        let height = self.ledger.height;
        let timed_out = height >= cltv_height;
        let online = self.ledger.nodes[payee].online;
        let accepted = self.ledger.nodes[payee]
            .invoices
            .get_mut(&hash)
            .filter(|invoice| matches!(invoice.state, InvoiceState::Accepted { payer: by, .. } if by == payer));
        match accepted {
            Some(invoice) if timed_out || (online && height >= fail_back_height(cltv_height)) => {
                if invoice.preimage.is_some() && online {
                    // It has the preimage: it claims, on chain if need be.
                    return self.claim(payee, hash);
                }
                invoice.state = InvoiceState::Canceled;
                self.tell(payee, LnEvent::Invoice(hash));
                self.soon(Step::Refund { payer, hash, reason: "held until it expired" });
            }
            None if timed_out => self.soon(Step::Refund { payer, hash, reason: "expired on the way" }),
            Some(_) | None => {}
        }
    }

    /// Takes a node down: what it had not told anyone yet is never told.
    pub(super) fn crash(&mut self, node: NodeIndex) {
        self.ledger.nodes[node].online = false;
        self.identities[node].events = broadcast::channel(EVENT_BUFFER).0;
        self.steps.retain(|_, step| !matches!(step, Step::Tell { node: of, .. } if *of == node));
    }

    /// Writes and signs an invoice with the node's key, and notes it.
    pub(super) fn make_invoice(
        &mut self,
        node: NodeIndex,
        (hash, preimage, kind): (PaymentHash, Option<Preimage>, InvoiceKind),
        request: &InvoiceRequest,
        final_cltv_blocks: u32,
    ) -> Result<String, LnError> {
        let now = self.now();
        let key = self.identities[node].key;
        let invoice = InvoiceBuilder::new(Currency::Regtest)
            .description(request.description.clone())
            .payment_hash(sha256::Hash::from_byte_array(*hash.as_bytes()))
            .payment_secret(PaymentSecret(self.dice.bytes32()))
            .duration_since_epoch(Duration::from_millis(now.0))
            .min_final_cltv_expiry_delta(u64::from(final_cltv_blocks))
            .expiry_time(Duration::from_secs(u64::from(request.expiry_s)))
            .amount_milli_satoshis(request.amount.msat())
            .build_signed(|message| SECP256K1.sign_ecdsa_recoverable(message, &key))
            .map_err(|error| LnError::Refused(format!("this invoice can't be written: {error}")))?;
        let record = InvoiceRecord {
            bolt11: invoice.to_string(),
            amount: request.amount,
            // BOLT 11 counts in whole seconds.
            expires_at: UnixMs(now.0 / 1_000 * 1_000).plus_ms(u64::from(request.expiry_s) * 1_000),
            preimage,
            kind,
            state: InvoiceState::Open,
        };
        let text = record.bolt11.clone();
        self.ledger.nodes[node].invoices.insert(hash, record);
        Ok(text)
    }

    /// Sends the money on its way; a payment without a route has failed at once.
    pub(super) fn send(&mut self, order: &Order) {
        let hash = order.payment_hash;
        match self.ledger.lock(order) {
            Ok(()) => self.soon(Step::Arrive { payer: order.payer, hash }),
            Err(reason) => self.fail(order.payer, (hash, order.amount), reason),
        }
    }

    /// Notes a payment that never left its payer.
    pub(super) fn fail(&mut self, payer: NodeIndex, (hash, amount): (PaymentHash, Msat), reason: String) {
        let record = PaymentRecord {
            payee: payer,
            amount,
            fee: Msat::ZERO,
            cltv_height: 0,
            hops: Vec::new(),
            state: PaymentState::Failed(PaymentFailure::NotReached, reason),
        };
        self.ledger.nodes[payer].payments.insert(hash, record);
        self.tell(payer, LnEvent::Payment(hash));
    }

    /// Takes the preimage and claims what is locked, now or when it arrives.
    pub(super) fn settle(&mut self, node: NodeIndex, preimage: Preimage) -> Result<(), LnError> {
        let (hash, now) = (preimage.payment_hash(), self.now());
        let invoice = self.ledger.nodes[node].invoices.get_mut(&hash).ok_or(LnError::UnknownHash(hash))?;
        match (invoice.kind, invoice.state) {
            (_, InvoiceState::Settled { .. }) => Ok(()),
            (InvoiceKind::Ordinary, _) => Err(LnError::Refused(format!("{hash} is not a hold invoice"))),
            (InvoiceKind::Hold, InvoiceState::Canceled) => {
                Err(LnError::Refused(format!("the invoice for {hash} is canceled")))
            }
            (InvoiceKind::Hold, InvoiceState::Open) if now >= invoice.expires_at => {
                Err(LnError::Refused(format!("the invoice for {hash} has expired")))
            }
            (InvoiceKind::Hold, InvoiceState::Open) => {
                invoice.preimage = Some(preimage);
                Ok(())
            }
            (InvoiceKind::Hold, InvoiceState::Accepted { .. }) => {
                invoice.preimage = Some(preimage);
                self.soon(Step::Claim { payee: node, hash });
                Ok(())
            }
        }
    }

    /// Gives back what is locked, and takes nothing more.
    pub(super) fn cancel(&mut self, node: NodeIndex, hash: PaymentHash) -> Result<(), LnError> {
        let invoice = self.ledger.nodes[node].invoices.get_mut(&hash).ok_or(LnError::UnknownHash(hash))?;
        let settling = invoice.kind == InvoiceKind::Hold && invoice.preimage.is_some();
        match invoice.state {
            InvoiceState::Canceled => Ok(()),
            InvoiceState::Settled { .. } => Err(LnError::Refused(format!("the invoice for {hash} is settled"))),
            InvoiceState::Open | InvoiceState::Accepted { .. } if settling => {
                Err(LnError::Refused(format!("the invoice for {hash} is being settled")))
            }
            InvoiceState::Open => {
                invoice.state = InvoiceState::Canceled;
                Ok(())
            }
            InvoiceState::Accepted { .. } if invoice.kind == InvoiceKind::Ordinary => {
                Err(LnError::Refused(format!("the invoice for {hash} is being settled")))
            }
            InvoiceState::Accepted { payer, .. } => {
                invoice.state = InvoiceState::Canceled;
                self.soon(Step::Refund { payer, hash, reason: "the payee gave it back" });
                Ok(())
            }
        }
    }
}
