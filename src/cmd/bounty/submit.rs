//! `l402t bounty submit`: a change and what it is said to score, until the verdict and the money are here.

use std::path::Path;

use serde::Serialize;

use super::super::{Answer, Context, Failure};
use super::approve::{Approve, Asking, Order, Quote};
use super::claimed::{self, Change, Claimed};
use super::desk::{Bench, DATA, Workplace, client};
use super::joined;
use super::list::plain;
use crate::cli::BountySubmitArgs;
use crate::peer::folder::DataFolder;
use crate::peer::stage::Ending;
use crate::peer::submit::{Repeat, Submission, Submitted};
use crate::protocol::amount::Msat;
use crate::protocol::bounty::payload;
use crate::protocol::bounty::score::{Decimals, Score};
use crate::protocol::bounty::verdict::Rejection;
use crate::protocol::ids::{Blake3Hash, BountyId, ContributionId, RoundNumber};

/// How far a submission is, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Paid.
    Reached,
    /// Judged, and not paid.
    Rejected,
    /// The receipt is awaited.
    Waiting,
    /// Under way: the stage's name.
    UnderWay(&'static str),
    /// The fee could not be paid.
    FeeUnpaid,
    /// The fee is spent, and there is no ticket.
    NoTicket,
    /// It never came to a verdict.
    Missed,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            State::Reached => "reached",
            State::Rejected => "rejected",
            State::Waiting => "waiting",
            State::UnderWay(stage) => stage,
            State::FeeUnpaid => "fee_unpaid",
            State::NoTicket => "no_ticket",
            State::Missed => "missed",
        }
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A submission. Scores are decimal numbers in strings, so that no reader rounds them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) bounty: BountyId,
    contribution: ContributionId,
    round: RoundNumber,
    claim: Option<String>,
    /// `reached`, `rejected`, `waiting`, or how it ended without a verdict: `fee_unpaid`, `no_ticket`, `missed`; while it is under
    /// way how far it is.
    state: State,
    /// Why it was rejected.
    reason: Option<Rejection>,
    /// For people.
    detail: Option<String>,
    reward_msat: Msat,
    /// What the ticket cost; what came back of it is in `reward_msat`.
    fee_msat: Msat,
    routing_msat: Msat,
    /// It had ended before it was asked about: nothing was paid now.
    earlier: bool,
}

impl Report {
    pub(super) fn of(bounty: BountyId, submitted: &Submitted, decimals: Decimals) -> Self {
        let (state, reason, detail) = match &submitted.ending {
            None => (State::Waiting, None, None),
            Some(Ending::Accepted { lost_msat, .. }) => {
                let lost =
                    (*lost_msat > Msat::ZERO).then(|| format!("{lost_msat} more were earned, and came too late"));
                (State::Reached, None, lost)
            }
            Some(Ending::NotReached { reason, .. }) => (State::Rejected, Some(*reason), None),
            // Only a round of training ends so.
            Some(Ending::Rejected { .. }) => (State::Rejected, None, None),
            Some(Ending::FeeUnpaid { reason }) => (State::FeeUnpaid, None, Some(reason.clone())),
            Some(Ending::NoTicket { reason }) => (State::NoTicket, None, Some(reason.clone())),
            Some(Ending::Missed { reason }) => (State::Missed, None, Some(reason.clone())),
        };
        Self {
            bounty,
            contribution: submitted.contribution,
            round: submitted.round,
            claim: submitted.claim.map(|claim| claim.shown(decimals).to_string()),
            state,
            reason,
            detail,
            reward_msat: submitted.totals.received_msat,
            fee_msat: submitted.totals.fees_msat,
            routing_msat: submitted.totals.routing_msat,
            earlier: submitted.earlier,
        }
    }

    /// Under way, and how far.
    pub(super) fn at(self, stage: &'static str) -> Self {
        Self { state: State::UnderWay(stage), ..self }
    }

    pub(super) fn line(&self) -> String {
        let claim = self.claim.as_deref().unwrap_or("nothing");
        let why = match (&self.reason, &self.detail) {
            (Some(reason), _) => format!(": {reason}"),
            (None, Some(detail)) => format!(": {detail}"),
            (None, None) => String::new(),
        };
        format!("claim {claim}: {}{why}; received {}, fee {}", self.state.name(), self.reward_msat, self.fee_msat)
    }

