//! `l402t bounty try`: a change of a workspace, scored on the public part in the same boxes that decide later.

use std::path::Path;

use serde::Serialize;

use super::super::{Answer, Context, Failure};
use super::claimed::{self, change, is_claimed};
use super::shell::word;
use super::{load, not_evaluated, sandbox};
use crate::bounty::data::Exam;
use crate::bounty::diff;
use crate::bounty::evaluate::{Evaluation, Evaluator};
use crate::bounty::lint::rules;
use crate::bounty::load::{Bounty, Extent};
use crate::bounty::sandbox::Tier;
use crate::cli::BountyTryArgs;
use crate::protocol::amount::Msat;
use crate::protocol::bounty::score::Score;
use crate::protocol::bounty::verdict::Rejection;

/// What `--json` prints. Scores are decimal numbers in strings, so that no reader rounds them.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Would it be an improvement worth submitting?
    improves: bool,
    /// Why there is no score.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Rejection>,
    detail: String,
    score: Option<String>,
    baseline: Option<String>,
    least_improvement: Option<String>,
    /// For this score as a claim, if it is the first.
    would_pay_msat: Msat,
    diff_bytes: usize,
    items: usize,
    tier: Option<Tier>,
    /// What a module took for all items.
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel: Option<u64>,
    /// What counted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel_meter: Option<&'static str>,
}

/// Runs the command.
pub(super) fn run(args: &BountyTryArgs, context: &Context, scratch: &Path) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let next = Next::of(args);
    let (bounty, own) = if is_claimed(&args.folder) {
        let claimed = claimed::read(&args.folder, scratch)?;
        (claimed.bounty, Some(claimed.workspace))
    } else {
        (load(&args.folder, Extent::Public)?, None)
    };
    let workspace = args.workspace.as_ref().or(own.as_ref()).ok_or_else(|| {
        let message =
            format!("{} is no claimed bounty, so its workspace is the baseline itself", args.folder.display());
        Failure::usage("usage", message, "Name a changed copy of it with --workspace FOLDER")
    })?;
    let changed = match change(&bounty, workspace)? {
        Ok(changed) => changed,
        Err(rejection) => return Ok(report(context, rejected_static(&rejection), &next)),
    };
    let boxes = sandbox(&bounty.manifest)?;
    let evaluator = Evaluator { boxes: &boxes, manifest: &bounty.manifest, scorer: &bounty.scorer, scratch };
    let exam = bounty.public_exam();
    let Evaluation { score, detail, .. } =
        evaluator.evaluate(&bounty.workspace, &exam).map_err(not_evaluated(scratch))?;
    let baseline = score.map_err(|rejection| {
        let message = format_args!("the bounty's own workspace comes to no score here ({rejection}): {detail}");
        Failure::usage("baseline_fails", message, "Use a bounty that `l402t bounty check` finds nothing wrong with")
    })?;
    let evaluation = evaluator.evaluate(&changed.tree, &exam).map_err(not_evaluated(scratch))?;
    let found = compare(&bounty, &exam, baseline, evaluation);
    Ok(report(context, Report { tier: Some(boxes.tier()), diff_bytes: changed.diff.len(), ..found }, &next))
}

/// What may come next: for the same folder and workspace.
struct Next {
    again: String,
    /// What a claimed bounty's change is submitted with; a sponsor's own folder isn't.
    submit: Option<String>,
}

impl Next {
    fn of(args: &BountyTryArgs) -> Self {
        let workspace = args.workspace.as_deref();
        let place = match workspace {
            Some(workspace) => format!("{} --workspace {}", word(&args.folder), word(workspace)),
            None => word(&args.folder),
        };
        let submit = is_claimed(&args.folder).then(|| format!("l402t bounty submit {place} --claim"));
        Self { again: format!("l402t bounty try {place}"), submit }
    }
}

fn rejected_static(rejection: &diff::StaticRejection) -> Report {
    Report { reason: Some(Rejection::RejectedStatic), detail: rejection.to_string(), ..Report::default() }
}

fn compare(bounty: &Bounty, exam: &Exam, baseline: Score, evaluation: Evaluation) -> Report {
    let metric = &bounty.manifest.metric;
    let shown = |score: Score| score.shown(metric.decimals).to_string();
    let items = exam.part.inputs.len();
    let (fuel, fuel_meter) = (evaluation.fuel, bounty.manifest.run.fuel_meter());
    let (reason, score) = match evaluation.score {
        Ok(score) => (None, Some(score)),
        Err(reason) => (Some(reason), None),
    };
    let (detail, score_shown) = (evaluation.detail, score.map(shown));
    let mut report = Report { reason, detail, score: score_shown, items, fuel, fuel_meter, ..Report::default() };
    report.baseline = Some(shown(baseline));
    let rules = rules(&bounty.manifest, baseline, items);
    report.least_improvement = rules.least_improvement().map(shown);
    if let (Some(score), Ok(scale)) = (score, rules.scale()) {
        report.improves = rules.is_step(baseline, score);
        if report.improves {
            report.would_pay_msat = scale.payout(rules.budget_msat, score, baseline);
        }
    }
    report
}

fn report(context: &Context, report: Report, Next { again, submit }: &Next) -> Answer {
    match report.reason {
        Some(reason) => context.ui.line(format!("rejected: {reason}: {}", report.detail)),
        None => {
            let or_none = |score: &Option<String>| score.clone().unwrap_or_else(|| "none".to_owned());
            context.ui.line(format!("score     {} on {} public items", or_none(&report.score), report.items));
            context.ui.line(format!("baseline  {}", or_none(&report.baseline)));
            if let (Some(fuel), Some(meter)) = (report.fuel, report.fuel_meter) {
                context.ui.line(format!("fuel      {fuel} ({meter})"));
            }
            context.ui.line(if report.improves {
                format!("improves: worth {} if the held-out items score alike", report.would_pay_msat)
            } else {
                format!("no improvement: at least {} is needed", or_none(&report.least_improvement))
            });
        }
    }
    match (report.improves, report.reason) {
        (true, _) => {
            // What it scores here, it may score on the held-out items: how much less to claim is the agent's to say.
            match submit {
                Some(submit) => Answer::yes(report).then(format!("{submit} SCORE")),
                None => Answer::yes(report),
            }
        }
        (false, Some(reason)) => {
            let failure = Failure::negative(reason.name(), &report.detail, "Mend the change, then try again");
            Answer::no(report, failure).then(again.as_str())
        }
        (false, None) => {
            let least = report.least_improvement.as_deref().unwrap_or("more");
            let message = format!("the change is no improvement: at least {least} is needed");
            Answer::no(report, Failure::negative("no_improvement", message, "Improve it, then try again"))
                .then(again.as_str())
        }
    }
}
