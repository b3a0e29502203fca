//! A contribution, step by step from the signed commitment to its end. Each step is journalled before the next begins, and
//! each may be repeated after a crash without paying twice or forgetting a preimage.

use crate::fetch::purchases;
use crate::ln::{InvoiceRequest, InvoiceStatus};
use crate::protocol::amount::Msat;
use crate::protocol::api::ContributionState;
use crate::protocol::bounty::offer::Offer as BountyOffer;
use crate::protocol::sign::Statement;
use crate::protocol::statements::{InvoiceSubmission, RewardTerms, RoundOpening};
use crate::protocol::verdict::Verdict;

use super::api::{ApiFailure, TicketOffer};
use super::checks;
use super::error::PeerError;
use super::events::PeerEvent;
use super::folder;
use super::journal::Line;
use super::session::Session;
use super::stage::{Ending, Entry, Fee, Offer, PaidFee, Stage, Ticketed};
use super::terms::RunKind;
use crate::protocol::l402::{Credentials, Macaroon};

/// How often the proof of payment is shown again where it was not taken.
const PROOF_REPEATS: u32 = 10;

/// After a restart the node may need so long to see the locked tranches again, in ms.
const LOCKS_AGAIN_MS: u64 = 15_000;

/// What the coordinator calls it that it doesn't know the reward to be locked.
const NOT_LOCKED: &str = "not_locked";

/// How long a hold invoice may be paid, past the round's upload deadline.
const INVOICE_GRACE_MS: u64 = 60_000;

/// How long to wait for what only others can bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// The round is under way: wait for it.
    ThisRound,
    /// The round is over: what is not there yet is looked at again later.
    OneLook,
}

/// What became of a contribution for now.
#[derive(Debug)]
pub(super) enum Progress {
    /// It went one step further.
    Moved(Entry),
    /// It ended.
    Ended(Entry, Ending),
    /// Its receipt is not there yet; look again later.
    Parked,
}

impl Session {
    /// Carries a contribution on until it has ended or can only wait for a late receipt.
    pub(super) async fn carry_on(
        &self,
        entry: Entry,
        opening: &RoundOpening,
        patience: Patience,
    ) -> Result<Progress, PeerError> {
        let mut entry = entry;
        if entry.commitment.body.opening != opening.digest() {
            let round = entry.round();
            return Err(PeerError::Untrusted(format!("it has opened round {round} twice, each time differently")));
        }
        loop {
            match self.step(entry, opening, patience).await? {
                Progress::Moved(next) => entry = next,
                end @ (Progress::Ended(..) | Progress::Parked) => return Ok(end),
            }
        }
    }

    async fn step(&self, entry: Entry, opening: &RoundOpening, patience: Patience) -> Result<Progress, PeerError> {
        match entry.stage.clone() {
            Stage::Committed => self.ask_ticket(entry, None, opening).await,
            Stage::Paying(fee) => self.pay_fee(entry, fee, opening).await,
            Stage::Paid(paid) => self.ask_ticket(entry, Some(paid), opening).await,
            Stage::Ticketed(ticket) => self.make_invoices(entry, ticket, opening).await,
            Stage::Invoiced(offer) => self.wait_for_locks(entry, offer, opening).await,
            Stage::Locked(offer) => self.upload(entry, offer, opening).await,
            Stage::Uploaded(offer) => self.wait_for_receipt(entry, offer, opening, patience).await,
            Stage::Judged(judged) => self.settle(entry, *judged, patience).await,
            Stage::Closed(ending) => Ok(Progress::Ended(entry, ending)),
        }
    }

    fn moved(&self, entry: Entry, lines: &[Line]) -> Result<Progress, PeerError> {
        self.save(&entry, lines)?;
        Ok(Progress::Moved(entry))
    }

    pub(super) fn end(&self, entry: Entry, ending: Ending, lines: &[Line]) -> Result<Progress, PeerError> {
        let entry = entry.at(Stage::Closed(ending.clone()));
        self.save(&entry, lines)?;
        Ok(Progress::Ended(entry, ending))
    }

