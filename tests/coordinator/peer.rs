//! A peer that takes one action at a time, and remembers what it did when the coordinator doesn't.

use std::sync::Arc;

use l402t::coordinator::handle::{Challenge, CoordinatorHandle, Refusal, TicketAnswer};
use l402t::ln::{InvoiceRequest, InvoiceStatus, Lightning, PayLimits, PaymentStatus};
use l402t::protocol::amount::Msat;
use l402t::protocol::api::{ChannelOffer, ContributionState, Phase, Ticket};
use l402t::protocol::bounty::score::Score;
use l402t::protocol::ids::{Blake3Hash, ContributionId, Preimage, RoundNumber, RunId};
use l402t::protocol::l402::{Credentials, Macaroon};
use l402t::protocol::sign::{IdentityKey, Signed, Statement};
use l402t::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration, Receipt};

use crate::world::World;

/// How far a peer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// All the way.
    Honest,
    /// Buys a ticket and is never seen again.
    NoInvoices,
    /// Locks its reward and doesn't upload; cancels when told.
    NoUpload,
    /// Never claims or gives back anything.
    NeverSettles,
}

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) ln: Arc<dyn Lightning>,
    pub(crate) key: IdentityKey,
    pub(crate) payload: Vec<u8>,
    /// The bounty's run that it submits to, and what it claims; `None`: it trains.
    pub(crate) claim: Option<(RunId, Score)>,
    pub(crate) manner: Manner,
    pub(crate) registered: bool,
    /// The round it works on, and how far it got.
    pub(crate) work: Option<Work>,
    pub(crate) receipts: Vec<Signed<Receipt>>,
}

pub(crate) struct Work {
    pub(crate) round: RoundNumber,
    pub(crate) commitment: Signed<Commitment>,
    pub(crate) credentials: Option<String>,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) submission: Option<Signed<InvoiceSubmission>>,
    pub(crate) uploaded: bool,
    pub(crate) receipt: Option<Signed<Receipt>>,
}

const LIMITS: PayLimits = PayLimits { max_fee: Msat::new(10_000), max_cltv_blocks: 1_008 };

impl Peer {
    pub(crate) fn new(world: &World, name: &'static str, payload: &[u8], manner: Manner) -> Self {
        let secret = *Blake3Hash::of(name.as_bytes()).as_bytes();
        Self {
            name,
            ln: world.network.node(name),
            key: IdentityKey::from_secret_bytes(&secret).expect("a key"),
            payload: payload.to_vec(),
            claim: None,
            manner,
            registered: false,
            work: None,
            receipts: Vec::new(),
        }
    }

    pub(crate) async fn register(&mut self, handle: &dyn CoordinatorHandle) -> Result<ChannelOffer, Refusal> {
        let info = self.ln.info().await.expect("a peer's node is always up");
        let registration = self.key.sign(PeerRegistration {
            run: match self.claim {
                Some((run, _)) => run,
                None => handle.run().await?.run,
            },
            peer: self.key.id(),
            node_id: info.node_id,
            address: info.address,
        });
        let view = handle.register(registration).await?;
        self.registered = view.channel == ChannelOffer::Usable;
        Ok(view.channel)
    }

    pub(crate) async fn commit(&self, handle: &dyn CoordinatorHandle) -> Result<Signed<Commitment>, Refusal> {
        let view = handle.round(None).await?;
        let opening = &view.opening.body;
        Ok(self.key.sign(Commitment {
            run: opening.run,
            round: opening.round,
            opening: opening.digest(),
            peer: self.key.id(),
            payload: Blake3Hash::of(&self.payload),
            payload_bytes: self.payload.len() as u64,
            claim: self.claim.map(|(_, score)| score),
        }))
    }

    pub(crate) async fn pay_fee(&self, challenge: &Challenge) -> String {
        let preimage = self.pay_invoice(&challenge.invoice).await;
        let macaroon = Macaroon::from_base64(&challenge.macaroon).expect("a macaroon");
        Credentials::new(macaroon, preimage).expect("ours").to_header()
    }

    pub(crate) async fn pay_invoice(&self, bolt11: &str) -> Preimage {
        let hash = self.ln.pay(bolt11, LIMITS).await.expect("paid");
        let status = self.ln.payment(hash).await.expect("known");
        let PaymentStatus::Succeeded { preimage, .. } = status else { panic!("the fee is {status:?}") };
        preimage
    }

    pub(crate) async fn invoices(&self, ticket: &Ticket) -> Signed<InvoiceSubmission> {
        let terms = &ticket.terms.body;
        let mut invoices = Vec::new();
        for tranche in &terms.tranches {
            let request = request(tranche.amount_msat);
            let invoice = self.ln.create_hold_invoice(tranche.payment_hash, &request, terms.hold_blocks).await;
            invoices.push(invoice.expect("made"));
        }
        self.submit(ticket, invoices)
    }

    pub(crate) fn submit(&self, ticket: &Ticket, invoices: Vec<String>) -> Signed<InvoiceSubmission> {
        let (contribution, terms) = (ticket.contribution, ticket.terms.body.digest());
        self.key.sign(InvoiceSubmission { contribution, terms, invoices })
    }

