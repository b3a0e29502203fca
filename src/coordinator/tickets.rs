//! Tickets: registration, the L402 gate, and what a paid fee buys.
//!
//! A token is bound to one contribution, and a contribution has one ticket, so that a token is used once and the
//! identical retry gets the stored ticket.

use super::core::{Core, Record};
use super::engine::Shared;
use super::error::{CoordinatorError, refusal};
use super::handle::{Challenge, TicketAnswer};
use super::settings::Gate;
use crate::ln::{InvoiceRequest, InvoiceStatus};
use crate::protocol::amount::Msat;
use crate::protocol::api::{Phase, Ticket};
use crate::protocol::ids::{ContributionId, PeerId, RoundNumber, UnixMs};
use crate::protocol::l402::{Credentials, Expectation, Grant, Identifier, TokenError, TokenId, mint, verify};
use crate::protocol::round::{Account, Event};
use crate::protocol::sign::{Signed, Statement};
use crate::protocol::statements::{Commitment, RewardTerms, Tranche};
use crate::store::coordinator::{self as tables, ChallengeRow, ChallengeState};
use crate::store::{StoreError, ledger};

/// How long a fee invoice may be paid.
const CHALLENGE_MS: u64 = 120_000;
/// No challenge is made with less than this left to pay it.
const MIN_CHALLENGE_MS: u64 = 2_000;
/// How long after its expiry a challenge is looked after, in case it was paid in the last moment.
const CHALLENGE_GRACE_MS: u64 = 30_000;
/// Most contributions of one peer with an unpaid challenge, in one round.
const MAX_CHALLENGES_PER_PEER: u32 = 4;
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
        if commitment.verify(&body.peer).is_err() {
            let message = format!("the signature on the commitment is not by peer {}", body.peer);
            return Err(refusal(400, "bad_signature", message, "Sign the commitment with the peer's own key").into());
        }
        if body.round != round {
            let message = format!("the commitment is for round {}, the request for round {round}", body.round);
            return Err(refusal(409, "wrong_round", message, "Commit to the current round").into());
        }
        let contribution = body.contribution_id();
        let asked = commitment.clone();
        let challenge = match self.with(move |core| core.known_for(&asked)).await? {
            Known::Sold(ticket) => return Ok(TicketAnswer::Ticket(ticket)),
            Known::Unsold(challenge) => challenge,
        };
        match self.options.gate {
            Gate::Own if self.run.manifest.body.reward.fee_msat > Msat::ZERO => {}
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
        let Some(row) = self.with(move |core| Ok(tables::challenge_by_token(core.db.read(), &token)?)).await? else {
            return Ok(Err(TokenError::Unknown(token)));
        };
        let now_s = self.clock.now().0 / 1_000;
        if let Err(refused) = verify(&credentials, &row.root_key, now_s, &Expectation { contribution }) {
            return Ok(Err(refused));
        }
        // Whoever has the preimage was given it by the node that took the money; the books wait for the node's own word.
        for look in 0..FEE_LOOKS {
            match self.ln.invoice(row.payment_hash).await? {
                InvoiceStatus::Settled { amount } => {
                    self.with(move |core| core.book_fee(&row, amount)).await?;
                    return Ok(Ok(()));
                }
                InvoiceStatus::Open | InvoiceStatus::Accepted { .. } if look + 1 < FEE_LOOKS => {
                    self.clock.sleep(FEE_LOOK_MS).await;
                }
                InvoiceStatus::Open
                | InvoiceStatus::Accepted { .. }
                | InvoiceStatus::NotFound
                | InvoiceStatus::Canceled => break,
            }
        }
        Ok(Err(TokenError::Unpaid(credentials.payment_hash())))
    }

    async fn make_challenge(&self, commitment: &Signed<Commitment>) -> Result<ChallengeRow, CoordinatorError> {
        let (contribution, round, peer) =
            (commitment.body.contribution_id(), commitment.body.round, commitment.body.peer);
        let deadline = self.with(move |core| core.admit_challenge(round, &peer)).await?;
        let now = self.clock.now();
        let expires_ms = now.plus_ms(CHALLENGE_MS).min(deadline);
        let left_ms = expires_ms.0.saturating_sub(now.0);
        if left_ms < MIN_CHALLENGE_MS {
            let message = format!("round {round} takes commitments for {left_ms} ms more: too short to pay a fee in");
            return Err(refusal(409, "round_closed", message, "Wait for the next round").into());
        }
        let request = InvoiceRequest {
            amount: self.run.manifest.body.reward.fee_msat,
            description: format!("l402t submission fee, round {round}"),
            expiry_s: u32::try_from(left_ms / 1_000).unwrap_or(u32::MAX).max(1),
        };
        let invoice = self.ln.create_invoice(&request).await?;
        let token_id = TokenId::from_bytes(blake3::derive_key("l402t token id v1", invoice.payment_hash.as_bytes()));
        let root_key = self.run.secret.root_key(&token_id);
        let identifier = Identifier { payment_hash: invoice.payment_hash, token_id };
        // A token bought in time is taken until tickets are no longer sold.
        let grant = Grant { contribution, valid_until_s: deadline.0 / 1_000 + 1 };
        let row = ChallengeRow {
            payment_hash: invoice.payment_hash,
            token_id,
            contribution,
            round,
            peer,
            root_key,
            macaroon: mint(&root_key, &identifier, &grant).to_base64(),
            bolt11: invoice.bolt11,
            expires_ms,
            state: ChallengeState::Open,
        };
        self.with(move |core| core.keep_challenge(row)).await
    }

    /// Books fees that were paid without a ticket being asked for, and gives up challenges that weren't paid.
    pub(super) async fn watch_fees(&self) -> Result<(), CoordinatorError> {
        let open = self.with(|core| Ok(tables::open_challenges(core.db.read())?)).await?;
        for row in open {
            let over = self.clock.now() > row.expires_ms.plus_ms(CHALLENGE_GRACE_MS);
            // Given up only once the node takes nothing for it any more: what came later would be in no book.
            let given_up = match self.ln.invoice(row.payment_hash).await? {
                InvoiceStatus::Settled { amount } => {
                    self.with(move |core| core.book_fee(&row, amount)).await?;
                    continue;
                }
                InvoiceStatus::Canceled | InvoiceStatus::NotFound => over,
                InvoiceStatus::Open | InvoiceStatus::Accepted { .. } => {
                    over && self.ln.cancel(row.payment_hash).await.is_ok()
                }
            };
            if given_up {
                self.with(move |core| {
                    let expire = |t: &_| tables::set_challenge_state(t, &row.payment_hash, ChallengeState::Expired);
                    Ok(core.db.write::<_, StoreError>(|t| expire(t))?)
                })
                .await?;
            }
        }
        Ok(())
    }
}

