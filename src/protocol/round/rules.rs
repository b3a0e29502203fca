//! [`transition`]: the rules.

use super::super::amount::Msat;
use super::super::api::Phase;
use super::super::hold;
use super::super::ids::{ContributionId, PeerId, UnixMs};
use super::state::{
    Account, Contribution, Effect, Event, Illegal, Lapse, Progress, Round, RoundRules, Tranche, TrancheState,
};

/// A tranche that did not reach the peer's node is sent again after these pauses, and then given up: two minutes in all, in
/// which a machine restarts.
pub const LOCK_PAUSES_MS: [u64; 8] = [1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 30_000, 30_000];

/// The round after `event`, and what must be done about it. `state` is as it was if the event is illegal.
pub fn transition(
    state: &Round,
    event: &Event,
    now: UnixMs,
    rules: &RoundRules,
) -> Result<(Round, Vec<Effect>), Illegal> {
    let mut step = Step { round: state.clone(), effects: Vec::new(), now, rules };
    match event {
        Event::TicketSold { contribution, peer, payload_bytes, tranches } => {
            step.sell_ticket(*contribution, *peer, *payload_bytes, tranches)?;
        }
        Event::InvoicesAccepted { contribution } => step.accept_invoices(contribution)?,
        Event::PaymentStarted { contribution, tranche, height } => {
            step.payment_started(contribution, *tranche, *height)?;
        }
        Event::PaymentInFlight { contribution, tranche } => step.payment_in_flight(contribution, *tranche)?,
        Event::PaymentSettled { contribution, tranche, fee_msat } => {
            step.payment_ended(contribution, *tranche, TrancheState::Settled)?;
            step.post(Account::Wallet, Account::Routing, *fee_msat);
        }
        Event::PaymentFailed { contribution, tranche } => {
            step.payment_ended(contribution, *tranche, TrancheState::Refunded)?;
        }
        Event::PaymentNotReached { contribution, tranche, payable_until_ms } => {
            step.payment_not_reached(contribution, *tranche, *payable_until_ms)?;
        }
        Event::Uploaded { contribution, payload_bytes } => step.upload(contribution, *payload_bytes)?,
        Event::Tick { open_challenges, height } => step.tick(*open_challenges, *height),
        Event::LastCall => step.last_call(),
        Event::Judged { tranches_paid } => step.judged(tranches_paid)?,
    }
    Ok((step.round, step.effects))
}

struct Step<'a> {
    round: Round,
    effects: Vec<Effect>,
    now: UnixMs,
    rules: &'a RoundRules,
}