    pub(super) fn end_missed(&self, entry: Entry, reason: impl Into<String>) -> Result<Progress, PeerError> {
        self.end(entry, Ending::Missed { reason: reason.into() }, &[])
    }

    /// Asks for the ticket, with the proof of payment if there is one.
    async fn ask_ticket(
        &self,
        entry: Entry,
        paid: Option<PaidFee>,
        opening: &RoundOpening,
    ) -> Result<Progress, PeerError> {
        let doing = "sell a ticket";
        let watch = self.timer();
        let credentials = paid.as_ref().map(credentials).transpose()?;
        let ask = || self.parts.api.ticket(&entry.commitment, credentials.as_ref());
        let mut answer = self.patiently(doing, ask).await;
        for _ in 0..PROOF_REPEATS {
            // The payer knows the preimage a little before the payee's node has counted the payment.
            if !matches!((&answer, &paid), (Ok(TicketOffer::PaymentRequired(_)), Some(_))) {
                break;
            }
            self.pause().await;
            answer = self.patiently(doing, ask).await;
        }
        match (answer, paid) {
            (Ok(TicketOffer::Sold(ticket)), paid) => {
                let fee = paid.as_ref().map(|paid| &paid.fee);
                checks::check_terms(&ticket, &entry.commitment.body, &self.terms, fee)?;
                let terms = ticket.terms;
                if let Some(reason) = self.offers_too_little(&terms.body) {
                    return match paid {
                        Some(_) => self.end(entry, Ending::NoTicket { reason }, &[]),
                        None => self.end_missed(entry, reason),
                    };
                }
                let tranches = terms.body.tranches.iter().map(|tranche| tranche.amount_msat);
                self.emit(&PeerEvent::Ticket {
                    round: entry.round(),
                    contribution: entry.contribution,
                    fee_msat: paid.as_ref().map_or(Msat::ZERO, |paid| paid.fee.amount_msat),
                    routing_msat: paid.as_ref().map_or(Msat::ZERO, |paid| paid.routing_msat),
                    sequence: terms.body.sequence,
                    reward_max_msat: Msat::checked_sum(tranches).unwrap_or(Msat::MAX_MONEY),
                    ticket_ms: watch.elapsed_ms(),
                });
                self.moved(entry.at(Stage::Ticketed(Ticketed { fee: paid, terms })), &[])
            }
            (Ok(TicketOffer::PaymentRequired(challenge)), None) => {
                if self.coordinator_now() > opening.commit_deadline_ms {
                    return self.end_missed(entry, "the round takes no more commitments");
                }
                let (limits, now) = (&self.parts.settings.limits, self.coordinator_now());
                match checks::check_challenge(&challenge, &self.terms, limits, self.network, now)? {
                    Some(fee) => {
                        self.may_pay_fee()?;
                        self.moved(entry.at(Stage::Paying(fee)), &[])
                    }
                    // It was on its way for too long: there is another.
                    None => {
                        self.pause().await;
                        Ok(Progress::Moved(entry))
                    }
                }
            }
            // Paying again for the same contribution is what a thief would want.
            (Ok(TicketOffer::PaymentRequired(_)), Some(_)) => {
                let reason = "the coordinator did not accept the proof of payment".to_owned();
                self.end(entry, Ending::NoTicket { reason }, &[])
            }
            (Err(ApiFailure::Refused { message, .. }), None) => self.end_missed(entry, message),
            (Err(ApiFailure::Refused { message, .. }), Some(_)) => {
                self.end(entry, Ending::NoTicket { reason: message }, &[])
            }
            (Err(other), _) => Err(self.failed(doing, other)),
        }
    }

    /// A bounty's offer depends on who came before: the owner's least reward is held against it here.
    fn offers_too_little(&self, terms: &RewardTerms) -> Option<String> {
        let RunKind::Bounty(manifest) = &self.terms.kind else { return None };
        let offered: Vec<Msat> = terms.tranches.iter().map(|tranche| tranche.amount_msat).collect();
        let most = BountyOffer::read(&offered, manifest.posting.body.rules.fee_msat)?.most();
        let least = self.parts.settings.limits.min_reward;
        (most < least).then(|| format!("it pays {most} at most by now, and {least} is the least that is taken"))
    }

