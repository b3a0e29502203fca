//! `l402t bounty status` and `withdraw`: what was submitted, and what becomes of what is under way.

use std::path::Path;

use super::super::{Answer, Context, ExitCode, Failure};
use super::claimed::Note;
use super::desk::{Bench, DATA, Workplace, client};
use super::joined;
use super::submit::Report;
use crate::cli::{BountyIdArgs, BountyStatusArgs};
use crate::peer::error::PeerError;
use crate::peer::folder::{DataFolder, journal_in};
use crate::peer::journal::Journal;
use crate::peer::stage::Entry;
use crate::peer::submit::{Submitted, Withdrawal};
use crate::protocol::ids::BountyId;

/// Every submission in the journal, with where its bounty is.
fn submissions(data: &Path, bounty: Option<BountyId>) -> Result<Vec<(Entry, Note, Submitted)>, Failure> {
    if !journal_in(data).exists() {
        return Ok(Vec::new());
    }
    let journal = Journal::open_read_only(&journal_in(data)).map_err(PeerError::from)?;
    let mut found = Vec::new();
    for entry in journal.entries().map_err(PeerError::from)? {
        let Some(note) = joined::find(data, entry.run())? else { continue };
        if bounty.is_some_and(|bounty| bounty != note.bounty) {
            continue;
        }
        let submitted = Submitted {
            contribution: entry.contribution,
            round: entry.round(),
            claim: entry.commitment.body.claim,
            ending: entry.stage.ending().cloned(),
            totals: journal.totals_of(entry.contribution).map_err(PeerError::from)?,
            earlier: entry.stage.is_closed(),
        };
        found.push((entry, note, submitted));
    }
    Ok(found)
}

/// Where the bounties with unfinished submissions are, each once.
fn unfinished(found: &[(Entry, Note, Submitted)]) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for (entry, note, _) in found {
        if !entry.stage.is_closed() && notes.iter().all(|known| known.bounty != note.bounty) {
            notes.push(note.clone());
        }
    }
    notes
}

