//! L402 challenges: made, kept before they are given out, and looked after until they are paid or over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::core::Core;
use super::engine::Shared;
use super::error::{CoordinatorError, refusal};
use super::handle::Refusal;
use crate::ln::{InvoiceRequest, InvoiceStatus};
use crate::protocol::amount::Msat;
use crate::protocol::api::Phase;
use crate::protocol::ids::{ContributionId, PaymentHash, PeerId, RoundNumber, UnixMs};
use crate::protocol::l402::{Goods, Grant, Identifier, RootKey, TokenId, mint};
use crate::protocol::sign::Signed;
use crate::protocol::statements::Commitment;
use crate::store::StoreError;
use crate::store::coordinator::{self as tables, ChallengeRow, ChallengeState};
use crate::store::database::Connection;

/// How long a fee invoice may be paid.
pub(super) const CHALLENGE_MS: u64 = 120_000;
/// No challenge is made with less than this left to pay it.
const MIN_CHALLENGE_MS: u64 = 2_000;
/// How long after its expiry a challenge is looked after, in case it was paid in the last moment.
const CHALLENGE_GRACE_MS: u64 = 30_000;
/// Most contributions of one peer with an unpaid challenge, in one round.
const MAX_CHALLENGES_PER_PEER: usize = 4;
/// Open challenges that the node is asked about in one go, and how long it is left alone where there are more: they may
/// be thousands, and each costs it a call.
pub(super) const INVOICES_AT_ONCE: u32 = 32;
const INVOICES_PAUSE_MS: u64 = 2_000;

type Kept = Result<ChallengeRow, CoordinatorError>;

/// New challenges that wait for a commit: those that come while one is under way share the next.
#[derive(Debug, Default)]
pub(super) struct Arriving(Mutex<Vec<(ChallengeRow, oneshot::Sender<Kept>)>>);

impl Arriving {
    fn add(&self, row: ChallengeRow) -> oneshot::Receiver<Kept> {
        let (tell, told) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((row, tell));
        told
    }

    fn take(&self) -> Vec<(ChallengeRow, oneshot::Sender<Kept>)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which invoices of open challenges the node is asked about next.
#[derive(Debug)]
pub(super) struct InvoiceWatch {
    after: PaymentHash,
    /// By the clock's uptime.
    not_before_ms: u64,
}

impl InvoiceWatch {
    pub(super) const START: PaymentHash = PaymentHash::from_bytes([0; 32]);

    /// From where on; `None` while the node is to be left alone.
    pub(super) fn from(&self, now_ms: u64) -> Option<PaymentHash> {
        (now_ms >= self.not_before_ms).then_some(self.after)
    }

    /// So many are looked at now, and this is the last of them.
    pub(super) fn goes_on(&mut self, count: usize, last: Option<PaymentHash>, now_ms: u64) {
        let (from, full) = (self.after, count >= INVOICES_AT_ONCE as usize);
        self.after = last.filter(|_| full).unwrap_or(Self::START);
        if full || from != Self::START {
            self.not_before_ms = now_ms + INVOICES_PAUSE_MS;
        }
    }
}

impl Default for InvoiceWatch {
    fn default() -> Self {
        Self { after: Self::START, not_before_ms: 0 }
    }
}

/// How an invoice stands that comes with a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// It is paid.
    Paid(Msat),
    /// It may still be.
    Open,
    /// It isn't, and the node takes nothing for it any more.
    Over,
}

/// A token, worthless until its invoice is paid.
#[derive(Debug)]
pub(super) struct Minted {
    token_id: TokenId,
    root_key: RootKey,
    /// Base64.
    pub(super) macaroon: String,
}

/// The seats of a round that are spoken for: who was given a challenge and may still come with the money. Counting them
/// anew for each challenge would take longer the more there are.
#[derive(Debug)]
pub(super) struct Promised {
    round: RoundNumber,
    seats: HashMap<ContributionId, PeerId>,
}

impl Promised {
    fn load(db: &Connection, round: RoundNumber) -> Result<Self, StoreError> {
        Ok(Self { round, seats: tables::promised_seats(db, round)?.into_iter().collect() })
    }

    /// Those of one peer.
    fn of(&self, peer: &PeerId) -> usize {
        self.seats.values().filter(|owner| *owner == peer).count()
    }
}

/// May a challenge still be shown? One that was paid always: whoever paid it has the preimage and need not pay again.
pub(super) fn is_usable(row: &ChallengeRow, now: UnixMs) -> bool {
    row.state == ChallengeState::Paid || row.expires_ms.0 > now.0 + MIN_CHALLENGE_MS
}

