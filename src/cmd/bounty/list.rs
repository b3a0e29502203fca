//! `l402t bounty list`, `show` and `watch`: what there is to earn.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::super::{Answer, Context, Failure};
use super::desk::{client, look, refused, sat};
use crate::bounty::manifest::{DemoOnly, FILE, Manifest};
use crate::bounty::package;
use crate::cli::{BountyIdArgs, BountyListArgs, BountyWatchArgs};
use crate::http::client::CoordinatorClient;
use crate::peer::{check_bounty, phase_name};
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView};
use crate::protocol::bounty::pay::Direction;
use crate::protocol::bounty::score::Score;
use crate::protocol::ids::{BountyId, PeerId, UnixMs};

/// A bounty, in its own units. Scores are decimal numbers in strings, so that no reader rounds them.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    bounty: BountyId,
    title: &'a str,
    phase: BountyPhase,
    why: Option<&'a str>,
    direction: Direction,
    baseline: String,
    target: String,
    best: String,
    least_claim: Option<String>,
    budget_msat: Msat,
    /// What a claim of the target would pay now.
    left_msat: Msat,
    paid_msat: Msat,
    fee_msat: Msat,
    submissions: u32,
    submission_cap: u32,
    deadline_ms: UnixMs,
    sponsor: PeerId,
    coordinator: PeerId,
}

impl<'a> Row<'a> {
    pub(super) fn of(view: &'a BountyView) -> Self {
        let posting = &view.manifest.body.posting.body;
        let rules = &posting.rules;
        let shown = |score: Score| score.shown(rules.decimals).to_string();
        Self {
            bounty: view.bounty,
            title: &posting.title,
            phase: view.phase,
            why: view.why.as_deref(),
            direction: rules.direction,
            baseline: shown(rules.baseline),
            target: shown(rules.target),
            best: shown(view.best),
            least_claim: view.least_claim.map(shown),
            budget_msat: rules.budget_msat,
            left_msat: left(view),
            paid_msat: view.paid_msat,
            fee_msat: rules.fee_msat,
            submissions: view.submissions,
            submission_cap: rules.submission_cap,
            deadline_ms: rules.deadline_ms,
            sponsor: posting.sponsor,
            coordinator: posting.coordinator,
        }
    }

    fn show(&self, context: &Context) {
        let Self { bounty, title, best, target, left_msat, fee_msat, .. } = self;
        context.ui.line(format!("{bounty}  {}", phase_name(self.phase)));
        context.ui.line(format!("  {}", plain(title)));
        let least = self.least_claim.as_deref().unwrap_or("none");
        context
            .ui
            .line(format!("  best {best}, target {target}, least claim {least}; {left_msat} left, fee {fee_msat}"));
    }
}

/// A sponsor's words must not move a terminal's cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

fn left(view: &BountyView) -> Msat {
    let rules = &view.manifest.body.posting.body.rules;
    rules.scale().map_or(Msat::ZERO, |scale| scale.payout(rules.budget_msat, rules.target, view.best))
}

/// Those whose statements are true; of the others nothing is believed.
async fn bounties(client: &CoordinatorClient) -> Result<Vec<BountyView>, Failure> {
    let list = client.bounties().await.map_err(refused("list its bounties"))?;
    let mut views = Vec::new();
    for view in list.bounties {
        match check_bounty(&view) {
            Ok(_) => views.push(view),
            Err(error) => tracing::warn!(bounty = %view.bounty, %error, "left out"),
        }
    }
    Ok(views)
}

/// `list`.
pub(super) async fn list(args: &BountyListArgs, context: &Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let views = bounties(&client(context, args.coordinator.as_ref())?).await?;
    let rows: Vec<Row<'_>> = views.iter().map(Row::of).collect();
    rows.iter().for_each(|row| row.show(context));
    if rows.is_empty() {
        context.ui.line("no bounties");
    }
    let open = rows.iter().filter(|row| row.phase == BountyPhase::Open);
    let actions: Vec<String> = open.map(|row| format!("l402t bounty claim {}", row.bounty)).collect();
    let answer = Answer::yes(serde_json::json!({ "bounties": rows }));
    Ok(actions.into_iter().fold(answer, Answer::then))
}