/// `status`.
pub(super) async fn status(args: &BountyStatusArgs, context: &Context) -> Result<Answer, Failure> {
    let data = context.open_data(DATA)?;
    let mut silent = None;
    for note in answering_first(unfinished(&submissions(&data, args.bounty)?), context).await? {
        context.ui.say(format!("going on with bounty {}", note.bounty));
        match go_on(&note, &data, context).await {
            Ok(()) => {}
            // Others may be at a coordinator that answers.
            Err(failure) if failure.exit == ExitCode::Remote => {
                context.ui.say(format!("bounty {} waits: {failure}", note.bounty));
                silent.get_or_insert(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    let found = submissions(&data, args.bounty)?;
    let reports: Vec<Report> = found
        .iter()
        .map(|(entry, note, submitted)| {
            let decimals = note.manifest.body.posting.body.rules.decimals;
            let report = Report::of(note.bounty, submitted, decimals);
            if entry.stage.is_closed() { report } else { report.at(entry.stage.name()) }
        })
        .collect();
    for report in &reports {
        context.ui.line(format!("{}  {}", report.bounty.short(), report.line()));
    }
    if reports.is_empty() {
        context.ui.line("nothing was submitted");
    }
    let result = serde_json::json!({ "submissions": reports });
    let answer = match silent {
        None => Answer::yes(result),
        Some(failure) => Answer::no(result, failure),
    };
    let open = unfinished(&found);
    Ok(open.iter().fold(answer, |answer, note| answer.then(format!("l402t bounty status {}", note.bounty))))
}

/// Those whose coordinator doesn't answer come last: for as long as something is held for one, it is guarded and waited for.
async fn answering_first(notes: Vec<Note>, context: &Context) -> Result<Vec<Note>, Failure> {
    if notes.len() < 2 {
        return Ok(notes);
    }
    let (mut answering, mut silent) = (Vec::new(), Vec::new());
    for note in notes {
        let answer = client(context, Some(&note.coordinator))?.bounty(note.bounty).await;
        if answer.is_ok() { answering.push(note) } else { silent.push(note) }
    }
    answering.append(&mut silent);
    Ok(answering)
}

/// Carries on what is under way at one bounty.
async fn go_on(note: &Note, data: &Path, context: &Context) -> Result<(), Failure> {
    let client = client(context, Some(&note.coordinator))?;
    let workplace = Workplace { context, client: &client, bounty: note.bounty, folder: DataFolder::open(data)? };
    let work = async |bench: Bench| bench.submitter(note).await?.go_on().await;
    workplace.work(work, async |client| Ok(client.bounty(note.bounty).await?.lightning)).await?;
    Ok(())
}

/// `withdraw`.
pub(super) async fn withdraw(args: &BountyIdArgs, context: &Context) -> Result<Answer, Failure> {
    let data = context.open_data(DATA)?;
    let notes = unfinished(&submissions(&data, Some(args.bounty))?);
    let Some(note) = notes.first() else {
        let message = format!("nothing is under way at bounty {}", args.bounty);
        return Err(Failure::negative("nothing_to_withdraw", message, "See `l402t bounty status`"));
    };
    let client = client(context, args.coordinator.as_deref().or(Some(&note.coordinator)))?;
    let workplace = Workplace { context, client: &client, bounty: args.bounty, folder: DataFolder::open(&data)? };
    let work = async |bench: Bench| bench.submitter(note).await?.withdraw().await;
    let withdrawn = workplace.work(work, async |client| Ok(client.bounty(args.bounty).await?.lightning)).await?;
    let decimals = note.manifest.body.posting.body.rules.decimals;
    let (mut reports, mut refused) = (Vec::new(), None);
    for withdrawal in withdrawn {
        match withdrawal {
            Withdrawal::Done(submitted) => {
                let report = Report::of(args.bounty, &submitted, decimals);
                context.ui.line(report.line());
                reports.push(report);
            }
            Withdrawal::Refused { contribution, why } => {
                context.ui.line(format!("{contribution} goes on: {why}"));
                refused = Some(Failure::negative("can_not_withdraw", why, "Wait for it: l402t bounty status"));
            }
        }
    }
    let result = serde_json::json!({ "withdrawn": reports });
    Ok(match refused {
        None => Answer::yes(result).then(format!("l402t bounty show {}", args.bounty)),
        Some(why) => Answer::no(result, why).then(format!("l402t bounty status {}", args.bounty)),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cli::GlobalArgs;
    use crate::cmd::Stop;
    use crate::config::{Config, Environment};
    use crate::http::server::{Limits, Server, Services, Settings, TrustedProxies};
    use crate::http::testing::bounties::{FakeBoard, bounty_view};
    use crate::ui::{Format, Ui};

    #[tokio::test]
    async fn a_bounty_whose_coordinator_answers_does_not_wait_for_one_that_is_silent() {
        let services = Services { training: None, board: Some(Arc::new(FakeBoard::new())) };
        let settings = Settings { limits: Limits::default(), proxies: TrustedProxies::default() };
        let server = Server::start("127.0.0.1:0".parse().expect("an address"), services, settings).await.expect("free");
        let answers = format!("http://{}", server.address());
        let view = bounty_view();
        let note = |coordinator: &str| Note {
            coordinator: coordinator.to_owned(),
            bounty: view.bounty,
            manifest: view.manifest.clone(),
        };
        let global = GlobalArgs { json: false, config: None, data: None, log: None };
        let environment = Environment::of_process();
        let context = Context::new(Ui::new(Format::Text), Config::default(), environment, global, Stop::new());
        let notes = vec![note("http://127.0.0.1:1"), note(&answers)];
        let order = answering_first(notes, &context).await.expect("URLs");
        assert_eq!(
            order.iter().map(|note| note.coordinator.as_str()).collect::<Vec<_>>(),
            [answers.as_str(), "http://127.0.0.1:1"]
        );
        server.stop().await;
    }
}
