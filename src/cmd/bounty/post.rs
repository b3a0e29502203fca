//! `l402t bounty post` and `close`: the sponsor's side.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::super::{Answer, Context, ExitCode, Failure};
use super::check::{Checked, check};
use super::desk::{Bench, DATA, Workplace, client, refused, sat};
use super::list::plain;
use super::load_error;
use super::shell::word;
use crate::bounty::load::{Bounty, Extent};
use crate::bounty::manifest::{DemoOnly, FILE};
use crate::bounty::package;
use crate::cli::{BountyIdArgs, BountyPostArgs};
use crate::clock::{Clock as _, SystemClock};
use crate::coordinator::{Entropy as _, SystemEntropy};
use crate::http::client::CoordinatorClient;
use crate::peer::folder::DataFolder;
use crate::peer::identity;
use crate::peer::sponsor::record::{Posting as Posted, Record};
use crate::peer::sponsor::{Posted as Outcome, Sponsor, SponsorLimits};
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, PostRequest};
use crate::protocol::bounty::statements::{LONGEST_MS, Posting, Rules};
use crate::protocol::ids::{Blake3Hash, BountyId, PeerId};

/// The folder of all postings in the data folder.
const BOUNTIES: &str = "bounties";

#[derive(Debug, Serialize)]
struct Report<'a> {
    bounty: BountyId,
    phase: BountyPhase,
    why: Option<&'a str>,
    /// Locked now.
    locked_msat: Msat,
    /// Taken by the coordinator.
    taken_msat: Msat,
    /// Of that, back.
    paid_back_msat: Msat,
    /// Earned by agents, as the coordinator says.
    earned_msat: Msat,
    folder: &'a Path,
}

fn limits(context: &Context) -> Result<SponsorLimits, Failure> {
    let config = &context.config.bounty;
    Ok(SponsorLimits {
        max_budget: sat("[bounty] max_budget_sat", config.max_budget_sat)?,
        max_routing_fee: sat("[bounty] max_routing_fee_sat", config.max_routing_fee_sat)?,
        max_escrow_blocks: config.max_escrow_blocks,
    })
}

/// `post`.
pub(super) async fn post(args: &BountyPostArgs, context: &Context, scratch: &Path) -> Result<Answer, Failure> {
    let data = context.open_data(DATA)?;
    let limits = limits(context)?;
    let folder = args.folder.canonicalize().map_err(|error| Failure::io("read", &args.folder, &error))?;
    // Held from here on: two of these must not both make a posting.
    let owned = DataFolder::open(&data)?;
    let bounties = data.join(BOUNTIES);
    let record = match begun(&bounties, &folder)? {
        Some(record) => {
            context.ui.say(format!("going on with bounty {}", record.request().posting.body.bounty_id()));
            record
        }
        None => {
            let client = client(context, args.coordinator.as_deref())?;
            match new_posting(context, &client, &data, &folder, scratch, &limits).await? {
                Ok(posting) => Record::create(&bounties, posting)?,
                Err(answer) => return Ok(answer),
            }
        }
    };
    let client = client(context, Some(&record.posting().coordinator))?;
    let bounty = record.request().posting.body.bounty_id();
    let workplace = Workplace { context, client: &client, bounty, folder: owned };
    let work = async |Bench { parts, board }: Bench| Sponsor::new(parts, board, limits, record).post().await;
    let posted = workplace.work(work, async |client| Ok(client.bounties().await?.lightning)).await?;
    Ok(told(context, &posted, &folder))
}

/// An unfinished posting of the same folder. One that the coordinator never answered is forgotten: nothing was paid for it.
fn begun(bounties: &Path, folder: &Path) -> Result<Option<Record>, Failure> {
    for record in Record::unfinished(bounties)? {
        if record.posting().folder != folder {
            continue;
        }
        if record.answer()?.is_some() {
            return Ok(Some(record));
        }
        record.save_over()?;
    }
    Ok(None)
}