impl Core {
    fn known_for(&mut self, commitment: &Signed<Commitment>) -> Result<Known, CoordinatorError> {
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
        let row = self.round_row(open)?.ok_or(StoreError::Corrupt { what: "round" })?;
        if row.opening.body.digest() != body.opening {
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
        let sold = Event::TicketSold { contribution, peer: body.peer, payload_bytes: body.payload_bytes };
        self.preview(open, &sold)?;
        let now = self.clock.now();
        let known = tables::challenge_for(self.db.read(), &contribution)?;
        // One that was paid is still shown: whoever paid it has the preimage and need not pay again.
        let usable =
            known.filter(|row| row.state == ChallengeState::Paid || row.expires_ms.0 > now.0 + MIN_CHALLENGE_MS);
        Ok(Known::Unsold(usable.map(Box::new)))
    }

    /// The commit deadline, if the round has a seat for one more challenge.
    fn admit_challenge(&mut self, round: RoundNumber, peer: &PeerId) -> Result<UnixMs, CoordinatorError> {
        let Some(open) = self.open_round().filter(|open| open.number == round && open.phase == Phase::Committing)
        else {
            return Err(
                refusal(409, "round_closed", format!("round {round} has closed"), "Wait for the next round").into()
            );
        };
        let promised = tables::count_open_challenges(self.db.read(), round, None)?;
        let most = self.run.rules.max_contributions;
        if open.tickets().saturating_add(promised) >= most {
            let message = format!("all {most} tickets of round {round} are sold or being paid for");
            return Err(
                refusal(409, "round_full", message, "Try again in two minutes, or wait for the next round").into()
            );
        }
        if tables::count_open_challenges(self.db.read(), round, Some(peer))? >= MAX_CHALLENGES_PER_PEER {
            let message = format!("{MAX_CHALLENGES_PER_PEER} commitments of this peer wait for their fee already");
            return Err(refusal(429, "too_many_challenges", message, "Pay one of them, or wait two minutes").into());
        }
        Ok(open.commit_deadline_ms)
    }

    /// Keeps a new challenge, unless another request has made one for the same contribution in the meantime.
    fn keep_challenge(&mut self, row: ChallengeRow) -> Result<ChallengeRow, CoordinatorError> {
        let now = self.clock.now();
        let other = tables::challenge_for(self.db.read(), &row.contribution)?.filter(|other| other.expires_ms > now);
        if let Some(other) = other {
            return Ok(other);
        }
        self.admit_challenge(row.round, &row.peer)?;
        self.db.write::<_, StoreError>(|t| tables::insert_challenge(t, &row))?;
        Ok(row)
    }

    /// Books a fee, once.
    fn book_fee(&mut self, row: &ChallengeRow, amount: Msat) -> Result<(), CoordinatorError> {
        let now = self.clock.now();
        let (round, contribution, payment_hash) = (row.round, row.contribution, row.payment_hash);
        let stored = tables::challenge_by_token(self.db.read(), &row.token_id)?;
        if stored.is_some_and(|stored| stored.state == ChallengeState::Paid) {
            return Ok(());
        }
        self.db.write::<_, StoreError>(|t| {
            let event = Record::FeeReceived { round, contribution, payment_hash }.append(t, now)?;
            ledger::post(t, event, round, (Account::Fees, Account::Wallet), amount)?;
            tables::set_challenge_state(t, &payment_hash, ChallengeState::Paid)
        })?;
        Ok(())
    }

    /// Sells the ticket: the event, the commitment and the terms in one transaction.
    fn sell(&mut self, commitment: &Signed<Commitment>) -> Result<Ticket, CoordinatorError> {
        let body = &commitment.body;
        let contribution = body.contribution_id();
        if let Some(row) = tables::contribution(self.db.read(), &contribution)? {
            return Ok(Ticket { contribution, terms: row.terms });
        }
        let event = Event::TicketSold { contribution, peer: body.peer, payload_bytes: body.payload_bytes };
        let run = std::sync::Arc::clone(&self.run);
        let mut terms = None;
        self.apply(body.round, &event, |t, after| {
            let (sequence, sold) = after.find(&contribution).ok_or(StoreError::Corrupt { what: "round" })?;
            let offer = |(tranche, amount): (usize, &Msat)| Tranche {
                payment_hash: run.secret.preimage(&run.id, body.round, &contribution, tranche as u32).payment_hash(),
                amount_msat: *amount,
            };
            let signed = run.key.sign(RewardTerms {
                contribution,
                sequence: sequence as u32,
                tranches: run.rules.tranche_amounts.iter().enumerate().map(offer).collect(),
                hold_blocks: run.manifest.body.reward.hold_blocks,
                invoices_deadline_ms: sold.invoices_deadline_ms,
            });
            tables::insert_contribution(t, commitment, &signed)?;
            terms = Some(signed);
            Ok(())
        })?;
        let terms = terms.ok_or(StoreError::Corrupt { what: "round" })?;
        Ok(Ticket { contribution, terms })
    }
}
