//! `l402t ledger`: every msat of a coordinator's or a peer's data folder, also while that is at work.

use std::path::Path;

use serde::Serialize;

use super::{Answer, Context, Failure};
use crate::cli::LedgerArgs;
use crate::peer::folder::journal_in;
use crate::peer::journal::{Journal, Totals as PeerTotals};
use crate::peer::stage::{Ending, Entry, Stage};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{ContributionId, RoundNumber, RunId};
use crate::store::StoreError;
use crate::store::coordinator as tables;
use crate::store::database::Connection;
use crate::store::ledger::{self, Posting, Totals};
use crate::ui::{Align, Table};

/// Most postings printed with `--json`, the oldest first.
const MAX_POSTINGS: u32 = 1_000_000;

/// Digits of a contribution's id that are shown to people.
const SHORT_ID: usize = 12;

/// With `--json`, a peer's.
#[derive(Debug, Serialize)]
struct PeerLedger {
    side: &'static str,
    contributions: Vec<PeerRow>,
    totals: PeerTotals,
}

#[derive(Debug, Serialize)]
struct PeerRow {
    run: RunId,
    round: RoundNumber,
    contribution: ContributionId,
    state: String,
    /// What a person should know of: rewards that were lost or given back, rounds that were missed, and why.
    notes: Vec<String>,
    #[serde(flatten)]
    totals: PeerTotals,
}

/// With `--json`, a coordinator's.
#[derive(Debug, Serialize)]
struct CoordinatorLedger {
    side: &'static str,
    rounds: Vec<CoordinatorRow>,
    totals: Totals,
    postings: Vec<Posting>,
}

#[derive(Debug, Serialize)]
struct CoordinatorRow {
    round: RoundNumber,
    #[serde(flatten)]
    totals: Totals,
}

/// Runs the command.
pub fn run(args: &LedgerArgs, context: &Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let data = context.data_path("peer")?;
    let round = args.round.map(RoundNumber);
    if data.join(tables::FILE).exists() {
        let db = tables::look(&data).map_err(unreadable)?;
        show_coordinator(context, &db, round).map_err(unreadable)
    } else if journal_in(&data).exists() {
        show_peer(context, &data, round)
    } else {
        let message = format!("{} is not the data folder of a coordinator or a peer", data.display());
        Err(Failure::usage("no_ledger", message, "Name the folder with --data DIR"))
    }
}

fn unreadable(error: StoreError) -> Failure {
    Failure::usage("store", error, "Check the folder and the disk")
}

fn show_peer(context: &Context, data: &Path, round: Option<RoundNumber>) -> Result<Answer, Failure> {
    let failed = |error| Failure::usage("journal", error, "Check the folder and the disk");
    let journal = Journal::open_read_only(&journal_in(data)).map_err(failed)?;
    let entries = journal.entries().map_err(failed)?;
    let mut contributions = Vec::new();
    for entry in entries.iter().filter(|entry| round.is_none_or(|round| round == entry.round())) {
        contributions.push(PeerRow {
            run: entry.run(),
            round: entry.round(),
            contribution: entry.contribution,
            state: state(entry),
            notes: notes(entry, journal.notes(entry.contribution).map_err(failed)?),
            totals: journal.totals_of(entry.contribution).map_err(failed)?,
        });
    }
    let totals = PeerTotals::sum(contributions.iter().map(|row| row.totals));
    let mut table = Table::new(&[
        ("round", Align::Right),
        ("contribution", Align::Left),
        ("state", Align::Left),
        ("fee", Align::Right),
        ("routing", Align::Right),
        ("received", Align::Right),
    ]);
    for row in &contributions {
        let id = row.contribution.to_string().chars().take(SHORT_ID).collect();
        let amounts = amounts([row.totals.fees_msat, row.totals.routing_msat, row.totals.received_msat]);
        table.row([row.round.to_string(), id, row.state.clone()].into_iter().chain(amounts));
    }
    let sums = amounts([totals.fees_msat, totals.routing_msat, totals.received_msat]);
    table.row(["all".to_owned(), String::new(), String::new()].into_iter().chain(sums));
    table.lines().iter().for_each(|line| context.ui.line(line));
    for row in &contributions {
        row.notes.iter().for_each(|note| context.ui.line(format!("round {}: {note}", row.round)));
    }
    Ok(Answer::yes(PeerLedger { side: "peer", contributions, totals }))
}

fn amounts<const N: usize>(amounts: [Msat; N]) -> [String; N] {
    amounts.map(|amount| amount.to_string())
}

fn notes(entry: &Entry, given_back: Vec<(u32, String)>) -> Vec<String> {
    let mut notes: Vec<String> =
        given_back.into_iter().map(|(tranche, text)| format!("tranche {tranche}: {text}")).collect();
    match entry.stage.ending() {
        Some(Ending::Accepted { lost_msat, .. }) if *lost_msat > Msat::ZERO => {
            notes.push(format!("{lost_msat} were earned, and lost: the locks had ended before this peer could claim"));
        }
        Some(Ending::Missed { reason } | Ending::NoTicket { reason } | Ending::FeeUnpaid { reason }) => {
            notes.push(reason.clone())
        }
        Some(Ending::Accepted { .. } | Ending::Rejected { .. } | Ending::NotReached { .. }) | None => {}
    }
    notes
}

fn state(entry: &Entry) -> String {
    match &entry.stage {
        Stage::Closed(ending) => match ending {
            Ending::Accepted { .. } => "accepted",
            Ending::Rejected { .. } | Ending::NotReached { .. } => "rejected",
            Ending::FeeUnpaid { .. } => "fee unpaid",
            Ending::NoTicket { .. } => "no ticket",
            Ending::Missed { .. } => "missed",
        }
        .to_owned(),
        open => open.name().to_owned(),
    }
}

fn show_coordinator(context: &Context, db: &Connection, round: Option<RoundNumber>) -> Result<Answer, StoreError> {
    let mut rounds = Vec::new();
    for row in tables::rounds(db)? {
        let number = row.state.number;
        if round.is_none_or(|round| round == number) {
            rounds.push(CoordinatorRow { round: number, totals: ledger::totals(db, Some(number))? });
        }
    }
    let totals = ledger::totals(db, round)?;
    let mut table = Table::new(&[
        ("round", Align::Right),
        ("fees received", Align::Right),
        ("rewards paid", Align::Right),
        ("came back", Align::Right),
        ("still locked", Align::Right),
        ("routing", Align::Right),
    ]);
    let cells = |totals: &Totals| {
        amounts([
            totals.fees_received_msat,
            totals.rewards_settled_msat,
            totals.rewards_refunded_msat,
            totals.rewards_locked_msat,
            totals.routing_fees_msat,
        ])
    };
    for row in &rounds {
        table.row([row.round.to_string()].into_iter().chain(cells(&row.totals)));
    }
    table.row(["all".to_owned()].into_iter().chain(cells(&totals)));
    table.lines().iter().for_each(|line| context.ui.line(line));
    let postings = ledger::postings(db, round, MAX_POSTINGS)?;
    Ok(Answer::yes(CoordinatorLedger { side: "coordinator", rounds, totals, postings }))
}