/// Checks the folder in this machine's boxes, and makes of it what will be sent.
async fn new_posting(
    context: &Context,
    client: &CoordinatorClient,
    data: &Path,
    folder: &Path,
    scratch: &Path,
    limits: &SponsorLimits,
) -> Result<Result<Posted, Answer>, Failure> {
    let board = client.bounties().await.map_err(refused("list its bounties"))?;
    let source = Path::new("the system's random source");
    let salt = SystemEntropy.bytes32().map_err(|error| Failure::io("read", source, &error))?;
    let (from, place, own) = (folder.to_owned(), scratch.to_owned(), context.clone());
    let network = board.lightning.network;
    let load = move || {
        let bounty = Bounty::load(&from, salt, Extent::Whole).map_err(load_error)?;
        if bounty.manifest.demo_only == DemoOnly::Yes && network == "bitcoin" {
            let message = "this bounty is marked demo_only: its held-out part is no secret";
            return Err(Failure::usage("demo_only", message, "Post it on regtest or signet"));
        }
        let checked = check(&bounty, &own, &place)?;
        let path = from.join(FILE);
        let toml = std::fs::read(&path).map_err(|error| Failure::io("read", &path, &error))?;
        Ok((bounty, checked, toml))
    };
    let (bounty, checked, toml) = context.blocking(load).await?;
    let rules = match checked {
        Checked { answer, rules: None } => return Ok(Err(answer)),
        Checked { rules: Some(rules), .. } => rules,
    };
    let longest = SystemClock.now().plus_ms(LONGEST_MS);
    if rules.deadline_ms > longest {
        context.ui.say("its deadline is far: this posting is for five days, and can be followed by another");
    }
    let rules = Rules { deadline_ms: rules.deadline_ms.min(longest), ..rules };
    if rules.budget_msat > limits.max_budget {
        let message = format!("its budget of {} is more than {}", rules.budget_msat, limits.max_budget);
        return Err(Failure::usage("budget", message, "Raise [bounty] max_budget_sat if that is fine with you"));
    }
    let coordinator = client.url().to_owned();
    let request = request(board.coordinator, &bounty, rules, &toml, data)?;
    Ok(Ok(Posted { folder: folder.to_owned(), coordinator, request }))
}

fn request(
    coordinator: PeerId,
    bounty: &Bounty,
    rules: Rules,
    toml: &[u8],
    data: &Path,
) -> Result<PostRequest, Failure> {
    let key = identity::load_or_create(data)?;
    let whole = || Failure::bug("a whole bounty has no held-out part");
    let part = bounty.held_out.as_ref().ok_or_else(whole)?;
    let package = package::encode(&package::of_bounty(bounty, toml));
    let posting = Posting {
        sponsor: key.id(),
        coordinator,
        title: bounty.manifest.title.clone(),
        rules,
        package: Blake3Hash::of(&package),
        baseline_tree: bounty.workspace.digest(),
        held_out: part.commitment(&bounty.salt).map_err(|error| Failure::bug(error.to_string()))?,
    };
    Ok(PostRequest {
        posting: key.sign(posting),
        package: STANDARD.encode(&package),
        held_out: STANDARD.encode(package::encode(&package::of_part(part))),
        held_out_salt: bounty.salt,
    })
}

/// `close`.
pub(super) async fn close(args: &BountyIdArgs, context: &Context) -> Result<Answer, Failure> {
    let data = context.open_data(DATA)?;
    let Some(record) = Record::read(&data.join(BOUNTIES), args.bounty)? else {
        let message = format!("bounty {} was not posted from {}", args.bounty, data.display());
        return Err(Failure::usage(
            "not_the_sponsor",
            message,
            "Name the data folder that it was posted with: --data DIR",
        ));
    };
    let limits = limits(context)?;
    // What was locked under another limit has to come back all the same.
    let budget = record.request().posting.body.rules.budget_msat;
    let limits = SponsorLimits { max_budget: limits.max_budget.max(budget), ..limits };
    let client = client(context, args.coordinator.as_deref().or(Some(&record.posting().coordinator)))?;
    let folder: PathBuf = record.posting().folder.clone();
    let workplace = Workplace { context, client: &client, bounty: args.bounty, folder: DataFolder::open(&data)? };
    let work = async |Bench { parts, board }: Bench| Sponsor::new(parts, board, limits, record).close().await;
    let closed = workplace.work(work, async |client| Ok(client.bounty(args.bounty).await?.lightning)).await?;
    Ok(told(context, &closed, &folder))
}

