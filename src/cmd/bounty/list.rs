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
        context.ui.line(format!("{bounty}  {}", self.phase.name()));
        context.ui.line(format!("  {}", plain(title)));
        let least = self.least_claim.as_deref().unwrap_or("none");
        context
            .ui
            .line(format!("  best {best}, target {target}, least claim {least}; {left_msat} left, fee {fee_msat}"));
    }
}

/// A sponsor's words must not move a terminal's cursor, turn a line round, or hide in it.
pub(super) fn plain(text: &str) -> String {
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

/// What `watch` looks for, and what it has seen of it.
struct Search<'a> {
    client: CoordinatorClient,
    least: Msat,
    most_fee: Msat,
    /// Where packages are put, if those that are marked demo_only are left out.
    packages: Option<&'a Path>,
    told: BTreeSet<BountyId>,
    out: BTreeSet<BountyId>,
}

impl Search<'_> {
    /// The bounties that fit, and were not told of yet; and what was left out for now, and why.
    async fn look(&mut self) -> Result<(Vec<BountyView>, Vec<String>), Failure> {
        let (mut found, mut put_off) = (Vec::new(), Vec::new());
        for view in bounties(&self.client).await? {
            let rules = &view.manifest.body.posting.body.rules;
            let fits = view.phase == BountyPhase::Open && left(&view) >= self.least && rules.fee_msat <= self.most_fee;
            if !fits || self.told.contains(&view.bounty) || self.out.contains(&view.bounty) {
                continue;
            }
            let is_demo = match self.packages {
                Some(scratch) => is_demo(&self.client, &view, scratch).await,
                None => Ok(false),
            };
            match is_demo {
                Ok(false) => {
                    self.told.insert(view.bounty);
                    found.push(view);
                }
                Ok(true) => {
                    self.out.insert(view.bounty);
                }
                // One package that can't be had keeps nobody from the others; it is looked at again.
                Err(failure) => put_off.push(format!("bounty {} is left out for now: {failure}", view.bounty)),
            }
        }
        Ok((found, put_off))
    }
}

/// `watch`.
pub(super) async fn watch(args: &BountyWatchArgs, context: &Context, scratch: &Path) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let mut search = Search {
        client: client(context, args.coordinator.as_deref())?,
        least: sat("--min-reward-sat", args.min_reward_sat)?,
        most_fee: sat("--max-fee-sat", args.max_fee_sat.unwrap_or(context.config.bounty.max_fee_sat))?,
        packages: args.no_demo.then_some(scratch),
        told: BTreeSet::new(),
        out: BTreeSet::new(),
    };
    loop {
        match search.look().await {
            Ok((found, put_off)) => {
                put_off.iter().for_each(|why| context.ui.say(why));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::server::{Limits, Server, Services, Settings, TrustedProxies};
    use crate::http::testing::bounties::{FakeBoard, bounty_id};

    #[test]
    fn a_sponsors_words_are_shown_as_they_read() {
        assert_eq!(plain("Größer,\u{1b}[2J \u{202e}sats 000,1\u{feff}\n"), "Größer, [2J  sats 000,1  ");
        assert_eq!(plain(&"x".repeat(300)).len(), 200);
    }

    #[tokio::test]
    async fn a_package_that_can_not_be_had_keeps_nobody_from_the_other_bounties() {
        let board = Arc::new(FakeBoard::new());
        let services = Services { training: None, board: Some(board) };
        let settings = Settings { limits: Limits::default(), proxies: TrustedProxies::default() };
        let server = Server::start("127.0.0.1:0".parse().expect("an address"), services, settings).await.expect("free");
        let scratch = tempfile::tempdir().expect("a folder");
        let mut search = Search {
            client: CoordinatorClient::new(&format!("http://{}", server.address())).expect("a URL"),
            least: Msat::ZERO,
            most_fee: Msat::MAX_MONEY,
            packages: Some(scratch.path()),
            told: BTreeSet::new(),
            out: BTreeSet::new(),
        };
        // The fake has no packages.
        let (found, put_off) = search.look().await.expect("the list is there");
        assert!(found.is_empty() && put_off.len() == 1 && put_off[0].contains(&bounty_id().to_string()), "{put_off:?}");
        // It is not given up for that.
        search.packages = None;
        assert_eq!(search.look().await.expect("the list is there").0.len(), 1);
        assert!(search.look().await.expect("the list is there").0.is_empty(), "told once");
        server.stop().await;
    }
}
