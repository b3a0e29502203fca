//! `l402t ledger`: every msat of a coordinator's or a peer's data folder, also while that is at work.

use std::path::Path;

use serde::Serialize;

use super::bounty::list::plain;
use super::{Answer, Context, Failure};
use crate::cli::LedgerArgs;
use crate::fetch::{Bought, FetchError, purchases};
use crate::peer::folder::{journal_in, packages_in};
use crate::peer::journal::{Journal, JournalError, Totals as PeerTotals};
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
    /// Packages of bounties, and what `l402t fetch` paid for.
    purchases: Vec<Bought>,
    totals: Sums,
}

/// What came in and went out of a peer's wallet.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sums {
    /// Submission fees.
    fees_msat: Msat,
    /// What was bought by L402 beside them: packages of bounties, downloads.
    purchases_msat: Msat,
    /// Routing on top of both.
    routing_msat: Msat,
    /// Rewards.
    received_msat: Msat,
}

impl Sums {
    pub(super) fn new(totals: PeerTotals, purchases: &[Bought]) -> Self {
        let sum = |amounts: &mut dyn Iterator<Item = Msat>| Msat::checked_sum(amounts).unwrap_or(Msat::MAX_MONEY);
        let paid = || purchases.iter().filter(|bought| bought.is_paid);
        let routing = sum(&mut paid().map(|bought| bought.routing_msat));
        Self {
            fees_msat: totals.fees_msat,
            purchases_msat: sum(&mut paid().map(|bought| bought.amount_msat)),
            routing_msat: totals.routing_msat.checked_add(routing).unwrap_or(Msat::MAX_MONEY),
            received_msat: totals.received_msat,
        }
    }
}

/// What a peer's data folder has bought by L402, or may have.
pub(super) fn bought(data: &Path) -> Result<Vec<Bought>, Failure> {
    let mut all = Vec::new();
    for folder in [packages_in(data), data.join(super::fetch::FOLDER)] {
        all.extend(purchases(&folder).map_err(FetchError::from)?);
    }
    Ok(all)
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
    } else if journal_in(&data).exists() || !bought(&data)?.is_empty() {
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
    let contributions = match journal_in(data) {
        journal if journal.exists() => {
            let failed = |error| Failure::usage("journal", error, "Check the folder and the disk");
            contributions(&journal, round).map_err(failed)?
        }
        _ => Vec::new(),
    };
    // No round's own.
    let purchases = if round.is_none() { bought(data)? } else { Vec::new() };
    let totals = Sums::new(PeerTotals::sum(contributions.iter().map(|row| row.totals)), &purchases);
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
    for bought in &purchases {
        let state = if bought.is_paid { "bought" } else { "being paid" };
        let what = bought.path.rsplit('/').find(|part| part.len() > SHORT_ID).unwrap_or(&bought.path);
        let what = plain(&what.chars().take(SHORT_ID).collect::<String>());
        let amounts = amounts([bought.amount_msat, bought.routing_msat, Msat::ZERO]);
        table.row([String::new(), what, state.to_owned()].into_iter().chain(amounts));
    }
    let spent = totals.fees_msat.checked_add(totals.purchases_msat).unwrap_or(Msat::MAX_MONEY);
    let sums = amounts([spent, totals.routing_msat, totals.received_msat]);
    table.row(["all".to_owned(), String::new(), String::new()].into_iter().chain(sums));
    table.lines().iter().for_each(|line| context.ui.line(line));
    for row in &contributions {
        row.notes.iter().for_each(|note| context.ui.line(format!("round {}: {note}", row.round)));
    }
    Ok(Answer::yes(PeerLedger { side: "peer", contributions, purchases, totals }))
}

fn contributions(journal: &Path, round: Option<RoundNumber>) -> Result<Vec<PeerRow>, JournalError> {
    let journal = Journal::open_read_only(journal)?;
    let entries = journal.entries()?;
    let rows = entries.iter().filter(|entry| round.is_none_or(|round| round == entry.round())).map(|entry| {
        Ok(PeerRow {
            run: entry.run(),
            round: entry.round(),
            contribution: entry.contribution,
            state: state(entry),
            notes: notes(entry, journal.notes(entry.contribution)?),
            totals: journal.totals_of(entry.contribution)?,
        })
    });
    rows.collect()
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
        ("packages sold", Align::Right),
        ("rewards paid", Align::Right),
        ("came back", Align::Right),
        ("still locked", Align::Right),
        ("routing", Align::Right),
    ]);
    let cells = |totals: &Totals| {
        amounts([
            totals.fees_received_msat,
            totals.packages_sold_msat,
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
