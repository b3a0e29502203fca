//! The tool `wallet_balance`: what there is, what was earned, and what may still be spent today.

use serde::Serialize;

use crate::clock::{Clock, SystemClock};
use crate::cmd::bounty::desk::{DATA, sat};
use crate::cmd::{Answer, Context, Failure, node};
use crate::peer::error::PeerError;
use crate::peer::folder::{journal_in, lightning_in};
use crate::peer::journal::{Journal, Totals};
use crate::peer::spending::spent_today;
use crate::protocol::amount::Msat;

/// What there is to spend, and what it did so far.
#[derive(Debug, Serialize)]
struct Balance {
    /// As the node last noted it; null for one that never ran, and for an LND, which keeps its own.
    wallet: Option<serde_json::Value>,
    /// Fees, their routing, and rewards, of everything that this data folder did.
    totals: Totals,
    /// What submissions may cost within 24 hours.
    daily_limit_msat: Msat,
    /// What they cost in the last 24 hours.
    spent_today_msat: Msat,
    /// What is left of that.
    left_today_msat: Msat,
}

pub(super) fn show(context: &Context) -> Result<Answer, Failure> {
    let data = context.data_path(DATA)?;
    let wallet = node::last_summary(&context.config.lightning, &lightning_in(&data))?;
    let daily_limit_msat = sat("[bounty] max_daily_fees_sat", context.config.bounty.max_daily_fees_sat)?;
    let (totals, spent_today_msat) = match journal_in(&data) {
        path if path.exists() => {
            let journal = Journal::open_read_only(&path).map_err(PeerError::from)?;
            let spent = spent_today(&journal, SystemClock.now()).map_err(PeerError::from)?;
            (journal.totals().map_err(PeerError::from)?, spent)
        }
        _ => (Totals::default(), Msat::ZERO),
    };
    let left_today_msat = daily_limit_msat.checked_sub(spent_today_msat).unwrap_or(Msat::ZERO);
    Ok(Answer::yes(Balance { wallet, totals, daily_limit_msat, spent_today_msat, left_today_msat }))
}
