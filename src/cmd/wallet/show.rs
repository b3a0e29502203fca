//! `l402t wallet show`.

use serde::Serialize;

use super::Place;
use crate::clock::{Clock, SystemClock};
use crate::cmd::{Answer, Context, Failure};
use crate::ln::embedded::{OpenState, WalletSummary, last_summary};
use crate::protocol::amount::Msat;
use crate::ui::{Align, Table};

/// Digits of a node's key that are shown to people.
const SHORT_KEY: usize = 16;

/// With `--json`.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    summary: &'a WalletSummary,
    wallet: String,
}

pub(super) fn run(place: &Place, context: &Context) -> Result<Answer, Failure> {
    let Some(summary) = last_summary(place.wallet())? else {
        let fix = "Start l402t peer or l402t coordinate on it once";
        return Err(Failure::usage("never_ran", "the wallet's node never ran, or not since this was kept", fix));
    };
    let ui = &context.ui;
    ui.line(format!("node      {} ({})", summary.node_id, summary.network));
    ui.line(format!("wallet    {}", place.wallet().display()));
    ui.line(format!("as of     {}, block {}", ago(&summary), summary.block_height));
    let spendable = sat(summary.spendable_sat);
    ui.line(format!("on chain  {}, of which {spendable} can be sent now", sat(summary.on_chain_sat)));
    ui.line(format!("channels  {}", sat(summary.in_channels_sat)));
    ui.line(format!("closing   {}", sat(summary.closing_sat)));
    if !summary.channels.is_empty() {
        ui.line("");
        channels(&summary).lines().iter().for_each(|line| ui.line(line));
    }
    if !summary.closing.is_empty() {
        ui.line("");
        closing(&summary).lines().iter().for_each(|line| ui.line(line));
    }
    Ok(Answer::yes(Shown { summary: &summary, wallet: place.wallet().display().to_string() }))
}

fn channels(summary: &WalletSummary) -> Table {
    let mut table = Table::new(&[
        ("channel", Align::Left),
        ("with", Align::Left),
        ("state", Align::Left),
        ("size", Align::Right),
        ("can send", Align::Right),
        ("can receive", Align::Right),
    ]);
    for channel in &summary.channels {
        table.row([
            channel.id.clone(),
            channel.peer.chars().take(SHORT_KEY).collect(),
            match channel.state {
                OpenState::Opening => "opening",
                OpenState::Away => "away",
                OpenState::Usable => "usable",
            }
            .to_owned(),
            sat(channel.capacity_sat),
            channel.can_send_msat.to_string(),
            channel.can_receive_msat.to_string(),
        ]);
    }
    table
}

fn closing(summary: &WalletSummary) -> Table {
    let mut table =
        Table::new(&[("on its way", Align::Right), ("waits for", Align::Left), ("until block", Align::Right)]);
    for part in &summary.closing {
        let until = part.until_height.map(|height| height.to_string()).unwrap_or_default();
        table.row([sat(part.amount_sat), part.waits_for.clone(), until]);
    }
    table
}

pub(super) fn sat(sat: u64) -> String {
    Msat::from_sat(sat).map_or_else(|| format!("{sat} sat"), |amount| amount.to_string())
}

/// How long ago it changed last: a running node keeps it up to date.
fn ago(summary: &WalletSummary) -> String {
    let seconds = SystemClock.now().0.saturating_sub(summary.as_of.0) / 1_000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3_600),
    }
}
