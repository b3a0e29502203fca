//! What the owner allows bounties to cost within 24 hours: submissions, and the packages that they begin with.

use std::path::Path;

use super::error::PeerError;
use super::folder::packages_in;
use super::journal::Journal;
use super::session::Session;
use super::stage::Stage;
use super::terms::RunKind;
use crate::fetch::{Bought, purchases};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{DAY_MS, UnixMs};

/// A fee's route may take at most this share of the fee, but always [`MIN_ROUTING_CAP`].
const ROUTING_CAP_DIVISOR: u64 = 10;
const MIN_ROUTING_CAP: Msat = Msat::new(5_000);

/// What a fee's route may take.
pub fn routing_cap(fee: Msat) -> Msat {
    MIN_ROUTING_CAP.max(Msat::new(fee.msat() / ROUTING_CAP_DIVISOR))
}

/// The most that paying a fee can cost.
pub(super) fn most_cost(fee: Msat) -> Msat {
    fee.checked_add(routing_cap(fee)).unwrap_or(Msat::MAX_MONEY)
}

/// What bounties cost in the last 24 hours, or may still cost because a payment is on its way.
pub fn spent_24h(journal: Option<&Journal>, data: &Path, now: UnixMs) -> Result<Msat, PeerError> {
    let since = UnixMs(now.0.saturating_sub(DAY_MS));
    let under_way = journal.map_or(Ok(Vec::new()), |journal| journal.unfinished(None))?;
    let on_the_way = under_way.iter().filter_map(|entry| {
        let Stage::Paying(fee) = &entry.stage else { return None };
        entry.is_submission().then(|| most_cost(fee.amount_msat))
    });
    let packages = purchases(&packages_in(data))?;
    // However old it is: a payment on its way may leave at any moment.
    let packages = packages.iter().filter(|bought| !bought.is_paid || bought.bought_ms >= since).map(cost);
    let paid = journal.map_or(Ok(Msat::ZERO), |journal| journal.spent_on_bounties(since))?;
    Ok(Msat::checked_sum(on_the_way.chain(packages).chain([paid])).unwrap_or(Msat::MAX_MONEY))
}

fn cost(bought: &Bought) -> Msat {
    if bought.is_paid {
        bought.amount_msat.checked_add(bought.routing_msat).unwrap_or(Msat::MAX_MONEY)
    } else {
        most_cost(bought.amount_msat)
    }
}

impl Session {
    /// Does the fee of one more submission stay within what the owner allows a day? Asked before anything is committed to, and again
    /// right before money leaves: meanwhile others may have been paid. A training run's fees are its own affair.
    pub(super) fn may_pay_fee(&self) -> Result<(), PeerError> {
        match &self.terms.kind {
            RunKind::Bounty(_) => self.may_spend(self.terms.fee),
            RunKind::Training(_) => Ok(()),
        }
    }

    /// Does a payment stay within that, with what its route may take?
    pub(super) fn may_spend(&self, amount: Msat) -> Result<(), PeerError> {
        let Some(most) = self.parts.settings.max_daily_fees else { return Ok(()) };
        let cost = most_cost(amount);
        let spent = spent_24h(Some(&self.journal), self.parts.folder.root(), self.parts.clock.now())?;
        let all = spent.checked_add(cost).unwrap_or(Msat::MAX_MONEY);
        if all <= most { Ok(()) } else { Err(PeerError::SpendingCap { cost, spent, most }) }
    }
}