    /// Pays the challenge once. A new one is taken only when this one's payment is known not to have happened.
    async fn pay_fee(&self, entry: Entry, fee: Fee, opening: &RoundOpening) -> Result<Progress, PeerError> {
        // One payment is for one thing: the books would tell of two.
        if purchases(&self.parts.folder.packages())?.iter().any(|bought| bought.payment_hash == fee.payment_hash) {
            let reason = "its invoice has the payment hash of a package that was bought".to_owned();
            return self.end(entry, Ending::FeeUnpaid { reason }, &[]);
        }
        match self.pay_once(&fee, opening).await? {
            FeePayment::Paid(paid) => {
                let lines = paid.lines();
                self.moved(entry.at(Stage::Paid(paid)), &lines)
            }
            FeePayment::TooLate => self.end_missed(entry, "the round ended before the fee was paid"),
            FeePayment::Failed(reason) => self.end(entry, Ending::FeeUnpaid { reason }, &[]),
        }
    }

    /// Makes the hold invoices and signs their submission.
    async fn make_invoices(
        &self,
        entry: Entry,
        ticket: Ticketed,
        opening: &RoundOpening,
    ) -> Result<Progress, PeerError> {
        match &self.terms.kind {
            RunKind::Training(_) => self.publish_payload(&entry)?,
            // A diff is nobody's to see before its bounty closes.
            RunKind::Bounty(_) => {}
        }
        let terms = &ticket.terms.body;
        let left_ms = opening.upload_deadline_ms.0.saturating_sub(self.coordinator_now().0);
        let expiry_s = u32::try_from((left_ms + INVOICE_GRACE_MS) / 1_000).unwrap_or(u32::MAX);
        let mut invoices = Vec::with_capacity(terms.tranches.len());
        for (place, tranche) in terms.tranches.iter().enumerate() {
            let request = InvoiceRequest {
                amount: tranche.amount_msat,
                description: format!("l402t round {} tranche {place}", entry.round()),
                expiry_s: expiry_s.min(crate::ln::MAX_EXPIRY_S),
            };
            let (ln, hash) = (&self.parts.ln, tranche.payment_hash);
            let invoice = self.ask_node(|| ln.create_hold_invoice(hash, &request, terms.hold_blocks)).await?;
            invoices.push(invoice);
        }
        let submission = InvoiceSubmission { contribution: entry.contribution, terms: terms.digest(), invoices };
        let submission = self.parts.key.sign(submission);
        self.moved(entry.at(Stage::Invoiced(Offer { ticket, submission })), &[])
    }

    /// Others on this machine may look at what this peer is committed to (the demo's copycat does).
    fn publish_payload(&self, entry: &Entry) -> Result<(), PeerError> {
        let (from, to) =
            (self.parts.folder.payload(&entry.commitment.body.payload), self.parts.folder.outbox(entry.round()));
        folder::remove_if_there(&to)?;
        std::fs::hard_link(&from, &to).map_err(|error| PeerError::io("write", &to, error))
    }

    /// Hands the invoices in and waits until this peer's own node holds every tranche.
    async fn wait_for_locks(&self, entry: Entry, offer: Offer, opening: &RoundOpening) -> Result<Progress, PeerError> {
        let doing = "lock the reward";
        let watch = self.timer();
        let mut hints = self.parts.ln.events();
        match self.patiently(doing, || self.parts.api.submit_invoices(&offer.submission)).await {
            Ok(_) => {}
            Err(ApiFailure::Refused { message, .. }) => {
                return self.withdraw(entry, &offer.ticket.terms.body, message).await;
            }
            Err(other) => return Err(self.failed(doing, other)),
        }
        while !self.all_locked(&offer).await? {
            if self.coordinator_now() > opening.upload_deadline_ms {
                return self.withdraw(entry, &offer.ticket.terms.body, "the reward was not locked in time").await;
            }
            if self.given_up_by_coordinator(&entry).await? {
                return self.withdraw(entry, &offer.ticket.terms.body, "the coordinator did not lock the reward").await;
            }
            self.hint(&mut hints).await;
        }
        let lock_ms = watch.elapsed_ms();
        let tranches = &offer.ticket.terms.body.tranches;
        self.emit(&PeerEvent::Locked {
            round: entry.round(),
            locked_msat: Msat::checked_sum(tranches.iter().map(|tranche| tranche.amount_msat))
                .unwrap_or(Msat::MAX_MONEY),
            tranches: u32::try_from(tranches.len()).unwrap_or(u32::MAX),
            lock_ms,
        });
        let entry = Entry { lock_ms: Some(lock_ms), ..entry };
        self.moved(entry.at(Stage::Locked(offer)), &[])
    }

