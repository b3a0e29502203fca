//! Tickets: registration, the L402 gate, and what a paid fee buys.
//!
//! A token is bound to one contribution, and a contribution has one ticket, so that a token is used once and the
//! identical retry gets the stored ticket.

use super::challenges::is_usable;
use super::core::{Core, Record};
use super::engine::Shared;
use super::error::{CoordinatorError, refusal};
use super::handle::{Challenge, TicketAnswer};
use super::run::RunTask;
use super::settings::Gate;
use crate::ln::InvoiceStatus;
use crate::protocol::amount::Msat;
use crate::protocol::api::Ticket;
use crate::protocol::ids::{ContributionId, PaymentHash, RoundNumber};
use crate::protocol::l402::{Credentials, Goods, TokenError, verify};
use crate::protocol::reward;
use crate::protocol::round::{self, Account, Event};
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, RewardTerms, Tranche};
use crate::store::coordinator::{self as tables, ChallengeRow, ChallengeState};
use crate::store::{StoreError, ledger};

/// How often a fee invoice is asked about, once its preimage has been shown.
const FEE_LOOKS: u32 = 10;
/// How long between two looks.
const FEE_LOOK_MS: u64 = 200;

/// What there is already for a commitment.
enum Known {
    /// Its ticket.
    Sold(Box<Ticket>),
    /// None: to be paid for with this challenge, if it still can be.
    Unsold(Option<Box<ChallengeRow>>),
}

impl Shared {
    /// See [`super::handle::CoordinatorHandle::ticket`].
    pub(super) async fn sell_ticket(
        &self,
        round: RoundNumber,
        commitment: Signed<Commitment>,
        credentials: Option<String>,
    ) -> Result<TicketAnswer, CoordinatorError> {
        let body = &commitment.body;
        let contribution = body.contribution_id();
        // The identical retry: its signature was checked when the ticket was sold.
        let again = commitment.clone();
        if body.round == round
            && let Some(ticket) = self.read(move |core| core.sold_for_the_same(&again)).await?
        {
            return Ok(TicketAnswer::Ticket(Box::new(ticket)));
        }
        if commitment.verify(&body.peer).is_err() {
            let message = format!("the signature on the commitment is not by peer {}", body.peer);
            return Err(refusal(400, "bad_signature", message, "Sign the commitment with the peer's own key").into());
        }
        if body.round != round {
            let message = format!("the commitment is for round {}, the request for round {round}", body.round);
            return Err(refusal(409, "wrong_round", message, "Commit to the current round").into());
        }
        let asked = commitment.clone();
        let challenge = match self.read(move |core| core.known_for(&asked)).await? {
            Known::Sold(ticket) => return Ok(TicketAnswer::Ticket(ticket)),
            Known::Unsold(challenge) => challenge,
        };
        match self.options.gate {
            Gate::Own if self.run.fee > Msat::ZERO => {}
            // Credentials that come along are the proxy's own: it has looked at them.
            Gate::Own | Gate::Proxy | Gate::ProxyElsewhere => return self.sold(commitment).await,
        }
        let refused = match credentials {
            None => None,
            Some(header) => match self.fee_paid_for(&header, contribution).await? {
                Ok(()) => return self.sold(commitment).await,
                Err(refused) => Some(refused),
            },
        };
        let challenge = match challenge {
            Some(challenge) => *challenge,
            None => self.make_challenge(&commitment).await?,
        };
        let ChallengeRow { macaroon, bolt11: invoice, .. } = challenge;
        Ok(TicketAnswer::PaymentRequired(Challenge { macaroon, invoice, refused }))
    }

    async fn sold(&self, commitment: Signed<Commitment>) -> Result<TicketAnswer, CoordinatorError> {
        let ticket = self.with(move |core| core.sell(&commitment)).await?;
        self.wake();
        Ok(TicketAnswer::Ticket(Box::new(ticket)))
    }

