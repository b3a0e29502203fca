//! `l402t bounty submit`: a change and what it is said to score, until the verdict and the money are here.

use std::path::Path;

use serde::Serialize;

use super::super::{Answer, Context, ExitCode, Failure};
use super::claimed::{self, Change, Claimed};
use super::desk::{Bench, DATA, Workplace, client};
use super::joined;
use crate::cli::BountySubmitArgs;
use crate::peer::error::PeerError;
use crate::peer::folder::DataFolder;
use crate::peer::stage::Ending;
use crate::peer::submit::{Repeat, Submission, Submitted, Submitter};
use crate::protocol::amount::Msat;
use crate::protocol::bounty::payload;
use crate::protocol::bounty::score::{Decimals, Score};
use crate::protocol::bounty::verdict::Rejection;
use crate::protocol::ids::{BountyId, ContributionId, RoundNumber};

/// A submission. Scores are decimal numbers in strings, so that no reader rounds them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) bounty: Option<BountyId>,
    contribution: ContributionId,
    round: RoundNumber,
    claim: Option<String>,
    /// `reached`, `rejected`, `waiting`, or how it ended without a verdict: `fee_unpaid`, `no_ticket`, `missed`; while it is under
    /// way how far it is.
    state: &'static str,
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
    pub(super) fn of(bounty: Option<BountyId>, submitted: &Submitted, decimals: Option<Decimals>) -> Self {
        let (state, reason, detail) = match &submitted.ending {
            None => ("waiting", None, None),
            Some(Ending::Accepted { lost_msat, .. }) => {
                let lost =
                    (*lost_msat > Msat::ZERO).then(|| format!("{lost_msat} more were earned, and came too late"));
                ("reached", None, lost)
            }
            Some(Ending::NotReached { reason, .. }) => ("rejected", Some(*reason), None),
            // Only a round of training ends so.
            Some(Ending::Rejected { .. }) => ("rejected", None, None),
            Some(Ending::FeeUnpaid { reason }) => ("fee_unpaid", None, Some(reason.clone())),
            Some(Ending::NoTicket { reason }) => ("no_ticket", None, Some(reason.clone())),
            Some(Ending::Missed { reason }) => ("missed", None, Some(reason.clone())),
        };
        Self {
            bounty,
            contribution: submitted.contribution,
            round: submitted.round,
            claim: submitted.claim.map(|claim| match decimals {
                Some(decimals) => claim.shown(decimals).to_string(),
                None => format!("{} units", claim.units()),
            }),
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
    pub(super) fn at(self, state: &'static str) -> Self {
        Self { state, ..self }
    }

    pub(super) fn line(&self) -> String {
        let claim = self.claim.as_deref().unwrap_or("nothing");
        let why = match (&self.reason, &self.detail) {
            (Some(reason), _) => format!(": {reason}"),
            (None, Some(detail)) => format!(": {detail}"),
            (None, None) => String::new(),
        };
        format!("claim {claim}: {}{why}; received {}, fee {}", self.state, self.reward_msat, self.fee_msat)
    }

    /// What a program is to make of it.
    pub(super) fn answer(self) -> Answer {
        let detail = self.detail.clone().unwrap_or_default();
        let show = self.bounty.map_or_else(|| "l402t bounty list".to_owned(), |id| format!("l402t bounty show {id}"));
        let failure = match (self.state, self.reason) {
            ("reached", _) => return Answer::yes(self).then(show),
            ("rejected", Some(reason)) => {
                Failure::negative(reason.name(), format_args!("the claim was not reached: {reason}"), advice(reason))
            }
            ("waiting", _) => {
                let fix = "Nothing is lost: go on later with `l402t bounty status`";
                Failure::new(ExitCode::Remote, "no_receipt_yet", "the verdict has not come yet", fix)
            }
            ("fee_unpaid", _) => {
                Failure::payment("fee_not_paid", detail, "Fund the wallet's channel, then submit again")
            }
            ("no_ticket", _) => {
                let fix = "The fee is spent. Look at the bounty; --again submits the same once more, for another fee";
                Failure::remote("no_ticket", detail, fix)
            }
            (_, _) => Failure::negative("missed", detail, "Look at the bounty, then submit again"),
        };
        let status = self.bounty.map(|id| format!("l402t bounty status {id}"));
        let waits = self.state == "waiting";
        let answer = Answer::no(self, failure);
        match status.filter(|_| waits) {
            Some(status) => answer.then(status),
            None => answer.then(show),
        }
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
pub(super) async fn run(args: &BountySubmitArgs, context: &Context, scratch: &Path) -> Result<Answer, Failure> {
    let data = context.open_data(DATA)?;
    let (folder, place) = (args.folder.clone(), scratch.to_owned());
    let claimed = context.blocking(move || claimed::read(&folder, &place)).await?;
    let rules = claimed.note.manifest.body.posting.body.rules;
    let claim = Score::parse(&args.claim, rules.decimals)
        .map_err(|error| Failure::usage("claim", error, "Give the score as the scorer prints it"))?;
    let diff = diff(args, &claimed)?;
    let client = client(context, args.coordinator.as_ref().or(Some(&claimed.note.coordinator)))?;
    let folder = DataFolder::open(&data)?;
    let bounty = claimed.note.bounty;
    joined::save(&data, &claimed.note)?;
    let submission = Submission { diff: diff.into_bytes(), claim };
    let repeat = if args.again { Repeat::Again } else { Repeat::Told };
    let workplace = Workplace { context, client: &client, bounty, folder };
    let run = claimed.note.manifest.body.run_id();
    let work = async |Bench { parts, board }: Bench| {
        let view = board.bounty().await.map_err(|failure| PeerError::api("read the bounty", 0, failure))?;
        if view.run != run {
            return Err(PeerError::Untrusted(format!(
                "the bounty was claimed as run {run}, and now it is {}",
                view.run
            )));
        }
        Submitter::open(parts, board, &view)?.submit(&submission, repeat).await
    };
    let submitted = workplace.work(work, async |client| Ok(client.bounty(bounty).await?.lightning)).await?;
    let report = Report::of(Some(bounty), &submitted, Some(rules.decimals));
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