impl Shared {
    pub(super) async fn make_challenge(
        &self,
        commitment: &Signed<Commitment>,
    ) -> Result<ChallengeRow, CoordinatorError> {
        let (contribution, round, peer) =
            (commitment.body.contribution_id(), commitment.body.round, commitment.body.peer);
        let deadline = self.read(move |core| core.seat_for(round, &peer)).await?;
        let now = self.clock.now();
        let expires_ms = now.plus_ms(CHALLENGE_MS).min(deadline);
        let left_ms = expires_ms.0.saturating_sub(now.0);
        if left_ms < MIN_CHALLENGE_MS {
            let message = format!("round {round} takes commitments for {left_ms} ms more: too short to pay a fee in");
            return Err(refusal(409, "round_closed", message, "Wait for the next round").into());
        }
        let request = InvoiceRequest {
            amount: self.run.fee,
            description: format!("l402t submission fee, round {round}"),
            expiry_s: u32::try_from(left_ms / 1_000).unwrap_or(u32::MAX).max(1),
        };
        let invoice = self.ln.create_invoice(&request).await?;
        // A token bought in time is taken until tickets are no longer sold.
        let minted = self.mint(invoice.payment_hash, Goods::Ticket(contribution), deadline.0 / 1_000 + 1);
        let row = ChallengeRow {
            payment_hash: invoice.payment_hash,
            token_id: minted.token_id,
            contribution,
            round,
            peer,
            root_key: minted.root_key,
            macaroon: minted.macaroon,
            bolt11: invoice.bolt11,
            expires_ms,
            state: ChallengeState::Open,
        };
        self.keep_challenge(row).await
    }

    /// Mints the token that an invoice pays for.
    pub(super) fn mint(&self, payment_hash: PaymentHash, goods: Goods, valid_until_s: u64) -> Minted {
        let token_id = TokenId::from_bytes(blake3::derive_key("l402t token id v1", payment_hash.as_bytes()));
        let root_key = self.run.secret.root_key(&token_id);
        let identifier = Identifier { payment_hash, token_id };
        let macaroon = mint(&root_key, &identifier, &Grant { goods, valid_until_s }).to_base64();
        Minted { token_id, root_key, macaroon }
    }

    /// Puts a challenge on disk, unless another request has made one for the same contribution in the meantime. The
    /// answer comes after the commit.
    async fn keep_challenge(&self, row: ChallengeRow) -> Result<ChallengeRow, CoordinatorError> {
        let told = self.arriving.add(row);
        let arriving = Arc::clone(&self.arriving);
        // Whoever has the state first writes for all.
        self.with(move |core| {
            core.keep_challenges(arriving.take());
            Ok(())
        })
        .await?;
        told.await.unwrap_or(Err(CoordinatorError::Panicked))
    }

    /// Books fees that were paid without a ticket being asked for, and gives up challenges that weren't paid.
    pub(super) async fn watch_fees(&self) -> Result<(), CoordinatorError> {
        for row in self.with(Core::fees_to_look_at).await? {
            self.look_at_fee(row).await?;
        }
        Ok(())
    }

    /// The same for every open challenge, however many there are.
    pub(super) async fn look_at_all_fees(&self) -> Result<(), CoordinatorError> {
        let all = |core: &mut Core| Ok(tables::open_challenges(core.db.read(), &InvoiceWatch::START, u32::MAX)?);
        for row in self.with(all).await? {
            self.look_at_fee(row).await?;
        }
        Ok(())
    }

    async fn look_at_fee(&self, row: ChallengeRow) -> Result<(), CoordinatorError> {
        match self.awaited(row.payment_hash, row.expires_ms).await? {
            Awaited::Paid(amount) => self.with(move |core| core.book_fee(&row, amount)).await,
            Awaited::Open => Ok(()),
            Awaited::Over => {
                self.with(move |core| {
                    core.promised = None;
                    let expire = |t: &_| tables::set_challenge_state(t, &row.payment_hash, ChallengeState::Expired);
                    Ok(core.db.write(|t| expire(t))?)
                })
                .await
            }
        }
    }

    /// How an invoice stands that was to be paid until then. Given up only once the node takes nothing for it any more: what came
    /// later would be in no book.
    pub(super) async fn awaited(&self, hash: PaymentHash, until: UnixMs) -> Result<Awaited, CoordinatorError> {
        let over = self.clock.now() > until.plus_ms(CHALLENGE_GRACE_MS);
        let given_up = match self.ln.invoice(hash).await? {
            InvoiceStatus::Settled { amount } => return Ok(Awaited::Paid(amount)),
            InvoiceStatus::Canceled | InvoiceStatus::NotFound => over,
            InvoiceStatus::Open | InvoiceStatus::Accepted { .. } => over && self.ln.cancel(hash).await.is_ok(),
        };
        Ok(if given_up { Awaited::Over } else { Awaited::Open })
    }
}

impl Core {
    /// Seats of the open round that are spoken for.
    pub(super) fn promised_seats(&mut self, round: RoundNumber) -> Result<u32, StoreError> {
        let promised = self.take_promised(round)?;
        let seats = u32::try_from(promised.seats.len()).unwrap_or(u32::MAX);
        self.promised = Some(promised);
        Ok(seats)
    }

    /// What is known of the seats. The caller puts it back once it is true again.
    fn take_promised(&mut self, round: RoundNumber) -> Result<Promised, StoreError> {
        match self.promised.take().filter(|known| known.round == round) {
            Some(known) => Ok(known),
            None => Promised::load(self.db.read(), round),
        }
    }