    /// Checks credentials down to the node's word that the fee has arrived, and books the fee.
    async fn fee_paid_for(
        &self,
        header: &str,
        contribution: ContributionId,
    ) -> Result<Result<(), TokenError>, CoordinatorError> {
        let credentials = match Credentials::parse(header) {
            Ok(credentials) => credentials,
            Err(refused) => return Ok(Err(refused)),
        };
        let token = credentials.token_id();
        let (now_s, root_key) = (self.clock.now().0 / 1_000, self.run.secret.root_key(&token));
        let verified = verify(&credentials, &root_key, now_s, Goods::Ticket(contribution));
        // A signature of ours needs no look at the disk to be told from a forged one.
        if let Err(refused) = &verified
            && *refused != TokenError::BadSignature
        {
            return Ok(verified.map(drop));
        }
        let Some(row) = self.read(move |core| Ok(tables::challenge_by_token(core.db.read(), &token)?)).await? else {
            return Ok(Err(TokenError::Unknown(token)));
        };
        if let Err(refused) = verified {
            return Ok(Err(refused));
        }
        match self.arrived(row.payment_hash).await? {
            Some(amount) => Ok(Ok(self.with(move |core| core.book_fee(&row, amount)).await?)),
            None => Ok(Err(TokenError::Unpaid(credentials.payment_hash()))),
        }
    }

    /// What an invoice has brought, whose preimage was shown: whoever has that was given it by the node that took the money; the
    /// books wait for the node's own word. `None` if that doesn't come.
    pub(super) async fn arrived(&self, payment_hash: PaymentHash) -> Result<Option<Msat>, CoordinatorError> {
        for look in 0..FEE_LOOKS {
            match self.ln.invoice(payment_hash).await? {
                InvoiceStatus::Settled { amount } => return Ok(Some(amount)),
                InvoiceStatus::Open | InvoiceStatus::Accepted { .. } if look + 1 < FEE_LOOKS => {
                    self.clock.sleep(FEE_LOOK_MS).await;
                }
                InvoiceStatus::Open
                | InvoiceStatus::Accepted { .. }
                | InvoiceStatus::NotFound
                | InvoiceStatus::Canceled => break,
            }
        }
        Ok(None)
    }
}

impl Core {
    /// The ticket that was sold for exactly this commitment, signature and all.
    fn sold_for_the_same(&self, commitment: &Signed<Commitment>) -> Result<Option<Ticket>, CoordinatorError> {
        let contribution = commitment.body.contribution_id();
        let row = tables::contribution(self.db.read(), &contribution)?.filter(|row| row.commitment == *commitment);
        Ok(row.map(|row| Ticket { contribution, terms: row.terms }))
    }

    fn known_for(&self, commitment: &Signed<Commitment>) -> Result<Known, CoordinatorError> {
        let body = &commitment.body;
        let contribution = body.contribution_id();
        if let Some(row) = tables::contribution(self.db.read(), &contribution)? {
            return Ok(Known::Sold(Box::new(Ticket { contribution, terms: row.terms })));
        }
        if body.run != self.run.id {
            let message = format!("this coordinator's run is {}, the commitment is for {}", self.run.id, body.run);
            return Err(refusal(409, "wrong_run", message, "Read /v1/run again").into());
        }
        let Some(open) = self.open_round().map(|round| round.number) else {
            return Err(refusal(409, "run_ended", "the run has ended", "Nothing is left to do").into());
        };
        if body.round != open {
            let message = format!("the current round is {open}, the commitment is for round {}", body.round);
            return Err(refusal(409, "wrong_round", message, "Read /v1/rounds/current and commit to that round").into());
        }
        if self.opening != Some((open, body.opening)) {
            let message =
                format!("the commitment names {} as the opening of round {open}, which it is not", body.opening);
            return Err(
                refusal(409, "wrong_opening", message, "Read /v1/rounds/current and commit to its opening").into()
            );
        }
        let most = self.run.max_payload_bytes;
        if !(1..=most).contains(&body.payload_bytes) {
            let message = format!("a payload of {} bytes is not within 1 ..= {most}", body.payload_bytes);
            return Err(refusal(422, "payload_size", message, "Commit to the encoded sparse update").into());
        }
        if tables::peer(self.db.read(), &body.peer)?.is_none() {
            let message = format!("peer {} has not registered its Lightning node", body.peer);
            return Err(refusal(409, "not_registered", message, "POST /v1/peers first").into());
        }
        let sold = self.ticket_sold(body)?;
        self.preview(open, &sold)?;
        let now = self.clock.now();
        let known = tables::challenge_for(self.db.read(), &contribution)?;
        let usable = known.filter(|row| is_usable(row, now));
        Ok(Known::Unsold(usable.map(Box::new)))
    }

