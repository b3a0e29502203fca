//! The peer's life: finish what was left, then round after round until the run or the owner says stop.

use std::collections::VecDeque;

use super::contribution::{Patience, Progress};
use super::error::PeerError;
use super::events::{PeerEvent, Summary};
use super::journal::Totals;
use super::session::Session;
use super::stage::Ending;
use super::trainer::TrainerSlot;
use crate::protocol::amount::Msat;
use crate::protocol::api::{ContributionState, Phase};
use crate::protocol::ids::{ContributionId, RoundNumber};

/// After so many fees in a row without a ticket, or so many that could not be paid, the peer stops.
const MAX_FEES_IN_VAIN: u32 = 3;

/// How long the last payments may take to reach the coordinator's node, in ms, and how many contributions that concerns.
const SEE_OFF_MS: u64 = 20_000;
const LAST_ENDED: usize = 4;

/// What a round brought.
enum RoundEnd {
    /// The contribution came to an end.
    Ended(ContributionId, Ending),
    /// No contribution, or one that ended before.
    Nothing,
    /// A contribution whose receipt is late.
    Parked,
}

impl Session {
    /// Contributes until the run is over or `contributions` have come to a verdict. Whatever it is doing, held tranches are
    /// guarded.
    pub async fn serve(&self, trainer: &TrainerSlot, contributions: Option<u32>) -> Result<Summary, PeerError> {
        self.guarded(self.take_part(trainer, contributions)).await
    }

    async fn take_part(&self, trainer: &TrainerSlot, contributions: Option<u32>) -> Result<Summary, PeerError> {
        let before = self.journal.totals()?;
        let mut tally = Tally::default();
        let view = self.run_view().await?;
        self.finish_old(view.current_round, Patience::OneLook, &mut tally).await?;
        let mut done_with = None;
        while contributions.is_none_or(|wanted| tally.summary.contributions < wanted) {
            let view = self.run_view().await?;
            let Some(current) = view.current_round else { break };
            if done_with == Some(current) {
                self.pause().await;
                continue;
            }
            self.finish_old(Some(current), Patience::OneLook, &mut tally).await?;
            if tally.registrations == 0 || !self.can_be_paid(&view.lightning.node_id).await? {
                self.ready_to_be_paid(&view.lightning).await?;
                tally.registrations += 1;
            }
            match self.work_on(current, trainer).await? {
                RoundEnd::Ended(contribution, ending) => tally.count(contribution, &ending)?,
                RoundEnd::Nothing | RoundEnd::Parked => {}
            }
            done_with = Some(current);
        }
        // Nothing else is left to do: now there is time to wait.
        self.finish_old(None, Patience::ThisRound, &mut tally).await?;
        self.see_off(&tally.last_ended).await;
        self.summarise(&tally, before).await
    }