/// `show`.
pub(super) async fn show(args: &BountyIdArgs, context: &Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let view = look(&client(context, args.coordinator.as_ref())?, args.bounty).await?;
    let row = Row::of(&view);
    row.show(context);
    context.ui.line(format!("  {} of {} submissions, {} paid", row.submissions, row.submission_cap, row.paid_msat));
    if let Some(why) = row.why {
        context.ui.line(format!("  {}", plain(why)));
    }
    let answer = Answer::yes(&row);
    Ok(match view.phase {
        BountyPhase::Open => answer.then(format!("l402t bounty claim {}", view.bounty)),
        BountyPhase::AwaitingEscrow
        | BountyPhase::Checking
        | BountyPhase::Closing
        | BountyPhase::Closed
        | BountyPhase::Refused => answer.then("l402t bounty list"),
    })
}

/// What `watch` writes for each bounty.
#[derive(Debug, Serialize)]
struct Found<'a> {
    event: &'static str,
    #[serde(flatten)]
    row: Row<'a>,
}

/// `watch`.
pub(super) async fn watch(args: &BountyWatchArgs, context: &Context, scratch: &Path) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let client = client(context, args.coordinator.as_ref())?;
    let least = sat("--min-reward-sat", args.min_reward_sat)?;
    let most_fee = sat("--max-fee-sat", args.max_fee_sat.unwrap_or(context.config.bounty.max_fee_sat))?;
    let (mut told, mut out) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let views = match bounties(&client).await {
            Ok(views) => views,
            Err(error) if args.once => return Err(error),
            Err(error) => {
                context.ui.say(format!("{error}; looking again"));
                Vec::new()
            }
        };
        for view in views {
            let rules = &view.manifest.body.posting.body.rules;
            let fits = view.phase == BountyPhase::Open && left(&view) >= least && rules.fee_msat <= most_fee;
            if !fits || told.contains(&view.bounty) || out.contains(&view.bounty) {
                continue;
            }
            if args.no_demo && is_demo(&client, &view, scratch).await? {
                out.insert(view.bounty);
                continue;
            }
            told.insert(view.bounty);
            let row = Row::of(&view);
            row.show(context);
            context.ui.json(&Found { event: "bounty", row });
        }
        if args.once {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(args.every)) => {}
            () = context.stop.requested() => break,
        }
    }
    let actions: Vec<String> = told.iter().map(|bounty| format!("l402t bounty claim {bounty}")).collect();
    Ok(actions.into_iter().fold(Answer::yes(serde_json::json!({ "found": told })), Answer::then))
}

/// Only the package says.
async fn is_demo(client: &CoordinatorClient, view: &BountyView, scratch: &Path) -> Result<bool, Failure> {
    let hash = view.manifest.body.posting.body.package;
    let path = scratch.join(hash.to_string());
    let fetched = client.of_bounty(view.bounty).fetch_blob(hash, &path, |_| {}).await;
    fetched.map_err(refused("download the package"))?;
    let bytes = std::fs::read(&path).map_err(|error| Failure::io("read", &path, &error))?;
    // It isn't needed again.
    let _ = std::fs::remove_file(&path);
    let toml = package::decode(&bytes).ok().and_then(|tree| tree.get(FILE).map(|file| file.content.clone()));
    let manifest = toml.and_then(|toml| Manifest::parse(std::str::from_utf8(&toml).ok()?).ok());
    // What can't be read is no bounty for money either.
    Ok(manifest.is_none_or(|manifest| manifest.demo_only == DemoOnly::Yes))
}