impl Step<'_> {
    fn place(&self, id: &ContributionId) -> Result<usize, Illegal> {
        let found = self.round.find(id).map(|(place, _)| place);
        found.ok_or(Illegal::UnknownContribution(self.round.number, *id))
    }

    fn post(&mut self, from: Account, to: Account, amount: Msat) {
        if amount > Msat::ZERO {
            self.effects.push(Effect::Post { from, to, amount });
        }
    }

    fn sell_ticket(
        &mut self,
        id: ContributionId,
        peer: PeerId,
        payload_bytes: u64,
        tranches: &[Msat],
    ) -> Result<(), Illegal> {
        let (round, deadline) = (self.round.number, self.round.commit_deadline_ms);
        if self.round.phase != Phase::Committing || self.now > deadline {
            return Err(Illegal::CommitLate { round, deadline });
        }
        if self.round.tickets() >= self.rules.max_contributions {
            return Err(Illegal::Full { round, tickets: self.round.tickets() });
        }
        if let Some(other) = self.round.contributions.iter().find(|c| c.peer == peer || c.id == id) {
            return Err(Illegal::AlreadyCommitted(other.id));
        }
        self.round.contributions.push(Contribution {
            id,
            peer,
            payload_bytes,
            progress: Progress::Ticketed,
            invoices_deadline_ms: self.now.plus_ms(self.rules.invoices_ms).min(self.round.upload_deadline_ms),
            invoices_ms: None,
            locked_ms: None,
            uploaded_ms: None,
            expiry_height: None,
            tranches_paid: 0,
            tranches: tranches.iter().copied().map(Tranche::offered).collect(),
        });
        Ok(())
    }

    fn accept_invoices(&mut self, id: &ContributionId) -> Result<(), Illegal> {
        let place = self.place(id)?;
        let now = self.now;
        let contribution = &mut self.round.contributions[place];
        let deadline = contribution.invoices_deadline_ms;
        match contribution.progress {
            Progress::Ticketed if now <= deadline => {}
            Progress::Ticketed | Progress::Lapsed(Lapse::NoInvoices) => {
                return Err(Illegal::InvoicesLate { contribution: *id, deadline });
            }
            Progress::Locking
            | Progress::Locked
            | Progress::Uploaded
            | Progress::Lapsed(Lapse::NotLocked | Lapse::NoUpload | Lapse::LockLost)
            | Progress::Settling
            | Progress::Finished => return Err(Illegal::InvoicesTaken(*id)),
        }
        contribution.progress = Progress::Locking;
        contribution.invoices_ms = Some(now);
        for (tranche, entry) in contribution.tranches.iter_mut().enumerate() {
            entry.state = TrancheState::Queued;
            self.effects.push(Effect::Pay { contribution: *id, tranche: tranche as u32 });
        }
        Ok(())
    }

    fn tranche(&self, id: &ContributionId, tranche: u32) -> Result<(usize, TrancheState), Illegal> {
        let place = self.place(id)?;
        let found = self.round.contributions[place].tranches.get(tranche as usize);
        let entry = found.ok_or(Illegal::UnknownTranche(*id, tranche))?;
        Ok((place, entry.state))
    }

    fn payment_started(&mut self, id: &ContributionId, tranche: u32, height: Option<u32>) -> Result<(), Illegal> {
        let (place, state) = self.tranche(id, tranche)?;
        if state != TrancheState::Queued {
            return Err(Illegal::WrongTrancheState { contribution: *id, tranche, state });
        }
        let contribution = &mut self.round.contributions[place];
        let entry = &mut contribution.tranches[tranche as usize];
        entry.state = TrancheState::Sending;
        let amount = entry.amount_msat;
        let expiry = height.map(|height| hold::expiry_height(height, self.rules.hold_blocks));
        contribution.expiry_height = contribution.expiry_height.into_iter().chain(expiry).min();
        self.effects.push(Effect::Dequeue { contribution: *id, tranche });
        self.post(Account::Wallet, Account::Locked, amount);
        Ok(())
    }

    fn payment_in_flight(&mut self, id: &ContributionId, tranche: u32) -> Result<(), Illegal> {
        let (place, state) = self.tranche(id, tranche)?;
        if state != TrancheState::Sending {
            return Err(Illegal::WrongTrancheState { contribution: *id, tranche, state });
        }
        let now = self.now;
        let contribution = &mut self.round.contributions[place];
        contribution.tranches[tranche as usize].state = TrancheState::InFlight;
        contribution.tranches[tranche as usize].again_ms = None;
        let all = contribution.tranches.iter().all(|t| t.state == TrancheState::InFlight);
        if all && contribution.progress == Progress::Locking {
            contribution.progress = Progress::Locked;
            contribution.locked_ms = Some(now);
        }
        Ok(())
    }

    fn payment_ended(&mut self, id: &ContributionId, tranche: u32, end: TrancheState) -> Result<(), Illegal> {
        let (place, state) = self.tranche(id, tranche)?;
        if !state.is_locked() {
            return Err(Illegal::WrongTrancheState { contribution: *id, tranche, state });
        }
        let entry = &mut self.round.contributions[place].tranches[tranche as usize];
        *entry = Tranche { state: end, ended_ms: Some(self.now), again_ms: None, ..*entry };
        let to = if end == TrancheState::Settled { Account::Settled } else { Account::Wallet };
        let amount = entry.amount_msat;
        self.post(Account::Locked, to, amount);
        match self.round.contributions[place].progress {
            // Without the whole reward locked there will be no upload. (A tranche that is claimed before the verdict
            // means that its preimage leaked: nothing more is put at risk for that contribution.)
            Progress::Ticketed | Progress::Locking | Progress::Locked => self.lapse(place, Lapse::NotLocked),
            // A payload counts only with its whole reward locked.
            Progress::Uploaded => self.lose_lock(place),
            Progress::Settling => self.finish(place),
            Progress::Lapsed(_) | Progress::Finished => {}
        }
        Ok(())
    }

    /// Another attempt is worth making while the payload is still awaited and the invoice can be paid. Until it is made the
    /// money stays counted as locked, as at every moment at which the node may be asked to send.
    fn payment_not_reached(&mut self, id: &ContributionId, tranche: u32, payable_until: UnixMs) -> Result<(), Illegal> {
        let (place, state) = self.tranche(id, tranche)?;
        if !state.is_locked() {
            return Err(Illegal::WrongTrancheState { contribution: *id, tranche, state });
        }
        let awaited = match self.round.contributions[place].progress {
            Progress::Locking | Progress::Locked => true,
            Progress::Ticketed | Progress::Uploaded | Progress::Lapsed(_) | Progress::Settling | Progress::Finished => {
                false
            }
        };
        let entry = self.round.contributions[place].tranches[tranche as usize];
        let pause_ms = LOCK_PAUSES_MS.get(entry.attempts_in_vain as usize);
        let again = pause_ms.map(|pause_ms| self.now.plus_ms(*pause_ms));
        let again = again.filter(|again| awaited && *again <= payable_until && *again < self.round.upload_deadline_ms);
        let Some(again) = again else { return self.payment_ended(id, tranche, TrancheState::Refunded) };
        let contribution = &mut self.round.contributions[place];
        contribution.tranches[tranche as usize] = Tranche {
            state: TrancheState::Sending,
            attempts_in_vain: entry.attempts_in_vain + 1,
            again_ms: Some(again),
            ..entry
        };
        (contribution.progress, contribution.locked_ms) = (Progress::Locking, None);
        Ok(())
    }

    /// The payload of this one will be neither judged nor paid.
    fn lose_lock(&mut self, place: usize) {
        self.lapse(place, Lapse::LockLost);
        self.round.contributions[place].uploaded_ms = None;
    }

    /// Ends what would outlive its locks: no preimage may come out that can't be claimed any more.
    fn expire(&mut self, height: u32) {
        for place in 0..self.round.contributions.len() {
            let contribution = &self.round.contributions[place];
            let late = contribution.expiry_height.is_some_and(|expiry| !hold::may_reveal(height, expiry));
            match contribution.progress {
                Progress::Locking | Progress::Locked if late => self.lapse(place, Lapse::NotLocked),
                Progress::Uploaded if late => self.lose_lock(place),
                Progress::Ticketed
                | Progress::Locking
                | Progress::Locked
                | Progress::Uploaded
                | Progress::Lapsed(_)
                | Progress::Settling
                | Progress::Finished => {}
            }
        }
    }

    fn lapse(&mut self, place: usize, why: Lapse) {
        let contribution = &mut self.round.contributions[place];
        contribution.progress = Progress::Lapsed(why);
        let id = contribution.id;
        for (tranche, entry) in contribution.tranches.iter_mut().enumerate() {
            match entry.state {
                TrancheState::Queued => {
                    entry.state = TrancheState::Dropped;
                    self.effects.push(Effect::Dequeue { contribution: id, tranche: tranche as u32 });
                }
                TrancheState::Offered => entry.state = TrancheState::Dropped,
                TrancheState::Sending
                | TrancheState::InFlight
                | TrancheState::Settled
                | TrancheState::Refunded
                | TrancheState::Dropped => {}
            }
        }
    }

    fn finish(&mut self, place: usize) {
        let contribution = &mut self.round.contributions[place];
        let open = contribution.has_locked();
        contribution.progress = if open { Progress::Settling } else { Progress::Finished };
    }

    fn upload(&mut self, id: &ContributionId, sent: u64) -> Result<(), Illegal> {
        let place = self.place(id)?;
        let (round, deadline) = (self.round.number, self.round.upload_deadline_ms);
        let late = Illegal::UploadLate { round, deadline };
        let contribution = &mut self.round.contributions[place];
        let committed = contribution.payload_bytes;
        match contribution.progress {
            Progress::Uploaded => return Err(Illegal::AlreadyUploaded(*id)),
            Progress::Settling | Progress::Finished | Progress::Lapsed(Lapse::NoUpload | Lapse::LockLost) => {
                return Err(late);
            }
            Progress::Ticketed | Progress::Locking | Progress::Lapsed(Lapse::NoInvoices | Lapse::NotLocked) => {
                return Err(Illegal::NotLocked(*id));
            }
            Progress::Locked if self.now > deadline => return Err(late),
            Progress::Locked if sent != committed => {
                return Err(Illegal::WrongLength { contribution: *id, committed, sent });
            }
            Progress::Locked => {}
        }
        contribution.progress = Progress::Uploaded;
        contribution.uploaded_ms = Some(self.now);
        Ok(())
    }

    fn tick(&mut self, open_challenges: u32, height: Option<u32>) {
        match (self.round.phase, height) {
            (Phase::Committing | Phase::Uploading | Phase::Judging, Some(height)) => self.expire(height),
            (Phase::Committing | Phase::Uploading | Phase::Judging, None) | (Phase::Closed, _) => {}
        }
        match self.round.phase {
            Phase::Committing | Phase::Uploading => {}
            Phase::Judging | Phase::Closed => return,
        }
        for place in 0..self.round.contributions.len() {
            let contribution = &self.round.contributions[place];
            if contribution.progress == Progress::Ticketed && self.now > contribution.invoices_deadline_ms {
                self.lapse(place, Lapse::NoInvoices);
            }
        }
        if self.now > self.round.commit_deadline_ms {
            self.round.phase = Phase::Uploading;
        }
        let waiting = self.round.contributions.iter().any(Contribution::is_pending);
        let close_at = self.rules.close_at_contributions;
        let early = close_at > 0 && self.round.uploads() >= close_at && !waiting && open_challenges == 0;
        // With no more tickets to be sold and nobody on the way, waiting for the upload deadline gains nothing.
        let complete = self.round.phase == Phase::Uploading && !waiting;
        if early || complete || self.now > self.round.upload_deadline_ms {
            self.close();
        }
    }

    /// Sells no more tickets: there is nothing left to do for more of them.
    fn last_call(&mut self) {
        match self.round.phase {
            Phase::Committing => self.round.phase = Phase::Uploading,
            Phase::Uploading | Phase::Judging | Phase::Closed => {}
        }
    }

    fn close(&mut self) {
        for place in 0..self.round.contributions.len() {
            match self.round.contributions[place].progress {
                Progress::Ticketed => self.lapse(place, Lapse::NoInvoices),
                Progress::Locking | Progress::Locked => self.lapse(place, Lapse::NoUpload),
                Progress::Uploaded | Progress::Lapsed(_) | Progress::Settling | Progress::Finished => {}
            }
        }
        self.round.phase = Phase::Judging;
        self.effects.push(Effect::Judge);
    }

    fn judged(&mut self, tranches_paid: &[u32]) -> Result<(), Illegal> {
        let number = self.round.number;
        match self.round.phase {
            Phase::Judging => {}
            Phase::Committing | Phase::Uploading | Phase::Closed => return Err(Illegal::NotJudging(number)),
        }
        let fits = |contribution: &Contribution, mask: u32| match contribution.progress {
            Progress::Uploaded => u64::from(mask) < 1 << contribution.tranches.len(),
            Progress::Lapsed(_) => mask == 0,
            Progress::Ticketed | Progress::Locking | Progress::Locked | Progress::Settling | Progress::Finished => {
                false
            }
        };
        let count = self.round.contributions.len() == tranches_paid.len();
        if !count || !self.round.contributions.iter().zip(tranches_paid).all(|(c, mask)| fits(c, *mask)) {
            return Err(Illegal::BadVerdicts(number));
        }
        for (place, mask) in tranches_paid.iter().enumerate() {
            self.round.contributions[place].tranches_paid = *mask;
            self.finish(place);
        }
        self.round.phase = Phase::Closed;
        self.round.closed_ms = Some(self.now);
        Ok(())
    }
}