    /// What a program is to make of it.
    pub(super) fn answer(self) -> Answer {
        let detail = self.detail.clone().unwrap_or_default();
        let show = format!("l402t bounty show {}", self.bounty);
        let failure = match self.state {
            State::Reached => return Answer::yes(self).then(show),
            State::Rejected => match self.reason {
                Some(reason) => Failure::negative(
                    reason.name(),
                    format_args!("the claim was not reached: {reason}"),
                    advice(reason),
                ),
                None => Failure::negative("rejected", "the claim was not reached", "Look at the bounty"),
            },
            State::Waiting | State::UnderWay(_) => {
                let status = format!("l402t bounty status {}", self.bounty);
                let fix = "Nothing is lost: go on later with `l402t bounty status`";
                let failure = Failure::remote("no_receipt_yet", "the verdict has not come yet", fix);
                return Answer::no(self, failure).then(status);
            }
            State::FeeUnpaid => {
                Failure::payment("fee_not_paid", detail, "Fund the wallet's channel, then submit again")
            }
            State::NoTicket => {
                let fix = "The fee is spent. Look at the bounty; --again submits the same once more, for another fee";
                Failure::remote("no_ticket", detail, fix)
            }
            State::Missed if self.fee_msat > Msat::ZERO => {
                let fix = "Its fee is spent. Look at the bounty; --again submits the same once more, for another fee";
                Failure::negative("missed", detail, fix)
            }
            State::Missed => Failure::negative("missed", detail, "Look at the bounty, then submit again"),
        };
        Answer::no(self, failure).then(show)
    }
}

fn advice(reason: Rejection) -> &'static str {
    match reason {
        Rejection::BelowClaim => "Claim less, or improve the change: the held-out items score less than was claimed",
        Rejection::NoImprovement => "Somebody was there before, or the step is too small: look at the least claim",
        Rejection::ScorerFailed | Rejection::HeldoutMismatch | Rejection::EscrowLost => {
            "That is the sponsor's doing: the fee came back. Choose another bounty"
        }
        Rejection::NotRevealed | Rejection::LockLost => {
            "Submit it with --again, for another fee, and stay online until the verdict is here"
        }
        Rejection::RejectedStatic
        | Rejection::BuildFailed
        | Rejection::Crashed
        | Rejection::MemoryLimit
        | Rejection::TimeLimit
        | Rejection::OutputLimit
        | Rejection::MalformedOutput
        | Rejection::Nondeterministic
        | Rejection::CanaryTripped => "See how it does in `l402t bounty try`, mend it, then submit again",
    }
}

/// Runs the command.
pub(super) async fn run(
    args: &BountySubmitArgs,
    context: &Context,
    scratch: &Path,
    approve: &dyn Approve,
) -> Result<Answer, Failure> {
    let data = context.open_data(DATA)?;
    let (folder, place) = (args.folder.clone(), scratch.to_owned());
    let claimed = context.blocking(move || claimed::read(&folder, &place)).await?;
    let rules = claimed.note.manifest.body.posting.body.rules;
    let claim = Score::parse(&args.claim, rules.decimals)
        .map_err(|error| Failure::usage("claim", error, "Give the score as the scorer prints it"))?;
    let diff = diff(args, &claimed)?;
    let client = client(context, args.coordinator.as_deref().or(Some(&claimed.note.coordinator)))?;
    let bounty = claimed.note.bounty;
    let quote = Quote {
        bounty,
        title: plain(&claimed.note.manifest.body.posting.body.title),
        coordinator: client.url().to_owned(),
        fee_msat: rules.fee_msat,
        order: Order::Submission {
            claim: claim.shown(rules.decimals).to_string(),
            files: claimed.bounty.manifest.targets.iter().map(|target| plain(target)).collect(),
            diff: Blake3Hash::of(diff.as_bytes()),
            diff_bytes: diff.len(),
            again: args.again,
        },
    };
    let asking = Asking { approve, quote };
    let folder = DataFolder::open(&data)?;
    joined::save(&data, &claimed.note)?;
    let submission = Submission { diff: diff.into_bytes(), claim };
    let repeat = if args.again { Repeat::Again } else { Repeat::Told };
    let workplace = Workplace { context, client: &client, bounty, folder };
    let work = async |bench: Bench| bench.submitter(&claimed.note).await?.submit(&submission, repeat, &asking).await;
    let submitted = workplace.work(work, async |client| Ok(client.bounty(bounty).await?.lightning)).await?;
    let report = Report::of(bounty, &submitted, rules.decimals);
    context.ui.line(report.line());
    if submitted.earlier {
        context
            .ui
            .say("this change was submitted with this claim before: nothing was paid now (--again pays another fee)");
    }
    Ok(report.answer())
}

/// The change, if the coordinator would look at it.
fn diff(args: &BountySubmitArgs, claimed: &Claimed) -> Result<String, Failure> {
    let workspace = args.workspace.as_ref().unwrap_or(&claimed.workspace);
    let Change { diff, .. } = claimed::change(&claimed.bounty, workspace)?.map_err(|rejection| {
        let fix = "Mend it: this would be refused after the fee is paid";
        Failure::usage(Rejection::RejectedStatic.name(), rejection, fix)
    })?;
    let (bytes, most) = (payload::length(diff.len() as u64), claimed.note.manifest.body.max_payload_bytes);
    if bytes > most {
        let message = format!("the diff makes a payload of {bytes} bytes, and at most {most} are taken");
        return Err(Failure::usage("diff_too_large", message, "Make the change smaller"));
    }
    Ok(diff)
}