    /// What was claimed or given back last still has to reach the coordinator's node: this peer's node must not stop
    /// before. If the coordinator doesn't confirm it in time, the nodes make up for it when they next meet.
    pub(super) async fn see_off(&self, ended: &VecDeque<ContributionId>) {
        let watch = self.timer();
        for contribution in ended {
            while watch.elapsed_ms() < SEE_OFF_MS {
                match self.parts.api.contribution(*contribution).await {
                    Ok(view) if view.state != ContributionState::Finished => self.pause().await,
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }

    /// A round from its opening to its end, as far as this peer takes part.
    async fn work_on(&self, round: RoundNumber, trainer: &TrainerSlot) -> Result<RoundEnd, PeerError> {
        let view = self.round(round).await?;
        let entry = match self.journal.entry(self.terms.run, round)? {
            Some(entry) if entry.stage.is_closed() => return Ok(RoundEnd::Nothing),
            Some(entry) => entry,
            None if view.phase != Phase::Committing => return Ok(RoundEnd::Nothing),
            None => match self.train(&view, trainer).await? {
                Some(entry) => entry,
                None => {
                    self.tell_missed(round, "its deadline for commitments passed during training");
                    return Ok(RoundEnd::Nothing);
                }
            },
        };
        self.close(self.carry_on(entry, &view.opening.body, Patience::ThisRound).await?)
    }

    /// Contributions to rounds other than the current one: fetches late receipts, settles, gives back.
    async fn finish_old(
        &self,
        current: Option<RoundNumber>,
        patience: Patience,
        tally: &mut Tally,
    ) -> Result<(), PeerError> {
        for entry in self.journal.unfinished(Some(self.terms.run))? {
            if Some(entry.round()) == current {
                continue;
            }
            let view = match self.round(entry.round()).await {
                Ok(view) => view,
                Err(PeerError::Refused { message, .. }) => {
                    tracing::warn!(round = %entry.round(), %message, "a contribution can't be finished now");
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.close(self.carry_on(entry, &view.opening.body, patience).await?)? {
                RoundEnd::Ended(contribution, ending) => tally.count(contribution, &ending)?,
                RoundEnd::Nothing | RoundEnd::Parked => {}
            }
        }
        Ok(())
    }

    /// What follows from the end of a contribution, once it is in the journal.
    fn close(&self, progress: Progress) -> Result<RoundEnd, PeerError> {
        match progress {
            Progress::Ended(entry, ending) => {
                self.tidy(entry.round())?;
                match &ending {
                    Ending::Accepted { .. } | Ending::Rejected { .. } | Ending::NotReached { .. } => {}
                    Ending::Missed { reason } | Ending::NoTicket { reason } => self.tell_missed(entry.round(), reason),
                    Ending::FeeUnpaid { reason } => {
                        self.tell_missed(entry.round(), &format!("the submission fee could not be paid: {reason}"));
                    }
                }
                Ok(RoundEnd::Ended(entry.contribution, ending))
            }
            Progress::Parked | Progress::Moved(_) => Ok(RoundEnd::Parked),
        }
    }

    fn tell_missed(&self, round: RoundNumber, reason: &str) {
        self.emit(&PeerEvent::RoundMissed { round, reason: reason.to_owned() });
    }

    async fn summarise(&self, tally: &Tally, before: Totals) -> Result<Summary, PeerError> {
        let now = self.journal.totals()?;
        let since = |now: Msat, before: Msat| now.checked_sub(before).unwrap_or(Msat::ZERO);
        let summary = Summary {
            reward_msat: since(now.received_msat, before.received_msat),
            fee_msat: since(now.spent_msat(), before.spent_msat()),
            reward_ever_msat: now.received_msat,
            fee_ever_msat: now.spent_msat(),
            unfinished: u32::try_from(self.journal.unfinished(None)?.len()).unwrap_or(u32::MAX),
            ..tally.summary
        };
        let outbound_msat = self.parts.ln.info().await.ok().map(|info| info.outbound_msat);
        self.emit(&PeerEvent::Finished { summary, outbound_msat });
        Ok(summary)
    }
}

/// What has happened since the start.
#[derive(Debug, Default)]
struct Tally {
    summary: Summary,
    registrations: u32,
    fees_without_ticket: u32,
    unpaid_fees: u32,
    /// The latest contributions that ended, at most [`LAST_ENDED`].
    last_ended: VecDeque<ContributionId>,
}

impl Tally {
    fn count(&mut self, contribution: ContributionId, ending: &Ending) -> Result<(), PeerError> {
        self.last_ended.push_back(contribution);
        if self.last_ended.len() > LAST_ENDED {
            self.last_ended.pop_front();
        }
        let summary = &mut self.summary;
        match ending {
            Ending::Accepted { .. } => {
                summary.contributions += 1;
                summary.accepted += 1;
                (self.fees_without_ticket, self.unpaid_fees) = (0, 0);
            }
            Ending::Rejected { .. } | Ending::NotReached { .. } => {
                summary.contributions += 1;
                summary.rejected += 1;
                (self.fees_without_ticket, self.unpaid_fees) = (0, 0);
            }
            Ending::Missed { .. } => summary.missed += 1,
            Ending::NoTicket { .. } => {
                summary.missed += 1;
                self.fees_without_ticket += 1;
                if self.fees_without_ticket >= MAX_FEES_IN_VAIN {
                    return Err(PeerError::FeesTaken { times: self.fees_without_ticket });
                }
            }
            Ending::FeeUnpaid { reason } => {
                summary.missed += 1;
                self.unpaid_fees += 1;
                if self.unpaid_fees >= MAX_FEES_IN_VAIN {
                    return Err(PeerError::FeeNotPaid { reason: reason.clone() });
                }
            }
        }
        Ok(())
    }
}
