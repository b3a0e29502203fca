//! `l402t bounty list`, `show` and `watch`: what there is to earn.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::super::{Answer, Context, Failure};
use super::desk::{client, look, refused, sat};
use crate::cli::{BountyIdArgs, BountyListArgs, BountyWatchArgs};
use crate::http::client::CoordinatorClient;
use crate::peer::check_bounty;
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
    /// What `claim` pays for its package.
    package_fee_msat: Msat,
    demo_only: bool,
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
            package_fee_msat: view.package_fee_msat,
            demo_only: view.demo_only,
            submissions: view.submissions,
            submission_cap: rules.submission_cap,
            deadline_ms: rules.deadline_ms,
            sponsor: posting.sponsor,
            coordinator: posting.coordinator,
        }
    }

    fn show(&self, context: &Context) {
        let Self { bounty, title, best, target, left_msat, fee_msat, package_fee_msat, .. } = self;
        context.ui.line(format!("{bounty}  {}", self.phase.name()));
        context.ui.line(format!("  {}", plain(title)));
        let least = self.least_claim.as_deref().unwrap_or("none");
        context.ui.line(format!(
            "  best {best}, target {target}, least claim {least}; {left_msat} left, fee {fee_msat}, package {package_fee_msat}"
        ));
    }
}

/// A sponsor's words must not move a terminal's cursor, turn a line round, or hide in it.
pub(in crate::cmd) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_unseen(c) { ' ' } else { c }).take(200).collect()
}

/// Unicode's marks of direction, joiners, fillers and tags.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{e0000}'..='\u{e007f}')
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
    let views = bounties(&client(context, args.coordinator.as_deref())?).await?;
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
    let view = look(&client(context, args.coordinator.as_deref())?, args.bounty).await?;
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

/// What `watch` looks for, and what it has told of.
struct Search {
    client: CoordinatorClient,
    least: Msat,
    most_fee: Msat,
    /// Are those told of that are marked demo_only?
    demos: bool,
    told: BTreeSet<BountyId>,
}

impl Search {
    /// The bounties that fit, and were not told of yet.
    async fn look(&mut self) -> Result<Vec<BountyView>, Failure> {
        let mut found = bounties(&self.client).await?;
        found.retain(|view| {
            let rules = &view.manifest.body.posting.body.rules;
            let fits = view.phase == BountyPhase::Open && left(view) >= self.least && rules.fee_msat <= self.most_fee;
            fits && (self.demos || !view.demo_only) && self.told.insert(view.bounty)
        });
        Ok(found)
    }
}

/// `watch`.
pub(super) async fn watch(args: &BountyWatchArgs, context: &Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let mut search = Search {
        client: client(context, args.coordinator.as_deref())?,
        least: sat("--min-reward-sat", args.min_reward_sat)?,
        most_fee: sat("--max-fee-sat", args.max_fee_sat.unwrap_or(context.config.bounty.max_fee_sat))?,
        demos: !args.no_demo,
        told: BTreeSet::new(),
    };
    loop {
        match search.look().await {
            Ok(found) => {
                for view in &found {
                    let row = Row::of(view);
                    row.show(context);
                    context.ui.json(&Found { event: "bounty", row });
                }
            }
            Err(error) if args.once => return Err(error),
            Err(error) => context.ui.say(format!("{error}; looking again")),
        }
        if args.once {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(args.every)) => {}
            () = context.stop.requested() => break,
        }
    }
    let actions: Vec<String> = search.told.iter().map(|bounty| format!("l402t bounty claim {bounty}")).collect();
    Ok(actions.into_iter().fold(Answer::yes(serde_json::json!({ "found": search.told })), Answer::then))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::server::{Limits, Server, Services, Settings, TrustedProxies};
    use crate::http::testing::bounties::{FakeBoard, bounty_view};

    #[test]
    fn a_sponsors_words_are_shown_as_they_read() {
        assert_eq!(plain("Größer,\u{1b}[2J \u{202e}sats 000,1\u{feff}\n"), "Größer, [2J  sats 000,1  ");
        assert_eq!(plain(&"x".repeat(300)).len(), 200);
    }

    #[tokio::test]
    async fn a_bounty_is_told_of_once_and_only_if_it_fits() {
        let services = Services { training: None, board: Some(Arc::new(FakeBoard::new())) };
        let settings = Settings { limits: Limits::default(), proxies: TrustedProxies::default() };
        let server = Server::start("127.0.0.1:0".parse().expect("an address"), services, settings).await.expect("free");
        let client = CoordinatorClient::new(&format!("http://{}", server.address())).expect("a URL");
        let fee = bounty_view().manifest.body.posting.body.rules.fee_msat;
        let mut search = Search { client, least: Msat::MAX_MONEY, most_fee: fee, demos: false, told: BTreeSet::new() };
        let found = async |search: &mut Search| search.look().await.expect("the list is there").len();
        assert_eq!(found(&mut search).await, 0, "it pays too little");
        search.least = Msat::ZERO;
        search.most_fee = Msat::ZERO;
        assert_eq!(found(&mut search).await, 0, "it costs too much");
        search.most_fee = fee;
        assert_eq!(found(&mut search).await, 1);
        assert_eq!(found(&mut search).await, 0, "told once");
        server.stop().await;
    }
}