    /// Has the coordinator ended this contribution without the payload?
    async fn given_up_by_coordinator(&self, entry: &Entry) -> Result<bool, PeerError> {
        let doing = "read the contribution";
        let view = self.patiently(doing, || self.parts.api.contribution(entry.contribution)).await;
        match view.map_err(|failure| self.failed(doing, failure))?.state {
            ContributionState::Settling | ContributionState::Finished => Ok(true),
            ContributionState::Ticketed
            | ContributionState::Locking
            | ContributionState::Locked
            | ContributionState::Uploaded => Ok(false),
        }
    }

    /// Sends the payload, but only while every tranche is locked.
    async fn upload(&self, entry: Entry, offer: Offer, opening: &RoundOpening) -> Result<Progress, PeerError> {
        let doing = "take the payload";
        let payload = self.read_payload(&entry)?;
        let watch = self.timer();
        let mut hints = self.parts.ln.events();
        if self.coordinator_now() > opening.upload_deadline_ms {
            return self.give_up_unless_uploaded(entry, offer, "the round takes no more payloads", opening).await;
        }
        while !self.all_locked(&offer).await? {
            if watch.elapsed_ms() > LOCKS_AGAIN_MS || self.coordinator_now() > opening.upload_deadline_ms {
                return self.give_up_unless_uploaded(entry, offer, "the reward is not locked any more", opening).await;
            }
            self.hint(&mut hints).await;
        }
        match self.patiently(doing, || self.parts.api.upload(entry.contribution, &payload)).await {
            Ok(_) => {
                let bytes = entry.commitment.body.payload_bytes;
                self.emit(&PeerEvent::Uploaded {
                    round: entry.round(),
                    payload_bytes: bytes,
                    dense_bytes: entry.dense_bytes,
                    upload_ms: watch.elapsed_ms(),
                });
                self.moved(entry.at(Stage::Uploaded(offer)), &[])
            }
            Err(ApiFailure::Refused { code, .. })
                if code == NOT_LOCKED && self.locks_are_news(&entry, &offer).await? =>
            {
                self.pause().await;
                Ok(Progress::Moved(entry))
            }
            Err(ApiFailure::Refused { message, .. }) => {
                self.give_up_unless_uploaded(entry, offer, &message, opening).await
            }
            Err(other) => Err(self.failed(doing, other)),
        }
    }

    /// This peer's node may hold every tranche a moment before the coordinator's node says so.
    async fn locks_are_news(&self, entry: &Entry, offer: &Offer) -> Result<bool, PeerError> {
        let doing = "read the contribution";
        let view = self.patiently(doing, || self.parts.api.contribution(entry.contribution)).await;
        let view = view.map_err(|failure| self.failed(doing, failure))?;
        Ok(view.state == ContributionState::Locking && self.all_locked(offer).await?)
    }

    /// An earlier try may have arrived without its answer coming back: then nothing may be cancelled.
    async fn give_up_unless_uploaded(
        &self,
        entry: Entry,
        offer: Offer,
        reason: &str,
        opening: &RoundOpening,
    ) -> Result<Progress, PeerError> {
        let doing = "read the contribution";
        let view = self.patiently(doing, || self.parts.api.contribution(entry.contribution)).await;
        let view = view.map_err(|failure| self.failed(doing, failure))?;
        match view.state {
            ContributionState::Uploaded | ContributionState::Settling => {
                self.moved(entry.at(Stage::Uploaded(offer)), &[])
            }
            ContributionState::Finished if view.receipt.is_some() => self.moved(entry.at(Stage::Uploaded(offer)), &[]),
            ContributionState::Ticketed
            | ContributionState::Locking
            | ContributionState::Locked
            | ContributionState::Finished => {
                let late = self.coordinator_now() > opening.upload_deadline_ms;
                let reason = if late { format!("too late to upload: {reason}") } else { reason.to_owned() };
                self.withdraw(entry, &offer.ticket.terms.body, reason).await
            }
        }
    }