    /// The commit deadline, if the round has a seat for one more challenge.
    fn seat_for(&self, round: RoundNumber, peer: &PeerId) -> Result<UnixMs, CoordinatorError> {
        let seats = self.seats();
        match self.promised.as_ref().filter(|known| known.round == round) {
            Some(known) => Ok(admit(known, seats, round, peer)?),
            None => Ok(admit(&Promised::load(self.db.read(), round)?, seats, round, peer)?),
        }
    }

    /// The seats of the round that takes commitments, if one does.
    fn seats(&self) -> Option<Seats> {
        let open = self.open_round().filter(|open| open.phase == Phase::Committing)?;
        let unsold = self.run.rules.max_contributions.saturating_sub(open.tickets());
        let left = self.bounty.as_ref().map_or(unsold, |bounty| unsold.min(bounty.book.submissions_left()));
        Some(Seats { round: open.number, left, commit_deadline_ms: open.commit_deadline_ms })
    }

    /// Keeps new challenges in one transaction, and tells each of those who wait what became of its own.
    fn keep_challenges(&mut self, batch: Vec<(ChallengeRow, oneshot::Sender<Kept>)>) {
        let (rows, waiting): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        match self.write_challenges(rows) {
            // Whoever has gone finds it when it asks again.
            Ok(answers) => {
                for (tell, answer) in waiting.into_iter().zip(answers) {
                    drop(tell.send(answer.map_err(CoordinatorError::from)));
                }
            }
            Err(error) => {
                let mut error = Some(CoordinatorError::Store(error));
                let fix = "Try again in a few seconds";
                let unavailable = || refusal(503, "unavailable", "the coordinator can't serve this now", fix).into();
                for tell in waiting {
                    drop(tell.send(Err(error.take().unwrap_or_else(unavailable))));
                }
            }
        }
    }

    fn write_challenges(&mut self, rows: Vec<ChallengeRow>) -> Result<Vec<Result<ChallengeRow, Refusal>>, StoreError> {
        let Some(round) = self.open_round().map(|round| round.number).filter(|_| !rows.is_empty()) else {
            return Ok(rows.into_iter().map(|row| Err(closed(row.round))).collect());
        };
        let mut promised = self.take_promised(round)?;
        let now = self.clock.now();
        let seats = self.seats();
        let answers = self.db.write(|t| {
            rows.into_iter().map(|row| keep_one(t, &mut promised, seats, now, row)).collect::<Result<Vec<_>, _>>()
        })?;
        self.promised = Some(promised);
        Ok(answers)
    }

    /// The next open challenges to ask the node about; none where it is to be left alone.
    fn fees_to_look_at(&mut self) -> Result<Vec<ChallengeRow>, CoordinatorError> {
        let now_ms = self.clock.uptime_ms();
        let Some(from) = self.fees.from(now_ms) else { return Ok(Vec::new()) };
        let rows = tables::open_challenges(self.db.read(), &from, INVOICES_AT_ONCE)?;
        self.fees.goes_on(rows.len(), rows.last().map(|row| row.payment_hash), now_ms);
        Ok(rows)
    }
}

/// The seats of a round that takes commitments.
#[derive(Clone, Copy, Debug)]
struct Seats {
    round: RoundNumber,
    /// Not sold yet: as many more as the round takes, and a bounty's cap allows.
    left: u32,
    commit_deadline_ms: UnixMs,
}

/// Writes a new challenge, unless there is one or the round has no seat for it. What was written before it counts.
fn keep_one(
    t: &Connection,
    promised: &mut Promised,
    seats: Option<Seats>,
    now: UnixMs,
    row: ChallengeRow,
) -> Result<Result<ChallengeRow, Refusal>, StoreError> {
    let other = tables::challenge_for(t, &row.contribution)?.filter(|other| other.expires_ms > now);
    if let Some(other) = other {
        return Ok(Ok(other));
    }
    if let Err(refused) = admit(promised, seats, row.round, &row.peer) {
        return Ok(Err(refused));
    }
    tables::insert_challenge(t, &row)?;
    promised.seats.insert(row.contribution, row.peer);
    Ok(Ok(row))
}

/// The commit deadline, if the round has a seat for one more challenge.
fn admit(promised: &Promised, seats: Option<Seats>, round: RoundNumber, peer: &PeerId) -> Result<UnixMs, Refusal> {
    let seats = seats.filter(|seats| seats.round == round).ok_or_else(|| closed(round))?;
    if promised.seats.len() >= seats.left as usize {
        let message = format!("every ticket that round {round} has left is being paid for, if it has any");
        return Err(refusal(409, "round_full", message, "Try again in two minutes, or wait for the next round"));
    }
    if promised.of(peer) >= MAX_CHALLENGES_PER_PEER {
        let message = format!("{MAX_CHALLENGES_PER_PEER} commitments of this peer wait for their fee already");
        return Err(refusal(429, "too_many_challenges", message, "Pay one of them, or wait two minutes"));
    }
    Ok(seats.commit_deadline_ms)
}

fn closed(round: RoundNumber) -> Refusal {
    refusal(409, "round_closed", format!("round {round} has closed"), "Wait for the next round")
}