    /// Buys a ticket, however many requests that takes.
    pub(crate) async fn buy(&mut self, handle: &dyn CoordinatorHandle) -> Result<Ticket, Refusal> {
        while !self.registered {
            self.register(handle).await?;
        }
        let commitment = self.commit(handle).await?;
        let round = commitment.body.round;
        let answer = handle.ticket(round, commitment.clone(), None).await?;
        let TicketAnswer::PaymentRequired(challenge) = answer else { panic!("a ticket for nothing") };
        let credentials = self.pay_fee(&challenge).await;
        match handle.ticket(round, commitment, Some(credentials)).await? {
            TicketAnswer::Ticket(ticket) => Ok(*ticket),
            TicketAnswer::PaymentRequired(challenge) => panic!("the fee was paid: {:?}", challenge.refused),
        }
    }

    /// Has the node locked every tranche?
    pub(crate) async fn sees_locks(&self, ticket: &Ticket) -> bool {
        for tranche in &ticket.terms.body.tranches {
            let status = self.ln.invoice(tranche.payment_hash).await.expect("known");
            if !matches!(status, InvoiceStatus::Accepted { .. }) {
                return false;
            }
        }
        true
    }

    /// Takes one step, if there is one to take. A refusal may mean that the coordinator has died.
    pub(crate) async fn act(&mut self, handle: &dyn CoordinatorHandle) -> Result<bool, Refusal> {
        if !self.registered {
            self.register(handle).await?;
            return Ok(true);
        }
        let Some(work) = self.work.as_ref() else { return self.begin(handle).await };
        let id = work.commitment.body.contribution_id();
        if let Some(receipt) = &work.receipt {
            let receipt = receipt.clone();
            return self.obey(&receipt).await;
        }
        let Some(ticket) = work.ticket.clone() else { return self.continue_buying(handle).await };
        if let Some(receipt) = self.look_for_receipt(handle, id).await? {
            self.receipts.push(receipt.clone());
            self.work_mut().receipt = Some(receipt);
            return Ok(true);
        }
        if self.manner == Manner::NoInvoices || self.work_mut().uploaded {
            return Ok(false);
        }
        if self.work_mut().submission.is_none() {
            let submission = self.invoices(&ticket).await;
            self.work_mut().submission = Some(submission);
        }
        let view = handle.contribution(id).await?;
        if view.state == ContributionState::Ticketed {
            let submission = self.work_mut().submission.clone().expect("just made");
            handle.submit_invoices(id, submission).await?;
            return Ok(true);
        }
        let locked = view.state == ContributionState::Locked && self.sees_locks(&ticket).await;
        if self.manner == Manner::NoUpload || !locked {
            return Ok(false);
        }
        assert_eq!(handle.upload_allowance(id).await?, self.payload.len() as u64);
        handle.upload(id, self.payload.clone()).await?;
        self.work_mut().uploaded = true;
        Ok(true)
    }

    fn work_mut(&mut self) -> &mut Work {
        self.work.as_mut().expect("at work")
    }

    async fn begin(&mut self, handle: &dyn CoordinatorHandle) -> Result<bool, Refusal> {
        let current = match self.claim {
            Some(_) => match handle.round(None).await {
                Ok(view) => Some(view.opening.body.round),
                Err(refused) if refused.error.code == "no_round" => None,
                Err(refused) => return Err(refused),
            },
            None => handle.run().await?.current_round,
        };
        let Some(current) = current else { return Ok(false) };
        if handle.round(Some(current)).await?.phase != Phase::Committing {
            return Ok(false);
        }
        let commitment = self.commit(handle).await?;
        self.work = Some(Work {
            round: current,
            commitment,
            credentials: None,
            ticket: None,
            submission: None,
            uploaded: false,
            receipt: None,
        });
        Ok(true)
    }

    async fn continue_buying(&mut self, handle: &dyn CoordinatorHandle) -> Result<bool, Refusal> {
        let Work { round, commitment, credentials, .. } = self.work_mut();
        let (round, commitment, credentials) = (*round, commitment.clone(), credentials.clone());
        match handle.ticket(round, commitment, credentials).await? {
            TicketAnswer::Ticket(ticket) => self.work_mut().ticket = Some(*ticket),
            TicketAnswer::PaymentRequired(challenge) => {
                let credentials = self.pay_fee(&challenge).await;
                self.work_mut().credentials = Some(credentials);
            }
        }
        Ok(true)
    }

    async fn look_for_receipt(
        &self,
        handle: &dyn CoordinatorHandle,
        id: ContributionId,
    ) -> Result<Option<Signed<Receipt>>, Refusal> {
        Ok(handle.contribution(id).await?.receipt)
    }

    /// Claims what was earned, gives the rest back, and is ready for the next round.
    async fn obey(&mut self, receipt: &Signed<Receipt>) -> Result<bool, Refusal> {
        let work = self.work.take().expect("at work");
        if work.submission.is_none() || self.manner == Manner::NeverSettles {
            return Ok(true);
        }
        let tranches = &work.ticket.expect("bought").terms.body.tranches;
        for (tranche, preimage) in tranches.iter().zip(&receipt.body.preimages) {
            match preimage {
                Some(preimage) => self.settle(*preimage).await,
                None => self.ln.cancel(tranche.payment_hash).await.expect("cancelled"),
            }
        }
        Ok(true)
    }

    pub(crate) async fn settle(&self, preimage: Preimage) {
        self.ln.settle(preimage).await.expect("settled");
    }
}

/// An invoice that lives longer than a round.
pub(crate) fn request(amount: Msat) -> InvoiceRequest {
    InvoiceRequest { amount, description: "l402t reward".into(), expiry_s: 3_600 }
}