    fn read_payload(&self, entry: &Entry) -> Result<Vec<u8>, PeerError> {
        let path = self.parts.folder.payload(&entry.commitment.body.payload);
        let payload = std::fs::read(&path).map_err(|error| PeerError::io("read", &path, error))?;
        if crate::protocol::ids::Blake3Hash::of(&payload) == entry.commitment.body.payload {
            Ok(payload)
        } else {
            let damaged = std::io::Error::other("it is not what was committed to");
            Err(PeerError::io("read", &path, damaged))
        }
    }

    /// Waits for the receipt and checks it. Cancels nothing: after the upload only the receipt decides.
    async fn wait_for_receipt(
        &self,
        entry: Entry,
        offer: Offer,
        opening: &RoundOpening,
        patience: Patience,
    ) -> Result<Progress, PeerError> {
        let doing = "read the contribution";
        loop {
            let view = self.patiently(doing, || self.parts.api.contribution(entry.contribution)).await;
            let view = view.map_err(|failure| self.failed(doing, failure))?;
            if let (Some(receipt), Some(verdict)) = (&view.receipt, &view.verdict) {
                let judged = checks::check_receipt(&entry, &offer, receipt, verdict, &self.terms);
                let judged = match judged {
                    Ok(judged) => judged,
                    Err(error) => {
                        // A preimage is money whatever is wrong with the paper around it.
                        self.claim_what_fits(&offer, &receipt.body.preimages).await;
                        return Err(error);
                    }
                };
                let (round, contribution) = (entry.round(), entry.contribution);
                self.emit(&match verdict {
                    Verdict::Training(verdict) => {
                        let (outcome, gain) = (verdict.outcome.clone(), verdict.gain);
                        PeerEvent::Verdict { round, contribution, outcome, gain }
                    }
                    Verdict::Bounty(verdict) => {
                        PeerEvent::BountyVerdict { round, contribution, outcome: verdict.outcome }
                    }
                });
                return self.moved(entry.at(Stage::Judged(Box::new(judged))), &[]);
            }
            if self.all_gone(&offer).await? {
                return self.end_missed(entry, "no receipt came before the locked reward expired");
            }
            let until = match patience {
                Patience::ThisRound => opening.upload_deadline_ms.plus_ms(self.parts.settings.receipt_wait_ms),
                Patience::OneLook => opening.upload_deadline_ms,
            };
            if self.coordinator_now() > until {
                return Ok(Progress::Parked);
            }
            self.pause().await;
        }
    }

    /// Did every tranche end without being settled?
    async fn all_gone(&self, offer: &Offer) -> Result<bool, PeerError> {
        for tranche in &offer.ticket.terms.body.tranches {
            match self.ask_node(|| self.parts.ln.invoice(tranche.payment_hash)).await? {
                InvoiceStatus::Canceled => {}
                InvoiceStatus::NotFound
                | InvoiceStatus::Open
                | InvoiceStatus::Accepted { .. }
                | InvoiceStatus::Settled { .. } => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// The proof of payment, as the coordinator wants it.
fn credentials(paid: &PaidFee) -> Result<Credentials, PeerError> {
    let damaged = |error: String| PeerError::Untrusted(format!("the macaroon that was paid for: {error}"));
    let macaroon = Macaroon::from_base64(&paid.fee.macaroon).map_err(|error| damaged(error.to_string()))?;
    Credentials::new(macaroon, paid.preimage).map_err(|error| damaged(error.to_string()))
}

/// What became of the fee's payment.
#[derive(Debug)]
pub(super) enum FeePayment {
    /// Paid.
    Paid(PaidFee),
    /// Not paid, and the round takes no more commitments.
    TooLate,
    /// Not paid, and the money is back.
    Failed(String),
}