    /// Books a fee, once.
    pub(super) fn book_fee(&mut self, row: &ChallengeRow, amount: Msat) -> Result<(), CoordinatorError> {
        let now = self.clock.now();
        let (round, contribution, payment_hash) = (row.round, row.contribution, row.payment_hash);
        let stored = tables::challenge_by_token(self.db.read(), &row.token_id)?;
        if stored.is_some_and(|stored| stored.state == ChallengeState::Paid) {
            return Ok(());
        }
        self.db.write(|t| {
            let event = Record::FeeReceived { round, contribution, payment_hash }.append(t, now)?;
            ledger::post(t, event, round, (Account::Fees, Account::Wallet), amount)?;
            tables::set_challenge_state(t, &payment_hash, ChallengeState::Paid)
        })?;
        Ok(())
    }

    /// What selling the ticket means.
    fn ticket_sold(&self, commitment: &Commitment) -> Result<Event, CoordinatorError> {
        let tranches = match &self.run.task {
            RunTask::Training(_) if commitment.claim.is_some() => {
                let fix = "Commit without a claim";
                return Err(refusal(422, "claim", "a round of training takes no claims", fix).into());
            }
            RunTask::Training(training) => reward::tranche_amounts(&training.manifest.body.reward),
            RunTask::Bounty(_) => self.offer(commitment)?.tranches(),
        };
        Ok(Event::TicketSold {
            contribution: commitment.contribution_id(),
            peer: commitment.peer,
            payload_bytes: commitment.payload_bytes,
            tranches,
        })
    }

    /// Sells the ticket: the event, the commitment and the terms in one transaction.
    fn sell(&mut self, commitment: &Signed<Commitment>) -> Result<Ticket, CoordinatorError> {
        let body = &commitment.body;
        let contribution = body.contribution_id();
        if let Some(row) = tables::contribution(self.db.read(), &contribution)? {
            return Ok(Ticket { contribution, terms: row.terms });
        }
        let event = self.ticket_sold(body)?;
        self.promised = None;
        let run = std::sync::Arc::clone(&self.run);
        let mut terms = None;
        self.apply(body.round, &event, |t, after| {
            let (sequence, sold) = after.find(&contribution).ok_or(StoreError::Corrupt { what: "round" })?;
            let offer = |(tranche, promised): (usize, &round::Tranche)| Tranche {
                payment_hash: run.secret.preimage(&run.id, body.round, &contribution, tranche as u32).payment_hash(),
                amount_msat: promised.amount_msat,
            };
            let signed = run.key.sign(RewardTerms {
                contribution,
                sequence: sequence as u32,
                tranches: sold.tranches.iter().enumerate().map(offer).collect(),
                hold_blocks: run.hold_blocks,
                invoices_deadline_ms: sold.invoices_deadline_ms,
            });
            tables::insert_contribution(t, commitment, &signed)?;
            terms = Some(signed);
            Ok(())
        })?;
        let terms = terms.ok_or(StoreError::Corrupt { what: "round" })?;
        self.note_submission(body)?;
        Ok(Ticket { contribution, terms })
    }
}
