//! The tool `wallet_balance`: what there is, what was earned, and what may still be spent.

use serde::Serialize;

use crate::clock::{Clock, SystemClock};
use crate::cmd::bounty::desk::{DATA, sat};
use crate::cmd::ledger::{Sums, bought};
use crate::cmd::{Answer, Context, Failure, node};
use crate::peer::error::PeerError;
use crate::peer::folder::{journal_in, lightning_in};
use crate::peer::journal::{Journal, Totals};
use crate::peer::spending::spent_24h;
use crate::protocol::amount::Msat;

/// What there is to spend, and what it did so far.
#[derive(Debug, Serialize)]
struct Balance {
    /// As the node last noted it; null for one that never ran, and for an LND, which keeps its own.
    wallet: Option<serde_json::Value>,
    /// What came in and went out, of everything that this data folder did.
    totals: Sums,
    /// What bounties may cost within 24 hours.
    limit_24h_msat: Msat,
    /// What they cost in the last 24 hours.
    spent_24h_msat: Msat,
    /// What is left of that.
    left_24h_msat: Msat,
}

pub(super) fn show(context: &Context) -> Result<Answer, Failure> {
    let data = context.data_path(DATA)?;
    let wallet = node::last_summary(&context.config.lightning, &lightning_in(&data))?;
    let limit_24h_msat = sat("[bounty] max_daily_fees_sat", context.config.bounty.max_daily_fees_sat)?;
    let journal = match journal_in(&data) {
        path if path.exists() => Some(Journal::open_read_only(&path).map_err(PeerError::from)?),
        _ => None,
    };
    let spent_24h_msat = spent_24h(journal.as_ref(), &data, SystemClock.now())?;
    let totals = match &journal {
        Some(journal) => journal.totals().map_err(PeerError::from)?,
        None => Totals::default(),
    };
    let totals = Sums::new(totals, &bought(&data)?);
    let left_24h_msat = limit_24h_msat.checked_sub(spent_24h_msat).unwrap_or(Msat::ZERO);
    Ok(Answer::yes(Balance { wallet, totals, limit_24h_msat, spent_24h_msat, left_24h_msat }))
}
