//! What the owner allows submissions to bounties to cost within 24 hours.

use super::error::PeerError;
use super::journal::{Journal, JournalError};
use super::payments::most_cost;
use super::session::Session;
use super::stage::Stage;
use super::terms::RunKind;
use crate::protocol::amount::Msat;
use crate::protocol::ids::UnixMs;

const DAY_MS: u64 = 86_400_000;

/// What submissions to bounties cost in the last 24 hours, or may still cost because their fee is on its way.
pub fn spent_today(journal: &Journal, now: UnixMs) -> Result<Msat, JournalError> {
    let under_way = journal.unfinished(None)?;
    let on_the_way = under_way.iter().filter_map(|entry| {
        let Stage::Paying(fee) = &entry.stage else { return None };
        entry.commitment.body.claim.is_some().then(|| most_cost(fee.amount_msat))
    });
    let paid = journal.spent_on_bounties(UnixMs(now.0.saturating_sub(DAY_MS)))?;
    Ok(Msat::checked_sum(on_the_way.chain([paid])).unwrap_or(Msat::MAX_MONEY))
}

impl Session {
    /// Does the fee of one more submission stay within what the owner allows a day? Asked before anything is committed to, and again
    /// right before money leaves: meanwhile others may have been paid. A training run's fees are its own affair.
    pub(super) fn may_pay_fee(&self) -> Result<(), PeerError> {
        let (most, clock) = (self.parts.settings.max_daily_fees, &self.parts.clock);
        let (RunKind::Bounty(_), Some(most)) = (&self.terms.kind, most) else { return Ok(()) };
        let cost = most_cost(self.terms.fee);
        let spent = spent_today(&self.journal, clock.now())?;
        let all = spent.checked_add(cost).unwrap_or(Msat::MAX_MONEY);
        if all <= most { Ok(()) } else { Err(PeerError::SpendingCap { cost, spent, most }) }
    }
}