fn told(context: &Context, posted: &Outcome, folder: &Path) -> Answer {
    let Outcome { view, locked_msat, taken_msat, paid_back_msat } = posted;
    context.ui.line(format!("{}  {}", view.bounty, view.phase.name()));
    context.ui.line(format!("  {locked_msat} locked, {taken_msat} taken, {paid_back_msat} of that paid back"));
    if let Some(why) = &view.why {
        context.ui.line(format!("  {}", plain(why)));
    }
    answer(posted, folder)
}

/// What a program is to make of it.
fn answer(posted: &Outcome, folder: &Path) -> Answer {
    let Outcome { view, locked_msat, taken_msat, paid_back_msat } = posted;
    let bounty = view.bounty;
    let report = Report {
        bounty,
        phase: view.phase,
        why: view.why.as_deref(),
        locked_msat: *locked_msat,
        taken_msat: *taken_msat,
        paid_back_msat: *paid_back_msat,
        earned_msat: view.paid_msat,
        folder,
    };
    let why = view.why.as_deref().unwrap_or("no reason was given");
    // What this node says is locked is, whatever the coordinator says of the bounty.
    let is_back = *locked_msat == Msat::ZERO && view.surplus_msat <= *paid_back_msat;
    let close = format!("l402t bounty close {bounty}");
    let later = |code, message: &str| {
        let fix = "Nothing is lost: the same command goes on with it";
        Failure::new(ExitCode::Remote, code, message, fix)
    };
    match view.phase {
        BountyPhase::Open => Answer::yes(report).then(format!("l402t bounty show {bounty}")).then(close),
        BountyPhase::Closed if !is_back => {
            let failure = later("not_paid_back_yet", "what nobody earned has not come back yet");
            Answer::no(report, failure).then(close)
        }
        BountyPhase::Closed => Answer::yes(report).then("l402t bounty list"),
        BountyPhase::Refused if !is_back => {
            let fix = format!(
                "{locked_msat} of the budget are still locked, and of {taken_msat} that were taken {paid_back_msat} are back: \
                 `{close}` waits for the rest"
            );
            Answer::no(report, Failure::negative("refused", why, fix)).then(close)
        }
        BountyPhase::Refused => {
            let fix = "The budget is back. Mend the folder, then post it again";
            Answer::no(report, Failure::negative("refused", why, fix))
                .then(format!("l402t bounty check {}", word(folder)))
        }
        BountyPhase::Closing => {
            Answer::no(report, later("not_closed_yet", "what is under way is being decided")).then(close)
        }
        BountyPhase::AwaitingEscrow | BountyPhase::Checking => {
            let failure = later("not_open_yet", "the coordinator has not opened it yet");
            Answer::no(report, failure).then(format!("l402t bounty post {}", word(folder)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::bounties::bounty_view;
    use crate::protocol::api::BountyView;

    fn outcome(phase: BountyPhase, locked: u64, surplus: u64) -> Outcome {
        let view =
            BountyView { phase, surplus_msat: Msat::new(surplus), why: Some("it won't".into()), ..bounty_view() };
        let (taken_msat, paid_back_msat) = (Msat::new(surplus), Msat::ZERO);
        Outcome { view, locked_msat: Msat::new(locked), taken_msat, paid_back_msat }
    }

    #[test]
    fn the_budget_is_said_to_be_back_only_once_this_node_holds_nothing_for_it() {
        for (locked, surplus) in [(5_000, 0), (0, 5_000)] {
            for phase in [BountyPhase::Refused, BountyPhase::Closed] {
                let posted = outcome(phase, locked, surplus);
                let answer = answer(&posted, Path::new("logs"));
                let failure = answer.error.expect("it isn't over");
                assert!(!failure.fix.contains("is back"), "{failure:?}");
                assert_eq!(answer.next_actions, [format!("l402t bounty close {}", posted.view.bounty)]);
            }
        }
        let refused = answer(&outcome(BountyPhase::Refused, 0, 0), Path::new("logs"));
        assert!(refused.error.is_some_and(|failure| failure.fix.contains("is back")));
        assert!(answer(&outcome(BountyPhase::Closed, 0, 0), Path::new("logs")).error.is_none());
    }
}
